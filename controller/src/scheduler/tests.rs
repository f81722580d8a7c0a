use proptest::prelude::*;

use super::*;

const MINUTE: i64 = 60_000;

/// What a test says of a worker; the rest is plain.
#[derive(Debug, Clone)]
struct Shape {
    connected: bool,
    slots: u32,
    active: u32,
    project: &'static str,
    trust: bool,
}

const fn shape(connected: bool, slots: u32, active: u32, serves: bool, trust: bool) -> Shape {
    Shape { connected, slots, active, project: if serves { "p" } else { "q" }, trust }
}

struct Farm {
    names: Vec<WorkerId>,
    labels: Vec<HashMap<String, String>>,
    projects: Vec<BTreeMap<String, bool>>,
    mirrored: BTreeSet<String>,
    shapes: Vec<Shape>,
}

impl Farm {
    fn new(shapes: &[Shape]) -> Self {
        let label = |n: usize| HashMap::from([("even".to_owned(), n.is_multiple_of(2).to_string())]);
        Self {
            names: (0..shapes.len()).map(|n| format!("w{n:02}").parse().expect("a name")).collect(),
            labels: (0..shapes.len()).map(label).collect(),
            projects: shapes.iter().map(|s| BTreeMap::from([(s.project.to_owned(), s.trust)])).collect(),
            mirrored: BTreeSet::new(),
            shapes: shapes.to_vec(),
        }
    }

    fn candidates(&self) -> Vec<Candidate<'_>> {
        let candidate = |n: usize| Candidate {
            worker: &self.names[n],
            connected: self.shapes[n].connected,
            maintenance: None,
            slots: self.shapes[n].slots,
            active: self.shapes[n].active,
            starting: 0,
            starts_at_once: 0,
            memory: None,
            memory_per_session: 0,
            disk: None,
            disk_reserve: 0,
            failures: 0,
            labels: &self.labels[n],
            projects: &self.projects[n],
            protocol: 2,
            serves_declared: false,
            mirrored: &self.mirrored,
            leased: true,
        };
        (0..self.names.len()).map(candidate).collect()
    }
}

fn none() -> HashMap<String, String> {
    HashMap::new()
}

/// The `ticket`th of a queue.
fn request<'a>(
    ticket: u64,
    labels: &'a HashMap<String, String>,
    trust: bool,
    pinned: Option<&str>,
) -> Request<'a> {
    Request {
        session: SessionId::generate(),
        ticket,
        since: 0,
        priority: 0,
        caller: "somebody",
        project: "p",
        trust,
        declared: false,
        cloneable: false,
        lease_bound: false,
        fenced: &[],
        project_max: None,
        labels,
        pinned: pinned.map(|name| name.parse().expect("a name")),
        quarantined: false,
    }
}

fn place(queue: &[Request<'_>], fleet: &mut [Candidate<'_>]) -> Vec<Placement> {
    plan(queue, fleet, &mut Usage::default(), &Policy::default(), 0)
}

fn told(request: &Request<'_>, fleet: &[Candidate<'_>]) -> Why {
    why(request, fleet, &Usage::default(), &Policy::default(), 0)
}

#[test]
fn the_emptiest_worker_gets_it_and_the_name_breaks_ties() {
    let farm = Farm::new(&[
        shape(true, 4, 2, true, true),
        shape(true, 2, 0, true, true),
        shape(true, 2, 0, true, true),
    ]);
    let labels = none();
    let queue: Vec<_> = (0..7).map(|n| request(n, &labels, false, None)).collect();
    let placed: Vec<_> =
        place(&queue, &mut farm.candidates()).into_iter().map(|(_, w)| w.to_string()).collect();
    assert_eq!(placed, ["w01", "w02", "w00", "w01", "w02", "w00"]);
    // One where sessions could not be started lately comes last: it would swallow the queue.
    let mut fleet = farm.candidates();
    fleet[1].failures = 1;
    let placed: Vec<_> = place(&queue[..3], &mut fleet).into_iter().map(|(_, w)| w.to_string()).collect();
    assert_eq!(placed, ["w02", "w00", "w02"]);
}

