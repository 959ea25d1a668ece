//! `holdfast generate`: what a package ships beside the binary, made from what can be typed.

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::failure::{Exit, Failure};
use crate::output::Output;

pub(crate) fn run(dir: &Path, output: Output) -> Result<Exit, Failure> {
    let failed = |error| Failure::new(format!("{} is not complete", dir.display()), error);
    let (pages, completions) = (dir.join("man"), dir.join("completions"));
    fs::create_dir_all(&pages).map_err(failed)?;
    fs::create_dir_all(&completions).map_err(failed)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        let written =
            clap_complete::generate_to(shell, &mut Cli::command(), "holdfast", &completions);
        output.line(written.map_err(failed)?.display().to_string())?;
    }
    clap_mangen::generate_to(Cli::command(), &pages).map_err(failed)?;
    output.line(pages.display().to_string())?;
    Ok(Exit::Done)
}
