//! Everything goes wrong at once, and nothing acknowledged is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::sleep;
use std::time::{Duration, Instant};

use holdfast_cluster_tests::harness::{
    DOMAINS, Mood, Newcomer, Quality, Run, in_its_own_world, wait_for,
};
use holdfast_cluster_tests::history::Fault;
use holdfast_cluster_tests::partition::Link;
use holdfast_cluster_tests::storm::{What, plan};

use crate::{ALWAYS_TRIED, alone, is_left_to_soak, test_time};

const HEAL_TIME_MAX: Duration = Duration::from_secs(120);

#[test]
fn three_nodes_survive_a_storm() {
    let _alone = alone();
    in_its_own_world(|| survive(3));
}

#[test]
fn five_nodes_survive_a_storm() {
    let _alone = alone();
    if is_left_to_soak(3) {
        return;
    }
    in_its_own_world(|| survive(5));
}

fn survive(machines: u8) {
    let mut run = Run::over_relays(machines, "lan");
    run.watch();
    // At each node more than one: those at a minority's nodes wait there.
    run.send(usize::from(machines) * 2);
    run.primaries_come_up();
    run.wait_for_acknowledged(10);
    let mut storm = Storm {
        run,
        cut: BTreeMap::new(),
        newcomers: BTreeMap::new(),
        filled: BTreeSet::new(),
    };
    storm.rage(machines);
    let mut run = storm.abate();
    wait_for("a healthy cluster", HEAL_TIME_MAX, || {
        for name in run.sandbox.names() {
            let code = run.sandbox.ended(&name);
            assert_eq!(code, None, "{name} cannot go on, although all is well");
        }
        (run.sandbox.status()?["healthy"] == true).then_some(())
    });
    run.wait_for_acknowledged(20);
    run.stop_sending();
    run.drain();
    let tried = [
        "acknowledged before the sync",
        "two lease holders",
        "replicas disagree",
    ];
    run.judge(&[ALWAYS_TRIED, &tried].concat());
}

/// A run and what is wrong with it at the moment; blows are known by their places in the plan.
struct Storm {
    run: Run,
    cut: BTreeMap<usize, BTreeSet<Link>>,
    newcomers: BTreeMap<usize, Newcomer>,
    /// The nodes whose disks have been full: they may end by themselves.
    filled: BTreeSet<String>,
}

/// At one moment, ends go before beginnings: they make room for them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Ends,
    Begins,
}

impl Storm {
    fn rage(&mut self, machines: u8) {
        let blows = plan(self.run.seed, machines, DOMAINS.len(), test_time(35));
        let mut moments = Vec::new();
        for (at, blow) in blows.iter().enumerate() {
            moments.push((blow.begins, Turn::Begins, at));
            moments.push((blow.ends, Turn::Ends, at));
        }
        moments.sort_unstable();
        let begun = Instant::now();
        // What takes long makes the rest come late, and still in order.
        for (when, turn, at) in moments {
            sleep(when.saturating_sub(begun.elapsed()));
            let what = &blows[at].what;
            match turn {
                Turn::Begins => {
                    self.run.recorder.note(format!("{at} begins: {what:?}"));
                    self.begin(at, what);
                }
                Turn::Ends => {
                    self.run.recorder.note(format!("{at} ends"));
                    self.end(at, what);
                }
            }
        }
    }

