//! What this node saw of messages, as spans for an OpenTelemetry collector.
//!
//! The trace of a message has the message's own id: what each node saw of it comes together at the collector,
//! and nothing is handed from node to node. Spans name no sender and no recipient, for a collector's readers
//! look after machines. Nothing waits for it: spans that it does not take in time are dropped.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use holdfast_mail::MessageId;
use holdfast_proto::cluster::Happening;
use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, IdGenerator, RandomIdGenerator, SpanData, SpanEvents,
    SpanExporter, SpanLinks, SpanProcessor,
};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Spans that wait for the collector, of some hundred octets each; what comes on top is dropped.
const QUEUE_MAX: usize = 8192;

/// How old a span may become before it is sent.
const DELAY: Duration = Duration::from_secs(1);

/// For one batch; the next waits meanwhile.
const EXPORT_TIME_MAX: Duration = Duration::from_secs(10);

/// For what is left when the node stops.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);

/// What went wrong for somebody, of the words in a happening.
const FAILED: [&str; 7] = [
    "refused",
    "unanswered",
    "cancelled",
    "deferred",
    "in_doubt",
    "rejected",
    "given_up",
];

/// Cheap to clone.
#[derive(Clone)]
pub struct Traces(Arc<Inner>);

struct Inner {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
    told: Counter,
    taken: Counter,
}

impl Traces {
    /// Spans go to `collector`, as host:port, by OTLP over gRPC. To be called within the runtime.
    ///
    /// # Errors
    /// The address cannot be used. That nobody listens there is found later, and logged.
    pub fn start(collector: &str, node: &str, region: &str) -> Result<Self, String> {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(format!("http://{collector}"))
            .with_timeout(EXPORT_TIME_MAX)
            .build()
            .map_err(|error| error.to_string())?;
        let taken = Counter::default();
        let exporter = Told {
            exporter,
            collector: collector.to_owned(),
            taken: taken.clone(),
            is_failing: AtomicBool::new(false),
        };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_MAX)
            .with_scheduled_delay(DELAY)
            .build();
        let mut processor = BatchSpanProcessor::new(exporter, batches);
        processor.set_resource(
            &Resource::builder_empty()
                .with_service_name("holdfast")
                .with_attributes([
                    KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                    KeyValue::new("service.instance.id", node.to_owned()),
                    KeyValue::new("holdfast.region", region.to_owned()),
                ])
                .build(),
        );
        Ok(Self(Arc::new(Inner {
            processor,
            scope: InstrumentationScope::builder("holdfast").build(),
            told: Counter::default(),
            taken,
        })))
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "trace_spans",
            "Spans for the collector; those that are not in holdfast_trace_spans_taken wait or were dropped",
            self.0.told.clone(),
        );
        registry.register(
            "trace_spans_taken",
            "Spans that the collector took",
            self.0.taken.clone(),
        );
    }

    /// What happened at `at` and took so long; nothing where it is about no message. Never waits.
    pub fn tell(&self, happening: &Happening, at: SystemTime, took: Duration) {
        if let Some(span) = span(happening, at, took, &self.0.scope) {
            self.0.told.inc();
            self.0.processor.on_end(span);
        }
    }

    /// Sends what waits.
    pub async fn stop(self) {
        let stopped = tokio::task::spawn_blocking(move || {
            self.0.processor.shutdown_with_timeout(STOP_TIME_MAX)
        });
        if let Ok(Err(error)) = stopped.await {
            tracing::info!("the last spans did not reach their collector: {error}");
        }
    }
}

fn span(
    happening: &Happening,
    at: SystemTime,
    took: Duration,
    scope: &InstrumentationScope,
) -> Option<SpanData> {
    let message = MessageId::from_bytes(&happening.message)?;
    let root = root(message);
    let is_root = happening.kind == "accepted";
    let id = match is_root {
        true => root.span_id(),
        false => RandomIdGenerator::default().new_span_id(),
    };
    let mut links = SpanLinks::default();
    let about = MessageId::from_bytes(&happening.other).map(self::root);
    links.links.extend(about.map(Link::with_context));
    Some(SpanData {
        span_context: context(root.trace_id(), id),
        parent_span_id: if is_root {
            SpanId::INVALID
        } else {
            root.span_id()
        },
        parent_span_is_remote: !is_root,
        span_kind: match (happening.client.is_empty(), happening.primary.is_empty()) {
            (false, _) => SpanKind::Server,
            (_, false) => SpanKind::Client,
            _ => SpanKind::Internal,
        },
        name: happening.kind.clone().into(),
        start_time: at.checked_sub(took).unwrap_or(at),
        end_time: at,
        attributes: attributes(happening, message),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links,
        status: match FAILED.contains(&happening.kind.as_str()) {
            true => Status::error(""),
            false => Status::Unset,
        },
        instrumentation_scope: scope.clone(),
    })
}

