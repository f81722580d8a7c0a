//! A fleet with an MCP client in front, and the steps every scenario is made of.

use std::path::PathBuf;

use futures::future::join_all;
use muster_harness::{
    eventually::{DEADLINE, eventually},
    fleet::{Claude, FleetBuilder, Gateway, TestFleet},
    scenario::{Turn, scripted_prompt},
};
use serde_json::{Value, json};

/// Merges the fields of `more` over those of `base`.
pub fn with(mut base: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().into_iter().flatten() {
        base[name] = value.clone();
    }
    base
}

pub struct Farm {
    pub fleet: TestFleet,
    pub gateway: Gateway,
}

impl Farm {
    pub async fn with(claude: Claude) -> Self {
        Self::build(TestFleet::builder().claude(claude)).await
    }

    pub async fn build(builder: FleetBuilder) -> Self {
        let fleet = builder.start().await.expect("the fleet comes up");
        let gateway = fleet.gateway().await.expect("the gateway comes up");
        Self { fleet, gateway }
    }

    /// A tool call that must succeed.
    pub async fn ok(&self, tool: &str, arguments: Value) -> Value {
        self.gateway.ok(tool, arguments).await.unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// A tool call that must fail; gives its text.
    pub async fn refused(&self, tool: &str, arguments: Value) -> String {
        self.gateway.refused(tool, arguments).await.unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Spawns a session that plays `turns`.
    pub async fn spawn(&self, title: &str, turns: &[Turn], arguments: Value) -> String {
        self.spawn_prompt(&scripted_prompt(title, turns), with(json!({ "title": title }), &arguments)).await
    }

    pub async fn spawn_prompt(&self, prompt: &str, arguments: Value) -> String {
        let spawned = self.ok("spawn_session", with(arguments, &json!({ "prompt": prompt }))).await;
        spawned["sessionId"].as_str().expect("a session id").to_owned()
    }

    /// The session once it has ended or needs somebody.
    pub async fn settled(&self, session: &str) -> Value {
        let limit = DEADLINE.as_secs();
        let wait = json!({ "sessionId": session, "timeoutSeconds": limit });
        let waited = self.ok("wait_for_completion", wait).await;
        assert_eq!(waited["timedOut"], false, "{session} is not done after {limit} s: {waited}");
        waited["ready"][0].clone()
    }

    /// What the session asks; it must ask for `reason`.
    pub async fn asked(&self, session: &str, reason: &str) -> Value {
        let settled = self.settled(session).await;
        assert_eq!(settled["status"], "needs_attention", "{settled}");
        assert_eq!(settled["attentionReason"], reason, "{settled}");
        settled["attention"].clone()
    }

    /// The session's whole status; it must have ended so.
    pub async fn ended(&self, session: &str, status: &str) -> Value {
        let settled = self.settled(session).await;
        assert_eq!(settled["status"], status, "{settled}");
        self.status(session).await
    }

    pub async fn status(&self, session: &str) -> Value {
        self.ok("get_session_status", json!({ "sessionId": session })).await
    }

    pub async fn send(&self, session: &str, input: Value) -> Value {
        self.ok("send_input", with(input, &json!({ "sessionId": session }))).await
    }

    /// The answer of its last turn.
    pub async fn result(&self, session: &str) -> String {
        let output = json!({ "sessionId": session, "format": "result" });
        self.ok("get_session_output", output).await["text"].as_str().unwrap_or_default().to_owned()
    }

    /// All of claude's events, read page by page.
    pub async fn events(&self, session: &str) -> Vec<Value> {
        let mut events = Vec::new();
        let mut cursor = Value::from("o0");
        loop {
            let page =
                json!({ "sessionId": session, "format": "events", "cursor": cursor, "maxChars": 100_000 });
            let page = self.ok("get_session_output", page).await;
            events.extend(page["events"].as_array().cloned().unwrap_or_default());
            if page["truncated"] == false {
                return events;
            }
            assert_ne!(page["nextCursor"], cursor, "a truncated page must lead on: {page}");
            cursor = page["nextCursor"].clone();
        }
    }

    /// What its tools told the model, one text for all.
    pub async fn tool_results(&self, session: &str) -> String {
        let events = self.events(session).await;
        let blocks = events.iter().filter(|event| event["type"] == "user");
        let blocks =
            blocks.flat_map(|event| event["message"]["content"].as_array().cloned().unwrap_or_default());
        let results = blocks.filter(|block| block["type"] == "tool_result");
        results.map(|block| block["content"].to_string()).collect::<Vec<_>>().join("\n")
    }

    /// Where the session works, once it does.
    pub async fn workspace(&self, session: &str) -> PathBuf {
        let path = eventually("the session has a workspace", DEADLINE, || async {
            self.status(session).await["workspace"]["path"].as_str().map(PathBuf::from)
        });
        path.await
    }

    /// Waits until a file is there in its workspace.
    pub async fn file_appears(&self, session: &str, name: &str) -> PathBuf {
        let file = self.workspace(session).await.join(name);
        eventually("the file appears", DEADLINE, || async { file.exists().then_some(()) }).await;
        file
    }

    /// Ends the fleet, which must leave nothing behind.
    pub fn finish(self) {
        let Self { fleet, gateway } = self;
        drop(gateway);
        fleet.assert_no_survivors();
    }
}

/// Runs scenarios side by side.
pub async fn side_by_side<'a>(scenarios: Vec<futures::future::BoxFuture<'a, ()>>) {
    join_all(scenarios).await;
}
