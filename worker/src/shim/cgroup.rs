//! A control group for one attempt, where this machine lets us make one: it holds every process of the attempt whatever
//! that does about its session, its parent or its environment, and it can be killed as a whole.
//!
//! Made by the shim, entered by claude before it is executed, removed by whoever finds it empty: the shim at its end, or
//! the worker for a shim that was killed. Where none can be made, the walk through the tree does alone.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Beginning of its name, by which it is known as ours.
const PREFIX: &str = "muster-";
/// Between looks at what is left.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Looks for a group that is empty but cannot be removed yet: the kernel is not done with what died.
const REMOVE_TRIES: u32 = 50;

/// See the module.
#[derive(Debug)]
pub(crate) struct Cgroup {
    dir: PathBuf,
}

/// A hierarchy of control groups: where it is mounted, what of it that shows, and our place in it.
struct Hierarchy {
    mounted: PathBuf,
    shows: PathBuf,
    own: PathBuf,
}

impl Cgroup {
    /// Makes one next to our own place: in the second version of control groups (also when it has no controllers), else
    /// in the first's freezer. `None` where that is not allowed.
    pub(super) fn make() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let name = format!("{PREFIX}{}", std::process::id());
        hierarchies(&mounts, &own).find_map(|hierarchy| {
            let below = hierarchy.own.strip_prefix(&hierarchy.shows).ok()?;
            let dir = hierarchy.mounted.join(below).join(&name);
            match fs::create_dir(&dir) {
                Ok(()) => {}
                // Of a shim that had our process id before.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(_) => return None,
            }
            let group = Self { dir };
            let usable = group.pids().is_empty() && group.entrance().is_ok();
            if !usable {
                group.remove();
            }
            usable.then_some(group)
        })
    }

    /// The one whose path an attempt's file names.
    pub(crate) fn noted(file: &Path) -> Option<Self> {
        let dir = PathBuf::from(fs::read_to_string(file).ok()?);
        let ours = dir.file_name()?.to_str()?.starts_with(PREFIX) && dir.join("cgroup.procs").exists();
        ours.then_some(Self { dir })
    }

    /// Writes down which it is.
    pub(super) fn note(&self, file: &Path) -> io::Result<()> {
        fs::write(file, self.dir.as_os_str().as_encoded_bytes())
    }

    /// Who writes `0` here enters.
    pub(super) fn entrance(&self) -> io::Result<File> {
        OpenOptions::new().write(true).open(self.dir.join("cgroup.procs"))
    }

    /// Everything in it, also in groups that were made below it.
    pub(super) fn pids(&self) -> Vec<Pid> {
        let mut found = Vec::new();
        for dir in self.tree() {
            let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            found.extend(procs.lines().filter_map(|line| line.parse().ok()).map(Pid::from_raw));
        }
        found
    }

    fn tree(&self) -> Vec<PathBuf> {
        let (mut found, mut next) = (Vec::new(), vec![self.dir.clone()]);
        while let Some(dir) = next.pop() {
            let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
            let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            next.extend(below.map(|entry| entry.path()));
            found.push(dir);
        }
        found
    }

    /// Kills all of it once; what forks meanwhile cannot get away.
    pub(super) fn kill(&self) {
        if self.write("cgroup.kill", "1").is_ok() {
            return;
        }
        // Before Linux 5.14, and in the first version: nobody moves while it is killed.
        for (file, hold, _) in FREEZERS {
            let _ = self.write(file, hold);
        }
        for pid in self.pids() {
            let _ = kill(pid, Signal::SIGKILL); // gone meanwhile: nothing to do
        }
        for (file, _, release) in FREEZERS {
            let _ = self.write(file, release);
        }
    }

    /// Kills until it is empty or the time is over; returns how many are left. Blocks.
    pub(crate) fn kill_all(&self, within: Duration) -> usize {
        let until = Instant::now() + within;
        loop {
            let left = self.pids().len();
            if left == 0 || Instant::now() > until {
                return left;
            }
            self.kill();
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Removes it; false while something is in it.
    pub(crate) fn remove(&self) -> bool {
        for _ in 0..REMOVE_TRIES {
            if !self.pids().is_empty() {
                return false;
            }
            // Deepest first.
            if self.tree().iter().rev().all(|dir| fs::remove_dir(dir).is_ok()) || !self.dir.exists() {
                return true;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        false
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.dir.join(file))?.write_all(text.as_bytes())
    }
}

/// File, what stops everything, what lets it go on: of the second and the first version.
const FREEZERS: [(&str, &str, &str); 2] =
    [("cgroup.freeze", "1", "0"), ("freezer.state", "FROZEN", "THAWED")];

/// The usable hierarchies, best first. Lines of mountinfo: proc(5), with the file system's type after a lone dash.
fn hierarchies(mounts: &str, own: &str) -> impl Iterator<Item = Hierarchy> {
    let own_in = |named: &str| {
        own.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|name| name == named).then(|| PathBuf::from(path))
        })
    };
    let find = |kind: &str, controller: &str| {
        let own = own_in(controller)?;
        let mount = mounts.lines().find_map(|line| {
            let (place, system) = line.split_once(" - ")?;
            let mut system = system.split(' ');
            let right = system.next() == Some(kind)
                && (controller.is_empty() || system.nth(1)?.split(',').any(|option| option == controller));
            let mut place = place.split(' ').skip(3);
            let (shows, mounted) = (place.next()?, place.next()?);
            right.then(|| (PathBuf::from(mounted), PathBuf::from(shows)))
        });
        let (mounted, shows) = mount?;
        Some(Hierarchy { mounted, shows, own })
    };
    [find("cgroup2", ""), find("cgroup", "freezer")].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_version_is_preferred_and_a_place_shown_in_part_is_understood() {
        let mounts = "24 23 0:22 / /proc rw - proc proc rw\n\
            37 31 0:34 /docker/a /sys/fs/cgroup/freezer rw,relatime shared:9 - cgroup cgroup rw,freezer\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let own = "9:name=systemd:/\n6:freezer:/docker/a/x\n0::/user.slice\n";
        let places = |own| {
            hierarchies(mounts, own)
                .map(|found| {
                    let below = found.own.strip_prefix(&found.shows).expect("below").to_owned();
                    found.mounted.join(below)
                })
                .collect::<Vec<_>>()
        };
        let [unified, freezer] =
            ["/sys/fs/cgroup/unified/user.slice", "/sys/fs/cgroup/freezer/x"].map(PathBuf::from);
        assert_eq!(places(own), [unified, freezer.clone()]);
        assert_eq!(places("6:freezer:/docker/a/x\n"), [freezer]);
        assert!(places("").is_empty());
    }
}
