//! The worker in a farm: joining, leases, declared projects and their policy.

mod declared;
#[path = "../support/farm.rs"]
mod farm;
mod join;
mod lease;
mod metrics;
mod policy;
mod recorded;
#[path = "../support/mod.rs"]
mod support;
