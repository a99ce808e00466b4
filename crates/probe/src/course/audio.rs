//! The part of a course with audio in it.

use super::clearing::Rest;
use super::{Fault, Output, PCMA, Probe, Stage};
use crate::audio::{PCMU, Player, on_the_beat, tone};
use crate::plan::Kind;
use crate::quality::{Quality, Reception};
use sip::rtp;
use sip::sdp::{Direction, Session};
use sip::time::Instant;
use std::net::SocketAddr;
use std::time::Duration;
use ua::CallId;

/// The call is up, and we speak.
pub(super) struct Talking {
    pub(super) call: CallId,
    since: Instant,
    /// Names our stream: an echo may keep it.
    source: u32,
    player: Player,
    reception: Reception,
    /// Packets that really went out: none do while the other side holds the call.
    sent: u64,
    /// Those of them that this machine did not let out.
    held_back: u64,
    /// Where the last one went, and how long after the answer.
    sent_to: Option<SocketAddr>,
    spoken_until: Duration,
    /// How long after the answer the last audio came.
    heard_until: Option<Duration>,
    /// Since then comes comfort noise.
    is_hushed: bool,
    /// Until then we listen, once all is said.
    until: Option<Instant>,
}

/// What is known after all was said, or the call was over.
pub(super) struct Talked {
    pub(super) call: CallId,
    pub(super) time: Duration,
    pub(super) is_finished: bool,
    quality: Option<Quality>,
    sent: u64,
    /// Where this machine does not let our audio out to.
    held_back: Option<SocketAddr>,
    /// What came back was what we said.
    is_echo: bool,
    /// We spoke on when nothing came back any more.
    breaks_off: bool,
}

impl Talking {
    /// When there is something to say or enough was heard.
    pub(super) fn due(&self) -> Option<Instant> {
        self.player.deadline().or(self.until)
    }
}

impl Probe {
    /// The call is up: whatever is wrong with the answer ends it.
    pub(super) fn on_answered(&mut self, now: Instant, call: CallId) {
        let Stage::Calling(calling) = &self.stage else { return };
        if calling.call != call {
            return;
        }
        self.measured.answer = Some(now.saturating_since(calling.since));
        if let Some(fault) = self.fault_of_session(call) {
            self.blame(now, fault);
            return self.clear(now, Rest::Up(call));
        }
        let Kind::Call(plan) = &self.plan.kind else { return };
        let sounds = if plan.sounds.is_empty() { vec![tone()] } else { plan.sounds.clone() };
        let source = (self.seed ^ (self.seed >> 32)) as u32;
        self.stage = Stage::Talking(Box::new(Talking {
            call,
            since: now,
            source,
            player: Player::new(sounds, source, now),
            reception: self.reception(),
            sent: 0,
            held_back: 0,
            sent_to: None,
            spoken_until: Duration::ZERO,
            heard_until: None,
            is_hushed: false,
            until: None,
        }));
        self.speak(now);
    }

    /// Says what is due. Packets leave at multiples of 20 ms of the clock, and so does the wait after the last one end: many
    /// probes wake their thread together.
    pub(super) fn speak(&mut self, now: Instant) {
        let Stage::Talking(talking) = &mut self.stage else { return };
        while let Some(bytes) = talking.player.poll(now) {
            if let Some(to) = self.agent.remote_media(talking.call) {
                talking.sent += 1;
                talking.sent_to = Some(to);
                talking.spoken_until = now.saturating_since(talking.since);
                self.record.audio_sent(now, to);
                self.outputs.push_back(Output::Audio { to, bytes });
            }
        }
        if talking.player.is_finished() && talking.until.is_none() {
            talking.until = Some(on_the_beat(now + STILL_UNDER_WAY));
        }
        if now >= self.work_until || talking.until.is_some_and(|until| now >= until) {
            self.stop_talking(now);
        }
    }

    pub(super) fn hear(&mut self, now: Instant, bytes: &[u8]) {
        let Stage::Talking(talking) = &mut self.stage else { return };
        if let Some(packet) = rtp::read(bytes) {
            talking.reception.on_packet(now, &packet);
            if packet.payload_type == PCMU {
                talking.heard_until = Some(now.saturating_since(talking.since));
            }
            talking.is_hushed = packet.payload_type == COMFORT_NOISE;
            let from = self.agent.remote_media(talking.call).unwrap_or(self.plan.proxy);
            self.record.audio_heard(now, from);
        }
    }

