//! Whom a bearer token belongs to: asked of the controller for its own access tokens, read from the token for those
//! of an issuer; remembered for a few seconds.
//!
//! Invariant: only the hash of a token is kept, and a revoked token is refused at the latest [`KNOWN_FOR`] later.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use muster_proto::{error::ErrorCode, v1::Principal};
use ring::digest;
use tokio::{sync::Semaphore, time::Instant};

use super::{Refused, gate::Gates, jwt::Verifier};
use crate::{
    caller::{Caller, Somebody},
    config::Auth,
    controller::Controller,
};

/// How long an answer of the controller is believed.
const KNOWN_FOR: Duration = Duration::from_secs(5);
/// The same for "no such token".
const WRONG_FOR: Duration = Duration::from_secs(2);
/// Tokens remembered.
const REMEMBERED: usize = 4096;
/// Questions to the controller at the same time.
const QUESTIONS: usize = 64;
/// Longest token looked at.
const TOKEN_BYTES: usize = 16 << 10;

type Hash = [u8; 32];

/// A token's owner, for a while.
#[derive(Debug)]
struct Known {
    until: Instant,
    caller: Option<Caller>,
}

/// The one judge of tokens. Cheap enough to ask at every request.
#[derive(Debug)]
pub(crate) struct Access {
    controller: Controller,
    issuer: Option<Verifier>,
    gates: Gates,
    known: Mutex<HashMap<Hash, Known>>,
    questions: Semaphore,
}

impl Access {
    pub(crate) fn new(controller: Controller, auth: &Auth, resource: &str) -> Self {
        Self {
            controller,
            issuer: auth.issuer.clone().map(|issuer| Verifier::new(issuer, resource)),
            gates: Gates::default(),
            known: Mutex::default(),
            questions: Semaphore::new(QUESTIONS),
        }
    }

    /// Whose `token` is.
    pub(crate) async fn check(&self, token: &str) -> Result<Caller, Refused> {
        let wrong = || Refused::Token("the token is unknown, expired or revoked".to_owned());
        if token.is_empty() || token.len() > TOKEN_BYTES || !token.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(wrong());
        }
        let hash = hash(token);
        if let Some(known) = self.remembered(&hash) {
            return known.ok_or_else(wrong);
        }
        if let Some(issuer) = self.issuer.as_ref().filter(|_| token.split('.').count() == 3) {
            let principal = issuer.verify(token, SystemTime::now()).await?;
            let caller = self.caller(principal);
            self.remember(hash, KNOWN_FOR, Some(caller.clone()));
            return Ok(caller);
        }
        let _turn = self.questions.acquire().await.map_err(|_| wrong())?;
        if let Some(known) = self.remembered(&hash) {
            return known.ok_or_else(wrong);
        }
        match self.controller.check_access(token).await {
            Ok(principal) => {
                let caller = self.caller(principal);
                self.remember(hash, KNOWN_FOR, Some(caller.clone()));
                Ok(caller)
            }
            Err(error) if error.code == ErrorCode::Unauthenticated => {
                self.remember(hash, WRONG_FOR, None);
                Err(wrong())
            }
            Err(error) => Err(Refused::Unknown(error)),
        }
    }

    fn caller(&self, principal: Principal) -> Caller {
        let gate = self.gates.of(&principal.name);
        Caller::Somebody(Arc::new(Somebody::new(principal, gate)))
    }

    fn remembered(&self, hash: &Hash) -> Option<Option<Caller>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get(hash).filter(|known| known.until > Instant::now())?;
        let ended = |caller: &Caller| caller.expires_at().is_some_and(|end| end <= SystemTime::now());
        Some(known.caller.clone().filter(|caller| !ended(caller)))
    }

    fn remember(&self, hash: Hash, lasts: Duration, caller: Option<Caller>) {
        let now = Instant::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED && !known.contains_key(&hash) {
            known.retain(|_, known| known.until > now);
            // All of them were shown within seconds: which one is asked for again nobody knows.
            while known.len() >= REMEMBERED {
                let Some(any) = known.keys().next().copied() else { break };
                known.remove(&any);
            }
        }
        known.insert(hash, Known { until: now + lasts, caller });
    }
}

fn hash(token: &str) -> Hash {
    let digest = digest::digest(&digest::SHA256, token.as_bytes());
    digest.as_ref().try_into().unwrap_or([0; 32])
}
