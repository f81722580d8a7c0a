//! The controller's copy of what sessions printed: one append-only file per session, addressed by offset.
//!
//! Owns `<state>/output/`. Workers append through [`Replica::append`], readers read files and never memory.
//! Invariant: the file of a session is a prefix of its spool; a chunk that would leave a gap is refused, one
//! already held is skipped.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use bytes::Bytes;
use muster_proto::ids::SessionId;
use tokio::sync::watch;

use crate::disk::{Disk, LogFile, RealDisk};

/// The copies of all sessions. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Replicas {
    folder: Arc<Path>,
    disk: Arc<dyn Disk>,
    known: Arc<RwLock<HashMap<SessionId, Arc<Replica>>>>,
}

/// The copy of one session.
#[derive(Debug)]
pub struct Replica {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    writer: Mutex<Writer>,
    /// Bytes held: all of them can be read.
    end: watch::Sender<u64>,
}

#[derive(Debug)]
struct Writer {
    /// Open while a worker appends.
    file: Option<Box<dyn LogFile>>,
    /// Bytes that survive a power cut, or were there when this process began: never cut.
    synced: u64,
    /// The folder was synced since this process knows the file: its name survives a power cut.
    named: bool,
    /// The file may be longer than what is held: it is cut before anything is written again.
    torn: bool,
    /// The session is forgotten: who still holds this must not make the file again.
    removed: bool,
    /// Grows with every fence.
    epoch: u64,
}

impl Writer {
    fn open(&mut self, path: &Path, disk: &dyn Disk) -> io::Result<&dyn LogFile> {
        if self.removed {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the session is forgotten"));
        }
        let file = match &mut self.file {
            Some(file) => file,
            closed => closed.insert(disk.open(path)?),
        };
        Ok(&**file)
    }

    /// The length is the truth after a restart: what is not held must not count.
    fn cut(&mut self, path: &Path, disk: &dyn Disk, end: u64) -> io::Result<()> {
        self.torn = true;
        self.open(path, disk)?.set_len(end)?;
        self.torn = false;
        Ok(())
    }
}

/// What became of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// All of it is held; the new end.
    Held(u64),
    /// It begins past the end, which is given: the sender goes back to there.
    Gap(u64),
    /// Somebody else appends now.
    Fenced,
}

impl Replicas {
    /// Opens the folder, making it when it does not exist.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(folder: &Path) -> io::Result<Self> {
        Self::open_on(folder, Arc::new(RealDisk))
    }

    /// As [`Replicas::open`], on a disk of the caller's choice.
    ///
    /// # Errors
    /// As there.
    pub fn open_on(folder: &Path, disk: Arc<dyn Disk>) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut known = HashMap::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            // Names that are no session ids are somebody else's.
            if let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                let replica = Replica::new(entry.path(), Arc::clone(&disk), entry.metadata()?.len());
                known.insert(id, Arc::new(replica));
            }
        }
        Ok(Self { folder: folder.into(), disk, known: Arc::new(RwLock::new(known)) })
    }

    /// Bytes held of a session.
    #[must_use]
    pub fn end(&self, session: SessionId) -> u64 {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&session).map_or(0, |replica| *replica.end.borrow())
    }

    /// Lets nobody append who opened the copy before, and returns where it ends. Blocking.
    #[must_use]
    pub fn fence(&self, session: SessionId) -> u64 {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&session).cloned();
        let Some(replica) = known else { return 0 };
        replica.lock().epoch += 1;
        if let Err(error) = replica.sync() {
            tracing::warn!(session.id = %session, error = %error,
                "the last output of a lost worker cannot be kept; what follows takes its place");
        }
        replica.end()
    }

    /// Removes the copy of a session for good. One that is not there is no error.
    ///
    /// # Errors
    /// When the file cannot be removed; it is as before then.
    pub fn remove(&self, session: SessionId) -> io::Result<()> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let Some(replica) = known.get(&session) else { return Ok(()) };
        let mut writer = replica.lock();
        match fs::remove_file(&replica.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        writer.file = None;
        writer.removed = true;
        drop(writer);
        known.remove(&session);
        Ok(())
    }

    /// The copy of a session, empty when nothing of it was held so far.
    #[must_use]
    pub fn of(&self, session: SessionId) -> Arc<Replica> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(replica) = known.get(&session) {
            return Arc::clone(replica);
        }
        drop(known);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let path = self.folder.join(session.to_string());
        let new = || Arc::new(Replica::new(path, Arc::clone(&self.disk), 0));
        Arc::clone(known.entry(session).or_insert_with(new))
    }
}

