//! Disks that have no room.

use super::*;

const BYTES: usize = 1_000;

impl Simulation {
    /// The disk of a host is full, or has room again.
    fn fill(&self, host: usize, full: bool) {
        let cluster = self.cluster(host).unwrap();
        cluster.set_disk_free_min(if full { u64::MAX } else { 0 });
    }

    fn nobody_takes_mail(&self) -> bool {
        (0..HOSTS).all(|host| self.cluster(host).is_some_and(|it| !it.has_room()))
    }
}

#[test]
fn full_disks_stop_mail_where_no_quorum_has_room_and_stop_no_node() {
    let template = template();
    let mut simulation = Simulation::quiet(&template, 2);
    let leader = simulation.cluster(0).unwrap().leader().unwrap();
    let mut nodes = template.identities.iter().map(|it| it.node_id);
    let full = nodes.position(|node| node == leader).unwrap();
    let [other, third] = [(full + 1) % HOSTS, (full + 2) % HOSTS];

    // The leader is full: another leads, and the two others go on without it.
    simulation.fill(full, true);
    let moved = |simulation: &Simulation| {
        let led = |it: Cluster| it.leader().is_some_and(|now| now != leader);
        (0..HOSTS).all(|host| simulation.cluster(host).is_some_and(led))
    };
    assert!(simulation.until(30_000, moved));
    let first = simulation.offer(other, BYTES).unwrap();
    assert!(!simulation.until(20_000, |it| it.has(full, &first)));
    assert!(simulation.has(third, &first));
    assert!(simulation.cluster(other).unwrap().has_room());

    // Now no quorum has room, and every node knows.
    simulation.fill(other, true);
    assert!(simulation.until(5_000, Simulation::nobody_takes_mail));

    // There is room again: the node that lagged gets what it lacks.
    simulation.fill(full, false);
    assert!(simulation.until(60_000, |it| it.has(full, &first)));
    assert!(simulation.until(30_000, |it| !it.nobody_takes_mail()));
    let second = simulation.offer(third, BYTES).unwrap();
    assert!(simulation.until(30_000, |it| it.has(full, &second)));
    simulation.end();
}
