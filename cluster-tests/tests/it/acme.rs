//! One certificate for all nodes, ordered by ACME from an authority of the test's own (Debian's
//! `pebble`).

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use holdfast_cluster_tests::harness::{Sandbox, apart, free_port, wait_for};
use holdfast_cluster_tests::story::{Zone, pass};
use serde_json::Value;

use crate::beside_others;

const TIME_MAX: Duration = Duration::from_secs(90);

/// The leader looks every five seconds whether an order is due.
const LOOKED_AT_TWICE: Duration = Duration::from_secs(12);

/// Of a certificate: a renewal after forty minutes.
const LIFE: Duration = Duration::from_secs(3600);

const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// What pebble itself shows to those who ask it.
const ITS_NAMES: &str = "[req]
distinguished_name = subject
prompt = no
x509_extensions = server
[subject]
CN = localhost
[server]
basicConstraints = critical, CA:FALSE
subjectAltName = DNS:localhost, IP:127.0.0.1
";

/// An authority, that ends with this.
struct Pebble {
    running: Child,
    port: u16,
    /// Whose certificate it has.
    authority: String,
}

impl Pebble {
    /// It finds names in `zone`, and asks them at `door`.
    fn start(folder: &Path, zone: &Zone, door: u16) -> Self {
        let path = |name: &str| folder.join(name).to_str().expect("a path").to_owned();
        let (cert, key) = (path("pebble.pem"), path("pebble.key"));
        fs::write(path("pebble.cnf"), ITS_NAMES).expect("written");
        let made = Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            ])
            .args([
                "-config",
                &path("pebble.cnf"),
                "-out",
                &cert,
                "-keyout",
                &key,
            ])
            .output()
            .expect("openssl");
        assert!(made.status.success(), "{made:?}");
        let port = free_port();
        let config = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "certificate": cert,
            "privateKey": key,
            "httpPort": door,
            "tlsPort": free_port(),
            "certificateValidityPeriod": LIFE.as_secs(),
        }});
        fs::write(path("pebble.json"), config.to_string()).expect("written");
        let log = File::create(path("pebble.log")).expect("a log");
        let running = Command::new("pebble")
            .args(["-config", &path("pebble.json")])
            .args(["-dnsserver", &zone.address().to_string()])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .stdin(Stdio::null())
            .stderr(log.try_clone().expect("a log"))
            .stdout(log)
            .spawn()
            .expect("pebble is installed; `ops/set-up tests` does that");
        wait_for("pebble", TIME_MAX, || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Self {
            running,
            port,
            authority: cert,
        }
    }

    fn directory(&self, host: &str) -> String {
        format!("https://{host}:{}/dir", self.port)
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.running.kill());
        drop(self.running.wait());
    }
}

