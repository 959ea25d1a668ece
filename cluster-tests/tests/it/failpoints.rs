//! Nodes die at each step between the socket and the record of a delivery, by a kill and by a
//! power cut, and nothing acknowledged is lost.

use std::path::PathBuf;
use std::time::Duration;

use holdfast_cluster_tests::harness::{DISK_BYTES, Run, in_its_own_world, wait_for};
use holdfast_cluster_tests::history::Fault;
use holdfast_cluster_tests::random::Random;

use crate::{ALWAYS_TRIED, alone};

/// A binary that can halt at a step: one built with the feature `holdfast-node/failpoints`.
const BINARY_VARIABLE: &str = "HOLDFAST_FAILPOINTS_BIN";

/// The steps, in the order of a message, each with how often at most it is passed before: some are
/// passed while a node starts, and a node should do some work first.
const STEPS: [(&str, u64); 13] = [
    ("content-received", 30),
    ("body-stored", 30),
    ("entry-written", 60),
    ("before-sync", 60),
    ("synced", 60),
    ("before-send", 60),
    ("append-received", 60),
    ("before-apply", 60),
    ("applied", 60),
    ("before-reply", 30),
    ("before-delivery", 30),
    ("delivered", 30),
    ("recorded", 10),
];
/// Passed at elections only.
const VOTE: (&str, u64) = ("vote-written", 0);

const HALT_TIME_MAX: Duration = Duration::from_secs(60);
const HEAL_TIME_MAX: Duration = Duration::from_secs(60);

#[test]
fn nodes_that_die_at_any_step_lose_nothing() {
    let _alone = alone();
    let Some(binary) = std::env::var_os(BINARY_VARIABLE).map(PathBuf::from) else {
        eprintln!("NOT RUN: {BINARY_VARIABLE} names no binary with failpoints");
        return;
    };
    in_its_own_world(|| {
        let mut run = Run::on_machines(3, 3 * DISK_BYTES);
        let mut random = Random::new(run.seed);
        run.primaries_come_up();
        run.send(4);
        run.wait_for_acknowledged(10);
        for fault in [Fault::Kill, Fault::PowerCut] {
            for (step, most) in STEPS.into_iter().chain([VOTE]) {
                let names = run.sandbox.names();
                // All are armed: only some lead or deliver. The first that comes to the step halts.
                for name in &names {
                    run.kill(name);
                }
                for name in &names {
                    let failpoint = format!("{step}*{}", random.between(0, most));
                    run.restart_as(name, &binary, &[("HOLDFAST_FAILPOINT", failpoint)]);
                }
                wait_for(&format!("a node at {step}"), HALT_TIME_MAX, || {
                    names
                        .iter()
                        .any(|name| run.sandbox.is_halted(name))
                        .then_some(())
                });
                run.recorder
                    .note(format!("halted at {step}, then {fault:?}"));
                let is_halted = |name: &&String| run.sandbox.is_halted(name);
                let halted: Vec<String> = names.iter().filter(is_halted).cloned().collect();
                match fault {
                    Fault::PowerCut => run.cut_power(&halted),
                    _ => halted.iter().for_each(|name| run.kill(name)),
                }
                // The others may halt at any moment.
                for name in &names {
                    if !halted.contains(name) {
                        run.kill(name);
                    }
                }
                run.restart_all(&names);
                run.wait_for_recovery(fault, HEAL_TIME_MAX);
            }
        }
        run.sandbox.wait_until_healthy(HEAL_TIME_MAX);
        run.stop_sending();
        run.drain();
        run.judge(
            &[
                ALWAYS_TRIED,
                &["acknowledged before the sync", "replicas disagree"],
            ]
            .concat(),
        );
    });
}
