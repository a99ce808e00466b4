//! The quality of whole streams, and the comparison with `docs/reference-mos`, which another program has reckoned.

use super::*;
use crate::audio;
use std::fmt::Write;

/// Sends `count` packets of 20 ms, of which those come that `came` says, without jitter.
fn received(reception: &mut Reception, count: u64, came: impl Fn(u64) -> bool) {
    let payload = [0xff; 160];
    for number in (0..count).filter(|number| came(*number)) {
        reception.on_packet(Instant::from_micros(number * 20_000), &packet(number, &payload));
    }
}

/// The packet of this number. The numbers wrap after some.
fn packet(number: u64, payload: &[u8]) -> rtp::Packet<'_> {
    rtp::Packet {
        marker: number == 0,
        payload_type: PCMU,
        sequence: (65_400 + number) as u16,
        timestamp: (number * 160) as u32,
        ssrc: 7,
        payload,
    }
}

#[test]
fn a_whole_echo_is_worth_all_that_the_delay_leaves() {
    let mut reception = Reception::new();
    let tone = audio::tone();
    for (number, frame) in tone.samples.chunks(160).enumerate() {
        reception.on_packet(Instant::from_micros(number as u64 * 20_000), &packet(number as u64, frame));
    }
    let quality = reception.quality(100, Some(Duration::from_millis(10)));
    assert_eq!((quality.received, quality.expected, quality.lost, quality.loss), (100, 100, 0, 0.0));
    assert_eq!((quality.late, quality.duplicates, quality.foreign, quality.burst_ratio), (0, 0, 0, 1.0));
    assert_eq!((quality.jitter, quality.delay), (Duration::ZERO, Duration::from_millis(45)));
    assert!(quality.tone);
    assert!((quality.mos - 4.38).abs() < 0.01, "{}", quality.mos);
    assert!(reception.samples().is_empty(), "nobody asked for a recording");
}

#[test]
fn silence_is_worth_nothing() {
    let quality = Reception::new().quality(100, None);
    assert_eq!((quality.received, quality.expected, quality.lost, quality.loss), (0, 100, 100, 1.0));
    assert_eq!((quality.r, quality.mos, quality.tone), (0.0, 1.0, false));
    let nothing = Reception::default().quality(0, None);
    assert_eq!((nothing.expected, nothing.loss, nothing.mos), (0, 0.0, 1.0));
}

#[test]
fn loss_in_bursts_is_worth_less_than_the_same_loss_spread_out() {
    let (mut spread, mut bursts) = (Reception::new(), Reception::new());
    received(&mut spread, 501, |number| number % 20 != 10);
    received(&mut bursts, 501, |number| number % 100 < 20 || number % 100 >= 25);
    let (spread, bursts) = (spread.quality(501, None), bursts.quality(501, None));
    assert_eq!((spread.received, spread.lost, bursts.received, bursts.lost), (476, 25, 476, 25));
    assert_eq!(spread.burst_ratio, 1.0);
    assert!((bursts.burst_ratio - 5.0 * (1.0 - 25.0 / 501.0)).abs() < 1e-9, "{}", bursts.burst_ratio);
    assert!((40.0..44.0).contains(&spread.r), "{}", spread.r);
    assert!(bursts.r < 10.0, "{}", bursts.r);
    assert!(spread.mos > 2.0 && bursts.mos == 1.0, "{} {}", spread.mos, bursts.mos);
}

#[test]
fn jitter_makes_the_playout_buffer_longer() {
    let mut reception = Reception::new();
    let payload = [0xff; 160];
    for number in 0..500 {
        // Every second packet is 15 ms late, so each differs from the one before by that.
        let late = if number % 2 == 1 { 15_000 } else { 0 };
        reception.on_packet(Instant::from_micros(number * 20_000 + late), &packet(number, &payload));
    }
    let quality = reception.quality(500, None);
    let jitter_ms = quality.jitter.as_secs_f64() * 1_000.0;
    assert!((14.9..=15.01).contains(&jitter_ms), "{jitter_ms}");
    assert_eq!(quality.delay, PACKETISATION + quality.jitter * 2);
}

#[test]
fn events_between_the_audio_are_neither_audio_nor_loss() {
    let mut reception = Reception::new();
    let payload = [0xff; 160];
    for number in 0..10 {
        let audio = packet(number, &payload);
        let event = rtp::Packet { payload_type: 101, timestamp: 0, ..audio };
        let packet = if (3..6).contains(&number) { event } else { audio };
        reception.on_packet(Instant::from_micros(number * 20_000), &packet);
    }
    // A stream of another source says nothing about this one.
    let stranger = rtp::Packet { payload_type: 8, ssrc: 8, ..packet(5_000, &payload) };
    reception.on_packet(Instant::from_micros(200_000), &stranger);
    let quality = reception.quality(10, None);
    assert_eq!((quality.received, quality.expected, quality.lost, quality.foreign), (7, 7, 0, 4));
    assert_eq!(quality.jitter, Duration::ZERO);
}

