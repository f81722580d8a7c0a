//! Which role may call what: the one table. `docs/roles.md` is the same table for people.
//!
//! Invariant: an RPC without a row is refused to everybody but admins, and a test fails that holds the table
//! against the descriptors.

use muster_proto::v1::Role;

/// How far a role reaches with an RPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

/// The scope of an access token that an RPC needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// None.
    Nothing,
    /// `read`
    Read,
    /// `write`
    Write,
}

/// One RPC: viewer, operator, orchestrator, worker, and the scope it needs. An admin may call everything.
type Row = (&'static str, [Reach; 4], Need);

const NOBODY: [Reach; 4] = [Nothing; 4];
const EVERYBODY: [Reach; 4] = [All; 4];
const PEOPLE: [Reach; 4] = [All, All, All, Nothing];
const SEES: [Reach; 4] = [Own, Own, Own, Nothing];
const STEERS: [Reach; 4] = [Nothing, Own, Own, Nothing];
const OPERATES: [Reach; 4] = [Nothing, Own, Nothing, Nothing];
const WORKS: [Reach; 4] = [Nothing, Nothing, Nothing, Own];
const GATEWAYS: [Reach; 4] = [Nothing, Nothing, All, Nothing];

/// Without the package `muster.v1`.
const TABLE: [Row; 38] = [
    ("SessionService/SpawnSession", STEERS, Need::Write),
    ("SessionService/GetSession", SEES, Need::Read),
    ("SessionService/ListSessions", SEES, Need::Read),
    ("SessionService/SendInput", STEERS, Need::Write),
    ("SessionService/StopSession", STEERS, Need::Write),
    ("SessionService/ArchiveSession", STEERS, Need::Write),
    ("SessionService/WatchSessions", SEES, Need::Read),
    ("SessionService/ReadOutput", SEES, Need::Read),
    ("SessionService/GetChanges", SEES, Need::Read),
    ("SessionService/FetchBundle", SEES, Need::Read),
    ("SessionService/PushBranch", OPERATES, Need::Write),
    ("AdminService/ListWorkers", PEOPLE, Need::Read),
    ("AdminService/ExplainSession", SEES, Need::Read),
    ("AdminService/CordonWorker", NOBODY, Need::Write),
    ("AdminService/DrainWorker", NOBODY, Need::Write),
    ("AdminService/UncordonWorker", NOBODY, Need::Write),
    ("WorkerService/Connect", WORKS, Need::Nothing),
    ("WorkerService/PushOutput", WORKS, Need::Nothing),
    ("WorkerService/AnswerQuery", WORKS, Need::Nothing),
    ("IdentityService/Enrol", EVERYBODY, Need::Nothing),
    ("IdentityService/Renew", WORKS, Need::Nothing),
    ("IdentityService/WhoAmI", EVERYBODY, Need::Nothing),
    ("IdentityService/CheckAccess", GATEWAYS, Need::Read),
    ("IdentityService/CreateJoinToken", NOBODY, Need::Write),
    ("IdentityService/ListJoinTokens", NOBODY, Need::Read),
    ("IdentityService/RevokeJoinToken", NOBODY, Need::Write),
    ("IdentityService/RevokeWorker", NOBODY, Need::Write),
    ("IdentityService/CreateAccess", NOBODY, Need::Write),
    ("IdentityService/ListAccess", NOBODY, Need::Read),
    ("IdentityService/RevokeAccess", NOBODY, Need::Write),
    ("ProjectService/PutProject", NOBODY, Need::Write),
    ("ProjectService/GetProject", SEES, Need::Read),
    ("ProjectService/ListProjects", SEES, Need::Read),
    ("ProjectService/RemoveProject", NOBODY, Need::Write),
    ("TaskService/CreateTask", SEES, Need::Read),
    ("TaskService/GetTask", SEES, Need::Read),
    ("TaskService/UpdateTask", SEES, Need::Read),
    ("AuditService/ReadAudit", NOBODY, Need::Read),
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
    row(path).map_or(Nothing, |row| row.1[column])
}

/// The scope that the RPC at `path` needs. One without a row is taken to change something.
#[must_use]
pub fn need(path: &str) -> Need {
    if KNOWN.contains(&path) || is_public(path) {
        return Need::Nothing;
    }
    row(path).map_or(Need::Write, |row| row.2)
}

fn row(path: &str) -> Option<&'static Row> {
    path.strip_prefix("/muster.v1.").and_then(|rpc| TABLE.iter().find(|row| row.0 == rpc))
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
            .map(|(rpc, reach, need)| {
                let cells = reach.iter().map(|reach| word(*reach).to_owned());
                let scope = match need {
                    Need::Nothing => "-",
                    Need::Read => "read",
                    Need::Write => "write",
                };
                let last = ["yes".to_owned(), scope.to_owned()];
                std::iter::once(format!("`{rpc}`")).chain(cells).chain(last).collect()
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
