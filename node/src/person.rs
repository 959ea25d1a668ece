//! Somebody who changes something: an operator, or a customer. What they do is in the audit.

use std::time::Duration;

use holdfast_ledger::account::AccountChange;
use holdfast_ledger::acme::AcmeChange;
use holdfast_ledger::query::Audited;
use holdfast_ledger::{Askers, Command, PlanChange, PolicyChange, Reply};
use tokio::time::Instant;

use crate::cast;
use crate::replica::{Cluster, ProposeError};
use crate::span::span;

/// Octets of what the audit tells of one command: the ledger refuses a command that says more
/// (`TEXT_OCTETS_MAX` in `ledger/src/apply/audit.rs`), and no list of networks is worth that.
const SAYS_OCTETS_MAX: usize = 1_000;

/// What stands where the rest is left out.
const CUT: &str = " …";

/// What the audit tells of whoever signs in, or tries to.
const SIGNED_IN: &str = "signed in";
const NOT_SIGNED_IN: &str = "failed to sign in";

/// How long an entry in the audit may wait for a quorum.
const NOTE_TIME_MAX: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct Person {
    pub who: String,
    /// Where they are connected from.
    pub from: String,
}

impl Person {
    /// Proposes what they want. What they look at next, at this node, shows it.
    ///
    /// # Errors
    /// As for [`Cluster::propose`].
    pub async fn propose(
        &self,
        cluster: &Cluster,
        command: Command,
        until: Instant,
    ) -> Result<Reply, ProposeError> {
        let reply = cluster.propose(self.gives(command), until).await;
        if reply.is_ok() {
            cluster.see_what_is_committed().await;
        }
        reply
    }

    /// The command as theirs.
    #[must_use]
    pub fn gives(&self, command: Command) -> Command {
        self.says(says(&command), command)
    }

    fn says(&self, says: String, command: Command) -> Command {
        Command::By {
            who: self.who.clone(),
            from: self.from.clone(),
            says: shortened(says),
            command: Box::new(command),
        }
    }

    /// Notes in the audit what they did, or asked for, that is no command of the ledger's. Best
    /// effort: what was done is done, whether or not it can be noted.
    pub async fn notes(&self, cluster: &Cluster, what: String) {
        tracing::info!(who = self.who, from = self.from, "{what}");
        let until = Instant::now() + NOTE_TIME_MAX;
        match cluster.propose(self.says(what, Command::Note), until).await {
            Ok(Reply::Refused(refusal)) => tracing::warn!("it is not in the audit: {refusal}"),
            Ok(_) => {}
            Err(error) => tracing::warn!("it may not be in the audit: {error}"),
        }
    }
}

/// Cut between two characters where it is too long.
fn shortened(mut says: String) -> String {
    if says.len() > SAYS_OCTETS_MAX {
        says.truncate(says.floor_char_boundary(SAYS_OCTETS_MAX - CUT.len()));
        says.push_str(CUT);
    }
    says
}

