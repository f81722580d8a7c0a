//! A real controller, driven over gRPC, with a scripted worker in the test.

mod access;
mod audit;
mod bad_input;
mod changes;
mod disk;
mod enrol;
mod farm;
mod fleet;
mod lease;
mod life;
mod maintenance;
mod metrics;
mod output;
mod projects;
mod recovery;
mod restart;
mod resume;
mod retention;
mod roles;
mod stored;
mod worker;
