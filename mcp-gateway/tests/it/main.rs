//! The gateway as its clients see it: real MCP clients before it, a scripted controller behind it.

mod arguments;
mod ask_user;
mod auth;
mod changes;
mod fake_controller;
mod farm;
mod farm_status;
mod http;
mod integrate;
mod metrics;
mod misuse;
mod output;
mod resources;
mod site;
mod stdio;
mod tasks;
mod tls;
mod tokens;
mod tools;
mod waits;
mod wire;
