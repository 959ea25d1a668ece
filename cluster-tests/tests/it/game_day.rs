//! A game day: everything that an operator does, and what happens to clusters, one after the other
//! between three regions, with senders at it all the time.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use holdfast_cluster_tests::harness::{Quality, Run, in_its_own_world, node_binary, wait_for};
use holdfast_cluster_tests::history::{Event, Fault, Recorder};
use holdfast_cluster_tests::partition::SHAPES;

use crate::{ALWAYS_TRIED, alone, is_left_to_soak};

const RECOVERY_TIME_MAX: Duration = Duration::from_secs(60);

/// Between regions of one continent, and one across the sea.
const WAN: Quality = Quality {
    delay: Duration::from_millis(30),
    jitter: Duration::from_millis(10),
    loss_one_in: 500,
    bytes_per_second: 8 << 20,
};

/// The longest time without an acknowledged message that what an operator plans may cost: far above what
/// it does on lines like these, and below what a sender notices.
const PLANNED_GAP_MAX: Duration = Duration::from_secs(10);

/// Where the last table is kept.
const TABLE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/game_day.txt");

/// How long no message was acknowledged, event by event. Told when dropped, so that a step that fails is
/// seen beside those before it.
struct Gaps {
    recorder: Arc<Recorder>,
    table: Vec<(&'static str, Duration, Duration)>,
    under_way: Option<&'static str>,
}

impl Gaps {
    /// Plays `event` and measures, until mail has flowed again for a while.
    fn during(&mut self, run: &mut Run, name: &'static str, event: impl FnOnce(&mut Run)) {
        run.recorder.note(name.to_owned());
        self.under_way = Some(name);
        let over = Arc::new(AtomicBool::new(false));
        let watching = thread::spawn({
            let (over, recorder) = (over.clone(), self.recorder.clone());
            move || longest_gap(&recorder, &over)
        });
        let begun = Instant::now();
        event(run);
        let took = begun.elapsed();
        run.wait_for_acknowledged(10);
        over.store(true, Ordering::Relaxed);
        let gap = watching.join().expect("a measurement");
        self.table.push((name, took, gap));
        self.under_way = None;
    }

    /// The same for what is done on purpose and in order.
    fn during_planned(&mut self, run: &mut Run, name: &'static str, event: impl FnOnce(&mut Run)) {
        self.during(run, name, event);
        let gap = self.table.last().map_or(Duration::ZERO, |(.., gap)| *gap);
        assert!(
            gap < PLANNED_GAP_MAX,
            "{name}: nothing was accepted for {gap:?}"
        );
    }
}

impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<32} {:>8} {:>12}", "EVENT", "TOOK", "ACCEPT GAP")?;
        for (name, took, gap) in &self.table {
            let (took, gap) = (took.as_secs_f64(), gap.as_secs_f64());
            writeln!(f, "{name:<32} {took:>6.1} s {gap:>10.1} s")?;
        }
        match self.under_way {
            Some(name) => writeln!(f, "{name:<32} did not end"),
            None => Ok(()),
        }
    }
}

impl Drop for Gaps {
    fn drop(&mut self) {
        eprint!("{self}");
        if let Err(error) = fs::write(TABLE, self.to_string()) {
            eprintln!("{TABLE} could not be written: {error}");
        }
    }
}

fn longest_gap(recorder: &Recorder, over: &AtomicBool) -> Duration {
    let (mut last, mut since, mut longest) =
        (recorder.acknowledged(), Instant::now(), Duration::ZERO);
    while !over.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(5));
        let now = recorder.acknowledged();
        if now != last {
            longest = longest.max(since.elapsed());
            (last, since) = (now, Instant::now());
        }
    }
    longest
}

fn other_than(run: &Run, name: &str) -> String {
    let alive = run.sandbox.alive().into_iter();
    alive
        .into_iter()
        .find(|other| other != name)
        .expect("another node")
}

/// The feature level before this version's.
const LEVEL_BEFORE: u32 = 3;

/// As the manual says it: drained, stopped, started as the new version, put back.
fn upgrade(run: &mut Run, name: &str) {
    let other = other_than(run, name);
    run.began(Fault::Kill, &[name.to_owned()]);
    run.sandbox.must(&other, &["node", "drain", name]);
    run.sandbox.kill(name);
    run.sandbox.set_level(name, None);
    run.restart(name);
    run.sandbox.wait_until_healthy(RECOVERY_TIME_MAX);
    run.sandbox.must(&other, &["node", "undrain", name]);
}

fn leader_last(run: &Run) -> Vec<String> {
    let leader = run.leader();
    let mut names = run.sandbox.alive();
    names.sort_by_key(|name| *name == leader);
    names
}

const RESTORE: &str = "all nodes lost, a copy restored";

