//! What a sandbox's folder holds: `sandbox.json` (this plan), and for each node `nN.toml`,
//! `nN.log` and its data in `nN/`; and `clock`, once days have passed in it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cli::loopback;
use crate::dev::ports;
use crate::failure::Failure;

/// The regions that nodes are dealt to in turn: no region of three or more nodes' sandbox has a
/// majority.
const REGIONS: [&str; 3] = ["eu", "us", "ap"];

const CLOCK: &str = "clock";

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    /// Never empty.
    pub(crate) nodes: Vec<NodePlan>,
    pub(crate) domain: String,
    /// host:port
    pub(crate) primary: String,
    /// The resolver that the nodes ask instead of the system's.
    #[serde(default)]
    pub(crate) dns: Option<SocketAddr>,
    /// Where mail for other people's domains goes, instead of to their mail exchangers.
    #[serde(default)]
    pub(crate) relay: Option<SocketAddr>,
    /// The feature level of the older version that the nodes behave as.
    #[serde(default)]
    pub(crate) level: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodePlan {
    pub(crate) name: String,
    pub(crate) region: String,
    pub(crate) smtp_port: u16,
    pub(crate) cluster_port: u16,
    pub(crate) metrics_port: u16,
    pub(crate) portal_port: u16,
    pub(crate) finger_port: u16,
    pub(crate) atrn_port: u16,
    pub(crate) submission_port: u16,
}

/// Ports of a node beside SMTP.
const FREE_PORTS: usize = 6;

impl Plan {
    /// A node for each of `smtp_ports`, everything else on free ports.
    pub(crate) fn new(smtp_ports: &[u16], domain: &str, primary: &str) -> Result<Self, Failure> {
        let free: Vec<u16> = ports::free(FREE_PORTS * smtp_ports.len() + smtp_ports.len())?
            .into_iter()
            .filter(|port| !smtp_ports.contains(port))
            .collect();
        let nodes = smtp_ports
            .iter()
            .zip(free.chunks_exact(FREE_PORTS))
            .enumerate()
            .map(|(at, (smtp_port, free))| NodePlan {
                name: format!("n{}", at + 1),
                region: REGIONS[at % REGIONS.len()].to_owned(),
                smtp_port: *smtp_port,
                cluster_port: free[0],
                metrics_port: free[1],
                portal_port: free[2],
                finger_port: free[3],
                atrn_port: free[4],
                submission_port: free[5],
            })
            .collect();
        Ok(Self {
            nodes,
            domain: domain.to_owned(),
            primary: primary.to_owned(),
            dns: None,
            relay: None,
            level: None,
        })
    }

    /// The plan that `dir` holds, if any.
    pub(crate) fn load(dir: &Path) -> Result<Option<Self>, Failure> {
        let file = plan_file(dir);
        if !file.exists() {
            return Ok(None);
        }
        let failed = |why: String| {
            Failure::new(format!("{} cannot be used", file.display()), why)
                .fix("remove the folder to begin with a new sandbox")
        };
        let text = fs::read_to_string(&file).map_err(|error| failed(error.to_string()))?;
        let plan: Self = serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
        if plan.nodes.is_empty() {
            return Err(failed("it names no node".to_owned()));
        }
        Ok(Some(plan))
    }

    /// Writes the plan, and a configuration for each node that has none: one that is there may
    /// have been edited. The data of the nodes is not touched.
    pub(crate) fn save(&self, dir: &Path) -> Result<(), Failure> {
        let failed = |error| Failure::new(format!("{} cannot be written", dir.display()), error);
        fs::create_dir_all(dir).map_err(failed)?;
        for node in &self.nodes {
            let file = config_file(dir, &node.name);
            if !file.exists() {
                let text = self.before() + &node.config() + &self.sections();
                fs::write(file, text).map_err(failed)?;
            }
        }
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| Failure::new("the sandbox's plan cannot be written", error))?;
        // Last: a folder with a plan is a complete one.
        fs::write(plan_file(dir), text + "\n").map_err(failed)
    }

    /// What stands before the first section in some sandboxes.
    fn before(&self) -> String {
        let level = |level| format!("sandbox_level = {level}\n");
        self.level.map(level).unwrap_or_default()
    }

    /// What only some sandboxes have.
    fn sections(&self) -> String {
        let dns = |server| format!("\n[dns]\nservers = [\"{server}\"]\n");
        let relay = |relay| format!("\n[courier]\nrelay_via = \"{relay}\"\n");
        self.dns.map(dns).unwrap_or_default() + &self.relay.map(relay).unwrap_or_default()
    }
}

