//! What `muster up` says once it stands.

use std::path::Path;

use super::{Farm, Plan};
use crate::{address, show};

impl Farm {
    /// How to connect Claude Code, and what is not as it was asked for.
    pub(super) fn banner(&self, plan: &Plan, claude_version: Option<&str>, log: Option<&Path>) -> String {
        let projects: Vec<String> = plan
            .projects
            .iter()
            .map(|project| {
                let trusted = if project.trusted { ", trusted" } else { "" };
                format!("{} ({}{trusted})", project.name, show::line(&project.path.to_string_lossy()))
            })
            .collect();
        let claude = match claude_version {
            Some(version) if !version.is_empty() => format!("claude {}", show::line(version)),
            _ => format!("claude at {}", plan.claude.program.display()),
        };
        let mut text =
            format!("muster is up: {} slots, {claude}\nprojects: {}\n", plan.slots, projects.join(", "));
        for (wished, got) in
            [(plan.controller.listen, self.controller.local_addr()), (plan.http, self.gateway.local_addr())]
        {
            if wished.port() != 0 && wished.port() != got.port() {
                text.push_str(&format!("port {} is taken, {} is used instead\n", wished.port(), got.port()));
            }
        }
        if let Some(remote) = self.controller.remote_addr() {
            text.push_str(&format!(
                "other machines join at port {}: `muster token create` prints what to type there\n",
                remote.port()
            ));
        }
        if claude_version.is_none() {
            text.push_str("the worker has not joined yet; the log says why\n");
        }
        text.push_str(&format!(
            "\nconnect Claude Code by one of\n  claude mcp add --transport http muster {}\n  \
             claude mcp add muster -- {} mcp --controller {}\n\n",
            self.address.mcp,
            quoted(&plan.program.to_string_lossy()),
            self.address.controller
        ));
        if address::state_root().ok().and_then(|root| root.canonicalize().ok()).as_ref() != Some(&plan.root) {
            text.push_str(&format!("for the verbs: export MUSTER_CONTROLLER={}\n", self.address.controller));
        }
        if let Some(log) = log {
            text.push_str(&format!("log: {}\n", log.display()));
        }
        text.push_str("Ctrl-C leaves; sessions go on\n\n");
        text
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_only_when_a_shell_would_split_them() {
        assert_eq!(quoted("/usr/bin/muster"), "/usr/bin/muster");
        assert_eq!(quoted("/my dir/it's"), "'/my dir/it'\\''s'");
    }
}
