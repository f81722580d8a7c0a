use proptest::prelude::*;

use super::*;

struct Farm {
    names: Vec<WorkerId>,
    labels: Vec<HashMap<String, String>>,
    projects: Vec<BTreeMap<String, bool>>,
    shape: Vec<(bool, u32, u32)>,
}

impl Farm {
    fn new(workers: &[(bool, u32, u32, bool, bool)]) -> Self {
        let serve = |(_, _, _, p, trust): &(bool, u32, u32, bool, bool)| {
            let name = if *p { "p" } else { "q" };
            BTreeMap::from([(name.to_owned(), *trust)])
        };
        let label = |n: usize| HashMap::from([("even".to_owned(), n.is_multiple_of(2).to_string())]);
        Self {
            names: (0..workers.len()).map(|n| format!("w{n:02}").parse().expect("a name")).collect(),
            labels: (0..workers.len()).map(label).collect(),
            projects: workers.iter().map(serve).collect(),
            shape: workers.iter().map(|worker| (worker.0, worker.1, worker.2)).collect(),
        }
    }

    fn candidates(&self) -> Vec<Candidate<'_>> {
        let candidate = |n: usize| Candidate {
            worker: &self.names[n],
            connected: self.shape[n].0,
            slots: self.shape[n].1,
            active: self.shape[n].2,
            labels: &self.labels[n],
            projects: &self.projects[n],
        };
        (0..self.names.len()).map(candidate).collect()
    }
}

fn none() -> HashMap<String, String> {
    HashMap::new()
}

fn request<'a>(labels: &'a HashMap<String, String>, trust: bool, pinned: Option<&str>) -> Request<'a> {
    let pinned = pinned.map(|name| name.parse().expect("a name"));
    Request { session: SessionId::generate(), project: "p", trust, labels, pinned }
}

#[test]
fn the_emptiest_worker_gets_it_and_the_name_breaks_ties() {
    let farm = Farm::new(&[(true, 4, 2, true, true), (true, 2, 0, true, true), (true, 2, 0, true, true)]);
    let labels = none();
    let queue: Vec<_> = (0..7).map(|_| request(&labels, false, None)).collect();
    let placed: Vec<_> =
        plan(queue, &mut farm.candidates()).into_iter().map(|(_, w)| w.to_string()).collect();
    assert_eq!(placed, ["w01", "w02", "w00", "w01", "w02", "w00"]);
}

#[test]
fn what_cannot_be_placed_holds_up_nobody_and_is_told_why() {
    let farm = Farm::new(&[(true, 1, 0, true, false), (false, 9, 0, true, true), (true, 9, 0, false, true)]);
    let labels = none();
    let even = HashMap::from([("even".to_owned(), "false".to_owned())]);
    let queue = [
        request(&labels, true, None),
        request(&labels, false, Some("w01")),
        request(&even, false, None),
        request(&labels, false, None),
        request(&labels, false, None),
    ];
    let mut fleet = farm.candidates();
    let placed = plan(queue.clone(), &mut fleet);
    assert_eq!(placed.len(), 1);
    assert_eq!(placed[0].0, queue[3].session);
    let reasons: Vec<_> = queue.iter().map(|request| why(request, &fleet)).collect();
    assert_eq!(
        reasons[0].refusals.iter().map(|(_, refusal)| refusal.clone()).collect::<Vec<_>>(),
        [Refusal::Trust, Refusal::Silent, Refusal::Project]
    );
    assert_eq!(reasons[1].sentence, "its workspace is on w01: not connected");
    assert_eq!(reasons[2].refusals[0].1.to_string(), "lacks the label even=false");
    assert_eq!(reasons[4].refusals[0].1.to_string(), "all 1 slots are taken");
    assert_eq!(why(&queue[0], &[]).sentence, "no worker is connected");
}

proptest! {
    #[test]
    fn never_over_capacity_in_order_among_equals_and_stable(
        workers in prop::collection::vec(
            (any::<bool>(), 1u32..5, 0u32..5, any::<bool>(), any::<bool>()),
            0..12,
        ),
        queue in prop::collection::vec((any::<bool>(), prop::option::of(0usize..14)), 0..40),
    ) {
        let farm = Farm::new(&workers);
        let labels = none();
        let queue: Vec<_> = queue
            .iter()
            .map(|(trust, pin)| request(&labels, *trust, pin.map(|n| format!("w{n:02}")).as_deref()))
            .collect();
        let mut fleet = farm.candidates();
        let placements = plan(queue.clone(), &mut fleet);
        prop_assert_eq!(&placements, &plan(queue.clone(), &mut farm.candidates()));
        for (before, after) in farm.candidates().iter().zip(&fleet) {
            let given = placements.iter().filter(|(_, worker)| worker == before.worker).count();
            prop_assert_eq!(before.active as usize + given, after.active as usize);
            prop_assert!(given == 0 || (before.connected && after.active <= after.slots));
        }
        let placed = |request: &Request<'_>| placements.iter().any(|(id, _)| *id == request.session);
        for (n, earlier) in queue.iter().enumerate() {
            let waits = why(earlier, &fleet);
            // Nothing that could still run is left out, and every worker says why not.
            prop_assert!(placed(earlier) || waits.refusals.len() == fleet.len());
            for later in &queue[n + 1..] {
                let equal = earlier.trust == later.trust && earlier.pinned == later.pinned;
                prop_assert!(!equal || placed(earlier) || !placed(later));
            }
        }
    }
}
