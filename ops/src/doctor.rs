//! `holdfast doctor`: whether this machine is fit to hold mail, and what to do where it is not.
//!
//! It looks only, and leaves nothing behind: what it writes to measure the disk has no name. Some
//! checks need the node to run, or more rights than the caller has; they say so and are no faults.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use holdfast_node::config::Config;
use holdfast_node::net::dns::{Memory, Resolver};
use holdfast_node::net::{authority, tls};
use holdfast_node::replica::Identity;
use holdfast_node::store::disk_space;
use holdfast_proto::admin::{NodeStatus, StatusReply};
use serde_json::json;

use crate::cli::Global;
use crate::failure::{Exit, Failure};
use crate::output::{self, Output};
use crate::{client, config_check, status};

/// Writes that are made durable to measure the disk. Their median is told, and the slowest.
const WRITES: usize = 21;

/// Bytes of one, as of a small batch in the log.
const WRITE_BYTES: usize = 4096;

/// Each message's 250 waits for about two flushes: slower than this is felt by senders.
const FLUSH_SLOW: Duration = Duration::from_millis(25);

/// Slower than this, and heartbeats are missed on a `lan` cluster.
const FLUSH_TOO_SLOW: Duration = Duration::from_millis(250);

/// Below this share of the disk there is little time to act.
const FREE_LOW_PERCENT: u64 = 15;

/// As the alert HoldfastCertificateEnds.
const CERTIFICATE_SOON: Duration = Duration::from_secs(14 * 86_400);

/// The ledger's leader corrects what is further off than two seconds.
const CLOCK_OFF_MS: u64 = 1_000;

/// A question to the DNS, with its repetitions.
const DNS_TIME_MAX: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warn,
    Fault,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fault => "fault",
        }
    }
}

#[derive(Clone, Debug)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    found: String,
    fix: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Ok,
            found: found.into(),
            fix: None,
        }
    }

    fn warn(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Warn,
            fix: Some(fix.into()),
            ..Self::ok(name, found)
        }
    }

    fn fault(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Fault,
            ..Self::warn(name, found, fix)
        }
    }
}

pub(crate) async fn run(global: &Global, output: Output) -> Result<Exit, Failure> {
    let file = global.needed_config("doctor needs the node's file: holdfast doctor --config FILE");
    let checks = examine(global, file).await;
    let faulty = checks.iter().any(|check| check.verdict == Verdict::Fault);
    if output.is_json() {
        output.json("doctor/v1", &as_json(&checks))?;
    } else {
        for check in &checks {
            output.line(line(check))?;
        }
    }
    Ok(if faulty { Exit::Unhealthy } else { Exit::Done })
}

fn as_json(checks: &[Check]) -> serde_json::Value {
    json!({
        "good": checks.iter().all(|check| check.verdict != Verdict::Fault),
        "checks": checks.iter().map(|check| json!({
            "name": check.name,
            "verdict": check.verdict.word(),
            "found": check.found,
            "fix": check.fix,
        })).collect::<Vec<_>>(),
    })
}

fn line(check: &Check) -> String {
    let found = output::plain(&check.found);
    let mut line = format!("{:<5}  {:<11}  {found}", check.verdict.word(), check.name);
    if let Some(fix) = &check.fix {
        line += &format!("\n       fix: {}", output::plain(fix));
    }
    line
}

async fn examine(global: &Global, file: &Path) -> Vec<Check> {
    let config = match Config::read(file) {
        Ok(config) => config,
        Err(error) => {
            let fix = "mend the line; nothing else was looked at";
            return vec![Check::fault("file", error.to_string(), fix)];
        }
    };
    let mut checks = vec![Check::ok("file", config_check::good(file, &config))];
    // A node that does not run is no fault: it may not have been started yet.
    let (standing, forbidden) = match client::connect(global).await {
        Ok(mut node) => (Some(status::ask(&mut node).await), None),
        Err(_) => (None, client::forbidden(global).await),
    };
    let running = match (&standing, &forbidden) {
        (Some(_), _) => Some(true),
        (None, Some(_)) => None,
        (None, None) => Some(false),
    };
    checks.push(clock());
    checks.extend(disk(&config));
    checks.extend(ports(&config, running));
    checks.extend(names(&config).await);
    checks.extend(certificates(&config, time(standing.as_ref())));
    match forbidden {
        Some(socket) => checks.push(unasked(&socket)),
        None => checks.extend(peers(standing)),
    }
    checks
}

