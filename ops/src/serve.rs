//! `holdfast serve`: one node, in the foreground.

use clap::CommandFactory;
use clap::error::ErrorKind;

use crate::cli::{Cli, Global, Serve};
use crate::failure::{Exit, Failure};

pub(crate) async fn run(global: &Global, args: Serve) -> Result<Exit, Failure> {
    let Some(file) = &global.config else {
        Cli::command()
            .error(
                ErrorKind::MissingRequiredArgument,
                "serve needs the node's file: holdfast serve --config FILE",
            )
            .exit();
    };
    if args.die_with_parent {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
            .map_err(|error| Failure::new("the node was not started", error))?;
    }
    match holdfast_node::run::serve(file).await {
        Ok(()) => Ok(Exit::Done),
        Err(error) => Err(Failure::new("the node stopped", error)),
    }
}
