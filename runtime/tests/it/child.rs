//! What the children do. Run without their parent they do nothing.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Command,
};

use muster_runtime::{
    metrics::{self, Amount, Counter, Gauge, Histogram, Level, reference, rpc, serve::Listen},
    telemetry::{self, Config, Guard, LogFormat},
};
use tower::{Layer as _, Service as _};

const ROLE: &str = "MUSTER_TEST_CHILD";
const ENDPOINT: &str = "MUSTER_TEST_ENDPOINT";
pub const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

static COUNTER: Counter<1> = Counter::new("muster.test.io", "By", &["muster.test.way"], "What was moved");
static AMOUNT: Amount<0> = Amount::new("muster.test.cost", "USD", &[], "What it cost");
static HISTOGRAM: Histogram<2> = Histogram::new(
    "muster.test.duration",
    "s",
    &["muster.test.way", "error.type"],
    &[0.5, 1.0, 60.0],
    "How long it took",
);
static LEVEL: Level<1> =
    Level::new("muster.test.count", "{test}", &["muster.test.state"], "How many there are");
static GAUGE: Gauge<0> = Gauge::new("muster.test.age", "s", &[], "How old the oldest is");

/// This binary again, for one of the tests below.
pub fn command(role: &str, endpoint: Option<SocketAddr>) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a binary"));
    command.args(["--exact", &format!("child::{role}"), "--nocapture"]).env(ROLE, role);
    if let Some(endpoint) = endpoint {
        command.env(ENDPOINT, format!("http://{endpoint}"));
    }
    command
}

fn is(role: &str) -> bool {
    std::env::var(ROLE).is_ok_and(|wanted| wanted == role)
}

fn init(filter: &str, listen: Option<&str>) -> Guard {
    let config = Config {
        service_name: "muster-test",
        version: "0",
        filter: filter.to_owned(),
        format: LogFormat::Text,
        otlp_endpoint: std::env::var(ENDPOINT).ok(),
    };
    let listen = listen.map(|listen| listen.parse::<Listen>().expect("an address"));
    telemetry::init_with_metrics(&config, listen).expect("set up")
}

fn measure() {
    COUNTER.add(7, ["up"]);
    AMOUNT.add(0.25, []);
    HISTOGRAM.record(0.7, ["up", ""]);
    LEVEL.set([(["before".to_owned()], 3)]);
    LEVEL.set([(["now".to_owned()], 2), (["now".to_owned()], 2)]);
    GAUGE.set(1.5, []);
}

fn get(addr: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).expect("connected");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("read");
    answer
}

/// Both sides of a call, once answered and once refused.
async fn call() {
    let methods = rpc::Methods::new([("a.B/Get".to_owned(), false), ("a.B/Watch".to_owned(), true)]);
    for layer in [rpc::CallDuration::server(methods.clone()), rpc::CallDuration::client(methods)] {
        let mut service = layer.layer(tower::service_fn(|request: http::Request<()>| {
            let mut response = http::Response::new(());
            if request.uri().path().ends_with("Get") {
                response.headers_mut().insert("grpc-status", http::HeaderValue::from_static("5"));
            }
            std::future::ready(Ok::<_, std::convert::Infallible>(response))
        }));
        for path in ["/a.B/Get", "/a.B/Watch", "/stranger"] {
            let request = http::Request::builder().uri(path).body(()).expect("a request");
            service.call(request).await.expect("answered");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tells_everything() {
    if !is("tells_everything") {
        return;
    }
    let guard = init("off", Some("0"));
    assert!(metrics::enabled());
    let span = tracing::info_span!(target: "muster_test", "work", session.id = "s-1");
    telemetry::set_parent_from_traceparent(&span, PARENT);
    span.in_scope(|| {
        assert!(telemetry::traceparent().starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
        tracing::info!(name: "muster.test.changed", { session.id = "s-1" }, "it changed");
        tracing::info!("a line that the filter holds back");
    });
    let linked = tracing::info_span!(target: "muster_test", "later");
    telemetry::link_to_traceparent(&linked, PARENT);
    drop((span, linked));
    let began = std::time::UNIX_EPOCH + std::time::Duration::from_secs(7);
    telemetry::record_span(
        "waited",
        PARENT,
        (began, began + std::time::Duration::from_secs(2)),
        [("a", "b".to_owned())],
    );
    telemetry::record_span("nowhere", "", (began, began), []);
    telemetry::in_trace(PARENT, || tracing::info!(name: "muster.test.told", { a = 1 }, "told"));
    metrics::watch_disk("test", &std::env::temp_dir());
    measure();
    call().await;
    let addr = guard.metrics_addr().expect("served");
    assert!(addr.ip().is_loopback());
    let page = tokio::task::spawn_blocking(move || get(addr, "/metrics")).await.expect("scraped");
    let mut all = reference::definitions();
    all.extend([
        COUNTER.definition(),
        AMOUNT.definition(),
        HISTOGRAM.definition(),
        LEVEL.definition(),
        GAUGE.definition(),
    ]);
    for definition in all {
        let name = definition.prometheus_name();
        assert!(page.contains(&format!("# HELP {name} {}", definition.help)), "{name}\n{page}");
    }
    for line in [
        "muster_test_io_bytes_total{muster_test_way=\"up\"} 7\n",
        "muster_test_cost_total 0.25\n",
        "muster_test_duration_seconds_bucket{muster_test_way=\"up\",le=\"1\"} 1\n",
        "muster_test_count{muster_test_state=\"now\"} 4\n",
        "muster_test_age_seconds 1.5\n",
        "rpc_response_status_code=\"NOT_FOUND\"",
        "rpc_method=\"_OTHER\",rpc_response_status_code=\"OK\"",
        "service_name=\"muster-test\"",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
    assert!(!page.contains("\"before\"") && !page.contains("Watch"), "{page}");
    let elsewhere = tokio::task::spawn_blocking(move || get(addr, "/")).await.expect("asked");
    assert!(elsewhere.starts_with("HTTP/1.1 404"), "{elsewhere}");
    drop(guard);
    // Everything is over: nothing of this may panic or block.
    measure();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tells_a_black_hole() {
    if !is("tells_a_black_hole") {
        return;
    }
    let guard = init("off", Some("0"));
    // More than every queue holds.
    for round in 0..20_000_u32 {
        let span = tracing::info_span!(target: "muster_test", "work", round);
        span.in_scope(|| tracing::info!(name: "muster.test.changed", { round }, "it changed"));
        COUNTER.add(1, ["up"]);
    }
    let addr = guard.metrics_addr().expect("served");
    let page = tokio::task::spawn_blocking(move || get(addr, "/metrics")).await.expect("scraped");
    assert!(page.contains("muster_test_io_bytes_total{muster_test_way=\"up\"} 20000\n"), "{page}");
    let began = std::time::Instant::now();
    drop(guard);
    println!("the end took {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tells_nobody() {
    if !is("tells_nobody") {
        return;
    }
    let threads = || std::fs::read_dir("/proc/self/task").expect("linux").count();
    let before = threads();
    let guard = init("info", None);
    measure();
    call().await;
    assert!(!metrics::enabled());
    assert_eq!(guard.metrics_addr(), None);
    assert_eq!(telemetry::traceparent(), "");
    assert_eq!(threads(), before, "no thread was started");
}
