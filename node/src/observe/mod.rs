//! What this node tells of itself: log lines, metrics and whether it is ready.

mod journal;
mod ready;
pub mod supervisor;
mod traces;

pub use ready::Check;
pub use traces::Traces;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::Router;
use axum::http::Uri;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tracing_subscriber::{EnvFilter, Registry as Subscriber, prelude::*, reload};

use crate::config::{Log, LogFormat, LogLevel};
use crate::net::listen::Listener;
use journal::Journal;

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

    /// Serves until the process ends: `/metrics` for Prometheus; `/livez`, which asks nothing of
    /// the cluster, for a node that waits for a quorum must not be restarted; and `/readyz`,
    /// which answers 503 while one of `checks` fails and names it.
    pub fn serve(
        self,
        listener: Listener,
        checks: impl Fn() -> Vec<Check> + Clone + Send + Sync + 'static,
    ) {
        let ready = move |uri: Uri| {
            let answer = ready::answer(&checks(), ready::is_verbose(uri.query()));
            async move { answer }
        };
        let page = move || {
            // What is read from the state when asked comes from the disk.
            let text = tokio::task::spawn_blocking({
                let metrics = self.clone();
                move || metrics.text()
            });
            async move {
                let text = text.await.map_err(drop).and_then(|text| text.map_err(drop));
                text.map(|text| {
                    (
                        [(
                            CONTENT_TYPE,
                            "application/openmetrics-text; version=1.0.0; charset=utf-8",
                        )],
                        text,
                    )
                })
                .map_err(|()| axum::http::StatusCode::INTERNAL_SERVER_ERROR)
            }
        };
        let router = Router::new()
            .route("/metrics", get(page))
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(ready));
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!("the metrics listener stopped: {error}");
            }
        });
    }
}

static FILTER: OnceLock<reload::Handle<EnvFilter, Subscriber>> = OnceLock::new();

/// Starts logging to standard error. `HOLDFAST_LOG` overrides the level, in the syntax of
/// tracing's `EnvFilter`.
pub fn start_log(log: &Log) {
    let (filter, handle) = reload::Layer::new(filter(log.level));
    let out = tracing_subscriber::fmt::layer().with_ansi(false);
    let stderr = std::io::stderr;
    let out = match (log.format, journal::is_at(&stderr())) {
        (LogFormat::Text, false) => out.with_writer(stderr).boxed(),
        (LogFormat::Json, false) => out.json().with_writer(stderr).boxed(),
        // The journal has the time itself.
        (LogFormat::Text, true) => out.without_time().with_writer(Journal(stderr)).boxed(),
        (LogFormat::Json, true) => {
            let out = out.json().without_time();
            out.with_writer(Journal(stderr)).boxed()
        }
    };
    let subscriber = tracing_subscriber::registry().with(filter);
    match subscriber.with(out).try_init() {
        Ok(()) => {
            let _first = FILTER.set(handle);
        }
        Err(error) => eprintln!("logging was started already: {error}"),
    }
}

/// Changes the level of a log that runs; `HOLDFAST_LOG` still overrides it.
pub fn set_log_level(level: LogLevel) {
    if let Some(handle) = FILTER.get()
        && let Err(error) = handle.reload(filter(level))
    {
        tracing::error!("the log level stays as it was: {error}");
    }
}

fn filter(level: LogLevel) -> EnvFilter {
    // openraft tells of every vote at `info`; and of every missed heartbeat at `warn`.
    let default = format!("{},openraft=error", level.as_str());
    EnvFilter::try_from_env("HOLDFAST_LOG").unwrap_or_else(|_| EnvFilter::new(default))
}
