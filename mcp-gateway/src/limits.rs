//! How long a wait may be, by who waits and on which way.
//!
//! Clients give up on calls at very different times, and the model then sees a failure instead of an answer.
//! A wait that ends before its client does is answered "still running, call again", which costs next to
//! nothing.

use std::time::Duration;

/// By which way callers reach the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// stdin and stdout.
    Stdio,
    /// Streamable HTTP.
    Http,
}

/// Bounds of one wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitLimits {
    /// When the caller names no time.
    pub default: Duration,
    /// Whatever the caller names; the result says when it was cut to this.
    pub most: Duration,
}

impl WaitLimits {
    /// In seconds.
    #[must_use]
    pub const fn seconds(default: u64, most: u64) -> Self {
        Self { default: Duration::from_secs(default), most: Duration::from_secs(most) }
    }
}

/// Bounds for the clients of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientWait {
    /// Part of the name the client gives itself, in lower case.
    pub client: String,
    /// Only over this; `None`: over both.
    pub transport: Option<Transport>,
    /// What holds for them.
    pub limits: WaitLimits,
}

impl ClientWait {
    /// What is known of today's clients.
    #[must_use]
    pub fn known() -> Vec<Self> {
        let of = |client: &str, transport, default, most| Self {
            client: client.to_owned(),
            transport,
            limits: WaitLimits::seconds(default, most),
        };
        vec![
            // Silent stdio servers are given up after 30 minutes; progress keeps them, and us, alive.
            of("claude-code", Some(Transport::Stdio), 1500, 3600),
            // Some versions lose an HTTP call after 350 s whatever it says meanwhile.
            of("claude-code", Some(Transport::Http), 240, 290),
            of("codex", None, 50, 280),
            of("gemini", None, 500, 580),
            of("cursor", None, 240, 280),
            of("visual studio code", None, 1500, 3600),
        ]
    }
}

/// What holds for a client; the first rule that fits counts.
pub(crate) fn of_client(
    rules: &[ClientWait],
    others: WaitLimits,
    client: Option<&str>,
    transport: Transport,
) -> WaitLimits {
    let Some(client) = client.map(str::to_lowercase) else { return others };
    rules
        .iter()
        .find(|rule| {
            client.contains(&rule.client) && rule.transport.is_none_or(|transports| transports == transport)
        })
        .map_or(others, |rule| rule.limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_fits_counts_and_strangers_get_the_rest() {
        let rules = ClientWait::known();
        let others = WaitLimits::seconds(45, 3600);
        let of = |client, transport| of_client(&rules, others, client, transport);
        assert_eq!(of(Some("claude-code"), Transport::Stdio), WaitLimits::seconds(1500, 3600));
        assert_eq!(of(Some("Claude-Code"), Transport::Http), WaitLimits::seconds(240, 290));
        assert_eq!(of(Some("codex-mcp-client"), Transport::Http), WaitLimits::seconds(50, 280));
        assert_eq!(of(Some("somebody"), Transport::Stdio), others);
        assert_eq!(of(None, Transport::Http), others);
    }
}
