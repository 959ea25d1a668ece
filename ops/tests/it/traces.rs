//! A node tells an OpenTelemetry collector what it saw of messages, and needs it for nothing.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast_mail::MessageId;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::runtime::Runtime;
use tonic::{Request, Response, Status};

use crate::alone::{Alone, free_port};

const SOON: Duration = Duration::from_secs(30);

/// What a collector was sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().expect("it").push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Takes spans until the runtime is dropped.
    fn listen(&self, at: SocketAddr) -> Runtime {
        let runtime = Runtime::new().expect("a runtime");
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(self.clone()))
            .serve(at);
        runtime.spawn(server);
        runtime
    }

    /// Those of one message.
    fn spans(&self, message: MessageId) -> Vec<Span> {
        let requests = self.0.lock().expect("it");
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        resources
            .flat_map(|resource| &resource.scope_spans)
            .flat_map(|scope| &scope.spans)
            .filter(|span| span.trace_id == message.to_bytes())
            .cloned()
            .collect()
    }
}

fn wait_for<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = done() {
            return found;
        }
        assert!(begun.elapsed() < SOON, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The id in `250 2.0.0 Ok: ID held on 1 of 1 nodes`.
fn taken(reply: &str) -> MessageId {
    assert!(reply.starts_with("250 "), "{reply}");
    let id = reply.split(' ').nth(3).expect("an id");
    id.parse().expect("an id")
}

#[test]
fn a_collector_is_told_what_became_of_messages_and_its_absence_costs_no_mail() {
    let at = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let collector = Collector::default();
    let listening = collector.listen(at);
    let alone = Alone::begin("traces", &format!("[traces]\ncollector = \"{at}\"\n"));
    let must = |arguments: &[&str]| {
        let ran = alone.run(arguments);
        assert!(ran.status.success(), "{ran:?}");
    };
    must(&["cluster", "init"]);
    let primary = format!("127.0.0.1:{}", free_port());
    must(&["domain", "add", "example.org", "--primary", &primary]);
    let send = || taken(&alone.send("a@sender.example", "b@example.org", "hello"));

    let message = send();
    let span = wait_for("a span", || collector.spans(message).pop());
    assert_eq!(span.name, "accepted");
    assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
    let all = format!("{:?}", collector.0.lock().expect("it"));
    for told in [
        "holdfast.region",
        "service.instance.id",
        &message.to_string(),
    ] {
        assert!(all.contains(told), "{told}: {all}");
    }
    assert!(!all.contains('@'), "nobody is named: {all}");

    // It goes away, and mail does not notice.
    drop(listening);
    send();
    let log = alone.folder().join("log");
    wait_for("a word about it", || {
        let log = std::fs::read_to_string(&log).expect("a log");
        log.contains("takes no spans").then_some(())
    });
    let _listening = collector.listen(at);
    // One that was dropped is not told of later.
    wait_for("spans again", || {
        let message = send();
        std::thread::sleep(Duration::from_secs(2));
        collector.spans(message).pop()
    });
    let page = alone.get("/metrics");
    let count = |name: &str| -> u64 {
        let value = page.lines().find_map(|line| line.strip_prefix(name));
        value.expect("a counter").trim().parse().expect("a number")
    };
    let [told, taken] = [
        "holdfast_trace_spans_total",
        "holdfast_trace_spans_taken_total",
    ]
    .map(count);
    assert!(0 < taken && taken < told, "{taken} of {told}");
}
