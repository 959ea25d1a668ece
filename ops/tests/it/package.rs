//! What the package ships beside the binary. Nothing is built here: `ops/package-check` looks at one that
//! was.

use std::fs;
use std::process::{Command, Output};

use crate::alone::{folder, read, repository, text};

/// What a tool of systemd says of our files, where it is installed.
fn ask(tool: &str, arguments: &[&str]) -> Option<Output> {
    let ran = Command::new(tool).args(arguments).output();
    if ran.is_err() {
        eprintln!("NOT RUN: {tool} is not installed");
    }
    ran.ok()
}

#[test]
fn the_units_are_sound_and_their_sandbox_is_tight() {
    let folder = folder("units");
    let mut units = Vec::new();
    for entry in fs::read_dir(repository().join("ops/systemd")).expect("units") {
        let path = entry.expect("it").path();
        let name = path.file_name().expect("a name").to_str().expect("text");
        if name.ends_with(".service") || name.ends_with(".socket") {
            let unit = fs::read_to_string(&path).expect("a unit");
            // Here it is not installed.
            let unit = unit.replace("/usr/bin/holdfast", env!("CARGO_BIN_EXE_holdfast"));
            let copy = folder.join(name);
            fs::write(&copy, unit).expect("written");
            units.push(copy.to_str().expect("a path").to_owned());
        }
    }
    assert_eq!(units.len(), 8);
    let names: Vec<&str> = units.iter().map(String::as_str).collect();
    let verify = [&["verify", "--man=no"], &names[..]].concat();
    let Some(ran) = ask("systemd-analyze", &verify) else {
        return;
    };
    // It only warns of a setting that it does not know.
    assert_eq!(text(&ran.stderr), "");
    assert!(ran.status.success());
    let service = folder.join("holdfast.service");
    let service = service.to_str().expect("a path");
    let tight = ["security", "--offline=true", "--threshold=15", service];
    let ran = ask("systemd-analyze", &tight).expect("it was there");
    assert!(ran.status.success(), "{}", text(&ran.stdout));
}

#[test]
fn the_user_and_the_folders_are_such_as_systemd_makes() {
    let users = repository().join("ops/systemd/holdfast.users");
    let users = users.to_str().expect("a path");
    if let Some(ran) = ask("systemd-sysusers", &["--dry-run", users]) {
        assert!(ran.status.success(), "{}", text(&ran.stderr));
    }
    // The folders' user is made before them, whatever the tool that builds the package adds.
    let script = read("ops/debian/postinst");
    let user = script.find("systemd-sysusers holdfast.conf").expect("it");
    let added = script.find("#DEBHELPER#").expect("it");
    let folders = script.find("systemd-tmpfiles --create").expect("it");
    assert!(user < added && added < folders, "{script}");
}

#[test]
fn every_file_of_the_package_is_there_and_is_looked_for_in_what_was_built() {
    let manifest = read("ops/Cargo.toml");
    let assets = manifest.split("\nassets = [\n").nth(1).expect("assets");
    let check = read("ops/package-check");
    let mut files = 0;
    for line in assets
        .lines()
        .map(str::trim)
        .take_while(|line| *line != "]")
    {
        let words: Vec<&str> = line.split('"').collect();
        let [_, from, _, to, _, _, _] = words[..] else {
            assert!(line.starts_with('#'), "{line}");
            continue;
        };
        files += 1;
        // The others are made when it is built.
        if !from.contains("target/") && !from.contains('*') {
            assert!(repository().join("ops").join(from).is_file(), "{from}");
        }
        let name = from.rsplit('/').next().unwrap_or_default();
        let to = match (to.ends_with('/'), name.contains('*')) {
            (true, false) => format!("{to}{name}"),
            _ => to.to_owned(),
        };
        assert!(
            check.contains(&format!(" {to}")),
            "ops/package-check does not look for {to}"
        );
    }
    assert!(files > 15, "{files}");
}
