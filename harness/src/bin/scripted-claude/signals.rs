//! What a signal does: the tool dies first, then the program, with the exit codes of the real one.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI32, Ordering},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::output::Output;

/// Shared with the thread that takes the signals.
#[derive(Debug, Clone, Default)]
pub struct OnSignal {
    /// Process group of the tool that runs, or 0.
    tool: Arc<AtomicI32>,
    /// SIGTERM and SIGHUP are passed over.
    pub ignore: Arc<AtomicBool>,
}

impl OnSignal {
    /// Takes the signals from now on.
    pub fn watch(&self, output: &Output) -> std::io::Result<()> {
        let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
        let (on_signal, output) = (self.clone(), output.clone());
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                if signal != SIGINT && on_signal.ignore.load(Ordering::SeqCst) {
                    continue;
                }
                on_signal.kill_tool();
                // As with the real program, a terminal that nobody drains holds the exit up.
                output.wait_until_written();
                std::process::exit(if signal == SIGINT { 0 } else { 128 + signal });
            }
        })?;
        Ok(())
    }

    pub fn tool_started(&self, group: i32) {
        self.tool.store(group, Ordering::SeqCst);
    }

    pub fn tool_ended(&self) {
        self.tool.store(0, Ordering::SeqCst);
    }

    pub fn kill_tool(&self) {
        let group = self.tool.load(Ordering::SeqCst);
        if group > 0 {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}
