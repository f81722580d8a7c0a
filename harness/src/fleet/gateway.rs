//! Gateways of a fleet: what an MCP client connects to.

use std::{path::PathBuf, process::Stdio, time::Duration};

use anyhow::Context as _;
use tokio::process::{Child, Command};

use super::{Process, TestFleet, clean, process::open_log};
use crate::mcp_client::McpClient;

/// What an orderly leave may take.
const LEAVE: Duration = Duration::from_secs(30);

/// What is needed to start gateways of a fleet while somebody else holds the fleet.
#[derive(Debug, Clone)]
pub struct GatewayStarter {
    pub(crate) id: String,
    /// Put before the command; empty: nothing.
    pub(crate) before: Vec<String>,
    pub(crate) muster: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) controller_url: String,
}

/// A gateway over stdio, and the client that started it. Dropping it kills the gateway.
#[derive(Debug)]
pub struct Gateway {
    client: McpClient,
    child: Child,
}

/// A gateway over HTTP. Dropping it kills it.
#[derive(Debug)]
pub struct HttpGateway {
    process: Process,
    url: String,
}

impl GatewayStarter {
    pub(super) fn of(fleet: &TestFleet) -> Self {
        Self {
            id: fleet.id.clone(),
            before: Vec::new(),
            muster: fleet.muster.clone(),
            folder: fleet.folder.clone(),
            environment: fleet.environment.clone(),
            controller_url: fleet.controller_url(),
        }
    }

    /// A gateway over stdio with a client connected to it.
    ///
    /// # Errors
    /// When the gateway does not come up.
    pub async fn start(&self) -> anyhow::Result<Gateway> {
        let mut words = self.before.iter().map(AsRef::as_ref).chain([self.muster.as_os_str()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words);
        clean(&mut command, &self.id, &self.folder, &self.environment);
        Gateway::start(command, self).await
    }
}

impl Gateway {
    async fn start(mut command: Command, starter: &GatewayStarter) -> anyhow::Result<Self> {
        let mut child = command
            .args(["mcp", "--controller", &starter.controller_url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(open_log(&starter.folder.join("logs/gateway-stdio.log"))?)
            .spawn()
            .context("starting the gateway")?;
        let stdin = child.stdin.take().context("the gateway has no stdin")?;
        let stdout = child.stdout.take().context("the gateway has no stdout")?;
        let client = McpClient::over_pipes(stdin, stdout).await?;
        Ok(Self { client, child })
    }

    /// Process id of the gateway.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }
}

impl std::ops::Deref for Gateway {
    type Target = McpClient;

    fn deref(&self) -> &McpClient {
        &self.client
    }
}

impl HttpGateway {
    pub(super) async fn start(fleet: &TestFleet, listen: &str) -> anyhow::Result<Self> {
        let name = format!("gateway-http-{}", uuid::Uuid::new_v4().simple());
        let port_file = fleet.folder().join("ports").join(&name);
        let mut command = fleet.command();
        command
            .args(["mcp", "--controller", &fleet.controller_url(), "--http", listen, "--port-file"])
            .arg(&port_file);
        let mut process = Process::start(&name, command, &fleet.folder().join("logs"))?;
        let address = process.listening(&port_file).await?;
        Ok(Self { process, url: format!("http://{address}/mcp") })
    }

    /// Where it serves.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Another one at the same address, once this one has left: asked to when `orderly`, else killed.
    ///
    /// # Errors
    /// When it does not leave, or the other does not come up.
    pub async fn restart(mut self, fleet: &TestFleet, orderly: bool) -> anyhow::Result<Self> {
        anyhow::ensure!(!orderly || self.process.leave(LEAVE), "the gateway does not leave within {LEAVE:?}");
        let address = self.url.trim_start_matches("http://").trim_end_matches("/mcp").to_owned();
        drop(self);
        Self::start(fleet, &address).await
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// A client connected to it.
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn client(&self) -> anyhow::Result<McpClient> {
        McpClient::over_http(&self.url).await
    }
}
