//! The binary as an operator meets it: exit codes, and what goes to which stream.

use std::path::Path;
use std::process::Output;

use crate::alone::{Alone, folder, free_port, holdfast, read, repository, says, serve, text};

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
    let help = text(&holdfast(&["--help"]).stdout);
    assert!(help.contains("Exit codes:"));
    assert!(help.contains("\n  doctor "), "{help}");
    assert!(!help.contains("generate"), "it is for packages: {help}");
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [
        &["serve"][..],
        &["doctor"],
        &["domain", "add", "example.org"],
        &["cluster", "invite", "--ttl", "1y"],
        &["dev", "--dir", "/tmp/x", "--nodes", "0"],
        &["dev"],
        &["dev", "clock", "advance", "5d"],
        &["dev", "clock", "--dir", "/tmp/x", "advance", "yesterday"],
        &["access", "grant", "ann"],
        &[
            "cluster",
            "acme",
            "use",
            "--directory",
            "https://ca.example",
        ],
        &["cluster", "acme", "use", "--agree"],
        &[
            "access", "grant", "ann", "--role", "root", "--out", "/tmp/x",
        ],
        &["status", "--node", "a:1", "--socket", "b"],
        &["node", "replace", "n1"],
        &["drill", "run"],
        &["drill", "run", "--kind", "earthquake"],
        &["plan", "add", "basic"],
        &["plan", "add", "basic", "--price", "5"],
        &["plan", "set", "basic", "--price", "-5 EUR"],
        &["plan", "add", "basic", "--price", "5 EUR", "--hosts", "0"],
        &[
            "plan",
            "add",
            "a",
            "--price",
            "5 EUR",
            "--step",
            "1GB",
            "--step-price",
            "2 USD",
        ],
        &["usage", "--csv", "--json"],
        &[
            "domain",
            "set",
            "example.org",
            "--follow-plan",
            "--quota",
            "1GB",
        ],
        &["domain", "dns", "example.org", "--hosts", "0"],
        &["mail", "show"],
        &["mail", "trace", "--since", "1d"],
        &["mail", "trace", "--client", "sender.example"],
        &["mail", "hold", "--dry-run"],
        &["mail", "deliver"],
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
        &["node", "replace", "n1", "--with", "n4"],
        &["mail", "deliver", "--domain", "example.org"],
        &["plan", "list"],
        &["plan", "add", "basic", "--price", "5 EUR"],
        &["usage", "--csv", "--month", "2026-11"],
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
    assert!(
        !text(&ran.stdout).contains("warning"),
        "{}",
        text(&ran.stdout)
    );

    // Good, and perhaps not what was meant.
    let inside = CONFIG.replace("[smtp]", "[smtp]\nlisten = [\"10.0.0.1:25\"]");
    std::fs::write(&file, inside).expect("written");
    let ran = holdfast(&["config", "check", path]);
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
    let told = text(&ran.stdout);
    assert!(
        told.contains("\nwarning: senders do not come to 10.0.0.1:25"),
        "{told}"
    );

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

#[test]
fn mail_is_found_traced_and_disposed_of_and_never_without_a_word() {
    let alone = Alone::start("seeing");
    assert!(alone.refused().starts_with("550"));
    // The history is written a moment later.
    let told = (0..100).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let ran = alone.run(&["mail", "trace", "--from", "A@sender"]);
        let told = text(&ran.stdout);
        let left =
            "broken off before its end from a@sender.example, client 127.0.0.1: the client left";
        told.contains(left).then_some(told)
    });
    let told = told.expect("what never became mail is told");
    assert!(
        told.contains("  n1        -                           refused from a@sender.example to b@example.org, client 127.0.0.1: 550 5.7.1 relaying denied"),
        "{told}"
    );
    let ran = alone.run(&["mail", "trace", "--client", "127.0.0.1", "--json"]);
    let lines = text(&ran.stdout);
    for part in [
        r#"{"schema":"holdfast.trace/v1","#,
        r#""kind":"connected""#,
        r#""to":["b@example.org"]"#,
        r#"{"schema":"holdfast.trace-end/v1","#,
        r#""silent":[]"#,
    ] {
        assert!(lines.contains(part), "{part}: {lines}");
    }
    for arguments in [
        &["mail", "trace", "01ARZ3NDEKTSV4RRFFQ69G5FAV"][..],
        &["mail", "trace", "--to", "nobody"],
        &["mail", "show", "01ARZ3NDEKTSV4RRFFQ69G5FAV"],
        &["mail", "list", "--domain", "example.org"],
    ] {
        assert_eq!(alone.run(arguments).status.code(), Some(6), "{arguments:?}");
    }
    let ran = alone.run(&["mail", "list"]);
    assert_eq!(ran.status.code(), Some(0));
    assert!(ran.stdout.is_empty());
    assert_eq!(text(&ran.stderr), "There is no such mail.\n");

    // One node cannot fail: that is told, and nothing of mail.
    let ran = alone.run(&["events", "--json"]);
    assert_eq!(ran.status.code(), Some(3));
    let told = text(&ran.stdout);
    assert!(
        told.contains(r#""kind":"no_tolerance""#)
            && told.contains(r#""alert":"HoldfastNoFailureTolerance""#),
        "{told}"
    );

    let ran = alone.run(&["top"]);
    assert_eq!(ran.status.code(), Some(2), "there is no terminal");
    assert!(text(&ran.stderr).contains("  fix: `holdfast status`"));

    let ran = alone.run(&["mail", "delete", "--from", "spam"]);
    assert_eq!(ran.status.code(), Some(5), "nobody can be asked");
    assert!(text(&ran.stderr).contains("--yes"));
    let ran = alone.run(&["mail", "delete", "--from", "spam", "--dry-run"]);
    let said = "It would be 0 messages, 0 B. Nothing was changed.\n";
    assert_eq!(text(&ran.stdout), said);
    let ran = alone.run(&["mail", "delete", "--from", "spam", "--yes", "--json"]);
    assert_eq!(
        text(&ran.stdout),
        "{\"schema\":\"holdfast.mail-dispose/v1\",\"bytes\":0,\"dry_run\":false,\"how\":\"delete\",\"messages\":0}\n"
    );
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
        let mut words: Vec<&str> = command
            .split_whitespace()
            .take_while(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
            .take_while(|word| !word.starts_with('-'))
            .collect();
        let ran = holdfast(&[&words[..], &["--help"]].concat());
        assert!(ran.status.success(), "holdfast {command}");
        let help = text(&ran.stdout);
        let usage = help.lines().find_map(|line| line.strip_prefix("Usage: "));
        let usage = usage.unwrap_or_default();
        // The last of them may be a name that somebody gives.
        if usage.ends_with('>') && !usage.contains(&words.join(" ")) {
            words.pop();
        }
        assert!(
            usage.starts_with(&format!("holdfast {}", words.join(" "))),
            "holdfast {command}: {help}"
        );
        for option in command.split_whitespace().filter(|w| w.starts_with("--")) {
            assert!(help.contains(option), "holdfast {command}: {option}");
        }
    }
}

#[test]
fn a_restart_lets_clients_wait_instead_of_refusing_them() {
    use std::io::{BufRead, BufReader};
    let mut node = Alone::start("restart");
    node.kill();
    let at = node.socket.local_addr().expect("its address");
    let client = std::net::TcpStream::connect(at).expect("nobody is there, and it is not refused");
    let notify = std::os::unix::net::UnixDatagram::bind(node.file.with_file_name("notify"));
    let notify = notify.expect("a socket");
    node.node = serve(&node.file, &node.socket, "smtp");
    let mut told = Vec::new();
    while told.len() < 2 {
        let mut text = [0; 64];
        let length = notify.recv(&mut text).expect("a word");
        told.push(String::from_utf8_lossy(&text[..length]).trim().to_owned());
    }
    assert_eq!(told, ["READY=1", "WATCHDOG=1"]);
    let greeting = BufReader::new(client).lines().next();
    let greeting = greeting.expect("a line").expect("it");
    assert!(greeting.starts_with("220 localhost.example"), "{greeting}");
}

#[test]
fn a_socket_that_the_file_does_not_name_is_not_left_to_wait() {
    let file = folder("unattended").join("n1.toml");
    let address = |port: u16| format!("127.0.0.1:{port}");
    let text = CONFIG
        .replace(
            "[cluster]",
            &format!("listen = [\"{}\"]\n[cluster]", address(free_port())),
        )
        .replace("0.0.0.0:7400", &address(free_port()));
    std::fs::write(&file, text).expect("written");
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    let mut node = serve(&file, &socket, "smtp");
    assert_eq!(node.wait().expect("it ends").code(), Some(1));
    let log = std::fs::read_to_string(file.with_file_name("log")).expect("a log");
    assert!(log.contains("as `smtp`"), "{log}");
    assert!(log.contains("systemctl edit holdfast-smtp.socket"), "{log}");
}

#[test]
fn a_doctor_finds_what_is_wrong_and_says_what_to_do() {
    let node = Alone::start("doctor");
    let checks = |ran: &Output| -> Vec<(String, String, String)> {
        let json: serde_json::Value = serde_json::from_slice(&ran.stdout).expect("JSON");
        assert_eq!(json["schema"], "holdfast.doctor/v1");
        let word = |check: &serde_json::Value, key: &str| check[key].as_str().map(str::to_owned);
        let all = json["checks"].as_array().expect("a list");
        for check in all {
            let verdict = word(check, "verdict").expect("a verdict");
            assert_eq!(verdict != "ok", check["fix"].is_string(), "{check}");
        }
        all.iter()
            .map(|check| {
                let word = |key| word(check, key).unwrap_or_default();
                (word("name"), word("verdict"), word("found"))
            })
            .collect()
    };
    let has = |ran: &Output, name: &str, verdict: &str, part: &str| {
        let checks = checks(ran);
        let found = checks
            .iter()
            .any(|(n, v, found)| n == name && v == verdict && found.contains(part));
        assert!(found, "{name} {verdict} {part}: {checks:?}");
    };
    let ran = node.run(&["doctor", "--json"]);
    has(&ran, "file", "ok", "is good: node n1");
    // How fast this machine's disk is just now is not what is tested.
    let measured = |(name, _, found): &(String, String, String)| {
        name == "fsync" && found.contains("are durable after")
    };
    assert!(checks(&ran).iter().any(measured));
    has(&ran, "port", "ok", "smtp: 127.0.0.1:");
    has(&ran, "certificate", "warn", "self-signed");
    has(&ran, "certificate", "ok", "of this node is good for");
    has(&ran, "node", "ok", "the node runs");
    // Its name is reserved: no DNS has it.
    has(&ran, "dns", "fault", "localhost.example leads nowhere");
    assert_eq!(ran.status.code(), Some(3));
    let ran = node.run(&["doctor"]);
    assert!(
        text(&ran.stdout).contains("\n       fix: "),
        "{}",
        text(&ran.stdout)
    );

    // The same file where another program has the port and no node runs.
    let other = node.file.with_file_name("other.toml");
    let file = std::fs::read_to_string(&node.file).expect("a file");
    std::fs::write(&other, file.replace("/tmp/holdfast-doctor", "none")).expect("written");
    let other = other.to_str().expect("a path");
    let ran = holdfast(&["doctor", "--json", "--config", other]);
    has(
        &ran,
        "port",
        "fault",
        "is in use, and the node does not run",
    );
    has(&ran, "node", "warn", "does not run");
    std::fs::write(other, "name = 3").expect("written");
    let ran = holdfast(&["doctor", "--config", other]);
    assert_eq!(ran.status.code(), Some(3));
    assert!(text(&ran.stdout).starts_with("fault  file"));
}

#[test]
fn access_is_granted_used_and_revoked_and_the_audit_says_by_whom() {
    let node = Alone::start("access");
    let [ann, bob] = ["ann.pem", "bob.pem"].map(|name| {
        let file = node.file.with_file_name(name);
        file.to_str().expect("a path").to_owned()
    });
    let grant =
        |name, role, out: &str| node.run(&["access", "grant", name, "--role", role, "--out", out]);
    let ran = grant("ann", "viewer", &ann);
    says(&ran, 0, "ann has access as viewer until ");
    says(&ran, 0, "They type: holdfast --node HOST:PORT --identity ");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&ann).expect("it is there").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600, "nobody else reads it");
    says(
        &grant("ann", "viewer", &ann),
        1,
        "name a file that does not exist yet",
    );
    says(&grant("Bob", "viewer", &bob), 2, "`Bob` is no name");
    assert!(!Path::new(&bob).exists(), "nothing is left of what failed");
    says(
        &grant("bob", "admin", &bob),
        0,
        "bob has access as admin until ",
    );

    let address = format!("127.0.0.1:{}", node.admin);
    let afar = |file: &str, arguments: &[&str]| {
        holdfast(&[arguments, &["--node", &address, "--identity", file]].concat())
    };
    says(&afar(&ann, &["status"]), 0, "Healthy.");
    let ran = afar(&ann, &["domain", "remove", "example.org"]);
    says(&ran, 5, "ann is viewer, and for this one must be operator");
    says(&ran, 5, "fix: ask an admin for `holdfast access grant ann`");
    let ran = afar(&bob, &["access", "list", "--json"]);
    says(&ran, 0, "\"schema\":\"holdfast.access/v1\"");
    says(
        &ran,
        0,
        "\"name\":\"ann\",\"old_authority\":false,\"role\":\"viewer\"",
    );
    let ran = afar(&bob, &["access", "revoke", "ann", "--dry-run"]);
    says(&ran, 0, "ann would have no access. Nothing was changed.");
    says(&afar(&ann, &["status"]), 0, "Healthy.");
    let ran = afar(&bob, &["access", "revoke", "ann"]);
    says(&ran, 0, "ann has no access any more.");
    says(&afar(&ann, &["status"]), 5, "ann has no access any more");
    says(
        &afar(&bob, &["access", "revoke", "ann"]),
        6,
        "see `access list`",
    );

    let ran = node.run(&["audit"]);
    says(&ran, 0, "the cluster was founded");
    says(&ran, 0, "access granted to bob as admin, until 2");
    says(&ran, 0, "access of ann revoked");
    says(&ran, 0, "bob (admin)");
    says(&ran, 0, "via n1");
    // Whoever runs this test.
    says(&ran, 0, "uid ");
    let ran = node.run(&["audit", "--by", "bob", "--json"]);
    says(&ran, 0, "access of ann revoked");
    assert!(
        !text(&ran.stdout).contains("founded"),
        "{}",
        text(&ran.stdout)
    );
}

