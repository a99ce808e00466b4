//! The generator and the raw relay over the loopback interface of a private namespace.
#![allow(clippy::disallowed_methods, reason = "tests of the sockets open sockets")]

#[path = "../../net/tests/namespace/mod.rs"]
mod namespace;

use load::generator::{Details, Kind, Pace, Settings, run, run_with};
use load::peak::{self, PeakPlan};
use load::relay::{self, RelaySettings};
use load::{Failure, Report};
use net::NetError;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A load whose callee is its own balancer.
fn to_itself(kind: Kind, pace: Pace) -> Settings {
    Settings {
        kind,
        pace,
        duration: Duration::from_secs(3_600),
        balancer: address(5080),
        caller: SocketAddr::from(([0, 0, 0, 0], 0)),
        callee: address(5080),
    }
}

/// Runs a load through the relay; the report and the number of datagrams relayed.
fn through_the_relay(kind: Kind, pace: Pace, milliseconds: u64) -> (Report, u64) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let relaying = scope.spawn(|| {
            let settings =
                RelaySettings { caller_side: address(5060), callee_side: address(5061), callee: address(5080) };
            relay::run(settings, &stop).expect("the namespace is ours")
        });
        for port in [5060, 5061] {
            while UdpSocket::bind(address(port)).is_ok() {
                assert!(!relaying.is_finished(), "the relay ended");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let settings = Settings {
            kind,
            pace,
            duration: Duration::from_millis(milliseconds),
            balancer: address(5060),
            caller: address(5070),
            callee: address(5080),
        };
        let report = run(settings, &AtomicBool::new(false), |_| ());
        stop.store(true, Ordering::Relaxed);
        let relayed = relaying.join().expect("the relay does not panic");
        (report.expect("the namespace is ours"), relayed)
    })
}

#[test]
fn calls_pass_the_relay() {
    if !namespace::alone("calls_pass_the_relay") {
        return;
    }
    let (report, relayed) = through_the_relay(Kind::Call, Pace::Closed { concurrency: 8 }, 300);
    assert_eq!((report.failures(), report.unexpected, report.kernel_drops), (0, 0, 0), "{report}");
    assert!(report.completed >= 50, "{report}");
    assert_eq!(report.started, report.completed, "{report}");
    assert!(report.received >= 6 * report.completed && relayed >= report.received, "{relayed} relayed, {report}");
    assert!(report.latency.quantile(0.5) > 0, "{report}");
}

#[test]
fn registrations_pass_the_relay() {
    if !namespace::alone("registrations_pass_the_relay") {
        return;
    }
    let (report, _) = through_the_relay(Kind::Register, Pace::Closed { concurrency: 4 }, 200);
    assert_eq!((report.failures(), report.unexpected), (0, 0), "{report}");
    assert!(report.completed >= 20, "{report}");
    assert_eq!(report.latency.count(), 2 * report.completed, "{report}");
}

#[test]
fn a_rate_is_kept() {
    if !namespace::alone("a_rate_is_kept") {
        return;
    }
    let (report, _) = through_the_relay(Kind::Options, Pace::Rate { per_second: 200.0 }, 500);
    assert_eq!((report.failures(), report.not_started), (0, 0), "{report}");
    // The last one is due at the very end, and may or may not be begun.
    assert!((99..=101).contains(&report.completed), "{report}");
}

#[test]
fn a_stop_ends_the_load_early() {
    if !namespace::alone("a_stop_ends_the_load_early") {
        return;
    }
    let settings = to_itself(Kind::Options, Pace::Rate { per_second: 100.0 });
    let stop = AtomicBool::new(false);
    let mut told = 0;
    let report = run(settings, &stop, |progress| {
        told += 1;
        assert!(progress.completed >= 50, "{progress}");
        stop.store(true, Ordering::Relaxed);
    })
    .expect("the namespace is ours");
    assert_eq!(told, 1);
    assert_eq!(report.failures(), 0, "{report}");
    assert!(report.elapsed < Duration::from_secs(10), "{report}");
}

