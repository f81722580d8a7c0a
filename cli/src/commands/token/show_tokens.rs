//! Tokens of both kinds as rows of one table and as JSON. Pure.

use std::{collections::BTreeMap, time::SystemTime};

use muster_proto::{
    time,
    v1::{Access, JoinToken},
};
use serde_json::{Value, json};

use crate::{
    output::{Cell, Table, Tone},
    show::{self, Timestamp},
};

/// Whether a token still counts, in a word.
fn state(revoked: bool, used_up: bool, expires_at: Option<&Timestamp>, now: SystemTime) -> &'static str {
    match (revoked, used_up) {
        (true, _) => "revoked",
        (_, true) => "used",
        _ if expires_at.is_some_and(|end| time::to_system(end) <= now) => "expired",
        _ => "valid",
    }
}

/// A row a token. A join token is of the role `worker`, which no access token has.
pub fn table(people: &[Access], machines: &[JoinToken], now: SystemTime) -> Table {
    let mut table =
        Table::new(&["ID", "NAME", "ROLE", "CREATED", "EXPIRES", "STATE", "SCOPES", "PROJECTS OR LABELS"]);
    let expiry = |at: Option<&Timestamp>| Cell::new(&show::second(at)).plain(&show::moment(at));
    let state_cell =
        |state: &str| Cell::new(state).tone(if state == "valid" { Tone::Good } else { Tone::Faint });
    for token in people {
        table.row(vec![
            Cell::new(&token.id),
            Cell::new(&token.name),
            Cell::new(&show::role(token.role())),
            Cell::new(&show::age(token.created_at.as_ref(), now))
                .plain(&show::moment(token.created_at.as_ref())),
            expiry(token.expires_at.as_ref()),
            state_cell(state(token.revoked, false, token.expires_at.as_ref(), now)),
            Cell::new(&token.scopes.join(" ")),
            Cell::new(&token.projects.join(" ")),
        ]);
    }
    for token in machines {
        let labels: BTreeMap<_, _> = token.labels.iter().collect();
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        table.row(vec![
            Cell::new(&token.id),
            Cell::new(&token.worker),
            Cell::new("worker"),
            Cell::default(),
            expiry(token.expires_at.as_ref()),
            state_cell(state(token.revoked, token.used >= token.uses, token.expires_at.as_ref(), now)),
            Cell::new(&format!("{}/{} used", token.used, token.uses)),
            Cell::new(&labels.join(" ")),
        ]);
    }
    table
}

/// An access token as docs/cli.md has it.
pub fn access(access: &Access) -> Value {
    json!({
        "kind": "access",
        "id": access.id,
        "name": access.name,
        "role": show::role(access.role()),
        "projects": access.projects,
        "scopes": access.scopes,
        "session": Some(&access.session).filter(|session| !session.is_empty()),
        "createdAt": access.created_at.as_ref().map(ToString::to_string),
        "expiresAt": access.expires_at.as_ref().map(ToString::to_string),
        "revoked": access.revoked,
    })
}

/// A join token as docs/cli.md has it.
pub fn join(token: &JoinToken) -> Value {
    let labels: BTreeMap<_, _> = token.labels.iter().collect();
    json!({
        "kind": "join",
        "id": token.id,
        "name": Some(&token.worker).filter(|worker| !worker.is_empty()),
        "role": "worker",
        "labels": labels,
        "uses": token.uses,
        "used": token.used,
        "expiresAt": token.expires_at.as_ref().map(ToString::to_string),
        "revoked": token.revoked,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_counts_no_more_says_why() {
        let now = SystemTime::now();
        let past = time::from_system(now - std::time::Duration::from_secs(1));
        assert_eq!(state(false, false, None, now), "valid");
        assert_eq!(state(true, true, Some(&past), now), "revoked");
        assert_eq!(state(false, true, Some(&past), now), "used");
        assert_eq!(state(false, false, Some(&past), now), "expired");
    }

    #[test]
    fn both_kinds_are_rows_of_one_table() {
        let mut person = Access { id: "a1".into(), name: "ada".into(), ..Access::default() };
        person.set_role(muster_proto::v1::Role::Viewer);
        let machine = JoinToken {
            id: "j1".into(),
            uses: 2,
            used: 1,
            labels: [("zone".into(), "b".into()), ("gpu".into(), "yes".into())].into(),
            ..JoinToken::default()
        };
        assert_eq!(
            table(&[person], &[machine], SystemTime::now()).to_columns(),
            "a1\tada\tviewer\t\t\tvalid\t\t\nj1\t\tworker\t\t\tvalid\t1/2 used\tgpu=yes zone=b\n"
        );
    }
}
