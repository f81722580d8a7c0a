//! The worker in a farm: joining, leases, declared projects and their policy.

#[path = "../support/farm.rs"]
mod farm;
mod join;
mod lease;
mod metrics;
#[path = "../support/mod.rs"]
mod support;