/// The span of a message's acceptance: its id is the end of the message's, which is random, so that every
/// node knows what its own spans lie under.
fn root(message: MessageId) -> SpanContext {
    let bytes = message.to_bytes();
    let [.., a, b, c, d, e, f, g, h] = bytes;
    let id = SpanId::from_bytes([a, b, c, d, e, f, g, h]);
    context(TraceId::from_bytes(bytes), id)
}

fn context(trace: TraceId, span: SpanId) -> SpanContext {
    SpanContext::new(trace, span, TraceFlags::SAMPLED, true, Default::default())
}

fn attributes(happening: &Happening, message: MessageId) -> Vec<KeyValue> {
    let mut all = vec![KeyValue::new("holdfast.message", message.to_string())];
    for (name, value) in [
        ("client.address", &happening.client),
        ("server.address", &happening.primary),
        ("holdfast.domain", &happening.domain),
    ] {
        if !value.is_empty() {
            all.push(KeyValue::new(name, value.clone()));
        }
    }
    let code = happening.text.get(..3).and_then(|code| code.parse().ok());
    let number = |count: usize| Some(count as i64).filter(|count| *count > 0);
    for (name, value) in [
        ("smtp.reply_code", code),
        ("holdfast.recipients", number(happening.to.len())),
        ("holdfast.bytes", number(happening.bytes as usize)),
    ] {
        all.extend(value.map(|value: i64| KeyValue::new(name, value)));
    }
    all
}

/// Says once that the collector takes nothing, and once that it does again.
struct Told {
    exporter: opentelemetry_otlp::SpanExporter,
    collector: String,
    taken: Counter,
    is_failing: AtomicBool,
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.exporter.fmt(f)
    }
}

impl SpanExporter for Told {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        let result = self.exporter.export(batch).await;
        let was_failing = self.is_failing.swap(result.is_err(), Ordering::Relaxed);
        let collector = &self.collector;
        match &result {
            Ok(()) => {
                self.taken.inc_by(count);
                if was_failing {
                    tracing::info!("the collector {collector} takes spans again");
                }
            }
            Err(error) if !was_failing => tracing::warn!(
                "the collector {collector} takes no spans, and they are dropped until it does: {error}. Mail does \
                 not need it; see traces.collector"
            ),
            Err(_) => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(kind: &str) -> Happening {
        Happening {
            kind: kind.into(),
            message: vec![7; 16].into(),
            from: Some("bob@sender.test".into()),
            to: vec!["joe@example.test".into()],
            text: "550 5.1.1 joe@example.test is unknown".into(),
            ..Happening::default()
        }
    }

    fn of(happening: &Happening) -> Option<SpanData> {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        span(
            happening,
            at,
            Duration::from_secs(3),
            &InstrumentationScope::default(),
        )
    }

    #[test]
    fn what_any_node_sees_of_a_message_lies_in_one_trace_under_its_acceptance() {
        let accepted = of(&told("accepted")).unwrap();
        let rejected = of(&told("rejected")).unwrap();
        let trace = TraceId::from_bytes([7; 16]);
        for span in [&accepted, &rejected] {
            assert_eq!(span.span_context.trace_id(), trace);
            assert_eq!(
                span.end_time.duration_since(span.start_time).unwrap(),
                Duration::from_secs(3)
            );
        }
        assert_eq!(accepted.parent_span_id, SpanId::INVALID);
        assert_eq!(rejected.parent_span_id, accepted.span_context.span_id());
        assert_ne!(
            rejected.span_context.span_id(),
            accepted.span_context.span_id()
        );
        assert_eq!(accepted.status, Status::Unset);
        assert_eq!(rejected.status, Status::error(""));
    }

    #[test]
    fn a_span_names_nobody_and_what_is_about_no_message_is_none() {
        let span = of(&told("rejected")).unwrap();
        let all = format!("{:?}", span.attributes);
        assert!(!all.contains('@'), "{all}");
        assert!(all.contains("I64(550)"), "{all}");
        assert!(
            of(&Happening {
                message: Vec::new().into(),
                ..told("connected")
            })
            .is_none()
        );
    }

    #[test]
    fn a_notification_leads_to_the_message_it_is_about() {
        let written = Happening {
            other: vec![9; 16].into(),
            ..told("written")
        };
        let span = of(&written).unwrap();
        let about = &span.links.links[0].span_context;
        assert_eq!(about.trace_id(), TraceId::from_bytes([9; 16]));
    }
}
