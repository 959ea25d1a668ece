//! Three Holdfast nodes, as `holdfast dev` starts them.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::child::{Guard, free_ports, memory_mb, signal_to, wait_for_greeting};
use crate::{DOMAIN, Server};

pub(crate) struct Sandbox {
    binary: PathBuf,
    primary: SocketAddr,
    nodes: Vec<Node>,
    /// The node that was started anew; before the sandbox, so that it stops first.
    restarted: Option<Guard>,
    _sandbox: Guard,
    _dir: tempfile::TempDir,
}

struct Node {
    pid: u32,
    smtp: SocketAddr,
    config: PathBuf,
}

impl Sandbox {
    pub(crate) fn start(binary: &Path, scratch: &Path) -> io::Result<Self> {
        let dir = tempfile::tempdir_in(scratch)?;
        let primary = SocketAddr::from(([127, 0, 0, 1], free_ports(1)?));
        let mut sandbox = Command::new(binary)
            .args(["dev", "--json", "--nodes", "3", "--domain", DOMAIN])
            .args(["--smtp-port", &free_ports(3)?.to_string()])
            .args(["--primary", &primary.to_string()])
            .arg("--dir")
            .arg(dir.path().join("dev"))
            .env("HOLDFAST_LOG", "info,openraft=error")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut first = String::new();
        if let Some(out) = sandbox.stdout.take() {
            BufReader::new(out).read_line(&mut first)?;
        }
        let sandbox = Guard(sandbox);
        let layout: serde_json::Value = serde_json::from_str(&first)?;
        let nodes = layout["nodes"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|node| {
                Some(Node {
                    pid: node["pid"].as_u64()?.try_into().ok()?,
                    smtp: node["smtp"].as_str()?.parse().ok()?,
                    config: node["config"].as_str()?.into(),
                })
            })
            .collect::<Option<Vec<_>>>()
            .filter(|nodes| nodes.len() == 3)
            .ok_or_else(|| io::Error::other(format!("holdfast dev said {first}")))?;
        Ok(Self {
            binary: binary.to_owned(),
            primary,
            nodes,
            restarted: None,
            _sandbox: sandbox,
            _dir: dir,
        })
    }
}

impl Server for Sandbox {
    fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.smtp).collect()
    }

    fn primary(&self) -> SocketAddr {
        self.primary
    }

    fn release(&mut self) -> io::Result<()> {
        // Noticed by the probe.
        Ok(())
    }

    fn hold(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn memory_mb(&self) -> io::Result<f64> {
        let mut each = self.nodes.iter().map(|node| memory_mb(node.pid, "Rss:"));
        each.try_fold(0.0, |most, one| Ok(f64::max(most, one?)))
    }

    fn restart(&mut self) -> io::Result<Duration> {
        let node = &mut self.nodes[2];
        signal_to(node.pid, Signal::TERM)?;
        let gone = Instant::now() + Duration::from_secs(60);
        // The sandbox does not reap it at once: a zombie has no memory.
        while memory_mb(node.pid, "Rss:").is_ok() {
            if Instant::now() > gone {
                return Err(io::Error::other("a node does not stop"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let begin = Instant::now();
        let process = Guard(
            Command::new(&self.binary)
                .arg("serve")
                .arg("--config")
                .arg(&node.config)
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?,
        );
        wait_for_greeting(node.smtp, Duration::from_secs(120))?;
        let took = begin.elapsed();
        node.pid = process.0.id();
        self.restarted = Some(process);
        Ok(took)
    }
}
