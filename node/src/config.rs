//! The TOML file of one node: read, checked in full before anything starts, and compared with
//! the one in force when it is read again.
//!
//! What the file leaves out has a default here; what is wrong in it is named with file, line and
//! the nearest valid key, because a misspelt limit that is silently ignored shows only on the
//! worst day.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use holdfast_ledger::level::NEWEST;
use holdfast_mail::Address;
use holdfast_smtp::PORT;
use serde::{Deserialize, Serialize};

use crate::public::is_public;

/// One node's settings. Relative paths have been resolved against the file's directory.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where everything this node must remember lives. Never shared, never copied to another node.
    pub data_dir: PathBuf,
    /// What operators call this node.
    pub name: String,
    /// What fails together: no region should hold a majority of the voters.
    pub region: String,
    /// Only in a sandbox: the file that says how many milliseconds this node's clock runs ahead.
    /// `holdfast dev clock` writes it.
    #[serde(default)]
    pub sandbox_clock: Option<PathBuf>,
    /// Only in a sandbox: for how many seconds nodes' certificates that this node signs are valid.
    #[serde(default)]
    pub sandbox_certificate_life_seconds: Option<u32>,
    /// Only in a sandbox, beside `sandbox_clock`: the node behaves as an older version, which knows
    /// the feature levels up to this one.
    #[serde(default)]
    pub sandbox_level: Option<u32>,
    /// Only in a sandbox, beside `sandbox_clock`: after so many log entries the state is written down,
    /// and the log before it given back.
    #[serde(default)]
    pub sandbox_snapshot_every: Option<u64>,
    pub smtp: Smtp,
    pub cluster: Cluster,
    #[serde(default)]
    pub admin: Admin,
    #[serde(default)]
    pub metrics: Metrics,
    #[serde(default)]
    pub traces: Traces,
    #[serde(default)]
    pub finger: Finger,
    #[serde(default)]
    pub portal: Portal,
    #[serde(default)]
    pub atrn: Atrn,
    #[serde(default)]
    pub submission: Submission,
    #[serde(default)]
    pub acme: AcmeDoor,
    #[serde(default)]
    pub dns: Dns,
    #[serde(default)]
    pub wan_profile: WanProfile,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub courier: Courier,
    #[serde(default)]
    pub log: Log,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Smtp {
    #[serde(default = "port_25")]
    pub listen: Vec<SocketAddr>,
    /// The name in the banner, in trace lines and in customers' MX records.
    pub name: String,
    /// How the rest of the world reaches `name`, as host:port; told to operators, never dialled.
    #[serde(default)]
    pub public_address: Option<String>,
    /// Who reads mail to `<postmaster>` without a domain: an address in one of the domains that
    /// the cluster is a backup for.
    #[serde(default)]
    pub postmaster: Option<String>,
    /// PEM files for STARTTLS and the portal; without them the certificate that the cluster has ordered
    /// (`holdfast cluster acme`), or else a self-signed one.
    #[serde(default)]
    pub tls_cert: Option<PathBuf>,
    #[serde(default)]
    pub tls_key: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    pub listen: SocketAddr,
    /// host:port under which the other nodes reach this one.
    pub address: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// Absent: only the socket. For people with a certificate of the cluster (`holdfast access`).
    #[serde(default)]
    pub listen: Option<SocketAddr>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Absent: no metrics are served.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
}

/// What this node saw of messages, as spans for OpenTelemetry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Traces {
    /// Absent: none are sent. host:port of a collector that takes OTLP over gRPC, in the clear; the protocol's
    /// port is 4317.
    #[serde(default)]
    pub collector: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Finger {
    /// Absent: held mail cannot be asked for by finger. The protocol's port is 79.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Portal {
    /// Absent: no portal and no HTTP API. Always HTTPS, whose port is 443, with the certificate of
    /// `smtp`.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Atrn {
    /// Absent: held mail cannot be fetched over a connection of the customer's own (RFC 2645). The
    /// protocol's port is 366; the certificate is that of `smtp`.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
}

