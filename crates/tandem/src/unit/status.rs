//! The state of a unit as `status` shows it and as JSON carries it.

mod guardians;
mod names;

pub(crate) use guardians::GuardianStatus;
pub(crate) use names::NameStatus;

use super::events::{Events, words};
use super::guardians::Notes;
use super::retired::{Place, Retired};
use engine::{BackendId, BackendSnapshot, FarmSnapshot, Guardian, ServiceSnapshot, Settings, Snapshot};
use net::{NetCounters, StreamCounters};
use serde::{Deserialize, Serialize};
use sip::Instant;
use std::sync::Arc;
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
    /// Totals since the start, but for the connections. "refused", "connections_ended" and "events" stand once for each reason or kind
    /// that was met, with it as their label.
    pub(crate) counters: Vec<CounterStatus>,
    pub(crate) network: NetworkStatus,
    /// Those that tls and wss listeners show.
    pub(crate) certificates: Vec<CertificateStatus>,
    /// Those that the configuration needs.
    pub(crate) names: Vec<NameStatus>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub(crate) struct CertificateStatus {
    pub(crate) file: String,
    pub(crate) names: Vec<String>,
    /// The last second at which it is valid, in seconds of Unix time.
    pub(crate) not_after: i64,
    /// Whole days until then; negative: it is over.
    pub(crate) days_left: i64,
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
    /// up, down, drain, cut, full or retired: removed by a reload, and calls are left.
    pub(crate) state: String,
    /// Everything that keeps it down.
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
    /// Its active checks.
    #[serde(default)]
    pub(crate) guardians: Vec<GuardianStatus>,
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
    /// Who broke the rules of TLS, of a WebSocket or of framing last, and how.
    pub(crate) last_fault: Option<String>,
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

/// What was heard of backends besides the counters.
pub(crate) struct Heard<'a> {
    pub(crate) events: &'a Events,
    pub(crate) notes: &'a Notes,
}

/// What all backends of a status are shown by.
struct Background<'a> {
    at: Instant,
    rates: &'a Rates,
    settings: &'a Settings,
    notes: &'a Notes,
}

/// The last two samples, from which all rates are taken.
#[derive(Default)]
pub(crate) struct Rates {
    older: Option<Sample>,
    newer: Option<Sample>,
}

impl Status {
    pub(crate) fn new(
        unit: UnitStatus,
        now: &Sample,
        rates: &Rates,
        settings: &Settings,
        heard: &Heard<'_>,
        retired: &Retired,
    ) -> Self {
        let background = Background { at: now.at, rates, settings, notes: heard.notes };
        let mut farms: Vec<FarmStatus> = now.snapshot.farms.iter().map(|farm| farm_status(farm, &background)).collect();
        add_retired(&mut farms, now, rates, retired);
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
            counters: counters.chain(stream_counters(&now.network.streams)).chain(check_counters(heard)).collect(),
            network: network_status(&now.network, rates),
            certificates: Vec::new(),
            names: Vec::new(),
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

fn farm_status(farm: &FarmSnapshot, background: &Background<'_>) -> FarmStatus {
    let services = farm.services.iter().map(|service| ServiceStatus {
        name: service.name.clone(),
        algorithm: service.algorithm.to_owned(),
        backends: service.backends.iter().map(|backend| backend_status(farm, service, backend, background)).collect(),
    });
    FarmStatus { name: farm.name.clone(), listeners: farm.listeners.clone(), services: services.collect() }
}

fn backend_status(
    farm: &FarmSnapshot,
    service: &ServiceSnapshot,
    backend: &BackendSnapshot,
    background: &Background<'_>,
) -> BackendStatus {
    let read = |sample: &Sample| requests(sample, &farm.name, &service.name, &backend.name);
    let mut status = shown(backend, background.rates.per_second(read));
    let configured = background.settings.farms.iter().filter(|known| known.name == farm.name).find_map(|farm| {
        let known = farm.backends.iter().find(|known| known.name == backend.name)?;
        Some((known.id, engine::guardians_of(farm, known)))
    });
    if let Some((id, guardians)) = configured {
        let of_guardian = |guardian: &Arc<Guardian>| {
            let note = background.notes.last(id, &guardian.name);
            GuardianStatus::new(guardian, &backend.checks, note, background.at)
        };
        status.guardians = guardians.iter().map(of_guardian).collect();
    }
    status
}

fn shown(backend: &BackendSnapshot, requests_per_s: f64) -> BackendStatus {
    let causes: Vec<String> = backend.down_causes.iter().map(words).collect();
    BackendStatus {
        name: backend.name.clone(),
        address: backend.address.clone(),
        state: backend.state.to_owned(),
        cause: (backend.state == "down" && !causes.is_empty()).then(|| causes.join("; ")),
        weight: backend.weight,
        priority: backend.priority,
        calls: backend.calls,
        requests: backend.requests,
        requests_per_s,
        failures: backend.failures,
        latency_us: backend.latency_us,
        guardians: Vec::new(),
    }
}

/// Backends that a reload removed stand where they stood; a farm or a service that went with them is shown again, with them alone.
fn add_retired(farms: &mut Vec<FarmStatus>, now: &Sample, rates: &Rates, retired: &Retired) {
    let mut left: Vec<&(BackendId, BackendSnapshot)> = now.snapshot.retired.iter().collect();
    left.sort_by(|(_, one), (_, other)| one.name.cmp(&other.name));
    for (id, backend) in left {
        let Some(place) = retired.place(*id) else { continue };
        for (service, algorithm) in &place.services {
            let read = |sample: &Sample| requests_of_retired(sample, *id, place, service, &backend.name);
            let status = shown(backend, rates.per_second(read));
            service_called(farm_called(farms, &place.farm), service, algorithm).backends.push(status);
        }
    }
}

fn farm_called<'a>(farms: &'a mut Vec<FarmStatus>, name: &str) -> &'a mut FarmStatus {
    let known = farms.iter().position(|farm| farm.name == name);
    let at = known.unwrap_or_else(|| {
        farms.push(FarmStatus { name: name.to_owned(), listeners: Vec::new(), services: Vec::new() });
        farms.len() - 1
    });
    &mut farms[at]
}

