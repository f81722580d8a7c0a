//! The gateway for the protocol's official conformance suite: `conformance/run.sh` starts it.
//!
//! The suite calls tools, prompts and resources that it prescribes; they are answered by [`fixtures`], all else
//! by the gateway, behind the gateway's own HTTP. Behind it stands the scripted controller of this crate's
//! tests with a few sessions. It listens on a free port of loopback, writes its address to the file it is
//! given, and serves until it is killed.

#[path = "../../tests/it/fake_controller/mod.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod fake_controller;
mod fixtures;
mod task_fixtures;

use muster_mcp_gateway::{Config, HttpGateway};
use muster_proto::v1::{AttentionReason, SessionStatus};
use muster_runtime::shutdown::{self, Shutdown};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args_os().nth(1).ok_or("usage: conformance FILE")?;
    let controller = fake_controller::Running::start().await;
    for name in ["work-1", "asks-2", "done-3"] {
        controller.fake.add(name, SessionStatus::Working);
    }
    controller.fake.ask("asks-2", "a1", AttentionReason::Permission);
    controller.fake.finish("done-3", SessionStatus::Completed, "done");
    let leave = Shutdown::new();
    shutdown::on_signals(&leave)?;
    let config = Config::new(controller.uri());
    let gateway =
        HttpGateway::start_as(config, "127.0.0.1:0".parse()?, leave, fixtures::Fixtures::new).await?;
    std::fs::write(file, format!("http://{}/mcp", gateway.local_addr()))?;
    gateway.finished().await;
    Ok(())
}
