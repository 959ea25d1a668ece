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

/// Our hosts in a zone unless somebody, or the domain's plan, says otherwise: one may be down,
/// another cut off.
const HOSTS_DEFAULT: usize = 3;

/// More only lengthen every sender's tries.
const HOSTS_MAX: usize = 10;

/// How many of our hosts a zone should name; `said`: by somebody, or by the plan; 0: by nobody.
#[must_use]
pub fn hosts_wanted(said: u32) -> usize {
    match said {
        0 => HOSTS_DEFAULT,
        said => (said as usize).min(HOSTS_MAX),
    }
}

/// How a domain's mail leaves us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaves {
    /// We connect to its server.
    Delivered,
    /// We do, or somebody calls for it: nobody may be able to connect to its server.
    DeliveredOrFetched,
    /// Only to where somebody is signed in, on whatever address.
    Attended,
    /// We connect to its server, while somebody is signed in, wherever that is.
    AttendedAtHost,
}

/// What the DNS said of a domain, and what a node saw of its primary.
#[derive(Clone, Debug)]
pub struct Evidence {
    pub domain: Domain,
    /// The configured primary's host: a name or an address. `None`: whoever the MX records name
    /// before us.
    pub primary: Option<String>,
    pub leaves: Leaves,
    /// Names of the cluster's nodes, as they greet.
    pub ours: Vec<String>,
    /// As many of them should be in the zone, if there are as many.
    pub hosts_wanted: usize,
    pub mail: Mail,
    /// What was found of each host that an MX record names, of the primary and of ours.
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
    match (&evidence.greeted, evidence.leaves) {
        (_, Leaves::Attended) => say(
            Weight::Good,
            "mail goes to where somebody is signed in, and waits until then".to_owned(),
            String::new(),
        ),
        (Ok(()), Leaves::AttendedAtHost) => say(
            Weight::Good,
            format!("{primary} answers, and mail goes there while somebody is signed in"),
            String::new(),
        ),
        (Err(why), Leaves::AttendedAtHost) => say(
            Weight::Good,
            format!(
                "{primary} does not answer, so mail waits until it does and somebody is signed in: {why}"
            ),
            String::new(),
        ),
        (Err(why), Leaves::DeliveredOrFetched) => say(
            Weight::Good,
            format!("{primary} does not answer, so mail waits until somebody calls for it: {why}"),
            String::new(),
        ),
        (Err(why), Leaves::Delivered) => say(
            Weight::Fault,
            format!("{primary} does not answer: {why}"),
            "if it is not down, let our nodes connect to it".to_owned(),
        ),
        (Ok(()), _) => say(Weight::Good, format!("{primary} answers"), String::new()),
    }
    ourselves(evidence, &mut say);
    mta_sts(evidence, &mut say);
    found.sort();
    found.dedup();
    found
}

impl Evidence {
    fn addresses(&self, name: &str) -> &[IpAddr] {
        self.hosts.get(name).map_or(&[][..], |host| &host.addresses)
    }

    /// Whether a host is one of our nodes, by whatever name.
    fn is_ours(&self, host: &str) -> bool {
        let theirs = self.addresses(host);
        self.ours.iter().any(|ours| {
            let addresses = self.addresses(ours);
            same(ours, host) || theirs.iter().any(|address| addresses.contains(address))
        })
    }

    /// Whether a host is the primary; `None`: the DNS did not say.
    fn is_primary(&self, host: &str, primary: &str) -> Option<bool> {
        if same(host, primary) {
            return Some(true);
        }
        let of_host = self.addresses(host);
        let is_it = match primary.parse() {
            Ok(address) => of_host.contains(&address),
            Err(_) => {
                let of_primary = self.addresses(primary);
                of_host.iter().any(|address| of_primary.contains(address))
            }
        };
        let is_unknown = |name| {
            self.hosts
                .get(name)
                .is_some_and(|host| host.unknown.is_some())
        };
        (is_it || !is_unknown(host) && !is_unknown(primary)).then_some(is_it)
    }

    /// Nobody else's server has to come before ours: no sender reaches it, or none is meant to.
    fn has_no_server(&self) -> bool {
        match self.leaves {
            Leaves::Delivered => false,
            Leaves::DeliveredOrFetched | Leaves::AttendedAtHost => self.greeted.is_err(),
            Leaves::Attended => true,
        }
    }
}