/// Customers who log in send mail to anybody (RFC 6409), with the certificate of `smtp`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// Where TLS begins with STARTTLS; the port is 587. Absent: nowhere.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    /// Where it begins at once (RFC 8314); the port is 465. Absent: nowhere.
    #[serde(default)]
    pub listen_tls: Option<SocketAddr>,
}

/// Where authorities ask whether a certificate for this node's name may be given (RFC 8555 section 8.3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AcmeDoor {
    /// Absent: the cluster can order no certificate for this node's name. Authorities come to port 80.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// Resolvers to ask; without them, the system's.
    #[serde(default)]
    pub servers: Vec<SocketAddr>,
}

/// Entries of the log between two snapshots of the state. The state is small; bodies are not in it.
pub const SNAPSHOT_EVERY: u64 = 20_000;

/// How far apart the nodes are; sets every Raft timer at once, so that they always fit together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WanProfile {
    /// One site: round trips of a few milliseconds.
    Lan,
    /// One continent: up to 100 ms.
    Regional,
    /// Several continents: up to 250 ms.
    #[default]
    Global,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// SMTP clients at once; more are told 421. Bounds memory and file descriptors.
    pub connections_max: u32,
    /// Connections from one client address at once, so that one sender cannot take them all.
    pub connections_per_client_max: u32,
    /// Largest message, announced in SIZE.
    pub message_bytes_max: u64,
    /// With less free space than this, mail is refused with 452 before DATA while delivery goes
    /// on: a full disk would stop the log, and with it the deliveries that free space.
    pub disk_free_min_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 1_000,
            connections_per_client_max: 50,
            message_bytes_max: 50 << 20,
            disk_free_min_bytes: 1 << 30,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Courier {
    /// Connections to one primary at once. A primary that has just come back is easily pushed
    /// over again by the mail that waited for it.
    pub connections_max: u32,
    /// Where notifications to senders go, as host:port, instead of to the mail exchangers of
    /// their domains: for a site whose port 25 is closed outwards, and for sandboxes.
    pub relay_via: Option<String>,
}