#[test]
fn a_certificate_is_asked_for_shown_with_its_failure_and_given_up() {
    let node = Alone::start("acme");
    let acme = |options: &[&str]| node.run(&[&["cluster", "acme"], options].concat());
    let using = |more: &[&str]| acme(&[&["use", "--agree", "--directory"], more].concat());
    says(&acme(&["show"]), 0, "No certificate is ordered by ACME.");
    says(&acme(&["stop"]), 6, "see `cluster acme show`");
    says(&using(&["http://ca.example"]), 2, "is no directory");
    let directory = "https://localhost:1/dir";
    says(
        &using(&[directory, "--contact", "ops@example.org"]),
        2,
        "`ops@example.org` is no contact, such as mailto:",
    );
    let ran = using(&[directory, "--ca-file", "/nonexistent.pem"]);
    says(&ran, 1, "fix: name a PEM file");
    let file = node.file.with_file_name("ca.pem");
    let begin = "-----BEGIN CERTIFICATE-----";
    for (content, exit, why) in [
        ("", 1, "there is no certificate in it"),
        (begin, 2, "the authorities to trust cannot be read"),
    ] {
        std::fs::write(&file, content).expect("written");
        let ran = using(&[directory, "--ca-file", file.to_str().expect("a path")]);
        says(&ran, exit, why);
    }
    says(&using(&[directory, "--dry-run"]), 0, "Nothing was changed.");
    says(&acme(&["show"]), 0, "No certificate is ordered by ACME.");

    let ran = using(&[directory, "--contact", "mailto:ops@example.org"]);
    says(
        &ran,
        0,
        "A certificate for every node's name is ordered at https://localhost:1/dir.",
    );
    says(
        &ran,
        0,
        "Each name must lead to a node that has [acme] listen on port 80",
    );
    let begun = std::time::Instant::now();
    // Nobody is there.
    let ran = loop {
        let ran = acme(&["show"]);
        if text(&ran.stderr).contains("failed: ") {
            break ran;
        }
        assert!(begun.elapsed().as_secs() < 60, "{ran:?}");
        std::thread::sleep(std::time::Duration::from_millis(200));
    };
    says(&ran, 0, "after 1 order that failed");
    says(&ran, 0, "https://localhost:1/dir: ");
    says(&ran, 0, "The certificate before stays in force.");
    let ran = acme(&["show", "--json"]);
    says(&ran, 0, "\"schema\":\"holdfast.cluster-acme/v1\"");
    says(&ran, 0, "\"certificate\":null");
    says(&ran, 0, "\"tries\":1");
    says(&acme(&["stop", "--dry-run"]), 0, "Nothing was changed.");
    let ran = acme(&["stop"]);
    says(&ran, 0, "account, certificate and key are forgotten.");
    says(&ran, 0, "self-signed certificates from now on");
    let ran = node.run(&["audit"]);
    says(
        &ran,
        0,
        "certificates for SMTP are ordered at https://localhost:1/dir",
    );
    says(&ran, 0, "certificates for SMTP are ordered no more");
}

