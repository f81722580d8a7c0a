//! What is done to the system while it works: chosen by the seed, counted, and always made good again.
//!
//! Two injectors side by side, so that faults of different kinds meet: one for the machines (worker, controller,
//! their connection and disks), one for what lives beside them (gateway and shims).

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use muster_harness::{fault_proxy::Mode, fleet::TestFleet, processes, seeded::Dice};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{report::Fault, run::Run};

/// Waited for a session whose shim can be killed.
const VICTIM: Duration = Duration::from_secs(20);
/// Longest a process stays away, in milliseconds.
const AWAY_MILLIS: u64 = 600;
/// Longest pause before a fault, in milliseconds, beside [`LEAST_PAUSE_MILLIS`].
const PAUSE_MILLIS: u64 = 500;
const LEAST_PAUSE_MILLIS: u64 = 50;

/// Longest pause between two faults.
const CATCH_UP: Duration = Duration::from_secs(10);

/// How often each kind is to happen.
pub type Budget = Vec<(Fault, u64)>;

/// Injects everything, in two random orders side by side. All is in place again when it returns.
///
/// `bytes`: output the load is to compare; faults are spread over it.
///
/// # Errors
/// When something killed does not come up again.
pub async fn inject(
    fleet: &mut TestFleet,
    run: &Arc<Run>,
    budget: &Budget,
    bytes: u64,
) -> anyhow::Result<()> {
    let beside = |fault| matches!(fault, Fault::KillGateway | Fault::KillShim);
    let part =
        |wanted| budget.iter().copied().filter(|(fault, _)| beside(*fault) == wanted).collect::<Budget>();
    let mut machines = Machines { fleet, run: Arc::clone(run), dice: Dice::new(run.seed ^ 0xFA17) };
    let mut others = Others { run: Arc::clone(run), dice: Dice::new(run.seed ^ 0xB51D) };
    let (mut one, mut other) =
        (Order::new(run, part(false), bytes, 0x0DE5), Order::new(run, part(true), bytes, 0x0DE6));
    let on_machines = async {
        while let Some(fault) = one.next().await {
            machines.inject(fault).await?;
        }
        anyhow::Ok(())
    };
    let on_others = async {
        while let Some(fault) = other.next().await {
            others.inject(fault).await?;
        }
        anyhow::Ok(())
    };
    let done = tokio::try_join!(on_machines, on_others);
    if done.is_ok() {
        run.faults_are_done();
    }
    done.map(|_| ())
}

/// Which fault comes next, and when.
struct Order {
    run: Arc<Run>,
    dice: Dice,
    left: Budget,
    all: u64,
    bytes: u64,
}

impl Order {
    fn new(run: &Arc<Run>, budget: Budget, bytes: u64, salt: u64) -> Self {
        let all = budget.iter().map(|(_, times)| times).sum();
        Self { run: Arc::clone(run), dice: Dice::new(run.seed ^ salt), left: budget, all, bytes }
    }

    /// Waits for the moment of the next fault. `None`: there were enough.
    async fn next(&mut self) -> Option<Fault> {
        self.left.retain(|(_, left)| *left > 0);
        if self.left.is_empty() {
            return None;
        }
        let chosen = usize::try_from(self.dice.below(self.left.len() as u64)).unwrap_or(0);
        let fault = self.left[chosen].0;
        self.left[chosen].1 -= 1;
        let pause = LEAST_PAUSE_MILLIS + self.dice.below(PAUSE_MILLIS);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let left: u64 = self.left.iter().map(|(_, times)| times).sum();
        self.catch_up((self.all - left) * self.bytes / self.all).await;
        Some(fault)
    }

    /// Waits until the load has compared so many bytes, but not for ever: a stall is met with the next fault.
    async fn catch_up(&self, bytes: u64) {
        let deadline = Instant::now() + CATCH_UP;
        while self.run.report.counted("bytes compared") < bytes && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn away(dice: &mut Dice) {
    tokio::time::sleep(Duration::from_millis(dice.below(AWAY_MILLIS))).await;
}

/// Faults of worker, controller, their connection and disks.
struct Machines<'a> {
    fleet: &'a mut TestFleet,
    run: Arc<Run>,
    dice: Dice,
}

impl Machines<'_> {
    async fn inject(&mut self, fault: Fault) -> anyhow::Result<()> {
        match fault {
            Fault::KillWorker => self.kill_worker().await?,
            Fault::KillController => self.kill_controller().await?,
            Fault::FillWorkerDisk => self.fill(fault, "w1").await?,
            Fault::FillControllerDisk => self.fill(fault, "controller").await?,
            Fault::Connection => self.break_connection().await,
            // The others' part.
            Fault::KillGateway | Fault::KillShim => {}
        }
        self.still_there()
    }