impl Default for Courier {
    fn default() -> Self {
        Self {
            connections_max: 10,
            relay_via: None,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    pub format: LogFormat,
    pub level: LogLevel,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Whether a router or a proxy stands before it, for mail comes to port 25 of a public address. On loopback,
/// where things are tried, none comes.
fn is_inside(listen: SocketAddr) -> bool {
    let ip = listen.ip();
    let is_private = !ip.is_unspecified() && !is_public(ip);
    !ip.is_loopback() && (is_private || listen.port() != PORT)
}

/// Every IPv4 address of the machine; IPv6 is asked for by name, since not every machine has it.
fn port_25() -> Vec<SocketAddr> {
    vec![SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, 25))]
}

/// Longest path of a unix socket: `sun_path` is 108 bytes with its final NUL (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Longest name of a node or region: a DNS label (RFC 1035 section 2.3.4).
const LABEL_BYTES_MAX: usize = 63;
/// RFC 5321 section 4.5.3.1.7: at least 64K octets must be accepted.
const MESSAGE_BYTES_MIN: u64 = 64 << 10;
/// A body must fit a replication stream with room to spare; nobody's primary takes more.
const MESSAGE_BYTES_MAX: u64 = 1 << 30;

impl Config {
    /// Reads and checks the file at `path`.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError {
            file: path.to_path_buf(),
            line: None,
            what: format!("the file cannot be read: {error}"),
            fix: None,
        })?;
        Self::parse(&text, path)
    }

    /// Checks `text`; `path` names it in errors and anchors its relative paths.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut config: Self =
            toml::from_str(text).map_err(|error| ConfigError::from_toml(&error, text, path))?;
        config.anchor(path.parent().unwrap_or(Path::new("")));
        config.check().map_err(|fault| ConfigError {
            file: path.to_path_buf(),
            line: line_of_key(text, fault.key),
            what: format!("{}: {}", fault.key, fault.what),
            fix: None,
        })?;
        Ok(config)
    }

    /// Where the operators' API is served.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.admin
            .socket
            .clone()
            .unwrap_or_else(|| self.data_dir.join("admin.sock"))
    }

    /// `courier.relay_via`, taken apart.
    #[must_use]
    pub fn relay_via(&self) -> Option<(String, u16)> {
        let (host, port) = self.courier.relay_via.as_ref()?.rsplit_once(':')?;
        Some((host.to_owned(), port.parse().ok()?))
    }

    /// What is allowed, and perhaps not what whoever wrote the file meant.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let listen = self.smtp.listen.first();
        let untold = listen.filter(|at| self.smtp.public_address.is_none() && is_inside(**at));
        let warning = |at: &SocketAddr| {
            format!(
                "senders do not come to {at}, where this node listens, and smtp.public_address is missing: customers \
                 are told a wrong address, and mail for one whose MX records lead here may come back to us; set it \
                 to where senders come to, such as {}:{PORT}",
                self.smtp.name
            )
        };
        untold.map(warning).into_iter().collect()
    }

    fn anchor(&mut self, directory: &Path) {
        // `join` leaves an absolute path as it is.
        self.data_dir = directory.join(&self.data_dir);
        for path in [
            &mut self.smtp.tls_cert,
            &mut self.smtp.tls_key,
            &mut self.admin.socket,
            &mut self.sandbox_clock,
        ]
        .into_iter()
        .flatten()
        {
            *path = directory.join(&*path);
        }
    }

    fn check(&self) -> Result<(), Fault> {
        label("name", &self.name)?;
        label("region", &self.region)?;
        for (key, value, least, most) in [
            (
                "sandbox_level",
                self.sandbox_level.map(u64::from),
                1,
                u64::from(NEWEST),
            ),
            (
                "sandbox_snapshot_every",
                self.sandbox_snapshot_every,
                2,
                SNAPSHOT_EVERY,
            ),
        ] {
            let Some(value) = value else { continue };
            if self.sandbox_clock.is_none() {
                let why = "is for sandboxes, which have a sandbox_clock; remove it";
                return Err(Fault::new(key, why));
            }
            between(key, value, least, most)?;
        }
        host_name("smtp.name", &self.smtp.name)?;
        if let Some(address) = &self.smtp.public_address {
            host_and_port("smtp.public_address", address)?;
        }
        if let Some(host) = &self.courier.relay_via {
            host_and_port("courier.relay_via", host)?;
        }
        if let Some(host) = &self.traces.collector {
            host_and_port("traces.collector", host)?;
        }
        host_and_port("cluster.address", &self.cluster.address)?;
        if let Some(text) = &self.smtp.postmaster
            && !Address::parse(text, false).is_ok_and(|a| a.domain().is_some())
        {
            return Err(Fault::new(
                "smtp.postmaster",
                format!("`{text}` is not an address with a domain, such as ops@holdfast.example"),
            ));
        }
        if self.smtp.listen.is_empty() {
            return Err(Fault::new("smtp.listen", "at least one address is needed"));
        }
        match (&self.smtp.tls_cert, &self.smtp.tls_key) {
            (Some(_), None) => {
                return Err(Fault::new("smtp.tls_cert", "needs smtp.tls_key beside it"));
            }
            (None, Some(_)) => {
                return Err(Fault::new("smtp.tls_key", "needs smtp.tls_cert beside it"));
            }
            _ => {}
        }
        let socket = self.admin_socket();
        if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(Fault::new(
                if self.admin.socket.is_some() {
                    "admin.socket"
                } else {
                    "data_dir"
                },
                format!(
                    "the admin socket would be {}, longer than the {SOCKET_PATH_BYTES_MAX} bytes that a unix socket's path may have; set admin.socket to a shorter path",
                    socket.display()
                ),
            ));
        }
        let limits = &self.limits;
        between(
            "limits.connections_max",
            limits.connections_max.into(),
            1,
            1 << 20,
        )?;
        between(
            "limits.connections_per_client_max",
            limits.connections_per_client_max.into(),
            1,
            limits.connections_max.into(),
        )?;
        between(
            "limits.message_bytes_max",
            limits.message_bytes_max,
            MESSAGE_BYTES_MIN,
            MESSAGE_BYTES_MAX,
        )?;
        between(
            "courier.connections_max",
            self.courier.connections_max.into(),
            1,
            1_000,
        )
    }
}

struct Fault {
    key: &'static str,
    what: String,
}