/// What keeps this machine's clock. `timedatectl` asks the kernel (adjtimex), whoever disciplines
/// it; `chronyc` answers where there is no systemd.
fn clock() -> Check {
    let kernel = says(
        "timedatectl",
        &["show", "--property=NTPSynchronized", "--value"],
    );
    judge_clock(
        kernel.as_deref(),
        says("chronyc", &["-c", "tracking"]).as_deref(),
    )
}

/// What a program prints, if it succeeds.
fn says(program: &str, arguments: &[&str]) -> Option<String> {
    let ran = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&ran.stdout).trim().to_owned();
    (ran.status.success() && !text.is_empty()).then_some(text)
}

/// `chrony` is a line of values, whose last is `Normal` when it is synchronised.
fn judge_clock(kernel: Option<&str>, chrony: Option<&str>) -> Check {
    let fix = "keep it by NTP: apt-get install chrony, or systemctl enable --now systemd-timesyncd";
    let by_chrony = chrony.map(|line| line.rsplit(',').next() == Some("Normal"));
    match (kernel, by_chrony) {
        (Some("yes"), _) => Check::ok("clock", "kept by NTP, says timedatectl"),
        (_, Some(true)) => Check::ok("clock", "kept by NTP, says chronyc"),
        (Some(_), _) | (_, Some(false)) => {
            Check::fault("clock", "nothing keeps this machine's clock right", fix)
        }
        (None, None) => Check::warn(
            "clock",
            "neither timedatectl nor chronyc tells whether it is kept right",
            fix,
        ),
    }
}

/// The data directory, or the nearest folder above it that is there already.
fn ground(data_dir: &Path) -> PathBuf {
    // The file may have been named without its folder.
    let data_dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let there = data_dir.ancestors().find(|dir| dir.is_dir());
    there.unwrap_or(Path::new("/")).to_owned()
}

fn disk(config: &Config) -> Vec<Check> {
    let dir = ground(&config.data_dir);
    let room = match disk_space(&dir) {
        Ok(space) => judge_room(space.free, space.total, config.limits.disk_free_min_bytes),
        Err(error) => Check::fault(
            "disk",
            format!("{} cannot be looked at: {error}", dir.display()),
            "name a folder on a local disk as data_dir",
        ),
    };
    let flushes = match flushes(&dir) {
        Ok(times) => judge_flushes(&dir, times),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Check::warn(
            "fsync",
            format!("this user may not write in {}", dir.display()),
            "run this as the node's user: runuser -u holdfast -- holdfast doctor --config FILE",
        ),
        Err(error) => Check::fault(
            "fsync",
            format!("nothing can be written in {}: {error}", dir.display()),
            "see the kernel's log (dmesg); do not start a node on a disk that fails",
        ),
    };
    vec![room, flushes]
}

fn judge_room(free: u64, total: u64, least: u64) -> Check {
    let found = format!("{} of {} free", output::bytes(free), output::bytes(total));
    if free < least {
        return Check::fault(
            "disk",
            format!("{found}, less than limits.disk_free_min_bytes: no mail is taken"),
            "make room, or enlarge the disk",
        );
    }
    if free < total / 100 * FREE_LOW_PERCENT {
        return Check::warn("disk", found, "make room before mail has to wait for it");
    }
    Check::ok("disk", found)
}

/// How long writes of the size of a small batch took to be durable, sorted.
fn flushes(dir: &Path) -> io::Result<Vec<Duration>> {
    // Without a name: nothing is left, whatever happens.
    let mut file = tempfile::tempfile_in(dir)?;
    let mut times = Vec::with_capacity(WRITES);
    for _ in 0..WRITES {
        file.write_all(&[0x55; WRITE_BYTES])?;
        let begin = Instant::now();
        file.sync_data()?;
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}

fn judge_flushes(dir: &Path, times: Vec<Duration>) -> Check {
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
    let (half, most) = match (times.get(times.len() / 2), times.last()) {
        (Some(half), Some(most)) => (*half, *most),
        _ => (Duration::ZERO, Duration::ZERO),
    };
    let found = format!(
        "writes in {} are durable after {}, the slowest of {} after {}",
        dir.display(),
        ms(half),
        times.len(),
        ms(most)
    );
    let fix = "use a disk with a protected write cache, or one that is not shared";
    match half {
        slow if slow > FLUSH_TOO_SLOW => Check::fault("fsync", found, fix),
        slow if slow > FLUSH_SLOW => Check::warn("fsync", found, fix),
        _ => Check::ok("fsync", found),
    }
}

/// Every address that the file has the node listen on, by the name of its unit where it has one.
fn listeners(config: &Config) -> Vec<(&'static str, SocketAddr)> {
    let mut all: Vec<_> = config.smtp.listen.iter().map(|at| ("smtp", *at)).collect();
    all.push(("cluster", config.cluster.listen));
    let others = [
        ("portal", config.portal.listen),
        ("finger", config.finger.listen),
        ("atrn", config.atrn.listen),
        ("acme", config.acme.listen),
        ("submission", config.submission.listen),
        ("submissions", config.submission.listen_tls),
        ("metrics", config.metrics.listen),
        ("admin", config.admin.listen),
    ];
    all.extend(others.into_iter().filter_map(|(of, at)| Some((of, at?))));
    all
}

/// Who should be listening now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// The node runs.
    Node,
    /// systemd, until the node starts.
    Unit,
    Nobody,
    /// This user may not ask whether the node runs.
    Unknown,
}

