//! What the balancer says of itself when all is over, against what was seen.

use super::Model;
use super::forged::{is_forged, names_a_contact};
use super::story::Story;
use crate::network::Party;
use engine::Snapshot;
use sip::Method;

/// How much of the counters the wire can tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// No link doubles datagrams: each arrives once at most.
    pub never_doubled: bool,
    /// The boxes of the configuration were always the same: a repeated request has the branch that it had.
    pub same_boxes: bool,
}

/// The two sides.
struct Tally<'s> {
    snapshot: &'s Snapshot,
    extent: Extent,
    /// The balancer was down at some time: its counters began anew.
    is_broken: bool,
    requests: u64,
    responses: u64,
    /// Branches, and ACKs that were sent on.
    sent_on: u64,
    /// Calls whose 2xx went up.
    answered: u64,
    forged: u64,
}

type Rule = fn(&Tally<'_>) -> Option<String>;

const AT_REST: &[Rule] = &[
    no_call_is_held_at_a_backend,
    no_retired_backend_is_left,
    nothing_was_out_of_bounds,
    arrivals_are_counted,
    what_is_sent_on_is_counted,
    calls_are_counted,
    forgeries_are_counted,
];

impl Model<'_> {
    /// What does not hold of a balancer that has come to rest.
    pub fn judge_counters(&self, snapshot: &Snapshot, extent: Extent) -> Vec<String> {
        let arrived = |is_request: bool| {
            let all = self.stories.iter().flat_map(|story| &story.seen);
            let counted = all.filter(|one| one.receiver == Some(Party::Balancer) && one.arrived.is_some());
            counted.filter(|one| one.code.is_none() == is_request).count() as u64
        };
        let tally = Tally {
            snapshot,
            extent,
            is_broken: !self.circumstances.outages.is_empty(),
            requests: arrived(true),
            responses: arrived(false),
            sent_on: self.stories.iter().map(sent_on).sum(),
            answered: self.stories.iter().map(answered).sum(),
            forged: self.stories.iter().map(forged).sum(),
        };
        AT_REST.iter().filter_map(|rule| rule(&tally)).collect()
    }
}

impl Tally<'_> {
    fn count(&self, wanted: &str) -> u64 {
        self.snapshot.counters.iter().filter(|(name, _, _)| *name == wanted).map(|(_, _, value)| *value).sum()
    }
}

fn no_call_is_held_at_a_backend(tally: &Tally<'_>) -> Option<String> {
    let services = tally.snapshot.farms.iter().flat_map(|farm| &farm.services);
    let backend = services.flat_map(|service| &service.backends).find(|backend| backend.calls > 0)?;
    Some(format!("{} calls are held at {} at rest", backend.calls, backend.name))
}

fn no_retired_backend_is_left(tally: &Tally<'_>) -> Option<String> {
    let (_, backend) = tally.snapshot.retired.first()?;
    Some(format!("the retired backend {} is left at rest", backend.name))
}

fn nothing_was_out_of_bounds(tally: &Tally<'_>) -> Option<String> {
    let names = ["loops", "hops_exceeded", "unsafe_destination", "transaction_limit", "binding_limit", "dialog_limit"];
    let name = names.into_iter().find(|name| tally.count(name) > 0)?;
    Some(format!("{} were counted as {name}", tally.count(name)))
}

fn arrivals_are_counted(tally: &Tally<'_>) -> Option<String> {
    let most = |arrived: u64| if tally.extent.never_doubled { arrived } else { arrived * 2 };
    [("requests", tally.requests), ("responses", tally.responses)].into_iter().find_map(|(name, arrived)| {
        let counted = tally.count(name);
        let fits = (arrived..=most(arrived)).contains(&counted);
        (!fits && !tally.is_broken).then(|| format!("{counted} {name} were counted, {arrived} arrived"))
    })
}

fn what_is_sent_on_is_counted(tally: &Tally<'_>) -> Option<String> {
    let (counted, sent_on) = (tally.count("requests_forwarded"), tally.sent_on);
    let is_wrong = counted != sent_on && tally.extent.same_boxes && !tally.is_broken;
    is_wrong.then(|| format!("{counted} requests were counted as sent on, {sent_on} were"))
}

fn calls_are_counted(tally: &Tally<'_>) -> Option<String> {
    let (started, ended) = (tally.count("calls_started"), tally.count("calls_ended"));
    let is_wrong = (started != ended || started != tally.answered) && !tally.is_broken;
    is_wrong
        .then(|| format!("{started} calls were counted as started, {ended} as ended, {} were answered", tally.answered))
}

