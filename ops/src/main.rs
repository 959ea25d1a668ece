//! `holdfast`: the server and its clients in one binary.
//!
//! `serve` runs a node; `dev` and `demo` run several of them as processes; everything else asks
//! a running node over its admin socket.

#![recursion_limit = "256"]

mod access;
mod account;
mod acme;
mod audit;
mod cli;
mod client;
mod cluster;
mod config_check;
mod demo;
mod dev;
mod doctor;
mod domain;
mod drill;
mod events;
mod examples;
mod failure;
mod generate;
mod mail;
mod maintenance;
mod money;
mod output;
mod owner;
mod plan;
mod replace;
mod route;
mod serve;
mod snapshot;
mod status;
mod stopped;
mod top;
mod usage;

use std::process::ExitCode;

use clap::Parser;
use tikv_jemallocator::Jemalloc;

use cli::{Cli, Command};
use failure::{Exit, Failure};
use output::Output;

/// Also RocksDB's, whose buffers come and go on many threads: with the C library's allocator a node
/// keeps about twice the memory that it uses.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::new("no threads could be started", error).report(),
    };
    match runtime.block_on(run(cli)) {
        Ok(exit) => exit.into(),
        Err(failure) => failure.report(),
    }
}

async fn run(cli: Cli) -> Result<Exit, Failure> {
    let output = Output::new(cli.global.format());
    let global = &cli.global;
    match cli.command {
        Command::Serve(args) => serve::run(global, args).await,
        Command::Doctor => doctor::run(global, output).await,
        Command::Config(command) => config_check::run(command, output),
        Command::Status { state_hash: true } => {
            status::state_hash(&mut client::connect(global).await?, output).await
        }
        Command::Status { state_hash: false } => {
            status::run(
                &mut client::connect(global).await?,
                output,
                status::Part::All,
            )
            .await
        }
        Command::Events { follow } => {
            events::run(&mut client::connect(global).await?, follow, output).await
        }
        Command::Top => top::run(&mut client::connect(global).await?).await,
        Command::Cluster(command) => cluster::run(global, command, output).await,
        Command::Node(command) => maintenance::run(global, command, output).await,
        Command::Domain(command) => domain::run(global, command, output).await,
        Command::Mail(command) => mail::run(global, command, output).await,
        Command::Account(command) => account::run(global, command, output).await,
        Command::Plan(command) => plan::run(global, command, output).await,
        Command::Usage(asked) => usage::run(global, asked, output).await,
        Command::Snapshot(command) => snapshot::run(global, command, output).await,
        Command::Drill(command) => drill::run(global, command, output).await,
        Command::Access(command) => access::run(global, command, output).await,
        Command::Audit(which) => audit::run(global, which, output).await,
        Command::Dev(args) => dev::run(args, output).await,
        Command::Generate { dir } => generate::run(&dir, output),
        Command::Demo(args) => demo::run(args, output).await,
    }
}
