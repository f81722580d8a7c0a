//! Declared projects: what they let sessions do, who serves them, how long they count.

use muster_controller::StoreKind;
use muster_proto::{
    error::{Error, ErrorCode},
    v1::{project_service_client::ProjectServiceClient, *},
};

use crate::{
    farm::{Farm, answer, refused, spec},
    worker::{FakeWorker, hello, project},
};

pub fn policy(name: &str) -> ProjectPolicy {
    ProjectPolicy {
        name: name.into(),
        git_url: "https://git.example/team/api.git".into(),
        ..ProjectPolicy::default()
    }
}

pub async fn put(farm: &Farm, policy: ProjectPolicy, if_revision: u64) -> Result<PutProjectResponse, Error> {
    let request = PutProjectRequest { policy: Some(policy), if_revision };
    answer(ProjectServiceClient::new(farm.channel()).put_project(request).await)
}

fn clones(name: &str, slots: u32) -> Hello {
    Hello { projects: Vec::new(), serves_declared: true, ..hello(name, slots) }
}

async fn spawned(farm: &Farm, spec: SessionSpec) -> Session {
    farm.try_spawn(spec, "").await.expect("accepted").session.expect("one")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_is_declared_changed_kept_over_a_restart_and_removed() {
    let mut farm = Farm::start().await;
    let client = |farm: &Farm| ProjectServiceClient::new(farm.channel());
    let first = put(&farm, policy("api"), 0).await.expect("declared");
    let there = first.project.expect("what is there");
    assert_eq!((first.replaced, there.revision, there.changed_by.as_str()), (false, 1, "local"));
    let again = put(&farm, policy("api"), 0).await.expect("the same again");
    assert_eq!((again.replaced, again.project.expect("it").revision), (true, 1));
    let changed = ProjectPolicy { max_turns: 5, ..policy("api") };
    refused(put(&farm, changed.clone(), 7).await, ErrorCode::RequestIdConflict);
    assert_eq!(put(&farm, changed.clone(), 1).await.expect("changed").project.expect("it").revision, 2);
    let bad = ProjectPolicy { git_url: "ext::sh -c id".into(), ..policy("api") };
    assert_eq!(refused(put(&farm, bad, 0).await, ErrorCode::InvalidArgument).field, "gitUrl");
    farm.restart().await;
    let get = GetProjectRequest { name: "api".into() };
    let got = answer(client(&farm).get_project(get.clone()).await).expect("kept").project.expect("it");
    assert_eq!(got.policy, Some(changed));
    let listed = answer(client(&farm).list_projects(ListProjectsRequest {}).await).expect("listed");
    assert_eq!(listed.projects, [got]);
    let remove = RemoveProjectRequest { name: "api".into() };
    answer(client(&farm).remove_project(remove.clone()).await).expect("removed");
    refused(answer(client(&farm).remove_project(remove).await), ErrorCode::ProjectNotFound);
    refused(answer(client(&farm).get_project(get).await), ErrorCode::ProjectNotFound);
    let none = SessionSpec { project: "api".into(), ..spec("x") };
    refused(farm.try_spawn(none, "").await, ErrorCode::ProjectNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_gets_less_than_the_policy_and_never_more_also_when_it_changes() {
    let farm = Farm::start_with(|config| config.store = StoreKind::Memory).await;
    let strict = ProjectPolicy {
        max_turns: 5,
        max_timeout_minutes: 60,
        trust_mode_callers: vec!["local".into()],
        disallowed_tools: vec!["WebFetch".into()],
        required_labels: [("os".to_owned(), "linux".to_owned())].into(),
        allow_push: true,
        ..policy("api")
    };
    put(&farm, strict.clone(), 0).await.expect("declared");
    let mut worker = FakeWorker::connect(&farm, clones("w1", 9)).await;
    let too_long = SessionSpec { timeout_minutes: 61, ..spec("x") };
    let error = refused(farm.try_spawn(too_long, "").await, ErrorCode::PolicyRefused);
    assert!(error.field == "timeoutMinutes" && error.message.contains("60"), "{error:?}");
    // The only project there is.
    let asked = SessionSpec { trust_mode: true, max_turns: 3, ..spec("x") };
    let session = farm.try_spawn(asked.clone(), "one").await.expect("accepted").session.expect("one");
    assert!(farm.try_spawn(asked, "one").await.expect("accepted").replayed, "as it was asked");
    let kept = session.spec.expect("a spec");
    assert_eq!((kept.project.as_str(), kept.max_turns, kept.timeout_minutes), ("api", 3, 60));
    assert_eq!(kept.required_labels["os"], "linux");
    let start = worker.start().await;
    assert_eq!(start.policy, Some(strict.clone()));
    assert!(start.spec.as_ref().expect("a spec").trust_mode && start.deadline.is_some());
    worker.work(&start).await;
    worker.end(&start.session_id, 1, EndReason::TurnCompleted, "done").await;
    // What is taken away counts from the next attempt, what is added does not.
    let less = ProjectPolicy {
        max_turns: 2,
        trust_mode_callers: Vec::new(),
        max_timeout_minutes: 90,
        allow_push: false,
        ..strict
    };
    put(&farm, less, 0).await.expect("changed");
    farm.message(&start.session_id, "more").await.expect("taken");
    let next = worker.start().await;
    let spec = next.spec.expect("a spec");
    assert_eq!((spec.trust_mode, spec.max_turns, spec.timeout_minutes), (false, 2, 60));
    let policy = next.policy.expect("a policy");
    assert!(!policy.allow_push && policy.max_timeout_minutes == 60 && policy.trust_mode_callers.is_empty());
    let push = PushBranchRequest { session: start.session_id.clone(), ..PushBranchRequest::default() };
    refused(answer(farm.sessions().push_branch(push).await), ErrorCode::PushNotAllowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_clone_serve_it_older_ones_do_not_and_its_own_cap_holds() {
    let farm = Farm::start_with(|config| config.store = StoreKind::Memory).await;
    put(&farm, ProjectPolicy { max_running: 1, ..policy("api") }, 0).await.expect("declared");
    // Announces a directory of the name, and would not hold its sessions to the policy.
    let old = Hello {
        protocol: Some(ProtocolRange { min: 1, max: 1 }),
        projects: vec![project("api")],
        ..hello("old", 9)
    };
    let _old = FakeWorker::connect(&farm, old).await;
    let plain = Hello { projects: Vec::new(), ..hello("plain", 9) };
    let _plain = FakeWorker::connect(&farm, plain).await;
    let waits = spawned(&farm, spec("x")).await;
    let explain = ExplainSessionRequest { session: waits.session_id.clone() };
    let why = answer(farm.admin().explain_session(explain).await).expect("explained");
    let told: Vec<_> = why.verdicts.iter().map(|verdict| verdict.filter.as_str()).collect();
    assert_eq!(told, ["project", "project"], "{why:?}");
    let mut new = FakeWorker::connect(&farm, clones("new", 9)).await;
    let start = new.start().await;
    assert_eq!(start.session_id, waits.session_id);
    let held = spawned(&farm, spec("y")).await;
    let explain = ExplainSessionRequest { session: held.session_id.clone() };
    let why = answer(farm.admin().explain_session(explain).await).expect("explained");
    assert_eq!(why.held_by, "project_cap");
    new.work(&start).await;
    new.end(&start.session_id, 1, EndReason::TurnCompleted, "done").await;
    assert_eq!(new.start().await.session_id, held.session_id);
    let workers = answer(farm.admin().list_workers(ListWorkersRequest {}).await).expect("listed").workers;
    let new = workers.iter().find(|worker| worker.worker == "new").expect("it");
    assert!(new.serves_declared && new.mirrored_projects == ["api"], "{new:?}");
}
