//! Plays a target on every test run: its corpus, then mutations of it.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::Random;

/// What one kind of input must never do.
#[derive(Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    /// Panics where a promise is broken.
    pub run: fn(&[u8]),
    /// Put into inputs by mutation.
    pub words: &'static [&'static [u8]],
    /// Mutated inputs of one test run.
    pub rounds: u64,
}

/// Multiplies the rounds of every target, for a machine that has time.
const TIMES: &str = "HOLDFAST_FUZZ_TIMES";
/// Another seed than that of the test suite.
const SEED: &str = "HOLDFAST_FUZZ_SEED";

/// Runs `target` on the files of `corpus/NAME` and on mutations of them, the same each time.
/// Returns how many inputs were tried.
///
/// # Panics
/// With the input, where a promise is broken.
pub fn play(target: &Target, corpus: &Path) -> u64 {
    let mut seeds = files(&corpus.join(target.name));
    assert!(!seeds.is_empty(), "{} has no corpus", target.name);
    for seed in &seeds {
        run(target, seed);
    }
    let mut tried = seeds.len() as u64;
    seeds.push(Vec::new());
    let mut random = Random::new(seed());
    for _ in 0..target.rounds * times() {
        let base = random.pick(&seeds).map_or(&[][..], Vec::as_slice).to_vec();
        let input = random.mutated(&base, &seeds, target.words);
        run(target, &input);
        tried += 1;
    }
    tried
}

fn run(target: &Target, input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
        eprintln!(
            "the target {} fails on these {} bytes; keep them in its corpus:\n{}",
            target.name,
            input.len(),
            input.escape_ascii()
        );
        std::panic::resume_unwind(panic);
    }
}

fn files(folder: &Path) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .collect()
}

/// What the chance of a test run begins with.
#[must_use]
pub fn seed() -> u64 {
    number(SEED).unwrap_or(0x5eed)
}

/// How often a test run does what it does once by default.
#[must_use]
pub fn times() -> u64 {
    number(TIMES).unwrap_or(1)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}
