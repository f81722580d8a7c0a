//! A real claude in front of the farm: an orchestrator that plays a script with the farm's tools.

use std::{fs, path::PathBuf, process::Stdio, time::Duration};

use muster_harness::{
    fleet::Claude,
    scenario::{Turn, scripted_prompt},
};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::farm::Farm;

/// Longer than anything an orchestrator does here.
const LIMIT: Duration = Duration::from_secs(900);

/// One orchestrator to be, with a home of its own.
pub struct Front<'a> {
    farm: &'a Farm,
    claude: Claude,
    folder: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

/// What it printed.
#[derive(Debug)]
pub struct Said {
    /// Its last answer.
    pub result: String,
    /// `system/init`: what it found at its start.
    pub init: Value,
    /// What its tools told the model, oldest first.
    pub tool_results: Vec<String>,
}

impl<'a> Front<'a> {
    pub fn new(farm: &'a Farm, claude: &Claude, name: &str) -> Self {
        let folder = farm.fleet.folder().join(name);
        for part in ["home", "tmp"] {
            fs::create_dir_all(folder.join(part)).unwrap();
        }
        Self { farm, claude: claude.clone(), folder, arguments: Vec::new(), environment: Vec::new() }
    }

    /// Where it runs.
    pub fn folder(&self) -> &PathBuf {
        &self.folder
    }

    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this server as its only one, called `muster`, whose tools need no permission.
    pub fn server(self, server: &Value) -> Self {
        let config = json!({ "mcpServers": { "muster": server } });
        self.arguments(&["--strict-mcp-config", &format!("--mcp-config={config}")])
    }

    /// Lets it play the script to its end.
    pub async fn play(&self, script: &[Turn]) -> Said {
        let mut command = Command::new(self.claude.program().expect("claude is installed"));
        self.farm.fleet.clean(&mut command);
        command
            .current_dir(&self.folder)
            .env("HOME", self.folder.join("home"))
            .env("CLAUDE_CODE_TMPDIR", self.folder.join("tmp"))
            .env("TMPDIR", self.folder.join("tmp"))
            .env("ANTHROPIC_BASE_URL", self.farm.fleet.api().url())
            .env("ANTHROPIC_API_KEY", "sk-offline")
            .env("CLAUDE_CODE_MAX_RETRIES", "1")
            .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
            .env("DISABLE_AUTOUPDATER", "1")
            .env("MCP_TIMEOUT", "30000")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .args(["-p", &scripted_prompt("run the farm", script)])
            .args(["--output-format", "stream-json", "--verbose"])
            .args(&self.arguments)
            .stdin(Stdio::null());
        let output = tokio::time::timeout(LIMIT, command.output()).await;
        let output =
            output.unwrap_or_else(|_| panic!("an orchestrator does not end: {}", self.last_results()));
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}\n{complained}");
        read(&said)
    }

    /// For the message of a failed test.
    fn last_results(&self) -> String {
        format!("{:#?}", self.farm.fleet.api().log().all().last().map(|record| record.tool_results()))
    }
}

fn read(said: &str) -> Said {
    let events: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of_kind = |kind: &'static str| events.iter().filter(move |event| event["type"] == kind);
    let init = of_kind("system").find(|event| event["subtype"] == "init").cloned().unwrap_or_default();
    let result = of_kind("result").next_back().unwrap_or_else(|| panic!("no result in {said}"));
    let blocks =
        of_kind("user").flat_map(|event| event["message"]["content"].as_array().cloned().unwrap_or_default());
    let results = blocks.filter(|block| block["type"] == "tool_result");
    Said {
        result: result["result"].as_str().unwrap_or_default().to_owned(),
        tool_results: results.map(|block| block["content"].to_string()).collect(),
        init,
    }
}

/// A call of one of the farm's tools under the id `id`, by which later turns of the script find its result.
pub fn call(prefix: &str, id: &str, tool: &str, arguments: Value) -> Turn {
    let mut turn = Turn::tool(format!("{prefix}{tool}"), arguments);
    turn.tool_use[0].id = Some(format!("toolu_{id}"));
    turn
}

/// Several calls in one message: claude makes them side by side.
pub fn together(turns: impl IntoIterator<Item = Turn>) -> Turn {
    Turn { tool_use: turns.into_iter().flat_map(|turn| turn.tool_use).collect(), ..Turn::default() }
}

/// A field of the result of the call with this id.
pub fn of(id: &str, pointer: &str) -> String {
    format!("{{{{tool_result#toolu_{id}:{pointer}}}}}")
}

/// The `muster` under test.
pub fn muster() -> PathBuf {
    std::env::var_os("MUSTER_BIN")
        .map_or_else(|| muster_harness::fleet::programs_folder().unwrap().join("muster"), Into::into)
}
