//! Several machines: network namespaces with cables that can be cut. Needs root; skipped with a loud notice without.
//!
//! Scenarios that mostly wait share a test: a panic names the one it was in.
//!
//! Judged by what the scripted claudes noted of themselves: on one disk, so that two that live at the same time find each
//! other's lock, whatever their hosts know of each other.

mod cables;
mod certificates;
mod deaths;
mod joining;
mod leases;
mod rolling;
mod twins;

use std::{fs, path::PathBuf, time::Duration};

use muster_harness::{
    eventually::eventually,
    fleet::Gateway,
    hosts::{HostFarm, Pace},
    scenario::{Act, Turn, scripted_prompt},
};
use serde_json::{Value, json};

/// Between hosts that are cut off, leases that have to lapse and a loaded machine, things take a while.
const PATIENCE: Duration = Duration::from_secs(150);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_come_go_and_restart() {
    tokio::join!(
        joining::four_machines_join_by_token_and_one_is_sent_away(),
        rolling::all_workers_are_restarted_under_load_and_no_session_notices(),
        twins::two_machines_with_one_identity_are_given_nothing(),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_are_cut_off_and_lost() {
    tokio::join!(
        cables::sessions_behind_a_cut_cable_go_on_and_lose_nothing(),
        certificates::certificates_end_in_mid_stream_and_nobody_notices(),
        leases::past_its_lease_a_session_starts_once_more_elsewhere_and_never_runs_twice(),
        deaths::a_host_and_a_controller_may_die(),
    );
}

/// A farm on hosts, and a client.
struct Hosts {
    farm: HostFarm,
    gateway: Gateway,
}

/// A session that waits for the word, wherever it runs, and then notes that it went on.
struct Held {
    id: String,
    go: PathBuf,
    done: PathBuf,
}

impl Hosts {
    /// None: it cannot be tried here, and that was said.
    async fn start(workers: &[&str], pace: Pace) -> Option<Self> {
        let farm = HostFarm::start(workers, pace).await.expect("the farm comes up")?;
        let gateway = farm.gateway().await.expect("the gateway comes up");
        Some(Self { farm, gateway })
    }

    async fn muster(&self, arguments: &[&str]) -> String {
        self.farm.muster(arguments).await.unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Spawns a session; `on`: a host it must run on. Gives its id.
    async fn spawn(&self, title: &str, project: &str, on: Option<&str>, turns: &[Turn]) -> String {
        let prompt = scripted_prompt(title, turns);
        let label = on.map(|host| format!("host={host}"));
        let mut arguments = vec!["spawn", "--json", "--project", project, "--title", title];
        arguments.extend(["--allowed-tool", "Bash"]);
        if let Some(label) = &label {
            arguments.extend(["--on", label]);
        }
        arguments.push(&prompt);
        let spawned: Value = serde_json::from_str(&self.muster(&arguments).await).unwrap();
        spawned["id"].as_str().unwrap_or_else(|| panic!("no id: {spawned}")).to_owned()
    }

    /// A session that says `count` numbered lines, ten a second.
    async fn counting(&self, title: &str, project: &str, host: &str, count: u64) -> String {
        let lines = Act::Lines { count, width: 20, interval_ms: 100 };
        let turns = [Turn::act(lines), Turn::text("said all")];
        let id = self.spawn(title, project, Some(host), &turns).await;
        self.until(&id, "working").await;
        id
    }

    /// A session that holds until it is told to go on.
    async fn held(&self, title: &str, project: &str, on: Option<&str>) -> Held {
        let [go, done] = ["go", "done"].map(|what| self.farm.folder().join(format!("{title}.{what}")));
        let command =
            format!("until [ -e '{}' ]; do sleep 0.1; done; echo once >> '{}'", go.display(), done.display());
        let id = self.spawn(title, project, on, &[Turn::bash(command), Turn::text("went on")]).await;
        self.until(&id, "working").await;
        Held { id, go, done }
    }

    /// Lets it go on, once.
    async fn go(&self, held: &Held) {
        fs::write(&held.go, "").unwrap();
        self.until(&held.id, "completed").await;
        let times = fs::read_to_string(&held.done).unwrap_or_default().lines().count();
        assert_eq!(times, 1, "{} went on {times} times", held.id);
    }

    async fn status(&self, id: &str) -> Value {
        // The controller may be away; whoever asks asks again.
        let text = self.farm.muster(&["status", id, "--json"]).await.unwrap_or_default();
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// Waits for this status; another end is a failure at once.
    async fn until(&self, id: &str, wanted: &str) -> Value {
        eventually(&format!("{id} is {wanted}"), PATIENCE, || async {
            let session = self.status(id).await;
            let status = session["status"].as_str().unwrap_or_default();
            if status == wanted {
                return Some(session);
            }
            let ended = ["completed", "failed", "stopped"].contains(&status);
            assert!(!ended, "it should be {wanted}: {session:#}");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        })
        .await
    }

    /// Waits until the session runs as this attempt.
    async fn until_attempt(&self, id: &str, attempt: u64) -> Value {
        eventually(&format!("{id} runs as attempt {attempt}"), PATIENCE, || async {
            let session = self.status(id).await;
            let there = session["attempt"] == attempt && session["status"] == "working";
            tokio::time::sleep(Duration::from_millis(100)).await;
            there.then_some(session)
        })
        .await
    }

    async fn until_health(&self, worker: &str, what: &str, fits: impl Fn(&str) -> bool) {
        eventually(&format!("{worker} is {what}"), PATIENCE, || async {
            let health = self.farm.health(worker).await.unwrap_or_default();
            tokio::time::sleep(Duration::from_millis(50)).await;
            fits(&health).then_some(())
        })
        .await;
    }

    /// Starts of its claude, as each noted it. No two ever lived at the same time.
    fn starts(&self, id: &str) -> usize {
        let file = self.farm.folder().join("witness").join(format!("{id}.jsonl"));
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let notes = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let starts: Vec<Value> =
            notes.filter(|note| note["start"].is_object()).map(|note| note["start"].clone()).collect();
        for start in &starts {
            assert_eq!(start["alone"], true, "two claudes of {id} at the same time: {start:#}");
        }
        starts.len()
    }

    /// Its output: `count` numbered lines, each once, in order, and nothing lost.
    async fn assert_counted(&self, id: &str, count: u64) {
        let output = self.muster(&["logs", "--raw", id]).await;
        let texts = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let numbers: Vec<u64> = texts
            .filter_map(|event| {
                let text = event["message"]["content"][0]["text"].as_str()?.to_owned();
                text.strip_prefix("line ")?.split(' ').next()?.parse().ok()
            })
            .collect();
        assert_eq!(numbers, (0..count).collect::<Vec<_>>(), "{id}");
    }

    /// It ended well in the attempt it began with.
    async fn assert_undisturbed(&self, id: &str) {
        let session = self.until(id, "completed").await;
        assert_eq!(session["attempt"], 1, "{session:#}");
        assert_eq!(self.starts(id), 1);
    }

    /// Ends the farm, which must leave nothing behind.
    fn finish(self) {
        let Self { farm, gateway } = self;
        drop(gateway);
        if let Err(survivors) = farm.end() {
            panic!("the farm left processes behind: {survivors:#?}");
        }
    }
}
