//! The network falls apart in every way that a table lists, and a minority promises nothing.

use std::time::Duration;

use holdfast_cluster_tests::harness::{DISK_BYTES, Quality, Run, in_its_own_world};
use holdfast_cluster_tests::history::Fault;
use holdfast_cluster_tests::partition::{SHAPES, Shape, some_quorum_is_left};

use crate::{ALWAYS_TRIED, alone, is_left_to_soak};

/// With a quorum left somewhere, or all healed, mail is accepted again within that time.
const RECOVERY_TIME_MAX: Duration = Duration::from_secs(30);
/// For a minority to promise something, if it would.
const WITHOUT_QUORUM: Duration = Duration::from_secs(4);
/// A round trip between continents is at most about 250 ms.
const FAR: Quality = Quality {
    delay: Duration::from_millis(70),
    jitter: Duration::from_millis(30),
    loss_one_in: 200,
    bytes_per_second: 4 << 20,
};

#[test]
fn three_nodes_survive_every_shape_of_partition() {
    let _alone = alone();
    in_its_own_world(|| fall_apart(Run::on_machines(3, DISK_BYTES), 3));
}

#[test]
fn five_nodes_survive_every_shape_of_partition() {
    let _alone = alone();
    if is_left_to_soak(2) {
        return;
    }
    in_its_own_world(|| fall_apart(Run::on_machines(5, DISK_BYTES), 5));
}

#[test]
fn nodes_on_three_continents_survive_stalls_and_one_way_cuts() {
    let _alone = alone();
    if is_left_to_soak(1) {
        return;
    }
    in_its_own_world(|| {
        let mut run = Run::over_relays(3, "global");
        run.set_quality(FAR);
        run.watch();
        run.send(12);
        run.wait_for_acknowledged(20);
        for name in ["the leader is mute", "the leader is deaf"] {
            let shape = SHAPES.iter().find(|shape| shape.name == name);
            hold(&mut run, shape.expect("a shape of that name"));
        }
        run.primaries_come_up();
        run.wait_for_acknowledged(20);
        run.set_quality(Quality::default());
        run.stop_sending();
        run.drain();
        run.judge(ALWAYS_TRIED);
    });
}

fn fall_apart(mut run: Run, machines: u8) {
    run.watch();
    // At each node more than one: those at a minority's nodes wait there.
    run.send(usize::from(machines) * 2);
    run.wait_for_acknowledged(10);
    for (at, shape) in SHAPES
        .iter()
        .filter(|shape| shape.machines == machines)
        .enumerate()
    {
        if at == 6 {
            run.primaries_come_up();
        }
        hold(&mut run, shape);
    }
    run.wait_for_acknowledged(10);
    run.stop_sending();
    run.drain();
    run.judge(
        &[
            ALWAYS_TRIED,
            &["acknowledged by a minority", "replicas disagree"],
        ]
        .concat(),
    );
}

/// Cuts, sees what must go on going on, and heals.
fn hold(run: &mut Run, shape: &Shape) {
    run.recorder
        .note(format!("{} nodes: {}", shape.machines, shape.name));
    let leader = run.leader();
    let links = shape.links(run.sandbox.machine(&leader).number);
    run.cut(&links);
    if some_quorum_is_left(shape.machines, &links) {
        run.wait_for_recovery(Fault::Partition, RECOVERY_TIME_MAX);
    } else {
        std::thread::sleep(WITHOUT_QUORUM);
    }
    run.cut(&std::collections::BTreeSet::new());
    run.wait_for_recovery(Fault::Partition, RECOVERY_TIME_MAX);
}
