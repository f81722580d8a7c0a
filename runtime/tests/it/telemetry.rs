use std::{net::SocketAddr, process::Output, time::Duration};

use opentelemetry_proto::tonic::metrics::v1::metric::Data;

use crate::{child, receiver::Receiver};

/// Far more than anything here takes; a child that hangs fails by it.
const PATIENCE: Duration = Duration::from_secs(60);

async fn run(role: &'static str, endpoint: Option<SocketAddr>) -> Output {
    let mut command = tokio::process::Command::from(child::command(role, endpoint));
    let output = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output());
    let output = output.await.expect("it ends whatever the collector does").expect("it runs");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    output
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_metrics_and_events_arrive_and_belong_together() {
    let receiver = Receiver::start().await;
    run("tells_everything", Some(receiver.addr)).await;
    let received = receiver.take();
    let trace: Vec<u8> = (0..32).step_by(2).map(|at| hex(&child::PARENT[3 + at..5 + at])).collect();

    let work = received.spans.iter().find(|span| span.name == "work").expect("the span");
    assert_eq!(work.trace_id, trace);
    let later = received.spans.iter().find(|span| span.name == "later").expect("the later span");
    assert_ne!(later.trace_id, trace);
    assert_eq!(later.links.iter().map(|link| &link.trace_id).collect::<Vec<_>>(), [&trace]);

    let waited = received.spans.iter().find(|span| span.name == "waited").expect("the span of the past");
    assert_eq!((&waited.trace_id, &waited.parent_span_id), (&trace, &work.parent_span_id));
    assert_eq!((waited.start_time_unix_nano, waited.end_time_unix_nano), (7_000_000_000, 9_000_000_000));
    assert!(!received.spans.iter().any(|span| span.name == "nowhere"));

    let (event, told) = match received.logs.as_slice() {
        [event, told] => (event, told),
        others => panic!("two events, not {others:?}"),
    };
    assert_eq!(
        (event.event_name.as_str(), told.event_name.as_str()),
        ("muster.test.changed", "muster.test.told")
    );
    assert_eq!((&told.trace_id, &told.span_id), (&trace, &work.parent_span_id));
    assert_eq!((&event.trace_id, &event.span_id), (&trace, &work.span_id));
    assert!(event.attributes.iter().any(|attribute| attribute.key == "session.id"));

    let metric = |name: &str| {
        received.metrics.iter().find(|metric| metric.name == name).unwrap_or_else(|| panic!("{name}"))
    };
    let duration = metric("muster.test.duration");
    assert_eq!(duration.unit, "s");
    assert!(matches!(&duration.data, Some(Data::Histogram(histogram))
        if histogram.data_points[0].explicit_bounds == [0.5, 1.0, 60.0] && histogram.data_points[0].count == 1));
    let io = metric("muster.test.io");
    assert!(matches!(&io.data, Some(Data::Sum(sum)) if sum.is_monotonic), "{io:?}");
    let count = metric("muster.test.count");
    assert!(matches!(&count.data, Some(Data::Sum(sum)) if !sum.is_monotonic && sum.data_points.len() == 1));
    metric("rpc.server.call.duration");
    metric("process.memory.usage");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_never_answers_is_not_felt() {
    // Accepts into its backlog, and never reads: the worst there is.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("it listens");
    let addr = listener.local_addr().expect("bound");
    let output = run("tells_a_black_hole", Some(addr)).await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("the end took"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_is_not_felt() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("it listens");
    let addr = listener.local_addr().expect("bound");
    drop(listener);
    run("tells_a_black_hole", Some(addr)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn telemetry_that_is_off_starts_nothing_and_measures_nothing() {
    run("tells_nobody", None).await;
}

fn hex(text: &str) -> u8 {
    u8::from_str_radix(text, 16).expect("hex")
}
