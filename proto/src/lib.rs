//! The wire contract of muster: what the roles say to each other, and nothing else.
//!
//! Owns the generated messages and services of `muster.v1`, the id newtypes, and the one mapping between errors and
//! gRPC status. No I/O. Every other crate depends on it; it depends on none of ours.

pub mod error;
pub mod ids;
pub mod limits;
pub mod time;

/// Messages and services generated from `muster/v1/*.proto`; their documentation is in those files.
pub mod v1 {
    #![allow(missing_docs, clippy::all, clippy::needless_pass_by_value, clippy::large_futures)]
    tonic::include_proto!("muster.v1");

    /// The encoded `FileDescriptorSet` of this package, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/muster.v1.bin"));
}

/// Protocol versions this build speaks on the worker link.
///
/// 1: the first. 2: leases (`HeartbeatAck`), fenced attempts and declared projects; a worker of version 1 is given none of them.
pub const PROTOCOL: v1::ProtocolRange = v1::ProtocolRange { min: 1, max: 2 };

/// Metadata keys of [`v1::worker_service_server::WorkerService::push_output`].
pub mod metadata {
    /// Name of the worker that pushes.
    pub const WORKER: &str = "muster-worker";
    /// Incarnation of the worker that pushes.
    pub const INCARNATION: &str = "muster-incarnation";
    /// Who a caller on the same machine says it is, for shares and caps: up to 64 characters of `[a-zA-Z0-9._@-]`. Counts
    /// only where callers are not told apart by certificate or token.
    pub const CALLER: &str = "muster-caller";
    /// Binary: an encoded [`crate::v1::Principal`] a gateway speaks for.
    pub const ON_BEHALF_OF: &str = "muster-on-behalf-of-bin";
    /// Binary trailer of a failed call: an encoded [`crate::v1::ErrorDetail`].
    pub const ERROR: &str = "muster-error-bin";
}
