//! The binary as an operator meets it: exit codes, and what goes to which stream.

use std::path::Path;
use std::process::{Command, Output};

fn holdfast(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(arguments)
        .env_remove("HOLDFAST_SOCKET")
        .output()
        .expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder of our own below the one that cargo gives to tests.
fn folder(name: &str) -> std::path::PathBuf {
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

const CONFIG: &str = r#"
data_dir = "n1"
name = "fra1"
region = "eu"
[smtp]
name = "mx1.holdfast.example"
[cluster]
listen = "0.0.0.0:7400"
address = "fra1.holdfast.example:7400"
"#;

#[test]
fn help_and_version_are_data_and_succeed() {
    for arguments in [["--help"], ["--version"]] {
        let ran = holdfast(&arguments);
        assert_eq!(ran.status.code(), Some(0));
        assert!(text(&ran.stdout).contains("holdfast"), "{arguments:?}");
        assert!(ran.stderr.is_empty());
    }
    assert!(text(&holdfast(&["--help"]).stdout).contains("Exit codes:"));
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [
        &["serve"][..],
        &["domain", "add", "example.org"],
        &["cluster", "invite", "--ttl", "1y"],
        &["dev", "--dir", "/tmp/x", "--nodes", "0"],
        &["dev"],
        &["dev", "clock", "advance", "5d"],
        &["dev", "clock", "--dir", "/tmp/x", "advance", "yesterday"],
        &["launch"],
    ] {
        let ran = holdfast(arguments);
        assert_eq!(ran.status.code(), Some(2), "{arguments:?}");
        assert!(
            ran.stdout.is_empty() && !ran.stderr.is_empty(),
            "{arguments:?}"
        );
    }
}

#[test]
fn time_cannot_be_moved_outside_of_a_sandbox() {
    let folder = folder("no-sandbox");
    let dir = folder.to_str().expect("a path");
    let ran = holdfast(&["dev", "clock", "--dir", dir, "advance", "5d"]);
    assert_eq!(ran.status.code(), Some(5));
    assert!(text(&ran.stderr).contains("holds no sandbox"));
    assert!(std::fs::read_dir(&folder).expect("it").next().is_none());
}

#[test]
fn a_node_that_does_not_answer_exits_with_4_and_says_what_to_do() {
    let socket = folder("unreachable").join("admin.sock");
    for arguments in [
        &["status"][..],
        &["domain", "list"],
        &["cluster", "leave", "n1"],
        &["mail", "deliver", "--domain", "example.org"],
    ] {
        let ran = holdfast(&[&["--socket", socket.to_str().expect("a path")], arguments].concat());
        assert_eq!(ran.status.code(), Some(4), "{arguments:?}");
        assert!(ran.stdout.is_empty());
        let error = text(&ran.stderr);
        for part in ["error: no node answers at ", "\n  why: ", "\n  fix: "] {
            assert!(error.contains(part), "{error}");
        }
    }
}

#[test]
fn a_good_file_passes_the_check_and_a_bad_one_is_named_with_its_line() {
    let folder = folder("check");
    let file = folder.join("good.toml");
    std::fs::write(&file, CONFIG).expect("written");
    let path = file.to_str().expect("a path");
    let ran = holdfast(&["config", "check", path]);
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
    assert!(text(&ran.stdout).contains("is good: node fra1 in region eu"));

    std::fs::write(&file, CONFIG.replace("region", "regiom")).expect("written");
    let ran = holdfast(&["config", "check", path]);
    assert_eq!(ran.status.code(), Some(3));
    assert!(text(&ran.stderr).contains("line 4: unknown key `regiom`; did you mean `region`?"));
    let ran = holdfast(&["config", "check", path, "--json"]);
    assert_eq!(ran.status.code(), Some(3));
    let json: serde_json::Value = serde_json::from_slice(&ran.stdout).expect("JSON");
    assert_eq!(json["schema"], "holdfast.config-check/v1");
    assert_eq!(json["good"], false);
    assert_eq!(json["line"], 4);
}

#[test]
fn a_node_with_a_bad_file_does_not_start() {
    let file = folder("serve").join("bad.toml");
    std::fs::write(&file, "name = 3").expect("written");
    let ran = holdfast(&["serve", "--config", file.to_str().expect("a path")]);
    assert_eq!(ran.status.code(), Some(1));
    assert!(text(&ran.stderr).contains("bad.toml"));
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port")
        .port()
}

/// A node that runs, alone in its cluster, and dies with this value.
struct Alone {
    node: std::process::Child,
    file: std::path::PathBuf,
    smtp: u16,
    metrics: u16,
}

impl Alone {
    fn start(name: &str) -> Self {
        let folder = folder(name);
        let file = folder.join("n1.toml");
        let [smtp, cluster, metrics] = [free_port(), free_port(), free_port()];
        let text = format!(
            "data_dir = \"n1\"\nname = \"n1\"\nregion = \"eu\"\nwan_profile = \"lan\"\n\
             [smtp]\nname = \"localhost.example\"\nlisten = [\"127.0.0.1:{smtp}\"]\n\
             [cluster]\nlisten = \"127.0.0.1:{cluster}\"\naddress = \"127.0.0.1:{cluster}\"\n\
             [admin]\nsocket = \"/tmp/holdfast-{name}.{}\"\n\
             [metrics]\nlisten = \"127.0.0.1:{metrics}\"\n",
            std::process::id()
        );
        std::fs::write(&file, text).expect("written");
        let log = std::fs::File::create(folder.join("log")).expect("a log");
        let node = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(["serve", "--config", file.to_str().expect("a path")])
            .stderr(log)
            .spawn()
            .expect("the node starts");
        let alone = Self {
            node,
            file,
            smtp,
            metrics,
        };
        let founded = (0..600).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            alone.run(&["cluster", "init"]).status.success()
        });
        assert!(founded, "the node makes a cluster within 30 s");
        alone
    }

    /// A command, asked of this node.
    fn run(&self, arguments: &[&str]) -> Output {
        let file = self.file.to_str().expect("a path");
        holdfast(&[arguments, &["--config", file]].concat())
    }

    /// Asks for mail to somebody whom nobody protects, as strangers do; the reply.
    fn refused(&self) -> String {
        use std::io::{BufRead, BufReader, Write};
        let mut stream =
            std::net::TcpStream::connect(("127.0.0.1", self.smtp)).expect("it listens");
        let mut replies = BufReader::new(stream.try_clone().expect("it")).lines();
        let mut reply = move || replies.next().expect("a line").expect("it");
        reply();
        for command in [
            "HELO sender.example",
            "MAIL FROM:<a@sender.example>",
            "RCPT TO:<b@example.org>",
        ] {
            write!(stream, "{command}\r\n").expect("sent");
            let said = reply();
            if command.starts_with("RCPT") {
                return said;
            }
        }
        unreachable!("RCPT is the last")
    }

    fn get(&self, path: &str) -> String {
        use std::io::{Read, Write};
        let mut answer = String::new();
        let mut stream =
            std::net::TcpStream::connect(("127.0.0.1", self.metrics)).expect("it listens");
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").expect("asked");
        stream.read_to_string(&mut answer).expect("answered");
        answer
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.node.kill().expect("it runs");
        self.node.wait().expect("it ended");
    }
}

