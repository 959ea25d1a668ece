//! What this node tells of itself: log lines and metrics.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};
use crate::net::listen::Listener;

/// Every metric of the process. Rooms register theirs at the start.
#[derive(Clone)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Default for Metrics {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Registry::with_prefix("holdfast"))))
    }
}

impl Metrics {
    /// Lets a room add its metrics.
    pub fn register(&self, room: impl FnOnce(&mut Registry)) {
        room(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(
            &mut text,
            &self.0.lock().unwrap_or_else(PoisonError::into_inner),
        )?;
        Ok(text)
    }

    /// Serves `/metrics` for Prometheus, and `/livez`, until the process ends.
    pub fn serve(self, listener: Listener) {
        let page = move || {
            let text = self.text();
            async move {
                text.map(|text| {
                    (
                        [(
                            CONTENT_TYPE,
                            "application/openmetrics-text; version=1.0.0; charset=utf-8",
                        )],
                        text,
                    )
                })
                .map_err(|_| axum::http::StatusCode::INTERNAL_SERVER_ERROR)
            }
        };
        let router = Router::new()
            .route("/metrics", get(page))
            .route("/livez", get(async || "ok\n"));
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!("the metrics listener stopped: {error}");
            }
        });
    }
}

/// Starts logging to standard error. `HOLDFAST_LOG` overrides the level, in the syntax of
/// tracing's `EnvFilter`.
pub fn start_log(log: &Log) {
    // openraft tells of every vote at `info`; its warnings are enough.
    let default = format!("{},openraft=warn", log.level.as_str());
    let filter =
        EnvFilter::try_from_env("HOLDFAST_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let out = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = match log.format {
        LogFormat::Text => out.with_ansi(false).try_init(),
        LogFormat::Json => out.json().try_init(),
    };
    if let Err(error) = started {
        eprintln!("logging was started already: {error}");
    }
}