#[test]
fn what_cannot_be_placed_holds_up_nobody_and_is_told_why() {
    let farm = Farm::new(&[
        shape(true, 1, 0, true, false),
        shape(false, 9, 0, true, true),
        shape(true, 9, 0, false, true),
    ]);
    let labels = none();
    let even = HashMap::from([("even".to_owned(), "false".to_owned())]);
    let queue = [
        request(0, &labels, true, None),
        request(1, &labels, false, Some("w01")),
        request(2, &even, false, None),
        request(3, &labels, false, None),
        request(4, &labels, false, None),
    ];
    let mut fleet = farm.candidates();
    let placed = place(&queue, &mut fleet);
    assert_eq!(placed.len(), 1);
    assert_eq!(placed[0].0, queue[3].session);
    let reasons: Vec<_> = queue.iter().map(|request| told(request, &fleet)).collect();
    assert_eq!(
        reasons[0].refusals.iter().map(|(_, refusal)| refusal.clone()).collect::<Vec<_>>(),
        [Refusal::Trust, Refusal::Silent, Refusal::Project]
    );
    assert_eq!(reasons[1].sentence, "its workspace is on w01: not connected");
    assert_eq!(reasons[2].refusals[0].1.to_string(), "lacks the label even=false");
    assert_eq!(reasons[4].refusals[0].1.to_string(), "all 1 slots are taken");
    assert_eq!(told(&queue[0], &[]).sentence, "no worker is connected");
}

#[test]
fn memory_disk_starts_and_maintenance_are_room_too() {
    const GIB: u64 = 1 << 30;
    let farm = Farm::new(&[shape(true, 100, 0, true, true)]);
    let labels = none();
    let queue: Vec<_> = (0..10).map(|n| request(n, &labels, false, None)).collect();
    let limited = |limit: fn(&mut Candidate<'_>)| {
        let mut fleet = farm.candidates();
        limit(&mut fleet[0]);
        let placed = place(&queue, &mut fleet).len();
        (placed, told(&queue[9], &fleet).refusals.pop().map(|(_, refusal)| refusal))
    };
    // 5 GiB are free, each is expected to take 2, and one is starting already.
    let memory = limited(|w| {
        (w.memory, w.memory_per_session, w.starting) = (Some(5 * GIB), 2 * GIB, 1);
    });
    assert_eq!(memory, (1, Some(Refusal::Memory(5 * GIB, 6 * GIB))));
    let disk = limited(|w| (w.disk, w.disk_reserve) = (Some(GIB), 2 * GIB));
    assert_eq!(disk, (0, Some(Refusal::Disk(GIB, 2 * GIB))));
    let starts = limited(|w| w.starts_at_once = 3);
    assert_eq!(starts, (3, Some(Refusal::Starting(3))));
    let cordoned = limited(|w| w.maintenance = Some("cordoned: new disk".to_owned()));
    assert_eq!(cordoned, (0, Some(Refusal::Maintenance("cordoned: new disk".to_owned()))));
    // What a worker does not report is no limit.
    assert_eq!(limited(|w| (w.memory_per_session, w.disk_reserve) = (GIB, GIB)), (10, None));
}

#[test]
fn the_urgent_go_first_and_ten_minutes_of_waiting_are_worth_a_step() {
    let farm = Farm::new(&[shape(true, 2, 0, true, true)]);
    let labels = none();
    let with = |ticket, priority, since| Request { priority, since, ..request(ticket, &labels, false, None) };
    let queue = [with(0, 0, 0), with(1, 2, 0), with(2, 1, 0)];
    let placed = |queue: &[Request<'_>], now| -> Vec<_> {
        let placed = plan(queue, &mut farm.candidates(), &mut Usage::default(), &Policy::default(), now);
        placed.iter().map(|(id, _)| queue.iter().find(|r| r.session == *id).expect("asked").ticket).collect()
    };
    assert_eq!(placed(&queue, 0), [1, 2]);
    // The first has waited for half an hour when the others come.
    let late = [with(0, 0, 0), with(1, 2, 30 * MINUTE), with(2, 1, 30 * MINUTE)];
    assert_eq!(placed(&late, 30 * MINUTE), [0, 1]);
    // A clock that was set back lets nobody overtake.
    let back = [with(0, 0, 60 * MINUTE), with(1, 0, 0), with(2, 0, 0)];
    assert_eq!(placed(&back, 60 * MINUTE), [0, 1]);
}

