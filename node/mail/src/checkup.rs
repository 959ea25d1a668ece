//! What a customer's DNS should say, and what is wrong with what it says.
//!
//! Judges only what it is shown; whoever asks the DNS is elsewhere.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use crate::Domain;
use crate::route::Exchanger;
use crate::sts::{self, Mode};

/// The preference that [`zone`] gives the customer's own server, and ours: between them there is
/// room for another of theirs.
const PREFERENCE_OF_PRIMARY: u16 = 10;
const PREFERENCE_OF_OURS: u16 = 20;

/// What the DNS said of a domain, and what a node saw of its primary.
#[derive(Clone, Debug)]
pub struct Evidence {
    pub domain: Domain,
    /// The configured primary's host: a name or an address. `None`: whoever the MX records name
    /// before us.
    pub primary: Option<String>,
    /// Names of the cluster's nodes, as they greet.
    pub ours: Vec<String>,
    pub mail: Mail,
    /// What was found of each host that an MX record names, and of ours.
    pub hosts: BTreeMap<String, Host>,
    /// Whether the primary greeted the node that asked; the reason, if not.
    pub greeted: Result<(), String>,
    /// The node that asked: its name as it greets, and the names that its addresses lead back to.
    pub me: String,
    pub my_pointers: Vec<(IpAddr, Vec<String>)>,
    pub mta_sts: Sts,
}

/// What was found of an MTA-STS policy (RFC 8461).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sts {
    /// There is no `_mta-sts` record.
    None,
    Policy(sts::Policy),
    /// There is a record, and no policy that a sender could use.
    Unusable(String),
}

/// A domain's MX records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mail {
    NoDomain,
    NoRecord,
    Exchangers(Vec<Exchanger>),
    /// The DNS could not be asked.
    Unknown(String),
}

/// How findings about the node that looked begin.
const OUR_OWN: &str = "our own ";

/// What was found of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// It is an alias of that name.
    pub alias_of: Option<String>,
    pub addresses: Vec<IpAddr>,
    /// Why the DNS did not say now, if so.
    pub unknown: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Mail is lost to the customer, or takes the wrong way.
    Fault,
    /// Something may go wrong.
    Warning,
    Good,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub weight: Weight,
    pub what: String,
    /// What to do about it; empty: nothing.
    pub fix: String,
}

impl Finding {
    /// It is about the node that looked: its operator mends it, not the customer.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.what.starts_with(OUR_OWN)
    }
}

/// All that is wrong, and what is right where it matters, worst first.
#[must_use]
pub fn judge(evidence: &Evidence) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut say = |weight, what: String, fix: String| found.push(Finding { weight, what, fix });
    let Evidence { domain, .. } = evidence;
    match &evidence.mail {
        Mail::Unknown(why) => say(
            Weight::Fault,
            format!("the DNS cannot be asked for the MX records of {domain}: {why}"),
            "look at the name servers of the domain, and at this node's resolver".to_owned(),
        ),
        Mail::NoDomain => say(
            Weight::Fault,
            format!("{domain} does not exist in the DNS"),
            "register it, or mend its delegation".to_owned(),
        ),
        Mail::NoRecord => say(
            Weight::Fault,
            format!("{domain} has no MX record: senders try its address and never us"),
            "add the lines of `domain dns`".to_owned(),
        ),
        // RFC 7505 section 3: a single record with a null host.
        Mail::Exchangers(list) if list.iter().any(|mx| is_null(&mx.host)) => say(
            Weight::Fault,
            format!("{domain} says that it takes no mail at all (null MX, RFC 7505)"),
            "remove the record `MX 0 .` and add the lines of `domain dns`".to_owned(),
        ),
        Mail::Exchangers(list) => {
            order(evidence, list, &mut say);
            for mx in list {
                host(evidence, &mx.host, &mut say);
            }
        }
    }
    let primary = match &evidence.primary {
        Some(host) => format!("the primary {host}"),
        None => "the primary that the MX records name".to_owned(),
    };
    match &evidence.greeted {
        Err(why) => say(
            Weight::Fault,
            format!("{primary} does not answer: {why}"),
            "if it is not down, let our nodes connect to it".to_owned(),
        ),
        Ok(()) => say(Weight::Good, format!("{primary} answers"), String::new()),
    }
    ourselves(evidence, &mut say);
    mta_sts(evidence, &mut say);
    found.sort();
    found.dedup();
    found
}

