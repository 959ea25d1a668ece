//! Deliberate bugs, to prove that the tests would notice them.
//!
//! All share one switch, so that one build has them all: with the feature `mutants` a process has
//! the bug that the environment variable `HOLDFAST_MUTANT` names. Without it the answer is a
//! constant, and nothing of them is left. `cluster-tests/mutants.txt` lists them; `ops/mutants`
//! runs them.

/// Whether this process has the bug `name`.
#[cfg(not(feature = "mutants"))]
#[must_use]
#[inline(always)]
pub const fn mutant(_name: &str) -> bool {
    false
}

/// Whether this process has the bug `name`.
#[cfg(feature = "mutants")]
#[must_use]
pub fn mutant(name: &str) -> bool {
    static CHOSEN: std::sync::LazyLock<Option<String>> =
        std::sync::LazyLock::new(|| std::env::var("HOLDFAST_MUTANT").ok());
    CHOSEN.as_deref() == Some(name)
}