#[test]
fn callers_share_by_weight_and_caps_and_quarantine_hold() {
    let farm = Farm::new(&[shape(true, 12, 0, true, true)]);
    let labels = none();
    let queue: Vec<_> = (0..60)
        .map(|n| Request {
            caller: ["many", "few", "heavy"][if n < 40 { 0 } else { 1 + n as usize % 2 }],
            quarantined: n == 0,
            ..request(n, &labels, false, None)
        })
        .collect();
    let counts = |policy: &Policy| {
        let mut usage = Usage::default();
        let mut fleet = farm.candidates();
        plan(&queue, &mut fleet, &mut usage, policy, 0);
        let held = why(&queue[39], &fleet, &usage, policy, 0).hold;
        (["many", "few", "heavy"].map(|caller| usage.of_caller(caller)), held)
    };
    assert_eq!(counts(&Policy::default()), ([4, 4, 4], None));
    let weights = BTreeMap::from([("heavy".to_owned(), 2)]);
    let weighted = Policy { weights, ..Policy::default() };
    assert_eq!(counts(&weighted), ([3, 3, 6], None));
    let capped = Policy { caller_caps: BTreeMap::from([("many".to_owned(), 2)]), ..weighted };
    assert_eq!(counts(&capped), ([2, 4, 6], Some(Hold::Caller(2))));
    let project = Policy { project_cap: Some(6), ..Policy::default() };
    assert_eq!(counts(&project), ([2, 2, 2], Some(Hold::Project(6))));
    let quarantined = told(&queue[0], &farm.candidates());
    assert_eq!(quarantined.hold, Some(Hold::Quarantine));
    assert!(quarantined.sentence.contains("a message lets it go on"), "{}", quarantined.sentence);
}

fn arbitrary_shape() -> impl Strategy<Value = Shape> {
    (any::<bool>(), 1u32..5, 0u32..5, any::<bool>(), any::<bool>())
        .prop_map(|(connected, slots, active, serves, trust)| shape(connected, slots, active, serves, trust))
}

/// Trust, pin, priority, caller.
type Wish = (bool, Option<usize>, i32, usize);

fn wishes() -> impl Strategy<Value = Vec<Wish>> {
    let wish = (any::<bool>(), prop::option::of(0usize..14), -3..4i32, 0usize..3);
    prop::collection::vec(wish, 0..40)
}

const CALLERS: [&str; 3] = ["a", "b", "c"];

