//! Bounds what strangers can make us send: error answers per source address and second.

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use sip::Instant;
use std::net::IpAddr;
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Throttle {
    counts: HashMap<IpAddr, u32, FixedState>,
    since: Instant,
}

impl Throttle {
    /// `seed` keeps senders from choosing addresses that collide.
    pub(crate) fn new(now: Instant, seed: u64) -> Self {
        Self { counts: HashMap::with_hasher(FixedState::with_seed(seed)), since: now }
    }

    /// May one more error answer go to `source`? With the table full, an unknown source gets none: there are more of them in this
    /// second than real phones make mistakes.
    pub(crate) fn admits(&mut self, now: Instant, source: IpAddr, per_second: u32, sources: usize) -> bool {
        if now.saturating_since(self.since) >= Duration::from_secs(1) {
            self.counts.clear();
            self.since = now;
        }
        if self.counts.len() >= sources && !self.counts.contains_key(&source) {
            return false;
        }
        let count = self.counts.entry(source).or_insert(0);
        *count = count.saturating_add(1);
        *count <= per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn a_source_gets_its_number_a_second() {
        let start = Instant::from_micros(0);
        let mut throttle = Throttle::new(start, 1);
        for _ in 0..20 {
            assert!(throttle.admits(start, address(1), 20, 10));
        }
        assert!(!throttle.admits(start, address(1), 20, 10));
        assert!(throttle.admits(start, address(2), 20, 10));
        let later = start + Duration::from_secs(1);
        assert!(throttle.admits(later, address(1), 20, 10));
    }

    #[test]
    fn the_table_holds_no_more_sources_than_allowed() {
        let now = Instant::from_micros(0);
        let mut throttle = Throttle::new(now, 1);
        for last in 0..10 {
            assert!(throttle.admits(now, address(last), 5, 10));
        }
        assert!(!throttle.admits(now, address(99), 5, 10));
        assert!(throttle.admits(now, address(3), 5, 10));
        assert_eq!(throttle.counts.len(), 10);
    }
}