fn service_called<'a>(farm: &'a mut FarmStatus, name: &str, algorithm: &str) -> &'a mut ServiceStatus {
    let services = &mut farm.services;
    let known = services.iter().position(|service| service.name == name);
    let at = known.unwrap_or_else(|| {
        services.push(ServiceStatus { name: name.to_owned(), algorithm: algorithm.to_owned(), backends: Vec::new() });
        services.len() - 1
    });
    &mut services[at]
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
        last_fault: network.streams.last_fault.as_ref().map(|fault| format!("{}: {}", fault.remote, fault.text)),
        received_per_s: rates.per_second(|sample| sample.network.received),
        sent_per_s: rates.per_second(|sample| sample.network.sent),
        workers: workers.collect(),
    }
}

impl CertificateStatus {
    /// A certificate as seen at this moment, in milliseconds of Unix time.
    pub(crate) fn at(known: net::CertificateStatus, unix_ms: u64) -> Self {
        let now = i64::try_from(unix_ms / 1_000).unwrap_or(i64::MAX);
        Self {
            file: known.file,
            names: known.names,
            not_after: known.not_after_unix,
            days_left: known.not_after_unix.saturating_sub(now).div_euclid(DAY_SECONDS),
        }
    }
}

fn stream_counters(streams: &StreamCounters) -> impl Iterator<Item = CounterStatus> {
    let named = [
        ("connections", streams.connections),
        ("connections_dozing", streams.dozing),
        ("connections_accepted", streams.accepted),
        ("connections_opened", streams.opened),
        ("connections_not_accepted", streams.accept_failures),
        ("stream_messages_received", streams.received),
        ("stream_messages_sent", streams.sent),
        ("stream_messages_not_sent", streams.not_sent),
        ("stream_messages_resent", streams.resent),
        ("stream_queues_full", streams.queue_full),
    ];
    let ended = streams.ended.iter().filter(|(_, value)| *value > 0).map(|(label, value)| (ENDED, *label, *value));
    named.into_iter().map(|(name, value)| (name, "", value)).chain(ended).map(|(name, label, value)| CounterStatus {
        name: name.to_owned(),
        label: label.to_owned(),
        value,
    })
}