fn order(evidence: &Evidence, list: &[Exchanger], say: &mut impl FnMut(Weight, String, String)) {
    let domain = &evidence.domain;
    let is_ours = |mx: &&Exchanger| evidence.ours.iter().any(|ours| same(ours, &mx.host));
    let best = |of: &dyn Fn(&&Exchanger) -> bool| {
        list.iter()
            .filter(|mx| of(mx))
            .min_by_key(|mx| mx.preference)
    };
    let ours = best(&is_ours);
    let theirs = best(&|mx| !is_ours(mx));
    match (theirs, ours) {
        (_, None) => say(
            Weight::Fault,
            format!("no MX record of {domain} names one of our nodes: no mail comes here"),
            "add the lines of `domain dns`".to_owned(),
        ),
        (None, Some(_)) => say(
            Weight::Fault,
            format!("the MX records of {domain} name only our nodes: all mail comes here first"),
            match &evidence.primary {
                Some(primary) => format!("add: {domain}. MX {PREFERENCE_OF_PRIMARY} {primary}."),
                None => "add your own server, with a smaller number".to_owned(),
            },
        ),
        (Some(theirs), Some(ours)) if ours.preference <= theirs.preference => say(
            Weight::Fault,
            format!(
                "our {} has preference {}, and {} has {}: mail comes here although the primary is up",
                ours.host, ours.preference, theirs.host, theirs.preference
            ),
            format!("give our nodes a number above {}", theirs.preference),
        ),
        (Some(theirs), Some(_)) => {
            let named = evidence.primary.as_ref();
            let named = named.filter(|primary| primary.parse::<IpAddr>().is_err());
            if let Some(primary) = named.filter(|primary| !same(&theirs.host, primary)) {
                say(
                    Weight::Warning,
                    format!(
                        "the first MX is {}, and held mail goes to {primary}",
                        theirs.host
                    ),
                    "if that is not the same server, mend one of the two".to_owned(),
                );
            }
            let listed = list.iter().filter(is_ours).count();
            say(
                Weight::Good,
                format!(
                    "{} is first, and {listed} of our {} nodes stand behind it",
                    theirs.host,
                    evidence.ours.len()
                ),
                String::new(),
            );
        }
    }
}

fn host(evidence: &Evidence, name: &str, say: &mut impl FnMut(Weight, String, String)) {
    if name.parse::<IpAddr>().is_ok() {
        say(
            Weight::Fault,
            format!("an MX record names the address {name}; it must name a host (RFC 1035)"),
            "give the server a name with an A or AAAA record, and name that".to_owned(),
        );
        return;
    }
    let Some(host) = evidence.hosts.get(name) else {
        return;
    };
    if let Some(real) = &host.alias_of {
        say(
            Weight::Fault,
            format!(
                "the MX host {name} is an alias (CNAME) of {real}, which RFC 2181 section 10.3 forbids"
            ),
            format!("name {real} in the MX record instead"),
        );
    } else if let Some(why) = &host.unknown {
        say(
            Weight::Warning,
            format!("the DNS cannot be asked for the address of the MX host {name}: {why}"),
            "look again; if it stays so, look at the name servers of its domain".to_owned(),
        );
    } else if host.addresses.is_empty() {
        say(
            Weight::Fault,
            format!("the MX host {name} has no address"),
            format!("add an A or AAAA record for {name}, or remove the MX record"),
        );
    }
}