fn order(evidence: &Evidence, list: &[Exchanger], say: &mut impl FnMut(Weight, String, String)) {
    let domain = &evidence.domain;
    let (ours, theirs): (Vec<_>, Vec<_>) = list.iter().partition(|mx| evidence.is_ours(&mx.host));
    let best = |of: &[&Exchanger]| of.iter().map(|mx| mx.preference).min();
    let (Some(our_best), first) = (best(&ours), theirs.iter().min_by_key(|mx| mx.preference))
    else {
        return say(
            Weight::Fault,
            format!("no MX record of {domain} names one of our nodes: no mail comes here"),
            "add the lines of `domain dns`".to_owned(),
        );
    };
    match first {
        Some(first) if evidence.leaves == Leaves::Attended && first.preference < our_best => say(
            Weight::Warning,
            format!(
                "{} is first: senders go there before us, whoever has its address now",
                first.host
            ),
            "remove that record: mail is delivered to where somebody is signed in".to_owned(),
        ),
        _ if evidence.has_no_server() => say(
            Weight::Good,
            format!(
                "the MX records of {domain} name {} of our {} nodes",
                ours.len(),
                evidence.ours.len()
            ),
            String::new(),
        ),
        None => say(
            Weight::Fault,
            format!("the MX records of {domain} name only our nodes: all mail comes here first"),
            match &evidence.primary {
                Some(primary) => format!("add: {domain}. MX {PREFERENCE_OF_PRIMARY} {primary}."),
                None => "add your own server, with a smaller number".to_owned(),
            },
        ),
        Some(theirs) if our_best <= theirs.preference => say(
            Weight::Fault,
            format!(
                "our {} has preference {our_best}, and {} has {}: mail comes here although the \
                 primary is up",
                ours.iter()
                    .find(|mx| mx.preference == our_best)
                    .map_or("node", |mx| mx.host.as_str()),
                theirs.host,
                theirs.preference
            ),
            format!("give our nodes a number above {}", theirs.preference),
        ),
        Some(first) => {
            let firsts = theirs.iter().filter(|mx| mx.preference == first.preference);
            let firsts: Vec<&str> = firsts.map(|mx| mx.host.as_str()).collect();
            is_the_primary(evidence, &firsts, say);
            say(
                Weight::Good,
                format!(
                    "{} is first, and {} of our {} nodes stand behind it",
                    first.host,
                    ours.len(),
                    evidence.ours.len()
                ),
                String::new(),
            );
        }
    }
    let wanted = evidence.hosts_wanted.min(evidence.ours.len());
    if ours.len() < wanted {
        say(
            Weight::Warning,
            format!(
                "only {} of our nodes are MX hosts of {domain}, and {wanted} should be: when they are \
                 down, no mail comes here",
                ours.len()
            ),
            "add the rest of the lines of `domain dns`".to_owned(),
        );
    }
}

