//! All mail of the cluster, or of one domain, a page at a time.
//!
//! Domain by domain, in the order of their names, also those that are no customer's; then the
//! notifications on their way. Between two pages nothing is kept but the place, so that each page
//! can be read from a fresh view.

use holdfast_ledger::query::{self, PendingReport};
use holdfast_ledger::{KvError, KvRead, Seq};
use holdfast_mail::{Domain, Envelope};

use super::{Listed, Wanted, page};

/// Notifications, or names of domains, read at once.
const PAGE: usize = 256;

#[derive(Clone, Debug)]
pub enum Found {
    Mail {
        domain: Domain,
        mail: Listed,
    },
    /// On its way to a domain that is no customer's.
    Notification {
        domain: Domain,
        report: PendingReport,
        envelope: Envelope,
    },
}

#[derive(Clone, Debug)]
pub struct Walk {
    wanted: Wanted,
    only: Option<Domain>,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    /// In the domain, behind the message.
    In(Domain, Option<Seq>),
    /// In the domain that comes next.
    Behind(Option<Domain>),
    Notifications(Option<Seq>),
    End,
}

impl Walk {
    #[must_use]
    pub fn new(wanted: Wanted, only: Option<Domain>) -> Self {
        let place = match &only {
            Some(domain) => Place::In(domain.clone(), None),
            None => Place::Behind(None),
        };
        Self {
            wanted,
            only,
            place,
        }
    }

    /// The next of what is wanted, at most `limit`; none need be among them. `None`: that was all.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub fn next(&mut self, view: &dyn KvRead, limit: usize) -> Result<Option<Vec<Found>>, KvError> {
        match std::mem::replace(&mut self.place, Place::End) {
            Place::In(domain, after) => {
                let found = page(view, &domain, &self.wanted, after, limit)?;
                self.place = match (found.next, &self.only) {
                    (Some(seq), _) => Place::In(domain.clone(), Some(seq)),
                    (None, Some(_)) => Place::Notifications(None),
                    (None, None) => Place::Behind(Some(domain.clone())),
                };
                let of = |mail| Found::Mail {
                    domain: domain.clone(),
                    mail,
                };
                Ok(Some(found.mail.into_iter().map(of).collect()))
            }
            Place::Behind(domain) => {
                let next = query::domains_with_mail(view, domain.as_ref(), 1)?.pop();
                self.place = match next {
                    Some(domain) => Place::In(domain, None),
                    None => Place::Notifications(None),
                };
                Ok(Some(Vec::new()))
            }
            // They are in none of the states that can be asked for.
            Place::Notifications(_) if !self.wanted.states.is_empty() => Ok(None),
            Place::Notifications(after) => self.notifications(view, after, limit).map(Some),
            Place::End => Ok(None),
        }
    }

    fn notifications(
        &mut self,
        view: &dyn KvRead,
        after: Option<Seq>,
        limit: usize,
    ) -> Result<Vec<Found>, KvError> {
        let limit = limit.min(PAGE);
        let reports = query::reports(view, after, limit)?;
        if let Some(last) = reports.last() {
            self.place = Place::Notifications(Some(last.seq));
        }
        let mut found = Vec::new();
        for report in reports {
            let Some(envelope) = query::envelope(view, report.message)? else {
                continue;
            };
            let to = envelope.recipients.first();
            let Some(domain) = to.and_then(|to| to.address.domain()).cloned() else {
                continue;
            };
            let recipients: Vec<String> = to.map(|to| to.address.to_string()).into_iter().collect();
            if self.only.as_ref().is_none_or(|only| *only == domain)
                && self.wanted.fits(&envelope, &recipients, &report.last_reply)
            {
                found.push(Found::Notification {
                    domain,
                    report,
                    envelope,
                });
            }
        }
        Ok(found)
    }
}