    /// A packet of our audio was not let out.
    pub(super) fn on_audio_held_back(&mut self) {
        if let Stage::Talking(talking) = &mut self.stage {
            talking.held_back += 1;
        }
    }

    /// All is said and heard, or has to be.
    pub(super) fn stop_talking(&mut self, now: Instant) {
        let Some(talked) = self.take_talk(now) else { return };
        if let Some(fault) = self.fault_of_audio(&talked) {
            self.blame(now, fault);
        }
        self.clear(now, Rest::Up(talked.call));
    }

    /// Takes the figures of a talk that is over; the caller decides what comes next.
    pub(super) fn take_talk(&mut self, now: Instant) -> Option<Talked> {
        let Stage::Talking(talking) = &self.stage else { return None };
        let quality = talking.reception.quality(talking.sent, self.exchanges.round_trip());
        let quality = (quality.received > 0).then_some(quality);
        // Nothing came while we spoke on for longer than an echo is under way. Comfort noise: they are there, and silent.
        let breaks_off = !talking.is_hushed
            && talking.heard_until.is_some_and(|heard| heard + STILL_UNDER_WAY < talking.spoken_until);
        let talked = Talked {
            call: talking.call,
            time: now.saturating_since(talking.since),
            is_finished: talking.player.is_finished(),
            quality,
            sent: talking.sent,
            held_back: talking.sent_to.filter(|_| talking.held_back * 2 > talking.sent),
            is_echo: talking.reception.hears(talking.source) || quality.is_some_and(|quality| quality.tone),
            breaks_off,
        };
        if self.is_recording {
            self.recording = talking.reception.samples().to_vec();
        }
        // Nothing for the last third of the time in which we spoke.
        let ceased = talking.heard_until.filter(|heard| *heard * 3 < talking.spoken_until * 2);
        self.has_ceased = ceased.is_some() && !talking.is_hushed;
        self.measured.heard_until = talking.heard_until;
        self.measured.sent = talked.sent;
        self.measured.quality = quality;
        self.stage = Stage::Over;
        Some(talked)
    }

    /// What is wrong with the audio of a call that lasted as long as we wanted.
    pub(super) fn fault_of_audio(&self, talked: &Talked) -> Option<Fault> {
        let least = match &self.plan.kind {
            Kind::Call(call) => call.min_mos,
            Kind::Options { .. } | Kind::Register => 0.0,
        };
        match talked.quality {
            None if self.plan.wants_audio() => Some(match talked.held_back {
                Some(peer) => Fault::HeldBack { peer },
                None => Fault::NoAudio { is_closed: self.is_deaf },
            }),
            Some(quality) if quality.mos < least => Some(Fault::Poor { mos: quality.mos, least }),
            // What is missing at the end shows in no sequence number; of an echo we know how long it has to be. Few packets
            // alone are no early end: some servers wait before they echo, others say in one packet what we say in two.
            Some(quality)
                if least > 0.0
                    && talked.is_echo
                    && talked.is_finished
                    && talked.breaks_off
                    && quality.expected + TAIL < talked.sent =>
            {
                Some(Fault::Stopped { after: quality.received, sent: talked.sent })
            }
            _ if !talked.is_finished => Some(Fault::Cut { after: talked.time, sent: talked.sent }),
            _ => None,
        }
    }

    fn fault_of_session(&self, call: CallId) -> Option<Fault> {
        match self.agent.remote_session(call) {
            Some(session) => fault_of(session),
            None if self.exchanges.answer_to("INVITE").is_some_and(|answer| answer.has_body) => Some(Fault::NoStream),
            None => Some(Fault::NoSession),
        }
    }
}

/// What is wrong with an answer to our offer of PCMU.
fn fault_of(session: &Session) -> Option<Fault> {
    if session.audio_port == 0 {
        return Some(Fault::StreamRefused);
    }
    if !session.payloads.contains(&PCMU) {
        let is_other = session.payloads.contains(&PCMA);
        return Some(if is_other { Fault::PcmaOnly } else { Fault::NoPcmu(session.payloads.clone()) });
    }
    if session.address.is_unspecified() {
        // The hold of RFC 2543.
        return Some(Fault::OnHold(Direction::Inactive));
    }
    match session.direction {
        Direction::SendRecv | Direction::RecvOnly => None,
        direction => Some(Fault::OnHold(direction)),
    }
}

/// Payload type (RFC 3389).
const COMFORT_NOISE: u8 = 13;
/// How long we listen after the last packet.
const STILL_UNDER_WAY: Duration = Duration::from_millis(200);
/// Packets of an echo that may still be under way when we hang up.
const TAIL: u64 = 10;
