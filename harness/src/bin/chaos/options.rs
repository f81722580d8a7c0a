//! The command line of the chaos run.

use std::{path::PathBuf, time::SystemTime};

use anyhow::{Context as _, bail};
use muster_harness::fleet::Claude;

/// What is asked for.
#[derive(Debug)]
pub struct Options {
    /// Of each kind.
    pub kills: u64,
    /// Of output, compared.
    pub bytes: u64,
    pub seed: u64,
    /// Sessions side by side.
    pub lanes: u64,
    /// Rounds of fifty worktrees at once.
    pub rounds: u64,
    /// A real claude: its kill loop alone.
    pub claude: Option<Claude>,
    pub muster: Option<PathBuf>,
    only: Option<String>,
}

impl Options {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// When one is unknown or has no value.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let mut options = Self {
            kills: 30,
            bytes: 1_000_000_000,
            seed: now.as_secs(),
            lanes: 4,
            rounds: 0,
            claude: None,
            muster: None,
            only: None,
        };
        while let Some(flag) = arguments.next() {
            let value = arguments.next().with_context(|| format!("{flag} needs a value"))?;
            let number = || value.parse::<u64>().with_context(|| format!("{flag} {value}: no number"));
            match flag.as_str() {
                "--kills" => options.kills = number()?,
                "--bytes" => options.bytes = size(&value)?,
                "--seed" => options.seed = number()?,
                "--lanes" => options.lanes = number()?.clamp(1, 64),
                "--worktree-rounds" => options.rounds = number()?,
                "--claude" => options.claude = Some(claude(&value)),
                "--muster" => options.muster = Some(value.into()),
                "--only" if ["load", "disk", "worktrees"].contains(&value.as_str()) => {
                    options.only = Some(value);
                }
                "--only" => bail!("--only takes load, disk or worktrees"),
                _ => bail!(
                    "unknown option {flag}; there are --kills, --bytes, --seed, --lanes, --worktree-rounds, --only, \
                     --claude and --muster"
                ),
            }
        }
        Ok(options)
    }

    /// Whether this part is asked for.
    pub fn plays(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == part)
    }
}

fn claude(name: &str) -> Claude {
    match name {
        "latest" => Claude::Latest,
        "2.1.197" => Claude::V2_1_197,
        path => Claude::At(path.into()),
    }
}

/// `200MB`, `1GB`, `64kB` or bytes.
fn size(text: &str) -> anyhow::Result<u64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: u64 = digits.parse().with_context(|| format!("{text:?} is no size"))?;
    let unit = match &text[digits.len()..] {
        "" | "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        unit => bail!("{unit:?} is no unit; there are kB, MB and GB"),
    };
    number.checked_mul(unit).with_context(|| format!("{text} is too much"))
}
