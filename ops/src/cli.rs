//! What can be typed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::output::Format;

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 failed; 2 wrong usage; 3 the answer is that something is unhealthy; \
4 no node answered; 5 refused by a safety check; 6 not found.";

/// A backup MX that loses nothing: several nodes hold the mail while a primary is down.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Args, Debug)]
pub(crate) struct Global {
    /// Admin socket of the node to ask [default: that of --config, then $HOLDFAST_SOCKET, then
    /// /run/holdfast/admin.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Configuration file of the node to run or to ask
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How data is printed
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORMAT",
        default_value = "table"
    )]
    output: FormatArg,
    /// The same as --output json
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum FormatArg {
    Table,
    Json,
}

impl Global {
    pub(crate) fn format(&self) -> Format {
        if self.json || self.output == FormatArg::Json {
            Format::Json
        } else {
            Format::Table
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one node until SIGTERM
    Serve(Serve),
    /// Look at configuration files
    #[command(subcommand)]
    Config(Config),
    /// The cluster's health and the mail it holds
    Status {
        /// Tell instead what this node's replicated rows come to: after the same entry, every
        /// node tells the same
        #[arg(long)]
        state_hash: bool,
    },
    /// Start a cluster, and change who belongs to it
    #[command(subcommand)]
    Cluster(Cluster),
    /// The customers' domains and their primaries
    #[command(subcommand)]
    Domain(Domain),
    /// The mail that is held
    #[command(subcommand)]
    Mail(Mail),
    /// Run a sandbox cluster on this machine until interrupted
    Dev(Dev),
    /// Watch a cluster lose its leader and no mail (half a minute)
    Demo(Demo),
}

#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// Stop when the process that started this one ends, so that a sandbox leaves nothing behind
    #[arg(long, hide = true)]
    pub(crate) die_with_parent: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Say whether a file would be accepted (exit 3 if not)
    Check { file: PathBuf },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Make this node the first of a new cluster
    Init,
    /// Print a token with which one more node may join, once
    Invite {
        /// How long the token is good for
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = ttl)]
        ttl: Duration,
    },
    /// Let this node join the cluster that made the token
    Join {
        /// The token, or - to read it from standard input, where no process list shows it
        token: String,
    },
    /// Remove a node for good; its id is never used again
    Leave {
        /// Name or id
        node: String,
        /// Only say what would happen
        #[arg(long)]
        dry_run: bool,
    },
    /// The nodes and how many of them may fail
    Status,
    /// Hand leadership to another node
    TransferLeader {
        /// Name or id [default: whoever is most up to date]
        node: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Domain {
    /// Take a new domain under protection
    Add(DomainWithPrimary),
    /// Change the primary of a domain
    Set(DomainWithPrimary),
    /// All domains
    List,
    /// One domain
    Show { name: String },
    /// Stop accepting mail for a domain; refused while mail is held for it
    Remove {
        name: String,
        /// Only say whether it would be done
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Args, Debug)]
pub(crate) struct DomainWithPrimary {
    pub(crate) name: String,
    /// Where mail for the domain is delivered
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) primary: String,
    /// Only say whether it would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Mail {
    /// The mail held for a domain, oldest first
    List {
        #[arg(long)]
        domain: String,
        /// Only what the primary refused for good; it is kept until you decide
        #[arg(long)]
        refused: bool,
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u64,
    },
    /// Try now to deliver what is held for a domain, without waiting for the next automatic try
    #[command(alias = "flush")]
    Deliver {
        #[arg(long)]
        domain: String,
    },
}

/// Most nodes of a sandbox: they share one machine.
const NODES_MAX: u64 = 7;

#[derive(Args, Debug)]
pub(crate) struct Dev {
    /// Where the nodes' configurations, logs and data live; an existing sandbox is started again
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Nodes of a new sandbox [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=NODES_MAX))]
    pub(crate) nodes: Option<u64>,
    /// SMTP port of the first node; the others follow [default: 2525]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..=65000))]
    pub(crate) smtp_port: Option<u16>,
    /// The protected domain
    #[arg(long, default_value = "example.test")]
    pub(crate) domain: String,
    /// The domain's primary
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:2600")]
    pub(crate) primary: String,
}

#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// How many messages to send
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    pub(crate) messages: u32,
}

/// Longest life of a join token: a forgotten one must not stay a way in.
const TTL_MAX: Duration = Duration::from_secs(24 * 3600);

fn ttl(text: &str) -> Result<Duration, String> {
    let span = text
        .parse::<jiff::SignedDuration>()
        .map_err(|_| "not a time span such as 30m, 1h or 1h30m".to_owned())?;
    let span = Duration::try_from(span).map_err(|_| "must not be negative".to_owned())?;
    if span < Duration::from_secs(1) || span > TTL_MAX {
        return Err("must be between 1s and 24h".to_owned());
    }
    Ok(span)
}

/// 127.0.0.1 with `port`: every address of a sandbox.
pub(crate) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn json_is_asked_for_in_either_way_and_at_any_place() {
        for line in [
            "--json status",
            "status --json",
            "status -o json",
            "-o json status",
        ] {
            let cli = Cli::parse_from(std::iter::once("holdfast").chain(line.split(' ')));
            assert_eq!(cli.global.format(), Format::Json, "{line}");
        }
    }

    #[test]
    fn a_tokens_life_is_bounded() {
        assert_eq!(ttl("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(ttl("30m"), Ok(Duration::from_secs(1800)));
        for text in ["0s", "25h", "-1h", "soon", ""] {
            assert!(ttl(text).is_err(), "{text}");
        }
    }
}
