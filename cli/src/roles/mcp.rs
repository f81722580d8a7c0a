//! `muster mcp`: what Claude Code connects to. Over stdio, stdout belongs to the protocol: nothing else is
//! printed.

use std::path::{Path, PathBuf};

use clap::Args;
use muster_mcp_gateway::{Config, HttpGateway, serve_stdio};
use serde::Deserialize;

use super::{Layer, resolve};
use crate::{
    address,
    args::{Listen, Logs},
    failure::{Exit, Failure},
};

/// Options of `mcp`.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Options {
    /// Address of the controller [default: the running `muster up`, else http://127.0.0.1:7420]
    #[arg(long, env = "MUSTER_CONTROLLER", hide_env_values = true, value_name = "URL")]
    controller: Option<String>,
    /// Serve streamable HTTP here instead of stdio, loopback only; port 0: any free one. The path is /mcp
    #[arg(long, env = "MUSTER_HTTP", hide_env_values = true, value_name = "ADDR")]
    http: Option<Listen>,
    /// Write host:port to this file once it listens (with --http)
    #[arg(long, env = "MUSTER_PORT_FILE", hide_env_values = true, value_name = "FILE")]
    port_file: Option<PathBuf>,
    /// Read options from this TOML file; its keys are the flags
    #[arg(long, env = "MUSTER_CONFIG", hide_env_values = true, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    logs: Logs,
}

impl Layer for Options {
    fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    fn or(self, lower: Self) -> Self {
        Self {
            controller: self.controller.or(lower.controller),
            http: self.http.or(lower.http),
            port_file: self.port_file.or(lower.port_file),
            config: self.config,
            logs: self.logs.or(lower.logs),
        }
    }
}

/// Serves until the client or a signal ends it.
pub fn run(flags: Options) -> Result<Exit, Failure> {
    let mut options = resolve(flags)?;
    let config = Config::new(address::find_controller(options.controller.as_deref())?.uri);
    if options.http.is_none() {
        // An MCP client shows what its server writes to stderr: only what somebody should see.
        options.logs.log.get_or_insert_with(|| "warn".to_owned());
    }
    super::run("muster-mcp", &options.logs, async |shutdown| {
        let Some(listen) = options.http else {
            serve_stdio(config, shutdown)
                .await
                .map_err(|error| Failure::new(Exit::Failed, "MCP over stdio broke off").caused_by(&error))?;
            return Ok(Exit::Ok);
        };
        let gateway =
            HttpGateway::start(config, listen.0, shutdown).await.map_err(|error| start_failed(&error))?;
        address::write_port_file(options.port_file.as_deref(), gateway.local_addr())?;
        tracing::info!(url = %format!("http://{}/mcp", gateway.local_addr()), "gateway is ready");
        gateway.finished().await;
        Ok(Exit::Ok)
    })
}

/// A gateway that did not start.
pub fn start_failed(error: &muster_mcp_gateway::StartError) -> Failure {
    Failure::new(Exit::Failed, "the MCP gateway cannot start").caused_by(error)
}
