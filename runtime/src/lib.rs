//! Process plumbing without one domain word: telemetry, metrics, shutdown, named tasks, backoff, gRPC defaults, TLS.
//!
//! Every role uses it; it depends on no other crate of ours.

pub mod backoff;
pub mod grpc;
pub mod metrics;
pub mod shutdown;
pub mod task;
pub mod telemetry;
pub mod tls;
