//! The state of a unit as `status` shows it and as JSON carries it.

use super::events::Events;
use engine::{BackendSnapshot, FarmSnapshot, ServiceSnapshot, Settings, Snapshot};
use net::NetCounters;
use serde::{Deserialize, Serialize};
use sip::Instant;
use std::time::Duration;

#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub(crate) struct Status {
    pub(crate) unit: UnitStatus,
    pub(crate) farms: Vec<FarmStatus>,
    /// Dialogs that are up.
    pub(crate) calls: u64,
    /// Live bindings.
    pub(crate) registrations: u64,
    /// Transactions held, those included that only wait for retransmissions.
    pub(crate) transactions: u64,
    pub(crate) rates: RatesStatus,
    /// Totals since the start. "refused" stands once for each reason that was met, with the reason as its label.
    pub(crate) counters: Vec<CounterStatus>,
    pub(crate) network: NetworkStatus,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub(crate) struct UnitStatus {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) process: u32,
    pub(crate) uptime_s: u64,
    /// The configuration file.
    pub(crate) config: String,
    /// It takes no new calls, and ends.
    pub(crate) draining: bool,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub(crate) struct FarmStatus {
    pub(crate) name: String,
    pub(crate) listeners: Vec<String>,
    pub(crate) services: Vec<ServiceStatus>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub(crate) struct ServiceStatus {
    pub(crate) name: String,
    pub(crate) algorithm: String,
    pub(crate) backends: Vec<BackendStatus>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub(crate) struct BackendStatus {
    pub(crate) name: String,
    pub(crate) address: String,
    /// up, down, drain, cut or full.
    pub(crate) state: String,
    /// Why it is down, where that is known.
    pub(crate) cause: Option<String>,
    pub(crate) weight: u32,
    pub(crate) priority: u32,
    /// Calls up and being set up.
    pub(crate) calls: u64,
    pub(crate) requests: u64,
    pub(crate) requests_per_s: f64,
    pub(crate) failures: u64,
    /// Mean time to the first answer.
    pub(crate) latency_us: u64,
}

/// Over the last second.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub(crate) struct RatesStatus {
    pub(crate) requests_per_s: f64,
    pub(crate) responses_per_s: f64,
    pub(crate) calls_per_s: f64,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub(crate) struct CounterStatus {
    pub(crate) name: String,
    /// "" for none.
    pub(crate) label: String,
    pub(crate) value: u64,
}

/// Datagrams.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub(crate) struct NetworkStatus {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// Dropped by the kernel before we read them.
    pub(crate) kernel_drops: u64,
    /// Dropped because their shard was busy and its inbox full.
    pub(crate) inbox_overflow: u64,
    pub(crate) send_errors: u64,
    pub(crate) received_per_s: f64,
    pub(crate) sent_per_s: f64,
    pub(crate) workers: Vec<WorkerStatus>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub(crate) struct WorkerStatus {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// Datagrams taken from a sibling's sockets.
    pub(crate) helped: u64,
    /// Share of the last second that it did not wait.
    pub(crate) busy_percent: f64,
}

/// The counters at one moment.
pub(crate) struct Sample {
    pub(crate) at: Instant,
    pub(crate) snapshot: Snapshot,
    pub(crate) network: NetCounters,
}

/// The last two samples, from which all rates are taken.
#[derive(Default)]
pub(crate) struct Rates {
    older: Option<Sample>,
    newer: Option<Sample>,
}

impl Status {
    pub(crate) fn new(unit: UnitStatus, now: &Sample, rates: &Rates, settings: &Settings, events: &Events) -> Self {
        let farms = now.snapshot.farms.iter().map(|farm| farm_status(farm, rates, settings, events)).collect();
        let counters = now.snapshot.counters.iter().map(|(name, label, value)| CounterStatus {
            name: (*name).to_owned(),
            label: (*label).to_owned(),
            value: *value,
        });
        Self {
            unit,
            farms,
            calls: now.snapshot.calls,
            registrations: now.snapshot.registrations,
            transactions: now.snapshot.transactions,
            rates: RatesStatus {
                requests_per_s: rates.per_second(|sample| counter(sample, "requests")),
                responses_per_s: rates.per_second(|sample| counter(sample, "responses")),
                calls_per_s: rates.per_second(|sample| counter(sample, "calls_started")),
            },
            counters: counters.collect(),
            network: network_status(&now.network, rates),
        }
    }
}

impl Rates {
    /// Whether it is time for the next sample.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.newer.as_ref().is_none_or(|newer| now.saturating_since(newer.at) >= SAMPLE_EVERY)
    }

    pub(crate) fn add(&mut self, sample: Sample) {
        self.older = self.newer.replace(sample);
    }

    /// What `read` grew by between the samples, per second, with one decimal; 0 before the second sample.
    fn per_second(&self, read: impl Fn(&Sample) -> u64) -> f64 {
        let (Some(older), Some(newer)) = (&self.older, &self.newer) else { return 0.0 };
        let seconds = newer.at.saturating_since(older.at).as_secs_f64();
        if seconds > 0.0 { one_decimal(read(newer).saturating_sub(read(older)) as f64 / seconds) } else { 0.0 }
    }
}

fn farm_status(farm: &FarmSnapshot, rates: &Rates, settings: &Settings, events: &Events) -> FarmStatus {
    let services = farm.services.iter().map(|service| ServiceStatus {
        name: service.name.clone(),
        algorithm: service.algorithm.to_owned(),
        backends: service
            .backends
            .iter()
            .map(|backend| backend_status(farm, service, backend, rates, settings, events))
            .collect(),
    });
    FarmStatus { name: farm.name.clone(), listeners: farm.listeners.clone(), services: services.collect() }
}

fn backend_status(
    farm: &FarmSnapshot,
    service: &ServiceSnapshot,
    backend: &BackendSnapshot,
    rates: &Rates,
    settings: &Settings,
    events: &Events,
) -> BackendStatus {
    let configured = settings
        .farms
        .iter()
        .filter(|known| known.name == farm.name)
        .flat_map(|known| &known.backends)
        .find(|known| known.name == backend.name);
    let cause = configured.filter(|_| backend.state == "down").and_then(|known| events.cause(known.id));
    BackendStatus {
        name: backend.name.clone(),
        address: backend.address.clone(),
        state: backend.state.to_owned(),
        cause,
        weight: backend.weight,
        priority: backend.priority,
        calls: backend.calls,
        requests: backend.requests,
        requests_per_s: rates.per_second(|sample| requests(sample, &farm.name, &service.name, &backend.name)),
        failures: backend.failures,
        latency_us: backend.latency_us,
    }
}

fn network_status(network: &NetCounters, rates: &Rates) -> NetworkStatus {
    let workers = network.workers.iter().enumerate().map(|(index, worker)| WorkerStatus {
        received: worker.received,
        sent: worker.sent,
        helped: worker.helped,
        // Microseconds in a second are ten-thousandths of a percent.
        busy_percent: one_decimal(rates.per_second(|sample| busy_us(sample, index)) / 10_000.0),
    });
    NetworkStatus {
        received: network.received,
        sent: network.sent,
        kernel_drops: network.kernel_drops,
        inbox_overflow: network.inbox_overflow,
        send_errors: network.send_errors,
        received_per_s: rates.per_second(|sample| sample.network.received),
        sent_per_s: rates.per_second(|sample| sample.network.sent),
        workers: workers.collect(),
    }
}

fn counter(sample: &Sample, name: &str) -> u64 {
    sample.snapshot.counters.iter().find(|(known, _, _)| *known == name).map_or(0, |(_, _, value)| *value)
}

fn requests(sample: &Sample, farm: &str, service: &str, backend: &str) -> u64 {
    sample
        .snapshot
        .farms
        .iter()
        .filter(|known| known.name == farm)
        .flat_map(|known| &known.services)
        .filter(|known| known.name == service)
        .flat_map(|known| &known.backends)
        .find(|known| known.name == backend)
        .map_or(0, |known| known.requests)
}

fn busy_us(sample: &Sample, worker: usize) -> u64 {
    let busy = sample.network.workers.get(worker).map_or(Duration::ZERO, |worker| worker.busy);
    u64::try_from(busy.as_micros()).unwrap_or(u64::MAX)
}

fn one_decimal(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

const SAMPLE_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_ms: u64, requests: u64) -> Sample {
        let snapshot = Snapshot { counters: vec![("requests", "", requests)], ..Snapshot::default() };
        Sample { at: Instant::from_micros(at_ms * 1_000), snapshot, network: NetCounters::default() }
    }

    #[test]
    fn rates_are_those_between_the_last_two_samples() {
        let mut rates = Rates::default();
        let read = |rates: &Rates| rates.per_second(|sample| counter(sample, "requests"));
        assert!(rates.is_due(Instant::from_micros(0)));
        rates.add(sample(1_000, 100));
        assert_eq!(read(&rates), 0.0);
        assert!(!rates.is_due(Instant::from_micros(1_999_999)));
        assert!(rates.is_due(Instant::from_micros(2_000_000)));
        rates.add(sample(3_000, 350));
        assert_eq!(read(&rates), 125.0);
        rates.add(sample(6_000, 351));
        assert_eq!(read(&rates), 0.3);
    }

    #[test]
    fn busy_workers_are_told_in_percent() {
        let with = |at_ms: u64, busy_ms: u64| {
            let mut sample = sample(at_ms, 0);
            let busy = Duration::from_millis(busy_ms);
            sample.network.workers.push(net::WorkerCounters { busy, ..net::WorkerCounters::default() });
            sample
        };
        let mut rates = Rates::default();
        rates.add(with(1_000, 100));
        let newest = with(2_000, 350);
        let network = newest.network.clone();
        rates.add(newest);
        let status = network_status(&network, &rates);
        assert_eq!(status.workers.first().map(|worker| worker.busy_percent), Some(25.0));
    }
}
