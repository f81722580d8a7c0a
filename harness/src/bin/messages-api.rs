//! Serves the offline Messages API to people: `messages-api [--listen 127.0.0.1:0] [--scenario FILE]`.
//!
//! Prints the address, then runs until interrupted. `GET /__requests` shows what was asked, `PUT /__scenario`
//! changes the script.

use std::{io::Write as _, net::SocketAddr};

use anyhow::{Context as _, bail};
use muster_harness::{messages_api::MessagesApi, scenario::Scenario};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut scenario = Scenario::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--listen" => listen = value.parse().context("--listen takes host:port")?,
            "--scenario" => {
                let text = std::fs::read_to_string(&value).with_context(|| format!("reading {value}"))?;
                scenario = serde_json::from_str(&text).with_context(|| format!("{value} is no scenario"))?;
            }
            _ => bail!("unknown option {flag}; there are --listen and --scenario"),
        }
    }
    if !listen.ip().is_loopback() {
        bail!("{listen} is not a loopback address");
    }
    let api = MessagesApi::start_on(listen, scenario).await?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "export ANTHROPIC_BASE_URL={} ANTHROPIC_API_KEY=sk-offline", api.url())?;
    stdout.flush()?;
    tokio::signal::ctrl_c().await?;
    Ok(())
}
