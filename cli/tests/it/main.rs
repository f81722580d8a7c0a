//! The real binary, as a person or a script meets it.

mod changes;
mod completion;
mod config;
mod controller;
mod documents;
mod fake_controller;
mod fetch;
mod home;
mod process;
mod remote;
mod roles;
mod up;
mod usage;
