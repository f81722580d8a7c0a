//! Tells clients when a resource they follow has changed.
//!
//! The same for both protocol eras: one future for each address, woken by the shared watches. Throttled: a
//! session that writes without pause is told of once a second. Invariant: who stops following costs nothing
//! any more, since dropping the future ends its watch.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use muster_proto::{error::ErrorCode, v1::Session};
use muster_runtime::{
    backoff::Backoff,
    task::{self, Task},
};
use rmcp::{RoleServer, model::ResourceUpdatedNotificationParam, service::Peer};
use tokio::time::sleep;

use crate::{
    controller::Controller,
    resources::{Part, Subject},
    watches::Watches,
};

/// A resource is told of at most this often.
const THROTTLE: Duration = Duration::from_secs(1);
/// Most resources one client follows.
pub(crate) const FOLLOWED: usize = 100;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// The addresses a client of the older protocol follows; gone with its session.
#[derive(Debug, Clone, Default)]
pub(crate) struct Subscriptions {
    tasks: Arc<Mutex<HashMap<String, Task<()>>>>,
}

impl Subscriptions {
    /// False when there are too many.
    pub(crate) fn add(&self, uri: String, subject: Subject, farm: Watches, peer: Peer<RoleServer>) -> bool {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|_, task| !task.is_finished());
        if tasks.len() >= FOLLOWED && !tasks.contains_key(&uri) {
            return false;
        }
        let address = uri.clone();
        let following = task::spawn("resource subscription", async move {
            let tell = |uri| {
                let peer = peer.clone();
                async move {
                    peer.notify_resource_updated(ResourceUpdatedNotificationParam::new(uri)).await.is_ok()
                }
            };
            follow(&farm, address, subject, tell).await;
        });
        tasks.insert(uri, following);
        true
    }

    pub(crate) fn remove(&self, uri: &str) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).remove(uri);
    }
}

/// Follows all of these until nobody listens any more.
pub(crate) async fn follow_all<F, Told>(watches: &Watches, uris: Vec<String>, tell: F)
where
    F: Fn(String) -> Told,
    Told: Future<Output = bool>,
{
    let mut all: FuturesUnordered<_> = uris
        .into_iter()
        .filter_map(|uri| Subject::parse(&uri).map(|subject| (uri, subject)))
        .map(|(uri, subject)| follow(watches, uri, subject, &tell))
        .collect();
    while all.next().await.is_some() {}
}

/// Calls `tell` after each change, until that says that nobody listens.
async fn follow<F, Told>(watches: &Watches, uri: String, subject: Subject, tell: F)
where
    F: Fn(String) -> Told,
    Told: Future<Output = bool>,
{
    match subject {
        Subject::Sessions | Subject::Farm => follow_farm(watches.controller(), uri, tell).await,
        Subject::Session(name, part) => {
            let watch = watches.watch(&[name]);
            let mut last = None;
            loop {
                let Ok(look) = watch.look() else { return };
                let state = look.sessions.values().next().map(|session| state(session, part));
                if state.is_some() && state != last {
                    if last.is_some() && !tell(uri.clone()).await {
                        return;
                    }
                    let first = std::mem::replace(&mut last, state).is_none();
                    if !first {
                        sleep(THROTTLE).await;
                        continue;
                    }
                }
                watch.changed().await;
            }
        }
    }
}

/// What a part of a session depends on.
fn state(session: &Session, part: Part) -> String {
    let turns = session.usage.as_ref().map_or(0, |usage| usage.turns);
    match part {
        Part::Output => format!("{} {}", session.output_end_offset, session.status),
        Part::Result => format!("{turns} {} {}", session.status, session.result_text.len()),
        Part::Changes => format!("{turns} {} {}", session.status, session.last_activity),
        Part::Attention => {
            session.attention.as_ref().map(|attention| attention.attention_id.clone()).unwrap_or_default()
        }
    }
}

async fn follow_farm<F, Told>(controller: &Controller, uri: String, tell: F)
where
    F: Fn(String) -> Told,
    Told: Future<Output = bool>,
{
    let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
    loop {
        let opened = controller.watch(&[]).await;
        if let Err(error) = &opened
            && error.code != ErrorCode::ControllerUnavailable
        {
            // The caller's token has ended, or the like: that does not pass.
            tracing::debug!(error = %error, "a subscription ends");
            return;
        }
        if let Ok(mut stream) = opened {
            // A change during the first look, or while the stream was away, cannot be told from none.
            let mut first = true;
            while let Ok(Some(_)) = stream.message().await {
                backoff.reset();
                if !std::mem::take(&mut first) {
                    if !tell(uri.clone()).await {
                        return;
                    }
                    sleep(THROTTLE).await;
                }
            }
        }
        sleep(backoff.next_delay()).await;
    }
}
