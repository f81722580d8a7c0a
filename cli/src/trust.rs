//! Whom a verb believes to be the controller on another machine, and what it shows there.
//!
//! Used by every verb and by `muster mcp`. Invariants: a token is in no flag, no error and no debug output, and never
//! leaves this machine in the clear.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::Args;
use muster_runtime::tls::Trust;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde::Deserialize;

use crate::failure::Failure;

/// Where verbs find their access token. Not a flag: other users of a machine see a command line.
const TOKEN_VARIABLE: &str = "MUSTER_TOKEN";
/// Longest file taken for a token.
const TOKEN_BYTES: u64 = 4096;

/// How to be sure of a controller on another machine, and to be known there.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Credentials {
    /// The farm's root, for a controller at https://: the SHA-256 of its key in hexadecimal, or a PEM file (the
    /// controller's `ca/root.pem`)
    #[arg(long, env = "MUSTER_CONTROLLER_ROOT", hide_env_values = true, value_name = "HASH|FILE")]
    #[arg(help_heading = "Controller")]
    pub controller_root: Option<FarmRoot>,
    /// File with the access token [default: the token in MUSTER_TOKEN, if any]
    #[arg(long, env = "MUSTER_TOKEN_FILE", hide_env_values = true, value_name = "FILE")]
    #[arg(help_heading = "Controller")]
    pub token_file: Option<PathBuf>,
}

impl Credentials {
    /// Fills what is not set from `lower`.
    pub fn or(self, lower: Self) -> Self {
        Self {
            controller_root: self.controller_root.or(lower.controller_root),
            token_file: self.token_file.or(lower.token_file),
        }
    }

    /// The same again on a command line. No secret is in it.
    pub fn as_flags(&self) -> Vec<std::ffi::OsString> {
        let root = self.controller_root.as_ref().map(|root| match root {
            FarmRoot::Hash(hash) => hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
            FarmRoot::File(path) => path.clone().into_os_string(),
        });
        let file = self.token_file.as_ref().map(|path| path.clone().into_os_string());
        [("--controller-root", root), ("--token-file", file)]
            .into_iter()
            .filter_map(|(flag, value)| Some([flag.into(), value?]))
            .flatten()
            .collect()
    }

    /// The access token, if there is one: the environment's goes before the file's.
    pub fn token(&self) -> Result<Option<Token>, Failure> {
        if let Some(token) = std::env::var(TOKEN_VARIABLE).ok().filter(|token| !token.trim().is_empty()) {
            return Token::new(&token, TOKEN_VARIABLE).map(Some);
        }
        let Some(path) = &self.token_file else { return Ok(None) };
        let cannot = || Failure::usage(format!("token file {} cannot be used", path.display()));
        let size = fs::metadata(path).map_err(|error| cannot().caused_by(&error))?.len();
        if size > TOKEN_BYTES {
            return Err(
                cannot().hint("it holds one access token, as `muster token create --role` printed it")
            );
        }
        let text = fs::read_to_string(path).map_err(|error| cannot().caused_by(&error))?;
        Token::new(&text, &path.display().to_string()).map(Some)
    }
}

/// An access token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    fn new(text: &str, found_in: &str) -> Result<Self, Failure> {
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Failure::usage(format!("{found_in} holds characters that no token has, or nothing")));
        }
        Ok(Self(token.to_owned()))
    }

    /// For the one header it goes into.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// The root of a farm, as it is told to a client.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum FarmRoot {
    /// SHA-256 of its key (SubjectPublicKeyInfo, DER).
    Hash([u8; 32]),
    /// PEM; several while the root is changed.
    File(PathBuf),
}

impl FromStr for FarmRoot {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("it is empty: give the hash of the root's key, or a PEM file".to_owned());
        }
        Ok(unhex(text).map_or_else(|| Self::File(text.into()), Self::Hash))
    }
}

impl TryFrom<String> for FarmRoot {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FarmRoot {
    /// As TLS wants it.
    pub fn trust(&self) -> Result<Trust, Failure> {
        match self {
            Self::Hash(hash) => Ok(Trust::Pin(*hash)),
            Self::File(path) => roots_in(path).map(Trust::Roots),
        }
    }
}

fn roots_in(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let cannot = || {
        Failure::usage(format!("controller-root {} cannot be used", path.display())).hint(
            "it is a PEM file with the farm's root, or 64 hexadecimal digits: the SHA-256 of the root's key",
        )
    };
    let text = fs::read(path).map_err(|error| cannot().caused_by(&error))?;
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let roots = roots.map_err(|error| cannot().caused_by(&std::io::Error::other(error.to_string())))?;
    if roots.is_empty() {
        return Err(cannot().caused_by(&std::io::Error::other("there is no certificate in it")));
    }
    Ok(roots)
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let bytes: Vec<u8> =
        digits?.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
    (text.len() == 64).then_some(bytes)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_a_hash_or_a_file() {
        assert_eq!("0F".repeat(32).parse(), Ok(FarmRoot::Hash([15; 32])));
        assert_eq!("ca/root.pem".parse(), Ok(FarmRoot::File("ca/root.pem".into())));
        assert!("".parse::<FarmRoot>().is_err());
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("root.pem");
        for text in ["", "nonsense", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"] {
            fs::write(&path, text).expect("written");
            let failure = FarmRoot::File(path.clone()).trust().expect_err(text);
            assert!(failure.hint.contains("64 hexadecimal"), "{failure:?}");
        }
    }

    #[test]
    fn a_token_is_one_word_and_never_shown() {
        let token = Token::new(" muster_a_secret\n", "x").expect("taken");
        assert_eq!((token.expose(), &*format!("{token:?}")), ("muster_a_secret", "Token"));
        for bad in ["", " ", "two words", "a\u{1b}b"] {
            let failure = Token::new(bad, "the file").expect_err(bad);
            assert!(failure.what.contains("the file") && !failure.what.contains("words"), "{failure:?}");
        }
    }
}
