//! A machine becomes a worker with one line, and stays one.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, SystemTime},
};

use muster_worker::{
    Controller as Way, StartError, Worker,
    join::{self, JoinError, JoinOptions, Membership},
};

use crate::{
    farm::{Farm, make_root},
    support::{Controller, Machine, start_order, until},
};

fn options(machine: &Machine, name: &str) -> JoinOptions {
    JoinOptions { state_dir: machine.state.clone(), name: name.parse().expect("a name") }
}

async fn joined(farm: &Farm, controller: &Controller) -> Machine {
    let mut machine = Machine::new(controller);
    join::join(&farm.token(), &options(&machine, "w1")).await.expect("joined");
    machine.config.controller = Way::Joined;
    machine
}

fn member(machine: &Machine) -> Membership {
    Membership::load(&machine.state).expect("readable").expect("there")
}

#[tokio::test]
async fn a_machine_joins_works_over_tls_and_finds_its_identity_again() {
    let controller = Controller::start().await;
    let farm = Farm::start(&controller).await;
    let mut machine = joined(&farm, &controller).await;
    let file = machine.state.join("identity/member.json");
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    assert!(!fs::read_to_string(&file).expect("text").contains("s3cr3t"), "the token is kept nowhere");
    for attempt in [1, 2] {
        machine.start().await;
        controller.until("a hello", |seen| (seen.hellos.len() >= attempt).then_some(())).await;
        let start = start_order(&format!("joined-abcde{attempt}"), "say hello");
        controller.start_session(&start).await;
        let ended = controller.ended(&start).await;
        assert_eq!(controller.output(&start, &ended).await.len() as u64, ended.spool_end_offset);
        machine.leave().await;
    }
    machine.config.name = "other".parse().expect("a name");
    let error = Worker::start(machine.config.clone(), muster_runtime::shutdown::Shutdown::new()).await;
    assert!(matches!(error.err(), Some(StartError::OtherName { .. })));
}

#[tokio::test]
async fn a_lost_answer_costs_nothing_and_the_same_key_is_sent_again() {
    let controller = Controller::start().await;
    let farm = Farm::start(&controller).await;
    let machine = Machine::new(&controller);
    farm.state(|state| state.lose_answers = 1);
    let error = join::join(&farm.token(), &options(&machine, "w1")).await.expect_err("lost");
    assert!(matches!(error, JoinError::Unreachable(..)), "{error}");
    assert!(error.to_string().contains("run the same command again"), "{error}");
    join::join(&farm.token(), &options(&machine, "w1")).await.expect("joined");
    // Once more, as somebody does who is not sure: still the same machine.
    join::join(&farm.token(), &options(&machine, "w1")).await.expect("joined");
    assert_eq!(farm.state(|state| state.seen.len()), 1);
}

#[tokio::test]
async fn refusals_say_what_to_do_and_another_farm_is_told_nothing() {
    let controller = Controller::start().await;
    let farm = Farm::start(&controller).await;
    let machine = Machine::new(&controller);
    let options = options(&machine, "w1");
    let wrong = farm.token().replace("s3cr3t", "guessed");
    let error = join::join(&wrong, &options).await.expect_err("refused");
    assert!(
        matches!(error, JoinError::Refused) && error.to_string().contains("muster token create"),
        "{error}"
    );
    let taken = JoinOptions { name: "taken".parse().expect("a name"), ..options.clone() };
    let error = join::join(&farm.token(), &taken).await.expect_err("taken");
    assert!(matches!(error, JoinError::NameTaken(_)) && error.to_string().contains("--name"), "{error}");
    let other = Farm::start(&controller).await;
    let (secret, rest) =
        farm.token().split_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("a pin");
    let (pin, _) = rest.split_once('@').expect("an address");
    let astray = format!("{secret}.{pin}@{}", other.addr);
    let error = join::join(&astray, &options).await.expect_err("not this farm");
    assert!(matches!(error, JoinError::OtherFarm(_)), "{error}");
    assert!(other.state(|state| state.seen.is_empty()));
    let nobody = format!("{secret}.{pin}@127.0.0.1:1");
    let error = join::join(&nobody, &options).await.expect_err("nobody there");
    assert!(matches!(error, JoinError::Unreachable(..)), "{error}");
    assert!(join::join("mustjoin_x", &options).await.is_err());
    assert!(!join::has_joined(&machine.state));
    let mut config = machine.config.clone();
    config.controller = Way::Joined;
    let error =
        Worker::start(config, muster_runtime::shutdown::Shutdown::new()).await.err().expect("not joined");
    assert!(error.to_string().contains("muster worker join"), "{error}");
}

