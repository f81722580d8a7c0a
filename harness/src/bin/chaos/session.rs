//! One session under load, from spawn to archive, by a caller that never believes a lost connection.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use muster_runtime::task;
use serde_json::{Value, json};

use crate::{
    oracle::{Promised, Witnessed},
    output,
    plan::{Message, Plan},
    report::Violation,
    run::{Refused, Run},
};

/// What any call may take while things are killed.
const CALL: Duration = Duration::from_secs(90);
/// What a session may take, with everything killed around it.
const SESSION: Duration = Duration::from_secs(150);
/// What an acknowledged message may still take once the session has ended.
const LATE_MESSAGE: Duration = Duration::from_secs(20);

/// A session and what was promised of it.
struct Live<'a> {
    run: &'a Run,
    plan: &'a Plan,
    id: String,
    promised: Promised,
    /// Messages to be sent.
    unsent: Vec<Message>,
    stopped: bool,
    /// It had ended when it was stopped.
    stopped_late: bool,
}

/// Plays `plan` and checks everything. Violations are in the report; the error is one too.
///
/// # Errors
/// When the session does not come to its end.
pub async fn play(run: &Arc<Run>, plan: &Plan, small: bool) -> anyhow::Result<()> {
    let id = spawn(run, plan).await?;
    let who = format!("{} {id}", plan.title);
    run.report.note(format_args!("{who} spawned"));
    let following = plan.followed.then(|| {
        let (url, id) = (run.controller_url.clone(), id.clone());
        task::spawn("chaos-follower", async move { output::read(&url, &id, 2 * SESSION).await })
    });
    let mut unsent = plan.messages.clone();
    let prompt = unsent.remove(0);
    let promised = Promised { messages: vec![prompt], ..Promised::default() };
    let mut live = Live { run, plan, id, promised, unsent, stopped: false, stopped_late: false };
    let status = match live.until_ended().await {
        Ok(status) => status,
        Err(error) => {
            let last = run.call("get_session_status", &json!({ "sessionId": live.id }), CALL).await;
            run.report.violation(Violation::Stuck, format_args!("{who}: {error:#}; {last:?}"));
            // What is stuck must not count as left behind, too.
            let id = json!({ "sessionId": live.id });
            let _ = run.call("stop_session", &id, CALL).await;
            let wait = json!({ "sessionId": live.id, "timeoutSeconds": 30 });
            let _ = run.call("wait_for_completion", &wait, CALL).await;
            let _ = run.call("archive_session", &id, CALL).await;
            return Err(error);
        }
    };
    run.report.note(format_args!("{who} {status}"));
    let followed = match following {
        // A session that goes on with a message ends more than once, and a follower at the first end.
        Some(following) if live.promised.messages.len() == 1 => Some(following.await.context("follower")??),
        _ => None,
    };
    live.verify(&who, followed, small).await?;
    live.archive().await
}

async fn spawn(run: &Run, plan: &Plan) -> anyhow::Result<String> {
    let request = format!("{}-{}", run.seed, plan.title);
    let ask = json!({ "prompt": plan.messages[0].text, "title": plan.title, "requestId": request });
    let spawned = if plan.spawned_twice {
        let (one, other) =
            tokio::join!(run.ok("spawn_session", &ask, CALL), run.ok("spawn_session", &ask, CALL));
        let (one, other) = (one?, other?);
        if one["id"] != other["id"] {
            let what = format_args!("{request} became {} and {}", one["id"], other["id"]);
            run.report.violation(Violation::DoubleStart, what);
        }
        one
    } else {
        run.ok("spawn_session", &ask, CALL).await?
    };
    let handle = spawned["sessionId"].as_str().context("no session id")?;
    // The files on disk know the id alone.
    let status = run.ok("get_session_status", &json!({ "sessionId": handle }), CALL).await?;
    let id = status["id"].as_str().context("no id")?;
    run.acknowledged(id, handle);
    run.report.count("sessions", 1);
    Ok(id.to_owned())
}

