//! `muster mcp`: what Claude Code connects to. Over stdio, stdout belongs to the protocol: nothing else is
//! printed.

mod callers;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::Args;
use muster_mcp_gateway::{Config, HttpGateway, Secret, serve_stdio};
use serde::Deserialize;

use self::callers::Callers;
use super::{Layer, resolve};
use crate::{
    address,
    args::Logs,
    config,
    failure::{Exit, Failure},
    trust::Credentials,
};

/// Options of `mcp`.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Options {
    /// Address of the controller [default: the running `muster up`, else http://127.0.0.1:7420]
    #[arg(long, env = "MUSTER_CONTROLLER", hide_env_values = true, value_name = "URL")]
    controller: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    credentials: Credentials,
    /// Serve streamable HTTP here instead of stdio; port 0: any free one. The path is /mcp. Other machines reach it
    /// only with --tls-cert and --require-token or --issuer
    #[arg(long, env = "MUSTER_HTTP", hide_env_values = true, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// Write host:port to this file once it listens (with --http)
    #[arg(long, env = "MUSTER_PORT_FILE", hide_env_values = true, value_name = "FILE")]
    port_file: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    callers: Callers,
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
            credentials: self.credentials.or(lower.credentials),
            http: self.http.or(lower.http),
            port_file: self.port_file.or(lower.port_file),
            callers: self.callers.or(lower.callers),
            config: self.config,
            logs: self.logs.or(lower.logs),
        }
    }
}

/// Serves until the client or a signal ends it.
pub fn run(flags: Options) -> Result<Exit, Failure> {
    let mut options = resolve(flags)?;
    let mut config = Config::new(address::find_controller(options.controller.as_deref())?.uri);
    config.trust = options.credentials.controller_root.as_ref().map(|root| root.trust()).transpose()?;
    config.token = options.credentials.token()?.map(|token| Secret::new(token.expose()));
    if config.controller.starts_with("https://") && config.trust.is_none() {
        return Err(Failure::usage(format!(
            "{} cannot be told from any other machine without the farm's root",
            config.controller
        ))
        .hint("name it with --controller-root: its hash, or the controller's ca/root.pem"));
    }
    config.http = options.callers.config(options.http)?;
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
            HttpGateway::start(config, listen, shutdown).await.map_err(|error| start_failed(&error))?;
        address::write_port_file(options.port_file.as_deref(), gateway.local_addr())?;
        tracing::info!(url = %format!("http://{}/mcp", gateway.local_addr()), "gateway is ready");
        gateway.finished().await;
        Ok(Exit::Ok)
    })
}

/// Says whether a file could be taken.
pub fn validate(file: &Path) -> Result<(), Failure> {
    let options: Options = config::read(file)?;
    options.callers.config(options.http).map(drop)
}

/// A gateway that did not start.
pub fn start_failed(error: &muster_mcp_gateway::StartError) -> Failure {
    Failure::new(Exit::Failed, "the MCP gateway cannot start").caused_by(error)
}
