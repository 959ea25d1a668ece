//! What there is to do after a command was applied.

use holdfast_mail::{Domain, MessageId};

/// A hint to the rooms above, announced once the batch is committed. Never stored: a room that
/// starts late or lags behind finds the same by asking [`crate::query`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// There is something new to deliver.
    MailHeld {
        domain: Domain,
    },
    /// Mail that was refused is to be tried again: it is in the queue at its old place.
    Requeued {
        domain: Domain,
    },
    /// Somebody says the primary is back: try now.
    FlushRequested {
        domain: Domain,
    },
    /// Another node, or none, or the same one with a new epoch, delivers for the domain.
    LeaseChanged {
        domain: Domain,
    },
    /// The domain was added, changed or removed.
    DomainChanged {
        domain: Domain,
    },
    /// What is to become of the domain's mail was changed.
    PolicyChanged {
        domain: Domain,
    },
    /// No row refers to the body, and none ever will.
    BodyReleased {
        body: MessageId,
    },
    MembersChanged,
    /// A sender is owed a notification, or one is to be sent.
    ReportDue,
    /// A drill began, went on or ended, or another is scheduled.
    DrillChanged,
}
