//! What a session changed: asked of its worker, and handed to the caller as it comes.

use muster_proto::{
    error::{Error, ErrorCode},
    v1::{answer_query_request::Body as Part, connect_response::Body as Down, workspace_query::Ask, *},
};
use muster_runtime::task;
use tonic::Code;

use crate::{
    farm::{Farm, answer, refused},
    worker::{FakeWorker, hello, project},
};

fn ask(session: &str) -> GetChangesRequest {
    GetChangesRequest {
        session: session.into(),
        format: ChangesFormat::Patch.into(),
        paths: vec!["src/a b.rs".into()],
        ..GetChangesRequest::default()
    }
}

fn result(total_bytes: u64) -> Part {
    Part::Result(QueryResult {
        branch: "muster/x".into(),
        base_commit: "abc".into(),
        head_commit: "def".into(),
        work_commit: "fed".into(),
        kept_ref: "refs/muster/x/work".into(),
        files_changed: 2,
        lines_added: 3,
        lines_deleted: 1,
        commits: 1,
        total_bytes,
        remote: String::new(),
    })
}

async fn get(farm: &Farm, request: GetChangesRequest) -> Result<GetChangesResponse, Error> {
    answer(farm.sessions().get_changes(request).await)
}

async fn push(farm: &Farm, session: &str, remote: &str) -> Result<PushBranchResponse, Error> {
    let request = PushBranchRequest { session: session.into(), remote: remote.into() };
    answer(farm.sessions().push_branch(request).await)
}

