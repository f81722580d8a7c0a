//! Whose a session of the older protocol is.
//!
//! Its id is no proof of who calls: a request for another caller's session reads as one for none. Invariant: each
//! caller has a bounded number, and so have all together; the one used longest ago gives way.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rmcp::transport::streamable_http_server::{SessionManager as _, session::local::LocalSessionManager};
use tokio::time::Instant;

/// Of all callers together.
const ALL: usize = 4096;

#[derive(Debug)]
struct Session {
    owner: String,
    used: Instant,
}

/// The sessions there are, beside what rmcp keeps of them.
#[derive(Debug)]
pub(crate) struct Sessions {
    manager: Arc<LocalSessionManager>,
    each: usize,
    owned: Mutex<HashMap<String, Session>>,
}

impl Sessions {
    /// `each`: how many one caller may have.
    pub(crate) fn new(manager: Arc<LocalSessionManager>, each: u32) -> Self {
        Self { manager, each: usize::try_from(each).unwrap_or(ALL).max(1), owned: Mutex::default() }
    }

    /// Whether `id` is no session of somebody else than `owner`. One that is nobody's is not there: rmcp says so.
    pub(crate) fn may_use(&self, id: &str, owner: &str) -> bool {
        let mut owned = self.lock();
        let Some(session) = owned.get_mut(id) else { return true };
        let may = session.owner == owner;
        if may {
            session.used = Instant::now();
        }
        may
    }

    /// Takes note of a new one. The one used longest ago ends when there are too many.
    pub(crate) async fn add(&self, id: &str, owner: &str) {
        if self.lock().len() >= ALL {
            self.forget_ended().await;
        }
        let given_up = {
            let mut owned = self.lock();
            let oldest = |of_owner: bool| {
                owned
                    .iter()
                    .filter(|(_, session)| !of_owner || session.owner == owner)
                    .min_by_key(|(_, session)| session.used)
                    .map(|(id, _)| id.clone())
            };
            let count = owned.values().filter(|session| session.owner == owner).count();
            let given_up = match (count >= self.each, owned.len() >= ALL) {
                (true, _) => oldest(true),
                (false, true) => oldest(false),
                (false, false) => None,
            };
            if let Some(given_up) = &given_up {
                owned.remove(given_up);
            }
            owned.insert(id.to_owned(), Session { owner: owner.to_owned(), used: Instant::now() });
            given_up
        };
        if let Some(given_up) = given_up {
            let closed = self.manager.close_session(&given_up.into()).await;
            tracing::debug!(?closed, "a session made room for another");
        }
    }

    pub(crate) fn remove(&self, id: &str) {
        self.lock().remove(id);
    }

    async fn forget_ended(&self) {
        let living = self.manager.sessions.read().await;
        self.lock().retain(|id, _| living.contains_key(id.as_str()));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
