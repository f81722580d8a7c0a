//! What the sessions have for the controller: events to send and output to push. The uplink reads it, sessions write it.
//!
//! State, not a queue: a link that was away finds what is current. Bounded by the sessions held; a session's events are
//! bounded by what it does without an answer, and are on disk.

use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use muster_proto::{
    ids::SessionId,
    v1::{HeldSession, SessionEvent},
};
use muster_runtime::task;
use tokio::sync::watch;

use super::outbox::{Draft, Outbox};

/// All sessions on this worker.
#[derive(Debug, Clone)]
pub(crate) struct Board {
    entries: Arc<Mutex<BTreeMap<SessionId, Arc<Entry>>>>,
    changed: watch::Sender<u64>,
}

/// One session.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) session: SessionId,
    outbox: Mutex<Outbox>,
    /// Up to where the controller has its output, as far as this process was told.
    acked: AtomicU64,
    view: Mutex<View>,
    changed: watch::Sender<u64>,
}

/// What is current of a session.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// The newest attempt; 0: none yet.
    pub(crate) attempt: u32,
    pub(crate) running: bool,
    /// Not reported in Hello any more.
    pub(crate) released: bool,
    /// Its output is for nobody: a later attempt was placed elsewhere.
    pub(crate) fenced: bool,
    pub(crate) spool: PathBuf,
    pub(crate) base_offset: u64,
    pub(crate) end_offset: u64,
    /// Every input up to this one was applied.
    pub(crate) last_input: u64,
    /// The newest line of activity not sent yet.
    pub(crate) activity: Option<SessionEvent>,
    /// Activity that holds until it is taken back: said again on each new link.
    pub(crate) standing: Option<SessionEvent>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    pub(crate) fn new() -> Self {
        Self { entries: Arc::default(), changed: watch::Sender::new(0) }
    }

    /// Adds a session, or returns the entry it has.
    pub(crate) fn enter(&self, session: SessionId, outbox: Outbox, view: View) -> Arc<Entry> {
        let mut entries = lock(&self.entries);
        let entry = entries.entry(session).or_insert_with(|| {
            let changed = self.changed.clone();
            Arc::new(Entry {
                session,
                outbox: Mutex::new(outbox),
                acked: AtomicU64::new(0),
                view: Mutex::new(view),
                changed,
            })
        });
        Arc::clone(entry)
    }

    pub(crate) fn get(&self, session: SessionId) -> Option<Arc<Entry>> {
        lock(&self.entries).get(&session).cloned()
    }

    pub(crate) fn remove(&self, session: SessionId) {
        lock(&self.entries).remove(&session);
    }

    pub(crate) fn entries(&self) -> Vec<Arc<Entry>> {
        lock(&self.entries).values().cloned().collect()
    }

    /// Wakes at every change; several changes may be one wake.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// For Hello.
    pub(crate) fn held(&self) -> Vec<HeldSession> {
        let held = |entry: Arc<Entry>| {
            let view = entry.view();
            (!view.released && view.attempt > 0).then(|| HeldSession {
                session_id: entry.session.to_string(),
                attempt: view.attempt,
                running: view.running,
                spool_end_offset: view.end_offset,
                last_input: view.last_input,
            })
        };
        self.entries().into_iter().filter_map(held).collect()
    }
}

impl Entry {
    /// The controller has the output up to here.
    pub(crate) fn note_output_acked(&self, offset: u64) {
        self.acked.fetch_max(offset, Ordering::Relaxed);
    }

    pub(crate) fn output_acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    pub(crate) fn view(&self) -> View {
        lock(&self.view).clone()
    }

    /// Changes the view and wakes the link.
    pub(crate) fn update(&self, change: impl FnOnce(&mut View)) {
        change(&mut lock(&self.view));
        self.changed.send_modify(|version| *version += 1);
    }

    /// Activity that goes with whatever is sent next; wakes nobody.
    pub(crate) fn keep_activity(&self, event: SessionEvent) {
        lock(&self.view).activity = Some(event);
    }

    /// The controller has all output of a released session: frees the disk, in the background and as far as it goes.
    /// Prompts and answers (in the journals) go too.
    pub(crate) fn discard_output(&self) {
        let spool = self.view().spool;
        task::spawn_blocking("discard output", move || {
            let attempts = spool.parent().and_then(|dir| dir.read_dir().ok()).into_iter().flatten().flatten();
            for attempt in
                attempts.filter(|entry| entry.file_name().to_string_lossy().starts_with("attempt-"))
            {
                let _ = fs::remove_dir_all(attempt.path());
            }
            let _ = fs::remove_file(spool);
        })
        .detach();
    }

    /// Makes events durable, then shows them to the link. Blocks for an fdatasync.
    pub(crate) fn append(&self, drafts: Vec<Draft>) -> io::Result<()> {
        lock(&self.outbox).append(&self.session.to_string(), drafts)?;
        self.changed.send_modify(|version| *version += 1);
        Ok(())
    }

    /// Shows events that the disk does not take; see [`Outbox::append_volatile`].
    pub(crate) fn append_volatile(&self, drafts: Vec<Draft>) {
        lock(&self.outbox).append_volatile(&self.session.to_string(), drafts);
        self.changed.send_modify(|version| *version += 1);
    }

    /// Reliable events after `seq`, then the activity.
    pub(crate) fn take_after(&self, seq: u64) -> Vec<SessionEvent> {
        let mut events: Vec<SessionEvent> = lock(&self.outbox).after(seq).cloned().collect();
        events.extend(lock(&self.view).activity.take());
        events
    }

    /// Forgets every event that was not told: nobody is to hear of them any more.
    pub(crate) fn void(&self) {
        lock(&self.outbox).void();
        lock(&self.view).activity = None;
    }

    pub(crate) fn acked(&self, seq: u64) {
        lock(&self.outbox).acked(seq);
    }

    pub(crate) fn outbox<T>(&self, read: impl FnOnce(&Outbox) -> T) -> T {
        read(&lock(&self.outbox))
    }
}