/// A session that has worked, on a worker with one more slot.
async fn worked(farm: &Farm, allow_push: bool) -> (FakeWorker, String) {
    let hello = Hello { projects: vec![Project { allow_push, ..project("demo") }], ..hello("w1", 2) };
    let mut worker = FakeWorker::connect(farm, hello).await;
    let id = farm.spawn("work").await.session_id;
    worker.play().await;
    (worker, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_come_from_the_worker_page_by_page_and_only_once() {
    let farm = Farm::start().await;
    let (mut worker, id) = worked(&farm, false).await;
    let asking = GetChangesRequest { from_offset: 5, limit_bytes: 7, ..ask(&id) };
    let (got, query) = tokio::join!(get(&farm, asking), async {
        let query = worker.query().await;
        let parts = vec![result(100), Part::Data("+ a".into()), Part::Data("dd\u{e9}".into())];
        worker.reply(&farm, &query.query_id, parts).await.expect("taken");
        query
    });
    let got = got.expect("answered");
    assert_eq!((got.text.as_str(), got.next_offset, got.truncated), ("+ add\u{e9}", 12, true));
    let summary = got.summary.expect("a summary");
    assert_eq!((summary.lines_added, summary.kept_ref.as_str()), (3, "refs/muster/x/work"));
    let changes =
        ChangesQuery { format: 2, paths: vec!["src/a b.rs".into()], from_offset: 5, limit_bytes: 7 };
    assert_eq!(query.ask, Some(Ask::Changes(changes)));
    assert_eq!((query.session_id.as_str(), query.project.as_str()), (id.as_str(), "demo"));
    assert_eq!(query.workspace.expect("a workspace").base_commit, "abc");

    // Asked and answered: nobody waits any more.
    let late = worker.reply(&farm, &query.query_id, vec![result(0)]).await.expect_err("too late");
    assert_eq!(late.code(), Code::NotFound);
    let stranger = FakeWorker::connect(&farm, hello("w2", 1)).await;
    let unknown = stranger.reply(&farm, "1", vec![result(0)]).await.expect_err("unknown");
    assert_eq!(unknown.code(), Code::NotFound);
    let mut unsigned = worker.signed(futures::stream::iter(Vec::new()));
    unsigned.metadata_mut().insert(muster_proto::metadata::INCARNATION, "other".parse().expect("ASCII"));
    let refused = farm.workers().answer_query(unsigned).await.expect_err("not its incarnation");
    assert!(matches!(refused.code(), Code::FailedPrecondition | Code::InvalidArgument), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_comes_whole_or_not_at_all_and_a_slow_caller_holds_up_the_upload() {
    let farm = Farm::start().await;
    let (mut worker, id) = worked(&farm, false).await;
    let whole: Vec<u8> = (0..8_000_000u32).map(|at| (at % 251) as u8).collect();
    let request = FetchBundleRequest { session: id.clone() };
    let uploaded = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut sessions = farm.sessions();
    let (mut stream, [upload]) = tokio::join!(
        async { sessions.fetch_bundle(request.clone()).await.expect("begun").into_inner() },
        async {
            let query = worker.query().await;
            assert_eq!(query.ask, Some(Ask::Bundle(BundleQuery {})));
            let chunks: Vec<_> = whole.chunks(64 << 10).map(<[u8]>::to_vec).collect();
            let counted = uploaded.clone();
            let parts = std::iter::once(result(0)).chain(chunks.into_iter().map(move |chunk| {
                counted.fetch_add(chunk.len(), std::sync::atomic::Ordering::SeqCst);
                Part::Data(chunk.into())
            }));
            let parts = parts.map(move |body| AnswerQueryRequest {
                query_id: query.query_id.clone(),
                body: Some(body),
                ..AnswerQueryRequest::default()
            });
            let request = worker.signed(futures::stream::iter(parts));
            let mut workers = farm.workers();
            [task::spawn("upload", async move { workers.answer_query(request).await })]
        }
    );
    let first = stream.message().await.expect("begun").expect("one");
    assert_eq!(first.summary.expect("a summary").head_commit, "def");
    let mut got = first.data.to_vec();
    let ahead = uploaded.load(std::sync::atomic::Ordering::SeqCst);
    assert!(ahead < whole.len(), "all of it is in memory somewhere: {ahead}");
    while let Some(message) = stream.message().await.expect("it goes on") {
        got.extend_from_slice(&message.data);
    }
    assert!(got == whole, "{} of {} bytes", got.len(), whole.len());
    upload.await.expect("it runs").expect("taken");

    // A worker that breaks off is no end.
    let (mut stream, ()) =
        tokio::join!(async { sessions.fetch_bundle(request).await.expect("begun").into_inner() }, async {
            let query_id = worker.query().await.query_id;
            let message = |body| AnswerQueryRequest {
                query_id: query_id.clone(),
                body: Some(body),
                ..AnswerQueryRequest::default()
            };
            let parts = [message(result(0)), message(Part::Data("half".into())), message(result(0))];
            let request = worker.signed(futures::stream::iter(parts));
            farm.workers().answer_query(request).await.expect_err("nonsense");
        });
    let error = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("half a bundle ended well"),
            Err(status) => break Error::from_status(&status),
        }
    };
    assert_eq!(error.code, ErrorCode::WorkerUnreachable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_needs_the_projects_leave_and_what_git_says_reaches_the_caller() {
    let farm = Farm::start().await;
    let (mut worker, id) = worked(&farm, true).await;
    let (pushed, ()) = tokio::join!(push(&farm, &id, ""), async {
        let query = worker.query().await;
        assert_eq!(query.ask, Some(Ask::Push(PushQuery { remote: "origin".into() })));
        worker.reply(&farm, &query.query_id, vec![result(0)]).await.expect("taken");
    });
    let pushed = pushed.expect("pushed");
    assert_eq!(
        (pushed.remote.as_str(), pushed.branch.as_str(), pushed.commit.as_str()),
        ("origin", "muster/x", "def")
    );
    let (failed, ()) = tokio::join!(push(&farm, &id, "upstream"), async {
        let query_id = worker.query().await.query_id;
        let detail = ErrorDetail {
            code: ErrorCode::GitFailed.into(),
            hint: "Fetch first.".into(),
            ..ErrorDetail::default()
        };
        let refusal = AnswerQueryRequest {
            query_id,
            body: Some(Part::Error(detail)),
            error_message: "remote rejected: non-fast-forward".into(),
        };
        let refusal = worker.signed(futures::stream::iter([refusal]));
        farm.workers().answer_query(refusal).await.expect("taken");
    });
    let failed = refused(failed, ErrorCode::GitFailed);
    assert_eq!(
        (failed.message.as_str(), failed.hint.as_str()),
        ("remote rejected: non-fast-forward", "Fetch first.")
    );
    for remote in ["https://example.com/x.git", "/tmp/x", "../x", "-f", "a b"] {
        assert_eq!(refused(push(&farm, &id, remote).await, ErrorCode::InvalidArgument).field, "remote");
    }
    let farm = Farm::start().await;
    let (_worker, id) = worked(&farm, false).await;
    refused(push(&farm, &id, "").await, ErrorCode::PushNotAllowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_work_or_worker_there_is_nothing_to_ask() {
    let farm = Farm::start().await;
    let (mut worker, id) = worked(&farm, false).await;
    let bad = [
        (GetChangesRequest { format: 9, ..ask(&id) }, "format"),
        (GetChangesRequest { format: 0, ..ask(&id) }, "format"),
        (GetChangesRequest { paths: vec!["x".into(); 257], ..ask(&id) }, "paths"),
        (GetChangesRequest { paths: vec!["x".repeat(4097)], ..ask(&id) }, "paths"),
        (GetChangesRequest { paths: vec!["a\0b".into()], ..ask(&id) }, "paths"),
        (GetChangesRequest { limit_bytes: (1 << 20) + 1, ..ask(&id) }, "limitBytes"),
    ];
    for (request, field) in bad {
        assert_eq!(refused(get(&farm, request).await, ErrorCode::InvalidArgument).field, field);
    }
    refused(get(&farm, ask("nobody-here")).await, ErrorCode::SessionNotFound);
    let fresh = farm.spawn("not yet").await.session_id;
    refused(get(&farm, ask(&fresh)).await, ErrorCode::NoChangesKept);
    worker.start().await;
    let fresh = get(&farm, ask(&fresh)).await;
    refused(fresh, ErrorCode::NoChangesKept);

    // A worker that goes while it is asked.
    let (gone, ()) = tokio::join!(get(&farm, ask(&id)), async {
        worker.query().await;
        drop(worker);
    });
    assert!(refused(gone, ErrorCode::WorkerUnreachable).retryable());
    refused(get(&farm, ask(&id)).await, ErrorCode::WorkerUnreachable);

    // A caller that goes while it asks: the worker is told to drop it.
    let mut worker = FakeWorker::connect(&farm, hello("w1", 2)).await;
    let mut sessions = farm.sessions();
    let asking = ask(&id);
    let caller = task::spawn("caller", async move { sessions.get_changes(asking).await });
    let query = loop {
        if let Down::Query(query) = worker.command().await {
            break query;
        }
    };
    drop(caller);
    let forgotten = async {
        // An answer may still overtake the news that the caller has gone.
        while let Ok(()) = worker.reply(&farm, &query.query_id, vec![result(0)]).await {}
    };
    tokio::time::timeout(crate::farm::PATIENCE, forgotten).await.expect("forgotten in time");
}
