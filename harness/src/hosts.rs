//! Machines on a network of their own: one network namespace each, all behind one router, made and removed by the test.
//!
//! ```text
//! host a ──veth── router ──veth── host b
//! ```
//! Every host has a subnet, so that the router can lose what goes to a host, what comes from it, or both, without telling
//! anybody: a cable that is cut says nothing. Hosts share files and process ids with this machine; only the network is their
//! own. Needs root and `ip`; [`Network::make`] says what is missing. Whatever is made is removed when it is dropped, and
//! what a killed test left behind by the next one.

mod farm;

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use uuid::Uuid;

pub use farm::{HostFarm, PROJECT, Pace, RESTARTING};

/// What every namespace of ours is called by, then the process that made it.
const PREFIX: &str = "muster-test";
/// Where `ip netns` keeps them.
const NAMESPACES: &str = "/run/netns";

/// Hosts and the router between them.
#[derive(Debug)]
pub struct Network {
    router: String,
    hosts: BTreeMap<String, Host>,
}

/// One machine.
#[derive(Debug, Clone)]
pub struct Host {
    namespace: String,
    /// Name of its cable at the router.
    cable: String,
    subnet: u8,
}

/// Which packets the router loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All: the cable is cut.
    Both,
    /// What goes to the host.
    To,
    /// What comes from the host.
    From,
}

impl Network {
    /// Makes the hosts of these names. The inner error: why this machine or user cannot.
    ///
    /// # Errors
    /// When something that did work stops to.
    pub fn make(names: &[&str]) -> anyhow::Result<Result<Self, String>> {
        remove_leftovers();
        let mark = format!("{PREFIX}-{}-{}", std::process::id(), &Uuid::new_v4().simple().to_string()[..6]);
        let router = format!("{mark}-router");
        if let Err(error) = ip(&["netns", "add", &router]) {
            return Ok(Err(format!("no network namespace can be made: {error:#}")));
        }
        let mut network = Self { router, hosts: BTreeMap::new() };
        if let Err(error) = network.forward() {
            return Ok(Err(format!("no router can be made: {error:#}")));
        }
        for (subnet, name) in (1..).zip(names) {
            let host = Host { namespace: format!("{mark}-{name}"), cable: format!("to-{name}"), subnet };
            network.hosts.insert((*name).to_owned(), host.clone());
            if let Err(error) = network.connect(&host) {
                return Ok(Err(format!("no host can be made: {error:#}")));
            }
        }
        // Losing packets is what it is for: better to know now.
        if let Some(host) = names.first() {
            if let Err(error) = network.lose(host, Loss::Both) {
                return Ok(Err(format!("no packets can be lost: {error:#}")));
            }
            network.mend(host)?;
        }
        Ok(Ok(network))
    }

    fn forward(&self) -> anyhow::Result<()> {
        self.in_router(&["link", "set", "lo", "up"])?;
        let on = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        run(Command::new("nsenter").arg(net(&self.router)).args(["sh", "-c", on]))
    }

    fn connect(&self, host: &Host) -> anyhow::Result<()> {
        let namespace = &host.namespace;
        ip(&["netns", "add", namespace])?;
        ip(&[
            "link",
            "add",
            &host.cable,
            "netns",
            &self.router,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            namespace,
        ])?;
        let gateway = host.gateway();
        self.in_router(&["addr", "add", &format!("{gateway}/24"), "dev", &host.cable])?;
        self.in_router(&["link", "set", &host.cable, "up"])?;
        let own = format!("{}/24", host.address());
        ip(&["-n", namespace, "addr", "add", &own, "dev", "eth0"])?;
        ip(&["-n", namespace, "link", "set", "lo", "up"])?;
        ip(&["-n", namespace, "link", "set", "eth0", "up"])?;
        ip(&["-n", namespace, "route", "add", "default", "via", &gateway.to_string()])
    }

    fn in_router(&self, arguments: &[&str]) -> anyhow::Result<()> {
        ip(&[&["-n", &self.router], arguments].concat())
    }