fn repository() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).expect(path)
}

/// Names of series that a page of metrics offers.
fn series(page: &str) -> std::collections::BTreeSet<String> {
    page.lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .flat_map(|(name, kind)| {
            let endings: &[&str] = match kind {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            endings.iter().map(move |ending| format!("{name}{ending}"))
        })
        .collect()
}

/// Words of a text that could be names of our series.
fn named(text: &str) -> std::collections::BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("holdfast_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_series_that_dashboards_and_alerts_name_is_exported() {
    let node = Alone::start("series");
    // A series with a label is there from its first value on.
    assert!(node.refused().starts_with("550 "));
    let page = node.get("/metrics");
    let exported = series(&page);
    for file in [
        "ops/alerts/holdfast.rules.yml",
        "ops/dashboards/holdfast.json",
    ] {
        let named = named(&read(file));
        assert!(named.len() > 10, "{file} names {named:?}");
        let missing: Vec<_> = named.difference(&exported).collect();
        assert!(missing.is_empty(), "{file}: {missing:?}\n{page}");
    }
    for line in [
        "holdfast_raft_has_quorum 1.0",
        "holdfast_raft_voters_answering 1.0",
        "holdfast_held_oldest_seconds 0.0",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
    for usage in ["smtp", "cluster", "cluster_ca"] {
        assert!(
            page.contains(&format!("expiry_timestamp_seconds{{use=\"{usage}\"}}")),
            "{page}"
        );
    }
    assert!(!page.contains("holdfast_disk_flush_seconds_count 0\n"));
    assert!(node.get("/livez").starts_with("HTTP/1.0 200"));
    assert!(node.get("/readyz?verbose").contains("[+]quorum ok"));
}

#[test]
fn every_alert_has_its_page_and_every_page_its_alert() {
    let rules = read("ops/alerts/holdfast.rules.yml");
    let mut alerts = Vec::new();
    for rule in rules.split("- alert: ").skip(1) {
        let alert = rule.lines().next().expect("a name").trim();
        assert!(
            rule.contains(&format!("/runbooks/{alert}.md\n")),
            "{alert} names its page"
        );
        alerts.push(format!("{alert}.md"));
    }
    alerts.sort_unstable();
    let mut pages: Vec<String> = std::fs::read_dir(repository().join("ops/runbooks"))
        .expect("pages")
        .map(|page| page.expect("it").file_name().into_string().expect("a name"))
        .collect();
    pages.sort_unstable();
    assert_eq!(alerts, pages);
    for page in pages {
        let text = read(&format!("ops/runbooks/{page}"));
        for part in ["What is wrong", "What is safe", "What to type"] {
            assert!(text.contains(&format!("\n## {part}\n")), "{page}: {part}");
        }
    }
}

/// Each is asked for its help, and every option must be in it.
#[test]
fn runbooks_name_only_commands_that_exist() {
    let mut commands = std::collections::BTreeSet::new();
    for page in std::fs::read_dir(repository().join("ops/runbooks")).expect("pages") {
        let text = std::fs::read_to_string(page.expect("it").path()).expect("a page");
        let blocks = text.lines().filter_map(|line| line.strip_prefix("    "));
        let quoted = text.split('`').skip(1).step_by(2);
        for command in blocks.chain(quoted) {
            if let Some(command) = command.strip_prefix("holdfast ") {
                commands.insert(command.to_owned());
            }
        }
    }
    assert!(commands.len() > 10, "{commands:?}");
    for command in commands {
        let words: Vec<&str> = command
            .split_whitespace()
            .take_while(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
            .take_while(|word| !word.starts_with('-'))
            .collect();
        let ran = holdfast(&[&words[..], &["--help"]].concat());
        assert!(ran.status.success(), "holdfast {command}");
        let help = text(&ran.stdout);
        assert!(
            help.contains(&format!("Usage: holdfast {}", words.join(" "))),
            "holdfast {command}: {help}"
        );
        for option in command.split_whitespace().filter(|w| w.starts_with("--")) {
            assert!(help.contains(option), "holdfast {command}: {option}");
        }
    }
}
