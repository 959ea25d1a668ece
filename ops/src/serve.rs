//! `holdfast serve`: one node, in the foreground.

use holdfast_node::run::ServeError;

use crate::cli::{Global, Serve};
use crate::failure::{Exit, Failure};

pub(crate) async fn run(global: &Global, args: Serve) -> Result<Exit, Failure> {
    let file = global.needed_config("serve needs the node's file: holdfast serve --config FILE");
    if args.die_with_parent {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
            .map_err(|error| Failure::new("the node was not started", error))?;
    }
    match holdfast_node::run::serve(file).await {
        Ok(()) => Ok(Exit::Done),
        Err(error @ ServeError::Removed(_)) => Err(Failure::new("the node stopped", error)
            .exit(Exit::Removed)
            .fix("its sockets would start it again: systemctl stop 'holdfast*.socket' holdfast.service")),
        Err(error) => Err(Failure::new("the node stopped", error)),
    }
}