/// Events by kind, and the checks that the unit makes itself.
fn check_counters(heard: &Heard<'_>) -> impl Iterator<Item = CounterStatus> {
    let events = heard.events.counts().into_iter().map(|(kind, value)| (EVENTS, kind, value));
    let checks = heard.notes.counters().into_iter().map(|(name, value)| (name, "", value));
    checks.chain(events).map(|(name, label, value)| CounterStatus {
        name: name.to_owned(),
        label: label.to_owned(),
        value,
    })
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

/// In samples from before the reload it stands among the others.
fn requests_of_retired(sample: &Sample, id: BackendId, place: &Place, service: &str, name: &str) -> u64 {
    let known = sample.snapshot.retired.iter().find(|(known, _)| *known == id);
    known.map_or_else(|| requests(sample, &place.farm, service, name), |(_, backend)| backend.requests)
}

fn busy_us(sample: &Sample, worker: usize) -> u64 {
    let busy = sample.network.workers.get(worker).map_or(Duration::ZERO, |worker| worker.busy);
    u64::try_from(busy.as_micros()).unwrap_or(u64::MAX)
}

fn one_decimal(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

const DAY_SECONDS: i64 = 24 * 3_600;
const ENDED: &str = "connections_ended";
const EVENTS: &str = "events";
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use engine::DownCause;

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

    fn snapshot(name: &str, state: &'static str, requests: u64) -> BackendSnapshot {
        BackendSnapshot {
            name: name.to_owned(),
            address: "127.0.0.11:5060".to_owned(),
            state,
            weight: 1,
            priority: 1,
            calls: 2,
            requests,
            ..BackendSnapshot::default()
        }
    }

    fn settings(backends: &[&str]) -> Settings {
        let mut text = "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:127.0.0.1:5060\"]\n".to_owned();
        for (host, name) in backends.iter().enumerate() {
            text.push_str(&format!("[[farm.backend]]\nname = \"{name}\"\naddress = \"127.0.0.{}:5060\"\n", host + 11));
        }
        match config::load("a.toml", &text) {
            Ok(checked) => checked.settings,
            Err(errors) => panic!("{errors:?}"),
        }
    }

    /// One sample with backend "a" at work, one after a reload that removed it while it had calls.
    fn samples(id: BackendId) -> (Sample, Sample) {
        let mut before = sample(1_000, 0);
        let services = |backends: Vec<BackendSnapshot>| {
            vec![ServiceSnapshot { name: "default".to_owned(), algorithm: "weight", backends }]
        };
        let farm = |backends: Vec<BackendSnapshot>| FarmSnapshot {
            name: "pbx".to_owned(),
            listeners: vec!["udp:127.0.0.1:5060".to_owned()],
            services: services(backends),
        };
        before.snapshot.farms = vec![farm(vec![snapshot("a", "up", 100), snapshot("b", "up", 7)])];
        let mut after = sample(2_000, 0);
        after.snapshot.farms = vec![farm(vec![snapshot("b", "up", 7)])];
        after.snapshot.retired = vec![(id, snapshot("a", "retired", 130))];
        (before, after)
    }

    fn states(farms: &[FarmStatus]) -> Vec<(&str, &str, &str, f64)> {
        let mut states = Vec::new();
        for farm in farms {
            for service in &farm.services {
                for backend in &service.backends {
                    let (farm, name, state) = (farm.name.as_str(), backend.name.as_str(), backend.state.as_str());
                    states.push((farm, name, state, backend.requests_per_s));
                }
            }
        }
        states
    }

    #[test]
    fn a_removed_backend_with_calls_is_retired() {
        let (both, one) = (settings(&["a", "b"]), settings(&["x", "b"]));
        let id = both.farms.first().and_then(|farm| farm.backends.first()).expect("two are written").id;
        let mut retired = Retired::default();
        retired.follow(&both, &one, &[]);
        let (before, after) = samples(id);
        let mut farms = vec![FarmStatus {
            name: "pbx".to_owned(),
            listeners: vec!["udp:127.0.0.1:5060".to_owned()],
            services: Vec::new(),
        }];
        let mut rates = Rates::default();
        rates.add(before);
        let again = samples(id).1;
        rates.add(after);
        add_retired(&mut farms, &again, &rates, &retired);
        assert_eq!(states(&farms), [("pbx", "a", "retired", 30.0)]);
        let json = serde_json::to_string(&farms).expect("a status can be written");
        assert!(json.contains("\"state\":\"retired\""), "{json}");
    }

    #[test]
    fn a_retired_backend_brings_its_farm_back() {
        let both = settings(&["a", "b"]);
        let id = both.farms.first().and_then(|farm| farm.backends.first()).expect("two are written").id;
        let mut retired = Retired::default();
        retired.follow(&both, &Settings::default(), &[]);
        let mut farms = Vec::new();
        add_retired(&mut farms, &samples(id).1, &Rates::default(), &retired);
        assert_eq!(states(&farms), [("pbx", "a", "retired", 0.0)]);
        assert!(farms.iter().all(|farm| farm.listeners.is_empty()));
    }

    #[test]
    fn a_backend_is_shown_with_its_causes_and_guardians() {
        let settings = settings(&["a"]);
        let down = |state: &'static str| BackendSnapshot {
            down_causes: vec![DownCause::TimedOut, DownCause::Unreachable],
            ..snapshot("a", state, 1)
        };
        let cause = shown(&down("down"), 0.0).cause.unwrap_or_default();
        assert!(cause.starts_with("requests in a row stayed unanswered; the network says"), "{cause}");
        assert_eq!(shown(&down("drain"), 0.0).cause, None);
        assert_eq!(shown(&snapshot("a", "down", 1), 0.0).cause, None);
        let farm = FarmSnapshot { name: "pbx".to_owned(), listeners: Vec::new(), services: Vec::new() };
        let service = ServiceSnapshot { name: "default".to_owned(), algorithm: "weight", backends: Vec::new() };
        let (rates, notes) = (Rates::default(), Notes::default());
        let at = Instant::from_micros(1);
        let background = Background { at, rates: &rates, settings: &settings, notes: &notes };
        let status = backend_status(&farm, &service, &snapshot("a", "up", 1), &background);
        let guardians: Vec<(&str, &str)> =
            status.guardians.iter().map(|one| (one.name.as_str(), one.state.as_str())).collect();
        assert_eq!(guardians, [("options", "unchecked")]);
        let unknown = backend_status(&farm, &service, &snapshot("x", "up", 1), &background);
        assert!(unknown.guardians.is_empty());
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