    /// The host of this name.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn host(&self, name: &str) -> &Host {
        self.hosts.get(name).unwrap_or_else(|| panic!("there is no host {name}"))
    }

    /// From now on the router loses packets of a host, silently.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn lose(&self, name: &str, loss: Loss) -> anyhow::Result<()> {
        self.rules(name, loss, "add")
    }

    /// Undoes every loss of a host.
    ///
    /// # Errors
    /// When `ip` cannot be run.
    pub fn mend(&self, name: &str) -> anyhow::Result<()> {
        // What was not lost cannot be mended: that one fails, and nothing is wrong.
        let _ = self.rules(name, Loss::To, "del");
        let _ = self.rules(name, Loss::From, "del");
        Ok(())
    }

    fn rules(&self, name: &str, loss: Loss, what: &str) -> anyhow::Result<()> {
        let host = self.host(name);
        let subnet = host.address().to_string();
        if loss != Loss::From {
            self.in_router(&["rule", what, "to", &subnet, "blackhole"])?;
        }
        if loss != Loss::To {
            self.in_router(&["rule", what, "from", &subnet, "iif", &host.cable, "blackhole"])?;
        }
        Ok(())
    }

    /// Kills everything that runs on a host, as a power cut does. Its disk stays, and so does its cable.
    ///
    /// # Errors
    /// When `ip` cannot be run.
    pub fn power_off(&self, name: &str) -> anyhow::Result<()> {
        // What is forked while the list is read is in the next one.
        loop {
            let pids = self.host(name).pids()?;
            if pids.is_empty() {
                return Ok(());
            }
            for pid in pids {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

impl Host {
    /// Its address.
    #[must_use]
    pub const fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.subnet, 2)
    }

    const fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.subnet, 1)
    }

    /// What to put before a command so that it runs there.
    #[must_use]
    pub fn before(&self) -> Vec<String> {
        // Not `ip netns exec`: that would hide control groups, which are mounted below /sys.
        vec!["nsenter".to_owned(), net(&self.namespace)]
    }

    /// Processes that run there; zombies do not count.
    ///
    /// # Errors
    /// When `ip` cannot be run.
    pub fn pids(&self) -> anyhow::Result<Vec<i32>> {
        let output =
            Command::new("ip").args(["netns", "pids", &self.namespace]).output().context("running ip")?;
        Ok(String::from_utf8_lossy(&output.stdout)
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .filter(|pid| !is_zombie(*pid))
            .collect())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in self.hosts.values() {
            let _ = ip(&["netns", "del", &host.namespace]);
        }
        // The cables go with it.
        let _ = ip(&["netns", "del", &self.router]);
    }
}

fn net(namespace: &str) -> String {
    format!("--net={NAMESPACES}/{namespace}")
}

fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, fields)| fields.trim_start().starts_with('Z'))
}

/// Removes namespaces of test processes that no longer live.
fn remove_leftovers() {
    for entry in fs::read_dir(NAMESPACES).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.trim_start_matches('-').split('-').next());
        let gone = maker
            .is_some_and(|pid| pid.parse::<u32>().is_ok() && !PathBuf::from(format!("/proc/{pid}")).exists());
        if gone {
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    run(Command::new("ip").args(arguments))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let shown = format!("{command:?}");
    let output = command.output().with_context(|| format!("running {shown}"))?;
    if !output.status.success() {
        bail!("{shown}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Tells that a test did not run: past the capture of its output, or nobody would see it.
pub fn skip_loudly(why: &str) {
    let notice = format!("\nSKIPPED, a test of several machines: {why}\n\n");
    if let Ok(mut stderr) = fs::OpenOptions::new().append(true).open("/proc/self/fd/2") {
        let _ = stderr.write_all(notice.as_bytes());
    }
}

/// A folder copied with all below it, as a disk image is.
///
/// # Errors
/// When it cannot be.
pub fn copy_disk(from: &Path, to: &Path) -> anyhow::Result<()> {
    run(Command::new("cp").arg("-a").arg(from).arg(to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventually::{DEADLINE, poll_until};

    /// Whether one host hears the other: a port nobody listens on is refused at once, and silence is loss.
    fn answers(network: &Network, from: &str, to: &str) -> bool {
        let knock = format!("< /dev/tcp/{}/9", network.host(to).address());
        let before = network.host(from).before();
        let output =
            Command::new(&before[0]).arg(&before[1]).args(["timeout", "1", "bash", "-c", &knock]).output();
        String::from_utf8_lossy(&output.unwrap().stderr).contains("refused")
    }

    #[test]
    fn packets_are_lost_where_they_are_to_be_and_nothing_stays_behind() {
        let network = match Network::make(&["a", "b", "d"]).unwrap() {
            Ok(network) => network,
            Err(why) => return skip_loudly(&why),
        };
        assert!(answers(&network, "a", "b"));
        for loss in [Loss::To, Loss::From, Loss::Both] {
            network.lose("b", loss).unwrap();
            assert!(!answers(&network, "a", "b"), "{loss:?}");
            assert!(answers(&network, "a", "d"), "{loss:?}: another host's cable");
            network.mend("b").unwrap();
            assert!(answers(&network, "a", "b"), "mended after {loss:?}");
        }
        let before = network.host("a").before();
        let mut asleep = Command::new(&before[0]).arg(&before[1]).args(["sleep", "600"]).spawn().unwrap();
        let there = || (!network.host("a").pids().unwrap().is_empty()).then_some(());
        poll_until(DEADLINE, there).expect("it runs there");
        network.power_off("a").unwrap();
        assert!(!asleep.wait().unwrap().success());
        let namespaces: Vec<String> = network.hosts.values().map(|host| host.namespace.clone()).collect();
        drop(network);
        for namespace in namespaces {
            assert!(!Path::new(NAMESPACES).join(&namespace).exists(), "{namespace}");
        }
    }
}
