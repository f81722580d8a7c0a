//! Watches of sessions, shared by all who wait for the same ones.
//!
//! Owns the streams of changes a gateway has open: one session is watched once, however many wait for it,
//! and sessions asked for at the same moment share a stream. A stream lives for as long as somebody waits
//! for any of its sessions. Invariant: what a waiter sees of a session never goes back in time, neither
//! behind the stream nor behind what a tool of this gateway was told ([`Watches::observe`]).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use muster_proto::{
    error::{Error, ErrorCode},
    v1::Session,
};
use muster_runtime::{backoff::Backoff, task};
use tokio::sync::Notify;

use crate::{by_key::ByKey, caller::Caller, controller::Controller};

/// Sessions asked for within this time share a stream.
const GATHER: Duration = Duration::from_millis(2);
/// Most sessions of one stream; the controller takes more, but one that breaks concerns all of them.
const TOGETHER: usize = 500;
/// Kept of a prompt, in bytes: what a list shows of it. It may have megabytes.
const PROMPT_BYTES: usize = 4096;
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(1);

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Watches {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    controller: Controller,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By the name they were asked for.
    entries: HashMap<String, Entry>,
    /// Names no stream watches yet.
    fresh: Vec<String>,
    gathering: bool,
    last_waiter: u64,
}

/// A session somebody waits for.
#[derive(Debug, Default)]
struct Entry {
    seen: Option<Arc<Session>>,
    /// `seen` was told beside the stream, since that was opened: its first message may be older.
    observed: bool,
    /// It cannot be watched, for good.
    failed: Option<Error>,
    /// It cannot be watched at the moment.
    trouble: Option<Error>,
    waiters: Vec<(u64, Arc<Notify>)>,
    /// Tells the stream that watches it to look whether anybody is left.
    stream: Option<Arc<Notify>>,
}

/// What a waiter sees.
#[derive(Debug)]
pub(crate) struct Look {
    /// By session id, those seen so far.
    pub(crate) sessions: BTreeMap<String, Arc<Session>>,
    /// Every session asked for was seen.
    pub(crate) complete: bool,
    /// The controller is away; what was seen may be old.
    pub(crate) trouble: Option<Error>,
}

/// Somebody's interest in some sessions. Dropping it ends the streams nobody else needs.
#[derive(Debug)]
pub(crate) struct Watch {
    inner: Arc<Inner>,
    names: Vec<String>,
    id: u64,
    wake: Arc<Notify>,
}

/// The watches of every caller: nobody is woken by, or shown, what only another may see.
#[derive(Debug)]
pub(crate) struct AllWatches {
    own: Watches,
    others: Mutex<ByKey<Inner>>,
}

impl AllWatches {
    /// `controller`: as the gateway itself.
    pub(crate) fn new(controller: Controller) -> Self {
        Self { own: Watches::new(controller), others: Mutex::default() }
    }

    pub(crate) fn of(&self, caller: &Caller) -> Watches {
        let Some(key) = caller.encoded() else { return self.own.clone() };
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let controller = &self.own.inner.controller;
        Watches { inner: others.get(key, || Arc::new(Inner::new(controller.on_behalf_of(caller)))) }
    }
}

impl Watches {
    fn new(controller: Controller) -> Self {
        Self { inner: Arc::new(Inner::new(controller)) }
    }

    /// The controller, for the same caller.
    pub(crate) fn controller(&self) -> &Controller {
        &self.inner.controller
    }

    /// Watches the sessions of these names: ids, handles or unique beginnings of either.
    pub(crate) fn watch(&self, names: &[String]) -> Watch {
        let mut state = self.inner.lock();
        state.last_waiter += 1;
        let watch = Watch {
            inner: self.inner.clone(),
            names: names.to_vec(),
            id: state.last_waiter,
            wake: Arc::new(Notify::new()),
        };
        let State { entries, fresh, .. } = &mut *state;
        for name in names {
            let entry = entries.entry(name.clone()).or_insert_with(|| {
                fresh.push(name.clone());
                Entry::default()
            });
            entry.waiters.push((watch.id, watch.wake.clone()));
        }
        if !state.fresh.is_empty() && !std::mem::replace(&mut state.gathering, true) {
            task::spawn("watch gather", gather(self.inner.clone())).detach();
        }
        drop(state);
        watch
    }

    /// Takes note of a session as the controller just told it, so that who waits next is not shown an older
    /// one.
    pub(crate) fn observe(&self, session: &Session) {
        let mut state = self.inner.lock();
        let mut shown = None;
        for (name, entry) in &mut state.entries {
            let newer = match &entry.seen {
                Some(seen) => seen.session_id == session.session_id && seen.revision < session.revision,
                None => is_exactly(session, name),
            };
            if newer {
                let session = shown.get_or_insert_with(|| Arc::new(lean(session.clone())));
                entry.observed = true;
                entry.show(session);
            }
        }
    }
}

