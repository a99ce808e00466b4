//! The generator and the raw relay over the loopback interface of a private namespace.
#![allow(clippy::disallowed_methods, reason = "tests of the sockets open sockets")]

#[path = "../../net/tests/namespace/mod.rs"]
mod namespace;

use load::Report;
use load::generator::{Kind, Pace, Settings, run};
use load::relay::{self, RelaySettings};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
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
    let settings = Settings {
        kind: Kind::Options,
        pace: Pace::Rate { per_second: 100.0 },
        duration: Duration::from_secs(3_600),
        balancer: address(5080),
        caller: address(5070),
        callee: address(5080),
    };
    let stop = AtomicBool::new(false);
    let mut told = 0;
    // The callee is its own balancer here.
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
