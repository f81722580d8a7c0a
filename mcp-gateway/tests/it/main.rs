//! The gateway as its clients see it: real MCP clients before it, a scripted controller behind it.

mod arguments;
mod ask_user;
mod changes;
mod fake_controller;
mod farm;
mod farm_status;
mod http;
mod integrate;
mod output;
mod resources;
mod stdio;
mod tools;
mod waits;
mod wire;