#[test]
fn the_authority_of_a_cluster_of_one_is_replaced_in_three_steps() {
    let node = Alone::start("rotate");
    let rotate = |options: &[&str]| node.run(&[&["cluster", "rotate-ca"], options].concat());
    says(
        &rotate(&["--finish"]),
        5,
        "no rotation of the certificate authority is under way",
    );
    says(&rotate(&["--dry-run"]), 0, "All nodes answer.");
    let ran = rotate(&[]);
    says(&ran, 0, "End it with: holdfast cluster rotate-ca --finish");
    says(&ran, 0, "Both certificate authorities are trusted.");
    says(
        &node.run(&["status"]),
        0,
        "every node has moved. End it with",
    );
    let ran = rotate(&["--finish", "--json"]);
    says(&ran, 0, "\"finished\":true");
    says(&ran, 0, "Invitations from before the rotation are void.");
    let ran = node.run(&["status", "--json"]);
    says(&ran, 0, "\"rotation\":null");
    says(&ran, 0, "\"certificate_ends_at\":\"2");
}

#[test]
fn a_package_gets_a_page_for_each_command_and_a_completion_for_each_shell() {
    let folder = folder("generate");
    let ran = holdfast(&["generate", folder.to_str().expect("a path")]);
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
    for file in [
        "man/holdfast.1",
        "man/holdfast-cluster-leave.1",
        "man/holdfast-doctor.1",
        "completions/holdfast.bash",
        "completions/holdfast.fish",
        "completions/_holdfast",
    ] {
        let page = std::fs::read_to_string(folder.join(file)).expect(file);
        assert!(page.contains("holdfast"), "{file}");
    }
}