fn forgeries_are_counted(tally: &Tally<'_>) -> Option<String> {
    let counted = tally.count("forged_tokens");
    let is_wrong = counted != tally.forged && !tally.is_broken;
    is_wrong.then(|| format!("{counted} forged tokens were counted, {} arrived", tally.forged))
}

/// Pings are of the balancer's own making, and nobody asked for them.
fn sent_on(story: &Story<'_>) -> u64 {
    if story.asked.is_empty() {
        return 0;
    }
    let acks = story.requests_sent().filter(|one| one.method == Method::Ack && !story.is_hop_by_hop(one));
    (story.branches.len() + acks.count()) as u64
}

fn answered(story: &Story<'_>) -> u64 {
    let dialogs = super::dialog::dialogs(std::slice::from_ref(story));
    dialogs.iter().filter(|dialog| dialog.is_passed_on).count() as u64
}

fn forged(story: &Story<'_>) -> u64 {
    if !is_forged(&story.request) || names_a_contact(&story.request) {
        return 0;
    }
    story.seen.iter().filter(|one| one.is_request_in() && one.arrived.is_some()).count() as u64
}

#[cfg(test)]
mod tests {
    use super::super::tests::{BOX, FARM, PEER, PHONE, Wire, own_answer, passed_down, passed_up, ringing, up};
    use super::Extent;
    use crate::script::{Answer, Script};
    use engine::{BackendId, BackendSnapshot, Snapshot};

    const EXACT: Extent = Extent { never_doubled: true, same_boxes: true };

    /// A call that was answered and acknowledged, and a forgery.
    fn wire() -> Wire {
        let mut wire = ringing();
        let answer = Answer::new(200).to(&passed_down(&up("INVITE"), "d1"));
        wire.put(BOX, FARM, answer.clone());
        wire.react(PHONE, passed_up(&answer));
        let ack = Script::new("ACK").branch("ack").to("<sip:clyde@example.com>;tag=tt").build();
        wire.put(PHONE, FARM, ack.clone());
        wire.react(BOX, passed_down(&ack, "ackdown"));
        let forged = Script::new("BYE").branch("forged").call_id("forged-1").build();
        wire.put(PEER, FARM, forged.clone());
        wire.react(PEER, own_answer(403, &forged));
        wire
    }

    fn snapshot() -> Snapshot {
        let counters = vec![
            ("requests", "", 3),
            ("responses", "", 2),
            ("requests_forwarded", "", 2),
            ("calls_started", "", 1),
            ("calls_ended", "", 1),
            ("forged_tokens", "", 1),
        ];
        Snapshot { counters, ..Snapshot::default() }
    }

    #[test]
    fn counters_that_are_right_are_right() {
        assert_eq!(wire().model().judge_counters(&snapshot(), EXACT), Vec::<String>::new());
    }

    #[test]
    fn each_counter_is_judged() {
        for (at, what) in [
            (0, "4 requests were counted, 3 arrived"),
            (1, "3 responses were counted, 2 arrived"),
            (2, "3 requests were counted as sent on, 2 were"),
            (3, "2 calls were counted as started, 1 as ended, 1 were answered"),
            (4, "1 calls were counted as started, 2 as ended, 1 were answered"),
            (5, "2 forged tokens were counted, 1 arrived"),
        ] {
            let mut wrong = snapshot();
            wrong.counters[at].2 += 1;
            assert_eq!(wire().model().judge_counters(&wrong, EXACT), [what]);
        }
        let mut looped = snapshot();
        looped.counters.push(("loops", "", 1));
        assert_eq!(wire().model().judge_counters(&looped, EXACT), ["1 were counted as loops"]);
    }

    #[test]
    fn what_the_wire_cannot_tell_is_not_judged() {
        let mut doubled = snapshot();
        doubled.counters[0].2 += 1;
        let extent = Extent { never_doubled: false, same_boxes: false };
        assert_eq!(wire().model().judge_counters(&doubled, extent), Vec::<String>::new());
        let mut broken = wire();
        broken.circumstances.outages = vec![(broken.now(), broken.now())];
        assert_eq!(broken.model().judge_counters(&Snapshot::default(), EXACT), Vec::<String>::new());
    }

    #[test]
    fn calls_that_are_held_are_told() {
        let mut held = snapshot();
        let backend = BackendSnapshot {
            name: "pbx1".to_owned(),
            state: "retired",
            weight: 1,
            priority: 1,
            calls: 1,
            ..BackendSnapshot::default()
        };
        held.retired.push((BackendId(1), backend));
        assert_eq!(wire().model().judge_counters(&held, EXACT), ["the retired backend pbx1 is left at rest"]);
    }
}
