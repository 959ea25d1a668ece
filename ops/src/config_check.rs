//! `holdfast config check`.

use crate::cli::Config;
use crate::failure::{Exit, Failure};
use crate::output::Output;

pub(crate) fn run(command: Config, output: Output) -> Result<Exit, Failure> {
    let Config::Check { file } = command;
    let checked = holdfast_node::config::Config::read(&file);
    if output.is_json() {
        output.json(
            "config-check/v1",
            &serde_json::json!({
                "file": file,
                "good": checked.is_ok(),
                "line": checked.as_ref().err().and_then(|error| error.line),
                "error": checked.as_ref().err().map(|error| match &error.fix {
                    Some(fix) => format!("{}; {fix}", error.what),
                    None => error.what.clone(),
                }),
            }),
        )?;
        return Ok(if checked.is_ok() {
            Exit::Done
        } else {
            Exit::Unhealthy
        });
    }
    match checked {
        Ok(config) => {
            output.line(format!(
                "{} is good: node {} in region {}, mail on {}",
                file.display(),
                config.name,
                config.region,
                config
                    .smtp
                    .listen
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(" and ")
            ))?;
            Ok(Exit::Done)
        }
        Err(error) => Err(Failure::new("the file would be refused", error).exit(Exit::Unhealthy)),
    }
}