impl Watch {
    /// Returns when there may be something new since the last [`Watch::look`].
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }

    /// The sessions as they are now.
    ///
    /// # Errors
    /// When one of them cannot be watched: it does not exist, or its name is not unique.
    pub(crate) fn look(&self) -> Result<Look, Error> {
        let state = self.inner.lock();
        let mut look = Look { sessions: BTreeMap::new(), complete: true, trouble: None };
        for entry in self.names.iter().filter_map(|name| state.entries.get(name)) {
            if let Some(error) = &entry.failed {
                return Err(error.clone());
            }
            match &entry.seen {
                Some(session) => {
                    look.sessions.insert(session.session_id.clone(), session.clone());
                }
                None => look.complete = false,
            }
            if let Some(trouble) = &entry.trouble {
                look.trouble = Some(trouble.clone());
            }
        }
        Ok(look)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        for name in &self.names {
            let Some(entry) = state.entries.get_mut(name) else { continue };
            entry.waiters.retain(|(id, _)| *id != self.id);
            if !entry.waiters.is_empty() {
                continue;
            }
            match &entry.stream {
                Some(stream) => stream.notify_one(),
                // Its stream was never opened, or has failed.
                None => {
                    state.entries.remove(name);
                    state.fresh.retain(|fresh| fresh != name);
                }
            }
        }
    }
}

impl Entry {
    fn show(&mut self, session: &Arc<Session>) {
        self.trouble = None;
        if self.seen.as_ref().is_none_or(|seen| seen.revision <= session.revision) {
            self.seen = Some(session.clone());
            self.wake();
        }
    }

    /// The first a stream says of a session. It is taken even when its revision is lower: a controller that
    /// was started anew counts from what it had on disk.
    fn show_first(&mut self, session: &Arc<Session>) {
        if !self.observed {
            self.seen = None;
        }
        self.show(session);
    }

    /// Whether the entry of this name stands for another session than this, which only begins like it.
    fn is_anothers(&self, name: &str, session: &Session) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.session_id != session.session_id && is_exactly(seen, name))
    }

    fn wake(&self) {
        self.waiters.iter().for_each(|(_, waiter)| waiter.notify_one());
    }
}

