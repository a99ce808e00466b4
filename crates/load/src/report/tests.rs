use super::*;
use serde_json::json;

/// With something in each of its parts.
pub(crate) fn report() -> Report {
    let mut latency = Histogram::new();
    for micros in [150, 160, 250, 900] {
        latency.record(micros);
    }
    let mut lateness = Histogram::new();
    lateness.record(40);
    Report {
        kind: Kind::Call,
        pace: Pace::Rate { per_second: 50.0 },
        elapsed: Duration::from_secs(2),
        started: 103,
        completed: 100,
        failed: BTreeMap::from([(Failure::Status(503), 2), (Failure::HungUp, 1)]),
        not_started: 4,
        warm_up_failures: 9,
        sent: 610,
        received: 600,
        sent_again: 5,
        received_again: 3,
        unexpected: 6,
        strays: 8,
        refused: 2,
        kernel_drops: 7,
        latency,
        lateness,
        measured: Duration::from_secs(4),
        busy: 0.25,
        cpu: Duration::from_secs(1),
        connections: None,
        target: Some(Target {
            cpu: Duration::from_millis(3_000),
            busiest_thread: Duration::from_secs(2),
            rss_bytes: 12_500_000,
        }),
        warnings: Vec::new(),
    }
}

#[test]
fn json_says_every_count() {
    let report = report();
    assert_eq!(report.failures(), 3);
    let json = report.to_json();
    assert_eq!((&json["kind"], &json["success"]), (&json!("call"), &json!(false)));
    assert_eq!(json["pace"], json!({ "rate_per_second": 50.0 }));
    assert_eq!(json["rate_per_second"], 50.0);
    assert_eq!(json["failed"], json!({ "503": 2, "hung_up": 1 }));
    assert_eq!(json["retransmissions"], json!({ "sent": 5, "received": 3 }));
    assert_eq!(json["latency_us"]["max"], 900);
    assert_eq!(json["latency_us"]["histogram"][0], json!({ "up_to": 200, "count": 2 }));
    assert_eq!(json["generator"]["cores"], 0.25);
    assert_eq!(json["target"]["cores"], 0.75);
    assert_eq!(json["target"]["busiest_thread"], 0.5);
    assert_eq!(json["target"]["cpu_per_message_us"], 5_000.0);
    for (key, value) in [
        ("started", 103),
        ("completed", 100),
        ("failures", 3),
        ("not_started", 4),
        ("warm_up_failures", 9),
        ("sent", 610),
        ("received", 600),
        ("unexpected", 6),
        ("strays", 8),
        ("refused", 2),
        ("kernel_drops", 7),
    ] {
        assert_eq!(json[key], value, "{key}");
    }
    let without = Report { target: None, ..report }.to_json();
    assert_eq!(without["target"], json!(null));
    assert_eq!((&without["transport"], &without["connections"]), (&json!("udp"), &json!(null)));
}

#[test]
fn the_text_says_the_same() {
    let text = report().to_string();
    for part in [
        "calls, 50 a second: 100 completed in 2.0 s, 50 a second; 3 failed, 4 not begun\n",
        "  failed, answered 503: 2\n  failed, hung up by the other side: 1\n",
        "  failed in the warm-up, not counted: 9\n",
        "messages: 610 sent, 600 received; retransmissions: 5 sent, 3 received; 6 unexpected, 8 of other loads\n",
        "lost: 7 dropped by the kernel at our sockets, 2 returned by the network\n",
        "p50 163 us",
        "max 900 us\n",
        "generator: 25 % busy, 0.25 cores; behind its schedule by 40 us at p99, 40 us at most\n",
        "target: 0.75 cores, its busiest thread 0.50, 5000.00 us a message, 12.5 MB resident",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let bars: Vec<&str> = text.lines().filter(|line| line.starts_with("  to ")).collect();
    assert_eq!(bars.len(), 3, "{text}");
    let longest = format!("  to  200 us         2  {}", "#".repeat(50));
    assert_eq!(bars.first().copied(), Some(longest.as_str()));
    assert!(bars.iter().skip(1).all(|line| line.ends_with(&format!(" 1  {}", "#".repeat(25)))), "{text}");
}

#[test]
fn success_is_everything_done_and_nothing_else() {
    let good = Report { failed: BTreeMap::new(), not_started: 0, unexpected: 0, ..report() };
    assert!(good.is_success());
    let changes: [fn(&mut Report); 4] = [
        |report| report.completed = 0,
        |report| report.not_started = 1,
        |report| report.unexpected = 1,
        |report| report.failed = BTreeMap::from([(Failure::Timeout, 1)]),
    ];
    for change in changes {
        let mut worse = good.clone();
        change(&mut worse);
        assert!(!worse.is_success(), "{worse}");
    }
}

#[test]
fn a_generator_that_cannot_keep_up_is_told() {
    let good = Report { kernel_drops: 0, ..report() };
    assert!(!good.is_generator_limited());
    assert!(Report { busy: 0.96, ..good.clone() }.is_generator_limited());
    assert!(Report { kernel_drops: 1, ..good.clone() }.is_generator_limited());
    let mut late = good;
    late.lateness.record(30_000);
    assert!(late.is_generator_limited());
}

#[test]
fn times_are_short() {
    let texts = [999, 1_500, 20_400, 3_210_000].map(text::time);
    assert_eq!(texts, ["999 us", "1.5 ms", "20 ms", "3.2 s"]);
}

#[test]
fn a_line_of_progress_says_where_the_load_is() {
    let progress = Progress {
        phase: Phase::WarmUp,
        elapsed: Duration::from_secs(3),
        under_way: 4,
        started: 50,
        completed: 46,
        completed_lately: 16,
        failed: 1,
        sent_again: 2,
        p99: 1_500,
        connections: 40,
        connections_wanted: 50,
    };
    assert_eq!(
        progress.to_string(),
        "   3 s  warming up, 16/s, 46 completed, 4 under way, 1 failed, 2 sent again, p99 1.5 ms"
    );
    let waiting = Progress { phase: Phase::Waiting, ..progress };
    assert_eq!(waiting.to_string(), "   3 s  waiting for the balancer");
    let connecting = Progress { phase: Phase::Connecting, ..progress };
    assert_eq!(connecting.to_string(), "   3 s  opening connections, 40 of 50 are up");
}
