//! RFC 5626: the flows of a phone that names them by `reg-id`. To backends they are one binding, and a request takes one of them.

use super::Binding;
use super::kept_flow::KeptFlow;
use crate::id::BackendId;
use crate::io::{ConnectionId, Flow};
use crate::pool::RegistrationTicket;
use sip::Instant;
use std::time::Duration;

/// Flows that are kept of one phone. RFC 5626 §4.2 finds two enough.
const MOST_FLOWS: usize = 4;

/// What a binding has besides, if its phone names its flows. The binding itself holds the first of them.
#[derive(Clone, Debug)]
pub(crate) struct Outbound {
    /// Of the flow that the binding holds.
    reg_id: u32,
    /// The newest first, but what failed last.
    others: Vec<NamedFlow>,
}

/// A flow with its name.
#[derive(Clone, Debug)]
pub(super) struct NamedFlow {
    pub(super) reg_id: u32,
    /// The contact's URI as the phone gave it for this flow.
    pub(super) contact: Box<[u8]>,
    pub(super) flow: KeptFlow,
    pub(super) expires: Instant,
    pub(super) behind_nat: bool,
    pub(super) kept_alive: Instant,
}

/// One way to a phone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way<'b> {
    /// `None`: the phone has this one only.
    pub(super) reg_id: Option<u32>,
    pub(crate) contact: &'b [u8],
    pub(crate) flow: Flow,
    pub(super) expires: Instant,
    pub(super) behind_nat: bool,
}

impl Outbound {
    /// Of a phone that registers by the flow with this name.
    pub(crate) fn named(reg_id: u32) -> Box<Self> {
        Box::new(Self { reg_id, others: Vec::new() })
    }
}

impl Binding {
    /// The binding of these flows, the first one first; `None` if there are none.
    pub(super) fn of_flows(
        id: u64,
        backend: BackendId,
        held: Option<RegistrationTicket>,
        flows: Vec<NamedFlow>,
    ) -> Option<Self> {
        let mut flows = flows.into_iter();
        let NamedFlow { reg_id, contact, flow, expires, behind_nat, kept_alive } = flows.next()?;
        let others = flows.take(MOST_FLOWS - 1).collect();
        let outbound = Some(Box::new(Outbound { reg_id, others }));
        Some(Self { id, contact, flow, backend, expires, behind_nat, kept_alive, held, outbound })
    }

    /// Some flow of it has not expired.
    pub(super) fn is_live(&self, now: Instant) -> bool {
        self.expires > now || self.others().iter().any(|other| other.expires > now)
    }

