//! The address at which other machines reach a controller: its flags, and their check.
//!
//! Shared by `controller` and `up`. Without `--remote-listen` nothing listens for other machines.

use std::{net::SocketAddr, time::Duration};

use clap::Args;
use muster_controller::Remote;
use serde::Deserialize;

use crate::{
    failure::Failure,
    roles::{list, machine::host_name},
    span::Period,
};

const HEADING: &str = "Other machines";
/// Shorter than any use but a test's.
const SHORTEST_LIFE: Duration = Duration::from_secs(2);
const LONGEST_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

/// Where other machines reach it.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Door {
    /// Listen here for other machines too, over TLS with the farm's own authority, e.g. 0.0.0.0:7430; port 0:
    /// any free one
    #[arg(long, env = "MUSTER_REMOTE_LISTEN", hide_env_values = true, value_name = "ADDR")]
    #[arg(help_heading = HEADING)]
    remote_listen: Option<SocketAddr>,
    /// A name or address other machines call it by; repeat for several, the first is in join tokens [default:
    /// the address listened on, or the host's name]
    #[arg(long, env = "MUSTER_REMOTE_NAME", hide_env_values = true, value_name = "NAME")]
    #[arg(value_delimiter = ',', help_heading = HEADING)]
    remote_name: Vec<String>,
    /// How long a worker's certificate lives; it is renewed at two thirds [default: 24h]
    #[arg(long, env = "MUSTER_CERTIFICATE_LIFE", hide_env_values = true, value_name = "TIME")]
    #[arg(help_heading = HEADING)]
    certificate_life: Option<Period>,
}

impl Door {
    /// Fills what is not set from `lower`.
    pub fn or(self, lower: Self) -> Self {
        Self {
            remote_listen: self.remote_listen.or(lower.remote_listen),
            remote_name: list(self.remote_name, lower.remote_name),
            certificate_life: self.certificate_life.or(lower.certificate_life),
        }
    }

    /// As the controller wants it; None: no other machine reaches it.
    pub fn check(&self) -> Result<Option<Remote>, Failure> {
        let Some(listen) = self.remote_listen else {
            for (given, flag) in [
                (!self.remote_name.is_empty(), "remote-name"),
                (self.certificate_life.is_some(), "certificate-life"),
            ] {
                if given {
                    return Err(Failure::usage(format!("{flag} is of no use without remote-listen"))
                        .hint("add --remote-listen ADDR, for example --remote-listen 0.0.0.0:7430"));
                }
            }
            return Ok(None);
        };
        let names =
            if self.remote_name.is_empty() { default_names(listen)? } else { self.remote_name.clone() };
        if let Some(bad) = names.iter().find(|name| !is_name(name)) {
            return Err(Failure::usage(format!("remote-name {bad:?} is no host name or address"))
                .hint("it goes without scheme and port, like farm.example or 192.0.2.7"));
        }
        let mut remote = Remote::new(listen, names);
        if let Some(Period(life)) = self.certificate_life {
            if !(SHORTEST_LIFE..=LONGEST_LIFE).contains(&life) {
                return Err(Failure::usage(format!("certificate-life is {life:?}, and must be 2s to 90d")));
            }
            remote.certificate_life = life;
        }
        Ok(Some(remote))
    }
}

fn default_names(listen: SocketAddr) -> Result<Vec<String>, Failure> {
    if !listen.ip().is_unspecified() {
        return Ok(vec![listen.ip().to_string()]);
    }
    match host_name() {
        name if is_name(&name) => Ok(vec![name]),
        _ => Err(Failure::usage("other machines cannot be told what to call this one")
            .hint("say it with --remote-name NAME")),
    }
}

fn is_name(name: &str) -> bool {
    name.parse::<std::net::IpAddr>().is_ok() || {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        !name.is_empty() && name.len() <= 253 && name.chars().all(fits) && !name.starts_with(['.', '-'])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(listen: &str, names: &[&str], life: Option<&str>) -> Door {
        Door {
            remote_listen: listen.parse().ok(),
            remote_name: names.iter().map(ToString::to_string).collect(),
            certificate_life: life.map(|life| life.parse().expect(life)),
        }
    }

    #[test]
    fn nothing_listens_unless_told_and_what_needs_it_is_refused_without() {
        assert!(door("", &[], None).check().expect("fine").is_none());
        for half in [door("", &["farm.example"], None), door("", &[], Some("1h"))] {
            let failure = half.check().expect_err("refused");
            assert!(failure.hint.contains("--remote-listen"), "{failure:?}");
        }
    }

    #[test]
    fn a_controller_is_called_by_what_it_listens_on_unless_told() {
        let remote = door("192.0.2.7:7430", &[], None).check().expect("fine").expect("one");
        assert_eq!(remote.names, ["192.0.2.7"]);
        let remote =
            door("[::]:7430", &["farm.example", "::1"], Some("5s")).check().expect("fine").expect("one");
        assert_eq!(remote.names, ["farm.example", "::1"]);
        assert_eq!(remote.certificate_life, Duration::from_secs(5));
    }

    #[test]
    fn what_no_machine_could_call_it_by_and_odd_lives_are_refused() {
        for bad in ["", "https://farm.example", "farm.example:7430", "a b", "-x"] {
            assert!(door("0.0.0.0:1", &[bad], None).check().is_err(), "{bad}");
        }
        for bad in ["1s", "91d"] {
            assert!(door("0.0.0.0:1", &["farm"], Some(bad)).check().is_err(), "{bad}");
        }
    }
}
