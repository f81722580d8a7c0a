//! The real binary, as a person or a script meets it.

mod completion;
mod config;
mod controller;
mod documents;
mod process;
mod roles;
mod up;
mod usage;