#[test]
fn what_is_recorded_keeps_its_time() {
    let mut reception = Reception::recording();
    received(&mut reception, 10, |number| number != 4);
    assert_eq!(reception.samples().len(), 1_600);
}

/// The table of the reference, row for row: the same patterns go packet by packet through a [`Reception`], and every opinion
/// differs by 0.1 at most.
#[test]
fn opinions_are_those_of_the_reference() {
    let mut rows = include_str!("../../../../docs/reference-mos/mos.csv").lines();
    assert_eq!(rows.next(), Some("seed,model,loss_parameter,delay_ms,lost,burst_ratio,r,mos"));
    let mut far = String::new();
    let mut opinions = Vec::new();
    for (loss, seed, delay_ms) in conditions() {
        let came = pattern(loss, seed);
        let mut reception = Reception::new();
        received(&mut reception, PACKETS as u64, |number| came.get(number as usize) == Some(&true));
        let quality = reception.quality(PACKETS as u64, Some(Duration::from_millis(2 * delay_ms)));
        assert_eq!(quality.expected, PACKETS as u64);
        assert_eq!(quality.delay, Duration::from_millis(delay_ms + 40));

        let row = rows.next().expect("the reference has a row for every condition");
        let cells: Vec<&str> = row.split(',').collect();
        let &[row_seed, model, parameter, row_delay, lost, burst_ratio, r, mos] = cells.as_slice() else {
            panic!("not eight cells: {row}");
        };
        assert_eq!((row_seed, row_delay), (seed.to_string().as_str(), delay_ms.to_string().as_str()), "{row}");
        assert_eq!((model, parameter.to_owned()), loss.written(), "{row}");
        assert_eq!(lost, quality.lost.to_string(), "{row}");
        let number = |text: &str| text.parse::<f64>().expect("the cell is a number");
        let differences = [
            (quality.burst_ratio - number(burst_ratio), 1e-5),
            (quality.r - number(r), 0.01),
            (quality.mos - number(mos), 0.1),
        ];
        if differences.iter().any(|(difference, allowed)| difference.abs() > *allowed) {
            writeln!(far, "{row}: {quality:?}").expect("a string takes it");
        }
        opinions.push(quality.mos);
    }
    assert_eq!(rows.next(), None, "the reference has rows that are not compared");
    assert_eq!(far, "");
    // Four seeds and six delays for each of fifteen kinds of loss, and opinions from the best to the worst.
    assert_eq!(opinions.len(), 360);
    for range in [1.0..1.5, 1.5..2.5, 2.5..3.5, 3.5..4.0, 4.0..4.5] {
        let within = opinions.iter().filter(|opinion| range.contains(*opinion)).count();
        assert!(within >= 10, "{range:?}: {within}");
    }
}

/// Kinds of loss, in millionths, as `docs/reference-mos/mos.py` explains them.
#[derive(Clone, Copy)]
enum Loss {
    Bernoulli(u64),
    Gilbert { worse: u64, better: u64 },
}

impl Loss {
    /// The cells of its model and parameter.
    fn written(self) -> (&'static str, String) {
        match self {
            Loss::Bernoulli(share) => ("bernoulli", share.to_string()),
            Loss::Gilbert { worse, better } => ("gilbert", format!("{worse}/{better}")),
        }
    }
}

/// Everything that the reference has a row for, in its order.
fn conditions() -> Vec<(Loss, u64, u64)> {
    let bernoulli = [0, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000].map(Loss::Bernoulli);
    let gilbert = [
        (1_000, 500_000),
        (2_000, 500_000),
        (3_000, 400_000),
        (5_000, 600_000),
        (5_000, 333_333),
        (10_000, 600_000),
        (20_000, 700_000),
        (30_000, 100_000),
    ]
    .map(|(worse, better)| Loss::Gilbert { worse, better });
    let mut conditions = Vec::new();
    for loss in bernoulli.into_iter().chain(gilbert) {
        for seed in [1, 2, 3, 1_977] {
            for delay_ms in [20, 50, 100, 150, 200, 300] {
                conditions.push((loss, seed, delay_ms));
            }
        }
    }
    conditions
}

/// Which packets come. The first and the last one always do.
fn pattern(loss: Loss, seed: u64) -> [bool; PACKETS] {
    let mut state = seed;
    let mut is_bad = false;
    let mut came = [true; PACKETS];
    for packet in &mut came {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let draw = ((state >> 32) * 1_000_000) >> 32;
        *packet = match loss {
            Loss::Bernoulli(share) => draw >= share,
            Loss::Gilbert { worse, better } => {
                is_bad = if is_bad { draw >= better } else { draw < worse };
                !is_bad
            }
        };
    }
    let [first, .., last] = &mut came;
    *first = true;
    *last = true;
    came
}

const PACKETS: usize = 500;
