//! MTA-STS (RFC 8461): a domain's word on which hosts take its mail, and how surely.
//!
//! Pure: the text of a policy goes in.

/// Octets of a policy file: what RFC 8461 section 3.3 suggests as a limit.
pub const POLICY_OCTETS_MAX: usize = 64 * 1024;

/// `mx` lines that are kept.
const PATTERNS_MAX: usize = 100;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub mode: Mode,
    /// Hosts, or `*.` and a domain: any host one label below it.
    pub mx: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Enforce,
    Testing,
    None,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPolicy {
    #[error("it does not begin with `version: STSv1`")]
    Version,
    #[error("its mode is not enforce, testing or none")]
    Mode,
    #[error("it names no mx")]
    NoHost,
    #[error("its max_age is not a number of seconds, 31557600 at most")]
    Age,
}

/// RFC 8461 section 3.2: a year.
const AGE_SECONDS_MAX: u64 = 31_557_600;

impl Policy {
    /// Reads a policy; unknown keys are passed over, and of one that is there twice the first
    /// counts (RFC 8461 section 3.2).
    pub fn parse(text: &str) -> Result<Self, BadPolicy> {
        let lines = || {
            text.lines().filter_map(|line| {
                let (key, value) = line.split_once(':')?;
                Some((key.trim(), value.trim()))
            })
        };
        let first = |wanted: &str| lines().find(|(key, _)| *key == wanted).map(|(_, v)| v);
        if first("version") != Some("STSv1") {
            return Err(BadPolicy::Version);
        }
        let mode = match first("mode") {
            Some("enforce") => Mode::Enforce,
            Some("testing") => Mode::Testing,
            Some("none") => Mode::None,
            _ => return Err(BadPolicy::Mode),
        };
        let age = first("max_age").and_then(|age| age.parse::<u64>().ok());
        if age.is_none_or(|age| age > AGE_SECONDS_MAX) {
            return Err(BadPolicy::Age);
        }
        let mx: Vec<String> = lines()
            .filter(|(key, _)| *key == "mx")
            .map(|(_, host)| host.trim_end_matches('.').to_ascii_lowercase())
            .take(PATTERNS_MAX)
            .collect();
        if mx.is_empty() && mode != Mode::None {
            return Err(BadPolicy::NoHost);
        }
        Ok(Self { mode, mx })
    }

    /// RFC 8461 section 4.1: a wildcard stands for exactly one label.
    #[must_use]
    pub fn names(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.mx
            .iter()
            .any(|pattern| match pattern.strip_prefix("*.") {
                Some(above) => host.split_once('.').is_some_and(|(_, rest)| rest == above),
                None => *pattern == host,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "version: STSv1\r\nmode: enforce\r\nmx: mail.a.example\r\n\
        mx: *.ours.example\r\nmax_age: 604800\r\nmode: none\r\n";

    #[test]
    fn a_policy_names_hosts_and_hosts_one_label_below() {
        let policy = Policy::parse(GOOD).unwrap();
        assert_eq!(policy.mode, Mode::Enforce);
        for host in ["mail.a.example", "MX1.ours.example."] {
            assert!(policy.names(host), "{host}");
        }
        for host in [
            "a.example",
            "ours.example",
            "a.b.ours.example",
            "x.mail.a.example",
        ] {
            assert!(!policy.names(host), "{host}");
        }
    }

    #[test]
    fn what_no_sender_could_read_is_no_policy() {
        for (change, why) in [
            (("version: STSv1", "version: STSv2"), BadPolicy::Version),
            (("mode: enforce", "mode: strict"), BadPolicy::Mode),
            (("604800", "604800000"), BadPolicy::Age),
            (("max_age", "maxage"), BadPolicy::Age),
        ] {
            let text = GOOD.replace(change.0, change.1);
            assert_eq!(Policy::parse(&text), Err(why), "{text}");
        }
        assert_eq!(
            Policy::parse("version: STSv1\nmode: testing\nmax_age: 1\n"),
            Err(BadPolicy::NoHost)
        );
        assert!(Policy::parse("version: STSv1\nmode: none\nmax_age: 1\n").is_ok());
        assert_eq!(Policy::parse("<html>"), Err(BadPolicy::Version));
    }
}
