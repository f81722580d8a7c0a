//! The worker of muster: runs sessions on one machine.
pub mod shim;
