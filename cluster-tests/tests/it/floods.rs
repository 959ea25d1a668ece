//! Far more clients than a node serves, and worse ones; others go on being served.

use std::time::{Duration, Instant};

use holdfast_cluster_tests::figures::percentile;
use holdfast_cluster_tests::harness::{DISK_BYTES, DOMAINS, Flood, Run, Size, in_its_own_world};
use holdfast_cluster_tests::history::Fault;

use crate::{ALWAYS_TRIED, alone, test_time};

/// Twice what a node serves at once.
const SILENT: usize = 2000;
/// Of each kind of worse ones, at every node.
const OF_EACH: usize = 6;
const RECOVERY_TIME_MAX: Duration = Duration::from_secs(30);
/// What a node may use while it is flooded, with its databases' caches. It is killed if it uses more.
const MEMORY_BYTES_MAX: u64 = 512 << 20;
/// Honest messages before the flood, to compare with.
const BEFORE: usize = 300;
/// So many honest messages are taken within that time, also on a slow machine that makes the flood
/// itself.
const HONEST_MIN: usize = 20;
/// For another domain alone.
const NEIGHBOURS_MIN: usize = 20;
const HONEST_TIME_MAX: Duration = Duration::from_secs(60);
/// While the flood lasts, an honest sender waits for his 250 at most so long.
const HONEST_WAIT_MAX: f64 = 30.0;
/// And letters for another domain than the flooded one, from the moment that their senders had them,
/// by so much longer than before.
const NEIGHBOUR_WAIT_MORE_MAX: f64 = HONEST_WAIT_MAX;

#[test]
fn a_flood_at_one_node_takes_little_from_anybody_else() {
    let _alone = alone();
    in_its_own_world(|| {
        let mut run = Run::on_machines_of(
            3,
            Size {
                disk_bytes: 4 * DISK_BYTES,
                memory_bytes: Some(MEMORY_BYTES_MAX),
            },
        );
        run.disguise_floods();
        run.primaries_come_up();
        run.send(6);
        run.wait_for_acknowledged(50);
        let quiet = run.recorder.now();
        run.wait_for_acknowledged(BEFORE);
        let neighbour_before = run.recorder.history().waits_of(DOMAINS[1], quiet);
        let names = run.sandbox.names();
        let flooded = run.leader();
        run.began(Fault::Flood, &names);
        let floods: Vec<Flood> = names
            .iter()
            .map(|name| {
                let silent = if *name == flooded { SILENT } else { 0 };
                let node = run.sandbox.machine(name).flood_address();
                Flood::start(node, DOMAINS[0], silent, OF_EACH)
            })
            .collect();
        let (begun, before) = (Instant::now(), run.recorder.acknowledged());
        let flooded_since = run.recorder.now();
        let from = run.load.next_attempt();
        run.wait_for_recovery(Fault::Flood, RECOVERY_TIME_MAX);
        let mut resident = 0;
        let served = |run: &Run| run.recorder.acknowledged() - before;
        let waits_of_neighbours = |run: &Run| {
            let history = run.recorder.history();
            history.waits_of(DOMAINS[1], flooded_since)
        };
        let are_enough = |run: &Run| {
            served(run) >= HONEST_MIN && waits_of_neighbours(run).len() >= NEIGHBOURS_MIN
        };
        while begun.elapsed() < test_time(10)
            || (!are_enough(&run) && begun.elapsed() < HONEST_TIME_MAX)
        {
            std::thread::sleep(Duration::from_millis(500));
            for name in &names {
                assert_eq!(run.sandbox.ended(name), None, "{name} ended in the flood");
                resident = resident.max(run.sandbox.resident_bytes(name));
            }
        }
        let acknowledged = served(&run);
        let waits = run.recorder.history().waits_since(from);
        let p99 = percentile(&waits, 99);
        let neighbour = waits_of_neighbours(&run);
        let neighbour_p99 = [&neighbour_before, &neighbour].map(|waits| percentile(waits, 99));
        eprintln!(
            "  flood: {} connections, {} MiB sent; meanwhile {acknowledged} honest messages, \
             p50 {:.2} s, p99 {p99:.2} s; a node used at most {} MiB",
            floods.iter().map(Flood::connections).sum::<u64>(),
            floods.iter().map(Flood::bytes).sum::<u64>() >> 20,
            percentile(&waits, 50),
            resident >> 20,
        );
        eprintln!(
            "  letters for the other domain: p99 {:.2} s of {} before the flood, {:.2} s of {} in it",
            neighbour_p99[0],
            neighbour_before.len(),
            neighbour_p99[1],
            neighbour.len(),
        );
        drop(floods);
        run.ended(Fault::Flood, &names);
        assert!(
            acknowledged >= HONEST_MIN,
            "honest senders were hardly served"
        );
        assert!(p99 <= HONEST_WAIT_MAX, "honest senders waited {p99} s");
        assert!(
            neighbour_p99[1] <= neighbour_p99[0] + NEIGHBOUR_WAIT_MORE_MAX,
            "another domain's senders waited {neighbour_p99:?} s, before and in the flood"
        );
        assert!(resident <= MEMORY_BYTES_MAX, "a node used {resident} bytes");
        for name in &names {
            match run.sandbox.memory(name) {
                Some(Ok(memory)) => {
                    let most = memory.most() >> 20;
                    eprintln!("  {name} used at most {most} MiB with its files' caches");
                    assert_eq!(memory.kills(), 0, "{name} was killed for its memory");
                }
                Some(Err(why)) => eprintln!("NOT LIMITED: memory of {name}: {why}"),
                None => panic!("{name} was to have a limit"),
            }
        }
        run.wait_for_acknowledged(20);
        run.stop_sending();
        run.drain();
        run.judge(ALWAYS_TRIED);
    });
}
