//! The addresses of names that are passed over while they are down. The time is an argument.

use sip::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// By address: of a backend by name with several addresses the best one that is not here is used.
#[derive(Default)]
pub(super) struct PassedOver(BTreeMap<SocketAddr, Standing>);

enum Standing {
    /// It is pinged all the time, so that it is heard when it is back.
    Pinged,
    /// Nothing would ever be heard of it: it is used again after a pause.
    Resting { until: Instant, pause: Duration },
    /// It is used again, and was not heard to be up yet.
    Tried { until: Instant, pause: Duration },
}

impl PassedOver {
    /// The address is down. `pinged`: its answers to pings will say when it is up.
    pub(super) fn down(&mut self, now: Instant, address: SocketAddr, pinged: bool) {
        let pause = match self.0.get(&address) {
            Some(Standing::Tried { pause, .. }) => (*pause * 2).min(PAUSE_LONGEST),
            Some(Standing::Resting { pause, .. }) => *pause,
            Some(Standing::Pinged) | None => PAUSE_FIRST,
        };
        let standing = if pinged { Standing::Pinged } else { Standing::Resting { until: now + pause, pause } };
        self.0.insert(address, standing);
    }

    /// The address is up.
    pub(super) fn up(&mut self, address: SocketAddr) {
        self.0.remove(&address);
    }

    /// Ends what is over. `is_known`: the address is a backend of the running configuration, used or pinged.
    pub(super) fn advance(&mut self, now: Instant, is_known: impl Fn(SocketAddr) -> bool) {
        self.0.retain(|address, standing| match standing {
            // A name that does not lead there any more may do so again another day.
            Standing::Pinged => is_known(*address),
            Standing::Resting { until, pause } => {
                if *until <= now {
                    *standing = Standing::Tried { until: now + TRIAL, pause: *pause };
                }
                true
            }
            Standing::Tried { until, pause } => {
                if now < *until {
                    return true;
                }
                let pause = (*pause * 2).min(PAUSE_LONGEST);
                *standing = Standing::Resting { until: now + pause, pause };
                is_known(*address)
            }
        });
    }

    /// When something is over.
    pub(super) fn due(&self) -> Option<Instant> {
        let times = self.0.values().filter_map(|standing| match standing {
            Standing::Pinged => None,
            Standing::Resting { until, .. } | Standing::Tried { until, .. } => Some(*until),
        });
        times.min()
    }

    pub(super) fn addresses(&self) -> BTreeSet<SocketAddr> {
        let over = self.0.iter().filter(|(_, standing)| !matches!(standing, Standing::Tried { .. }));
        over.map(|(address, _)| *address).collect()
    }
}

const PAUSE_FIRST: Duration = Duration::from_secs(60);
/// Every trial that fails may cost callers a few seconds.
const PAUSE_LONGEST: Duration = Duration::from_secs(3_600);
/// What is up is heard of with the first request that it answers.
const TRIAL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    fn address() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 21], 5060))
    }

    fn is_over(over: &PassedOver) -> bool {
        over.addresses().contains(&address())
    }

    #[test]
    fn what_is_pinged_is_passed_over_until_it_is_up() {
        let mut over = PassedOver::default();
        over.down(at(0), address(), true);
        over.advance(at(100_000), |_| true);
        assert!(is_over(&over));
        assert_eq!(over.due(), None);
        over.up(address());
        assert!(!is_over(&over));
        over.down(at(0), address(), true);
        over.advance(at(1), |_| false);
        assert!(!is_over(&over), "no name leads there any more");
    }

    #[test]
    fn what_is_not_pinged_is_tried_again_at_growing_intervals() {
        let mut over = PassedOver::default();
        over.down(at(0), address(), false);
        assert_eq!(over.due(), Some(at(60)));
        over.advance(at(59), |_| true);
        assert!(is_over(&over));
        over.advance(at(60), |_| true);
        assert!(!is_over(&over));
        assert_eq!(over.due(), Some(at(70)));
        over.advance(at(69), |_| true);
        assert!(!is_over(&over));
        // Nothing was heard of it.
        over.advance(at(70), |_| true);
        assert!(is_over(&over));
        assert_eq!(over.due(), Some(at(190)));
        over.advance(at(190), |_| true);
        over.down(at(191), address(), false);
        assert_eq!(over.due(), Some(at(191 + 240)));
        over.advance(at(431), |_| true);
        over.up(address());
        assert_eq!(over.due(), None);
        over.down(at(500), address(), false);
        assert_eq!(over.due(), Some(at(560)), "it begins anew after it was up");
    }

    #[test]
    fn the_longest_pause_is_an_hour() {
        let mut over = PassedOver::default();
        let mut now = at(0);
        for _ in 0..20 {
            over.down(now, address(), false);
            now = over.due().expect("it is tried again");
            over.advance(now, |_| true);
        }
        let tried = now;
        over.down(tried, address(), false);
        assert_eq!(over.due(), Some(tried + Duration::from_secs(3_600)));
    }

    #[test]
    fn a_trial_of_an_address_that_is_gone_is_forgotten() {
        let mut over = PassedOver::default();
        over.down(at(0), address(), false);
        over.advance(at(60), |_| false);
        over.advance(at(70), |_| false);
        assert_eq!(over.due(), None);
        assert!(!is_over(&over));
    }
}