impl NodePlan {
    fn config(&self) -> String {
        format!(
            r#"# One node of a sandbox. Kept: edit it and send the node SIGHUP, or start the node by hand with
# holdfast serve --config THIS_FILE
data_dir = "{name}"
name = "{name}"
region = "{region}"
wan_profile = "lan"
sandbox_clock = "{clock}"   # never outside of a sandbox

[smtp]
listen = ["{smtp}"]
name = "{name}.holdfast.test"
public_address = "{smtp}"

[cluster]
listen = "{cluster}"
address = "{cluster}"

[metrics]
listen = "{metrics}"

[portal]
listen = "{portal}"

[finger]
listen = "{finger}"

[atrn]
listen = "{atrn}"

[submission]
listen = "{submission}"

[limits]
# On one machine every client has the same address.
connections_per_client_max = 1000
disk_free_min_bytes = 67108864
"#,
            clock = CLOCK,
            name = self.name,
            region = self.region,
            smtp = loopback(self.smtp_port),
            cluster = loopback(self.cluster_port),
            metrics = loopback(self.metrics_port),
            portal = loopback(self.portal_port),
            finger = loopback(self.finger_port),
            atrn = loopback(self.atrn_port),
            submission = loopback(self.submission_port),
        )
    }
}

/// Milliseconds that the clock of all nodes runs ahead.
pub(crate) fn clock_file(dir: &Path) -> PathBuf {
    dir.join(CLOCK)
}

fn plan_file(dir: &Path) -> PathBuf {
    dir.join("sandbox.json")
}

pub(crate) fn config_file(dir: &Path, node: &str) -> PathBuf {
    dir.join(format!("{node}.toml"))
}

pub(crate) fn log_file(dir: &Path, node: &str) -> PathBuf {
    dir.join(format!("{node}.log"))
}

pub(crate) fn lock_file(dir: &Path) -> PathBuf {
    dir.join("sandbox.lock")
}

#[cfg(test)]
mod tests {
    use holdfast_node::config::Config;

    use super::*;

    #[test]
    fn a_plan_is_read_back_as_written_and_its_configurations_are_good() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Plan::load(dir.path()).unwrap(), None);
        let mut plan = Plan::new(&[2525, 2526, 2527], "example.test", "127.0.0.1:2600").unwrap();
        plan.dns = Some("127.0.0.1:53".parse().unwrap());
        plan.relay = Some("127.0.0.1:2600".parse().unwrap());
        plan.save(dir.path()).unwrap();
        assert_eq!(Plan::load(dir.path()).unwrap(), Some(plan.clone()));
        for node in &plan.nodes {
            let config = Config::read(&config_file(dir.path(), &node.name)).unwrap();
            assert_eq!(config.name, node.name);
            assert_eq!(config.data_dir, dir.path().join(&node.name));
            assert_eq!(config.dns.servers, Vec::from_iter(plan.dns));
            assert_eq!(config.courier.relay_via.as_deref(), Some("127.0.0.1:2600"));
        }
    }

    #[test]
    fn an_edited_configuration_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan::new(&[2525], "example.test", "127.0.0.1:2600").unwrap();
        plan.save(dir.path()).unwrap();
        let file = config_file(dir.path(), "n1");
        let edited = fs::read_to_string(&file).unwrap() + "[log]\nlevel = \"debug\"\n";
        fs::write(&file, &edited).unwrap();
        plan.save(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), edited);
    }

    #[test]
    fn no_two_nodes_share_a_port_and_no_region_has_a_majority() {
        let plan = Plan::new(&[2525, 2526, 2527, 2528, 2529], "example.test", "h:25").unwrap();
        let mut ports: Vec<u16> = plan
            .nodes
            .iter()
            .flat_map(|node| {
                [
                    node.smtp_port,
                    node.cluster_port,
                    node.metrics_port,
                    node.portal_port,
                    node.finger_port,
                    node.atrn_port,
                    node.submission_port,
                ]
            })
            .collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 35);
        for region in REGIONS {
            let members = plan
                .nodes
                .iter()
                .filter(|node| node.region == region)
                .count();
            assert!(members * 2 <= plan.nodes.len(), "{region}");
        }
    }
}
