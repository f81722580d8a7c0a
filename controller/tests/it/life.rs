//! One session from spawn to archive, and what callers may do on the way.

use muster_proto::{
    error::ErrorCode,
    v1::{connect_response::Body as Down, send_input_request::Input, session_event::Body as Event, *},
};

use crate::{
    farm::{Farm, refused, spec},
    worker::{FakeWorker, hello, permission, question},
};

fn allow(attention_id: &str) -> Input {
    Input::Answer(Answer {
        attention_id: attention_id.into(),
        decision: Decision::Allow.into(),
        ..Answer::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn spawn_ask_answer_complete_message_resume_archive() {
    let farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 2)).await;
    let spawned = farm.spawn("Fix the login").await;
    let id = spawned.session_id.as_str();
    assert!(spawned.handle.starts_with("fix-the-login-"));
    assert_eq!(spawned.spec.as_ref().expect("a spec").project, "demo", "the only project is filled in");

    let start = worker.start().await;
    assert_eq!((start.attempt, start.resume, start.inputs.len()), (1, false, 1));
    assert_eq!(
        start.inputs[0],
        muster_proto::v1::Input { seq: 1, body: Some(input::Body::Message("Fix the login".into())) }
    );
    worker.work(&start).await;
    let working = farm.get(&spawned.handle).await;
    assert_eq!(working.status(), SessionStatus::Working);
    assert_eq!((working.pending_inputs, working.worker.as_str()), (0, "w1"));
    assert_eq!(working.workspace.expect("a workspace").branch, format!("muster/{}", spawned.handle));

    worker.ask(id, 1, permission("a10")).await;
    let asking = farm.until_status(id, SessionStatus::NeedsAttention).await;
    assert_eq!(asking.attention.as_ref().expect("an attention").attention_id, "a10");
    assert!(asking.attention.expect("an attention").since.is_some());
    let error = refused(farm.message(id, "go on").await, ErrorCode::AttentionPending);
    assert!(error.hint.contains("a10") && error.hint.contains("decision"), "{error:?}");

    let answered = farm.input(id, "r1", allow("")).await.expect("accepted");
    assert_eq!((answered.delivery(), answered.replayed), (Delivery::Now, false));
    assert_eq!(answered.session.expect("a session").status(), SessionStatus::Working);
    let again = farm.input(id, "r1", allow("")).await.expect("accepted");
    assert_eq!((again.delivery(), again.replayed), (Delivery::Now, true));
    refused(farm.input(id, "r1", allow("a11")).await, ErrorCode::RequestIdConflict);
    let stale = refused(farm.input(id, "", allow("a10")).await, ErrorCode::AttentionStale);
    assert!(stale.message.contains("already answered: allow"), "{stale:?}");
    let given = worker.input().await;
    let body = given.input.expect("an input");
    assert_eq!(body.seq, 2);
    assert!(matches!(body.body, Some(input::Body::Answer(answer)) if answer.attention_id == "a10"));
    worker.applied(id, 1, 2).await;
    worker.report(id, 1, Event::AttentionCleared(AttentionCleared { attention_id: "a10".into() })).await;

    worker.end(id, 1, EndReason::TurnCompleted, "all done").await;
    let completed = farm.get(id).await;
    assert_eq!(completed.status(), SessionStatus::Completed);
    assert_eq!(completed.result_text, "all done");
    assert_eq!(completed.end.expect("an end").reason(), EndReason::TurnCompleted);
    assert!(completed.ended_at.is_some());

    assert_eq!(farm.message(id, "and now the tests").await.expect("accepted"), Delivery::NextAttempt);
    let start = worker.start().await;
    assert_eq!((start.attempt, start.resume, start.inputs[0].seq), (2, true, 3));
    assert_eq!(start.workspace.as_ref().expect("a workspace").path, format!("/work/{}", spawned.handle));
    worker.work(&start).await;
    worker.end(id, 2, EndReason::TurnCompleted, "tested").await;
    let completed = farm.get(id).await;
    let usage = completed.usage.expect("usage");
    assert_eq!((usage.turns, usage.input_tokens), (2, 20), "sums over the attempts");

    let (archived, ()) = tokio::join!(farm.archive(id), async {
        match worker.command().await {
            Down::Release(release) => {
                let workspace =
                    Workspace { kept_ref: "refs/muster/x".into(), ..release.workspace.expect("one") };
                let released = WorkspaceReleased { workspace: Some(workspace), error: String::new() };
                worker.report(id, 2, Event::WorkspaceReleased(released)).await;
            }
            other => panic!("not a release: {other:?}"),
        }
    });
    let archived = archived.expect("archived");
    assert!(archived.changed);
    let workspace = archived.session.expect("a session").workspace.expect("a workspace");
    assert_eq!((workspace.state(), workspace.kept_ref.as_str()), (WorkspaceState::Released, "refs/muster/x"));
    assert!(!farm.archive(id).await.expect("archived").changed);
    refused(farm.message(id, "more").await, ErrorCode::SessionEnded);
    assert!(farm.list(ListSessionsRequest::default()).await.sessions.is_empty());
    let all = ListSessionsRequest { include_archived: true, ..ListSessionsRequest::default() };
    assert_eq!(farm.list(all).await.sessions.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spawn_is_idempotent_by_its_request_id() {
    let farm = Farm::start().await;
    let _worker = FakeWorker::connect(&farm, hello("w1", 8)).await;
    let many = (0..16).map(|_| farm.try_spawn(spec("once"), "key 1"));
    let answers: Vec<_> =
        futures::future::join_all(many).await.into_iter().map(|a| a.expect("accepted")).collect();
    let ids: std::collections::HashSet<_> =
        answers.iter().map(|a| a.session.as_ref().expect("a session").session_id.clone()).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    let error = refused(farm.try_spawn(spec("twice"), "key 1").await, ErrorCode::RequestIdConflict);
    assert_eq!(error.field, "requestId");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_to_a_working_session_wait_and_what_is_left_starts_the_next_attempt() {
    let farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let id = farm.spawn("first").await.session_id;
    let start = worker.start().await;
    worker.work(&start).await;
    for text in ["second", "third"] {
        assert_eq!(farm.message(&id, text).await.expect("accepted"), Delivery::AfterTurn);
    }
    assert_eq!(worker.input().await.input.expect("an input").seq, 2);
    assert_eq!(worker.input().await.input.expect("an input").seq, 3);
    assert_eq!(farm.get(&id).await.pending_inputs, 2);
    worker.applied(&id, 1, 2).await;
    worker.end(&id, 1, EndReason::TurnCompleted, "").await;
    let start = worker.start().await;
    assert_eq!((start.attempt, start.inputs.len(), start.inputs[0].seq), (2, 1, 3));
    // It fails before it takes anything: it must not come back for ever.
    worker.end(&id, 2, EndReason::StartFailed, "").await;
    let failed = farm.get(&id).await;
    assert_eq!((failed.status(), failed.pending_inputs), (SessionStatus::Failed, 1));
    assert_eq!(farm.message(&id, "fourth").await.expect("accepted"), Delivery::NextAttempt);
    let start = worker.start().await;
    assert_eq!(start.inputs.iter().map(|input| input.seq).collect::<Vec<_>>(), [3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupts_reach_a_turn_and_nothing_else() {
    let farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let id = farm.spawn("work").await.session_id;
    let start = worker.start().await;
    worker.work(&start).await;
    let interrupted = farm.input(&id, "", Input::Interrupt(true)).await.expect("accepted");
    assert_eq!(interrupted.delivery(), Delivery::Now);
    assert!(matches!(worker.input().await.input.expect("one").body, Some(input::Body::Interrupt(true))));
    worker.end(&id, 1, EndReason::Interrupted, "").await;
    let ended = farm.get(&id).await;
    assert_eq!(ended.status(), SessionStatus::Completed);
    assert_eq!(ended.end.expect("an end").reason(), EndReason::Interrupted);
    let nothing = farm.input(&id, "", Input::Interrupt(true)).await.expect("accepted");
    assert_eq!(nothing.delivery(), Delivery::Nothing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_works_in_every_phase_and_is_never_undone() {
    let farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let id = farm.spawn("work").await.session_id;
    let waiting = farm.spawn("waits").await.session_id;
    let start = worker.start().await;

    let stopped = farm.stop(&waiting).await;
    assert!(stopped.changed);
    let session = stopped.session.expect("a session");
    assert_eq!(session.status(), SessionStatus::Stopped);
    assert_eq!(session.end.expect("an end").message, "stopped on request: enough");
    assert!(!farm.stop(&waiting).await.changed);
    refused(farm.message(&waiting, "go").await, ErrorCode::SessionEnded);

    worker.work(&start).await;
    worker.ask(&id, 1, permission("a1")).await;
    refused(farm.archive(&id).await, ErrorCode::SessionRunning);
    let stopping = farm.stop(&id).await.session.expect("a session");
    assert!(stopping.stopping && stopping.attention.is_none());
    refused(farm.input(&id, "", allow("a1")).await, ErrorCode::SessionEnded);
    refused(farm.message(&id, "go").await, ErrorCode::SessionEnded);
    assert!(matches!(worker.command().await, Down::Stop(stop) if stop.attempt == 1));
    // The link breaks before it is done: the order comes again.
    let held =
        HeldSession { session_id: id.clone(), attempt: 1, running: true, spool_end_offset: 0, last_input: 1 };
    let mut worker = worker.reconnect(&farm, vec![held]).await;
    assert!(matches!(worker.command().await, Down::Stop(stop) if stop.session_id == id));
    worker.end(&id, 1, EndReason::TurnCompleted, "").await;
    let session = farm.get(&id).await;
    assert_eq!((session.status(), session.stopping), (SessionStatus::Stopped, false));
    assert_eq!(session.end.expect("an end").reason(), EndReason::Stopped);

    let done = farm.spawn("quick").await.session_id;
    worker.play().await;
    assert!(!farm.stop(&done).await.changed);
    assert_eq!(farm.get(&done).await.status(), SessionStatus::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_checked_against_what_is_asked() {
    let farm = Farm::start().await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let id = farm.spawn("work").await.session_id;
    let start = worker.start().await;
    worker.work(&start).await;
    refused(farm.input(&id, "", allow("")).await, ErrorCode::AttentionStale);
    worker.ask(&id, 1, question("a5", "Which way?")).await;
    worker.ask(&id, 1, permission("a9")).await;
    let asking = farm.get(&id).await;
    assert_eq!((asking.open_attentions, asking.attention.expect("one").attention_id.as_str()), (2, "a5"));
    let answers = |question: &str| {
        Input::Answer(Answer {
            answers: [(question.to_owned(), "left".to_owned())].into(),
            ..Answer::default()
        })
    };
    let error = refused(farm.input(&id, "", answers("What?")).await, ErrorCode::InvalidArgument);
    assert!(error.field == "answers" && error.hint.contains("Which way?"), "{error:?}");
    farm.input(&id, "", answers("Which way?")).await.expect("accepted");
    assert_eq!(farm.get(&id).await.attention.expect("the next").attention_id, "a9");
    farm.input(&id, "", allow("a9")).await.expect("accepted");
    assert_eq!(farm.get(&id).await.status(), SessionStatus::Working);
    let withdrawn = AttentionCleared { attention_id: "a77".into() };
    worker.ask(&id, 1, permission("a77")).await;
    worker.report(&id, 1, Event::AttentionCleared(withdrawn)).await;
    let error = refused(farm.input(&id, "", allow("a77")).await, ErrorCode::AttentionStale);
    assert!(error.message.contains("withdrawn"), "{error:?}");
}
