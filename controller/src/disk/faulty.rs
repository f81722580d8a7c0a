//! A disk for tests: it fails on demand, and a power cut takes from it what was not synced.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Disk, LogFile, RealDisk};

/// Which steps fail from now on.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// Half of what is given is written.
    pub(crate) write: bool,
    pub(crate) sync: bool,
    pub(crate) folder: bool,
}

#[derive(Debug, Default)]
struct State {
    faults: Faults,
    /// What a power cut leaves of each file; none: not even its name.
    durable: HashMap<PathBuf, Vec<u8>>,
    /// Synced, but its name is not.
    nameless: HashMap<PathBuf, Vec<u8>>,
    /// Failed syncs and writes so far.
    failed: usize,
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct FaultyDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct FaultyFile {
    path: PathBuf,
    file: Box<dyn LogFile>,
    disk: FaultyDisk,
}

impl FaultyDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fail(&self, faults: Faults) {
        self.state().faults = faults;
    }

    pub(crate) fn failed(&self) -> usize {
        self.state().failed
    }

    /// Takes from every file in `folder` what was not synced, but for up to `spared` bytes of its tail.
    pub(crate) fn cut_power(&self, folder: &Path, spared: usize) {
        let mut state = self.state();
        state.nameless.clear();
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            let Some(durable) = state.durable.get(&path) else {
                fs::remove_file(&path).expect("removed");
                continue;
            };
            let now = fs::read(&path).expect("a file");
            let tail = now.get(durable.len()..).unwrap_or_default();
            let left = [durable, &tail[..spared.min(tail.len())]].concat();
            fs::write(&path, &left).expect("written");
            // It was there after the cut: the next one takes it only if it was not synced again.
        }
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        let file = RealDisk.open(path)?;
        Ok(Box::new(FaultyFile { path: path.to_owned(), file, disk: self.clone() }))
    }

    fn sync_folder(&self, _folder: &Path) -> io::Result<()> {
        let mut state = self.state();
        if state.faults.folder {
            state.failed += 1;
            return Err(io::Error::other("the folder cannot be synced (on purpose)"));
        }
        let named = std::mem::take(&mut state.nameless);
        state.durable.extend(named);
        Ok(())
    }
}

impl LogFile for FaultyFile {
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.faults.write {
            state.failed += 1;
            self.file.write_all_at(&data[..data.len() / 2], offset)?;
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on device (on purpose)"));
        }
        self.file.write_all_at(data, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.faults.sync {
            state.failed += 1;
            return Err(io::Error::other("the file cannot be synced (on purpose)"));
        }
        let content = fs::read(&self.path)?;
        if let Some(durable) = state.durable.get_mut(&self.path) {
            *durable = content;
        } else {
            state.nameless.insert(self.path.clone(), content);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}