/// What the audit tells of a command. Whose domain it is stands beside it.
fn says(command: &Command) -> String {
    match command {
        Command::SetDomain { primary, .. } => {
            format!("primary set to {}, port {}", primary.host, primary.port)
        }
        Command::RemoveDomain { .. } => "domain removed".to_owned(),
        Command::SetPolicy { change, .. } => format!("policy: {}", policy(*change)),
        Command::SetRecipients {
            add, remove, clear, ..
        } => {
            let cleared = if *clear { "list emptied, " } else { "" };
            format!(
                "recipients: {cleared}{} added, {} removed",
                add.len(),
                remove.len()
            )
        }
        Command::SetRoute { route, .. } => format!("route: {route:?}"),
        Command::SetDrained { node, drained } => match drained {
            true => format!("drained node {node}"),
            false => format!("gave node {node} its duties back"),
        },
        Command::RaiseLevel { level, .. } => {
            format!("finalized the upgrade to feature level {level}")
        }
        Command::SetAskers { askers, .. } => match askers {
            Askers::Anybody => "anybody may ask for delivery".to_owned(),
            Askers::Networks(networks) => {
                let list: Vec<_> = networks.iter().map(ToString::to_string).collect();
                format!("asking for delivery: only [{}]", list.join(", "))
            }
        },
        Command::SetPlan { name, change, .. } => format!("plan {name}: {}", plan(change)),
        Command::RemovePlan { name } => format!("plan {name} removed"),
        Command::BeginDrill { plan, .. } => format!(
            "drill {} begun, for {} s",
            cast::kind_name(plan.kind()),
            plan.duration_ms / 1000
        ),
        Command::ScheduleDrill { name, schedule } => match schedule {
            Some(schedule) => format!(
                "drill {} scheduled as {name}",
                cast::kind_name(schedule.kind())
            ),
            None => format!("drills are no more scheduled as {name}"),
        },
        Command::Subscribe {
            plan,
            extra_steps,
            follow,
            ..
        } => {
            let told = [
                plan.as_deref().map(|plan| match plan {
                    "" => "on no plan any more".to_owned(),
                    plan => format!("on the plan {plan}"),
                }),
                extra_steps.map(|steps| format!("extra steps {steps}")),
                follow.then(|| "follows its plan".to_owned()),
            ];
            told.into_iter().flatten().collect::<Vec<_>>().join(", ")
        }
        Command::Flush { via, .. } => format!("delivery asked for by {via}"),
        Command::OfferAuthority { .. } => "rotation of the certificate authority begun".to_owned(),
        Command::RetireAuthority { .. } => {
            "rotation of the certificate authority finished: the old one is retired".to_owned()
        }
        Command::Grant {
            name,
            role,
            expires_at,
            ..
        } => {
            format!(
                "access granted to {name} as {role}, until {}",
                expires_at.rfc3339()
            )
        }
        Command::Revoke { name } => format!("access of {name} revoked"),
        Command::Acme { change } => acme(change),
        Command::Invite { .. } => "a node invited to join".to_owned(),
        Command::OfAccount { name, change } => format!("account {name}: {}", account(change)),
        other => other.verb().to_owned(),
    }
}

fn acme(change: &AcmeChange) -> String {
    match change {
        AcmeChange::Use(directory) => {
            format!("certificates for SMTP are ordered at {}", directory.url)
        }
        AcmeChange::Stop => {
            "certificates for SMTP are ordered no more; account and key forgotten".to_owned()
        }
        // The leader's own.
        AcmeChange::Try { .. }
        | AcmeChange::Failed { .. }
        | AcmeChange::Account { .. }
        | AcmeChange::Answer { .. }
        | AcmeChange::Issued(_) => "a certificate for SMTP ordered".to_owned(),
    }
}

fn policy(change: PolicyChange) -> String {
    // All of them by name, so that a new one cannot be forgotten here.
    let PolicyChange {
        hold_ms,
        delay_ms,
        probation_ms,
        quota_bytes,
        quota_messages,
        full_for_good,
        listed_only,
        delimiter,
        verify,
        yes_ms,
        no_ms,
        probe_ms,
        defer,
        ping,
        atrn,
        attended,
        at_host,
    } = change;
    let whose = match (verify, listed_only) {
        (None, None) => None,
        (Some(true), _) => Some("verify"),
        (_, Some(true)) => Some("listed"),
        _ => Some("any"),
    };
    let when = match (attended, at_host) {
        (None, None) => None,
        (Some(false), _) => Some("always"),
        (_, Some(true)) => Some("signed-in-host"),
        _ => Some("signed-in"),
    };
    named([
        ("hold", hold_ms.map(|ms| time(ms, "quota"))),
        ("delay-notice", delay_ms.map(|ms| time(ms, "never"))),
        ("probation", probation_ms.map(|ms| time(ms, "none"))),
        ("quota", quota_bytes.map(size)),
        ("quota-messages", quota_messages.map(count)),
        (
            "when-full",
            full_for_good.map(|it| either(it, "never", "later")),
        ),
        ("recipients", whose.map(str::to_owned)),
        ("delimiter", delimiter.map(character)),
        ("keep-yes", yes_ms.map(|ms| time(ms, "0s"))),
        ("keep-no", no_ms.map(|ms| time(ms, "0s"))),
        ("probe", probe_ms.map(|ms| time(ms, "0s"))),
        ("while-up", defer.map(|it| either(it, "defer", "relay"))),
        ("ping", ping.map(|it| either(it, "yes", "no"))),
        ("atrn", atrn.map(|it| either(it, "yes", "no"))),
        ("deliver", when.map(str::to_owned)),
    ])
}