impl Fault {
    fn new(key: &'static str, what: impl Into<String>) -> Self {
        Self {
            key,
            what: what.into(),
        }
    }
}

fn label(key: &'static str, text: &str) -> Result<(), Fault> {
    let good = !text.is_empty()
        && text.len() <= LABEL_BYTES_MAX
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
        // A node may be called by name or by number.
        && !text.bytes().all(|b| b.is_ascii_digit());
    if good {
        return Ok(());
    }
    Err(Fault::new(
        key,
        format!(
            "`{text}` is not a name: a-z, 0-9 and inner hyphens, not only digits, at most {LABEL_BYTES_MAX} characters"
        ),
    ))
}

fn host_name(key: &'static str, text: &str) -> Result<(), Fault> {
    match holdfast_mail::Domain::parse(text) {
        Ok(domain) if !domain.is_literal() => Ok(()),
        _ => Err(Fault::new(
            key,
            format!("`{text}` is not a host name, such as mx1.holdfast.example"),
        )),
    }
}

/// `host:port`, with an IPv6 address in brackets.
fn host_and_port(key: &'static str, text: &str) -> Result<(), Fault> {
    let good = text.parse::<SocketAddr>().is_ok_and(|a| a.port() != 0)
        || text.rsplit_once(':').is_some_and(|(host, port)| {
            port.parse::<u16>().is_ok_and(|port| port != 0)
                && holdfast_mail::Domain::parse(host).is_ok_and(|host| !host.is_literal())
        });
    if good {
        return Ok(());
    }
    Err(Fault::new(
        key,
        format!(
            "`{text}` is not host:port, such as fra1.holdfast.example:7400 or [2001:db8::1]:7400"
        ),
    ))
}

fn between(key: &'static str, value: u64, least: u64, most: u64) -> Result<(), Fault> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Fault::new(
        key,
        format!("{value} is not between {least} and {most}"),
    ))
}

/// The file cannot be used. Nothing has been changed or started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub file: PathBuf,
    /// Counted from 1.
    pub line: Option<usize>,
    pub what: String,
    /// What was probably meant.
    pub fix: Option<String>,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ": {}", self.what)?;
        match &self.fix {
            Some(fix) => write!(f, "; {fix}"),
            None => Ok(()),
        }
    }
}

impl ConfigError {
    fn from_toml(error: &toml::de::Error, text: &str, path: &Path) -> Self {
        let line = error
            .span()
            .map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        let message = error.message();
        let (what, fix) = match unknown_key(message) {
            Some((unknown, known)) => (
                format!("unknown key `{unknown}`"),
                Some(match nearest(unknown, &known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("valid here: {}", known.join(", ")),
                }),
            ),
            None => (message.trim_end().to_owned(), None),
        };
        Self {
            file: path.to_path_buf(),
            line,
            what,
            fix,
        }
    }
}

/// Reads serde's "unknown field `a`, expected one of `b`, `c`" (and "expected `b`", "expected `b`
/// or `c`"): the one place where the list of valid keys is told with the error.
fn unknown_key(message: &str) -> Option<(&str, Vec<&str>)> {
    let rest = message.strip_prefix("unknown field ")?;
    let mut quoted = rest
        .split('`')
        .enumerate()
        .filter_map(|(at, part)| (at % 2 == 1).then_some(part));
    Some((quoted.next()?, quoted.collect()))
}

/// The key that `word` is nearest to, if near enough to be a slip of the finger.
fn nearest<'a>(word: &str, keys: &[&'a str]) -> Option<&'a str> {
    keys.iter()
        .map(|key| (distance(word, key), *key))
        .filter(|(far, key)| *far <= 2.max(key.len() / 3))
        .min()
        .map(|(_, key)| key)
}

/// Levenshtein's distance: insertions, deletions and replacements, each counted as one.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// The line that sets `key` ("table.key" or "key"), for faults found after parsing.
fn line_of_key(text: &str, key: &str) -> Option<usize> {
    let (table, key) = key.rsplit_once('.').unwrap_or(("", key));
    let mut current = String::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            header
                .split(']')
                .next()
                .unwrap_or_default()
                .trim()
                .clone_into(&mut current);
        } else if current == table
            && line
                .split_once('=')
                .is_some_and(|(left, _)| left.trim() == key)
        {
            return Some(at + 1);
        }
    }
    None
}

