//! The whole system from outside: real `muster` processes, an MCP client, and every claude there is.
//!
//! A scenario is written once, as a script that stands in the prompt, and run with the scripted claude and
//! with the real ones. Sessions that do not depend on each other share a fleet and run side by side.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answers;
mod api_errors;
mod bad_input;
mod chaos;
mod command_line;
mod demo;
mod farm;
mod front;
mod full_circle;
mod gateway_restart;
mod hosts;
mod orchestrator;
mod output;
mod prompts;
mod restarts;
mod silence;
mod turns;
mod volume;
mod workspaces;

/// The same scenario with each claude, as one test each.
macro_rules! with_every_claude {
    ($scenario:ident) => {
        mod $scenario {
            use muster_harness::fleet::Claude;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn scripted() {
                super::$scenario(Claude::Scripted).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn claude_2_1_197() {
                super::$scenario(Claude::V2_1_197).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn claude_latest() {
                super::$scenario(Claude::Latest).await;
            }
        }
    };
}
pub(crate) use with_every_claude;