/// `running`: `None`, if this user may not ask.
fn ports(config: &Config, running: Option<bool>) -> Vec<Check> {
    let bound = |at: SocketAddr| TcpListener::bind(at).map(drop);
    let holder = |of: &str| {
        let unit = format!("holdfast-{of}.socket");
        let active = || says("systemctl", &["is-active", &unit]).is_some();
        match running {
            Some(true) => Holder::Node,
            None => Holder::Unknown,
            Some(false) if active() => Holder::Unit,
            Some(false) => Holder::Nobody,
        }
    };
    listeners(config)
        .into_iter()
        .map(|(of, at)| judge_port(of, at, bound(at), holder(of)))
        .collect()
}

fn judge_port(of: &str, at: SocketAddr, bound: io::Result<()>, holder: Holder) -> Check {
    let kind = bound.as_ref().map_err(io::Error::kind);
    match (kind, holder) {
        (Ok(()), Holder::Node) => Check::fault(
            "port",
            format!("{of}: the node runs, but nobody listens on {at}"),
            "the file was changed since it started: restart the node",
        ),
        (Ok(()), _) => Check::ok("port", format!("{of}: {at} is free")),
        (Err(io::ErrorKind::AddrInUse), Holder::Node) => {
            Check::ok("port", format!("{of}: {at} is in use, and the node runs"))
        }
        (Err(io::ErrorKind::AddrInUse), Holder::Unit) => {
            Check::ok("port", format!("{of}: systemd holds {at} for the node"))
        }
        (Err(io::ErrorKind::AddrInUse), Holder::Unknown) => Check::ok(
            "port",
            format!("{of}: {at} is in use, by the node if it runs"),
        ),
        (Err(io::ErrorKind::AddrInUse), Holder::Nobody) => Check::fault(
            "port",
            format!("{of}: {at} is in use, and the node does not run"),
            format!("see who has it: ss -ltnp 'sport = :{}'", at.port()),
        ),
        (Err(io::ErrorKind::PermissionDenied), _) => Check::warn(
            "port",
            format!("{of}: this user may not try {at}"),
            "run this as root; the packaged units give the node its ports",
        ),
        (Err(io::ErrorKind::AddrNotAvailable), _) => Check::fault(
            "port",
            format!("{of}: {at} is no address of this machine"),
            "name one of its addresses (ip address), or 0.0.0.0 or [::]",
        ),
        (Err(_), _) => Check::fault(
            "port",
            format!("{of}: {at} cannot be used: {}", text(bound)),
            "name an address of this machine (ip address)",
        ),
    }
}

fn text(outcome: io::Result<()>) -> String {
    outcome.err().map_or_else(String::new, |e| e.to_string())
}

