//! Connections on which the roles have turned (RFC 2645), on their way from the room that took the
//! call to the one that delivers.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_mail::Domain;

use crate::talk::deliver::Connection;

/// One for a node; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Switchboard(Arc<Mutex<HashMap<Domain, Connection>>>);

impl fmt::Debug for Switchboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.waiting().keys()).finish()
    }
}

impl Switchboard {
    /// Mail for `domain` may go over this. At most one waits; whoever holds the attendance is alone.
    pub(crate) fn offer(&self, domain: Domain, connection: Connection) {
        self.waiting().insert(domain, connection);
    }

    /// The connection that waits, once.
    pub(crate) fn take(&self, domain: &Domain) -> Option<Connection> {
        self.waiting().remove(domain)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Domain, Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