proptest! {
    #[test]
    fn never_over_capacity_or_cap_in_order_among_equals_and_stable(
        workers in prop::collection::vec(arbitrary_shape(), 0..12),
        queue in wishes(),
        cap in prop::option::of(0u32..6),
        weight in 0u32..4,
    ) {
        let farm = Farm::new(&workers);
        let labels = none();
        let queue: Vec<_> = queue
            .iter()
            .enumerate()
            .map(|(n, (trust, pin, priority, caller))| Request {
                priority: *priority,
                caller: CALLERS[*caller],
                since: n as i64 * MINUTE,
                ..request(n as u64, &labels, *trust, pin.map(|n| format!("w{n:02}")).as_deref())
            })
            .collect();
        let policy = Policy {
            caller_cap: cap,
            weights: BTreeMap::from([("a".to_owned(), weight)]),
            ..Policy::default()
        };
        let now = 60 * MINUTE;
        let mut fleet = farm.candidates();
        let mut usage = Usage::default();
        let placements = plan(&queue, &mut fleet, &mut usage, &policy, now);
        let mut reversed = queue.clone();
        reversed.reverse();
        let again = plan(&reversed, &mut farm.candidates(), &mut Usage::default(), &policy, now);
        prop_assert_eq!(&placements, &again, "the order of the list does not count, tickets do");
        for (before, after) in farm.candidates().iter().zip(&fleet) {
            let given = placements.iter().filter(|(_, worker)| worker == before.worker).count();
            prop_assert_eq!(before.active as usize + given, after.active as usize);
            prop_assert!(given == 0 || (before.connected && after.active <= after.slots));
        }
        for caller in CALLERS {
            let given = queue.iter().filter(|r| r.caller == caller);
            let given = given.filter(|r| placements.iter().any(|(id, _)| *id == r.session)).count();
            prop_assert_eq!(given, usage.of_caller(caller) as usize);
            prop_assert!(cap.is_none_or(|cap| given <= cap as usize));
        }
        let placed = |request: &Request<'_>| placements.iter().any(|(id, _)| *id == request.session);
        for (n, earlier) in queue.iter().enumerate() {
            let waits = why(earlier, &fleet, &usage, &policy, now);
            // Nothing that could still run is left out, and every worker says why not.
            prop_assert!(placed(earlier) || waits.hold.is_some() || waits.refusals.len() == fleet.len());
            for later in &queue[n + 1..] {
                let equal = earlier.trust == later.trust
                    && earlier.pinned == later.pinned
                    && earlier.caller == later.caller
                    && earlier.priority >= later.priority;
                prop_assert!(!equal || placed(earlier) || !placed(later));
            }
        }
    }

    /// A caller that always has something more urgent to do keeps nobody from his turn for ever, and everybody
    /// gets his share meanwhile.
    #[test]
    fn nobody_starves(
        slots in 1u32..4,
        turn in 1i64..20,
        greedy_priority in -10..11i32,
        patient_priority in -10..11i32,
    ) {
        let farm = Farm::new(&[shape(true, slots, 0, true, true)]);
        let labels = none();
        let mut ticket = 0;
        let mut queue: Vec<Request<'_>> = Vec::new();
        let patient = Request {
            caller: "patient", priority: patient_priority, ..request(0, &labels, false, None)
        };
        queue.push(patient.clone());
        // From the lowest to the highest priority are twenty steps of ten minutes, and one more to be ahead;
        // then those five go first that waited nearly as long.
        let latest = 21 * 10 * MINUTE + 7 * turn * MINUTE;
        let mut running: Vec<(i64, Request<'_>)> = Vec::new();
        let mut now = 0;
        loop {
            prop_assert!(now <= latest, "it waits since {} minutes", now / MINUTE);
            running.retain(|(until, _)| *until > now);
            while queue.iter().filter(|request| request.caller == "greedy").count() < 5 {
                ticket += 1;
                let since = now;
                queue.push(Request {
                    caller: "greedy", priority: greedy_priority, since, ..request(ticket, &labels, false, None)
                });
            }
            let mut fleet = farm.candidates();
            fleet[0].active = running.len() as u32;
            let mut usage = Usage::default();
            running.iter().for_each(|(_, request)| usage.add(request.caller, request.project));
            let placed = plan(&queue, &mut fleet, &mut usage, &Policy::default(), now);
            if placed.iter().any(|(id, _)| *id == patient.session) {
                break;
            }
            for (id, _) in placed {
                let at = queue.iter().position(|request| request.session == id).expect("it was asked");
                running.push((now + turn * MINUTE, queue.remove(at)));
            }
            now += MINUTE;
        }
    }
}

#[test]
fn a_thousand_workers_and_ten_thousand_sessions_are_planned_at_once() {
    let farm = Farm::new(&vec![shape(true, 10, 0, true, true); 1000]);
    let labels = none();
    let queue: Vec<_> = (0..10_000)
        .map(|n| Request { caller: CALLERS[n as usize % 3], ..request(n, &labels, false, None) })
        .collect();
    let mut fleet = farm.candidates();
    let begun = std::time::Instant::now();
    let placed = place(&queue, &mut fleet);
    let took = begun.elapsed();
    assert_eq!(placed.len(), 10_000, "all of it fits");
    assert!(fleet.iter().all(|worker| worker.active == 10));
    // Far more than it takes without optimisation on a machine that is busy otherwise.
    assert!(took < std::time::Duration::from_secs(30), "{took:?}");
}

/// A farm in which `warm` of the workers have the project and all may clone it.
fn cloning<'a>(farm: &'a Farm, mirrored: &'a BTreeSet<String>, warm: usize) -> Vec<Candidate<'a>> {
    let mut fleet = farm.candidates();
    for (at, worker) in fleet.iter_mut().enumerate() {
        worker.serves_declared = true;
        if at < warm {
            worker.mirrored = mirrored;
        }
    }
    fleet
}

#[test]
fn a_worker_that_has_the_project_comes_first_and_is_waited_for_a_bounded_time() {
    let farm = Farm::new(&[shape(true, 1, 0, false, false), shape(true, 9, 0, false, false)]);
    let (mirrored, labels) = (BTreeSet::from(["p".to_owned()]), none());
    let ask = |ticket| Request { declared: true, cloneable: true, ..request(ticket, &labels, false, None) };
    let queue = [ask(1), ask(2)];
    let mut fleet = cloning(&farm, &mirrored, 1);
    let (mut usage, policy) = (Usage::default(), Policy::default());
    let placed = plan(&queue, &mut fleet, &mut usage, &policy, 0);
    assert_eq!(placed, [(queue[0].session, farm.names[0].clone())], "the emptier one would have to clone");
    let waits = why(&queue[1], &fleet, &usage, &policy, 0);
    assert_eq!(waits.warm_until, Some(10_000), "{waits:?}");
    assert!(plan(&queue[1..], &mut fleet, &mut usage, &policy, 9_999).is_empty());
    let placed = plan(&queue[1..], &mut fleet, &mut usage, &policy, 10_000);
    assert_eq!(placed, [(queue[1].session, farm.names[1].clone())]);
    // Nobody has it: nothing to wait for.
    let mut cold = cloning(&farm, &mirrored, 0);
    assert_eq!(plan(&queue, &mut cold, &mut Usage::default(), &policy, 0).len(), 2);
    // Nor where the one that has it will never take it: it speaks a protocol that knows no declared projects.
    let mut old = cloning(&farm, &mirrored, 1);
    old[0].protocol = 1;
    let placed = plan(&queue[1..], &mut old, &mut Usage::default(), &policy, 0);
    assert_eq!(placed, [(queue[1].session, farm.names[1].clone())]);
    assert_eq!(why(&queue[1], &old, &Usage::default(), &policy, 0).warm_until, None);
}

proptest! {
    #[test]
    fn warm_or_cold_capacity_holds_nobody_starves_and_the_same_gives_the_same(
        slots in prop::collection::vec(0..4u32, 1..12), warm in 0..12usize, sessions in 0..40u64,
    ) {
        let shapes: Vec<_> = slots.iter().map(|slots| shape(true, *slots, 0, false, false)).collect();
        let farm = Farm::new(&shapes);
        let (mirrored, labels) = (BTreeSet::from(["p".to_owned()]), none());
        let ask = |ticket| Request { declared: true, cloneable: true, ..request(ticket, &labels, false, None) };
        let queue: Vec<_> = (1..=sessions).map(ask).collect();
        let policy = Policy::default();
        let run = |now| {
            let mut fleet = cloning(&farm, &mirrored, warm);
            let placed = plan(&queue, &mut fleet, &mut Usage::default(), &policy, now);
            for (worker, slots) in fleet.iter().zip(&slots) {
                assert!(worker.active <= *slots, "over capacity");
            }
            placed
        };
        prop_assert_eq!(run(0), run(0));
        let room: u32 = slots.iter().sum();
        let late = run(10_000);
        prop_assert_eq!(late.len() as u64, sessions.min(room.into()), "past the wait every slot is used");
        let order: Vec<_> = queue.iter().map(|request| request.session).take(late.len()).collect();
        prop_assert_eq!(late.into_iter().map(|(session, _)| session).collect::<Vec<_>>(), order);
    }
}

/// Run by hand: what a placement round costs in a large farm.
#[test]
#[ignore = "measures"]
fn a_large_farm_is_placed_in_milliseconds() {
    let shapes: Vec<_> = (0..1000).map(|_| shape(true, 8, 0, false, false)).collect();
    let farm = Farm::new(&shapes);
    let (mirrored, labels) = (BTreeSet::from(["p".to_owned()]), none());
    let ask = |ticket| Request { declared: true, cloneable: true, ..request(ticket, &labels, false, None) };
    let queue: Vec<_> = (1..=10_000).map(ask).collect();
    for (warm, now) in [(0, 0), (10, 0), (10, 10_000), (1000, 0)] {
        let mut fleet = cloning(&farm, &mirrored, warm);
        let begun = std::time::Instant::now();
        let placed = plan(&queue, &mut fleet, &mut Usage::default(), &Policy::default(), now).len();
        println!("{warm} warm of 1000: {placed} of 10000 placed in {:?}", begun.elapsed());
    }
}
