//! What a session may do here: the policy of its project, as the controller sent it, narrowed by what this worker allows
//! itself. The controller checked the policy already; a worker does not rely on it.

use std::path::Path;

use muster_proto::v1::{ProjectPolicy, SessionSpec, StartSession};

use crate::config::{Config, ProjectConfig};

/// Where a project's files come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source<'a> {
    /// A directory this worker announced.
    Directory(&'a Path),
    /// The mirror of a declared project.
    Mirror {
        /// Its name.
        project: &'a str,
        /// Where it is cloned from.
        url: &'a str,
    },
}

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms<'a> {
    pub(super) source: Source<'a>,
    pub(super) policy: Option<&'a ProjectPolicy>,
    allow_trust_mode: bool,
    trusted: bool,
}

/// The terms of an order.
///
/// # Errors
/// The project is none of this worker's, for people.
pub(super) fn of<'a>(config: &'a Config, start: &'a StartSession) -> Result<Terms<'a>, String> {
    let name = start.spec.as_ref().map(|spec| spec.project.as_str()).unwrap_or_default();
    let policy = start.policy.as_ref();
    let announced = config.projects.iter().find(|project| project.name == name);
    let declared = &config.declared;
    match (announced, policy) {
        (Some(ProjectConfig { path, allow_trust_mode, trusted, .. }), policy) => Ok(Terms {
            source: Source::Directory(path),
            policy,
            allow_trust_mode: *allow_trust_mode,
            trusted: *trusted,
        }),
        (None, Some(policy)) if declared.serve && !policy.git_url.is_empty() => Ok(Terms {
            source: Source::Mirror { project: &policy.name, url: &policy.git_url },
            policy: Some(policy),
            allow_trust_mode: declared.allow_trust_mode,
            trusted: declared.trusted,
        }),
        _ => Err(format!("worker {} does not serve project {name:?}", config.name)),
    }
}

/// Whether sessions' branches may be pushed. `start`: the session's order, if it is still known here.
pub(crate) fn allows_push(config: &Config, project: &str, start: Option<&StartSession>) -> bool {
    let announced = config.projects.iter().find(|announced| announced.name == project);
    let here = announced.map_or(config.declared.allow_push, |announced| announced.allow_push);
    match start.and_then(|start| start.policy.as_ref()) {
        Some(policy) => here && policy.allow_push,
        // Without a policy a declared project allows nothing.
        None => here && announced.is_some(),
    }
}

