//! What a declared project lets its sessions do. Pure.
//!
//! Called when a session is accepted ([`resolve`]) and each time it is started ([`narrowed`], [`of_attempt`]).
//! Invariant: what comes out never allows more than the policy, whatever was asked; what a later policy takes
//! away is gone from the next attempt on, what it adds is for new sessions.

use muster_proto::{
    error::{Error, ErrorCode},
    v1::{OnLost, ProjectPolicy, SessionSpec},
};

/// Fills in what `spec` leaves open and refuses what goes beyond `policy`.
///
/// # Errors
/// POLICY_REFUSED or TRUST_NOT_ALLOWED, with the field and the limit.
pub fn resolve(policy: &ProjectPolicy, caller: &str, spec: &mut SessionSpec) -> Result<(), Error> {
    let name = &policy.name;
    if spec.trust_mode && !allows_trust(policy, caller) {
        let message = format!("the project {name} does not let {caller} use trust mode");
        let error = Error::new(ErrorCode::TrustNotAllowed, message)
            .hint("Spawn without trustMode, or have the caller added to trust_mode_callers of the project.");
        return Err(Error { field: "trustMode".to_owned(), ..error });
    }
    let mode = &mut spec.permission_mode;
    if mode.is_empty() {
        mode.clone_from(&policy.default_permission_mode);
    } else if !policy.permission_modes.is_empty() && !policy.permission_modes.contains(mode) {
        let allowed = policy.permission_modes.join(", ");
        return Err(refused(name, "permissionMode", &format!("is {mode:?}, and {allowed} are allowed")));
    }
    ceiling(name, "timeoutMinutes", &mut spec.timeout_minutes, policy.max_timeout_minutes)?;
    ceiling(name, "maxTurns", &mut spec.max_turns, policy.max_turns)?;
    ceiling(name, "maxBudgetUsd", &mut spec.max_budget_usd, policy.max_budget_usd)?;
    for rule in &policy.allowed_tools {
        if !spec.allowed_tools.contains(rule) {
            spec.allowed_tools.push(rule.clone());
        }
    }
    if spec.r#ref.is_empty() {
        spec.r#ref.clone_from(&policy.default_ref);
    }
    for (key, value) in &policy.required_labels {
        let asked = spec.required_labels.entry(key.clone()).or_insert_with(|| value.clone());
        if asked != value {
            let problem =
                format!("wants {key}={asked}, and the project runs on workers with {key}={value} only");
            return Err(refused(name, "requiredLabels", &problem));
        }
    }
    Ok(())
}

/// The policy a session goes on under: the one it was accepted under, without what `now` has taken away.
#[must_use]
pub fn narrowed(accepted: &ProjectPolicy, now: Option<&ProjectPolicy>) -> ProjectPolicy {
    let mut policy = accepted.clone();
    let Some(now) = now else { return policy };
    policy.allow_push &= now.allow_push;
    let both = |name: &String| allows_name(now, name);
    policy.trust_mode_callers = if policy.trust_mode_callers.iter().any(|name| name == "*") {
        now.trust_mode_callers.clone()
    } else {
        policy.trust_mode_callers.into_iter().filter(both).collect()
    };
    policy.max_timeout_minutes = lower(policy.max_timeout_minutes, now.max_timeout_minutes);
    policy.max_turns = lower(policy.max_turns, now.max_turns);
    policy.max_budget_usd = lower(policy.max_budget_usd, now.max_budget_usd);
    policy
}

/// What an attempt may do of what its session was accepted with, under the policy of the moment.
#[must_use]
pub fn of_attempt(spec: &SessionSpec, policy: &ProjectPolicy, caller: &str) -> SessionSpec {
    SessionSpec {
        trust_mode: spec.trust_mode && allows_trust(policy, caller),
        timeout_minutes: lower(spec.timeout_minutes, policy.max_timeout_minutes),
        max_turns: lower(spec.max_turns, policy.max_turns),
        max_budget_usd: lower(spec.max_budget_usd, policy.max_budget_usd),
        ..spec.clone()
    }
}

/// Whether sessions of it are started elsewhere when their worker is cut off.
#[must_use]
pub fn restarts(policy: Option<&ProjectPolicy>) -> bool {
    policy.is_some_and(|policy| policy.on_lost() == OnLost::Restart)
}

/// Whether sessions of `caller` may use trust mode.
#[must_use]
pub fn allows_trust(policy: &ProjectPolicy, caller: &str) -> bool {
    allows_name(policy, caller)
}

fn allows_name(policy: &ProjectPolicy, name: &str) -> bool {
    policy.trust_mode_callers.iter().any(|allowed| allowed == "*" || allowed == name)
}