    /// The ways that have not expired, in the order in which they are to be tried.
    pub(crate) fn ways(&self, now: Instant) -> impl Iterator<Item = Way<'_>> {
        let first = Way {
            reg_id: self.outbound.as_ref().map(|outbound| outbound.reg_id),
            contact: &self.contact,
            flow: Flow::from(&self.flow),
            expires: self.expires,
            behind_nat: self.behind_nat,
        };
        std::iter::once(first).chain(self.others().iter().map(NamedFlow::way)).filter(move |way| way.expires > now)
    }

    /// Where the phone is reached: by its first flow that may still lead there.
    pub(crate) fn flow_now(&self, now: Instant) -> Flow {
        let mut flows = self.ways(now).map(|way| way.flow);
        flows.find(|flow| flow.connection != ConnectionId::GONE).unwrap_or_else(|| Flow::from(&self.flow))
    }

    /// The seconds that the longest of its flows has left, but for the one with this name and those that lead nowhere.
    pub(super) fn left_without(&self, now: Instant, reg_id: u32) -> Option<u32> {
        let others = self.ways(now).filter(|way| way.reg_id.is_some_and(|name| name != reg_id));
        let left = others
            .filter(|way| way.flow.connection != ConnectionId::GONE)
            .map(|way| way.expires.saturating_since(now).as_secs())
            .max()?;
        u32::try_from(left).ok().filter(|seconds| *seconds > 0)
    }

    /// Name and contact of the first flow.
    pub(super) fn first_named(&self) -> Option<(u32, Box<[u8]>)> {
        Some((self.outbound.as_ref()?.reg_id, self.contact.clone()))
    }

    /// Takes over the other flows of what was known of the same phone. The flow of the same name is replaced (RFC 5626 §6),
    /// and of too many the last is forgotten.
    pub(super) fn join(&mut self, mut old: Self) {
        let (Some(outbound), Some(known)) = (&mut self.outbound, old.outbound.take()) else {
            return;
        };
        let Outbound { reg_id, others } = *known;
        let first = NamedFlow {
            reg_id,
            contact: old.contact,
            flow: old.flow,
            expires: old.expires,
            behind_nat: old.behind_nat,
            kept_alive: old.kept_alive,
        };
        for other in std::iter::once(first).chain(others) {
            if other.reg_id == outbound.reg_id {
                if other.flow == self.flow {
                    self.kept_alive = other.kept_alive;
                }
            } else if outbound.others.len() + 1 < MOST_FLOWS {
                outbound.others.push(other);
            }
        }
    }

    /// Lets flows go, by name and end. `false`: none is left.
    pub(super) fn let_go(&mut self, gone: impl Fn(Option<u32>, Instant) -> bool) -> bool {
        let first_is_gone = gone(self.outbound.as_ref().map(|outbound| outbound.reg_id), self.expires);
        let Some(outbound) = &mut self.outbound else {
            return !first_is_gone;
        };
        outbound.others.retain(|other| !gone(Some(other.reg_id), other.expires));
        if !first_is_gone {
            return true;
        }
        if outbound.others.is_empty() {
            return false;
        }
        let next = outbound.others.remove(0);
        self.begin_with(next);
        true
    }

    /// This flow failed: whatever else leads to the phone comes before it from now on, until it registers by this one again.
    /// `true` if that changes anything.
    pub(super) fn fail(&mut self, flow: &Flow) -> bool {
        let failed = KeptFlow::from(*flow);
        let is_first = self.flow == failed;
        let Some(outbound) = &mut self.outbound else {
            return false;
        };
        let others = &mut outbound.others;
        if is_first {
            let Some(next) = others.iter().position(|other| other.flow != failed).map(|at| others.remove(at)) else {
                return false;
            };
            let first = self.begin_with(next);
            if let (Some(outbound), Some(first)) = (&mut self.outbound, first) {
                outbound.others.push(first);
            }
            return true;
        }
        let Some(other) = others.iter().position(|other| other.flow == failed).map(|at| others.remove(at)) else {
            return false;
        };
        others.push(other);
        true
    }

    /// The phone was heard at this flow. If that is none of those known, one of them has moved there: one that leads nowhere,
    /// or the first behind the same listener. `true` if that changes anything.
    pub(super) fn heard_at(&mut self, now: Instant, flow: &Flow) -> bool {
        let heard = KeptFlow::from(*flow);
        let Some(outbound) = &mut self.outbound else {
            let moved = self.flow != heard;
            if moved {
                (self.flow, self.kept_alive) = (heard, now);
            }
            return moved;
        };
        let others = &mut outbound.others;
        if self.flow == heard || others.iter().any(|other| other.flow == heard) {
            return false;
        }
        let is_gone = |kept: &KeptFlow| Flow::from(kept).connection == ConnectionId::GONE;
        let is_beside = |kept: &KeptFlow| Flow::from(kept).listener == flow.listener;
        let first = &self.flow;
        let moved = if is_gone(first) {
            None
        } else {
            let gone = others.iter().position(|other| is_gone(&other.flow));
            gone.or_else(|| others.iter().position(|other| !is_beside(first) && is_beside(&other.flow)))
        };
        match moved {
            Some(at) => (others[at].flow, others[at].kept_alive) = (heard, now),
            None => (self.flow, self.kept_alive) = (heard, now),
        }
        true
    }

    /// Collects those of its flows whose NAT binding was not used for so long.
    pub(super) fn keep_alive(&mut self, now: Instant, every: Duration, due: &mut Vec<Flow>) {
        let mut keep = |behind_nat: bool, kept_alive: &mut Instant, flow: &KeptFlow| {
            if behind_nat && now.saturating_since(*kept_alive) >= every {
                *kept_alive = now;
                due.push(Flow::from(flow));
            }
        };
        keep(self.behind_nat, &mut self.kept_alive, &self.flow);
        for other in self.outbound.iter_mut().flat_map(|outbound| &mut outbound.others) {
            keep(other.behind_nat, &mut other.kept_alive, &other.flow);
        }
    }

    fn others(&self) -> &[NamedFlow] {
        self.outbound.as_ref().map(|outbound| outbound.others.as_slice()).unwrap_or_default()
    }

    /// Puts a flow into the place of the first one, which it gives.
    fn begin_with(&mut self, next: NamedFlow) -> Option<NamedFlow> {
        let outbound = self.outbound.as_mut()?;
        Some(NamedFlow {
            reg_id: std::mem::replace(&mut outbound.reg_id, next.reg_id),
            contact: std::mem::replace(&mut self.contact, next.contact),
            flow: std::mem::replace(&mut self.flow, next.flow),
            expires: std::mem::replace(&mut self.expires, next.expires),
            behind_nat: std::mem::replace(&mut self.behind_nat, next.behind_nat),
            kept_alive: std::mem::replace(&mut self.kept_alive, next.kept_alive),
        })
    }
}

