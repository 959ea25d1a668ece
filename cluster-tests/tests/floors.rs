//! The house stands: nothing imports upward or sideways, and each heavy dependency has one room.
//!
//! `node/ARCHITECTURE.md` says why. This reads the sources as text, with comments, strings and
//! unit tests taken out, so that it needs nothing built.

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms of `node/src` from the bottom up. A room imports only from floors below its own.
const FLOORS: &[&[&str]] = &[
    &["public", "span"],
    &["config", "failpoint", "guests", "recent", "world"],
    &["store", "net", "history"],
    // Serves its numbers over a listener of `net`.
    &["observe"],
    &["replica", "talk"],
    &["certificate_files", "cast"],
    &["person"],
    &["dial", "rank", "attendance", "switchboard"],
    &["destination"],
    &["release", "reach", "sts"],
    &[
        "listing",
        "recipients",
        "accounts",
        "explain",
        "checkup",
        "vitals",
        "zone",
    ],
    &[
        "intake", "courier", "watch", "finger", "ondemand", "portal", "drill", "acme",
    ],
    // Tells what others have found and plan.
    &["admin"],
    &["run"],
];

/// Names that only some folders may use, and why.
const KEPT_TO: &[(&str, &[&str], &str)] = &[
    (
        "rocksdb",
        &["node/src/store"],
        "one room knows how things lie on disk",
    ),
    (
        "openraft",
        &["node/src/replica"],
        "its types change with every release",
    ),
    ("rustls", &["node/src/net"], "one place decides about TLS"),
    (
        "rustls_pki_types",
        &["node/src/net"],
        "one place decides about TLS",
    ),
    // `talk` names the stream that `net` hands it; it makes no handshake.
    (
        "tokio_rustls",
        &["node/src/net", "node/src/talk"],
        "one place decides about TLS",
    ),
    (
        "opentelemetry",
        &["node/src/observe"],
        "one room tells of the node",
    ),
    ("rcgen", &["node/src/net"], "one place makes certificates"),
    (
        "x509_parser",
        &["node/src/net"],
        "one place reads certificates",
    ),
    (
        "hickory_resolver",
        &["node/src/net"],
        "one place asks the DNS",
    ),
    (
        "socket2",
        &["node/src/net"],
        "one place sets socket options",
    ),
    (
        "TcpListener",
        &["node/src/net", "ops", "cluster-tests"],
        "one place opens sockets",
    ),
    (
        "TcpSocket",
        &["node/src/net", "ops", "cluster-tests"],
        "one place opens sockets",
    ),
    (
        "UdpSocket",
        &["node/src/net", "ops", "cluster-tests"],
        "one place opens sockets",
    ),
    (
        "UnixListener",
        &["node/src/net", "ops", "cluster-tests"],
        "one place opens sockets",
    ),
    ("lookup_host", &["node/src/net"], "one place asks the DNS"),
    // The type may be carried from `net` to where a session meets a stream.
    (
        "TcpStream",
        &[
            "node/src/net",
            "node/src/talk",
            "node/src/intake",
            "node/src/ondemand.rs",
            "ops",
            "cluster-tests",
        ],
        "one place opens sockets",
    ),
    (
        "TcpStream::connect",
        &["node/src/net", "ops", "cluster-tests"],
        "one place opens sockets",
    ),
];

/// Crates whose values come from their arguments alone, and the crates each may stand on.
const PURE: &[(&str, &[&str])] = &[
    ("node/mail", &["thiserror"]),
    (
        "node/smtp",
        &["holdfast-mail", "base64", "memchr", "thiserror"],
    ),
    (
        "node/ledger",
        &["holdfast-mail", "holdfast-proto", "prost", "thiserror"],
    ),
];

/// What a pure crate never names: tasks, clocks, randomness, and the machine.
const WORLD: &[&str] = &[
    "tokio",
    "futures",
    "Instant",
    "SystemTime",
    "rand",
    "getrandom",
    "RandomState",
    "std::fs",
    "std::thread",
    "std::env",
    "std::process",
    "TcpStream",
    "UdpSocket",
    "println",
    "eprintln",
];

