//! What a gateway is told at start: where its controller is, who it is there, how long its waits may be, and whom
//! it serves over HTTP.
//!
//! Secrets are of a type that shows nothing of them.

use std::{fmt, path::PathBuf, time::Duration};

use muster_proto::v1::Role;
pub use muster_runtime::tls::Trust;

use crate::limits::{ClientWait, WaitLimits};

/// How a gateway reaches its controller, and how it serves.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address of the controller: `http://127.0.0.1:7420` on this machine, `https://farm.example:7421` elsewhere.
    pub controller: String,
    /// Whom to believe to be the controller. Needed with `https://`, of no use without.
    pub trust: Option<Trust>,
    /// The gateway's own access token, of the role orchestrator or admin. `None`: it is whom the controller takes
    /// callers of this machine for. Never sent in the clear to another machine.
    pub token: Option<Secret>,
    /// How long `wait_for_completion` may wait, by client; the first that fits counts.
    pub waits: Vec<ClientWait>,
    /// The same for every other client. Its default fits clients that give up after a minute.
    pub other_waits: WaitLimits,
    /// The same for a wait that became a task: no call is open meanwhile, so no client gives up. Default one hour,
    /// at most a day.
    pub task_waits: WaitLimits,
    /// How long a wait is an ordinary call before it becomes a task, for clients that know tasks. Default 3 s.
    pub task_after: Duration,
    /// How long a call keeps trying to reach a controller that is away before it fails with
    /// `controller_unavailable`. Long enough for a restart, short enough for a model to learn of a dead one.
    pub patience: Duration,
    /// How often a wait reports progress to a caller that asked for it.
    pub progress_interval: Duration,
    /// What holds over HTTP only.
    pub http: HttpConfig,
}

impl Config {
    /// Defaults for the controller at `controller`.
    #[must_use]
    pub fn new(controller: impl Into<String>) -> Self {
        Self {
            controller: controller.into(),
            trust: None,
            token: None,
            waits: ClientWait::known(),
            other_waits: WaitLimits::seconds(45, 3600),
            task_waits: WaitLimits::seconds(3600, 86_400),
            task_after: Duration::from_secs(3),
            patience: Duration::from_secs(10),
            progress_interval: Duration::from_secs(5),
            http: HttpConfig::default(),
        }
    }

    /// The longest wait anybody may ask for.
    pub(crate) fn longest_wait(&self) -> Duration {
        self.waits
            .iter()
            .map(|rule| rule.limits.most)
            .chain([self.other_waits.most])
            .max()
            .unwrap_or_default()
    }
}

/// How HTTP is served. An address other machines can reach needs both `tls` and `auth`.
#[derive(Debug, Clone, Default)]
pub struct HttpConfig {
    /// Serve TLS. `None`: plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Who may call. `None`: everybody who reaches the address, with the gateway's own rights.
    pub auth: Option<Auth>,
    /// Address under which clients know the gateway, e.g. `https://farm.example/mcp`: its name is taken in `Host` and
    /// `Origin`, and tokens of an issuer must be made for it. `None`: the address listened on.
    pub public_url: Option<String>,
    /// Pages that may call beside those of this machine and of `public_url`, e.g. `https://tools.example`.
    pub origins: Vec<String>,
    /// Bounds for each caller, where callers are told apart.
    pub limits: CallerLimits,
}

/// A certificate and its key. Read again within a minute after they changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM: the certificate, then those that vouch for it.
    pub certificate: PathBuf,
    /// PEM, PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

/// Which tokens are taken. Access tokens of the controller (`muster token create`) always are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Auth {
    /// An authorization server whose tokens are taken too.
    pub issuer: Option<Issuer>,
}

/// An authorization server (OAuth 2.1) that signs JSON Web Tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// Its identifier, as `iss` says it: an `https://` address.
    pub issuer: String,
    /// Its public keys.
    pub keys: Keys,
    /// What everybody it vouches for may do at most; scopes narrow it. Not worker. Default of callers: operator.
    pub role: Role,
    /// Projects they may use; empty: all.
    pub projects: Vec<String>,
}

/// Where the keys of an issuer are (a JSON Web Key Set, RFC 7517). Read again when a token names a key that is not
/// among them, and every five minutes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys {
    /// A file somebody keeps up to date.
    File(PathBuf),
    /// `http://` on this machine: a sidecar that fetches them.
    Url(String),
}

/// Bounds for one caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallerLimits {
    /// Requests a second over time; past it: 429.
    pub per_second: u32,
    /// Requests at once after a pause.
    pub burst: u32,
    /// Requests that are being answered at the same time; each wait is one.
    pub open: u32,
    /// Sessions of the older protocol; the one used longest ago gives way.
    pub sessions: u32,
}

impl Default for CallerLimits {
    fn default() -> Self {
        Self { per_second: 50, burst: 2000, open: 1200, sessions: 200 }
    }
}

/// Text that is in no log: an access token.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` to itself, without the blanks around it.
    #[must_use]
    pub fn new(text: impl AsRef<str>) -> Self {
        Self(text.as_ref().trim().to_owned())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
