//! `holdfast dev clock`: lets time pass in a sandbox.
//!
//! All of its nodes watch one file, so that their clocks move together; a node that is down meanwhile
//! reads it when it starts.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::layout::{Plan, clock_file};
use crate::cli::{Clock, MoveClock};
use crate::failure::{Exit, Failure};
use crate::output::{self, Output};

/// The nodes look at the file more often than this.
const TAKEN_UP: Duration = Duration::from_millis(500);

pub(crate) async fn run(clock: Clock, output: Output) -> Result<Exit, Failure> {
    let MoveClock::Advance { time_ms } = clock.verb;
    let dir = clock.dir.as_path();
    let failed = |error: String| Failure::new("the clock was not moved", error);
    if Plan::load(dir)?.is_none() {
        return Err(failed(format!("{} holds no sandbox", dir.display()))
            .exit(Exit::Refused)
            .fix("name the --dir of a sandbox; time cannot be moved anywhere else"));
    }
    let ahead = ahead(dir).map_err(failed)?.saturating_add(time_ms);
    let file = clock_file(dir);
    let new = file.with_extension("new");
    fs::write(&new, ahead.to_string())
        .and_then(|()| fs::rename(&new, &file))
        .map_err(|error| failed(error.to_string()))?;
    tokio::time::sleep(TAKEN_UP).await;
    if output.is_json() {
        output.json("dev.clock/v1", &json!({ "ahead_ms": ahead }))?;
    } else {
        output.line(format!(
            "The clock of all nodes is {} ahead.",
            output::span(Duration::from_millis(ahead))
        ))?;
    }
    Ok(Exit::Done)
}

fn ahead(dir: &Path) -> Result<u64, String> {
    let file = clock_file(dir);
    match fs::read_to_string(&file) {
        Ok(text) => text
            .trim()
            .parse()
            .map_err(|error| format!("{}: {error}", file.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(format!("{}: {error}", file.display())),
    }
}
