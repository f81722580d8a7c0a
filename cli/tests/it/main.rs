//! The real binary, as a person or a script meets it.

mod attach;
mod audit;
mod changes;
mod completion;
mod config;
mod controller;
mod documents;
mod fake_controller;
mod fake_records;
mod fetch;
mod home;
mod process;
mod project;
mod remote;
mod roles;
mod top;
mod up;
mod usage;
