//! What customers bought, from their side: each story plays against a cluster of three nodes of its own.
//! They mostly wait, so they run beside each other.

mod billing;
mod broken_line;
mod dns_help;
mod dynamic_consulting;
mod inbound;
mod late;
mod mail_exchangers;
mod on_demand;
mod portal;
mod programs;
mod psinet;
mod purity;
mod second_factor;
mod security_minded;
mod slow_host;
mod smart_host;
mod tracing;
mod webindia;
mod while_up;

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use holdfast_cluster_tests::harness::{Sandbox, apart, beside_others, wait_for};
use holdfast_cluster_tests::story::{Mailbox, Page, Received, pass};
use serde_json::Value;

/// The customer's domain, and that of who sends to it.
const DOMAIN: &str = "example.test";
const JOE: &str = "joe@example.test";
const SENDERS: &str = "sender.test";
const BOB: &str = "bob@sender.test";

const NAME: &str = "ann@example.test";
const PASSWORD: &str = "correct horse battery";

/// How long a cluster may take for what it does in seconds.
const SOON: Duration = Duration::from_secs(60);

/// Long enough for what should not happen to happen.
const A_WHILE: Duration = Duration::from_secs(6);

/// `https://host:port` of a node's portal.
fn portal(sandbox: &Sandbox, node: &str) -> String {
    let portal = sandbox.node(node).portal.expect("a portal");
    format!("https://{portal}")
}

fn add_account(sandbox: &Sandbox) {
    let file = sandbox.folder().expect("a folder").join("password");
    fs::write(&file, PASSWORD).expect("a file");
    let file = file.to_str().expect("a path");
    let add = ["account", "add", NAME, "--domain", DOMAIN];
    sandbox.must("n1", &[&add[..], &["--password-file", file]].concat());
}

fn sign_in(page: &Page<'_>, at: &str) {
    page.go(&format!("{at}/sign-in"));
    page.expect("Password");
    page.fill("input[name=name]", NAME);
    page.fill("input[name=password]", PASSWORD);
    page.click("form.card button");
    page.expect("What happens to mail now");
}

/// Messages that the cluster holds for the customer.
fn held(sandbox: &Sandbox, node: &str) -> u64 {
    sandbox.must(node, &["domain", "show", DOMAIN])["held_messages"]
        .as_u64()
        .expect("a number")
}

fn wait_until_held(sandbox: &Sandbox, node: &str, count: u64) {
    wait_for(&format!("{count} held"), SOON, || {
        (held(sandbox, node) == count).then_some(())
    });
}

/// What arrives at the sender's once all that the customer had has expired. A message that expires
/// while a node may be delivering it is not told of before the primary's answer could have come.
fn given_back(sandbox: &Sandbox, node: &str, senders: &Mailbox) -> Vec<Received> {
    wait_until_held(sandbox, node, 0);
    wait_for("what is given back", 2 * SOON, || {
        pass(sandbox, "11m");
        sleep(A_WHILE);
        let received = senders.received();
        (!received.is_empty()).then_some(received)
    })
}

/// The node that delivers for the customer now.
fn deliverer(sandbox: &Sandbox) -> String {
    wait_for("somebody who delivers", SOON, || {
        deliverer_for(sandbox, DOMAIN)
    })
}

/// That are held for a domain, also one that is no customer's.
fn messages_for(sandbox: &Sandbox, name: &str) -> Option<u64> {
    let status = sandbox.status()?;
    let domains = status["domains"].as_array()?;
    let domain = domains.iter().find(|of| of["domain"] == name)?;
    domain["messages"].as_u64()
}

fn deliverer_for(sandbox: &Sandbox, name: &str) -> Option<String> {
    let status = sandbox.status()?;
    let domains = status["domains"].as_array()?;
    let domain = domains.iter().find(|of| of["domain"] == name)?;
    let nodes = status["nodes"].as_array()?;
    let is_it = |node: &&Value| node["id"] == domain["lease_node"];
    let name = nodes.iter().find(is_it)?["name"].as_str()?;
    Some(name.to_owned())
}

/// The customer's server comes up and takes one of so many messages; the node that delivers is killed in
/// the middle of the next. Its name.
fn kill_in_the_middle(sandbox: &mut Sandbox, mailbox: &mut Mailbox, waiting: u64) -> String {
    mailbox.stall_after(1);
    mailbox.come_up();
    mailbox.wait_until_stalled(SOON);
    let asked = sandbox.alive()[0].clone();
    wait_until_held(sandbox, &asked, waiting - 1);
    let worker = deliverer(sandbox);
    sandbox.kill(&worker);
    mailbox.go_on();
    worker
}

fn subjects(received: &[Received]) -> Vec<&str> {
    received.iter().map(Received::subject).collect()
}
