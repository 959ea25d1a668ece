//! Machines of their own for the nodes: a namespace, a disk and a configuration each.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::disk::Disk;
use super::network::{cluster_address, flood_address, namespace, smtp_address};
use super::sandbox::Node;
use super::world::must;

/// Room for the databases, the mail of a run, and what a node keeps free; sparse, so it costs
/// what is written.
pub const DISK_BYTES: u64 = 640 << 20;
/// A node takes no mail with less: the sandbox's own figure.
pub const DISK_FREE_MIN_BYTES: u64 = 64 << 20;

/// As nodes are dealt to them: no region of three or more has a majority.
const REGIONS: [&str; 3] = ["eu", "us", "ap"];

/// What each machine has.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub disk_bytes: u64,
    /// None: as much as there is.
    pub memory_bytes: Option<u64>,
}

impl Size {
    /// A disk that is large enough, and no limit of memory.
    pub const ORDINARY: Self = Self {
        disk_bytes: DISK_BYTES,
        memory_bytes: None,
    };
}

/// What a node runs on.
#[derive(Clone, Debug)]
pub struct Machine {
    pub number: u8,
    pub namespace: String,
    pub disk: Disk,
}

impl Machine {
    /// Where pests connect to, so that they are known from others.
    #[must_use]
    pub fn flood_address(&self) -> SocketAddr {
        flood_address(self.number)
    }
}

/// Memory for the disks of all machines. It is the page cache of the file systems on them that
/// a power cut empties; what lies under them never loses anything, so it need not be a disk.
///
/// # Panics
/// If it cannot be made.
pub(crate) fn prepare(folder: &Path) {
    let disks = folder.join("disks");
    fs::create_dir_all(&disks).expect("a folder for disks");
    must(
        "mount",
        &[
            "-t".as_ref(),
            "tmpfs".as_ref(),
            "none".as_ref(),
            disks.as_os_str(),
        ],
    );
}

/// A machine with an empty disk of `disk_bytes`, configured for a node called `nN`.
///
/// # Panics
/// If it cannot be made.
pub(crate) fn new(
    folder: &Path,
    number: u8,
    settings: &str,
    disk_bytes: u64,
    relay_via: SocketAddr,
) -> Node {
    let name = format!("n{number}");
    let disks = folder.join("disks");
    let disk = Disk::new(
        disks.join(format!("{name}.image")),
        disks.join(&name),
        disk_bytes,
    );
    let node = Node {
        pid: 0,
        smtp: smtp_address(number),
        cluster: cluster_address(number),
        data_dir: disk.path().join("data"),
        config: folder.join(format!("{name}.toml")),
        log: folder.join(format!("{name}.log")),
        portal: None,
        finger: None,
        atrn: None,
        submission: None,
        name,
        machine: Some(Machine {
            number,
            namespace: namespace(number),
            disk,
        }),
    };
    fs::write(
        &node.config,
        configuration(&node, number, settings, relay_via),
    )
    .expect("a configuration");
    node
}

/// By how many milliseconds a node's clock is off; beside its configuration.
pub(super) fn clock_file(config: &Path) -> PathBuf {
    config.with_extension("clock")
}

fn configuration(node: &Node, number: u8, settings: &str, relay_via: SocketAddr) -> String {
    format!(
        r#"data_dir = "{data}"
name = "{name}"
region = "{region}"
{settings}sandbox_clock = "{clock}"
[smtp]
listen = ["{smtp}", "{flood}"]
name = "{name}.holdfast.test"
public_address = "{smtp}"
[cluster]
listen = "{cluster}"
address = "{cluster}"
[admin]
# Not on the node's disk, which comes and goes.
socket = "{name}.sock"
[courier]
relay_via = "{relay_via}"
[metrics]
listen = "127.0.0.1:9400"
[limits]
disk_free_min_bytes = {DISK_FREE_MIN_BYTES}
"#,
        data = node.data_dir.display(),
        name = node.name,
        clock = clock_file(&node.config).display(),
        region = REGIONS[usize::from(number - 1) % REGIONS.len()],
        smtp = node.smtp,
        flood = flood_address(number),
        cluster = node.cluster,
    )
}
