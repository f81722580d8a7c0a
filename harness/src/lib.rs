//! Everything muster is tested with, and nothing of what it ships: a Messages API that needs no network, a
//! program that speaks claude's protocol from a script, an MCP client, and whole fleets of real `muster`
//! processes on this machine.
//!
//! The fleet is driven only from outside (command lines, MCP, files), so that the tests hold whatever changes
//! inside.

pub mod eventually;
pub mod fault_proxy;
pub mod fleet;
pub mod hosts;
pub mod mcp_client;
pub mod messages_api;
pub mod processes;
pub mod said;
pub mod scenario;
pub mod scratch_repo;
pub mod seeded;
