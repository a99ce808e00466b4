//! What came back of the audio, and what it is worth: loss and its bursts, jitter, the test tone, and the mean opinion score
//! that the E-model foretells.
//!
//! Loss is what the sequence numbers betray. Packets lost before the first that came or after the last one are not known, so
//! the end of an echo that breaks off early shows in `received`, not in `loss`.

mod arrivals;
mod emodel;
mod listening;

pub use emodel::{mos, rating};

use crate::audio::PCMU;
use arrivals::Arrivals;
use listening::{Recording, ToneSearch};
use sip::{Instant, g711, rtp};
use std::time::Duration;

/// A stream of audio, packet by packet.
#[derive(Clone, Debug)]
pub struct Reception {
    /// Everything in the stream by its sequence numbers, which events and comfort noise share with the audio.
    arrivals: Arrivals,
    /// The audio alone, for its jitter: the timestamps of events stand still.
    audio: rtp::Receiver,
    /// The source that sent audio last.
    source: Option<u32>,
    foreign: u64,
    tone: ToneSearch,
    recording: Option<Recording>,
}

/// Figures of a stream.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Quality {
    /// Packets of mu-law that came, each once.
    pub received: u64,
    /// Packets that came or were lost. Where nothing came at all: those that we sent, as an echo would have been so long.
    pub expected: u64,
    pub lost: u64,
    /// `lost` over `expected`, from 0 to 1.
    pub loss: f64,
    /// Packets that came behind one that was sent later. They are not lost.
    pub late: u64,
    /// Packets that came once more.
    pub duplicates: u64,
    /// Packets of other payload types.
    pub foreign: u64,
    /// Mean length of the bursts of loss over the one that random loss of this rate has (G.107 §7.5); at least 1.
    pub burst_ratio: f64,
    /// Interarrival jitter at the end (RFC 3550 §6.4.1).
    pub jitter: Duration,
    /// From mouth to ear, one way, as far as it can be guessed from here: half a round trip of the signalling, the 20 ms of a
    /// packet, and a playout buffer of twice the jitter, 20 ms at least.
    pub delay: Duration,
    /// The transmission rating of G.107: 93.2 at best; below 50 nearly all are dissatisfied. It may lie below 0.
    pub r: f64,
    /// The mean opinion score that goes with it: 1 to 4.5.
    pub mos: f64,
    /// The test tone was heard.
    pub tone: bool,
}

impl Reception {
    /// Listens, and keeps no samples.
    pub fn new() -> Self {
        Self {
            arrivals: Arrivals::new(),
            audio: rtp::Receiver::new(g711::SAMPLE_RATE),
            source: None,
            foreign: 0,
            tone: ToneSearch::default(),
            recording: None,
        }
    }

    /// Keeps the first ten minutes of what is heard.
    pub fn recording() -> Self {
        Self { recording: Some(Recording::default()), ..Self::new() }
    }

    /// A packet came at this moment.
    pub fn on_packet(&mut self, now: Instant, packet: &rtp::Packet<'_>) {
        if packet.payload_type != PCMU {
            self.foreign += 1;
            // Of another source it is another stream, which says nothing about this one.
            if self.source == Some(packet.ssrc) {
                self.arrivals.on_packet(now, packet, false);
            }
            return;
        }
        self.source = Some(packet.ssrc);
        self.audio.on_packet(now, packet);
        self.arrivals.on_packet(now, packet, true);
        if self.tone.is_over() && self.recording.is_none() {
            return;
        }
        let mut samples = Vec::with_capacity(packet.payload.len());
        g711::decode_ulaw(packet.payload, &mut samples);
        self.tone.hear(&samples);
        if let Some(recording) = &mut self.recording {
            recording.place(packet.ssrc, packet.timestamp, &samples);
        }
    }

    /// Whether this source is what is heard.
    pub fn hears(&self, source: u32) -> bool {
        self.source == Some(source)
    }

    /// What it is worth so far. `sent_frames`: packets that we sent; `round_trip`: of the signalling.
    pub fn quality(&self, sent_frames: u64, round_trip: Option<Duration>) -> Quality {
        let tally = self.arrivals.tally();
        let silent = tally.received == 0;
        let (expected, lost) =
            if silent { (sent_frames, sent_frames) } else { (tally.received + tally.lost, tally.lost) };
        let loss = if expected == 0 { 0.0 } else { lost as f64 / expected as f64 };
        let burst_ratio = burst_ratio(loss, lost, tally.bursts);
        let jitter = self.audio.jitter();
        let playout = (jitter * 2).max(LEAST_PLAYOUT);
        let delay = round_trip.unwrap_or_default() / 2 + PACKETISATION + playout;
        let r = if silent { 0.0 } else { rating(loss, burst_ratio, delay) };
        Quality {
            received: tally.received,
            expected,
            lost,
            loss,
            late: tally.late,
            duplicates: tally.duplicates,
            foreign: self.foreign,
            burst_ratio,
            jitter,
            delay,
            r,
            mos: mos(r),
            tone: self.tone.is_over(),
        }
    }

    /// What was recorded, 8,000 samples a second, with silence for what is missing; nothing unless
    /// [`recording`](Self::recording).
    pub fn samples(&self) -> &[i16] {
        self.recording.as_ref().map(Recording::samples).unwrap_or_default()
    }
}

impl Default for Reception {
    fn default() -> Self {
        Self::new()
    }
}

/// Random loss of the share p has bursts of 1 / (1 - p) packets on average.
fn burst_ratio(loss: f64, lost: u64, bursts: u64) -> f64 {
    if bursts == 0 {
        return 1.0;
    }
    let mean = lost as f64 / bursts as f64;
    (mean * (1.0 - loss)).max(1.0)
}

const PACKETISATION: Duration = Duration::from_millis(20);
const LEAST_PLAYOUT: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests;