    fn begin(&mut self, at: usize, what: &What) {
        for machine in what.stills() {
            self.revive(&node(machine));
        }
        let run = &mut self.run;
        match what {
            What::Kill { machine } => run.kill(&node(*machine)),
            What::Pause { machine } => run.pause(&node(*machine)),
            What::PowerCut { machines } => {
                let nodes: Vec<String> = machines.iter().copied().map(node).collect();
                run.cut_power(&nodes);
            }
            What::FailingDisk { machine } => run.fail_disk(&node(*machine)),
            What::SlowDisk { machine } => {
                let name = node(*machine);
                match run.sandbox.machine(&name).disk.slow_down() {
                    Ok(()) => run.began(Fault::SlowDisk, &[name]),
                    Err(why) => run.recorder.note(why),
                }
            }
            What::FullDisk { machine } => {
                let name = node(*machine);
                run.began(Fault::DiskFull, std::slice::from_ref(&name));
                run.sandbox.machine(&name).disk.fill(0);
                self.filled.insert(name);
            }
            What::ClockJump { machine, ahead_ms } => {
                let name = node(*machine);
                run.began(Fault::ClockJump, std::slice::from_ref(&name));
                run.sandbox.turn_clock(&name, *ahead_ms);
            }
            What::Cut { links, .. } => {
                self.cut.insert(at, links.clone());
                self.cut_what_is_cut();
            }
            What::BadLine { link, quality } => run.set_line(link, *quality),
            What::PrimaryAway { domain } => run.primary_goes_down(DOMAINS[*domain]),
            What::PrimaryBad { domain } => run.primary_behaves(DOMAINS[*domain], Mood::Bad),
            What::Newcomer => {
                self.newcomers.insert(at, run.add_newcomer());
            }
        }
    }

    fn end(&mut self, at: usize, what: &What) {
        let run = &mut self.run;
        match what {
            What::Kill { machine } => run.restart(&node(*machine)),
            What::Pause { machine } => run.resume(&node(*machine)),
            What::PowerCut { machines } => {
                let nodes: Vec<String> = machines.iter().copied().map(node).collect();
                run.restart_all(&nodes);
            }
            What::FailingDisk { machine } => {
                let name = node(*machine);
                run.sandbox.kill(&name);
                run.restart(&name);
                run.ended(Fault::DiskFails, &[name]);
            }
            What::SlowDisk { machine } => {
                let name = node(*machine);
                run.sandbox.machine(&name).disk.speed_up();
                run.ended(Fault::SlowDisk, &[name]);
            }
            What::FullDisk { machine } => {
                let name = node(*machine);
                run.sandbox.machine(&name).disk.make_room();
                run.ended(Fault::DiskFull, std::slice::from_ref(&name));
                self.revive(&name);
            }
            What::ClockJump { machine, .. } => {
                let name = node(*machine);
                run.sandbox.turn_clock(&name, 0);
                run.ended(Fault::ClockJump, &[name]);
            }
            What::Cut { .. } => {
                self.cut.remove(&at);
                self.cut_what_is_cut();
            }
            What::BadLine { link, .. } => run.set_line(link, Quality::default()),
            What::PrimaryAway { domain } => run.primary_comes_up(DOMAINS[*domain]),
            What::PrimaryBad { domain } => run.primary_behaves(DOMAINS[*domain], Mood::Human),
            What::Newcomer => self.newcomers[&at].leave(),
        }
    }

    fn cut_what_is_cut(&mut self) {
        let links = self.cut.values().flatten().copied().collect();
        self.run.cut(&links);
    }

    /// Starts a node that has ended by itself.
    fn revive(&mut self, name: &str) {
        if let Some(code) = self.run.sandbox.ended(name) {
            assert!(
                self.filled.contains(name),
                "{name} ended by itself with {code}"
            );
            self.run.restart(name);
        }
    }

    /// All has ended; so have newcomers once they have left.
    fn abate(mut self) -> Run {
        for name in self.run.sandbox.names() {
            // A newcomer that has left has ended, too.
            if !self
                .newcomers
                .values()
                .any(|newcomer| newcomer.name == name)
            {
                self.revive(&name);
            }
        }
        for newcomer in self.newcomers.values() {
            let what = format!("{} to leave", newcomer.name);
            wait_for(&what, HEAL_TIME_MAX, || {
                self.run.has_left(newcomer).then_some(())
            });
        }
        self.run
    }
}

fn node(machine: u8) -> String {
    format!("n{machine}")
}
