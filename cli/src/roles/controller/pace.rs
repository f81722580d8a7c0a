//! How soon a controller notices that a worker is silent: flags and their check. Shared by `controller` and `up`.

use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use crate::{failure::Failure, span::Period};

const HEADING: &str = "Lost machines";
/// What heartbeats may be: more often is load without knowledge, more rarely is blindness.
const HEARTBEATS: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(60);
/// Longest silence before a session is called unreachable.
const LONGEST_SILENCE: Duration = Duration::from_secs(3600);

/// How often workers are heard.
#[derive(Debug, Clone, Copy, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Pace {
    /// How often workers say that they live, 50ms to 60s [default: 2s]
    #[arg(long, env = "MUSTER_HEARTBEAT", hide_env_values = true, value_name = "TIME", help_heading = HEADING)]
    heartbeat: Option<Period>,
    /// After how long a silence a worker's sessions are shown as unreachable; at least two heartbeats, at most 1h
    /// [default: 10s]
    #[arg(long, env = "MUSTER_UNREACHABLE_AFTER", hide_env_values = true, value_name = "TIME")]
    #[arg(help_heading = HEADING)]
    unreachable_after: Option<Period>,
    /// How long a worker that hears nothing may run sessions that start elsewhere then (projects with `on-lost =
    /// "restart"`), at least two heartbeats, at most 1h; 0: they wait for their worker like all others [default: 60s]
    #[arg(long, env = "MUSTER_LEASE", hide_env_values = true, value_name = "TIME", help_heading = HEADING)]
    lease: Option<Period>,
    /// What passes beyond the lease before they do: never less than workers take to stop a session [default: 45s]
    #[arg(long, env = "MUSTER_LEASE_MARGIN", hide_env_values = true, value_name = "TIME", help_heading = HEADING)]
    lease_margin: Option<Period>,
}

impl Pace {
    /// Fills what is not set from `lower`.
    pub fn or(self, lower: Self) -> Self {
        Self {
            heartbeat: self.heartbeat.or(lower.heartbeat),
            unreachable_after: self.unreachable_after.or(lower.unreachable_after),
            lease: self.lease.or(lower.lease),
            lease_margin: self.lease_margin.or(lower.lease_margin),
        }
    }

    /// Sets what was given; refuses what could not work.
    pub fn set(self, config: &mut muster_controller::Config) -> Result<(), Failure> {
        if let Some(Period(heartbeat)) = self.heartbeat {
            if !HEARTBEATS.contains(&heartbeat) {
                return Err(Failure::usage(format!("heartbeat is {heartbeat:?}, and must be 50ms to 60s")));
            }
            config.heartbeat_interval = heartbeat;
        }
        if let Some(Period(silence)) = self.unreachable_after {
            config.unreachable_after = silence;
        }
        let least = config.heartbeat_interval * 2;
        if !(least..=LONGEST_SILENCE).contains(&config.unreachable_after) {
            let silence = config.unreachable_after;
            return Err(Failure::usage(format!(
                "unreachable-after is {silence:?}, and must be two heartbeats ({least:?}) to 1h"
            ))
            .hint("set --unreachable-after, or --heartbeat"));
        }
        if let Some(Period(lease)) = self.lease {
            config.lease = lease;
        }
        if let Some(Period(margin)) = self.lease_margin {
            config.lease_margin = margin;
        }
        let lease = config.lease;
        if !lease.is_zero() && !(least..=LONGEST_SILENCE).contains(&lease) {
            return Err(Failure::usage(format!(
                "lease is {lease:?}, and must be two heartbeats ({least:?}) to 1h, or 0"
            ))
            .hint("set --lease, or --heartbeat"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(heartbeat: Option<&str>, silence: Option<&str>) -> Result<muster_controller::Config, Failure> {
        let mut config = muster_controller::Config::new(super::super::default_listen(), "/x".into());
        let period = |text: Option<&str>| text.map(|text| text.parse().expect(text));
        Pace { heartbeat: period(heartbeat), unreachable_after: period(silence), ..Pace::default() }
            .set(&mut config)?;
        Ok(config)
    }

    #[test]
    fn a_silence_is_longer_than_two_heartbeats() {
        let config = set(Some("100ms"), Some("500ms")).expect("taken");
        assert_eq!(config.heartbeat_interval, Duration::from_millis(100));
        assert_eq!(config.unreachable_after, Duration::from_millis(500));
        assert!(set(None, None).is_ok());
        for (heartbeat, silence) in [
            (Some("10ms"), None),
            (Some("2m"), None),
            (Some("6s"), None),
            (None, Some("3s")),
            (None, Some("2h")),
        ] {
            assert!(set(heartbeat, silence).is_err(), "{heartbeat:?} {silence:?}");
        }
    }

    #[test]
    fn a_lease_is_longer_than_two_heartbeats_or_none() {
        let set = |lease: &str| {
            let mut config = muster_controller::Config::new(super::super::default_listen(), "/x".into());
            let pace = Pace { lease: lease.parse().ok(), ..Pace::default() };
            pace.set(&mut config).map(|()| config.lease)
        };
        assert_eq!(set("10s").expect("taken"), Duration::from_secs(10));
        assert_eq!(set("0").expect("taken"), Duration::ZERO);
        assert!(set("3s").is_err() && set("2h").is_err());
    }
}