impl NamedFlow {
    fn way(&self) -> Way<'_> {
        Way {
            reg_id: Some(self.reg_id),
            contact: &self.contact,
            flow: Flow::from(&self.flow),
            expires: self.expires,
            behind_nat: self.behind_nat,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, binding, directory, flow};
    use super::super::{Broom, Directory};
    use super::*;

    /// By the flow of this name, which comes from port 5000 more than that and ends at `until`.
    fn named(reg_id: u32, until: u64) -> Binding {
        let flow = flow(5_000 + reg_id as u16).into();
        Binding { outbound: Some(Outbound::named(reg_id)), flow, ..binding(5, until) }
    }

    fn with_flows(flows: &[(u32, u64)]) -> Directory {
        let directory = directory();
        for &(reg_id, until) in flows {
            directory.bind(1, b"x", named(reg_id, until), 9).expect("room");
        }
        directory
    }

    /// The names of the flows in their order.
    fn names(directory: &Directory, seconds: u64) -> Vec<u32> {
        let names = |found: &Binding| found.ways(at(seconds)).filter_map(|way| way.reg_id).collect();
        directory.with_binding(at(seconds), 5, names).unwrap_or_default()
    }

    fn first_port(directory: &Directory, seconds: u64) -> u16 {
        directory.with_binding(at(seconds), 5, |found| found.flow_now(at(seconds)).remote.port()).unwrap_or_default()
    }

    /// There are very many of them, and most have one flow without a name.
    #[test]
    fn a_binding_pays_one_pointer_for_flows_that_it_does_not_have() {
        const { assert!(size_of::<Binding>() <= 88) };
        assert!(binding(5, 60).outbound.is_none());
    }

    #[test]
    fn the_newest_flow_comes_first_and_of_five_the_oldest_is_forgotten() {
        for (registered, kept) in [
            (vec![1], vec![1]),
            (vec![1, 2], vec![2, 1]),
            (vec![1, 2, 1], vec![1, 2]),
            (vec![1, 2, 3, 4], vec![4, 3, 2, 1]),
            (vec![1, 2, 3, 4, 5], vec![5, 4, 3, 2]),
            (vec![1, 2, 3, 4, 2, 5], vec![5, 2, 4, 3]),
        ] {
            let flows: Vec<(u32, u64)> = registered.iter().map(|reg_id| (*reg_id, 600)).collect();
            let directory = with_flows(&flows);
            assert_eq!((names(&directory, 1), directory.bindings()), (kept, 1), "{registered:?}");
        }
    }

    #[test]
    fn flows_expire_one_by_one_and_the_phone_with_the_last() {
        let directory = with_flows(&[(1, 60), (2, 20), (3, 40)]);
        let mut broom = Broom::new(0, 1);
        for (seconds, left) in [(19, vec![3, 2, 1]), (20, vec![3, 1]), (40, vec![1]), (59, vec![1]), (60, vec![])] {
            assert_eq!(names(&directory, seconds), left, "{seconds}");
            directory.sweep(at(seconds), &mut broom, None);
            assert_eq!((names(&directory, seconds), directory.bindings()), (left.clone(), u64::from(!left.is_empty())));
        }
    }

    #[test]
    fn a_flow_that_failed_is_the_last_to_be_tried_until_it_registers_again() {
        let directory = with_flows(&[(1, 600), (2, 600), (3, 600)]);
        for (failed, order) in [(3, [2, 1, 3]), (1, [2, 3, 1]), (9, [2, 3, 1]), (2, [3, 1, 2])] {
            directory.flow_failed(5, &flow(5_000 + failed));
            assert_eq!(names(&directory, 1), order, "{failed}");
            assert_eq!(first_port(&directory, 1), 5_000 + order[0] as u16);
        }
        directory.bind(1, b"x", named(2, 600), 9).expect("room");
        assert_eq!(names(&directory, 1), [2, 3, 1]);
        let alone = with_flows(&[(1, 600)]);
        alone.flow_failed(5, &flow(5_001));
        assert_eq!(names(&alone, 1), [1], "there is nothing else");
        alone.flow_failed(6, &flow(5_001));
    }

