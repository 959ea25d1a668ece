//! Nodes are lost for good, replaced, and added while others fail.

use std::time::Duration;

use holdfast_cluster_tests::harness::{DISK_BYTES, Run, in_its_own_world, wait_for};
use holdfast_cluster_tests::history::Fault;

use crate::{ALWAYS_TRIED, beside_others};

const HEAL_TIME_MAX: Duration = Duration::from_secs(90);

#[test]
fn a_node_that_is_lost_for_good_is_replaced_under_load() {
    let _turn = beside_others();
    in_its_own_world(|| {
        let mut run = Run::on_machines(3, DISK_BYTES);
        run.send(6);
        run.wait_for_acknowledged(60);
        // The leader, with its disk.
        let lost = run.leader();
        run.lose(&lost);
        run.wait_for_recovery(Fault::Replaced, HEAL_TIME_MAX);
        let other = run.sandbox.alive()[0].clone();
        let next = run.add_next_machine();
        let command = ["node", "replace", &lost, "--with", &next];
        // While it is at it, whoever leads dies, and with that the quorum; perhaps the one asked.
        let asked = run.sandbox.begin_asking(&other, &command);
        let victim = run.leader();
        run.kill(&victim);
        run.restart(&victim);
        let ended = asked.wait_with_output().expect("the command's end");
        run.wait_for_recovery(Fault::Kill, HEAL_TIME_MAX);
        // Typed again: what is done is not done again.
        let again = run.sandbox.ask(&other, &command);
        assert!(again.status.success(), "{ended:?}, and then {again:?}");
        let third = run.sandbox.ask(&other, &command);
        let errors = String::from_utf8_lossy(&third.stderr);
        assert!(third.status.success(), "{errors}");
        assert!(errors.contains("nothing is left to do"), "{errors}");
        // Its disk comes back: every node refuses it.
        run.sandbox.restart(&lost);
        wait_for("the refusal of the lost node", HEAL_TIME_MAX, || {
            run.sandbox.log(&lost).contains("was removed").then_some(())
        });
        // The service's unit does not start one again that ends so.
        wait_for("its end", HEAL_TIME_MAX, || {
            run.sandbox.ended(&lost).filter(|code| *code == 7)
        });
        run.sandbox.kill(&lost);
        run.forget(&lost);
        run.sandbox.wait_until_healthy(HEAL_TIME_MAX);
        run.ended(Fault::Replaced, &[lost]);
        run.wait_for_acknowledged(20);
        // Now the new one must do: another is lost with it still there.
        let next = run
            .sandbox
            .alive()
            .into_iter()
            .find(|name| name != "n4")
            .expect("three nodes");
        run.kill(&next);
        run.wait_for_recovery(Fault::Kill, HEAL_TIME_MAX);
        run.restart(&next);
        run.sandbox.wait_until_healthy(HEAL_TIME_MAX);
        run.stop_sending();
        run.primaries_come_up();
        run.drain();
        run.judge(&[ALWAYS_TRIED, &["replicas disagree"]].concat());
    });
}

#[test]
fn members_come_and_go_while_others_are_killed() {
    let _turn = beside_others();
    in_its_own_world(|| {
        let mut run = Run::on_machines(3, DISK_BYTES);
        run.send(6);
        run.wait_for_acknowledged(20);
        for number in [4, 5] {
            let name = format!("n{number}");
            run.began(Fault::Membership, std::slice::from_ref(&name));
            // A member dies while the new one copies and is let in.
            let victim = match number {
                4 => run.leader(),
                _ => run.sandbox.alive()[1].clone(),
            };
            run.add_machine_while_killing(&victim);
            run.sandbox.wait_until_healthy(HEAL_TIME_MAX);
            run.ended(Fault::Membership, &[name]);
            run.wait_for_acknowledged(10);
        }
        // Five; the first two leave, the leader among them or not.
        for name in ["n1", "n2"] {
            run.began(Fault::Membership, &[name.to_owned()]);
            run.sandbox.must("n5", &["cluster", "leave", name]);
            run.forget(name);
            run.sandbox.wait_until_healthy(HEAL_TIME_MAX);
            run.ended(Fault::Membership, &[name.to_owned()]);
            run.wait_for_recovery(Fault::Membership, HEAL_TIME_MAX);
        }
        run.stop_sending();
        run.primaries_come_up();
        run.drain();
        run.judge(&[ALWAYS_TRIED, &["replicas disagree"]].concat());
    });
}
