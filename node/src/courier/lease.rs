//! The right to deliver for a domain, as its holder sees it.
//!
//! The ledger fences what is recorded; this fences what is sent. A holder that could not renew
//! in time must stop at once, for another node may be delivering the same mail already.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::world::select;

#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub(super) epoch: u64,
    /// `None` once it is lost: a renewal that comes later does not bring it back, since the
    /// work under it was stopped.
    until: Arc<watch::Sender<Option<Instant>>>,
}

impl Lease {
    pub(super) fn new(epoch: u64, until: Instant) -> Self {
        Self {
            epoch,
            until: Arc::new(watch::Sender::new(Some(until))),
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.until
            .borrow()
            .is_some_and(|until| until > Instant::now())
    }

    pub(super) fn extend(&self, until: Instant) {
        self.until.send_if_modified(|held| {
            let longer = held.is_some_and(|held| held < until);
            if longer {
                *held = Some(until);
            }
            longer
        });
    }

    pub(super) fn lose(&self) {
        self.until.send_replace(None);
    }

    /// Returns once delivering must stop; from then on the lease is lost for good.
    pub(super) async fn ended(&self) {
        let mut changes = self.until.subscribe();
        loop {
            let Some(until) = *changes.borrow_and_update() else {
                return;
            };
            select! {
                () = sleep_until(until) => {
                    let over = self.until.send_if_modified(|held| {
                        let over = held.is_some_and(|held| held <= Instant::now());
                        if over {
                            *held = None;
                        }
                        over
                    });
                    if over {
                        return;
                    }
                }
                _ = changes.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_lease_ends_when_it_was_not_renewed_in_time_and_stays_ended() {
        const UNIT: Duration = Duration::from_millis(100);
        let start = Instant::now();
        let lease = Lease::new(7, start + UNIT);
        lease.extend(start + UNIT * 3);
        // A renewal that was asked for earlier shortens nothing.
        lease.extend(start + UNIT * 2);
        lease.ended().await;
        assert!(start.elapsed() >= UNIT * 3);
        lease.extend(Instant::now() + UNIT);
        assert!(!lease.is_live());
        lease.ended().await;
    }

    #[tokio::test]
    async fn a_lost_lease_ends_at_once() {
        let lease = Lease::new(7, Instant::now() + Duration::from_secs(600));
        assert!(lease.is_live());
        let other = lease.clone();
        tokio::spawn(async move { other.lose() });
        lease.ended().await;
        assert!(!lease.is_live());
    }
}
