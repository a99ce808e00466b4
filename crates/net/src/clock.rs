//! The one clock of the product.

use crate::datagram;
use sip::Instant;

/// CLOCK_MONOTONIC, in microseconds since the machine started: the same for every thread and every process of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Clock;

impl Clock {
    /// This moment.
    pub fn now() -> Instant {
        Instant::from_micros(datagram::monotonic_micros())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_goes_back() {
        let first = Clock::now();
        let second = Clock::now();
        assert!(second >= first);
        assert!(first.as_micros() > 0);
    }
}
