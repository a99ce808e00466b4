//! The narrow-band E-model of ITU-T G.107: what listeners would say of a call with this loss and this delay.
//!
//! All parameters but delay and loss have the values of G.107 table 2, so the terms that depend on none of the two are
//! constants. `docs/reference-mos` reckons from the parameters on, and the tests hold both against each other.

use std::time::Duration;

/// The rating R of a call (G.107 §7.1): 93.2 without delay or loss, less with them, below 0 for what nobody would bear.
///
/// `loss`: share of packets lost, 0 to 1. `burst_ratio`: 1 where they are lost by chance, more where losses come in bursts.
/// `delay`: from mouth to ear, one way. Echo is reckoned with the losses of an ordinary telephone.
pub fn rating(loss: f64, burst_ratio: f64, delay: Duration) -> f64 {
    let one_way_ms = delay.as_secs_f64() * 1_000.0;
    // The delays of the echo's paths follow from one: T = Ta, Tr = 2 T (G.107 §7.4).
    let delayed = talker_echo(one_way_ms) + listener_echo(2.0 * one_way_ms) + long_delay(one_way_ms);
    SIGNAL_TO_NOISE - SIMULTANEOUS - delayed - equipment(loss, burst_ratio)
}

/// The mean opinion score that goes with a rating (G.107 annex B), from 1 to 4.5.
pub fn mos(rating: f64) -> f64 {
    if rating <= 0.0 {
        return 1.0;
    }
    if rating >= 100.0 {
        return 4.5;
    }
    let score = 1.0 + 0.035 * rating + rating * (rating - 60.0) * (100.0 - rating) * 7e-6;
    // Below 6.5 the polynomial undercuts the lowest opinion that there is.
    score.max(1.0)
}

/// Ie,eff: loss heard through G.711, which itself does no harm (G.107 §7.5, with Ie = 0).
fn equipment(loss: f64, burst_ratio: f64) -> f64 {
    let per_cent = 100.0 * loss.clamp(0.0, 1.0);
    95.0 * per_cent / (per_cent / burst_ratio.max(1.0) + LOSS_ROBUSTNESS)
}

/// Idte: what the speaker hears of himself. STMR is 15 dB, for which TERV needs no correction.
fn talker_echo(delay_ms: f64) -> f64 {
    let terv = TALKER_ECHO_LOSS_DB - 40.0 * ((1.0 + delay_ms / 10.0) / (1.0 + delay_ms / 150.0)).log10()
        + 6.0 * (-0.3 * delay_ms * delay_ms).exp();
    let without = -1.5 * (NOISE_DBM0P - RECEIVE_LOUDNESS_DB);
    let with = 80.0 + 2.5 * (terv - 14.0);
    (bend(without - with, 100.0) - 1.0) * (1.0 - (-delay_ms).exp())
}

/// Idle: what the listener hears twice.
fn listener_echo(round_trip_ms: f64) -> f64 {
    let with = 10.5 * (WEIGHTED_ECHO_LOSS_DB + 7.0) * (round_trip_ms + 1.0).powf(-0.25);
    bend(SIGNAL_TO_NOISE - with, 169.0)
}

/// Idd: a delay that harms even without any echo, beyond 100 ms.
fn long_delay(delay_ms: f64) -> f64 {
    if delay_ms <= 100.0 {
        return 0.0;
    }
    let x = (delay_ms / 100.0).log2();
    let root = |value: f64| (1.0 + value.powi(6)).powf(1.0 / 6.0);
    25.0 * (root(x) - 3.0 * root(x / 3.0) + 2.0)
}

/// Close to nothing for a difference far below 0, close to the difference far above.
fn bend(difference: f64, sharpness: f64) -> f64 {
    difference / 2.0 + (difference * difference / 4.0 + sharpness).sqrt()
}

/// No: all circuit noise, as it follows from the default parameters (G.107 §7.2).
const NOISE_DBM0P: f64 = -61.179_214;
/// Ro = 15 - 1.5 (SLR + No), with SLR = 8 dB (G.107 §7.2).
const SIGNAL_TO_NOISE: f64 = 94.768_822;
/// Is, at default parameters (G.107 §7.3). It hangs on the delay by less than a millionth.
const SIMULTANEOUS: f64 = 1.413_568;
/// RLR.
const RECEIVE_LOUDNESS_DB: f64 = 2.0;
/// TELR.
const TALKER_ECHO_LOSS_DB: f64 = 65.0;
/// WEPL.
const WEIGHTED_ECHO_LOSS_DB: f64 = 110.0;
/// Bpl of G.711 without concealment of loss (G.113 appendix I). With the concealment of G.711 appendix I it is 25.1, but whether
/// the user's phone conceals anything is not known, and a check had better see the loss than hope for the phone.
const LOSS_ROBUSTNESS: f64 = 4.3;

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_near(found: f64, wanted: f64, by: f64, what: &str) {
        assert!((found - wanted).abs() <= by, "{what}: {found}, not {wanted}");
    }

    #[test]
    fn a_call_without_faults_has_the_rating_of_the_recommendation() {
        let best = rating(0.0, 1.0, Duration::ZERO);
        assert_near(best, 93.2, 0.05, "R");
        assert_near(mos(best), 4.41, 0.005, "mos");
    }

    #[test]
    fn opinions_follow_annex_b() {
        for (r, score) in [
            (-80.0, 1.0),
            (0.0, 1.0),
            (3.0, 1.0),
            (6.5, 1.0),
            (50.0, 2.575),
            (60.0, 3.1),
            (70.0, 3.597),
            (80.0, 4.024),
            (90.0, 4.339),
            (99.999, 4.5),
            (100.0, 4.5),
            (120.0, 4.5),
        ] {
            assert_near(mos(r), score, 0.001, &format!("R {r}"));
        }
    }

    #[test]
    fn delay_harms_slowly_up_to_150_ms_and_fast_beyond() {
        for (delay_ms, harm) in
            [(0, 0.0), (20, 0.67), (100, 2.54), (150, 3.67), (200, 7.40), (300, 20.54), (400, 30.96)]
        {
            let found = rating(0.0, 1.0, Duration::ZERO) - rating(0.0, 1.0, Duration::from_millis(delay_ms));
            assert_near(found, harm, 0.01, &format!("{delay_ms} ms"));
        }
    }

    #[test]
    fn loss_harms_and_in_bursts_it_harms_more() {
        for (loss, burst_ratio, harm) in [
            (0.0, 1.0, 0.0),
            (0.0, 5.0, 0.0),
            (0.01, 1.0, 17.92),
            (0.01, 2.0, 19.79),
            (0.05, 1.0, 51.08),
            (0.05, 2.0, 69.85),
            (0.2, 1.0, 78.19),
            (1.0, 1.0, 91.08),
            // Out of range: as the nearest that is in range.
            (0.05, 0.2, 51.08),
            (-1.0, 1.0, 0.0),
            (7.0, 1.0, 91.08),
        ] {
            let found = rating(0.0, 1.0, Duration::ZERO) - rating(loss, burst_ratio, Duration::ZERO);
            assert_near(found, harm, 0.01, &format!("{loss} {burst_ratio}"));
        }
    }

    #[test]
    fn the_rating_falls_with_delay() {
        // The formulas give the first millisecond a gain of 0.06, which no call has.
        let ratings: Vec<f64> = (1..1_000).map(|ms| rating(0.0, 1.0, Duration::from_millis(ms))).collect();
        assert!(ratings.is_sorted_by(|earlier, later| earlier >= later));
    }
}
