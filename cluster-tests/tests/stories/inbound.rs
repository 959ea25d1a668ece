//! A primary that sends mail is up: what waits for it is tried at once, whichever node it comes to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use holdfast_cluster_tests::harness::{Sandbox, free_port, in_its_own_world, wait_for};
use holdfast_cluster_tests::story::{Lent, Mailbox, Secure, send};

use crate::{A_WHILE, BOB, DOMAIN, JOE, SOON, beside_others, deliverer};

/// Nobody else connects from there; everybody does from loopback.
const THEIRS: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 50));

/// So often it has put the message off: the next try is twelve seconds away, or more.
const TRIES: usize = 4;

/// How long until nodes know a primary's address.
const LOOKED_UP: Duration = Duration::from_secs(16);

#[test]
fn a_primary_that_connects_to_any_node_gets_its_mail_at_once() {
    let _turn = beside_others();
    in_its_own_world(|| {
        let line = Lent::new(THEIRS);
        let mut mailbox = Mailbox::at(SocketAddr::new(line.address(), free_port()));
        let sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
        assert_eq!(send(sandbox.node("n1").smtp, BOB, JOE, "one").code, 250);
        let worker = deliverer(&sandbox);
        sleep(LOOKED_UP);
        // It is up, and too busy to take anything.
        mailbox.be_busy();
        mailbox.come_up();
        wait_for("some tries", SOON, || {
            (mailbox.times_asked(JOE) >= TRIES).then_some(())
        });
        mailbox.be_ready();
        let others = sandbox.names().into_iter().find(|name| *name != worker);
        let other = sandbox.node(&others.expect("another node")).smtp;
        let _session = Secure::connect_from(line.address(), other);
        mailbox.wait_for(1, A_WHILE);
    });
}