    #[test]
    fn a_flow_that_leaves_leaves_alone() {
        let directory = with_flows(&[(1, 100), (2, 300), (3, 200)]);
        assert_eq!([1, 2, 3, 4].map(|name| directory.left_without(at(50), 5, name)), [250, 150, 250, 250].map(Some));
        let left = directory.remove_flow(at(50), 1, 5, 3).map(|(name, _)| name);
        assert_eq!((left, names(&directory, 50)), (Some(2), vec![2, 1]));
        let left = directory.remove_flow(at(50), 1, 5, 1).map(|(name, _)| name);
        assert_eq!((left, names(&directory, 50)), (Some(2), vec![2]));
        assert_eq!(directory.left_without(at(50), 5, 2), None);
        assert_eq!(directory.remove_flow(at(50), 1, 5, 2), None);
        assert_eq!(directory.remove_flow(at(50), 1, 6, 2), None);
    }

    /// Less than a second is nothing: a REGISTER for 0 s would end the binding.
    #[test]
    fn what_is_known_to_lead_nowhere_does_not_count_as_left() {
        let directory = directory();
        let gone = Flow { connection: ConnectionId::GONE, ..flow(5_001) };
        directory.bind(1, b"x", Binding { flow: gone.into(), ..named(1, 600) }, 9).expect("room");
        directory.bind(1, b"x", named(2, 300), 9).expect("room");
        let left = [(1, 0), (2, 0), (1, 299), (1, 300)].map(|(name, now)| directory.left_without(at(now), 5, name));
        assert_eq!(left, [Some(300), None, Some(1), None]);
        directory.bind(1, b"x", Binding { flow: gone.into(), ..named(1, 600) }, 9).expect("room");
        assert_eq!((names(&directory, 1), first_port(&directory, 1)), (vec![1, 2], 5_002));
    }

    #[test]
    fn a_phone_heard_by_one_of_its_flows_has_not_moved() {
        let directory = with_flows(&[(1, 600), (2, 600)]);
        let flows = |directory: &Directory| -> Vec<Flow> {
            directory
                .with_binding(at(1), 5, |found| found.ways(at(1)).map(|way| way.flow).collect())
                .unwrap_or_default()
        };
        for heard in [5_001, 5_002] {
            directory.move_binding(at(1), 5, flow(heard));
            assert_eq!(flows(&directory), [flow(5_002), flow(5_001)], "{heard}");
        }
        directory.move_binding(at(1), 5, flow(5_070));
        assert_eq!(flows(&directory), [flow(5_070), flow(5_001)], "both are behind one listener: the newest");
        // Another listener's flow is none of those; what leads nowhere is the first to be replaced.
        let elsewhere = Flow { listener: crate::id::ListenerId(2), ..flow(5_003) };
        directory.bind(1, b"x", Binding { flow: elsewhere.into(), ..named(3, 600) }, 9).expect("room");
        directory.move_binding(at(1), 5, flow(5_071));
        assert_eq!(flows(&directory), [elsewhere, flow(5_071), flow(5_001)]);
        let gone = Flow { connection: ConnectionId::GONE, ..flow(5_004) };
        directory.bind(1, b"x", Binding { flow: gone.into(), ..named(4, 600) }, 9).expect("room");
        directory.bind(1, b"x", named(2, 600), 9).expect("room");
        directory.move_binding(at(1), 5, flow(5_072));
        assert_eq!(flows(&directory), [flow(5_002), flow(5_072), elsewhere, flow(5_001)]);
    }

    #[test]
    fn each_flow_is_kept_alive_by_itself() {
        let directory = with_flows(&[(1, 600)]);
        directory.bind(1, b"x", Binding { kept_alive: at(10), ..named(2, 600) }, 9).expect("room");
        let mut broom = Broom::new(0, 1);
        let mut due = |seconds| directory.sweep(at(seconds), &mut broom, Some(Duration::from_secs(25))).keep_alive;
        assert_eq!([24, 25, 34, 35].map(&mut due), [vec![], vec![flow(5_001)], vec![], vec![flow(5_002)]]);
        // A renewal from the same address does not put it off.
        directory.bind(1, b"x", Binding { kept_alive: at(49), ..named(1, 600) }, 9).expect("room");
        let due = directory.sweep(at(50), &mut broom, Some(Duration::from_secs(25))).keep_alive;
        assert_eq!(due, [flow(5_001)]);
    }
}