/// This node's own names, forwards and back.
async fn names(config: &Config) -> Vec<Check> {
    let resolver = match Resolver::new(&config.dns.servers, Memory::None) {
        Ok(resolver) => resolver,
        Err(error) => {
            let fix = "name resolvers in /etc/resolv.conf, or in dns.servers";
            return vec![Check::fault("dns", error.to_string(), fix)];
        }
    };
    let look = async {
        let name = &config.smtp.name;
        let mut found = Vec::new();
        for address in resolver.addresses(name).await.map_err(|e| e.to_string())? {
            found.push((address, resolver.pointers(address).await));
        }
        Ok(found)
    };
    let late = |_| Err("the resolver did not answer in time".to_owned());
    let looked = tokio::time::timeout(DNS_TIME_MAX, look).await;
    let mut checks = judge_name(&config.smtp.name, looked.unwrap_or_else(late));

    let address = &config.cluster.address;
    let host = address.rsplit_once(':').map_or("", |(host, _)| host);
    let look = resolver.addresses(host.trim_matches(['[', ']']));
    checks.push(match tokio::time::timeout(DNS_TIME_MAX, look).await {
        Ok(Ok(_)) => Check::ok("dns", format!("the other nodes find this one at {address}")),
        Ok(Err(error)) => Check::fault(
            "dns",
            format!("the other nodes will not find this one at {address}: {error}"),
            format!("give {host} an address, or change cluster.address"),
        ),
        Err(_) => Check::fault(
            "dns",
            format!("the resolver did not tell where {host} is"),
            "name resolvers that answer in /etc/resolv.conf, or in dns.servers",
        ),
    });
    checks
}

fn judge_name(
    name: &str,
    found: Result<Vec<(std::net::IpAddr, Vec<String>)>, String>,
) -> Vec<Check> {
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            return vec![Check::fault(
                "dns",
                format!("{name} leads nowhere: {error}"),
                format!(
                    "give {name} this machine's address in the DNS: customers' MX records name it"
                ),
            )];
        }
    };
    let judge = |(address, back): (std::net::IpAddr, Vec<String>)| {
        if back.iter().any(|back| back.eq_ignore_ascii_case(name)) {
            return Check::ok(
                "dns",
                format!("{name} is {address}, and {address} is {name}"),
            );
        }
        let back = match back.first() {
            Some(back) => format!("{address} is called {back}"),
            None => format!("{address} has no name"),
        };
        Check::warn(
            "dns",
            format!("{name} is {address}, but {back}"),
            format!("have its provider name it {name} (PTR): many servers refuse mail otherwise"),
        )
    };
    found.into_iter().map(judge).collect()
}

/// Since 1970, by the cluster's clock where the node tells it: that of a sandbox is moved on.
fn time(standing: Option<&Result<StatusReply, Failure>>) -> Duration {
    match standing {
        Some(Ok(status)) if status.now_ms > 0 => Duration::from_millis(status.now_ms),
        _ => SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default(),
    }
}

fn certificates(config: &Config, now: Duration) -> Vec<Check> {
    let mut checks = Vec::new();
    match (&config.smtp.tls_cert, &config.smtp.tls_key) {
        (Some(cert), Some(key)) => {
            let read = tls::Identity::read(cert, key).and_then(|identity| {
                let expires = identity.expires();
                // Certificate and key must belong together.
                tls::smtp_server(identity).map(|_| expires)
            });
            checks.push(match read {
                Ok(Some(at)) => judge_certificate(
                    "of smtp.tls_cert",
                    at,
                    now,
                    "renew it; the node reads it again within seconds",
                ),
                Ok(None) => Check::fault(
                    "certificate",
                    format!("there is none in {}", cert.display()),
                    "put the certificate and its chain there, as PEM",
                ),
                Err(error) => Check::fault(
                    "certificate",
                    error.to_string(),
                    "the node must be able to read both files, and they must belong together",
                ),
            });
        }
        _ => checks.push(Check::warn(
            "certificate",
            "smtp.tls_cert is not set: senders are shown a self-signed certificate, unless the cluster has ordered one",
            "set smtp.tls_cert and smtp.tls_key, or have the cluster order one (holdfast cluster acme use): senders that \
             check certificates keep their mail",
        )),
    }
    match Identity::read(&config.data_dir) {
        Ok(None) => checks.push(Check::ok(
            "certificate",
            "this node belongs to no cluster yet, or another user must look",
        )),
        Ok(Some(identity)) => {
            let shown = holdfast_node::replica::credentials(&config.data_dir, &identity);
            let mut all = vec![("of this node", &shown.certificate)];
            let authorities = shown.authorities.iter();
            all.extend(authorities.map(|authority| ("of the cluster's authority", authority)));
            for (of, certificate) in all {
                let fix = "see /usr/share/doc/holdfast/runbooks/HoldfastCertificateEnds.md";
                checks.push(match authority::expires(certificate) {
                    Ok(at) => judge_certificate(of, at, now, fix),
                    Err(error) => Check::fault("certificate", format!("{of}: {error}"), fix),
                });
            }
        }
        Err(error) => checks.push(Check::warn(
            "certificate",
            error.to_string(),
            "run this as the node's user, or as root",
        )),
    }
    checks
}