/// What can change in a running node; everything else is bound, opened or told to peers at start.
/// The certificate files are read again on every reload, even under unchanged names.
const RELOADABLE: &[&str] = &[
    "courier.connections_max",
    "limits.connections_max",
    "limits.connections_per_client_max",
    "limits.disk_free_min_bytes",
    "limits.message_bytes_max",
    "log.level",
    "smtp.postmaster",
    "smtp.tls_cert",
    "smtp.tls_key",
];

impl Config {
    /// What is in force after `new` was read by a running node: its values where they can change,
    /// and this one's where they need a restart.
    #[must_use]
    pub fn reloaded(&self, new: &Self) -> Self {
        Self {
            limits: new.limits.clone(),
            courier: new.courier.clone(),
            log: Log {
                level: new.log.level,
                ..self.log.clone()
            },
            smtp: Smtp {
                postmaster: new.smtp.postmaster.clone(),
                tls_cert: new.smtp.tls_cert.clone(),
                tls_key: new.smtp.tls_key.clone(),
                ..self.smtp.clone()
            },
            ..self.clone()
        }
    }
}

/// One key that differs, with its values as TOML; `(unset)` where a side has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    pub old: String,
    pub new: String,
    /// The running node keeps the old value until it is started again.
    pub needs_restart: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.key, self.old, self.new)?;
        if self.needs_restart {
            f.write_str(" (only after a restart)")?;
        }
        Ok(())
    }
}

/// Compares the file in force with the one just read, in the order of the keys.
#[must_use]
pub fn difference(old: &Config, new: &Config) -> Vec<Change> {
    let (old, new) = (flat(old), flat(new));
    let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let value = |side: &Flat, key: &String| {
        side.get(key)
            .cloned()
            .unwrap_or_else(|| "(unset)".to_owned())
    };
    keys.into_iter()
        .filter(|key| old.get(*key) != new.get(*key))
        .map(|key| Change {
            key: key.clone(),
            old: value(&old, key),
            new: value(&new, key),
            needs_restart: !RELOADABLE.contains(&key.as_str()),
        })
        .collect()
}

type Flat = std::collections::BTreeMap<String, String>;

fn flat(config: &Config) -> Flat {
    fn walk(prefix: &str, value: &toml::Value, into: &mut Flat) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let key = if prefix.is_empty() {
                        key.clone()
                    } else {
                        format!("{prefix}.{key}")
                    };
                    walk(&key, value, into);
                }
            }
            value => {
                into.insert(prefix.to_owned(), value.to_string());
            }
        }
    }
    let mut into = Flat::new();
    if let Ok(value) = toml::Value::try_from(config) {
        walk("", &value, &mut into);
    }
    into
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = r#"
data_dir = "n1"
name = "fra1"
region = "eu"

[smtp]
name = "mx1.holdfast.example"

