//! One of our nodes has lost its way to a customer's server, and the others have not: mail is not held
//! up, and nobody is told that the server is down.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread::sleep;

use holdfast_cluster_tests::harness::{Network, Sandbox, Size, free_port, in_its_own_world};
use holdfast_cluster_tests::story::{Mailbox, cut, send};

use crate::{A_WHILE, BOB, DOMAIN, JOE, SOON, beside_others, deliverer, subjects, wait_until_held};

/// The test's own, in the network of machines.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));

#[test]
fn another_node_delivers_where_one_has_lost_its_way_to_the_primary() {
    let _turn = beside_others();
    in_its_own_world(|| {
        let network = Network::new(3);
        let mut mailbox = Mailbox::at(SocketAddr::new(HERE, free_port()));
        let nowhere = SocketAddr::new(HERE, free_port());
        let sandbox = Sandbox::on_machines(3, &network, Size::ORDINARY, nowhere);
        let primary = mailbox.address().to_string();
        sandbox.must("n1", &["domain", "add", DOMAIN, "--primary", &primary]);
        let give = |node: &str, subject: &str| {
            assert_eq!(send(sandbox.node(node).smtp, BOB, JOE, subject).code, 250);
        };
        give("n1", "one");
        let worker = deliverer(&sandbox);
        cut(sandbox.node(&worker).smtp.ip(), mailbox.address());
        mailbox.come_up();
        mailbox.wait_for(1, SOON);
        // Wherever mail comes in, it goes out.
        give(&worker, "two");
        let received = mailbox.wait_for(2, SOON);
        assert_eq!(subjects(&received), ["one", "two"]);
        wait_until_held(&sandbox, &worker, 0);
        sleep(2 * A_WHILE);
        let shown = sandbox.must(&worker, &["domain", "show", DOMAIN]);
        let says = shown["says"].to_string();
        assert!(says.contains("has been up for"), "{says}");
    });
}
