//! How the farm is shared between callers and projects: flags and their check. Shared by `controller` and `up`.

use std::{collections::BTreeMap, str::FromStr};

use clap::Args;
use muster_controller::scheduler::Policy;
use serde::Deserialize;

use crate::{failure::Failure, roles::list};

const HEADING: &str = "Shares";

/// Weights and caps.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Shares {
    /// Share of a caller against the others, from 1 on; repeat for several [default: 1 each]
    #[arg(long, value_name = "CALLER=N", help_heading = HEADING)]
    caller_weight: Vec<Limit>,
    /// Sessions of one caller that may run at the same time: N for everybody, CALLER=N for one; repeat for several
    #[arg(long, value_name = "[CALLER=]N", help_heading = HEADING)]
    caller_cap: Vec<Limit>,
    /// Sessions of one project that may run at the same time: N for each, PROJECT=N for one; repeat for several
    #[arg(long, value_name = "[PROJECT=]N", help_heading = HEADING)]
    project_cap: Vec<Limit>,
}

/// A number, of one or of all.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Limit {
    /// Whose; None: everybody's.
    of: Option<String>,
    number: u32,
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (of, number) = match text.rsplit_once('=') {
            Some(("", _)) => return Err(format!("{text:?} names nobody")),
            Some((of, number)) => (Some(of.to_owned()), number),
            None => (None, text),
        };
        let number = number.parse().ok().filter(|number| *number > 0);
        number
            .map(|number| Self { of, number })
            .ok_or_else(|| format!("{text:?} is not NAME=N with N from 1 on"))
    }
}

impl TryFrom<String> for Limit {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl Shares {
    /// Fills what is not set from `lower`.
    pub fn or(self, lower: Self) -> Self {
        Self {
            caller_weight: list(self.caller_weight, lower.caller_weight),
            caller_cap: list(self.caller_cap, lower.caller_cap),
            project_cap: list(self.project_cap, lower.project_cap),
        }
    }

    /// As the scheduler wants it.
    pub fn check(&self) -> Result<Policy, Failure> {
        let (all, weights) = sorted("caller-weight", &self.caller_weight)?;
        if all.is_some() {
            return Err(Failure::usage("caller-weight is a share against others, and names nobody")
                .hint("say whose: --caller-weight ada=2"));
        }
        let (caller_cap, caller_caps) = sorted("caller-cap", &self.caller_cap)?;
        let (project_cap, project_caps) = sorted("project-cap", &self.project_cap)?;
        Ok(Policy { weights, caller_cap, caller_caps, project_cap, project_caps, ..Policy::default() })
    }
}

/// The one for all, and those by name; each at most once.
fn sorted(flag: &str, limits: &[Limit]) -> Result<(Option<u32>, BTreeMap<String, u32>), Failure> {
    let (mut all, mut named) = (None, BTreeMap::new());
    for Limit { of, number } in limits {
        let before = match of {
            Some(of) => named.insert(of.clone(), *number),
            None => all.replace(*number),
        };
        if before.is_some() {
            let of = of.as_deref().unwrap_or("everybody");
            return Err(Failure::usage(format!("{flag} is given twice for {of}")));
        }
    }
    Ok((all, named))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(texts: &[&str]) -> Vec<Limit> {
        texts.iter().map(|text| text.parse().expect(text)).collect()
    }

    #[test]
    fn a_cap_is_for_all_or_for_one() {
        let shares = Shares {
            caller_weight: limits(&["ada=3"]),
            caller_cap: limits(&["4", "ci=1"]),
            project_cap: limits(&["web=2"]),
        };
        let policy = shares.check().expect("taken");
        assert_eq!((policy.weight("ada"), policy.weight("bob")), (3, 1));
        assert_eq!((policy.caller_cap, policy.caller_caps["ci"]), (Some(4), 1));
        assert_eq!((policy.project_cap, policy.project_caps["web"]), (None, 2));
    }

    #[test]
    fn twice_zero_and_nobody_are_refused() {
        for bad in ["", "0", "ada=0", "=3", "ada=", "ada=many"] {
            assert!(bad.parse::<Limit>().is_err(), "{bad}");
        }
        assert!(Shares { caller_weight: limits(&["2"]), ..Shares::default() }.check().is_err());
        assert!(Shares { caller_cap: limits(&["2", "3"]), ..Shares::default() }.check().is_err());
    }
}