#[test]
fn no_room_imports_upward_or_sideways() {
    let mut faults = Vec::new();
    let sources = sources("node/src");
    assert!(sources.len() > 10, "the rooms are found");
    for (path, text) in &sources {
        let room = room_of(path);
        if room != "lib" {
            faults.extend(
                wrong_imports(&room, text)
                    .into_iter()
                    .map(|fault| format!("{path}: {fault}")),
            );
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn each_heavy_dependency_has_one_room() {
    let mut faults = Vec::new();
    let sources = ["node", "ops", "cluster-tests", "proto"]
        .iter()
        .flat_map(|root| sources(root));
    for (path, text) in sources {
        faults.extend(misplaced(&path, &text));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_pure_crates_name_no_clock_task_chance_or_machine() {
    let mut faults = Vec::new();
    for (root, allowed) in PURE {
        let sources = sources(&format!("{root}/src"));
        assert!(!sources.is_empty(), "{root} is found");
        for (path, text) in sources {
            // Its switch is not compiled into a build that is used.
            if path == "node/mail/src/mutant.rs" {
                continue;
            }
            for name in WORLD.iter().filter(|name| names(&text, name)) {
                faults.push(format!("{path} names {name}"));
            }
        }
        for dependency in dependencies(&read(&repository().join(root).join("Cargo.toml"))) {
            if !allowed.contains(&dependency.as_str()) {
                faults.push(format!("{root} depends on {dependency}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_cluster_tests_do_not_link_the_product() {
    let manifest = read(&repository().join("cluster-tests/Cargo.toml"));
    let linked: Vec<_> = dependencies(&manifest)
        .into_iter()
        .filter(|name| name.starts_with("holdfast"))
        .collect();
    assert!(linked.is_empty(), "{linked:?}");
}

#[test]
fn no_field_of_a_log_line_is_called_as_its_sentence_is() {
    let mut faults = Vec::new();
    for (path, text) in ["node", "ops"].iter().flat_map(|root| sources(root)) {
        if hides_its_sentence(&text) {
            faults.push(format!(
                "{path}: a field `message` hides the sentence in logs as JSON: call it msg"
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_rules_catch_what_they_are_for() {
    for (room, text) in [
        ("store", "use crate::replica::Cluster;"),
        ("store", "use crate::net::tls;"),
        ("intake", "use crate::courier;"),
        ("talk", "fn f() { crate::replica::start() }"),
        ("admin", "use crate::run::serve;"),
        ("courier", "use crate::{net, intake::Options};"),
        ("courier", "use crate::nowhere;"),
    ] {
        assert!(
            !wrong_imports(room, &code(text)).is_empty(),
            "{room}: {text}"
        );
    }
    for (room, text) in [
        (
            "replica",
            "use crate::store::Store; use crate::config::Config;",
        ),
        (
            "courier",
            "use crate::{net::dns, replica::{Cluster, View}};",
        ),
        (
            "intake",
            "use crate::intake::guests; // unlike crate::courier",
        ),
        ("intake", "#[cfg(test)]\nmod tests { use crate::courier; }"),
    ] {
        let faults = wrong_imports(room, &code(text));
        assert!(faults.is_empty(), "{room}: {text}: {faults:?}");
    }
    for (path, text) in [
        ("node/src/replica/a.rs", "use rocksdb::DB;"),
        (
            "node/src/run.rs",
            "let s = tokio::net::TcpStream::connect(a);",
        ),
        ("node/src/intake/a.rs", "TcpStream::connect(a)"),
        ("ops/src/a.rs", "use openraft::Raft;"),
        ("node/src/store_helper/a.rs", "use rocksdb::DB;"),
    ] {
        assert!(!misplaced(path, &code(text)).is_empty(), "{path}: {text}");
    }
    for (path, text) in [
        (
            "node/src/observe/mod.rs",
            "let quiet = \"openraft=warn\"; // rocksdb",
        ),
        ("node/src/store/state.rs", "use rocksdb::DB;"),
        ("node/src/intake/a.rs", "fn f(stream: TcpStream) {}"),
    ] {
        assert_eq!(misplaced(path, &code(text)), [""; 0], "{path}: {text}");
    }
    assert!(hides_its_sentence("tracing::info!(%message, reply);"));
    assert!(!hides_its_sentence(
        "tracing::info!(msg = %message, reply);"
    ));
    assert!(names("let t = std::time::Instant::now();", "Instant"));
    assert!(!names("let operand = 1;", "rand"));
}

fn wrong_imports(room: &str, code: &str) -> Vec<String> {
    let Some(own) = floor(room) else {
        return vec![format!("the room {room} has no floor: add it to FLOORS")];
    };
    imported_rooms(code)
        .into_iter()
        .filter(|other| other != room && floor(other).is_none_or(|floor| floor >= own))
        .map(|other| format!("{room} imports {other}"))
        .collect()
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&room))
}

/// The first words of `crate::word` and `crate::{word, word::{…}, …}`.
fn imported_rooms(code: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for (at, found) in code.match_indices("crate::") {
        if code[..at].ends_with(is_word) {
            continue;
        }
        let rest = &code[at + found.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            rooms.push(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut expected = true;
        for (at, letter) in group.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => expected = true,
                letter if expected && is_word(letter) => {
                    rooms.push(word(&group[at..]));
                    expected = false;
                }
                _ => {}
            }
        }
    }
    // Items of lib.rs itself, were there any, begin with a capital.
    rooms.retain(|room| room.starts_with(|letter: char| letter.is_ascii_lowercase()));
    rooms
}

fn misplaced(path: &str, code: &str) -> Vec<String> {
    KEPT_TO
        .iter()
        .filter(|(name, folders, _)| {
            names(code, name)
                && !folders
                    .iter()
                    .any(|folder| Path::new(path).starts_with(folder))
        })
        .map(|(name, folders, why)| {
            format!("{path} names {name}, kept to {}: {why}", folders.join(", "))
        })
        .collect()
}

/// Whether a field of a log line takes the name of a variable `message`.
fn hides_its_sentence(code: &str) -> bool {
    ["%message", "?message"].iter().any(|field| {
        code.match_indices(field)
            .any(|(at, _)| code[..at].trim_end().ends_with(['(', ',']))
    })
}

/// Whether `code` has `name` as whole words.
fn names(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        !code[..at].ends_with(is_word) && !code[at + name.len()..].starts_with(is_word)
    })
}

fn is_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

fn word(text: &str) -> String {
    text.chars().take_while(|letter| is_word(*letter)).collect()
}

/// The names under `[dependencies]` of a manifest.
fn dependencies(manifest: &str) -> Vec<String> {
    manifest
        .lines()
        .skip_while(|line| line.trim() != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', '=', ' ']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

fn room_of(path: &str) -> String {
    let rest = path.strip_prefix("node/src/").unwrap_or(path);
    rest.split(['/', '.']).next().unwrap_or_default().to_owned()
}

/// The code of every Rust file below a folder of the repository, with its path there.
fn sources(root: &str) -> Vec<(String, String)> {
    let repository = repository();
    let mut folders = vec![repository.join(root)];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                // Tests may reach for anything.
                if !["tests", "target", "benches"].contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if name.ends_with(".rs") && name != "tests.rs" && name != "build.rs" {
                let shown = path
                    .strip_prefix(&repository)
                    .unwrap_or(&path)
                    .to_string_lossy()
                    .into_owned();
                sources.push((shown, code(&read(&path))));
            }
        }
    }
    sources.sort();
    sources
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .expect("the repository")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// `text` without comments, strings and the unit tests at its end.
fn code(text: &str) -> String {
    let text = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default();
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = raw_string(rest) {
            length
        } else if letter == '"' {
            quoted(rest)
        } else if rest.starts_with("'\"'") {
            3
        } else if rest.starts_with("'\\\"'") {
            4
        } else {
            code.push(letter);
            letter.len_utf8()
        };
        rest = &rest[length..];
    }
    code
}

/// The length of the string literal that `text` begins with.
fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the raw string literal that `text` begins with, if it does.
fn raw_string(text: &str) -> Option<usize> {
    let marks = text.strip_prefix('r')?;
    let hashes = marks.bytes().take_while(|byte| *byte == b'#').count();
    let body = marks[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(
        body.find(&end)
            .map_or(text.len(), |at| 2 + hashes + at + end.len()),
    )
}