#[test]
fn a_count_is_kept_and_the_process_is_measured() {
    if !namespace::alone("a_count_is_kept_and_the_process_is_measured") {
        return;
    }
    let details = Details {
        count: Some(500),
        warm_up: Duration::from_millis(100),
        hold: Duration::from_millis(5),
        processes: vec![std::process::id()],
        ..Details::default()
    };
    let settings = to_itself(Kind::Call, Pace::Closed { concurrency: 10 });
    let report = run_with(settings, &details, &AtomicBool::new(false), |_| ()).expect("the namespace is ours");
    assert!(report.is_success(), "{report}");
    assert_eq!((report.started, report.completed, report.latency.count()), (500, 500, 500), "{report}");
    let target = report.target.expect("a process was named");
    assert!(target.cpu >= target.busiest_thread && target.busiest_thread > Duration::ZERO, "{report}");
    assert!(target.rss_bytes > 100_000 && report.cpu > Duration::ZERO, "{report}");
    assert!(report.sent >= 3_000 && report.refused == 0, "{report}");
}

#[test]
fn a_rate_is_begun_in_time() {
    if !namespace::alone("a_rate_is_begun_in_time") {
        return;
    }
    let details = Details { count: Some(500), ..Details::default() };
    let settings = to_itself(Kind::Options, Pace::Rate { per_second: 1_000.0 });
    let report = run_with(settings, &details, &AtomicBool::new(false), |_| ()).expect("the namespace is ours");
    assert_eq!(report.completed, 500, "{report}");
    assert_eq!(report.lateness.count(), 500, "{report}");
    assert!(report.lateness.quantile(0.5) < 2_000, "{report}");
}

#[test]
fn nobody_there_is_told() {
    if !namespace::alone("nobody_there_is_told") {
        return;
    }
    let settings = Settings { balancer: address(9_999), ..to_itself(Kind::Call, Pace::Closed { concurrency: 3 }) };
    let details = Details {
        answer: false,
        count: Some(3),
        grace: Duration::from_millis(700),
        ready_within: Duration::ZERO,
        ..Details::default()
    };
    let report = run_with(settings, &details, &AtomicBool::new(false), |_| ()).expect("the namespace is ours");
    assert_eq!(report.failed.get(&Failure::Unfinished), Some(&3), "{report}");
    assert!(!report.is_success() && report.refused >= 3 && report.sent_again >= 3, "{report}");
}

#[test]
fn an_address_is_not_shared() {
    if !namespace::alone("an_address_is_not_shared") {
        return;
    }
    let _other = UdpSocket::bind(address(5080)).expect("the namespace is ours");
    let settings = to_itself(Kind::Options, Pace::Closed { concurrency: 1 });
    let refused = run(settings, &AtomicBool::new(false), |_| ());
    assert!(matches!(refused, Err(NetError::AddressInUse { .. })));
}

#[test]
fn a_search_goes_up_until_it_is_stopped() {
    if !namespace::alone("a_search_goes_up_until_it_is_stopped") {
        return;
    }
    let plan =
        PeakPlan { first: 100.0, full: Duration::from_millis(400), short: Duration::from_millis(200), precision: 0.05 };
    let stop = AtomicBool::new(false);
    let mut rates = Vec::new();
    let settings = to_itself(Kind::Call, Pace::Closed { concurrency: 1 });
    let told = |step: &peak::Step| {
        assert!(step.passed, "{step}");
        rates.push(step.per_second);
        stop.store(rates.len() == 2, Ordering::Relaxed);
    };
    let found = peak::find(settings, &Details::default(), plan, &stop, told, |_| ()).expect("the namespace is ours");
    assert_eq!(rates, [100.0, 200.0]);
    assert_eq!((found.steps.len(), found.per_second, found.limit), (2, None, None));
}