    async fn kill_worker(&mut self) -> anyhow::Result<()> {
        self.fleet.kill_worker(0);
        self.run.report.fault(Fault::KillWorker, "kill -9");
        away(&mut self.dice).await;
        // Now and then the controller goes with it, and comes back first.
        if self.dice.chance(15) {
            self.kill_controller().await?;
        }
        self.fleet.start_worker(0)?;
        self.run.report.note("worker started");
        // Killed again while it reads what it finds.
        if self.dice.chance(20) {
            tokio::time::sleep(Duration::from_millis(self.dice.below(150))).await;
            self.fleet.kill_worker(0);
            self.fleet.start_worker(0)?;
            self.run.report.fault(Fault::KillWorker, "kill -9 while it starts");
        }
        Ok(())
    }

    async fn kill_controller(&mut self) -> anyhow::Result<()> {
        self.fleet.kill_controller();
        self.run.report.fault(Fault::KillController, "kill -9");
        away(&mut self.dice).await;
        self.fleet.start_controller().await.context("the controller after kill -9")?;
        self.run.report.note("controller started");
        Ok(())
    }

    async fn break_connection(&mut self) {
        let Some(proxy) = self.fleet.proxy() else { return };
        let how = self.dice.below(6);
        let lasts = Duration::from_millis(50 + self.dice.below(1_500));
        let name = match how {
            0 => {
                proxy.reset();
                "reset"
            }
            1 => {
                proxy.half_close();
                "half closed"
            }
            2 => {
                proxy.set(Mode::Cut);
                "cut"
            }
            3 => {
                proxy.set(Mode::Stall);
                "stalled"
            }
            4 => {
                proxy.set(Mode::Slow(200_000));
                "200 kB/s"
            }
            _ => {
                proxy.set(Mode::Delay(Duration::from_millis(60)));
                "60 ms late"
            }
        };
        self.run.report.fault(Fault::Connection, format_args!("{name}, {lasts:?}"));
        if how >= 2 {
            tokio::time::sleep(lasts).await;
            // A stalled connection either goes on or is found dead.
            if how == 3 && self.dice.chance(50) {
                proxy.reset();
            }
        }
        proxy.set(Mode::Pass);
    }

    /// Fills the small disk below a folder, for a moment.
    async fn fill(&mut self, fault: Fault, name: &str) -> anyhow::Result<()> {
        let path = self.fleet.folder().join(name).join("filler");
        let filled = fill_disk(&path)?;
        self.run.report.fault(fault, format_args!("{filled} bytes"));
        tokio::time::sleep(Duration::from_millis(300 + self.dice.below(2_000))).await;
        fs::remove_file(&path)?;
        self.run.report.note(format_args!("room again in {name}"));
        Ok(())
    }

    /// A process that left by itself is a defect, and nothing could go on without it.
    fn still_there(&mut self) -> anyhow::Result<()> {
        if self.fleet.worker_has_left(0) {
            anyhow::bail!("the worker has left by itself");
        }
        if self.fleet.controller_has_left() {
            anyhow::bail!("the controller has left by itself");
        }
        Ok(())
    }
}

/// Faults of what lives beside the machines' own processes.
struct Others {
    run: Arc<Run>,
    dice: Dice,
}

impl Others {
    async fn inject(&mut self, fault: Fault) -> anyhow::Result<()> {
        match fault {
            Fault::KillGateway => self.kill_gateway().await?,
            Fault::KillShim => self.kill_shim().await,
            // The machines' part.
            _ => {}
        }
        Ok(())
    }

    async fn kill_gateway(&mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.run.gateway_pid().await {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
            self.run.report.fault(Fault::KillGateway, format_args!("kill -9 of {pid}"));
        }
        away(&mut self.dice).await;
        self.run.start_gateway().await
    }

    async fn kill_shim(&mut self) {
        let deadline = Instant::now() + VICTIM;
        while Instant::now() < deadline {
            let shims: Vec<(i32, String)> = processes::of_fleet(&self.run.id, &self.run.folder)
                .into_iter()
                .filter_map(|process| Some((process.pid, session_of_shim(&process.command)?)))
                .collect();
            if !shims.is_empty() {
                let (pid, session) = self.dice.pick(&shims).clone();
                // First: the session may be judged as soon as its shim is dead.
                self.run.taint(&session);
                if kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok() {
                    self.run.report.fault(Fault::KillShim, format_args!("kill -9 of {pid}, {session}"));
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// `muster shim <worker>/sessions/<session>/attempt-<n>`.
fn session_of_shim(command: &str) -> Option<String> {
    let mut words = command.split_whitespace().skip(1);
    (words.next()? == "shim").then_some(())?;
    let attempt = Path::new(words.next()?);
    attempt.parent()?.file_name()?.to_str().map(str::to_owned)
}

/// Writes until there is no room left. Gives the bytes written.
fn fill_disk(path: &PathBuf) -> anyhow::Result<u64> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let mut filled = 0;
    let mut size = 1 << 20;
    while size > 0 {
        match file.write(&vec![0x55; size]) {
            Ok(count) => filled += count as u64,
            Err(_) => size /= 2,
        }
    }
    Ok(filled)
}