#[tokio::test]
async fn certificates_are_renewed_under_a_link_that_stays() {
    let controller = Controller::start().await;
    let farm = Farm::start(&controller).await;
    farm.state(|state| state.life = Duration::from_secs(2));
    let mut machine = joined(&farm, &controller).await;
    let next_root = make_root("the next root").der().to_vec();
    farm.state(|state| state.more_roots = vec![next_root]);
    let first = member(&machine);
    machine.start().await;
    controller.until("a worker", |seen| (!seen.hellos.is_empty()).then_some(())).await;
    until("three renewals", || farm.state(|state| state.renewals) >= 3).await;
    farm.state(|state| state.life = Duration::from_secs(3600));
    let renewals = farm.state(|state| state.renewals);
    until("a long one", || farm.state(|state| state.renewals) > renewals).await;
    until("stored", || member(&machine) != first).await;
    assert_eq!(controller.until("hellos", |seen| Some(seen.hellos.len())).await, 1, "the link was not lost");
    // A session's output and a question take calls of their own: with the newest certificate.
    let start = start_order("renewed-abcdef", "say hello");
    controller.start_session(&start).await;
    controller.ended(&start).await;
    let text = fs::read_to_string(machine.state.join("identity/member.json")).expect("there");
    let stored: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(stored["roots"].as_array().expect("a list").len(), 2, "it heard of the next root");
    assert!(farm.state(|state| state.seen.len()) > 3, "each renewal has a key of its own");
}

#[tokio::test]
async fn an_answer_lost_while_renewing_does_not_lose_the_worker() {
    let controller = Controller::start().await;
    let farm = Farm::start(&controller).await;
    farm.state(|state| (state.life, state.lose_answers) = (Duration::from_secs(2), 0));
    let mut machine = joined(&farm, &controller).await;
    farm.state(|state| state.lose_answers = 3);
    machine.start().await;
    until("renewed all the same", || farm.state(|state| state.renewals) >= 2).await;
    assert!(farm.state(|state| state.seen.len()) <= 1 + 3, "the key whose answer was lost is sent again");
}

#[tokio::test]
async fn a_revoked_worker_keeps_its_sessions_and_is_taken_back_while_it_runs() {
    let controller = Controller::start().await;
    let farm = Farm::start(&controller).await;
    let mut machine = joined(&farm, &controller).await;
    machine.start().await;
    let start = start_order("revoked-abcdef", "permission touch x");
    controller.start_session(&start).await;
    let attention = controller.attention(&start).await;
    farm.state(|state| state.revoked = true);
    controller.hang_up();
    let again = join::join(&farm.token(), &options(&machine, "w1")).await.expect("joined again");
    assert_eq!(again.worker.as_str(), "w1");
    controller.until("it is back", |seen| (seen.hellos.len() >= 2).then_some(())).await;
    let answer = crate::support::answer(&attention, muster_proto::v1::Decision::Deny, "no");
    controller.input(&start, 2, answer).await;
    controller.ended(&start).await;
}

#[tokio::test]
async fn a_worker_that_is_there_twice_keeps_its_sessions_and_comes_back() {
    let controller = Controller::start().await;
    let mut machine = Machine::new(&controller);
    machine.config.timing.duplicate_retry = Duration::from_millis(200);
    machine.start().await;
    let start = start_order("twice-abcdef", "permission touch x");
    controller.start_session(&start).await;
    let attention = controller.attention(&start).await;
    controller.seen.lock().expect("no test panicked").duplicates = Some(0);
    controller.hang_up();
    controller.until("it was refused twice", |seen| (seen.duplicates >= Some(2)).then_some(())).await;
    controller.seen.lock().expect("no test panicked").duplicates = None;
    controller.until("it is back", |seen| (seen.hellos.len() >= 2).then_some(())).await;
    let answer = crate::support::answer(&attention, muster_proto::v1::Decision::Deny, "no");
    controller.input(&start, 2, answer).await;
    controller.ended(&start).await;
}

#[tokio::test]
async fn clocks_that_are_hours_apart_do_not_keep_a_machine_out() {
    let controller = Controller::start().await;
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    for (from, until) in [(now + 2 * hour, now + 100 * hour), (now - 100 * hour, now - 2 * hour)] {
        let farm = Farm::start_dated(&controller, from, until).await;
        let mut machine = joined(&farm, &controller).await;
        let before = controller.until("hellos", |seen| Some(seen.hellos.len())).await;
        machine.start().await;
        controller.until("a hello", |seen| (seen.hellos.len() > before).then_some(())).await;
    }
    let farm = Farm::start_dated(&controller, now + 30 * hour, now + 100 * hour).await;
    let machine = Machine::new(&controller);
    let error = join::join(&farm.token(), &options(&machine, "w1")).await.expect_err("more than a day");
    assert!(error.to_string().contains("set the clocks"), "{error}");
}