/// What was changed, as `domain set` and `plan set` name it.
fn named<const N: usize>(changed: [(&str, Option<String>); N]) -> String {
    let changed = changed.into_iter();
    let changed = changed.filter_map(|(name, value)| Some(format!("{name} {}", value?)));
    changed.collect::<Vec<_>>().join(", ")
}

/// `none` is what zero means.
fn time(ms: u64, none: &str) -> String {
    match ms {
        0 => none.to_owned(),
        u64::MAX => "endless".to_owned(),
        ms => span(Duration::from_millis(ms)),
    }
}

/// `500MB`, to the last octet.
fn size(octets: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (1_000_000_000_000, "TB"),
        (1_000_000_000, "GB"),
        (1_000_000, "MB"),
        (1_000, "kB"),
    ];
    if octets == 0 {
        return "none".to_owned();
    }
    let unit = UNITS.iter().find(|(unit, _)| octets.is_multiple_of(*unit));
    let (unit, name) = unit.unwrap_or(&(1, "B"));
    format!("{}{name}", octets / unit)
}

fn count(number: u64) -> String {
    match number {
        0 => "none".to_owned(),
        number => number.to_string(),
    }
}

fn character(code: u32) -> String {
    match char::from_u32(code) {
        None | Some('\0') => "none".to_owned(),
        Some(c) => c.to_string(),
    }
}

fn either(it: bool, yes: &str, no: &str) -> String {
    match it {
        true => yes.to_owned(),
        false => no.to_owned(),
    }
}

fn plan(change: &PlanChange) -> String {
    // All of them by name, so that a new one cannot be forgotten here.
    let PlanChange {
        currency,
        price,
        quota_bytes,
        quota_messages,
        step_bytes,
        step_price,
        mx_hosts,
        hold_ms,
        full_for_good,
        probe_ms,
        ping,
    } = change;
    let coins = |number: u64| match currency {
        Some(currency) => format!("{number} in the smallest coins of {currency}"),
        None => format!("{number} in the smallest coins"),
    };
    named([
        ("price", price.map(coins)),
        ("quota", quota_bytes.map(size)),
        ("quota-messages", quota_messages.map(count)),
        ("step", step_bytes.map(size)),
        ("step-price", step_price.map(coins)),
        ("hosts", mx_hosts.map(|hosts| hosts.to_string())),
        ("hold", hold_ms.map(|ms| time(ms, "quota"))),
        (
            "when-full",
            full_for_good.map(|it| either(it, "never", "later")),
        ),
        ("probe", probe_ms.map(|ms| time(ms, "0s"))),
        ("ping", ping.map(|it| either(it, "yes", "no"))),
    ])
}

/// What others who look after the same domain are told of an entry about an account: only that its owner
/// signed in, or failed to.
#[must_use]
pub fn signed_in(entry: &Audited) -> Option<&'static str> {
    let about = format!("account {}: ", entry.by);
    let what = entry.what.strip_prefix(&about)?;
    [SIGNED_IN, NOT_SIGNED_IN]
        .into_iter()
        .find(|known| *known == what)
}

