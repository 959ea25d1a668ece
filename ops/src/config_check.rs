//! `holdfast config check`.

use std::path::Path;

use holdfast_node::config::Config;

use crate::cli;
use crate::failure::{Exit, Failure};
use crate::output::Output;

pub(crate) fn run(command: cli::Config, output: Output) -> Result<Exit, Failure> {
    let cli::Config::Check { file } = command;
    let checked = Config::read(&file);
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
                "warnings": checked.as_ref().map_or(Vec::new(), Config::warnings),
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
            output.line(good(&file, &config))?;
            for warning in config.warnings() {
                output.line(format!("warning: {warning}"))?;
            }
            Ok(Exit::Done)
        }
        Err(error) => Err(Failure::new("the file would be refused", error).exit(Exit::Unhealthy)),
    }
}

/// What a file that is good says.
pub(crate) fn good(file: &Path, config: &Config) -> String {
    let listen: Vec<String> = config.smtp.listen.iter().map(ToString::to_string).collect();
    format!(
        "{} is good: node {} in region {}, mail on {}",
        file.display(),
        config.name,
        config.region,
        listen.join(" and ")
    )
}
