//! Whom a gateway serves over HTTP: TLS, tokens, an authorization server. Flags and their check.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, ValueEnum};
use muster_mcp_gateway::{Auth, HttpConfig, Issuer, Keys, TlsFiles};
use muster_proto::v1::Role;
use serde::Deserialize;

use crate::{failure::Failure, roles::list};

const HEADING: &str = "Callers over HTTP";

/// Who may call.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Callers {
    /// Serve TLS with this certificate (PEM, with those that vouch for it); read again when it changes
    #[arg(long, env = "MUSTER_TLS_CERT", hide_env_values = true, value_name = "FILE", help_heading = HEADING)]
    tls_cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, env = "MUSTER_TLS_KEY", hide_env_values = true, value_name = "FILE", help_heading = HEADING)]
    tls_key: Option<PathBuf>,
    /// Take only callers with an access token (`muster token create --role`), each with its own rights
    #[arg(long, help_heading = HEADING)]
    require_token: bool,
    /// Address under which clients know the gateway, e.g. `https://farm.example/mcp` [default: the one listened on]
    #[arg(long, env = "MUSTER_PUBLIC_URL", hide_env_values = true, value_name = "URL", help_heading = HEADING)]
    public_url: Option<String>,
    /// A page that may call beside those of this machine, e.g. `https://tools.example`; repeat for several
    #[arg(long, value_name = "ORIGIN", help_heading = HEADING)]
    allow_origin: Vec<String>,
    /// An authorization server whose tokens (JWT) are taken too: its identifier
    #[arg(long, value_name = "URL", help_heading = HEADING)]
    issuer: Option<String>,
    /// Its public keys (JWKS): a file, or an http:// address on this machine
    #[arg(long, value_name = "FILE|URL", help_heading = HEADING)]
    issuer_keys: Option<String>,
    /// What everybody it vouches for may do at most [default: operator]
    #[arg(long, value_name = "ROLE", help_heading = HEADING)]
    issuer_role: Option<Most>,
    /// A project they may use; repeat for several [default: all]
    #[arg(long, value_name = "NAME", help_heading = HEADING)]
    issuer_project: Vec<String>,
}

/// What callers of an authorization server may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Most {
    /// Sees sessions
    Viewer,
    /// Sees, spawns, answers and stops sessions
    Operator,
    /// Spawns sessions, and sees and steers its own
    Orchestrator,
}

impl Callers {
    /// Fills what is not set from `lower`.
    pub fn or(self, lower: Self) -> Self {
        Self {
            tls_cert: self.tls_cert.or(lower.tls_cert),
            tls_key: self.tls_key.or(lower.tls_key),
            require_token: self.require_token || lower.require_token,
            public_url: self.public_url.or(lower.public_url),
            allow_origin: list(self.allow_origin, lower.allow_origin),
            issuer: self.issuer.or(lower.issuer),
            issuer_keys: self.issuer_keys.or(lower.issuer_keys),
            issuer_role: self.issuer_role.or(lower.issuer_role),
            issuer_project: list(self.issuer_project, lower.issuer_project),
        }
    }

    /// As the gateway wants it. `listen`: None over stdio.
    pub fn config(&self, listen: Option<SocketAddr>) -> Result<HttpConfig, Failure> {
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => {
                Some(TlsFiles { certificate: certificate.clone(), key: key.clone() })
            }
            (None, None) => None,
            _ => return Err(Failure::usage("tls-cert and tls-key go together")),
        };
        let issuer = self.issuer()?;
        let auth = (self.require_token || issuer.is_some()).then_some(Auth { issuer });
        if listen.is_none() && (tls.is_some() || auth.is_some()) {
            return Err(Failure::usage("tls-cert, require-token and issuer are for HTTP")
                .hint("say where to listen with --http ADDR"));
        }
        if let Some(listen) = listen.filter(|listen| !listen.ip().is_loopback()) {
            let missing = match (&tls, &auth) {
                (None, _) => "--tls-cert and --tls-key",
                (_, None) => "--require-token or --issuer",
                _ => "",
            };
            if !missing.is_empty() {
                return Err(Failure::usage(format!(
                    "other machines can reach {listen}, which is no loopback address: that needs {missing}"
                )));
            }
        }
        Ok(HttpConfig {
            tls,
            auth,
            public_url: self.public_url.clone(),
            origins: self.allow_origin.clone(),
            ..HttpConfig::default()
        })
    }

    fn issuer(&self) -> Result<Option<Issuer>, Failure> {
        let (issuer, keys) = match (&self.issuer, &self.issuer_keys) {
            (Some(issuer), Some(keys)) => (issuer.clone(), keys),
            (None, None) if self.issuer_role.is_none() && self.issuer_project.is_empty() => return Ok(None),
            _ => {
                return Err(Failure::usage(
                    "issuer and issuer-keys go together, and the other issuer options with them",
                ));
            }
        };
        let keys = if keys.contains("://") { Keys::Url(keys.clone()) } else { Keys::File(keys.into()) };
        let role = match self.issuer_role {
            Some(Most::Viewer) => Role::Viewer,
            Some(Most::Operator) | None => Role::Operator,
            Some(Most::Orchestrator) => Role::Orchestrator,
        };
        Ok(Some(Issuer { issuer, keys, role, projects: self.issuer_project.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn callers(cert: bool, token: bool) -> Callers {
        let file = |name: &str| cert.then(|| PathBuf::from(name));
        Callers { tls_cert: file("c"), tls_key: file("k"), require_token: token, ..Callers::default() }
    }

    #[test]
    fn other_machines_are_served_only_over_tls_and_with_tokens() {
        let far: SocketAddr = "0.0.0.0:7443".parse().expect("an address");
        let near: SocketAddr = "127.0.0.1:7443".parse().expect("an address");
        assert!(callers(true, true).config(Some(far)).is_ok());
        assert!(callers(false, false).config(Some(near)).is_ok());
        assert!(callers(false, true).config(Some(far)).expect_err("no TLS").what.contains("--tls-cert"));
        assert!(
            callers(true, false).config(Some(far)).expect_err("no token").what.contains("--require-token")
        );
        assert!(callers(false, true).config(None).expect_err("stdio").hint.contains("--http"));
    }

    #[test]
    fn an_issuer_needs_its_keys() {
        let near = "127.0.0.1:0".parse().ok();
        let issuer = Some("https://login.example".to_owned());
        let half = Callers { issuer: issuer.clone(), ..Callers::default() };
        assert!(half.config(near).is_err());
        let whole = Callers {
            issuer,
            issuer_keys: Some("http://127.0.0.1:9/keys".into()),
            issuer_role: Some(Most::Viewer),
            ..Callers::default()
        };
        let auth = whole.config(near).expect("taken").auth.expect("tokens");
        let issuer = auth.issuer.expect("one");
        assert_eq!((issuer.role, issuer.keys), (Role::Viewer, Keys::Url("http://127.0.0.1:9/keys".into())));
    }
}
