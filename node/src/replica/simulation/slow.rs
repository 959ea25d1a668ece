//! A line over which a large body takes longer than any request.

use super::*;

/// The body, bytes.
const LARGE: usize = 40 << 20;

/// What the line carries in a millisecond, bytes: eight megabits a second.
const LINE: u64 = 1_000;

/// Long enough for the body three times, milliseconds.
const PATIENCE_MS: u64 = 130_000;

#[test]
fn a_node_gets_a_large_body_over_a_slow_line() {
    const AWAY: usize = 2;
    let template = template();
    let mut simulation = Simulation::quiet(&template, 1);
    simulation.strike(Kind::Isolate { host: AWAY, ms: 0 });
    // Another leads, if it was the one that is away.
    let away = template.identities[AWAY].node_id;
    let led = |simulation: &Simulation| {
        let led = |it: Cluster| it.has_quorum() && it.leader() != Some(away);
        (0..AWAY).all(|host| simulation.cluster(host).is_some_and(led))
    };
    assert!(simulation.until(30_000, led));
    let body = simulation.offer(0, LARGE).unwrap();
    for other in 0..AWAY {
        simulation.switch.slow(other, AWAY, LINE);
    }
    simulation.switch.heal();
    let came = simulation.until(PATIENCE_MS, |it| it.has(AWAY, &body));
    simulation.end();
    assert!(came);
}
