//! What journal and output ask of a disk: the seam at which a test makes one fail, or forget what was not
//! synced.

#[cfg(test)]
pub(crate) mod faulty;

use std::{
    fmt,
    fs::{File, OpenOptions},
    io,
    path::Path,
};

/// A disk that files are written to. Reading goes past it: what is written can be read.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Opens `path` for writing, making it when it does not exist.
    ///
    /// # Errors
    /// As the disk says; so for all that follow.
    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>>;

    /// Makes the names in `folder` durable: a new file is not there after a power cut without it.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
}

/// A file open for writing.
pub trait LogFile: Send + fmt::Debug {
    /// Writes all of `data` at `offset`. After an error any part of it may have been written.
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Makes what was written durable. After an error nothing is known of what was written since the last
    /// success.
    fn sync_data(&self) -> io::Result<()>;

    /// Cuts the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
}

/// The disk there is.
#[derive(Debug, Clone, Copy)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(OpenOptions::new().write(true).create(true).truncate(false).open(path)?))
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }
}

impl LogFile for File {
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(self, data, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Self::sync_data(self)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Self::set_len(self, len)
    }
}