fn ceiling<T>(project: &str, field: &'static str, asked: &mut T, most: T) -> Result<(), Error>
where
    T: Default + PartialOrd + Copy + std::fmt::Display,
{
    if most == T::default() {
        return Ok(());
    }
    if *asked == T::default() {
        *asked = most;
    }
    if *asked > most {
        return Err(refused(project, field, &format!("is {asked}, more than the {most} allowed")));
    }
    Ok(())
}

/// The lower of two ceilings; 0 is none.
fn lower<T: Default + PartialOrd>(a: T, b: T) -> T {
    if a == T::default() || (b != T::default() && b < a) { b } else { a }
}

fn refused(project: &str, field: &'static str, problem: &str) -> Error {
    let message = format!("{field} {problem} by the project {project}");
    let error =
        Error::new(ErrorCode::PolicyRefused, message).hint("Ask for less, or have the policy changed.");
    Error { field: field.to_owned(), ..error }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy() -> ProjectPolicy {
        ProjectPolicy {
            name: "api".into(),
            default_permission_mode: "plan".into(),
            permission_modes: vec!["plan".into(), "default".into()],
            allowed_tools: vec!["Read".into()],
            trust_mode_callers: vec!["ann".into()],
            max_timeout_minutes: 60,
            max_turns: 5,
            max_budget_usd: 1.5,
            default_ref: "main".into(),
            required_labels: [("os".to_owned(), "linux".to_owned())].into(),
            allow_push: true,
            ..ProjectPolicy::default()
        }
    }

    #[test]
    fn what_is_left_open_is_filled_in_and_what_goes_beyond_is_named_with_its_limit() {
        let mut spec = SessionSpec { allowed_tools: vec!["Bash(ls)".into()], ..SessionSpec::default() };
        resolve(&policy(), "ann", &mut spec).expect("it fits");
        assert_eq!((spec.permission_mode.as_str(), spec.timeout_minutes, spec.max_turns), ("plan", 60, 5));
        assert_eq!((spec.r#ref.as_str(), spec.required_labels["os"].as_str()), ("main", "linux"));
        assert_eq!(spec.allowed_tools, ["Bash(ls)", "Read"]);
        let again = spec.clone();
        resolve(&policy(), "ann", &mut spec).expect("twice is once");
        assert_eq!(spec, again);
        let beyond = [
            (
                SessionSpec { timeout_minutes: 61, ..SessionSpec::default() },
                "timeoutMinutes",
                "the 60 allowed",
            ),
            (SessionSpec { max_turns: 6, ..SessionSpec::default() }, "maxTurns", "the 5 allowed"),
            (
                SessionSpec { max_budget_usd: 1.6, ..SessionSpec::default() },
                "maxBudgetUsd",
                "the 1.5 allowed",
            ),
            (
                SessionSpec { permission_mode: "acceptEdits".into(), ..SessionSpec::default() },
                "permissionMode",
                "plan, default are allowed",
            ),
            (
                SessionSpec {
                    required_labels: [("os".to_owned(), "mac".to_owned())].into(),
                    ..SessionSpec::default()
                },
                "requiredLabels",
                "os=linux",
            ),
        ];
        for (mut spec, field, limit) in beyond {
            let error = resolve(&policy(), "ann", &mut spec).expect_err("beyond");
            assert_eq!((error.code, error.field.as_str()), (ErrorCode::PolicyRefused, field));
            assert!(error.message.contains(limit), "{}", error.message);
        }
        let mut trust = SessionSpec { trust_mode: true, ..SessionSpec::default() };
        let error = resolve(&policy(), "gw/ann", &mut trust).expect_err("another ann");
        assert_eq!(error.code, ErrorCode::TrustNotAllowed);
        resolve(&policy(), "ann", &mut trust).expect("she may");
    }

    #[test]
    fn what_is_taken_away_counts_for_the_next_attempt_and_what_is_added_does_not() {
        let mut spec = SessionSpec { trust_mode: true, ..SessionSpec::default() };
        resolve(&policy(), "ann", &mut spec).expect("it fits");
        let now = ProjectPolicy {
            max_turns: 2,
            max_timeout_minutes: 90,
            trust_mode_callers: vec!["ben".into()],
            allow_push: false,
            ..policy()
        };
        let narrow = narrowed(&policy(), Some(&now));
        assert!(!narrow.allow_push && narrow.trust_mode_callers.is_empty());
        let attempt = of_attempt(&spec, &narrow, "ann");
        assert_eq!((attempt.trust_mode, attempt.max_turns, attempt.timeout_minutes), (false, 2, 60));
        assert_eq!(narrowed(&policy(), None), policy(), "one that was removed goes on");
        let open = ProjectPolicy { trust_mode_callers: vec!["*".into()], ..policy() };
        assert_eq!(narrowed(&open, Some(&now)).trust_mode_callers, ["ben"]);
        assert_eq!(narrowed(&policy(), Some(&open)).trust_mode_callers, ["ann"]);
    }

    proptest! {
        #[test]
        fn nothing_asked_ever_widens_a_policy(
            timeout in 0..200u32, turns in 0..10u32, budget in 0.0..3.0f64, trust: bool,
            most in (0..100u32, 0..8u32, 0.0..2.0f64), later in (0..100u32, 0..8u32, 0.0..2.0f64),
            callers in prop::collection::vec("[abc]|\\*", 0..3),
        ) {
            let policy = ProjectPolicy {
                max_timeout_minutes: most.0, max_turns: most.1, max_budget_usd: most.2,
                trust_mode_callers: callers, ..ProjectPolicy::default()
            };
            let now = ProjectPolicy {
                max_timeout_minutes: later.0, max_turns: later.1, max_budget_usd: later.2, ..policy.clone()
            };
            let mut spec = SessionSpec {
                timeout_minutes: timeout, max_turns: turns, max_budget_usd: budget, trust_mode: trust,
                ..SessionSpec::default()
            };
            if resolve(&policy, "a", &mut spec).is_ok() {
                let attempt = of_attempt(&spec, &narrowed(&policy, Some(&now)), "a");
                for policy in [&policy, &now] {
                    let within = |value: f64, most: f64| most == 0.0 || (value > 0.0 && value <= most);
                    prop_assert!(within(attempt.timeout_minutes.into(), policy.max_timeout_minutes.into()));
                    prop_assert!(within(attempt.max_turns.into(), policy.max_turns.into()));
                    prop_assert!(within(attempt.max_budget_usd, policy.max_budget_usd));
                    prop_assert!(!attempt.trust_mode || allows_trust(policy, "a"));
                }
            }
        }
    }
}
