//! The worker of muster: runs sessions on one machine.
pub mod agent;
pub mod config;
pub mod shim;
pub mod workspace;