/// Held mail goes to the primary, and other mail to the first MX hosts: one of them should be it.
fn is_the_primary(
    evidence: &Evidence,
    firsts: &[&str],
    say: &mut impl FnMut(Weight, String, String),
) {
    let Some(primary) = &evidence.primary else {
        return;
    };
    let found: Vec<Option<bool>> = firsts
        .iter()
        .map(|host| evidence.is_primary(host, primary))
        .collect();
    if found.contains(&Some(true)) {
        return;
    }
    let firsts = firsts.join(" and ");
    if found.contains(&None) {
        say(
            Weight::Warning,
            format!("the DNS did not say whether the first MX, {firsts}, is the primary {primary}"),
            "look again; if it stays so, look at the name servers of its domain".to_owned(),
        );
    } else {
        say(
            Weight::Fault,
            format!("the first MX is {firsts}, and held mail goes to {primary}: another server"),
            format!(
                "name {primary} in the first MX record, or have your operator change where held mail goes"
            ),
        );
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

/// What a domain's zone is to say.
#[derive(Clone, Copy, Debug)]
pub struct Zone<'a> {
    pub domain: &'a Domain,
    /// Its own server's name or address; `None`: its MX records name it already.
    pub primary: Option<&'a str>,
    pub leaves: Leaves,
    /// Names of nodes, the best first.
    pub ours: &'a [String],
    /// Of all of them, for any sends what the customer hands in.
    pub senders: &'a [String],
}

impl Zone<'_> {
    /// The lines to add, as BIND reads them, with remarks.
    #[must_use]
    pub fn lines(&self) -> String {
        let Self {
            domain,
            ours,
            senders,
            ..
        } = self;
        let mut text = self.primary_lines();
        // Writing to a string does not fail.
        let mut line = |line: String| {
            let _infallible = writeln!(text, "{line}");
        };
        for name in *ours {
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
        for name in *ours {
            line(format!(";   mx: {name}"));
        }
        line("; TLSA: none is needed in this zone; those of these nodes are in theirs".to_owned());
        text
    }

    /// Its own server, unless it has none that anybody could connect to.
    fn primary_lines(&self) -> String {
        let domain = self.domain;
        let mut lines = match self.leaves {
            Leaves::Attended => vec![
                format!("; mail for {domain}: to these, until somebody is signed in to receive it"),
                "; name no server of its own: its address may be somebody else's tomorrow"
                    .to_owned(),
            ],
            Leaves::DeliveredOrFetched => vec![format!(
                "; mail for {domain}: to these, until somebody calls for it"
            )],
            Leaves::AttendedAtHost => vec![format!(
                "; mail for {domain}: to these, and on to its own server while somebody is signed in"
            )],
            Leaves::Delivered => vec![format!(
                "; mail for {domain}: first to its own server, and to these while it is away"
            )],
        };
        let server = match self.primary.map(|host| (host, host.parse::<IpAddr>())) {
            None => vec![format!(
                "; its own server stays as it is, with a number below {PREFERENCE_OF_OURS}"
            )],
            Some((host, Ok(address))) => {
                let kind = if address.is_ipv4() { "A" } else { "AAAA" };
                vec![
                    format!(
                        "; its own server has the address {host}: give it a name, here mail.{domain}"
                    ),
                    format!("mail.{domain}. {kind} {address}"),
                    format!("{domain}. MX {PREFERENCE_OF_PRIMARY} mail.{domain}."),
                ]
            }
            Some((host, Err(_))) => vec![format!(
                "{domain}. MX {PREFERENCE_OF_PRIMARY} {}.",
                host.trim_end_matches('.')
            )],
        };
        match self.leaves {
            Leaves::Attended => {}
            Leaves::Delivered => lines.extend(server),
            Leaves::DeliveredOrFetched | Leaves::AttendedAtHost => {
                lines.push(
                    "; if everybody can connect to its own server, it comes first:".to_owned(),
                );
                lines.extend(server.iter().map(|line| format!(";   {line}")));
            }
        }
        lines.iter().map(|line| format!("{line}\n")).collect()
    }
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
            leaves: Leaves::Delivered,
            ours: vec!["mx1.ours.example".to_owned(), "mx2.ours.example".to_owned()],
            hosts_wanted: 1,
            mail: mx(&[(10, "mail.a.example"), (20, "mx1.ours.example")]),
            hosts: [
                ("mail.a.example".to_owned(), host("192.0.2.1")),
                ("mx1.ours.example".to_owned(), host("192.0.2.2")),
                ("mx2.ours.example".to_owned(), host("192.0.2.3")),
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
                    me: "mx3.ours.example".into(),
                    ..good()
                },
                "mx3.ours.example has no address",
            ),
            (
                Evidence {
                    hosts_wanted: 3,
                    ..good()
                },
                "only 1 of our nodes are MX hosts of a.example, and 2 should be",
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
    fn hosts_are_told_apart_by_their_addresses_and_not_only_by_their_names() {
        let host = |address: &str| Host {
            addresses: vec![address.parse().unwrap()],
            ..Host::default()
        };
        let silent = Host {
            unknown: Some("timed out".to_owned()),
            ..Host::default()
        };
        let with = |first: &str, found: Host, primary: Option<&str>| {
            let mut evidence = good();
            evidence.mail = mx(&[(10, first), (20, "mx1.ours.example")]);
            evidence.hosts.insert(first.to_owned(), found);
            evidence.primary = primary.map(str::to_owned);
            evidence
        };
        for (first, found, primary, said) in [
            // Another name of the same server.
            (
                "mx.a.example",
                host("192.0.2.1"),
                Some("mail.a.example"),
                None,
            ),
            ("mx.a.example", host("192.0.2.1"), Some("192.0.2.1"), None),
            ("mx.a.example", host("192.0.2.9"), None, None),
            (
                "mx.a.example",
                host("192.0.2.9"),
                Some("192.0.2.1"),
                Some("held mail goes to 192.0.2.1: another server"),
            ),
            (
                "mx.a.example",
                host("192.0.2.9"),
                Some("mail.a.example"),
                Some("held mail goes to mail.a.example: another server"),
            ),
            (
                "mx.a.example",
                silent,
                Some("192.0.2.1"),
                Some("did not say whether the first MX"),
            ),
            // A name of the customer's that leads to one of our nodes.
            (
                "mx.a.example",
                host("192.0.2.3"),
                Some("mail.a.example"),
                Some("name only our nodes"),
            ),
        ] {
            let told = faults(&with(first, found, primary));
            match said {
                None => assert_eq!(told, Vec::<String>::new(), "{primary:?}"),
                Some(said) => assert!(told.iter().any(|it| it.contains(said)), "{said}: {told:?}"),
            }
        }
    }

    #[test]
    fn a_customer_whom_nobody_connects_to_may_pass() {
        let ours = mx(&[(20, "mx1.ours.example")]);
        let silent = || Err("nobody is signed in".to_owned());
        for (leaves, greeted) in [
            (Leaves::Attended, silent()),
            (Leaves::Attended, Ok(())),
            (Leaves::DeliveredOrFetched, silent()),
            (Leaves::AttendedAtHost, silent()),
        ] {
            let evidence = Evidence {
                leaves,
                greeted,
                mail: ours.clone(),
                ..good()
            };
            assert_eq!(faults(&evidence), Vec::<String>::new(), "{leaves:?}");
            let nowhere = Evidence {
                mail: mx(&[(10, "mail.a.example")]),
                ..evidence
            };
            assert!(faults(&nowhere)[0].contains("no mail comes here"));
        }
        // Who has a server that can be reached names it first.
        for leaves in [Leaves::DeliveredOrFetched, Leaves::AttendedAtHost] {
            let fetched = Evidence {
                leaves,
                mail: ours.clone(),
                ..good()
            };
            assert!(faults(&fetched)[0].contains("name only our nodes"));
        }
        // A server with a name of its own is nobody else's tomorrow.
        let at_host = Evidence {
            leaves: Leaves::AttendedAtHost,
            ..good()
        };
        assert_eq!(faults(&at_host), Vec::<String>::new());
        // An address that changes may be somebody else's.
        let attended = Evidence {
            leaves: Leaves::Attended,
            ..good()
        };
        assert!(faults(&attended)[0].contains("whoever has its address now"));
    }

    #[test]
    fn zone_lines_name_the_customers_server_first() {
        let domain = Domain::parse("a.example").unwrap();
        let ours = ["mx1.ours.example".to_owned(), "mx2.ours.example".to_owned()];
        let zone = Zone {
            domain: &domain,
            primary: Some("mail.a.example"),
            leaves: Leaves::Delivered,
            ours: &ours,
            senders: &ours,
        };
        let records = |zone: Zone<'_>| -> Vec<String> {
            let text = zone.lines();
            let lines = text.lines().filter(|line| !line.starts_with(';'));
            lines.map(str::to_owned).collect()
        };
        assert_eq!(
            records(zone),
            [
                "a.example. MX 10 mail.a.example.",
                "a.example. MX 20 mx1.ours.example.",
                "a.example. MX 20 mx2.ours.example.",
            ]
        );
        assert_eq!(
            records(Zone {
                primary: Some("192.0.2.1"),
                ..zone
            })[..2],
            [
                "mail.a.example. A 192.0.2.1",
                "a.example. MX 10 mail.a.example."
            ]
        );
        // Nobody connects to the servers of those who call.
        for leaves in [
            Leaves::Attended,
            Leaves::DeliveredOrFetched,
            Leaves::AttendedAtHost,
        ] {
            assert_eq!(
                records(Zone { leaves, ..zone }),
                [
                    "a.example. MX 20 mx1.ours.example.",
                    "a.example. MX 20 mx2.ours.example.",
                ]
            );
        }
        // Any node sends what is handed in, whether it takes mail for the domain or not.
        let text = Zone {
            ours: &ours[..1],
            ..zone
        }
        .lines();
        let spf = ";   a.example. TXT \"v=spf1 mx a:mx1.ours.example a:mx2.ours.example ~all\"\n";
        assert!(text.contains(spf), "{text}");
    }
}
