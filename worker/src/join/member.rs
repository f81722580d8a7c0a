//! A worker that has joined, while it runs: the channel it dials with, and the renewal of its certificate.
//!
//! New calls use the newest certificate; calls that are open stay on the connection they have, which the controller lets
//! live as long as the worker renews. What `muster worker join` writes meanwhile is taken over at the next connection.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use muster_proto::{
    error::{Error, ErrorCode},
    v1::{RenewRequest, RenewResponse, identity_service_client::IdentityServiceClient},
};
use muster_runtime::{
    backoff::Backoff,
    grpc,
    tls::{self, Identity, TlsError, Trust},
};
use rustls::pki_types::CertificateDer;
use tonic::{Status, transport::Channel};

use super::{ANSWER_WITHIN, advice, life, stored, stored::Membership, stored::StoredError};
use crate::clock::boot_time;

/// When a certificate is renewed, as a part of its life: each time a different one, so that a farm that was set up in a
/// minute does not renew in one.
const RENEW_AT: std::ops::Range<f64> = 0.60..0.67;
/// Longest sleep before looking at the clocks again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// First and longest wait after a renewal that failed; never more than a twentieth of the certificate's life.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// See the module.
#[derive(Debug)]
pub(crate) struct Member {
    state_dir: PathBuf,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    membership: Membership,
    channel: Channel,
    /// When to renew, by the clock since boot.
    renew_at: Duration,
}

/// A renewal that did not succeed.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error(transparent)]
    Stored(#[from] StoredError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{}", .0.message())]
    Refused(Box<Status>),
    #[error("{0}")]
    Unusable(String),
    #[error("the controller did not answer within {} s", ANSWER_WITHIN.as_secs())]
    Slow,
}

impl Current {
    fn new(membership: Membership) -> Result<Self, TlsError> {
        let identity =
            Identity { certificate: membership.certificate.clone(), key: membership.key.for_tls() };
        let trust = Trust::Roots(membership.roots.clone());
        let channel = tls::connect(&membership.address, trust, Some(identity))?;
        let part = RENEW_AT.start + (RENEW_AT.end - RENEW_AT.start) * jitter();
        // How old it is can be told only by this machine's clock; one that was set since is not believed.
        let age = SystemTime::now().duration_since(membership.obtained_at).unwrap_or(membership.life);
        let left = membership.life.mul_f64(part).saturating_sub(age);
        Ok(Self { membership, channel, renew_at: boot_time() + left })
    }
}

/// Uniform in 0 to 1.
fn jitter() -> f64 {
    Backoff::new(Duration::from_secs(1), Duration::from_secs(1)).next_delay().as_secs_f64()
}

impl Member {
    /// The member whose state folder this is; `None`: it has not joined.
    pub(crate) fn load(state_dir: &Path) -> Result<Option<Self>, LoadError> {
        let Some(membership) = Membership::load(state_dir)? else { return Ok(None) };
        let current = Mutex::new(Current::new(membership)?);
        Ok(Some(Self { state_dir: state_dir.to_owned(), current }))
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name it has in the farm.
    pub(crate) fn worker(&self) -> muster_proto::ids::WorkerId {
        self.current().membership.worker.clone()
    }

    /// Where the controller is.
    pub(crate) fn address(&self) -> String {
        self.current().membership.address.clone()
    }

    /// For new calls.
    pub(crate) fn channel(&self) -> Channel {
        self.current().channel.clone()
    }

    /// Takes over what was joined meanwhile.
    pub(crate) fn reload(&self) {
        let found = match Membership::load(&self.state_dir) {
            Ok(Some(found)) => found,
            Ok(None) => return,
            Err(error) => {
                return tracing::warn!(error = %error, "the membership cannot be read; the one in use stays");
            }
        };
        let mut current = self.current();
        if found.certificate == current.membership.certificate || found.worker != current.membership.worker {
            return;
        }
        match Current::new(found) {
            Ok(new) => {
                tracing::info!(controller = %new.membership.address, "this machine joined again; the new certificate is used");
                *current = new;
            }
            Err(error) => {
                tracing::warn!(error = %error, "the new membership cannot be used; the one in use stays");
            }
        }
    }

    /// Renews whenever it is time, for ever.
    pub(crate) async fn keep_renewing(&self) {
        let most = RETRY.1.min(self.current().membership.life / 20).max(Duration::from_millis(50));
        let mut backoff = Backoff::new(RETRY.0.min(most), most);
        loop {
            let left = self.current().renew_at.saturating_sub(boot_time());
            if !left.is_zero() {
                tokio::time::sleep(left.min(LOOK_AGAIN)).await;
                continue;
            }
            match self.renew().await {
                Ok(life) => {
                    backoff.reset();
                    tracing::info!(good_for_seconds = life.as_secs(), "the worker's certificate is renewed");
                }
                Err(error) => {
                    let hint = hint(&error);
                    tracing::warn!(error = %error, hint, "the worker's certificate is not renewed, trying again");
                    tokio::time::sleep(backoff.next_delay().max(most / 10)).await;
                    self.reload();
                }
            }
        }
    }

    /// Another key, and a certificate of it. Returns how long it is good for.
    async fn renew(&self) -> Result<Duration, RenewError> {
        let key = stored::next_key(&self.state_dir)?;
        let csr = key.request().map_err(RenewError::Unusable)?;
        let mut client = IdentityServiceClient::with_interceptor(self.channel(), grpc::TraceInterceptor);
        let answer = tokio::time::timeout(ANSWER_WITHIN, client.renew(RenewRequest { csr })).await;
        let answer = answer.map_err(|_| RenewError::Slow)?;
        let answer = answer.map_err(|status| RenewError::Refused(Box::new(status)))?;
        let RenewResponse { certificate, roots, .. } = answer.into_inner();
        let certificate = CertificateDer::from(certificate);
        if !key.is_of(&certificate) || roots.is_empty() {
            return Err(RenewError::Unusable(
                "the controller gave a certificate of another key, or no root".to_owned(),
            ));
        }
        let life = life(&certificate);
        let life = life.ok_or_else(|| RenewError::Unusable("the certificate has no end".to_owned()))?;
        let before = self.current().membership.clone();
        let roots = roots.into_iter().map(CertificateDer::from).collect();
        let new = Membership { key, certificate, roots, obtained_at: SystemTime::now(), life, ..before };
        let current = Current::new(new.clone())?;
        new.store(&self.state_dir)?;
        stored::forget_next_key(&self.state_dir);
        *self.current() = current;
        Ok(life)
    }
}

/// What to do about it, for people; empty: wait.
fn hint(error: &RenewError) -> &'static str {
    let RenewError::Refused(status) = error else { return "" };
    unwelcome(status).unwrap_or_default()
}

/// Why a call did not come through, and what to do next, when waiting alone is no help.
pub(crate) fn unwelcome(status: &Status) -> Option<&'static str> {
    if let Some(trouble) = tls::trouble(status) {
        return Some(advice(trouble));
    }
    match Error::from_status(status).code {
        ErrorCode::Unauthenticated => Some(
            "this worker was revoked, or its certificate has ended; have a token made with `muster token create` and run `muster worker join` again, also while this process runs",
        ),
        _ => None,
    }
}

/// A membership no worker can run with.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// What is on disk.
    #[error(transparent)]
    Stored(#[from] StoredError),
    /// What is in it.
    #[error(transparent)]
    Tls(#[from] TlsError),
}
