//! A REGISTER that its backend need not see: the phone was told `max_expires`, which is less than the backend granted.

use crate::decide::{Arrival, Decider, Routes, Trace};
use crate::id::BackendId;
use crate::register::{Candidate, Refreshing};

impl<T: Trace> Decider<'_, T> {
    /// `None`: it goes to a backend, like any other request. So it does when its backend is not available, or was not at any time
    /// since it granted: then the user moves, or the backend may have forgotten him.
    pub(crate) fn refresh<'m>(&mut self, arrival: &Arrival<'m>) -> Option<Refreshing<'m>> {
        let shared = self.shared;
        let candidate = Candidate::read(arrival, &shared.secrets)?;
        if arrival.origin.is_backend() || shared.is_draining() {
            return None;
        }
        let routes = Routes::read(&shared.secrets, arrival).ok()?;
        if routes.token.is_some() {
            return None;
        }
        let fresh = shared.directory.fresh(self.now, &candidate.asked)?;
        let outages = shared.outages.count();
        if self.was_down(fresh.backend, fresh.outages, outages) {
            return None;
        }
        let service = self.service_of(arrival).ok()?;
        self.available(arrival, service, fresh.backend)?;
        if !T::DRY {
            shared.directory.refreshed(self.now, &candidate.asked, outages);
        }
        Some(Refreshing { candidate, fresh })
    }

    /// Between the outages with these numbers. Those that are no longer kept may have been its own.
    fn was_down(&self, backend: BackendId, seen: u64, count: u64) -> bool {
        if seen == count {
            return false;
        }
        let since = self.shared.outages.since(seen);
        (since.len() as u64) < count.saturating_sub(seen) || since.iter().any(|outage| outage.backend == backend)
    }
}