/// Every host that an MX record names must be in the policy, or senders pass it over: the primary,
/// and ours.
fn mta_sts(evidence: &Evidence, say: &mut impl FnMut(Weight, String, String)) {
    let domain = &evidence.domain;
    let policy = match &evidence.mta_sts {
        Sts::None => return,
        Sts::Unusable(why) => {
            return say(
                Weight::Warning,
                format!(
                    "{domain} has a record _mta-sts, and no policy that senders could use: {why}"
                ),
                format!(
                    "serve the policy at https://mta-sts.{domain}/.well-known/mta-sts.txt, or remove the record (RFC 8461)"
                ),
            );
        }
        Sts::Policy(policy) => policy,
    };
    if policy.mode == Mode::None {
        return say(
            Weight::Good,
            format!("the MTA-STS policy of {domain} asks for nothing (mode none)"),
            String::new(),
        );
    }
    let hosts: Vec<&str> = match &evidence.mail {
        Mail::Exchangers(list) => list.iter().map(|mx| mx.host.as_str()).collect(),
        _ => Vec::new(),
    };
    let missing: Vec<&str> = hosts
        .into_iter()
        .filter(|host| !is_null(host) && !policy.names(host))
        .collect();
    if missing.is_empty() {
        return say(
            Weight::Good,
            format!("the MTA-STS policy of {domain} names every mail exchanger"),
            String::new(),
        );
    }
    let (weight, what) = match policy.mode {
        Mode::Enforce => (Weight::Fault, "senders that heed it bring no mail there"),
        _ => (
            Weight::Warning,
            "once its mode is enforce, no mail comes there",
        ),
    };
    let lines: Vec<String> = missing.iter().map(|host| format!("mx: {host}")).collect();
    say(
        weight,
        format!(
            "the MTA-STS policy of {domain} does not name {}: {what}",
            missing.join(", ")
        ),
        format!(
            "add to its file, and then change the id in the record _mta-sts.{domain}: {}",
            lines.join(", ")
        ),
    );
}

/// What an operator has to mend, not the customer.
fn ourselves(evidence: &Evidence, say: &mut impl FnMut(Weight, String, String)) {
    let me = &evidence.me;
    let mine = evidence.hosts.get(me);
    if mine.is_none_or(|host| host.addresses.is_empty() && host.unknown.is_none()) {
        say(
            Weight::Fault,
            format!("{OUR_OWN}{me} has no address in the DNS"),
            format!("add an A or AAAA record for {me}"),
        );
    }
    for (address, names) in &evidence.my_pointers {
        if !names.iter().any(|name| same(name, me)) {
            let leads = match names.first() {
                Some(name) => format!("leads back to {name}"),
                None => "leads back to no name".to_owned(),
            };
            say(
                Weight::Warning,
                format!("{OUR_OWN}{me} is {address}, which {leads}: some servers refuse its mail"),
                format!("have the PTR record of {address} name {me}"),
            );
        }
    }
}

fn is_null(host: &str) -> bool {
    matches!(host, "" | ".")
}

fn same(a: &str, b: &str) -> bool {
    a.trim_end_matches('.')
        .eq_ignore_ascii_case(b.trim_end_matches('.'))
}

