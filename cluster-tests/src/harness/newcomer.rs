//! A new machine's node that joins and later leaves while everything else goes wrong: whoever must
//! let it in, or out, may not be there, so both are asked for until somebody does it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::sandbox::{Node, ask, let_in};

const ASK_EVERY: Duration = Duration::from_millis(300);

/// One that is about to join. It asks no more once this is dropped.
#[derive(Debug)]
pub struct Newcomer {
    pub name: String,
    may_leave: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
}

impl Newcomer {
    /// `node` runs already, and `members` may let it in.
    pub(super) fn start(node: Node, members: Vec<Node>) -> Self {
        let newcomer = Self {
            name: node.name.clone(),
            may_leave: Arc::default(),
            ended: Arc::default(),
        };
        let (may_leave, ended) = (newcomer.may_leave.clone(), newcomer.ended.clone());
        thread::spawn(move || {
            let steps: [&dyn Fn() -> bool; 3] = [
                &|| let_in(&node, &members),
                &|| may_leave.load(Ordering::Relaxed),
                &|| {
                    let command = ["cluster", "leave", &node.name];
                    let mut asked = members.iter().map(|member| ask(member, &command));
                    asked.any(|answer| answer.status.success())
                },
            ];
            for done in steps {
                while !ended.load(Ordering::Relaxed) && !done() {
                    thread::sleep(ASK_EVERY);
                }
            }
        });
        newcomer
    }

    /// It leaves, once it has joined.
    pub fn leave(&self) {
        self.may_leave.store(true, Ordering::Relaxed);
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}
