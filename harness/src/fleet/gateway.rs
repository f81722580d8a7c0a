//! Gateways of a fleet: what an MCP client connects to.

use std::process::Stdio;

use anyhow::Context as _;
use tokio::process::Child;

use super::{Process, TestFleet, process::open_log};
use crate::mcp_client::McpClient;

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

impl Gateway {
    pub(super) async fn start(fleet: &TestFleet) -> anyhow::Result<Self> {
        let mut child = fleet
            .command()
            .args(["mcp", "--controller", &fleet.controller_url()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(open_log(&fleet.folder().join("logs/gateway-stdio.log"))?)
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
    pub(super) async fn start(fleet: &TestFleet) -> anyhow::Result<Self> {
        let name = format!("gateway-http-{}", uuid::Uuid::new_v4().simple());
        let port_file = fleet.folder().join("ports").join(&name);
        let mut command = fleet.command();
        command
            .args(["mcp", "--controller", &fleet.controller_url(), "--http", "127.0.0.1:0", "--port-file"])
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