fn judge_certificate(of: &str, expires: i64, now: Duration, fix: &str) -> Check {
    let left = u64::try_from(expires)
        .ok()
        .and_then(|at| Duration::from_secs(at).checked_sub(now));
    match left {
        None => Check::fault("certificate", format!("that {of} has ended"), fix),
        Some(left) => {
            let found = format!("that {of} is good for {}", output::span(left));
            if left < CERTIFICATE_SOON {
                Check::warn("certificate", found, fix)
            } else {
                Check::ok("certificate", found)
            }
        }
    }
}

/// Nothing is known of the node and the others.
fn unasked(socket: &Path) -> Check {
    Check::warn(
        "node",
        format!("this user may not ask the node at {}", socket.display()),
        "run this as root, or as a member of group holdfast",
    )
}

fn peers(standing: Option<Result<StatusReply, Failure>>) -> Vec<Check> {
    match standing {
        None => vec![Check::warn(
            "node",
            "the node does not run here, so it cannot tell of the others",
            "start it: systemctl start holdfast",
        )],
        Some(Err(error)) => vec![Check::fault(
            "node",
            error.to_string().replace('\n', ";"),
            "see its log: journalctl -u holdfast -n 50",
        )],
        Some(Ok(status)) if status.cluster_id.is_empty() => vec![Check::warn(
            "node",
            "the node runs, and belongs to no cluster yet",
            "holdfast cluster init, or holdfast cluster join TOKEN",
        )],
        Some(Ok(status)) => {
            let mut checks = vec![if status.quorum {
                Check::ok("node", format!("the node runs; {}", status.health))
            } else {
                Check::fault(
                    "node",
                    format!("the node runs; {}", status.health),
                    "see /usr/share/doc/holdfast/runbooks/HoldfastNoQuorum.md",
                )
            }];
            let others = status.nodes.iter().filter(|node| node.id != status.node_id);
            checks.extend(others.map(judge_peer));
            checks
        }
    }
}