[cluster]
listen = "0.0.0.0:7400"
address = "fra1.holdfast.example:7400"
"#;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("/etc/holdfast/holdfast.toml"))
    }

    fn error(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn the_least_file_has_defaults_for_all_else() {
        let config = parse(LEAST).unwrap();
        assert_eq!(config.data_dir, Path::new("/etc/holdfast/n1"));
        assert_eq!(
            config.admin_socket(),
            Path::new("/etc/holdfast/n1/admin.sock")
        );
        assert_eq!(config.wan_profile, WanProfile::Global);
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.smtp.listen, ["0.0.0.0:25".parse().unwrap()]);
        assert_eq!(config.metrics.listen, None);
    }

    #[test]
    fn an_absolute_path_stays_and_a_relative_one_is_beside_the_file() {
        let config = parse(&format!(
            "{}\n[admin]\nsocket = \"run/a.sock\"",
            LEAST.replace("\"n1\"", "\"/var/lib/holdfast\"")
        ))
        .unwrap();
        assert_eq!(config.data_dir, Path::new("/var/lib/holdfast"));
        assert_eq!(config.admin_socket(), Path::new("/etc/holdfast/run/a.sock"));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_valid_one() {
        assert_eq!(
            error(&format!("{LEAST}\n[limits]\nconections_max = 3\n")),
            "/etc/holdfast/holdfast.toml, line 14: unknown key `conections_max`; did you mean `connections_max`?"
        );
        assert_eq!(
            error(&LEAST.replace("region =", "regoin =")),
            "/etc/holdfast/holdfast.toml, line 4: unknown key `regoin`; did you mean `region`?"
        );
        assert_eq!(
            error(&format!("{LEAST}\n[admin]\npath = \"x\"\n")),
            "/etc/holdfast/holdfast.toml, line 14: unknown key `path`; valid here: socket, listen"
        );
        assert_eq!(
            error(&format!("{LEAST}\n[metric]\n")),
            "/etc/holdfast/holdfast.toml, line 13: unknown key `metric`; did you mean `metrics`?"
        );
    }

    #[test]
    fn every_fault_names_its_key_and_line() {
        let cases = [
            (
                "name = \"fra1\"",
                "name = \"Fra 1\"",
                "line 3: name: `Fra 1` is not a name",
            ),
            (
                "name = \"fra1\"",
                "name = \"17\"",
                "line 3: name: `17` is not a name",
            ),
            (
                "mx1.holdfast.example",
                "[192.0.2.1]",
                "line 7: smtp.name: `[192.0.2.1]` is not a host name",
            ),
            (
                "fra1.holdfast.example:7400",
                "fra1.holdfast.example",
                "line 11: cluster.address: `fra1.holdfast.example` is not host:port",
            ),
            (
                "fra1.holdfast.example:7400",
                "192.0.2.1:0",
                "line 11: cluster.address",
            ),
            (
                "address = \"fra1.holdfast.example:7400\"",
                "",
                "line 9: missing field `address`",
            ),
            (
                "[cluster]",
                "tls_cert = \"a.pem\"\n[cluster]",
                "line 9: smtp.tls_cert: needs smtp.tls_key beside it",
            ),
            (
                "[cluster]",
                "postmaster = \"root\"\n[cluster]",
                "line 9: smtp.postmaster: `root` is not an address with a domain",
            ),
            (
                "[cluster]",
                "listen = []\n[cluster]",
                "line 9: smtp.listen: at least one address",
            ),
            (
                "data_dir =",
                "wan_profile = \"moon\"\ndata_dir =",
                "line 2: unknown variant `moon`",
            ),
            (
                "[cluster]",
                "[limits]\nmessage_bytes_max = 10\n[cluster]",
                "line 10: limits.message_bytes_max: 10 is not between",
            ),
        ];
        for (old, new, expected) in cases {
            assert!(LEAST.contains(old));
            let text = error(&LEAST.replace(old, new));
            assert!(text.contains(expected), "{text}\nlacks {expected}");
        }
        let deep = "d/".repeat(60);
        let text = error(&LEAST.replace("\"n1\"", &format!("\"{deep}\"")));
        assert!(
            text.contains("line 2: data_dir: the admin socket would be"),
            "{text}"
        );
    }

    #[test]
    fn a_node_that_does_not_know_where_senders_come_to_is_warned() {
        for (listen, warned) in [
            ("0.0.0.0:25", false),
            ("[::]:25", false),
            ("192.0.2.1:25", false),
            ("127.0.0.1:2525", false),
            ("10.0.0.1:25", true),
            ("[fd00::1]:25", true),
            ("0.0.0.0:2525", true),
            ("192.0.2.1:2525", true),
        ] {
            let with = |more: &str| {
                let lines = format!("[smtp]\nlisten = [\"{listen}\"]\n{more}");
                parse(&LEAST.replace("[smtp]", &lines)).unwrap().warnings()
            };
            assert_eq!(!with("").is_empty(), warned, "{listen}");
            let told = with("public_address = \"mx1.holdfast.example:25\"");
            assert_eq!(told, [""; 0], "{listen}");
        }
        assert_eq!(parse(LEAST).unwrap().warnings(), [""; 0]);
    }

    #[test]
    fn a_file_that_is_not_there_says_so() {
        let text = Config::read(Path::new("/nonexistent/holdfast.toml"))
            .unwrap_err()
            .to_string();
        assert!(
            text.starts_with("/nonexistent/holdfast.toml: the file cannot be read"),
            "{text}"
        );
    }

    #[test]
    fn a_reload_tells_what_takes_effect_now_from_what_needs_a_restart() {
        let old = parse(LEAST).unwrap();
        let new = parse(&format!(
            "{}\n[limits]\nconnections_max = 7000\n[metrics]\nlisten = \"127.0.0.1:9100\"\n[log]\nlevel = \"debug\"",
            LEAST.replace("\"eu\"", "\"us\"")
        ))
        .unwrap();
        assert_eq!(difference(&old, &old), []);
        let changes: Vec<String> = difference(&old, &new)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            changes,
            [
                "limits.connections_max: 1000 -> 7000",
                "log.level: \"info\" -> \"debug\"",
                "metrics.listen: (unset) -> \"127.0.0.1:9100\" (only after a restart)",
                "region: \"eu\" -> \"us\" (only after a restart)",
            ]
        );
    }

    #[test]
    fn after_a_reload_just_what_needs_a_restart_still_differs() {
        let old = parse(LEAST).unwrap();
        let other = r#"
            data_dir = "n2"
            name = "nyc1"
            region = "us"
            wan_profile = "lan"
            smtp = { listen = ["127.0.0.1:26"], name = "mx2.holdfast.example", public_address = "a.example:25", postmaster = "a@b.example", tls_cert = "a", tls_key = "b" }
            cluster = { listen = "127.0.0.1:7401", address = "b.example:7401" }
            admin = { socket = "s", listen = "127.0.0.1:8444" }
            metrics = { listen = "127.0.0.1:9100" }
            finger = { listen = "127.0.0.1:7979" }
            portal = { listen = "127.0.0.1:8443" }
            atrn = { listen = "127.0.0.1:3660" }
            submission = { listen = "127.0.0.1:5870", listen_tls = "127.0.0.1:4650" }
            acme = { listen = "127.0.0.1:8080" }
            dns = { servers = ["127.0.0.1:53"] }
            limits = { connections_max = 7, connections_per_client_max = 6, message_bytes_max = 70000, disk_free_min_bytes = 5 }
            courier = { connections_max = 3 }
            log = { format = "json", level = "trace" }
        "#;
        let new = parse(other).unwrap();
        let all = difference(&old, &new);
        assert_eq!(
            all.len(),
            flat(&new).len(),
            "the other file changes every key"
        );
        let left = difference(&old.reloaded(&new), &new);
        let needs_restart: Vec<Change> = all.into_iter().filter(|c| c.needs_restart).collect();
        assert_eq!(left, needs_restart);
    }

    /// A node in service that behaved as an older version would hold up every upgrade.
    #[test]
    fn only_a_sandbox_behaves_as_an_older_version() {
        let with =
            |lines: &str| parse(&LEAST.replace("data_dir =", &format!("{lines}\ndata_dir =")));
        let alone = with("sandbox_level = 1").unwrap_err().to_string();
        assert!(alone.contains("sandbox_level"), "{alone}");
        let both = with("sandbox_clock = \"clock\"\nsandbox_level = 1").unwrap();
        assert_eq!(both.sandbox_level, Some(1));
        assert!(with("sandbox_clock = \"clock\"\nsandbox_level = 99").is_err());
        assert!(with("sandbox_snapshot_every = 50").is_err());
        let often = with("sandbox_clock = \"clock\"\nsandbox_snapshot_every = 50").unwrap();
        assert_eq!(often.sandbox_snapshot_every, Some(50));
    }

    #[test]
    fn every_reloadable_key_exists() {
        let full = parse(&LEAST.replace(
            "[cluster]",
            "tls_cert = \"a.pem\"\ntls_key = \"b.pem\"\npostmaster = \"a@b.example\"\n[cluster]",
        ))
        .unwrap();
        let flat = flat(&full);
        for key in RELOADABLE {
            assert!(flat.contains_key(*key), "{key}");
        }
    }

    #[test]
    fn a_config_written_out_reads_back_the_same() {
        let config = parse(LEAST).unwrap();
        assert_eq!(parse(&toml::to_string(&config).unwrap()), Ok(config));
    }
}
