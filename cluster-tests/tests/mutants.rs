//! The list of deliberate bugs and the bugs themselves are the same ones. `ops/mutants` runs them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Fewer would prove little.
const MUTANTS_MIN: usize = 15;

#[test]
fn every_mutant_in_the_sources_is_listed_with_a_test_and_the_other_way_round() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(here.join("mutants.txt")).unwrap();
    let mut listed = BTreeSet::new();
    let mut killers = BTreeSet::new();
    for line in text.lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let parts: Vec<&str> = line.split('|').map(str::trim).collect();
        let (name, kind, test) = match parts[..] {
            [name, kind, test, why] => {
                assert!(!why.is_empty(), "{line}");
                assert!(listed.insert(name.to_owned()), "{name} is explained twice");
                (name, kind, test)
            }
            [name, kind, test] => {
                assert!(listed.contains(name), "nothing says what {name} breaks");
                (name, kind, test)
            }
            _ => panic!("three or four columns are expected: {line}"),
        };
        match kind {
            "pure" | "node" | "real" => assert!(test.starts_with("-p holdfast-"), "{line}"),
            "sim" => assert!(are_seeds(test), "{line}"),
            _ => panic!("there is no such kind: {line}"),
        }
        assert!(killers.insert((name, kind)), "{name} is listed twice");
    }
    let mut found = BTreeSet::new();
    for file in sources(&here.join("../node")) {
        let text = fs::read_to_string(&file).unwrap();
        let text: String = text.split_whitespace().collect();
        for (at, call) in text.match_indices("mutant(\"") {
            let name = text[at + call.len()..].split('"').next().unwrap();
            found.insert(name.to_owned());
        }
    }
    assert_eq!(found, listed);
    assert!(found.len() >= MUTANTS_MIN);
}

/// As `17`, or `0..20`.
fn are_seeds(text: &str) -> bool {
    let (first, behind) = text.split_once("..").unwrap_or((text, "1"));
    first.parse::<u64>().is_ok() && behind.parse::<u64>().is_ok()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
        if path.is_dir() && !path.ends_with("target") {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
    found
}
