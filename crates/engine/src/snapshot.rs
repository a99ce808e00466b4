//! The state of a unit as plain data, for `status`, metrics and tests.

use crate::counters::Counter;
use crate::id::BackendId;
use crate::io::DownCause;
use crate::pool::CheckView;
use crate::running::{FarmView, KnownBackend};
use crate::shared::Shared;
use sip::Instant;
use std::sync::atomic::Ordering;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    pub farms: Vec<FarmSnapshot>,
    /// Backends that left the configuration and still have calls, by their ids; their state is "retired".
    pub retired: Vec<(BackendId, BackendSnapshot)>,
    /// Name, label ("" for none) and value.
    pub counters: Vec<(&'static str, &'static str, u64)>,
    /// Transactions held by all shards.
    pub transactions: u64,
    /// Those among them that have no final answer yet.
    pub unanswered: u64,
    /// Live bindings of all farms.
    pub registrations: u64,
    /// Dialogs remembered.
    pub calls: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FarmSnapshot {
    pub name: String,
    pub listeners: Vec<String>,
    pub services: Vec<ServiceSnapshot>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceSnapshot {
    pub name: String,
    pub algorithm: &'static str,
    pub backends: Vec<BackendSnapshot>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BackendSnapshot {
    pub name: String,
    pub address: String,
    /// up, down, drain, cut, full or retired.
    pub state: &'static str,
    pub weight: u32,
    pub priority: u32,
    /// Calls up and being set up.
    pub calls: u64,
    /// Requests sent to it, and those that it failed to answer or answered with 5xx.
    pub requests: u64,
    pub failures: u64,
    /// Peak-sensitive mean of the first answer's time.
    pub latency_us: u64,
    /// Everything that keeps it down or set aside.
    pub down_causes: Vec<DownCause>,
    /// What its guardians found lately.
    pub checks: Vec<CheckView>,
}

impl Shared {
    /// The unit as it is now. Counters of different shards are read one after another, so sums may be a message apart.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let running = self.running();
        let mut counters: Vec<(&'static str, &'static str, u64)> = Counter::ALL
            .iter()
            .map(|(counter, name)| {
                let sum = self.counters.iter().map(|shard| shard.value(*counter)).sum();
                (*name, "", sum)
            })
            .collect();
        let mut faults: Vec<(&'static str, u64)> = Vec::new();
        for shard in &self.counters {
            for (at, (label, value)) in shard.faults().enumerate() {
                match faults.get_mut(at) {
                    Some(known) => known.1 += value,
                    None => faults.push((label, value)),
                }
            }
        }
        let met = faults.into_iter().filter(|(_, value)| *value > 0);
        counters.extend(met.map(|(label, value)| ("refused", label, value)));
        Snapshot {
            farms: running.farms().map(|farm| farm_of(farm, now)).collect(),
            retired: running.retired().map(|(id, known)| (id, retired_of(known))).collect(),
            counters,
            transactions: u64::from(self.transactions.load(Ordering::Relaxed)),
            unanswered: self.counters.iter().map(|shard| shard.unanswered()).sum(),
            registrations: self.directory.bindings(),
            calls: self.directory.dialogs(),
        }
    }
}

fn farm_of(farm: FarmView<'_>, now: Instant) -> FarmSnapshot {
    let settings = farm.settings;
    FarmSnapshot {
        name: settings.name.clone(),
        listeners: settings
            .listeners
            .iter()
            .map(|listener| format!("{}:{}", listener.transport.name(), listener.bind))
            .collect(),
        services: settings
            .services
            .iter()
            .map(|service| ServiceSnapshot {
                name: service.name.clone(),
                algorithm: service.algorithm.name(),
                backends: service.backends.iter().map(|&index| backend_of(farm, index, now)).collect(),
            })
            .collect(),
    }
}

fn backend_of(farm: FarmView<'_>, index: usize, now: Instant) -> BackendSnapshot {
    let settings = &farm.settings.backends[index];
    let state = &farm.running.states[index];
    BackendSnapshot {
        name: settings.name.clone(),
        address: settings.address.to_string(),
        state: state.state_name(now),
        weight: settings.weight,
        priority: settings.priority,
        calls: state.calls(),
        requests: state.requests(),
        failures: state.failures(),
        latency_us: state.latency().as_micros() as u64,
        down_causes: state.down_causes(),
        checks: state.checks(),
    }
}

fn retired_of(known: &KnownBackend) -> BackendSnapshot {
    let state = &known.state;
    BackendSnapshot {
        name: known.name.clone(),
        address: known.reach.address().to_string(),
        state: "retired",
        weight: 0,
        priority: 0,
        calls: state.calls(),
        requests: state.requests(),
        failures: state.failures(),
        latency_us: state.latency().as_micros() as u64,
        // Nobody checks it any more.
        down_causes: Vec::new(),
        checks: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use crate::token::Secrets;
    use sip::Fault;

    #[test]
    fn shards_are_added_up_and_only_faults_that_were_met_are_listed() {
        let secrets = Secrets { key_id: 7, key: [1; 16], previous: None, contact_key: [2; 16], epoch: 1_700_000_000 };
        let now = Instant::from_micros(0);
        let shared = Shared::new(Settings::default(), secrets, 2, now, 0, 0);
        for (shard, requests, not_sip, via) in [(0, 1, 2, 0), (1, 4, 3, 1)] {
            let counters = &shared.counters[shard];
            (0..requests).for_each(|_| counters.add(Counter::Requests));
            (0..not_sip).for_each(|_| counters.add_fault(Fault::NotSip));
            (0..via).for_each(|_| counters.add_fault(Fault::Via));
            counters.await_answer(true);
        }
        shared.transactions.store(9, Ordering::Relaxed);
        let snapshot = shared.snapshot(now);
        let of = |wanted: &str| -> Vec<(&'static str, u64)> {
            let named = snapshot.counters.iter().filter(|(name, _, _)| *name == wanted);
            named.map(|(_, label, value)| (*label, *value)).collect()
        };
        assert_eq!(of("requests"), [("", 5)]);
        assert_eq!(of("pings"), [("", 0)]);
        assert_eq!(of("refused"), [("not_sip", 5), ("via", 1)]);
        assert_eq!((snapshot.transactions, snapshot.unanswered), (9, 2));
    }

    #[test]
    fn a_backend_is_shown_with_what_its_guardians_found() {
        use crate::io::unit::{secrets, settings};
        use crate::pool::world::{failed, good, guardian};
        let now = Instant::from_micros(5);
        let settings = settings(|farm| farm.services[0].guardians = vec![guardian("call", 1, 1)]);
        let backend = settings.farms[0].backends[1].id;
        let shared = Shared::new(settings, secrets(), 1, now, 0, 0);
        shared.on_check(now, backend, "call", &good());
        shared.on_check(now, backend, "call", &failed("no audio"));
        let shown = shared.snapshot(now).farms.remove(0).services.remove(0).backends;
        let [first, second] = shown.as_slice() else { panic!("there are two boxes") };
        assert_eq!((first.state, first.down_causes.len(), first.checks.len()), ("up", 0, 1));
        let cause = DownCause::Check { guardian: "call".into(), reason: "no audio".into() };
        assert_eq!((second.state, second.down_causes.as_slice()), ("down", [cause].as_slice()));
        let history: Vec<bool> =
            second.checks.iter().flat_map(|check| &check.history).map(|(_, took)| took.is_some()).collect();
        assert_eq!(history, [true, false]);
    }
}