impl Inner {
    fn new(controller: Controller) -> Self {
        Self { controller, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets those of `names` nobody waits for, and says which are left.
    fn needed(&self, names: &[String]) -> Vec<String> {
        let mut state = self.lock();
        let (needed, idle): (Vec<String>, Vec<String>) = names
            .iter()
            .cloned()
            .partition(|name| state.entries.get(name).is_some_and(|entry| !entry.waiters.is_empty()));
        // While most are needed the stream goes on with all: opening it anew costs more than the rest.
        if needed.len() * 2 > names.len() {
            return names.to_vec();
        }
        for name in idle {
            state.entries.remove(&name);
        }
        needed
    }

    fn each(&self, names: &[String], mut change: impl FnMut(&str, &mut Entry)) {
        let mut state = self.lock();
        names.iter().for_each(|name| {
            if let Some(entry) = state.entries.get_mut(name) {
                change(name, entry);
            }
        });
    }
}

/// Opens streams for the names that were asked for at about the same time.
async fn gather(inner: Arc<Inner>) {
    tokio::time::sleep(GATHER).await;
    let mut state = inner.lock();
    state.gathering = false;
    let names = std::mem::take(&mut state.fresh);
    for names in names.chunks(TOGETHER) {
        let idle = Arc::new(Notify::new());
        for name in names {
            if let Some(entry) = state.entries.get_mut(name) {
                entry.stream = Some(idle.clone());
            }
        }
        task::spawn("watch", feed(inner.clone(), names.to_vec(), idle)).detach();
    }
}

/// How one stream ended.
enum Ended {
    /// Nobody waits for some of its sessions any more.
    Idle,
    Broken(Error),
    /// The controller will not have it.
    Refused(Error),
}

/// [`feed`] as a type of known size: it starts its like.
fn boxed_feed(inner: Arc<Inner>, names: Vec<String>, idle: Arc<Notify>) -> BoxFuture<'static, ()> {
    Box::pin(feed(inner, names, idle))
}

/// Keeps a stream open for `names` while anybody waits for any of them.
async fn feed(inner: Arc<Inner>, mut names: Vec<String>, idle: Arc<Notify>) {
    let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
    loop {
        names = inner.needed(&names);
        if names.is_empty() {
            return;
        }
        match stream(&inner, &names, &idle, &mut backoff).await {
            Ended::Idle => {}
            Ended::Broken(error) => {
                tracing::debug!(error = %error, "watch broke, will subscribe again");
                inner.each(&names, |_, entry| {
                    entry.trouble = Some(error.clone());
                    entry.wake();
                });
                tokio::select! {
                    () = tokio::time::sleep(backoff.next_delay()) => {}
                    () = idle.notified() => {}
                }
            }
            // One name spoils the watch of all: find it by halves.
            Ended::Refused(_) if names.len() > 1 => {
                let half = names.split_off(names.len() / 2);
                let notify = Arc::new(Notify::new());
                inner.each(&half, |_, entry| entry.stream = Some(notify.clone()));
                task::spawn("watch", boxed_feed(inner.clone(), half, notify)).detach();
            }
            Ended::Refused(error) => {
                inner.each(&names, |_, entry| {
                    entry.stream = None;
                    entry.failed = Some(error.clone());
                    entry.wake();
                });
                forget_failed(&inner, &names);
                return;
            }
        }
    }
}

/// A name that failed and that nobody waits for is gone at once; else with the last who waits for it. Who
/// asks for it meanwhile is told the same: it is the same moment.
fn forget_failed(inner: &Inner, names: &[String]) {
    let mut state = inner.lock();
    for name in names {
        if state.entries.get(name).is_some_and(|entry| entry.waiters.is_empty()) {
            state.entries.remove(name);
        }
    }
}

async fn stream(inner: &Inner, names: &[String], idle: &Notify, backoff: &mut Backoff) -> Ended {
    inner.each(names, |_, entry| entry.observed = false);
    let opened = tokio::select! {
        opened = inner.controller.watch(names) => opened,
        () = all_idle(inner, names, idle) => return Ended::Idle,
    };
    let mut stream = match opened {
        Ok(stream) => stream,
        Err(error) if error.code == ErrorCode::ControllerUnavailable => return Ended::Broken(error),
        Err(error) => return Ended::Refused(error),
    };
    // Which entries a session belongs to: it may be waited for under several names.
    let mut known: HashMap<String, Vec<String>> = HashMap::new();
    loop {
        let message = tokio::select! {
            message = stream.message() => message,
            () = all_idle(inner, names, idle) => return Ended::Idle,
        };
        let mut sessions = match message {
            Ok(Some(message)) => message.sessions,
            Ok(None) => {
                let closed = Error::new(ErrorCode::ControllerUnavailable, "the controller closed the watch");
                return Ended::Broken(inner.controller.explain(closed));
            }
            Err(status) => return Ended::Broken(inner.controller.explain(Error::from_status(&status))),
        };
        backoff.reset();
        // A whole name may be the beginning of another: who bears it goes first.
        sessions.sort_by_key(|session| !names.iter().any(|name| is_exactly(session, name)));
        for session in sessions {
            let first = !known.contains_key(&session.session_id);
            let named = known.entry(session.session_id.clone()).or_insert_with(|| named(&session, names));
            let session = Arc::new(lean(session));
            inner.each(named, |name, entry| match first {
                _ if entry.is_anothers(name, &session) => {}
                true => entry.show_first(&session),
                false => entry.show(&session),
            });
        }
    }
}

/// Returns when the stream watches more than is needed.
async fn all_idle(inner: &Inner, names: &[String], idle: &Notify) {
    loop {
        idle.notified().await;
        if inner.needed(names).len() < names.len() {
            return;
        }
    }
}

fn is_exactly(session: &Session, name: &str) -> bool {
    session.handle.eq_ignore_ascii_case(name) || session.session_id.eq_ignore_ascii_case(name)
}

/// The names that mean `session`, as the controller reads them.
fn named(session: &Session, names: &[String]) -> Vec<String> {
    let begins = |text: &str, name: &str| {
        text.get(..name.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(name))
    };
    names
        .iter()
        .filter(|name| begins(&session.handle, name) || begins(&session.session_id, name))
        .cloned()
        .collect()
}

/// Without the bulk of its prompt.
fn lean(mut session: Session) -> Session {
    if let Some(spec) = &mut session.spec
        && spec.prompt.len() > PROMPT_BYTES
    {
        let end = (0..=PROMPT_BYTES).rev().find(|end| spec.prompt.is_char_boundary(*end)).unwrap_or(0);
        spec.prompt.truncate(end);
        spec.prompt.shrink_to_fit();
    }
    session
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_a_session_by_their_beginning_in_any_case() {
        let session = Session {
            handle: "fix-login-7k2p9x".into(),
            session_id: "019AAB-1".into(),
            ..Session::default()
        };
        let names =
            ["FIX-login-7k2p9x", "fix-", "019aab", "fix-login-7k2p9xx", "ä", "other"].map(String::from);
        assert_eq!(named(&session, &names), ["FIX-login-7k2p9x", "fix-", "019aab"]);
    }
}
