//! What can be typed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::examples;
use crate::money::{self, Money};
use crate::output::Format;

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 failed; 2 wrong usage; 3 the answer is that something is unhealthy; \
4 no node answered, or not in time: it may still be done; 5 refused by a safety check; 6 not found; \
7 of `serve`: the node was removed from its cluster; 70 of `serve`: it could not go on safely, its log says why.

When something is wrong: `holdfast status` says how the cluster stands, `holdfast events` what is not well, \
with its page in /usr/share/doc/holdfast/runbooks where there is one (certificates: `holdfast doctor`).";

/// A backup MX that loses nothing: several nodes hold the mail while a primary is down.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten, next_help_heading = "Options for every command")]
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
    /// A node elsewhere to ask, with --identity, at its admin.listen [default: $HOLDFAST_NODE]
    #[arg(
        id = "node_afar",
        long = "node",
        global = true,
        value_name = "HOST:PORT",
        conflicts_with = "socket"
    )]
    pub(crate) node: Option<String>,
    /// What `holdfast access grant` wrote, to ask a node elsewhere [default: $HOLDFAST_IDENTITY,
    /// then ~/.config/holdfast/identity.pem]
    #[arg(
        id = "identity_afar",
        long = "identity",
        global = true,
        value_name = "FILE"
    )]
    pub(crate) identity: Option<PathBuf>,
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
    /// The file given with `--config`; ends the process as clap does where it was not.
    pub(crate) fn needed_config(&self, why: &str) -> &Path {
        let Some(file) = &self.config else {
            Cli::command()
                .error(ErrorKind::MissingRequiredArgument, why)
                .exit();
        };
        file
    }

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
    /// Run the node whose file --config names, until SIGTERM
    #[command(after_help = examples::SERVE)]
    Serve(Serve),
    /// Look at configuration files
    #[command(subcommand)]
    Config(Config),
    /// Whether this machine is fit to hold mail: its clock, disk, ports, names, certificates and
    /// the other nodes, each with its mend (exit 3 on a fault)
    #[command(after_help = examples::DOCTOR)]
    Doctor,
    /// The cluster's health and the mail it holds
    Status {
        /// Tell instead what this node's replicated rows come to: after the same entry, every
        /// node tells the same
        #[arg(long)]
        state_hash: bool,
    },
    /// The cluster on one screen, as it changes: health, nodes, rates, domains with held mail and
    /// when each is tried next. q quits, space pauses, arrows and PgUp/PgDn move through the domains
    Top,
    /// What is not well: nodes, primaries, held mail, quotas (exit 3 if anything); and with
    /// --follow what changes from now on
    #[command(after_help = examples::EVENTS)]
    Events {
        /// Go on until interrupted
        #[arg(long)]
        follow: bool,
    },
    /// Start a cluster, and change who belongs to it
    #[command(subcommand)]
    Cluster(Cluster),
    /// Take a node out of work to stop it and put it back, or replace one that is lost
    #[command(subcommand)]
    Node(Node),
    /// The customers' domains and their primaries
    #[command(subcommand)]
    Domain(Domain),
    /// The mail that is held
    #[command(subcommand)]
    Mail(Mail),
    /// The people who look after domains in the portal, and their programs' tokens
    #[command(subcommand)]
    Account(Account),
    /// What customers pay for, and what it gives their domains
    #[command(subcommand)]
    Plan(Plan),
    /// What domains used in a month, and what is to be paid for it
    #[command(after_help = examples::USAGE)]
    Usage(Usage),
    /// Copies of everything that the cluster knows and holds
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Rehearse failures with mail of its own, and measure what they cost
    #[command(subcommand)]
    Drill(Drill),
    /// Who may use nodes from elsewhere, and for what
    #[command(subcommand)]
    Access(Access),
    /// Who did what, when, and from where
    #[command(after_help = examples::AUDIT)]
    Audit(Audit),
    /// Run a sandbox cluster on this machine until interrupted
    #[command(after_help = examples::DEV)]
    Dev(Dev),
    /// Watch a cluster lose its leader and no mail (half a minute)
    Demo(Demo),
    /// Write the manual's pages and the shells' completions, for packages
    #[command(hide = true)]
    Generate { dir: PathBuf },
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
    #[command(after_help = examples::CONFIG_CHECK)]
    Check {
        /// The node's file
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Make this node the first of a new cluster
    Init,
    /// Print a token with which one more node may join, once
    #[command(after_help = examples::CLUSTER_INVITE)]
    Invite {
        /// How long the token is good for
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = ttl)]
        ttl: Duration,
    },
    /// Let this node join the cluster that made the token
    #[command(after_help = examples::CLUSTER_JOIN)]
    Join {
        /// The token, or - to read it from standard input, where no process list shows it
        token: String,
    },
    /// Remove a node for good; its id is never used again
    #[command(after_help = examples::CLUSTER_LEAVE)]
    Leave {
        /// Name or id
        node: String,
        /// Only say what would happen
        #[arg(long)]
        dry_run: bool,
    },
    /// The nodes and how many of them may fail
    Status,
    /// Give the cluster another certificate authority while it runs, and show how far that is. May
    /// be interrupted: it goes on, and typed again this follows it
    RotateCa {
        /// Drop the old authority, once every node has moved to the new one
        #[arg(long)]
        finish: bool,
        /// Only say what would happen
        #[arg(long)]
        dry_run: bool,
    },
    /// One certificate for the names of all nodes, ordered from an authority and renewed by the cluster,
    /// for STARTTLS and the portal
    #[command(subcommand)]
    Acme(Acme),
    /// Hand leadership to another node
    TransferLeader {
        /// Name or id [default: whoever is most up to date]
        node: Option<String>,
        /// Only say what would happen
        #[arg(long)]
        dry_run: bool,
    },
    /// When a quorum is lost for good: found a cluster anew from a survivor that is stopped
    #[command(subcommand)]
    Recover(Recover),
    /// After an upgrade: use what the new version brings, once every node runs it. Older versions
    /// cannot run in the cluster after that
    FinalizeUpgrade {
        /// Only say whether it would be done
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Acme {
    /// Order it by ACME (RFC 8555), now and whenever it is to be renewed or a node comes or goes. Each
    /// node's name must lead to a node with [acme] listen on port 80. Typed again, an order that failed is
    /// tried at once
    #[command(after_help = examples::CLUSTER_ACME_USE)]
    Use {
        /// The authority's directory, an https:// URL
        #[arg(long, value_name = "URL")]
        directory: String,
        /// Where the authority may write to, such as mailto:ops@example.org; may be repeated
        #[arg(long = "contact", value_name = "URL")]
        contacts: Vec<String>,
        /// You agree to the authority's terms of service, for all orders
        #[arg(long, required = true)]
        agree: bool,
        /// PEM file with the only authorities that the directory's own certificate may be of [default:
        /// those that the machine trusts]
        #[arg(long, value_name = "FILE")]
        ca_file: Option<PathBuf>,
        /// Only say whether it would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// The certificate, the next order, and why the last one failed
    Show,
    /// Order no more, and forget the account and the certificate with its key
    Stop {
        /// Only say what would happen
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// Give a dead node's place to another in one step; its certificate is refused from then on
    #[command(after_help = examples::NODE_REPLACE)]
    Replace(Replace),
    /// Free a node of its work, and wait until it is safe to stop: it takes no mail (421 to new
    /// connections), and gives leadership and deliveries to the others. It still votes. Refused
    /// where the cluster could not go on without it. May be interrupted, and typed again
    #[command(after_help = examples::NODE_DRAIN)]
    Drain {
        /// Name or id
        node: String,
        /// Only say whether it would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Give a drained node its work back
    Undrain {
        /// Name or id
        node: String,
        /// Only say what would happen
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Replace {
    /// The node that is lost for good: name or id
    pub(crate) dead: String,
    /// The node that takes its place, which has joined with a token: name or id
    #[arg(long, value_name = "NEW")]
    pub(crate) with: String,
    /// Only say what would happen
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Domain {
    /// Take a new domain under protection
    #[command(after_help = examples::DOMAIN_ADD)]
    Add(DomainWithPrimary),
    /// Change the primary of a domain, or what becomes of its mail; what is not named stays as it is
    #[command(after_help = examples::DOMAIN_SET)]
    Set(DomainChange),
    /// All domains
    List,
    /// One domain: what becomes of its mail now, and why
    Show {
        /// The domain
        name: String,
    },
    /// List a domain's recipients, one a line; or change the list
    #[command(after_help = examples::DOMAIN_RECIPIENTS)]
    Recipients(Recipients),
    /// List what the primary said when it was asked about recipients; or forget it
    Verdicts(Verdicts),
    /// Say how mail goes to a domain's primary, or print it: by MX, by LMTP, under which TLS, with
    /// which login
    #[command(after_help = examples::DOMAIN_ROUTE)]
    Route(Route),
    /// Say who may ask for a domain's held mail with ETRN, finger or ATRN: `anybody`, `nobody`, or the
    /// clients in some networks. The mail goes to the primary, whoever asks
    #[command(after_help = examples::DOMAIN_ASKERS)]
    Askers {
        /// The domain
        name: String,
        /// `anybody`, `nobody`, or networks such as 192.0.2.0/24
        #[arg(required = true)]
        who: Vec<String>,
    },
    /// The lines to add to a domain's zone, as BIND reads them
    Dns {
        /// The domain
        name: String,
        /// How many of our nodes: one, or several in different regions [default: as many as the
        /// domain's plan says, or 3]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10))]
        hosts: Option<u32>,
    },
    /// Look at a domain's DNS and its primary from every node, and tell how to mend each fault
    /// (exit 3 if there is one)
    Check {
        /// The domain
        name: String,
    },
    /// Stop accepting mail for a domain; refused while mail is held for it (then see `mail
    /// requeue`, `mail bounce` and `mail discard`)
    Remove {
        /// The domain
        name: String,
        /// Only say whether it would be done
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Args, Debug)]
pub(crate) struct DomainWithPrimary {
    /// The domain
    pub(crate) name: String,
    /// Where its mail is delivered; `mx`: to the hosts that its MX records name before ours
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) primary: String,
    #[command(flatten)]
    pub(crate) policy: Policy,
    #[command(flatten)]
    pub(crate) subscription: Subscription,
    /// Only say whether it would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DomainChange {
    /// The domain
    pub(crate) name: String,
    /// Where its mail is delivered; `mx`: to the hosts that its MX records name before ours
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) primary: Option<String>,
    #[command(flatten)]
    pub(crate) policy: Policy,
    #[command(flatten)]
    pub(crate) subscription: Subscription,
    /// Only say whether it would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

impl DomainChange {
    pub(crate) fn names_nothing(&self) -> bool {
        self.primary.is_none()
            && self.policy == Policy::default()
            && self.subscription == Subscription::default()
    }
}

/// What becomes of a domain's mail; what is not named stays as it is.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Policy {
    /// How long mail is held, also mail that is held already: 5d, 30d, …; `quota` for without end
    /// [of a new one: 5d]
    #[arg(long, value_name = "TIME", value_parser = hold)]
    pub(crate) hold: Option<u64>,
    /// Tell senders after this time that their mail is late: 4h, …; `never` [of a new one: never]
    #[arg(long, value_name = "TIME", value_parser = delay)]
    pub(crate) delay_notice: Option<u64>,
    /// How long a primary that is back must have taken mail before its refusals (5xx) are believed
    /// and bounced: 10m, …; `none` believes all, `endless` keeps all until you decide
    /// [of a new one: 10m]
    #[arg(long, value_name = "TIME", value_parser = probation)]
    pub(crate) probation: Option<u64>,
    /// Most mail that is held at once: 500MB, 10GB, …; `none` for no limit [of a new one: none]
    #[arg(long, value_name = "BYTES", value_parser = octets)]
    pub(crate) quota: Option<u64>,
    /// Most messages that are held at once; `none` for no limit [of a new one: none]
    #[arg(long, value_name = "N", value_parser = messages)]
    pub(crate) quota_messages: Option<u64>,
    /// What a sender is told when the quota is full: to try again `later` (452), or `never` (552)
    /// [of a new one: later]
    #[arg(long, value_enum, value_name = "WHEN")]
    pub(crate) when_full: Option<WhenFull>,
    /// Take mail for `any` recipient, or only for those `listed` with `domain recipients`; or
    /// `verify`: ask the primary, and remember what it says (`domain verdicts`) [of a new one: any]
    #[arg(long, value_enum, value_name = "WHOSE")]
    pub(crate) recipients: Option<Taken>,
    /// What parts a listed name from a sub-address, as in joe+lists; `none` [of a new one: +]
    #[arg(long, value_name = "CHAR", value_parser = delimiter)]
    pub(crate) delimiter: Option<u32>,
    /// How long the primary's yes to a recipient is not asked for again [of a new one: 24h]
    #[arg(long, value_name = "TIME", value_parser = passing)]
    pub(crate) keep_yes: Option<u64>,
    /// How long its no to a recipient is believed [of a new one: 30m]
    #[arg(long, value_name = "TIME", value_parser = passing)]
    pub(crate) keep_no: Option<u64>,
    /// How often the primary is looked at while no mail is held [of a new one: 5m]
    #[arg(long, value_name = "TIME", value_parser = passing)]
    pub(crate) probe: Option<u64>,
    /// Ping a primary that cannot be reached, to tell whether its mail server is down, or its machine
    /// or line; a hint, on which nothing else depends [of a new one: no]
    #[arg(long, value_enum, value_name = "WHETHER")]
    pub(crate) ping: Option<YesNo>,
    /// Hand out mail by ATRN (RFC 2645) to whoever logs in with an account of the domain, from an
    /// address that may ask for delivery (`domain askers`) [of a new one: no]
    #[arg(long, value_enum, value_name = "WHETHER")]
    pub(crate) atrn: Option<YesNo>,
    /// While the primary is up: `relay` mail to it at once, or `defer` it (451), so that senders go
    /// there; a sender that comes back again and again is taken for one that cannot
    /// [of a new one: relay]
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) while_up: Option<WhileUp>,
    /// Deliver to the primary `always`; or only while somebody is `signed-in` in the portal, and to
    /// the address they are signed in from; or, with `signed-in-host`, to the primary while they are
    /// [of a new one: always]
    #[arg(long, value_enum, value_name = "WHEN")]
    pub(crate) deliver: Option<Deliver>,
}

#[derive(Args, Debug)]
pub(crate) struct Verdicts {
    /// The domain
    pub(crate) name: String,
    /// Forget what the primary said of these, so that it is asked again
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) forget: Vec<String>,
    /// Forget all of it
    #[arg(long, conflicts_with = "forget")]
    pub(crate) flush: bool,
}

/// What a domain has of plans; what is not named stays as it is.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub(crate) struct Subscription {
    /// The plan it is on; `none`. What is set for the domain itself goes before what the plan says
    #[arg(long, value_name = "NAME")]
    pub(crate) plan: Option<String>,
    /// Steps of extra quota, beside what the plan includes
    #[arg(long, value_name = "N")]
    pub(crate) extra_steps: Option<u32>,
    /// Forget the domain's own --quota, --quota-messages, --hold, --when-full, --probe and --ping, so that the
    /// plan's are in force
    #[arg(
        long,
        conflicts_with_all = ["quota", "quota_messages", "hold", "when_full", "probe", "ping"]
    )]
    pub(crate) follow_plan: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Snapshot {
    /// Write a copy of all domains, accounts, keys and held mail to a file; guard it as you guard the
    /// mail itself
    #[command(after_help = examples::SNAPSHOT_SAVE)]
    Save {
        /// Where to; must not be there yet
        file: PathBuf,
        /// Of the stopped node whose file --config names, instead of a running one
        #[arg(long)]
        stopped: bool,
    },
    /// Check a copy, and say what is in it (exit 3 if it is damaged)
    Inspect {
        /// The copy
        file: PathBuf,
    },
    /// Found a new cluster from a copy, in the empty data directory of the node whose file --config
    /// names. Held mail is set aside until you release it: it may have been delivered since
    #[command(after_help = examples::SNAPSHOT_RESTORE)]
    Restore {
        /// The copy
        file: PathBuf,
        /// A copy of another node of the same cluster, for what the first one lacks
        #[arg(long, value_name = "FILE")]
        with: Vec<PathBuf>,
        /// Deliver held mail at once; what was delivered since the copy arrives twice
        #[arg(long)]
        deliver: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Recover {
    /// How far the log of a stopped node goes, and what it holds
    #[command(after_help = examples::CLUSTER_RECOVER_INSPECT)]
    Inspect,
    /// Found a new cluster from what a stopped node has, with it as the only member. The old data is
    /// kept beside it, and nodes of the old cluster can never come back
    #[command(after_help = examples::CLUSTER_RECOVER_START)]
    Start {
        /// What another survivor has, as its `snapshot save --stopped` wrote it; once for each
        #[arg(long, value_name = "COPY")]
        with: Vec<PathBuf>,
        /// Only say what would be kept
        #[arg(long)]
        dry_run: bool,
        /// Deliver held mail at once; what the lost nodes delivered arrives twice
        #[arg(long)]
        deliver: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Drill {
    /// Rehearse a failure now: nodes pretend it, canaries measure it, and each node ends its part
    /// by itself (exit 3 unless it passed, 5 if the cluster could not afford it)
    #[command(after_help = examples::DRILL_RUN)]
    Run(DrillRun),
    /// The drills that are remembered
    List,
    /// What a drill measured; the last one if none is named
    Show {
        /// As `drill list` shows it
        id: Option<String>,
        /// Write the report as a page
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
    },
    /// End the drill that is under way
    Stop,
    /// Drills that begin by themselves
    #[command(subcommand)]
    Schedule(Schedule),
}

#[derive(Args, Debug)]
pub(crate) struct DrillRun {
    /// What fails
    #[arg(long, value_enum)]
    pub(crate) kind: DrillKind,
    /// The region that fails (region-loss, partition) [default: the smallest, not this node's]
    #[arg(long)]
    pub(crate) region: Option<String>,
    /// The node that fails (node-loss, disk-full), by name or id [default: one that does not lead]
    #[arg(long, value_name = "NODE")]
    pub(crate) target: Option<String>,
    /// How long it fails, at most 30m
    #[arg(long, value_name = "TIME", value_parser = passing, default_value = "5m")]
    pub(crate) duration: u64,
    /// Canaries a second
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) rate: u32,
    /// Write the report as a page
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Only say whether it could be done, and what would fail
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DrillKind {
    /// The leader is cut off from nodes and senders
    LeaderLoss,
    /// Another node is cut off from nodes and senders
    NodeLoss,
    /// All nodes of a region are cut off from other nodes and from senders
    RegionLoss,
    /// The nodes of a region are cut off from the others, and senders still reach both sides
    Partition,
    /// The server that canaries are delivered to is down
    PrimaryOutage,
    /// A node's disk counts as full
    DiskFull,
}

impl DrillKind {
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Schedule {
    /// Have a drill begin by itself, the first after one interval; one that the cluster cannot
    /// afford then is tried again every hour
    #[command(after_help = examples::DRILL_SCHEDULE_SET)]
    Set {
        /// Letters, digits and ._-
        name: String,
        /// What fails
        #[arg(long, value_enum)]
        kind: DrillKind,
        /// The region that fails [default: each in turn]
        #[arg(long)]
        region: Option<String>,
        /// From one drill to the next, at least 1h
        #[arg(long, value_name = "TIME", value_parser = interval)]
        every: u64,
        /// How long the failure lasts, at most 30m
        #[arg(long, value_name = "TIME", value_parser = passing, default_value = "5m")]
        duration: u64,
        /// Canaries a second
        #[arg(long, value_name = "N", default_value_t = 5)]
        rate: u32,
    },
    /// The schedules, and when each is due
    List,
    /// Begin it no more
    Remove {
        /// As `drill schedule list` shows it
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Plan {
    /// Offer a new plan
    #[command(after_help = examples::PLAN_ADD)]
    Add {
        /// Letters, digits and ._-
        name: String,
        /// What a month costs: "5.00 EUR", …
        #[arg(long, value_name = "MONEY", value_parser = money::parse)]
        price: Money,
        #[command(flatten)]
        offer: Offer,
    },
    /// Change what a plan offers, at once for all domains that are on it; what is not named stays as it
    /// is, and the month that runs is billed by the new price
    Set {
        /// The plan
        name: String,
        /// What a month costs: "5.00 EUR", …
        #[arg(long, value_name = "MONEY", value_parser = money::parse)]
        price: Option<Money>,
        #[command(flatten)]
        offer: Offer,
    },
    /// All plans
    List,
    /// One plan
    Show {
        /// The plan
        name: String,
    },
    /// Offer a plan no more; refused while a domain is on it
    Remove {
        /// The plan
        name: String,
    },
}

/// What a plan gives its domains; what is not named stays as it is, or is as for a domain on no
/// plan.
#[derive(Args, Clone, Debug)]
pub(crate) struct Offer {
    /// Mail that may be held at once: 500MB, 10GB, …; `none` for no limit [of a new one: none]
    #[arg(long, value_name = "BYTES", value_parser = octets)]
    pub(crate) quota: Option<u64>,
    /// Messages that may be held at once; `none` for no limit [of a new one: none]
    #[arg(long, value_name = "N", value_parser = messages)]
    pub(crate) quota_messages: Option<u64>,
    /// What one step of extra quota adds: 1GB, …; `none`: there are no steps [of a new one: none]
    #[arg(long, value_name = "BYTES", value_parser = octets)]
    pub(crate) step: Option<u64>,
    /// What a month of one step costs: "2.00 EUR", …
    #[arg(long, value_name = "MONEY", value_parser = money::parse)]
    pub(crate) step_price: Option<Money>,
    /// How many of our hosts `domain dns` tells to put into the domain's MX records [of a new one: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10))]
    pub(crate) hosts: Option<u32>,
    /// How long mail is held: 5d, 30d, …; `quota` for without end [of a new one: 5d]
    #[arg(long, value_name = "TIME", value_parser = hold)]
    pub(crate) hold: Option<u64>,
    /// What a sender is told when the quota is full: to try again `later` (452), or `never` (552)
    /// [of a new one: later]
    #[arg(long, value_enum, value_name = "WHEN")]
    pub(crate) when_full: Option<WhenFull>,
    /// How often a primary is looked at while no mail is held [of a new one: 5m]
    #[arg(long, value_name = "TIME", value_parser = passing)]
    pub(crate) probe: Option<u64>,
    /// Ping a primary that cannot be reached, to tell whether its mail server is down, or its machine
    /// or line; a hint, on which nothing else depends [of a new one: no]
    #[arg(long, value_enum, value_name = "WHETHER")]
    pub(crate) ping: Option<YesNo>,
}

#[derive(Args, Debug)]
pub(crate) struct Usage {
    /// A calendar month in UTC, of the last 24 [default: the one that runs]
    #[arg(long, value_name = "YYYY-MM")]
    pub(crate) month: Option<String>,
    /// Only this domain
    #[arg(long)]
    pub(crate) domain: Option<String>,
    /// Print comma-separated values (RFC 4180), for a spreadsheet
    #[arg(long, conflicts_with_all = ["json", "output"])]
    pub(crate) csv: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Route {
    /// The domain
    pub(crate) name: String,
    /// To the configured `primary`, or to the hosts that the domain's `mx` records name before ours
    #[arg(long, value_enum, value_name = "WHERE")]
    pub(crate) to: Option<To>,
    /// By which protocol
    #[arg(long, value_enum)]
    pub(crate) protocol: Option<Protocol>,
    /// TLS where it is offered (`opportunistic`); no mail without it (`required`); nor to a
    /// certificate that is not good for the host's name (`verified`)
    #[arg(long, value_enum, value_name = "WHEN")]
    pub(crate) tls: Option<Tls>,
    /// Log in there under this name; needs TLS that is required
    #[arg(long, value_name = "USER", requires = "secret_file")]
    pub(crate) login: Option<String>,
    /// The login's secret, the only line of a file, or of standard input: -
    #[arg(long, value_name = "FILE", requires = "login")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Log in no more
    #[arg(long, conflicts_with = "login")]
    pub(crate) no_login: bool,
    /// No mail to another public key than this: the SHA-256 of its SubjectPublicKeyInfo
    #[arg(long, value_name = "HEX")]
    pub(crate) pin: Option<String>,
    /// Any key again
    #[arg(long, conflicts_with = "pin")]
    pub(crate) no_pin: bool,
    /// Mail for hosts below the domain, as user@pc.example.org: taken, held for each host, and
    /// delivered to the machine it names (`direct`), or refused
    #[arg(long, value_enum, value_name = "HOW")]
    pub(crate) hosts: Option<Hosts>,
    /// Whether a host's name may lead to a private or loopback address; one that is configured as an
    /// address may always be used
    #[arg(long, value_enum, value_name = "WHETHER")]
    pub(crate) private_addresses: Option<Permission>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum Hosts {
    Direct,
    Refuse,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum To {
    Primary,
    Mx,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum Protocol {
    Smtp,
    Lmtp,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum Tls {
    Opportunistic,
    Required,
    Verified,
}

impl Tls {
    /// As the nodes read it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Opportunistic => "opportunistic",
            Self::Required => "required",
            Self::Verified => "verified",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum Permission {
    Allow,
    Refuse,
}

#[derive(Args, Debug)]
pub(crate) struct Recipients {
    /// The domain
    pub(crate) name: String,
    /// Names or addresses; `*` for everyone
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) add: Vec<String>,
    /// Names or addresses that are no recipients any more
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) remove: Vec<String>,
    /// Add what stands in a file, one a line; - for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) import: Option<PathBuf>,
    /// Forget the list as it was, before anything is added
    #[arg(long)]
    pub(crate) clear: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum Taken {
    Any,
    Listed,
    Verify,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum YesNo {
    Yes,
    No,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum Deliver {
    Always,
    SignedIn,
    SignedInHost,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum WhileUp {
    Relay,
    Defer,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum WhenFull {
    Later,
    Never,
}

/// Longest span of a policy: a typing error must not hold mail for a century by accident, and
/// nobody wants to be told of mail of last year.
const POLICY_SPAN_MAX: Duration = Duration::from_secs(400 * 24 * 3600);

fn hold(text: &str) -> Result<u64, String> {
    span_or(text, "quota", 0, Duration::from_secs(60))
}

fn delay(text: &str) -> Result<u64, String> {
    span_or(text, "never", 0, Duration::from_secs(60))
}

fn probation(text: &str) -> Result<u64, String> {
    match text {
        "endless" => Ok(u64::MAX),
        _ => span_or(text, "none", 0, Duration::from_secs(1)),
    }
}

/// Milliseconds.
fn passing(text: &str) -> Result<u64, String> {
    match span_or(text, "0s", 0, Duration::from_secs(1)) {
        Ok(ms) if ms > 0 => Ok(ms),
        _ => Err("not a time span such as 5d, 12h or 30m, up to 400d".to_owned()),
    }
}

/// Milliseconds from one drill to the next: each is felt a little.
fn interval(text: &str) -> Result<u64, String> {
    match passing(text)? {
        0..3_600_000 => Err("must be at least 1h".to_owned()),
        ms => Ok(ms),
    }
}

/// Milliseconds, or `number` for `word`.
fn span_or(text: &str, word: &str, number: u64, least: Duration) -> Result<u64, String> {
    if text == word {
        return Ok(number);
    }
    let span = text
        .parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|span| Duration::try_from(span).ok())
        .or_else(|| days(text))
        .ok_or_else(|| format!("not a time span such as 5d, 12h or 30m, nor `{word}`"))?;
    if span < least || span > POLICY_SPAN_MAX {
        return Err(format!(
            "must be between {}s and {}d, or `{word}`",
            least.as_secs(),
            POLICY_SPAN_MAX.as_secs() / 86_400
        ));
    }
    u64::try_from(span.as_millis()).map_err(|error| error.to_string())
}

/// `5d`: days are 24 hours here, whatever a calendar says.
fn days(text: &str) -> Option<Duration> {
    let number: u64 = text.strip_suffix('d')?.parse().ok()?;
    Some(Duration::from_secs(number.checked_mul(86_400)?))
}

fn octets(text: &str) -> Result<u64, String> {
    if text == "none" {
        return Ok(0);
    }
    let upper = text.to_ascii_uppercase();
    let digits = upper.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &upper[digits.len()..] {
        "" | "B" => 1,
        "K" | "KB" => 1_000,
        "M" | "MB" => 1_000_000,
        "G" | "GB" => 1_000_000_000,
        "T" | "TB" => 1_000_000_000_000_u64,
        _ => return Err("not a size such as 500MB or 10GB, nor `none`".to_owned()),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "not a size such as 500MB or 10GB, nor `none`".to_owned())?;
    number
        .checked_mul(unit)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "must be more than nothing; `none` for no limit".to_owned())
}

fn delimiter(text: &str) -> Result<u32, String> {
    let mut chars = text.chars();
    match (text, chars.next(), chars.next()) {
        ("none", ..) => Ok(0),
        (_, Some(c), None) if c.is_ascii_punctuation() && c != '@' && c != '"' => Ok(u32::from(c)),
        _ => Err("not one character such as + or -, nor `none`".to_owned()),
    }
}

fn messages(text: &str) -> Result<u64, String> {
    match text {
        "none" => Ok(0),
        _ => text
            .parse()
            .ok()
            .filter(|number| *number > 0)
            .ok_or_else(|| "not a number above 0, nor `none`".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Mail {
    /// Mail, domain by domain and oldest first: what waits, was refused, is kept back or was deleted
    #[command(after_help = examples::MAIL_LIST)]
    List(ListMail),
    /// Everything about one message that is held: its recipients and why it waits, its header, and
    /// which nodes have it
    Show {
        /// As `mail list` shows it
        id: String,
    },
    /// The whole story of messages, as every node saw it: who brought them, refusals that never
    /// became mail, each attempt with its reply, what was done by hand. Told from each node's own
    /// history, which goes back 30 days at most
    #[command(after_help = examples::MAIL_TRACE)]
    Trace(TraceMail),
    /// Try now to deliver what is held for a domain, or for the domains of such mail, without
    /// waiting for the next automatic try
    #[command(after_help = examples::MAIL_DELIVER)]
    #[command(alias = "flush")]
    Deliver(WhichDomains),
    /// Try refused mail again, as if it had just arrived
    Requeue(Which),
    /// Drop refused mail for good; nobody is told
    Discard(WhichHeld),
    /// Give refused mail back to its senders
    #[command(after_help = examples::MAIL_BOUNCE)]
    Bounce(WhichHeld),
    /// Keep mail back: it is neither delivered nor given back until it is released
    Hold(Which),
    /// Deliver mail that is kept back
    Release(Which),
    /// Delete mail; nobody is told, and for 24 h it can be had back
    #[command(after_help = examples::MAIL_DELETE)]
    Delete(Which),
    /// Have deleted mail back
    Undelete(Which),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Access {
    /// Let somebody use a node from elsewhere (its admin.listen), and write the file they need. A
    /// name that has access gets it anew: the file from before is void
    #[command(after_help = examples::ACCESS_GRANT)]
    Grant {
        /// Lower-case letters, digits and hyphens
        name: String,
        /// viewer: look; operator: and run domains, mail and maintenance; admin: and say who
        /// belongs to the cluster and who has access
        #[arg(long, value_parser = ["viewer", "operator", "admin"])]
        role: String,
        /// Where their certificate and key go; must not exist
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// How long it is good for, a year at most
        #[arg(long = "valid", value_name = "TIME", default_value = "90d", value_parser = passing)]
        valid_ms: u64,
    },
    /// Everybody who has access
    List,
    /// Take somebody's access away, at once and on every node
    Revoke {
        /// As `access list` shows it
        name: String,
        /// Only say what would happen
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Audit {
    /// Only what concerns this domain
    #[arg(long)]
    pub(crate) domain: Option<String>,
    /// Only what this person did: an account, a user of a node's machine, or a name that was given
    /// access
    #[arg(long, value_name = "NAME")]
    pub(crate) by: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Account {
    /// Add a person who looks after domains; a password is made up and printed
    #[command(after_help = examples::ACCOUNT_ADD)]
    Add {
        /// Letters, digits and ._@+-; best an e-mail address
        name: String,
        /// What they look after; may be repeated
        #[arg(long = "domain", value_name = "DOMAIN", value_delimiter = ',')]
        domains: Vec<String>,
        /// Take the password from this file instead
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Change what somebody looks after
    Set {
        /// As `account list` shows it
        name: String,
        /// All their domains from now on; `none` for no domain
        #[arg(long = "domain", value_name = "DOMAIN", value_delimiter = ',')]
        domains: Vec<String>,
        /// Ask for no codes any more, for who lost their device
        #[arg(long)]
        without_second_factor: bool,
        /// Recipients that they may send to in an hour; 0: the default, 1000
        #[arg(long, value_name = "N")]
        send_recipients: Option<u64>,
        /// Mail that they may hand in in an hour, such as 500M; 0: the default, 1G
        #[arg(long, value_name = "SIZE", value_parser = octets)]
        send_bytes: Option<u64>,
    },
    /// Give somebody a new password, and sign them out everywhere
    Password {
        /// As `account list` shows it
        name: String,
        /// Take the password from this file; otherwise one is made up and printed
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Let somebody try again who failed to sign in too often
    Unlock {
        /// As `account list` shows it
        name: String,
    },
    /// End all of somebody's sessions
    SignOut {
        /// As `account list` shows it
        name: String,
    },
    /// Remove somebody, with sessions and tokens
    Remove {
        /// As `account list` shows it
        name: String,
    },
    /// Everybody, with their domains and when they signed in last
    List,
    /// Keys for programs, for the HTTP API
    #[command(subcommand)]
    Token(Token),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token; it is printed once
    #[command(after_help = examples::ACCOUNT_TOKEN_ADD)]
    Add {
        /// As `account list` shows it
        account: String,
        /// What it is for
        #[arg(
            long,
            value_name = "TEXT",
            default_value = "",
            hide_default_value = true
        )]
        label: String,
        /// What it may do: read, deliver, mail, settings, send, fetch
        #[arg(
            long = "scope",
            value_name = "SCOPE",
            value_delimiter = ',',
            required = true
        )]
        scopes: Vec<String>,
        /// How long it is good; otherwise until it is removed
        #[arg(long = "valid", value_name = "TIME", value_parser = passing)]
        valid_ms: Option<u64>,
    },
    /// The tokens of an account
    List {
        /// As `account list` shows it
        account: String,
    },
    /// Refuse a token from now on
    Remove {
        /// As `account list` shows it
        account: String,
        /// As `account token list` shows it
        id: String,
    },
}

/// Which mail; more than one narrows it down.
#[derive(Args, Debug)]
#[group(id = "filter", multiple = true)]
pub(crate) struct Filter {
    /// Mail to a domain; without it, to all
    #[arg(long)]
    pub(crate) domain: Option<String>,
    /// From senders whose address contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) from: Option<String>,
    /// To recipients whose address contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) to: Option<String>,
    /// Received longer ago: 30m, 2h, 3d, …
    #[arg(long = "older", value_name = "TIME", value_parser = passing)]
    pub(crate) older_ms: Option<u64>,
    /// Received since: 30m, 2h, 3d, …
    #[arg(long = "newer", value_name = "TIME", value_parser = passing)]
    pub(crate) newer_ms: Option<u64>,
    /// Of at least so many bytes: 100kB, 5MB, …
    #[arg(long, value_name = "BYTES", value_parser = octets)]
    pub(crate) larger: Option<u64>,
    /// Of fewer bytes
    #[arg(long, value_name = "BYTES", value_parser = octets)]
    pub(crate) smaller: Option<u64>,
    /// Of which the primary's last reply contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) reply: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct WhichDomains {
    /// Messages, as `mail list` shows them
    #[arg(value_name = "ID", required_unless_present = "filter")]
    pub(crate) ids: Vec<String>,
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Only say which domains, and how many messages they have
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Args, Debug)]
pub(crate) struct TraceMail {
    /// Messages, as `mail list` and the reply to the sender (`250 … Ok: ID`) name them
    #[arg(value_name = "ID", required_unless_present = "traced")]
    pub(crate) ids: Vec<String>,
    #[command(flatten)]
    pub(crate) whose: Traced,
    /// Not what is longer ago: 30m, 2h, 3d, … [default: 1d without an ID]
    #[arg(long = "since", value_name = "TIME", value_parser = passing)]
    pub(crate) since_ms: Option<u64>,
    /// Only what is longer ago
    #[arg(long = "until", value_name = "TIME", value_parser = passing)]
    pub(crate) until_ms: Option<u64>,
}

/// Whose mail is traced; more than one narrows it down.
#[derive(Args, Debug)]
#[group(id = "traced", multiple = true)]
pub(crate) struct Traced {
    /// Mail from senders whose address contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) from: Option<String>,
    /// Mail to recipients whose address contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) to: Option<String>,
    /// What came from this address
    #[arg(long, value_name = "IP")]
    pub(crate) client: Option<std::net::IpAddr>,
    /// The message whose Message-ID field says this
    #[arg(long, value_name = "ID")]
    pub(crate) message_id: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct ListMail {
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Only what waits for delivery; these four can be combined
    #[arg(long)]
    pub(crate) held: bool,
    /// Only what the primary refused (5xx) and is kept
    #[arg(long)]
    pub(crate) refused: bool,
    /// Only what somebody keeps back
    #[arg(long)]
    pub(crate) aside: bool,
    /// Only what somebody deleted and can be had back
    #[arg(long)]
    pub(crate) deleted: bool,
    /// At most so many; 0: all. For a table 100 unless said otherwise, for JSON all
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
}

#[derive(Args, Debug)]
pub(crate) struct Which {
    /// Messages, as `mail list` shows them
    #[arg(value_name = "ID", required_unless_present = "filter")]
    pub(crate) ids: Vec<String>,
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Only say how many messages it would be, and how much
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask before something is done with mail that is not named one by one
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Args, Debug)]
pub(crate) struct WhichHeld {
    #[command(flatten)]
    pub(crate) which: Which,
    /// What waits for delivery too, not only what was refused
    #[arg(long)]
    pub(crate) held: bool,
}

/// Most nodes of a sandbox: they share one machine.
const NODES_MAX: u64 = 7;

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Dev {
    #[command(subcommand)]
    pub(crate) verb: Option<InSandbox>,
    #[command(flatten)]
    pub(crate) sandbox: Option<Sandbox>,
}

#[derive(Args, Debug)]
pub(crate) struct Sandbox {
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
    /// The DNS server that the nodes of a new sandbox ask, instead of the system's
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) dns: Option<SocketAddr>,
    /// Where the nodes of a new sandbox send mail for other people's domains, instead of to their
    /// mail exchangers
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) relay: Option<SocketAddr>,
    /// The feature level of an older version that the nodes of a new sandbox behave as
    #[arg(long, hide = true)]
    pub(crate) level: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum InSandbox {
    /// Let time pass in a sandbox
    Clock(Clock),
}

#[derive(Args, Debug)]
pub(crate) struct Clock {
    /// The sandbox's folder
    #[arg(long)]
    pub(crate) dir: PathBuf,
    #[command(subcommand)]
    pub(crate) verb: MoveClock,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MoveClock {
    /// Move the clocks of all nodes on: held mail grows older, is tried again, is given back
    Advance {
        /// By how much: 5d, 12h, 30m, …
        #[arg(value_name = "TIME", value_parser = passing)]
        time_ms: u64,
    },
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
    fn every_example_can_be_typed() {
        let mut lines = Vec::new();
        examples_of(&Cli::command(), &mut lines);
        assert!(lines.len() > 40, "{lines:?}");
        for line in lines {
            let typed = line.split(" | ").next().unwrap();
            let typed = typed.split("   #").next().unwrap();
            let mut words = Vec::new();
            for (at, part) in typed.replace('\'', "\"").split('"').enumerate() {
                match at % 2 {
                    1 => words.push(part.to_owned()),
                    _ => words.extend(part.split_whitespace().map(str::to_owned)),
                }
            }
            let parsed = Cli::try_parse_from(words);
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }

    fn examples_of(command: &clap::Command, lines: &mut Vec<String>) {
        let text = command.get_after_help().map(ToString::to_string);
        let text = text.unwrap_or_default().replace("\\\n", "");
        let examples = text.lines().filter(|line| line.starts_with("  holdfast "));
        lines.extend(examples.map(str::to_owned));
        for inner in command.get_subcommands() {
            examples_of(inner, lines);
        }
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
    fn a_policy_is_written_as_people_write_it() {
        assert_eq!(hold("5d"), Ok(432_000_000));
        assert_eq!(hold("quota"), Ok(0));
        assert_eq!(delay("4h"), Ok(14_400_000));
        assert_eq!(probation("endless"), Ok(u64::MAX));
        assert_eq!(probation("none"), Ok(0));
        assert_eq!(octets("10GB"), Ok(10_000_000_000));
        assert_eq!(messages("none"), Ok(0));
        for text in ["", "5", "401d", "1s", "never", "-5d"] {
            assert!(hold(text).is_err(), "{text}");
        }
        for text in ["0", "1x", "MB", "99999999999TB"] {
            assert!(octets(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_domain_follows_its_plan_or_has_its_own_quota() {
        let parse = |line: &str| {
            let line = format!("holdfast domain set example.org {line}");
            Cli::try_parse_from(line.split(' ')).is_ok()
        };
        assert!(parse("--plan basic --follow-plan"));
        assert!(parse("--plan basic --extra-steps 2 --quota 1GB"));
        assert!(!parse("--follow-plan --quota 1GB"));
        assert!(!parse("--follow-plan --when-full never"));
        assert!(!parse("--follow-plan --probe 1m"));
        assert!(!parse("--follow-plan --ping yes"));
        assert!(!parse("--extra-steps -1"));
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
