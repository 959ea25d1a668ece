//! Real nodes under real kills, each test with three of its own. Tests that mostly wait run beside each
//! other, and those that want the machine run alone.

mod acme;
mod bounces;
mod certificates;
mod clocks;
mod disks;
mod drills;
mod failpoints;
mod floods;
mod game_day;
mod kills;
mod maintenance;
mod members;
mod partitions;
mod power;
mod primaries;
mod quorum;
mod quotas;
mod recovery;
mod rot;
mod runbooks;
mod snapshots;
mod storm;
mod strangers;
mod syncs;
mod upgrade;
mod verdicts;

use std::time::Duration;

use holdfast_cluster_tests::harness::{alone, beside_others};

/// The soak says how long faults go on.
const SECONDS_VARIABLE: &str = "HOLDFAST_TEST_SECONDS";

fn is_soak() -> bool {
    std::env::var_os(SECONDS_VARIABLE).is_some()
}

/// True, and says so, where a test that takes `minutes` is not run because this is not the soak.
fn is_left_to_soak(minutes: u32) -> bool {
    if !is_soak() {
        eprintln!("NOT RUN: it takes {minutes} minutes, so only ops/soak runs it");
    }
    !is_soak()
}

/// How long faults go on in a test: `seconds`, or what the soak asks for.
fn test_time(seconds: u64) -> Duration {
    let asked = std::env::var(SECONDS_VARIABLE);
    Duration::from_secs(asked.map_or(seconds, |text| {
        text.parse().expect("HOLDFAST_TEST_SECONDS is a number")
    }))
}

/// The rules that every run with mail tries.
const ALWAYS_TRIED: &[&str] = &[
    "acknowledged mail lost",
    "unexpected mail",
    "bytes changed",
    "envelope changed",
    "delivered to someone else",
    "refused for good",
    "duplicates",
];
