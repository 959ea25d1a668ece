//! Which role an operator must have for each question and order, if they are elsewhere. On the node's
//! own socket everything is allowed: its file's mode says who may use it.

use holdfast_ledger::Role;

use Role::{Admin, Operator, Viewer};

/// Every rpc of `proto/admin.proto`.
const NEEDED: &[(&str, Role)] = &[
    // Looking.
    ("Status", Viewer),
    ("StateHash", Viewer),
    ("DomainGet", Viewer),
    ("Domains", Viewer),
    ("DomainCheck", Viewer),
    ("DomainZone", Viewer),
    ("RecipientsList", Viewer),
    ("KnownList", Viewer),
    ("Plans", Viewer),
    ("UsageOf", Viewer),
    ("MailList", Viewer),
    ("MailShow", Viewer),
    ("MailTrace", Viewer),
    ("Events", Viewer),
    ("Accounts", Viewer),
    ("Audit", Viewer),
    ("Accesses", Viewer),
    ("AcmeShow", Viewer),
    ("DrillList", Viewer),
    // Running what is there.
    ("TransferLeader", Operator),
    ("NodeDrain", Operator),
    ("NodeUndrain", Operator),
    ("FinalizeUpgrade", Operator),
    ("DomainSet", Operator),
    ("DomainRemove", Operator),
    ("RecipientsSet", Operator),
    ("RouteSet", Operator),
    ("AskersSet", Operator),
    ("Unlearn", Operator),
    ("PlanSet", Operator),
    ("PlanRemove", Operator),
    ("Deliver", Operator),
    ("DrillRun", Operator),
    ("DrillStop", Operator),
    ("DrillScheduleSet", Operator),
    ("MailDispose", Operator),
    ("AccountSet", Operator),
    ("TokenAdd", Operator),
    ("TokenRemove", Operator),
    // Saying who belongs to it, and who has access.
    ("Init", Admin),
    ("Invite", Admin),
    ("Join", Admin),
    ("Leave", Admin),
    ("NodeReplace", Admin),
    ("RotateCa", Admin),
    // Whom the nodes believe, and who sees their names.
    ("AcmeSet", Admin),
    // All mail is in it, and the cluster's keys.
    ("SnapshotSave", Admin),
    ("AccessGrant", Admin),
    ("AccessRevoke", Admin),
];

/// `None`: there is no such rpc.
pub(super) fn needed(rpc: &str) -> Option<Role> {
    NEEDED
        .iter()
        .find(|(name, _)| *name == rpc)
        .map(|(_, role)| *role)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// One that is forgotten here could be used by nobody from afar; one too many is a name that
    /// a later rpc could get by accident.
    #[test]
    fn every_rpc_has_a_role_and_only_one() {
        let proto = include_str!("../../../proto/admin.proto");
        let rpcs: BTreeSet<&str> = proto
            .lines()
            .filter_map(|line| line.trim().strip_prefix("rpc "))
            .map(|rpc| rpc.split('(').next().unwrap_or_default())
            .collect();
        let named: BTreeSet<&str> = NEEDED.iter().map(|(name, _)| *name).collect();
        assert!(rpcs.len() > 20, "the file is read wrongly");
        assert_eq!(rpcs, named);
        assert_eq!(named.len(), NEEDED.len(), "one stands there twice");
    }

    #[test]
    fn who_may_look_may_change_nothing_and_only_admins_say_who_belongs() {
        for (rpc, role) in NEEDED {
            let changes = ["Set", "Remove", "Dispose", "Grant", "Revoke", "Add"];
            let changes = changes.iter().any(|word| rpc.contains(word));
            assert!(!changes || *role > Viewer, "{rpc}");
        }
        for rpc in ["Invite", "Leave", "AccessGrant", "RotateCa"] {
            assert_eq!(needed(rpc), Some(Admin));
        }
        assert_eq!(needed("NoSuchThing"), None);
    }
}