/// The lines to add to a domain's zone, as BIND reads them, with remarks. `primary`: its own server's
/// name or address, unless its MX records name it already; `ours`: names of nodes, the
/// best first; `senders`: of all of them, for any sends what the customer hands in.
#[must_use]
pub fn zone(domain: &Domain, primary: Option<&str>, ours: &[String], senders: &[String]) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let mut line = |line: String| {
        let _infallible = writeln!(text, "{line}");
    };
    line(format!(
        "; mail for {domain}: first to its own server, and to these while it is away"
    ));
    match primary.map(|host| (host, host.parse::<IpAddr>())) {
        None => line(format!(
            "; its own server stays as it is, with a number below {PREFERENCE_OF_OURS}"
        )),
        Some((host, Ok(address))) => {
            let kind = if address.is_ipv4() { "A" } else { "AAAA" };
            line(format!(
                "; its own server has the address {host}: give it a name, here mail.{domain}"
            ));
            line(format!("mail.{domain}. {kind} {address}"));
            line(format!(
                "{domain}. MX {PREFERENCE_OF_PRIMARY} mail.{domain}."
            ));
        }
        Some((host, Err(_))) => line(format!(
            "{domain}. MX {PREFERENCE_OF_PRIMARY} {}.",
            host.trim_end_matches('.')
        )),
    }
    for name in ours {
        line(format!("{domain}. MX {PREFERENCE_OF_OURS} {name}."));
    }
    let hosts: String = senders.iter().map(|name| format!(" a:{name}")).collect();
    line(
        "; SPF (RFC 7208): nodes send in its name only what you hand in to be sent; if you do:"
            .to_owned(),
    );
    line(format!(";   {domain}. TXT \"v=spf1 mx{hosts} ~all\""));
    line("; its own server must take mail from them without asking SPF, greylisting or limiting: it comes from".to_owned());
    line("; them, not from its senders".to_owned());
    line("; MTA-STS: if you publish a policy, name them in it:".to_owned());
    for name in ours {
        line(format!(";   mx: {name}"));
    }
    line("; TLSA: none is needed in this zone; those of these nodes are in theirs".to_owned());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mx(list: &[(u16, &str)]) -> Mail {
        let exchanger = |(preference, host): &(u16, &str)| Exchanger {
            preference: *preference,
            host: (*host).to_owned(),
        };
        Mail::Exchangers(list.iter().map(exchanger).collect())
    }

    fn good() -> Evidence {
        let host = |address: &str| Host {
            alias_of: None,
            addresses: vec![address.parse().unwrap()],
            ..Host::default()
        };
        Evidence {
            domain: Domain::parse("a.example").unwrap(),
            primary: Some("mail.a.example".to_owned()),
            ours: vec!["mx1.ours.example".to_owned(), "mx2.ours.example".to_owned()],
            mail: mx(&[(10, "mail.a.example"), (20, "mx1.ours.example")]),
            hosts: [
                ("mail.a.example".to_owned(), host("192.0.2.1")),
                ("mx1.ours.example".to_owned(), host("192.0.2.2")),
            ]
            .into(),
            greeted: Ok(()),
            me: "mx1.ours.example".to_owned(),
            my_pointers: vec![(
                "192.0.2.2".parse().unwrap(),
                vec!["MX1.ours.example.".to_owned()],
            )],
            mta_sts: Sts::None,
        }
    }

    fn faults(evidence: &Evidence) -> Vec<String> {
        let found = judge(evidence);
        let bad = found
            .iter()
            .filter(|finding| finding.weight != Weight::Good);
        bad.inspect(|finding| assert!(!finding.fix.is_empty(), "{finding:?}"))
            .map(|finding| finding.what.clone())
            .collect()
    }

    fn sts(mode: &str, lines: &str) -> Sts {
        let text = format!("version: STSv1\nmode: {mode}\nmax_age: 86400\n{lines}\n");
        Sts::Policy(sts::Policy::parse(&text).unwrap())
    }

    #[test]
    fn a_good_domain_has_no_faults() {
        assert_eq!(faults(&good()), Vec::<String>::new());
        assert_eq!(judge(&good()).len(), 2);
        for mta_sts in [
            sts("enforce", "mx: mail.a.example\nmx: mx1.ours.example"),
            sts("none", ""),
        ] {
            let evidence = Evidence { mta_sts, ..good() };
            assert_eq!(faults(&evidence), Vec::<String>::new());
            assert_eq!(judge(&evidence).len(), 3);
        }
    }

    #[test]
    fn each_fault_is_found_and_has_a_fix() {
        let alias = Host {
            alias_of: Some("real.a.example".to_owned()),
            addresses: vec!["192.0.2.1".parse().unwrap()],
            ..Host::default()
        };
        let with_host = |host| {
            let hosts = [("mail.a.example".to_owned(), host)];
            Evidence {
                hosts: good().hosts.into_iter().chain(hosts).collect(),
                ..good()
            }
        };
        let with_mail = |mail| Evidence { mail, ..good() };
        for (evidence, said) in [
            (with_mail(Mail::NoDomain), "does not exist"),
            (with_mail(Mail::NoRecord), "has no MX record"),
            (
                with_mail(Mail::Unknown("time out".into())),
                "cannot be asked",
            ),
            (with_mail(mx(&[(0, ".")])), "takes no mail at all"),
            (
                with_mail(mx(&[(10, "mail.a.example")])),
                "no mail comes here",
            ),
            (
                with_mail(mx(&[(20, "mx1.ours.example")])),
                "name only our nodes",
            ),
            (
                with_mail(mx(&[(20, "mail.a.example"), (20, "mx1.ours.example")])),
                "although the primary is up",
            ),
            (
                with_mail(mx(&[(10, "other.example"), (20, "mx1.ours.example")])),
                "held mail goes to mail.a.example",
            ),
            (
                with_mail(mx(&[
                    (10, "mail.a.example"),
                    (15, "192.0.2.9"),
                    (20, "mx1.ours.example"),
                ])),
                "names the address 192.0.2.9",
            ),
            (with_host(alias), "is an alias (CNAME) of real.a.example"),
            (with_host(Host::default()), "mail.a.example has no address"),
            (
                Evidence {
                    greeted: Err("refused".into()),
                    ..good()
                },
                "does not answer: refused",
            ),
            (
                Evidence {
                    me: "mx2.ours.example".into(),
                    ..good()
                },
                "mx2.ours.example has no address",
            ),
            (
                Evidence {
                    my_pointers: vec![("192.0.2.2".parse().unwrap(), vec!["x.isp.example".into()])],
                    ..good()
                },
                "leads back to x.isp.example",
            ),
            (
                Evidence {
                    mta_sts: sts("enforce", "mx: mail.a.example"),
                    ..good()
                },
                "does not name mx1.ours.example: senders",
            ),
            (
                Evidence {
                    mta_sts: sts("testing", "mx: *.ours.example"),
                    ..good()
                },
                "does not name mail.a.example: once",
            ),
            (
                Evidence {
                    mta_sts: Sts::Unusable("404 Not Found".into()),
                    ..good()
                },
                "no policy that senders could use: 404",
            ),
        ] {
            let found = faults(&evidence);
            assert!(
                found.iter().any(|what| what.contains(said)),
                "{said}: {found:?}"
            );
        }
    }

    #[test]
    fn zone_lines_name_the_customers_server_first() {
        let domain = Domain::parse("a.example").unwrap();
        let ours = ["mx1.ours.example".to_owned(), "mx2.ours.example".to_owned()];
        let records = |primary: &str| -> Vec<String> {
            let text = zone(&domain, Some(primary), &ours, &ours);
            let lines = text.lines().filter(|line| !line.starts_with(';'));
            lines.map(str::to_owned).collect()
        };
        assert_eq!(
            records("mail.a.example"),
            [
                "a.example. MX 10 mail.a.example.",
                "a.example. MX 20 mx1.ours.example.",
                "a.example. MX 20 mx2.ours.example.",
            ]
        );
        assert_eq!(
            records("192.0.2.1")[..2],
            [
                "mail.a.example. A 192.0.2.1",
                "a.example. MX 10 mail.a.example."
            ]
        );
        // Any node sends what is handed in, whether it takes mail for the domain or not.
        let text = zone(&domain, Some("mail.a.example"), &ours[..1], &ours);
        let spf = ";   a.example. TXT \"v=spf1 mx a:mx1.ours.example a:mx2.ours.example ~all\"\n";
        assert!(text.contains(spf), "{text}");
    }
}