impl Terms<'_> {
    /// Whether the repository's own settings, hooks and MCP servers are used.
    pub(super) fn trusted(&self) -> bool {
        self.trusted && self.policy.is_none_or(|policy| policy.trusted)
    }

    /// What the session starts from when it names nothing.
    pub(super) fn start_ref<'a>(&'a self, spec: &'a SessionSpec) -> &'a str {
        match self.policy {
            Some(policy) if spec.r#ref.is_empty() => &policy.default_ref,
            _ => &spec.r#ref,
        }
    }

    /// What the session asked for as it is run, if nothing of it goes beyond the terms.
    ///
    /// # Errors
    /// What does, and the limit, for people.
    pub(super) fn spec(&self, asked: &SessionSpec) -> Result<SessionSpec, String> {
        let mut spec = asked.clone();
        if spec.trust_mode && !self.allow_trust_mode {
            return Err(format!("project {} does not allow trust mode on this worker", spec.project));
        }
        let Some(policy) = self.policy else { return Ok(spec) };
        let refuse =
            |what: String| Err(format!("the policy of project {} does not allow {what}", policy.name));
        if spec.trust_mode && policy.trust_mode_callers.is_empty() {
            return refuse("trust mode to anybody".to_owned());
        }
        if spec.permission_mode.is_empty() {
            spec.permission_mode.clone_from(&policy.default_permission_mode);
        }
        let mode = if spec.permission_mode.is_empty() { "default" } else { &spec.permission_mode };
        let listed = policy.permission_modes.iter().any(|allowed| allowed == mode);
        if mode == "bypassPermissions" || !policy.permission_modes.is_empty() && !listed {
            return refuse(format!("the permission mode {mode}"));
        }
        let ceiling = |what: &str, asked: u32, most: u32| match asked {
            asked if most == 0 => Ok(asked),
            0 => Ok(most),
            asked if asked <= most => Ok(asked),
            asked => Err(format!(
                "the policy of project {} does not allow {what} {asked}, at most {most}",
                policy.name
            )),
        };
        spec.timeout_minutes = ceiling("timeoutMinutes", spec.timeout_minutes, policy.max_timeout_minutes)?;
        spec.max_turns = ceiling("maxTurns", spec.max_turns, policy.max_turns)?;
        if policy.max_budget_usd > 0.0 {
            if spec.max_budget_usd > policy.max_budget_usd {
                return refuse(format!(
                    "maxBudgetUsd {}, at most {}",
                    spec.max_budget_usd, policy.max_budget_usd
                ));
            }
            if spec.max_budget_usd <= 0.0 {
                spec.max_budget_usd = policy.max_budget_usd;
            }
        }
        let more = policy.allowed_tools.iter().filter(|rule| !asked.allowed_tools.contains(rule)).cloned();
        spec.allowed_tools.extend(more);
        Ok(spec)
    }

    /// Rules that deny, whatever the session allows.
    pub(super) fn disallowed_tools(&self) -> &[String] {
        self.policy.map_or(&[], |policy| &policy.disallowed_tools)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(policy: &ProjectPolicy) -> Terms<'_> {
        Terms {
            source: Source::Directory(Path::new("/p")),
            policy: Some(policy),
            allow_trust_mode: true,
            trusted: true,
        }
    }

    #[test]
    fn what_goes_beyond_the_policy_is_named_with_its_limit() {
        let policy = ProjectPolicy {
            name: "api".to_owned(),
            permission_modes: vec!["default".to_owned(), "plan".to_owned()],
            max_timeout_minutes: 30,
            max_turns: 5,
            max_budget_usd: 2.0,
            ..ProjectPolicy::default()
        };
        let asked = SessionSpec { project: "api".to_owned(), ..SessionSpec::default() };
        for (spec, says) in [
            (SessionSpec { trust_mode: true, ..asked.clone() }, "trust mode"),
            (SessionSpec { permission_mode: "acceptEdits".to_owned(), ..asked.clone() }, "mode acceptEdits"),
            (SessionSpec { permission_mode: "bypassPermissions".to_owned(), ..asked.clone() }, "bypass"),
            (SessionSpec { timeout_minutes: 31, ..asked.clone() }, "timeoutMinutes 31, at most 30"),
            (SessionSpec { max_turns: 6, ..asked.clone() }, "maxTurns 6, at most 5"),
            (SessionSpec { max_budget_usd: 2.5, ..asked.clone() }, "maxBudgetUsd 2.5, at most 2"),
        ] {
            let error = terms(&policy).spec(&spec).expect_err(says);
            assert!(error.contains(says) && error.contains("api"), "{error}");
        }
        let run = terms(&policy).spec(&asked).expect("within");
        assert_eq!((run.timeout_minutes, run.max_turns, run.max_budget_usd), (30, 5, 2.0));
        let trusting = ProjectPolicy { trust_mode_callers: vec!["ann".to_owned()], ..policy.clone() };
        let spec = SessionSpec { trust_mode: true, ..asked };
        terms(&trusting).spec(&spec).expect("allowed");
        let here = Terms { allow_trust_mode: false, ..terms(&trusting) };
        assert!(here.spec(&spec).expect_err("not here").contains("on this worker"));
        assert!(!terms(&policy).trusted(), "a policy that says nothing trusts nobody");
    }

    #[test]
    fn bypassing_is_no_permission_mode_even_where_any_is_allowed() {
        let policy = ProjectPolicy::default();
        let spec = SessionSpec { permission_mode: "bypassPermissions".to_owned(), ..SessionSpec::default() };
        terms(&policy).spec(&spec).expect_err("refused");
    }
}