impl Live<'_> {
    /// Answers, sends and stops as planned until the session has ended with all it was given.
    async fn until_ended(&mut self) -> anyhow::Result<String> {
        let began = Instant::now();
        if self.plan.early_message && self.plan.stop_after.is_none() {
            self.send_next().await?;
        }
        let mut ended_since: Option<Instant> = None;
        loop {
            if self.plan.stop_after.is_some_and(|after| began.elapsed() >= after) && !self.stopped {
                self.stop().await?;
            }
            anyhow::ensure!(began.elapsed() < SESSION, "it has not ended after {SESSION:?}");
            let wait = json!({ "sessionId": self.id, "timeoutSeconds": 1 });
            let waited = self.run.ok("wait_for_completion", &wait, CALL).await?;
            let ready = &waited["ready"][0];
            let status = ready["status"].as_str().unwrap_or_default();
            match status {
                "needs_attention" => {
                    ended_since = None;
                    self.answer(&ready["attention"]).await?;
                }
                "stopped" => return Ok(status.to_owned()),
                "completed" | "failed" if self.stopped_late => return Ok(status.to_owned()),
                "completed" | "failed" if self.stopped => {
                    anyhow::bail!("a stop was acknowledged, and then it {status}");
                }
                "completed" | "failed" => {
                    if status == "failed" && !self.run.is_tainted(&self.id) {
                        let what = format_args!("{}: {ready}", self.id);
                        self.run.report.violation(Violation::Failed, what);
                        // What was lost with it is the same defect.
                        self.run.taint(&self.id);
                        return Ok(status.to_owned());
                    }
                    let since = *ended_since.get_or_insert_with(Instant::now);
                    if !self.unsent.is_empty() {
                        self.send_next().await?;
                        ended_since = None;
                    } else if self.all_received() || since.elapsed() > LATE_MESSAGE {
                        if self.plan.stop_after.is_none() || began.elapsed() > SESSION / 2 {
                            return Ok(status.to_owned());
                        }
                        self.stop().await?;
                    } else {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
                _ => ended_since = None,
            }
        }
    }

    fn all_received(&self) -> bool {
        let witnessed = Witnessed::of(self.run, &self.id);
        self.promised.messages.iter().all(|message| witnessed.received(&message.word) > 0)
    }

    async fn send_next(&mut self) -> anyhow::Result<()> {
        let Some(message) = self.unsent.first().cloned() else { return Ok(()) };
        let ask = json!({ "sessionId": self.id, "text": message.text, "requestId": message.word });
        match self.run.call("send_input", &ask, CALL).await? {
            Ok(_) => {
                self.unsent.remove(0);
                self.promised.messages.push(message);
                Ok(())
            }
            // It asks something now: the message has to wait for the answer.
            Err(Refused { code, .. }) if code == "attention_pending" => Ok(()),
            Err(refused) => anyhow::bail!("a message was refused: {}", refused.text),
        }
    }

    async fn answer(&mut self, attention: &Value) -> anyhow::Result<()> {
        let Some(id) = attention["attentionId"].as_str() else { return Ok(()) };
        let ask = |n: u8| {
            let mut ask =
                json!({ "sessionId": self.id, "attentionId": id, "requestId": format!("{id}-{n}") });
            if attention["questions"].is_array() {
                ask["answers"] = json!({ "Which one?": if n == 0 { "this" } else { "that" } });
            } else {
                ask["decision"] = json!(if n == 0 { "allow" } else { "deny" });
            }
            ask
        };
        let (one, other) = (ask(0), ask(1));
        let results = if self.plan.racing_answers {
            let (one, other) = tokio::join!(
                self.run.call("send_input", &one, CALL),
                self.run.call("send_input", &other, CALL)
            );
            vec![one?, other?]
        } else {
            vec![self.run.call("send_input", &one, CALL).await?]
        };
        let accepted = results.iter().filter(|result| result.is_ok()).count();
        if accepted > 1 {
            let what = format_args!("{}: two answers to {id} were accepted", self.id);
            self.run.report.violation(Violation::DoubleAnswer, what);
        }
        if accepted > 0 {
            self.promised.answers.insert(id.to_owned());
        }
        for refused in results.iter().filter_map(|result| result.as_ref().err()) {
            let known = ["attention_stale", "session_ended"].contains(&refused.code.as_str());
            anyhow::ensure!(known, "an answer was refused: {}", refused.text);
        }
        Ok(())
    }

    async fn stop(&mut self) -> anyhow::Result<()> {
        let stopped = self.run.ok("stop_session", &json!({ "sessionId": self.id }), CALL).await?;
        self.stopped_late = stopped["changed"] == false;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.promised.stopped = u64::try_from(now.as_micros()).ok();
        self.stopped = true;
        self.run.report.count("stops", 1);
        self.run.report.note(format_args!("{} stop acknowledged", self.id));
        Ok(())
    }

    async fn verify(&self, who: &str, followed: Option<Vec<u8>>, small: bool) -> anyhow::Result<()> {
        let read = match output::read(&self.run.controller_url, &self.id, SESSION).await {
            Ok(read) => read,
            Err(error) => {
                self.run.report.violation(Violation::Difference, format_args!("{who}: {error:#}"));
                return Ok(());
            }
        };
        let witnessed = Witnessed::of(self.run, &self.id);
        let cut = self.stopped || self.run.is_tainted(&self.id);
        let report = &self.run.report;
        output::compare(report, who, &read, &witnessed, cut)?;
        witnessed.check(report, who, &self.promised, &read, cut);
        if let Some(followed) = followed {
            report.count("sessions followed through faults", 1);
            if followed != read {
                let what =
                    format_args!("{who}: a follower read {} other bytes of {}", followed.len(), read.len());
                report.violation(Violation::Difference, what);
            }
        }
        if small {
            report.count("sessions read by pages", 1);
            if output::read_pages(self.run, &self.id).await? != read {
                report.violation(Violation::Difference, format_args!("{who}: pages differ from the stream"));
            }
        }
        for said in &witnessed.said {
            // Gigabytes of them would not fit; what is kept is the witness.
            let _ = std::fs::remove_file(said);
        }
        Ok(())
    }

    async fn archive(&self) -> anyhow::Result<()> {
        self.run.ok("archive_session", &json!({ "sessionId": self.id }), CALL).await?;
        self.run.report.count("sessions archived", 1);
        Ok(())
    }
}
