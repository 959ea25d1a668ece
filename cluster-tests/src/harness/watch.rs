//! Watchers: they ask every node again and again what its rows come to and who holds which lease,
//! and write the answers down.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::sandbox::{Node, binary};
use crate::history::{Event, Recorder};

/// Each question is a process of its own, which costs more than its answer.
const ASK_EVERY: Duration = Duration::from_millis(700);

/// Ends with its owner; a watcher of a node that stands still ends when the node does.
#[derive(Debug)]
pub(crate) struct Watch {
    ended: Arc<AtomicBool>,
}

impl Watch {
    pub(crate) fn start(nodes: &[Node], recorder: &Arc<Recorder>) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        for node in nodes {
            let (name, config) = (node.name.clone(), node.config.clone());
            let (ended, recorder) = (ended.clone(), recorder.clone());
            thread::spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    look(&name, &config, &recorder);
                    thread::sleep(ASK_EVERY);
                }
            });
        }
        Self { ended }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// Asks one node once, and records what it says, if it answers.
pub(crate) fn look(name: &str, config: &PathBuf, recorder: &Recorder) {
    let ask = |arguments: &[&str]| -> Option<Value> {
        let ran = Command::new(binary())
            .args(arguments)
            .arg("--json")
            .arg("--config")
            .arg(config)
            .output()
            .ok()?;
        serde_json::from_slice(&ran.stdout).ok()
    };
    if let Some(state) = ask(&["status", "--state-hash"])
        && let (Some(applied), Some(hash)) = (state["applied"].as_u64(), state["hash"].as_str())
    {
        recorder.record(Event::State {
            node: name.to_owned(),
            applied,
            hash: hash.to_owned(),
        });
    }
    let Some(status) = ask(&["status"]) else {
        return;
    };
    let nodes = status["nodes"].as_array().into_iter().flatten();
    let names: Vec<(u64, &str)> = nodes
        .filter_map(|node| Some((node["id"].as_u64()?, node["name"].as_str()?)))
        .collect();
    for domain in status["domains"].as_array().into_iter().flatten() {
        let holder = names.iter().find(|(id, _)| domain["lease_node"] == *id);
        if let (Some((_, holder)), Some(domain_name), Some(epoch @ 1..)) = (
            holder,
            domain["domain"].as_str(),
            domain["lease_epoch"].as_u64(),
        ) {
            recorder.record(Event::Lease {
                told_by: name.to_owned(),
                domain: domain_name.to_owned(),
                holder: (*holder).to_owned(),
                epoch,
            });
        }
    }
}
