//! Places outside that failed: for a while new requests go to others first, if there are others.

use crate::id::ListenerId;
use crate::io::Flow;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use sip::Instant;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long one failure counts: long enough that a place which is down costs few calls their first two seconds, short enough that
/// one which is back is soon of use.
const AVOIDED_FOR: Duration = Duration::from_secs(30);
/// Places remembered. They are those of the operator's trunks and domains; where more than so many are down at once, the failures
/// that are forgotten first are the oldest.
const KEPT: usize = 256;

/// Where a listener of ours leads to.
type Lead = (ListenerId, SocketAddr);

/// One for all shards of a unit.
#[derive(Debug, Default)]
pub(crate) struct Avoided {
    /// Until when. Nobody but the operator chooses the keys.
    places: Mutex<HashMap<Lead, Instant, FixedState>>,
}

impl Avoided {
    /// The place at the other end of this flow did not answer, could not be reached, or had no room.
    pub(crate) fn add(&self, now: Instant, flow: &Flow) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let lead = (flow.listener, flow.remote);
        if places.len() >= KEPT && !places.contains_key(&lead) {
            places.retain(|_, until| *until > now);
            let oldest = places.iter().min_by_key(|(_, until)| **until).map(|(lead, _)| *lead);
            if let Some(oldest) = oldest.filter(|_| places.len() >= KEPT) {
                places.remove(&oldest);
            }
        }
        places.insert(lead, now + AVOIDED_FOR);
    }

    /// Moves those that failed lately behind the others; within both groups the order stays.
    pub(crate) fn put_last(&self, now: Instant, flows: &mut [Flow]) {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if !places.is_empty() {
            flows.sort_by_key(|flow| places.get(&(flow.listener, flow.remote)).is_some_and(|until| *until > now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::unit::{VIP, flow};
    use crate::pool::world::at;

    fn places<const N: usize>(ports: [u16; N]) -> [Flow; N] {
        ports.map(|port| flow(VIP, &format!("192.0.2.1:{port}")))
    }

    /// The ports of these places as the memory orders them.
    fn order<const N: usize>(avoided: &Avoided, now: Instant, ports: [u16; N]) -> [u16; N] {
        let mut flows = places(ports);
        avoided.put_last(now, &mut flows);
        flows.map(|flow| flow.remote.port())
    }

    #[test]
    fn what_failed_comes_last_for_half_a_minute() {
        let avoided = Avoided::default();
        assert_eq!(order(&avoided, at(0), [1, 2, 3]), [1, 2, 3]);
        let [one, two] = places([1, 2]);
        avoided.add(at(0), &one);
        avoided.add(at(10_000), &two);
        for (ms, wanted) in
            [(10_000, [3, 1, 2]), (29_999, [3, 1, 2]), (30_000, [1, 3, 2]), (39_999, [1, 3, 2]), (40_000, [1, 2, 3])]
        {
            assert_eq!(order(&avoided, at(ms), [1, 2, 3]), wanted, "{ms}");
        }
    }

    #[test]
    fn a_further_failure_counts_from_then_on() {
        let avoided = Avoided::default();
        let [one] = places([1]);
        avoided.add(at(0), &one);
        avoided.add(at(20_000), &one);
        assert_eq!(order(&avoided, at(49_999), [1, 2]), [2, 1]);
        assert_eq!(order(&avoided, at(50_000), [1, 2]), [1, 2]);
    }

    #[test]
    fn where_all_have_failed_the_order_is_the_operators() {
        let avoided = Avoided::default();
        for place in places([3, 1, 2]) {
            avoided.add(at(0), &place);
        }
        assert_eq!(order(&avoided, at(1), [1, 2, 3]), [1, 2, 3]);
    }

    #[test]
    fn the_same_address_by_another_listener_is_another_place() {
        let avoided = Avoided::default();
        avoided.add(at(0), &flow("10.0.0.2:5060", "192.0.2.1:1"));
        assert_eq!(order(&avoided, at(1), [1, 2]), [1, 2]);
    }

    #[test]
    fn no_more_places_are_remembered_than_the_bound_says() {
        let avoided = Avoided::default();
        let count = || avoided.places.lock().expect("no thread panicked").len();
        for (ms, port) in (0..).zip(1_000..1_000 + 2 * KEPT as u16) {
            avoided.add(at(ms), &places([port])[0]);
        }
        assert_eq!(count(), KEPT);
        assert_eq!(order(&avoided, at(600), [1_255, 1_256, 1]), [1_255, 1, 1_256], "the oldest were forgotten");
        avoided.add(at(60_000), &places([1])[0]);
        assert_eq!(count(), 1, "those whose time is over make room first");
    }
}
