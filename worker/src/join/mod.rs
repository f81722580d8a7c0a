//! Becoming a worker of a farm on another machine, and staying one.
//!
//! [`join`] is what `muster worker join <token>` does: pins the key of the farm's root, proves that it has a key of its own,
//! and keeps the certificate it gets in the state folder. A worker with [`crate::Controller::Joined`] then dials with it,
//! and renews it at two thirds of its life. Called by the command line and by `uplink`.
//!
//! Invariants: a key is durable before it is sent, and the same one is sent until its certificate is durable, so a crash or a
//! lost answer at any point costs nothing; nothing secret is in an error or a log; no local clock decides whether a
//! certificate is still good.

mod member;
mod stored;
mod token;

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use muster_proto::{
    error::{Error, ErrorCode},
    ids::WorkerId,
    v1::{EnrolRequest, identity_service_client::IdentityServiceClient},
};
use muster_runtime::tls::{self, TlsError, Trouble, Trust};
use rustls::pki_types::CertificateDer;
use tonic::Status;

pub(crate) use self::member::{Member, unwelcome};
pub use self::{
    member::LoadError,
    stored::{Membership, StoredError},
    token::{JoinToken, TokenError},
};
use crate::local_state;

/// Longest the controller may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// The controller dates a certificate this far back, for clocks that are behind.
const DATED_BACK: Duration = Duration::from_secs(5 * 60);

/// How to join.
#[derive(Debug, Clone)]
pub struct JoinOptions {
    /// The worker's state folder, made when it is missing. The same one for the worker that runs afterwards.
    pub state_dir: PathBuf,
    /// The name to have in the farm; a token for one named worker overrules it.
    pub name: WorkerId,
}

/// A machine that could not join. Nothing is lost: the same token and folder may be used again.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The line.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The state folder.
    #[error(transparent)]
    Stored(#[from] StoredError),
    /// The address.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The controller does not take the token.
    #[error(
        "the controller does not take this token: it was used, has expired, was revoked or is mistyped; have a new one made with `muster token create`"
    )]
    Refused,
    /// The name is another machine's.
    #[error(
        "a worker named {0} has joined already; choose another name with --name, or have a token made for this one with `muster token create --name {0}`"
    )]
    NameTaken(WorkerId),
    /// Whoever answers there is not the farm the token is of.
    #[error(
        "{0} is not the controller this token is of: its certificate is not of the root the token names; nothing was sent to it"
    )]
    OtherFarm(String),
    /// As told; the same token may be used again.
    #[error("{0} cannot be reached: {1}; the token is still good, run the same command again")]
    Unreachable(String, String),
    /// As told.
    #[error("the controller refused: {0}")]
    Other(String),
}

/// Makes this machine a worker of the farm that made `token`. Safe to repeat with the same token, folder and name, also
/// after a crash: the machine is told by its key, which is made once. A machine that has joined this farm before
/// keeps its key, so it may come back under its name with any token.
///
/// # Errors
/// [`JoinError`], each with what to do next.
pub async fn join(token: &str, options: &JoinOptions) -> Result<Membership, JoinError> {
    let token: JoinToken = token.parse()?;
    let folder = options.state_dir.clone();
    let state_dir = local_state::prepare(&folder).map_err(|error| StoredError::File(folder, error))?;
    let known = Membership::load(&state_dir).unwrap_or_default();
    let known = known.filter(|known| known.roots.iter().any(|root| tls::pin_of(root) == Some(token.pin)));
    let key = match known {
        Some(known) => known.key,
        None => stored::next_key(&state_dir)?,
    };
    let csr = key.request().map_err(JoinError::Other)?;
    let channel = tls::connect(&token.address, Trust::Pin(token.pin), None)?;
    let mut client = IdentityServiceClient::new(channel);
    let request = EnrolRequest { token: token.sent.clone(), csr, worker: options.name.to_string() };
    let answer = tokio::time::timeout(ANSWER_WITHIN, client.enrol(request)).await;
    let answer = match answer {
        Ok(answer) => answer.map_err(|status| refused(&status, &token, &options.name))?.into_inner(),
        Err(_) => {
            let text = format!("it did not answer within {} s", ANSWER_WITHIN.as_secs());
            return Err(JoinError::Unreachable(token.address, text));
        }
    };
    let certificate = CertificateDer::from(answer.certificate);
    let roots: Vec<_> = answer.roots.into_iter().map(CertificateDer::from).collect();
    let worker =
        answer.worker.parse().map_err(|_| JoinError::Other("it gave a name that is none".to_owned()))?;
    if !key.is_of(&certificate) || !roots.iter().any(|root| tls::pin_of(root) == Some(token.pin)) {
        return Err(JoinError::Other(
            "it gave a certificate that is not of this machine's key, or other roots".to_owned(),
        ));
    }
    let life = life(&certificate)
        .ok_or_else(|| JoinError::Other("it gave a certificate without an end".to_owned()))?;
    let address = token.address;
    let membership =
        Membership { worker, address, key, certificate, roots, obtained_at: SystemTime::now(), life };
    membership.store(&state_dir)?;
    stored::forget_next_key(&state_dir);
    Ok(membership)
}

/// What a call to the controller failed by.
fn refused(status: &Status, token: &JoinToken, name: &WorkerId) -> JoinError {
    match tls::trouble(status) {
        Some(Trouble::OtherFarm) => return JoinError::OtherFarm(token.address.clone()),
        Some(trouble) => return JoinError::Unreachable(token.address.clone(), advice(trouble).to_owned()),
        None => {}
    }
    let error = Error::from_status(status);
    match error.code {
        ErrorCode::Unauthenticated => JoinError::Refused,
        ErrorCode::InvalidArgument if error.field == "worker" => JoinError::NameTaken(name.clone()),
        _ if error.retryable() => JoinError::Unreachable(token.address.clone(), error.message),
        _ => JoinError::Other(error.message),
    }
}

/// What is wrong and what to do about it, for people.
pub(crate) const fn advice(trouble: Trouble) -> &'static str {
    match trouble {
        Trouble::OtherFarm => {
            "whoever answers there has no certificate of this farm; if the farm's root was exchanged meanwhile, join again with a new token"
        }
        Trouble::OtherName => {
            "the controller's certificate does not name this address; join at one it was started with (`muster controller --remote-name`)"
        }
        Trouble::Clock => {
            "the controller's certificate is not valid at this machine's time: set the clocks of both machines; it goes on by itself then"
        }
        Trouble::Certificate => {
            "this worker's certificate has ended or is not taken any more; have a token made with `muster token create` and run `muster worker join` again"
        }
    }
}

/// How long a new certificate is good for, by its own dates: no clock of this machine is asked.
fn life(certificate: &CertificateDer<'_>) -> Option<Duration> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let validity = parsed.validity();
    let seconds = validity.not_after.timestamp().checked_sub(validity.not_before.timestamp())?;
    let whole = Duration::from_secs(u64::try_from(seconds).ok()?);
    Some(whole.saturating_sub(DATED_BACK).max(Duration::from_secs(1)))
}

/// Whether the worker of this state folder has joined a farm.
#[must_use]
pub fn has_joined(state_dir: &Path) -> bool {
    state_dir.join("identity/member.json").exists()
}
