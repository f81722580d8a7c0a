//! Which role may call what: the one table. `docs/roles.md` is the same table for people.
//!
//! Invariant: an RPC without a row is refused to everybody but admins, and a test fails that holds the table
//! against the descriptors.

use muster_proto::v1::Role;

/// How far a role reaches with an RPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It may not call it.
    Nothing,
    /// What is its own: sessions of its projects, sessions it spawned, or those it runs, by role. Other
    /// sessions do not exist for it.
    Own,
    /// It may call it.
    All,
}

use Reach::{All, Nothing, Own};

/// One RPC: viewer, operator, orchestrator, worker. An admin may call everything.
type Row = (&'static str, [Reach; 4]);

const NOBODY: [Reach; 4] = [Nothing; 4];
const EVERYBODY: [Reach; 4] = [All; 4];
const PEOPLE: [Reach; 4] = [All, All, All, Nothing];
const SEES: [Reach; 4] = [Own, Own, Own, Nothing];
const STEERS: [Reach; 4] = [Nothing, Own, Own, Nothing];
const OPERATES: [Reach; 4] = [Nothing, Own, Nothing, Nothing];
const WORKS: [Reach; 4] = [Nothing, Nothing, Nothing, Own];

/// Without the package `muster.v1`.
const TABLE: [Row; 29] = [
    ("SessionService/SpawnSession", STEERS),
    ("SessionService/GetSession", SEES),
    ("SessionService/ListSessions", SEES),
    ("SessionService/SendInput", STEERS),
    ("SessionService/StopSession", STEERS),
    ("SessionService/ArchiveSession", STEERS),
    ("SessionService/WatchSessions", SEES),
    ("SessionService/ReadOutput", SEES),
    ("SessionService/GetChanges", SEES),
    ("SessionService/FetchBundle", SEES),
    ("SessionService/PushBranch", OPERATES),
    ("AdminService/ListWorkers", PEOPLE),
    ("AdminService/ExplainSession", SEES),
    ("AdminService/CordonWorker", NOBODY),
    ("AdminService/DrainWorker", NOBODY),
    ("AdminService/UncordonWorker", NOBODY),
    ("WorkerService/Connect", WORKS),
    ("WorkerService/PushOutput", WORKS),
    ("WorkerService/AnswerQuery", WORKS),
    ("IdentityService/Enrol", EVERYBODY),
    ("IdentityService/Renew", WORKS),
    ("IdentityService/WhoAmI", EVERYBODY),
    ("IdentityService/CreateJoinToken", NOBODY),
    ("IdentityService/ListJoinTokens", NOBODY),
    ("IdentityService/RevokeJoinToken", NOBODY),
    ("IdentityService/RevokeWorker", NOBODY),
    ("IdentityService/CreateAccess", NOBODY),
    ("IdentityService/ListAccess", NOBODY),
    ("IdentityService/RevokeAccess", NOBODY),
];

/// What anybody may call without being known: whoever enrols is not known yet, and a probe of health tells
/// nothing.
const PUBLIC: [&str; 3] =
    ["/muster.v1.IdentityService/Enrol", "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"];

/// Services beside ours that everybody who is known may call: the schema.
const KNOWN: [&str; 1] = ["/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"];

/// Whether `path` needs no identity.
#[must_use]
pub fn is_public(path: &str) -> bool {
    PUBLIC.contains(&path)
}

/// How far `role` reaches with the RPC at `path`.
#[must_use]
pub fn reach(path: &str, role: Role) -> Reach {
    let column = match role {
        Role::Admin => return All,
        Role::Viewer => 0,
        Role::Operator => 1,
        Role::Orchestrator => 2,
        Role::Worker => 3,
        Role::Unspecified => return Nothing,
    };
    if KNOWN.contains(&path) || is_public(path) {
        return All;
    }
    let row = path.strip_prefix("/muster.v1.").and_then(|rpc| TABLE.iter().find(|row| row.0 == rpc));
    row.map_or(Nothing, |row| row.1[column])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use muster_proto::v1::FILE_DESCRIPTOR_SET;
    use prost::Message as _;

    use super::*;

    /// Every RPC there is, as the table names it.
    fn rpcs() -> BTreeSet<String> {
        let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("it decodes");
        let services = set.file.iter().flat_map(|file| &file.service);
        let rpcs = services.flat_map(|service| {
            service.method.iter().map(move |method| format!("{}/{}", service.name(), method.name()))
        });
        rpcs.collect()
    }

    #[test]
    fn every_rpc_has_exactly_one_row_and_every_row_an_rpc() {
        let rows: Vec<_> = TABLE.iter().map(|row| row.0.to_owned()).collect();
        let distinct: BTreeSet<_> = rows.iter().cloned().collect();
        assert_eq!(distinct.len(), rows.len(), "a row twice");
        assert_eq!(distinct, rpcs(), "left: rows, right: RPCs");
    }

    #[test]
    fn the_table_for_people_is_the_same() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/roles.md"))
            .expect("docs/roles.md");
        let lines = page.lines().filter(|line| line.starts_with("| `"));
        let told: Vec<Vec<String>> = lines
            .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
            .collect();
        let word = |reach: Reach| match reach {
            Nothing => "-",
            Own => "own",
            All => "yes",
        };
        let meant: Vec<Vec<String>> = TABLE
            .iter()
            .map(|(rpc, reach)| {
                let cells = reach.iter().map(|reach| word(*reach).to_owned());
                std::iter::once(format!("`{rpc}`")).chain(cells).chain(["yes".to_owned()]).collect()
            })
            .collect();
        assert_eq!(told, meant);
    }

    #[test]
    fn what_has_no_row_is_for_admins() {
        assert_eq!(reach("/muster.v1.SessionService/Later", Role::Operator), Nothing);
        assert_eq!(reach("/muster.v1.SessionService/Later", Role::Admin), All);
        assert_eq!(reach("/muster.v1.SessionService/GetSession", Role::Unspecified), Nothing);
    }
}
