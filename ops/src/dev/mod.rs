//! `holdfast dev`: a sandbox cluster on this machine, until interrupted.

mod clock;
mod layout;
mod ports;
mod sandbox;

use std::time::Duration;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{self, Dev, InSandbox};
use crate::failure::{Exit, Failure};
use crate::output::{self, Output};

pub(crate) use layout::Plan;
pub(crate) use ports::free as free_ports;
pub(crate) use sandbox::Sandbox;

const NODES_DEFAULT: u64 = 3;
const SMTP_PORT_DEFAULT: u16 = 2525;

/// How often the node processes are looked at.
const WATCH_EVERY: Duration = Duration::from_millis(200);

pub(crate) async fn run(args: Dev, output: Output) -> Result<Exit, Failure> {
    match (args.verb, args.sandbox) {
        (Some(InSandbox::Clock(clock)), _) => clock::run(clock, output).await,
        (None, Some(args)) => sandbox(&args, output).await,
        // clap asks for --dir before this.
        (None, None) => {
            Err(Failure::new("the sandbox was not started", "no --dir is given").exit(Exit::Usage))
        }
    }
}

async fn sandbox(args: &cli::Sandbox, output: Output) -> Result<Exit, Failure> {
    let failed = |error| Failure::new("the sandbox was not started", error);
    // Set up first: an interruption while nodes start must stop them too.
    let mut interrupted = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminated = signal(SignalKind::terminate()).map_err(failed)?;

    let plan = plan(args)?;
    let mut sandbox = tokio::select! {
        started = Sandbox::start(&args.dir, plan) => started?,
        _ = interrupted.recv() => return Ok(Exit::Done),
        _ = terminated.recv() => return Ok(Exit::Done),
    };
    announce(&sandbox, output)?;

    let mut watch = tokio::time::interval(WATCH_EVERY);
    loop {
        tokio::select! {
            _ = interrupted.recv() => break,
            _ = terminated.recv() => break,
            _ = watch.tick() => {
                for (name, how) in sandbox.newly_dead() {
                    eprintln!(
                        "{name} has stopped ({how}) and stays so; start it again with: holdfast serve --config {}",
                        sandbox.config(&name).display()
                    );
                }
            }
        }
    }
    eprintln!("Stopping the nodes.");
    sandbox.stop().await;
    Ok(Exit::Done)
}

fn plan(args: &cli::Sandbox) -> Result<Plan, Failure> {
    if let Some(found) = Plan::load(&args.dir)? {
        let other = |what: &str, has: String| {
            Failure::new(
                "the sandbox was not started",
                format!(
                    "{} already holds a sandbox with {what} {has}",
                    args.dir.display()
                ),
            )
            .exit(Exit::Refused)
            .fix("leave that option out, or choose another --dir")
        };
        if args
            .nodes
            .is_some_and(|nodes| nodes != found.nodes.len() as u64)
        {
            return Err(other("a number of nodes of", found.nodes.len().to_string()));
        }
        let first = found.nodes[0].smtp_port;
        if args.smtp_port.is_some_and(|port| port != first) {
            return Err(other("first SMTP port", first.to_string()));
        }
        if args.relay.is_some() && args.relay != found.relay {
            let has = found
                .relay
                .map_or("of no host".to_owned(), |relay| relay.to_string());
            return Err(other("a relay", has));
        }
        if args.dns.is_some() && args.dns != found.dns {
            let has = found
                .dns
                .map_or("of the system".to_owned(), |dns| dns.to_string());
            return Err(other("a DNS server", has));
        }
        return Ok(Plan {
            domain: args.domain.clone(),
            primary: args.primary.clone(),
            ..found
        });
    }
    let nodes = args.nodes.unwrap_or(NODES_DEFAULT);
    let first = args.smtp_port.unwrap_or(SMTP_PORT_DEFAULT);
    let smtp_ports: Vec<u16> = (first..).take(nodes as usize).collect();
    if let Some(taken) = smtp_ports.iter().find(|port| !ports::is_free(**port)) {
        return Err(Failure::new(
            "the sandbox was not started",
            format!("port {taken} is in use"),
        )
        .fix("choose other ports with --smtp-port"));
    }
    let mut plan = Plan::new(&smtp_ports, &args.domain, &args.primary)?;
    plan.dns = args.dns;
    plan.relay = args.relay;
    plan.level = args.level;
    Ok(plan)
}

fn announce(sandbox: &Sandbox, output: Output) -> Result<(), Failure> {
    let plan = sandbox.plan();
    if output.is_json() {
        let nodes: Vec<_> = plan
            .nodes
            .iter()
            .map(|node| {
                json!({
                    "name": node.name,
                    "region": node.region,
                    "pid": sandbox.pid(&node.name),
                    "smtp": cli::loopback(node.smtp_port),
                    "admin": sandbox.admin_socket(&node.name),
                    "cluster": cli::loopback(node.cluster_port),
                    "metrics": cli::loopback(node.metrics_port),
                    "portal": cli::loopback(node.portal_port),
                    "finger": cli::loopback(node.finger_port),
                    "atrn": cli::loopback(node.atrn_port),
                    "submission": cli::loopback(node.submission_port),
                    "data_dir": sandbox.data_dir(&node.name),
                    "config": sandbox.config(&node.name),
                    "log": sandbox.log(&node.name),
                })
            })
            .collect();
        output.json(
            "dev/v1",
            &json!({"nodes": nodes, "domain": plan.domain, "primary": plan.primary}),
        )?;
        return Ok(());
    }
    let mut table = output::table(
        &["NODE", "REGION", "PID", "SMTP", "PORTAL", "CONFIG"],
        &["PID"],
    );
    for node in &plan.nodes {
        table.add_row(vec![
            node.name.clone(),
            node.region.clone(),
            sandbox
                .pid(&node.name)
                .map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            cli::loopback(node.smtp_port).to_string(),
            format!("https://{}", cli::loopback(node.portal_port)),
            sandbox.config(&node.name).display().to_string(),
        ]);
    }
    output.table(&table)?;
    let first = &plan.nodes[0];
    output.line(format!(
        "\nMail for {} is accepted and delivered to {}. Ask the cluster, or send it a message:\n  \
         holdfast status --config {}\n  \
         swaks --server {} --to someone@{}\n\
         For the portal, add an account and sign in at any node's:\n  \
         holdfast account add NAME --domain {} --config {}\n\
         Ctrl-C stops it; the same command starts it again.",
        plan.domain,
        plan.primary,
        sandbox.config(&first.name).display(),
        cli::loopback(first.smtp_port),
        plan.domain,
        plan.domain,
        sandbox.config(&first.name).display(),
    ))?;
    Ok(())
}