/// Everybody is lost but what a copy holds. Nobody sends meanwhile: what is acknowledged after a copy is
/// not in it.
fn restore(run: &mut Run, gaps: &mut Gaps) {
    run.primaries_go_down();
    run.wait_for_acknowledged(50);
    run.stop_sending();
    let folder = run.sandbox.folder().expect("a folder").to_owned();
    let copy = folder.join("copy");
    let copy = copy.to_str().expect("a path");
    let survivor = run.sandbox.alive().remove(0);
    run.sandbox.must(&survivor, &["snapshot", "save", copy]);
    let begun = Instant::now();
    let names = run.sandbox.alive();
    for name in &names {
        run.lose(name);
        let data = &run.sandbox.node(name).data_dir;
        fs::remove_dir_all(data).expect("the disk is lost");
    }
    run.recorder.record(Event::Founded);
    let restored = Command::new(node_binary())
        .args(["snapshot", "restore", copy, "--deliver", "--config"])
        .arg(&run.sandbox.node(&survivor).config)
        .output()
        .expect("the binary runs");
    assert!(restored.status.success(), "{restored:?}");
    for name in &names {
        run.restart(name);
        wait_for("an answer", RECOVERY_TIME_MAX, || {
            run.sandbox.status_of(name).map(drop)
        });
        if *name != survivor {
            run.sandbox.join(name, &survivor);
        }
        run.ended(Fault::Replaced, std::slice::from_ref(name));
    }
    run.sandbox.wait_until_healthy(RECOVERY_TIME_MAX);
    let took = begun.elapsed();
    gaps.table.push((RESTORE, took, took));
    gaps.under_way = None;
    run.primaries_come_up();
}

/// Long enough for an election over such lines.
fn drill(run: &Run, kind: &str) {
    let command = ["drill", "run", "--kind", kind, "--duration", "12s"];
    let done = run.sandbox.must("n1", &command);
    assert_eq!(done["state"], "passed", "{done}");
    assert_eq!(done["report"]["lost"], 0, "{done}");
}

#[test]
fn a_game_day_loses_no_mail() {
    if is_left_to_soak(3) {
        return;
    }
    let _alone = alone();
    in_its_own_world(|| {
        let mut run = Run::over_relays_of_level(3, "regional", LEVEL_BEFORE);
        run.set_quality(WAN);
        run.watch();
        run.send(8);
        run.wait_for_acknowledged(20);
        run.primaries_come_up();
        let mut gaps = Gaps {
            recorder: Arc::clone(&run.recorder),
            table: Vec::new(),
            under_way: None,
        };
        gaps.during(&mut run, "nothing", |_| {
            thread::sleep(Duration::from_secs(3))
        });
        gaps.during_planned(&mut run, "transfer-leader", |run| {
            let leader = run.leader();
            let other = other_than(run, &leader);
            run.sandbox
                .must(&leader, &["cluster", "transfer-leader", &other]);
        });
        for name in ["n1", "n2", "n3"] {
            gaps.during_planned(&mut run, "drain, upgrade, undrain", |run| {
                upgrade(run, name)
            });
        }
        gaps.during_planned(&mut run, "finalize-upgrade", |run| {
            run.sandbox.must("n1", &["cluster", "finalize-upgrade"]);
        });
        for name in leader_last(&run) {
            gaps.during_planned(&mut run, "SIGTERM, start", |run| {
                run.began(Fault::Kill, std::slice::from_ref(&name));
                run.sandbox.terminate(&name);
                run.restart(&name);
                run.sandbox.wait_until_healthy(RECOVERY_TIME_MAX);
            });
        }
        gaps.during_planned(&mut run, "join", |run| {
            run.began(Fault::Membership, &["n4".to_owned()]);
            run.add_next_machine();
            run.sandbox.wait_until_healthy(RECOVERY_TIME_MAX);
            run.ended(Fault::Membership, &["n4".to_owned()]);
        });
        gaps.during_planned(&mut run, "leave", |run| {
            run.began(Fault::Membership, &["n4".to_owned()]);
            run.sandbox.must("n1", &["cluster", "leave", "n4"]);
            run.forget("n4");
            run.sandbox.wait_until_healthy(RECOVERY_TIME_MAX);
            run.ended(Fault::Membership, &["n4".to_owned()]);
        });
        for (name, kind) in [
            ("drill: leader-loss", "leader-loss"),
            ("drill: node-loss", "node-loss"),
            ("drill: region-loss", "region-loss"),
            ("drill: partition", "partition"),
            ("drill: primary-outage", "primary-outage"),
            ("drill: disk-full", "disk-full"),
        ] {
            gaps.during(&mut run, name, |run| drill(run, kind));
        }
        gaps.during(&mut run, "a partition", |run| {
            let leader = run.leader();
            let shape = SHAPES
                .iter()
                .find(|shape| shape.name == "the leader is mute");
            let number = run.sandbox.machine(&leader).number;
            let links = shape.expect("a shape of that name").links(number);
            run.cut(&links);
            run.wait_for_recovery(Fault::Partition, RECOVERY_TIME_MAX);
            run.cut(&BTreeSet::new());
            run.wait_for_recovery(Fault::Partition, RECOVERY_TIME_MAX);
        });
        gaps.during(&mut run, "kill -9 of the leader", |run| {
            let leader = run.leader();
            run.kill(&leader);
            run.wait_for_recovery(Fault::Kill, RECOVERY_TIME_MAX);
            run.restart(&leader);
            run.sandbox.wait_until_healthy(RECOVERY_TIME_MAX);
        });
        gaps.during(&mut run, "a node lost and replaced", |run| {
            let lost = run.leader();
            run.lose(&lost);
            run.wait_for_recovery(Fault::Replaced, RECOVERY_TIME_MAX);
            let new = run.add_next_machine();
            let other = other_than(run, &lost);
            run.sandbox
                .must(&other, &["node", "replace", &lost, "--with", &new]);
            run.forget(&lost);
            run.sandbox.wait_until_healthy(RECOVERY_TIME_MAX);
            run.ended(Fault::Replaced, &[lost]);
        });
        run.set_quality(Quality::default());
        gaps.under_way = Some(RESTORE);
        restore(&mut run, &mut gaps);
        run.stop_sending();
        run.drain();
        run.judge(&[ALWAYS_TRIED, &["replicas disagree"]].concat());
    });
}