impl Replica {
    fn new(path: PathBuf, disk: Arc<dyn Disk>, end: u64) -> Self {
        let writer = Writer { file: None, synced: end, named: false, torn: false, removed: false, epoch: 0 };
        Self { path, disk, writer: Mutex::new(writer), end: watch::Sender::new(end) }
    }

    /// Bytes held.
    #[must_use]
    pub fn end(&self) -> u64 {
        *self.end.borrow()
    }

    /// Tells when more is held.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    /// What an append has to bring along until somebody else takes over.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    /// Adds what is not held yet. Blocking. Readable at once, durable after [`Replica::sync`].
    ///
    /// # Errors
    /// When the file cannot be written; the end is as before then, and the same call may succeed later.
    pub fn append(&self, epoch: u64, offset: u64, data: &Bytes) -> io::Result<Appended> {
        let mut writer = self.lock();
        if writer.epoch != epoch {
            return Ok(Appended::Fenced);
        }
        let end = self.end();
        if offset > end {
            return Ok(Appended::Gap(end));
        }
        let held = usize::try_from(end - offset).unwrap_or(usize::MAX);
        let Some(new) = data.get(held..).filter(|new| !new.is_empty()) else {
            return Ok(Appended::Held(end));
        };
        if writer.torn {
            writer.cut(&self.path, &*self.disk, end)?;
        }
        if let Err(error) = writer.open(&self.path, &*self.disk)?.write_all_at(new, end) {
            // Tried again before the next append when it fails too.
            let _ = writer.cut(&self.path, &*self.disk, end);
            return Err(error);
        }
        let end = end + new.len() as u64;
        self.end.send_replace(end);
        Ok(Appended::Held(end))
    }

    /// Makes all that is held durable and returns where it ends. Blocking.
    ///
    /// # Errors
    /// When the disk refuses. What was appended since the last success is given up then, because a later
    /// success would say nothing of it: the end goes back and the worker sends it again.
    pub fn sync(&self) -> io::Result<u64> {
        let mut writer = self.lock();
        let end = self.end();
        // Held since before this process opened it: whether it was synced then is not known.
        let synced = if writer.file.is_some() || end > 0 { self.sync_file(&mut writer) } else { Ok(()) };
        if let Err(error) = synced {
            let back = writer.synced.min(end);
            self.end.send_replace(back);
            let _ = writer.cut(&self.path, &*self.disk, back);
            return Err(error);
        }
        writer.synced = end;
        Ok(end)
    }

    fn sync_file(&self, writer: &mut Writer) -> io::Result<()> {
        writer.open(&self.path, &*self.disk)?.sync_data()?;
        if !writer.named {
            self.disk.sync_folder(self.path.parent().unwrap_or(&self.path))?;
            writer.named = true;
        }
        Ok(())
    }

    /// Closes the file until the next append: an idle session holds none open.
    pub fn rest(&self) {
        self.lock().file.take();
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads up to `most` bytes from `offset`; less only at the end. Blocking.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, offset: u64, most: usize) -> io::Result<Bytes> {
        let most = usize::try_from(self.end().saturating_sub(offset)).unwrap_or(usize::MAX).min(most);
        if most == 0 {
            return Ok(Bytes::new());
        }
        let mut buffer = vec![0; most];
        File::open(&self.path)?.read_exact_at(&mut buffer, offset)?;
        Ok(buffer.into())
    }
}

#[cfg(test)]
mod tests;
