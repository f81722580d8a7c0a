//! Small disks below the state folders, so that filling one hurts nobody else. Needs root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

/// Mounted until dropped.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// A tmpfs of so many MiB at `path`. `None`: this machine or user cannot mount.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn mount(path: &Path, mebibytes: u32) -> anyhow::Result<Option<Self>> {
        fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
        let options = format!("size={mebibytes}m,mode=0700");
        let mut command = Command::new("mount");
        let mounted = command.args(["-t", "tmpfs", "-o", &options, "muster-chaos"]).arg(path).output();
        Ok(mounted.is_ok_and(|output| output.status.success()).then(|| Self { path: path.to_owned() }))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that is just dying must not keep the mount for ever.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