fn judge_peer(node: &NodeStatus) -> Check {
    let NodeStatus {
        name,
        cluster_address,
        ..
    } = node;
    if !node.reachable {
        return Check::fault(
            "peer",
            format!("{name} at {cluster_address}: {}", node.error),
            format!(
                "start it; if it runs, let TCP through to {cluster_address} in both directions"
            ),
        );
    }
    let rtt_ms = node.rtt_micros as f64 / 1000.0;
    let found = format!(
        "{name} answers after {rtt_ms:.1} ms; its clock is {} ms ahead",
        node.clock_ahead_ms
    );
    // Half the way is not known; the answer took as long as it took.
    if node.clock_ahead_ms.unsigned_abs() > CLOCK_OFF_MS + node.rtt_micros / 1000 {
        return Check::fault(
            "peer",
            found,
            format!("keep the clocks of this machine and of {name} right by NTP"),
        );
    }
    Check::ok("peer", found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_well_when_anyone_says_that_it_is_kept() {
        let chrony = |state| format!("A29FC87B,time.example,3,1700000000.1,0.0001,{state}");
        let verdict =
            |kernel, chrony: Option<String>| judge_clock(kernel, chrony.as_deref()).verdict;
        assert_eq!(verdict(Some("yes"), None), Verdict::Ok);
        assert_eq!(verdict(Some("no"), Some(chrony("Normal"))), Verdict::Ok);
        assert_eq!(verdict(Some("no"), None), Verdict::Fault);
        let lost = Some(chrony("Not synchronised"));
        assert_eq!(verdict(None, lost), Verdict::Fault);
        assert_eq!(verdict(None, None), Verdict::Warn);
    }

    #[test]
    fn a_disk_is_judged_by_what_is_left_and_how_long_it_takes() {
        let gb = 1_000_000_000;
        assert_eq!(judge_room(50 * gb, 100 * gb, gb).verdict, Verdict::Ok);
        assert_eq!(judge_room(14 * gb, 100 * gb, gb).verdict, Verdict::Warn);
        assert_eq!(judge_room(gb - 1, 100 * gb, gb).verdict, Verdict::Fault);
        let verdict = |ms| {
            let times = [1, ms, 900].map(Duration::from_millis).to_vec();
            judge_flushes(Path::new("/"), times).verdict
        };
        assert_eq!(verdict(5), Verdict::Ok);
        assert_eq!(verdict(40), Verdict::Warn);
        assert_eq!(verdict(400), Verdict::Fault);
        let measured = flushes(&std::env::temp_dir()).unwrap();
        assert_eq!(measured.len(), WRITES);
        assert!(measured.is_sorted());
    }

    #[test]
    fn every_address_is_looked_at_and_named_as_its_unit() {
        let text = r#"
            data_dir = "/var/lib/holdfast"
            name = "n1"
            region = "eu"
            [smtp]
            listen = ["127.0.0.1:1"]
            name = "mx1.example"
            [cluster]
            listen = "127.0.0.1:2"
            address = "127.0.0.1:2"
            [portal]
            listen = "127.0.0.1:3"
            [finger]
            listen = "127.0.0.1:4"
            [atrn]
            listen = "127.0.0.1:5"
            [acme]
            listen = "127.0.0.1:6"
            [submission]
            listen = "127.0.0.1:7"
            listen_tls = "127.0.0.1:8"
            [metrics]
            listen = "127.0.0.1:9"
            [admin]
            listen = "127.0.0.1:10"
        "#;
        let config = Config::parse(text, Path::new("/etc/holdfast/holdfast.toml")).unwrap();
        let listeners = listeners(&config);
        assert_eq!(listeners.len(), 10);
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
        for entry in std::fs::read_dir(units).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let of = name.strip_prefix("holdfast-");
            if let Some(of) = of.and_then(|rest| rest.strip_suffix(".socket")) {
                assert!(listeners.iter().any(|(known, _)| *known == of), "{of}");
            }
        }
    }

    #[test]
    fn what_is_not_made_yet_is_measured_where_it_will_be() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(ground(Path::new("not/made/yet")), here);
        assert_eq!(ground(&here.join("not made")), here);
    }

    #[test]
    fn a_port_is_free_or_ours_or_somebody_elses() {
        let at = "127.0.0.1:25".parse().unwrap();
        let verdict = |bound: Result<(), io::ErrorKind>, holder| {
            judge_port("smtp", at, bound.map_err(io::Error::from), holder).verdict
        };
        let in_use = Err(io::ErrorKind::AddrInUse);
        assert_eq!(verdict(Ok(()), Holder::Nobody), Verdict::Ok);
        assert_eq!(verdict(Ok(()), Holder::Node), Verdict::Fault);
        assert_eq!(verdict(in_use, Holder::Node), Verdict::Ok);
        assert_eq!(verdict(in_use, Holder::Unit), Verdict::Ok);
        assert_eq!(verdict(in_use, Holder::Nobody), Verdict::Fault);
        assert_eq!(verdict(in_use, Holder::Unknown), Verdict::Ok);
        let denied = Err(io::ErrorKind::PermissionDenied);
        assert_eq!(verdict(denied, Holder::Nobody), Verdict::Warn);
    }

    #[test]
    fn a_name_must_lead_here_and_should_lead_back() {
        let verdict = |back: &[&str]| {
            let back = back.iter().map(|name| (*name).to_owned()).collect();
            let found = vec![("192.0.2.1".parse().unwrap(), back)];
            judge_name("mx1.holdfast.example", Ok(found))[0].verdict
        };
        assert_eq!(verdict(&["MX1.holdfast.example"]), Verdict::Ok);
        assert_eq!(verdict(&["dynamic.isp.example"]), Verdict::Warn);
        assert_eq!(verdict(&[]), Verdict::Warn);
        let nowhere = judge_name("mx1.holdfast.example", Err("no such name".into()));
        assert_eq!(nowhere[0].verdict, Verdict::Fault);
    }

    #[test]
    fn a_certificate_warns_before_it_ends() {
        let now = Duration::from_secs(1_800_000_000);
        let verdict = |days: i64| {
            let expires = 1_800_000_000 + days * 86_400;
            judge_certificate("of smtp", expires, now, "").verdict
        };
        assert_eq!(verdict(60), Verdict::Ok);
        assert_eq!(verdict(10), Verdict::Warn);
        assert_eq!(verdict(-1), Verdict::Fault);
    }

    #[test]
    fn a_peer_must_answer_and_agree_about_the_time() {
        let peer = |reachable, clock_ahead_ms| NodeStatus {
            reachable,
            clock_ahead_ms,
            rtt_micros: 200_000,
            ..NodeStatus::default()
        };
        assert_eq!(judge_peer(&peer(true, -900)).verdict, Verdict::Ok);
        assert_eq!(judge_peer(&peer(true, 1_300)).verdict, Verdict::Fault);
        assert_eq!(judge_peer(&peer(false, 0)).verdict, Verdict::Fault);
    }
}
