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