/// What a command of openssl prints.
fn openssl(arguments: &[&str], input: &str) -> String {
    use std::io::Write as _;
    let mut running = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl");
    // It may not want all of it.
    drop(
        running
            .stdin
            .take()
            .map(|mut pipe| pipe.write_all(input.as_bytes())),
    );
    let ran = running.wait_with_output().expect("openssl");
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

/// The certificate that is shown behind STARTTLS, PEM.
fn shown(at: SocketAddr) -> String {
    let to = at.to_string();
    let told = openssl(&["s_client", "-starttls", "smtp", "-connect", &to], "");
    let end = "-----END CERTIFICATE-----";
    let begin = told.find("-----BEGIN CERTIFICATE-----").unwrap_or(0);
    let length = told[begin..].find(end).map_or(0, |at| at + end.len());
    told[begin..begin + length].to_owned()
}

fn names_in(certificate: &str) -> String {
    openssl(
        &["x509", "-noout", "-issuer", "-ext", "subjectAltName"],
        certificate,
    )
}

/// The one certificate that all of these nodes show, once it is pebble's and not `before`.
fn shared(sandbox: &Sandbox, nodes: &[String], before: &str) -> String {
    wait_for(
        "one certificate of pebble's at every node",
        TIME_MAX,
        || {
            let mut all: Vec<_> = nodes
                .iter()
                .map(|node| shown(sandbox.node(node).smtp))
                .collect();
            all.dedup();
            let [one] = &all[..] else {
                return None;
            };
            let is_new = names_in(one).contains("Pebble") && one != before;
            is_new.then(|| one.clone())
        },
    )
}

fn show(sandbox: &Sandbox, node: &str) -> Value {
    sandbox.must(node, &["cluster", "acme", "show"])
}

/// To which machine each node's name leads.
fn lead(zone: &Zone, machine: impl Fn(usize) -> usize) {
    let lines = (1..=NODES.len()).map(|number| {
        let machine = machine(number);
        format!("n{number}.holdfast.test. A 127.0.1.{machine}\n")
    });
    zone.says(&lines.collect::<String>());
}

#[test]
fn one_certificate_is_ordered_for_all_nodes_and_any_of_them_answers_the_authority() {
    let _turn = beside_others();
    apart(|| {
        let primary = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let zone = Zone::new(Duration::ZERO);
        lead(&zone, |number| number);
        let mut sandbox = Sandbox::start(3, "example.test", primary);
        let door = free_port();
        for (number, node) in (1..).zip(NODES) {
            let file = sandbox.node(node).config.clone();
            let text = fs::read_to_string(&file).expect("its file");
            let acme = format!("{text}\n[acme]\nlisten = \"127.0.1.{number}:{door}\"\n");
            fs::write(&file, acme).expect("written");
            sandbox.kill(node);
            sandbox.restart(node);
            sandbox.wait_until_healthy(TIME_MAX);
        }
        let folder = sandbox.folder().expect("a folder").to_owned();
        let pebble = Pebble::start(&folder, &zone, door);

        let before = shown(sandbox.node("n1").smtp);
        assert!(!names_in(&before).contains("Pebble"));
        assert_eq!(show(&sandbox, "n1")["directory"], Value::Null);
        let order = |sandbox: &Sandbox, node: &str, directory: &str| {
            let contact = "mailto:ops@example.test";
            let command = ["cluster", "acme", "use", "--directory", directory];
            let options = [
                "--contact",
                contact,
                "--agree",
                "--ca-file",
                &pebble.authority,
            ];
            sandbox.must(node, &[&command[..], &options].concat());
        };
        order(&sandbox, "n2", &pebble.directory("localhost"));
        let first = shared(&sandbox, &sandbox.names(), &before);
        let names = names_in(&first);
        for node in NODES {
            assert!(
                names.contains(&format!("DNS:{node}.holdfast.test")),
                "{names}"
            );
            let told = show(&sandbox, node);
            assert_eq!(told["tries"], 0, "{told}");
            assert_eq!(
                told["certificate"]["names"].as_array().map(Vec::len),
                Some(3)
            );
            assert!(
                told["due_at"].as_str() > told["certificate"]["issued_at"].as_str(),
                "{told}"
            );
        }

        // It is not ordered anew before the time has come, and then it is.
        pass(&sandbox, "30m");
        std::thread::sleep(LOOKED_AT_TWICE);
        assert_eq!(shown(sandbox.node("n1").smtp), first);
        pass(&sandbox, "15m");
        let first = shared(&sandbox, &sandbox.names(), &first);

        // Without its leader the cluster knows as much, and shows it still.
        let leader = sandbox.leader().expect("a leader");
        sandbox.kill(&leader);
        let alive = sandbox.alive();
        let other = wait_for("another leader", TIME_MAX, || {
            sandbox.leader().filter(|found| *found != leader)
        });
        for node in &alive {
            assert_eq!(show(&sandbox, node)["has_account"], true);
            assert_eq!(shown(sandbox.node(node).smtp), first);
        }

        // Elsewhere an order is begun anew; the name that leads to nobody is told, and nothing breaks.
        order(&sandbox, &other, &pebble.directory("127.0.0.1"));
        let failed = wait_for("an order that fails", TIME_MAX, || {
            let told = show(&sandbox, &other);
            told["why"].as_str().map(str::to_owned)
        });
        assert!(
            failed.contains(&format!("{leader}.holdfast.test")),
            "{failed}"
        );
        assert!(
            !failed.contains(&format!("{other}.holdfast.test")),
            "{failed}"
        );
        assert_eq!(shown(sandbox.node(&other).smtp), first);

        // It leads to another node, which knows the answer as well as any.
        let dead = NODES.iter().position(|node| **node == leader).expect("it") + 1;
        let living = dead % NODES.len() + 1;
        lead(&zone, |number| if number == dead { living } else { number });
        order(&sandbox, &alive[0], &pebble.directory("127.0.0.1"));
        let second = shared(&sandbox, &alive, &first);
        assert_eq!(show(&sandbox, &other)["why"], Value::Null);

        // Who was away learns of it, and what is stopped is forgotten everywhere.
        sandbox.restart(&leader);
        assert_eq!(shared(&sandbox, &sandbox.names(), &first), second);
        sandbox.must(&other, &["cluster", "acme", "stop"]);
        wait_for("certificates of their own", TIME_MAX, || {
            let all = NODES.map(|node| shown(sandbox.node(node).smtp));
            let none = all.iter().all(|one| !one.is_empty() && *one != second);
            none.then_some(())
        });
    });
}
