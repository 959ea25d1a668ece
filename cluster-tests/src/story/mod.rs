//! What a customer's story needs: a mail server that can be away, somebody who sends, and a browser.

mod browser;
mod code;
mod line;
mod mailbox;
mod post;
mod secure;
mod web;
mod zone;

pub use browser::{Browser, Page};
pub use code::code;
pub use line::{Lent, cut};
pub use mailbox::{Call, Mailbox, Received};
pub use post::{Answer, offer, send, send_over};
pub use secure::Secure;
pub use web::{OpenPage, Reply, Web};
pub use zone::Zone;

use std::process::Command;

use crate::harness::{Sandbox, node_binary};

/// Lets days pass for the whole cluster: `5d`, `12h`.
///
/// # Panics
/// If the sandbox refuses.
pub fn pass(sandbox: &Sandbox, time: &str) {
    let folder = sandbox.folder().expect("a folder");
    let advanced = Command::new(node_binary())
        .args(["dev", "clock", "--dir"])
        .arg(folder)
        .args(["advance", time])
        .output()
        .expect("the binary runs");
    assert!(advanced.status.success(), "{advanced:?}");
}