fn account(change: &AccountChange) -> String {
    let names = |domains: &[holdfast_mail::Domain]| {
        let names: Vec<_> = domains.iter().map(ToString::to_string).collect();
        names.join(", ")
    };
    match change {
        AccountChange::Add { domains, .. } => format!("added for [{}]", names(domains)),
        AccountChange::Remove => "removed".to_owned(),
        AccountChange::Password(_) => "password changed".to_owned(),
        AccountChange::SecondFactor(Some(_)) => "second factor switched on".to_owned(),
        AccountChange::SecondFactor(None) => "second factor switched off".to_owned(),
        AccountChange::Domains(domains) => format!("domains set to [{}]", names(domains)),
        AccountChange::SignOut => "signed out everywhere".to_owned(),
        AccountChange::Unlock => "unlocked".to_owned(),
        AccountChange::SignIn { good: true, .. } => SIGNED_IN.to_owned(),
        AccountChange::SignIn { good: false, .. } => NOT_SIGNED_IN.to_owned(),
        AccountChange::AddToken(token) => {
            let expires = match token.expires_at {
                Some(at) => format!("until {}", at.rfc3339()),
                None => "for ever".to_owned(),
            };
            format!("token {:?} added {expires}", token.label)
        }
        AccountChange::RemoveToken(_) => "token removed".to_owned(),
        AccountChange::SendLimits { recipients, bytes } => format!(
            "may send to {recipients} recipients and {bytes} octets in an hour (0: the default)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_mail::{Domain, Network};

    use super::*;

    #[test]
    fn what_is_said_of_a_long_command_is_cut_between_two_characters() {
        assert_eq!(shortened("short".to_owned()), "short");
        let whole = "x".repeat(SAYS_OCTETS_MAX);
        assert_eq!(shortened(whole.clone()), whole);
        for lead in ["", "a"] {
            let cut = shortened(lead.to_owned() + &"ü".repeat(SAYS_OCTETS_MAX));
            assert!(cut.len() <= SAYS_OCTETS_MAX && cut.len() > SAYS_OCTETS_MAX - 8);
            assert!(cut.ends_with("ü …"), "{cut}");
        }
    }

    #[test]
    fn what_was_set_is_told_as_it_is_typed() {
        let change = PolicyChange {
            hold_ms: Some(864_000_000),
            probation_ms: Some(u64::MAX),
            listed_only: Some(true),
            verify: Some(false),
            ..PolicyChange::default()
        };
        assert_eq!(
            policy(change),
            "hold 10d, probation endless, recipients listed"
        );
        let change = PolicyChange {
            hold_ms: Some(0),
            delay_ms: Some(0),
            probation_ms: Some(0),
            quota_bytes: Some(0),
            quota_messages: Some(500),
            full_for_good: Some(true),
            delimiter: Some(0),
            defer: Some(true),
            attended: Some(true),
            at_host: Some(false),
            ..PolicyChange::default()
        };
        assert_eq!(
            policy(change),
            "hold quota, delay-notice never, probation none, quota none, quota-messages 500, \
             when-full never, delimiter none, while-up defer, deliver signed-in"
        );
        let change = PlanChange {
            currency: Some("EUR".to_owned()),
            price: Some(500),
            quota_bytes: Some(1_500_000_000),
            step_bytes: Some(1_000_000_001),
            ..PlanChange::default()
        };
        assert_eq!(
            plan(&change),
            "price 500 in the smallest coins of EUR, quota 1500MB, step 1000000001B"
        );
    }

    #[test]
    fn a_list_of_networks_that_is_too_long_for_the_audit_is_given_all_the_same() {
        let person = Person {
            who: "ann".to_owned(),
            from: String::new(),
        };
        let networks =
            (0..=255).map(|third| Network::parse(&format!("10.0.{third}.0/24")).unwrap());
        let command = Command::SetAskers {
            domain: Domain::parse("example.org").unwrap(),
            askers: Askers::Networks(networks.collect()),
        };
        let Command::By {
            says,
            command: given,
            ..
        } = person.gives(command.clone())
        else {
            panic!("somebody gives it");
        };
        assert!(says.len() <= SAYS_OCTETS_MAX && says.starts_with("asking for delivery: only ["));
        assert_eq!(*given, command);
    }
}
