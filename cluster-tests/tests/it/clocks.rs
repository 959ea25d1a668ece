//! Clocks jump, and no mail ends before its time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use holdfast_cluster_tests::harness::{DISK_BYTES, Run, in_its_own_world, node_binary};
use holdfast_cluster_tests::history::Fault;
use holdfast_cluster_tests::random::Random;

use crate::{ALWAYS_TRIED, alone, is_soak};

/// Debian's libfaketime, the variant for programs with threads.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
/// Set while it runs, as an operator or a time service would: by an hour, by ten years.
const JUMPS: [&str; 4] = ["+1h", "-1h", "+10y", "-10y"];
const RIGHT: &str = "+0";
/// For a node to notice: the library reads its file once a second.
const NOTICE_TIME: Duration = Duration::from_secs(4);
const HEAL_TIME_MAX: Duration = Duration::from_secs(60);

#[test]
fn a_clock_that_jumps_ends_no_mail_early() {
    let _alone = alone();
    if !Path::new(LIBRARY).exists() {
        eprintln!("NOT RUN: libfaketime is not installed");
        return;
    }
    if !starts_with_library() {
        eprintln!("NOT RUN: a node with an allocator of its own hangs under libfaketime");
        return;
    }
    in_its_own_world(|| {
        let mut run = Run::on_machines(3, DISK_BYTES);
        let mut random = Random::new(run.seed);
        let folder = run
            .sandbox
            .folder()
            .expect("the sandbox's folder")
            .to_owned();
        let clock = |name: &str| folder.join(format!("{name}.clock"));
        for name in run.sandbox.names() {
            set(&clock(&name), RIGHT);
            run.kill(&name);
            let environment = [
                ("LD_PRELOAD", LIBRARY.to_owned()),
                (
                    "FAKETIME_TIMESTAMP_FILE",
                    clock(&name).display().to_string(),
                ),
                ("FAKETIME_CACHE_DURATION", "1".to_owned()),
                // A jump is the wall clock's alone.
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
                ("DONT_FAKE_MONOTONIC", "1".to_owned()),
            ];
            run.restart_as(&name, &node_binary(), &environment);
            run.sandbox.wait_until_healthy(HEAL_TIME_MAX);
        }
        // Held for its five days: a jump of ten years would end it all.
        run.send(4);
        run.wait_for_acknowledged(60);
        for jump in if is_soak() { &JUMPS[..] } else { &JUMPS[1..3] } {
            // The leader's, whose time is everybody's, and then another's.
            let leader = run.leader();
            let others: Vec<String> = run.sandbox.names();
            let others: Vec<&String> = others.iter().filter(|name| **name != leader).collect();
            let other = others[random.between(0, 1) as usize].clone();
            for victim in [leader, other] {
                run.began(Fault::ClockJump, std::slice::from_ref(&victim));
                run.recorder
                    .note(format!("the clock of {victim} jumps by {jump}"));
                set(&clock(&victim), jump);
                sleep(NOTICE_TIME);
                run.wait_for_recovery(Fault::ClockJump, HEAL_TIME_MAX);
                set(&clock(&victim), RIGHT);
                sleep(NOTICE_TIME);
                run.ended(Fault::ClockJump, &[victim]);
            }
        }
        run.stop_sending();
        let held = run
            .sandbox
            .status()
            .map(|status| status["held_messages"].clone());
        let acknowledged = run.recorder.acknowledged();
        assert!(
            held.and_then(|held| held.as_u64()) >= Some(acknowledged as u64),
            "mail of {acknowledged} ended early"
        );
        run.primaries_come_up();
        run.drain();
        run.judge(&[ALWAYS_TRIED, &["replicas disagree"]].concat());
    });
}

/// The library asks for memory before an allocator that asks it for the time is ready.
fn starts_with_library() -> bool {
    Command::new("timeout")
        .arg("5")
        .arg(node_binary())
        .arg("--version")
        .env("LD_PRELOAD", LIBRARY)
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|how| how.success())
}

fn set(clock: &PathBuf, to: &str) {
    // At once: the library must not read half of it.
    let fresh = clock.with_extension("new");
    fs::write(&fresh, to)
        .and_then(|()| fs::rename(&fresh, clock))
        .expect("a clock's file");
}
