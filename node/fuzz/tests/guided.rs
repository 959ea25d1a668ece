//! The guided fuzzer is a workspace of its own, which no other build looks at.

use std::fs;
use std::path::Path;

/// `ops/fuzz` builds with its own lock file, which `--locked` refuses to amend.
#[test]
fn the_lock_file_of_the_guided_fuzzer_knows_every_dependency() {
    let node = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let lock = fs::read_to_string(node.join("fuzz/guided/Cargo.lock")).unwrap();
    let mut seen = 0;
    for folder in ["fuzz", "ledger", "mail", "smtp", "../proto"] {
        let manifest = fs::read_to_string(node.join(folder).join("Cargo.toml")).unwrap();
        let name = folder.trim_start_matches("../");
        let locked = section(&lock, &format!("name = \"holdfast-{name}\""), "[[package]]");
        for line in section(&manifest, "[dependencies]", "\n[").lines() {
            let Some((dependency, _)) = line.split_once(['.', ' ', '=']) else {
                continue;
            };
            let known = locked.contains(&format!(" \"{dependency}\""))
                || locked.contains(&format!(" \"{dependency} "));
            assert!(
                known,
                "holdfast-{name} needs {dependency}: run cargo update -w there"
            );
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}

/// Behind `begin`, up to `end`.
fn section<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let (_, behind) = text
        .split_once(begin)
        .unwrap_or_else(|| panic!("no {begin}"));
    behind.split(end).next().unwrap_or_default()
}
