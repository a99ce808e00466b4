//! One call between the two phones: what happened, and whether it went well.

use super::stream::Stream;
use super::{PEOPLE, Person};
use sip::Instant;
use std::cmp::Reverse;
use std::time::Duration;
use ua::{CallId, Event};

/// A call under way. Phones are known by their index in `PEOPLE`.
pub(super) struct Call {
    pub(super) number: u32,
    pub(super) caller: usize,
    pub(super) callee: usize,
    /// As the caller's phone knows it.
    pub(super) outgoing: CallId,
    /// As the callee's phone knows it: more than once if a PBX was killed while he rang.
    pub(super) legs: Vec<CallId>,
    /// Those of them that are not over.
    pub(super) incoming: Vec<CallId>,
    /// The one of them that the caller's ACK reached.
    pub(super) confirmed: Option<CallId>,
    pub(super) placed: Instant,
    rings_after: Option<Duration>,
    answered_after: Option<Duration>,
    end: Option<End>,
    /// When each PBX saw the call answered.
    answered_at: Vec<(Instant, &'static str)>,
}

/// How it ended for the caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// Never answered.
    Failed(u16),
    /// The caller's BYE got this answer.
    HungUp(u16),
    /// BYE came from the PBX.
    HungUpByOther,
}

/// What became of a call.
pub(super) struct Outcome {
    pub(super) number: u32,
    pub(super) from: &'static str,
    pub(super) to: &'static str,
    /// The PBXs it went through, the caller's first.
    pub(super) via: String,
    pub(super) rings_after: Option<Duration>,
    pub(super) answered_after: Option<Duration>,
    /// Audio of the caller as the callee heard it.
    pub(super) there: Audio,
    /// Audio of the callee as the caller heard it.
    pub(super) back: Audio,
    pub(super) verdict: Verdict,
}

/// Packets of one direction.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub(super) struct Audio {
    pub(super) sent: u64,
    pub(super) heard: u64,
    pub(super) lost: u64,
    /// The share of the speaker's tone in what was heard, from 0 to 1.
    pub(super) tone: f64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Good,
    /// Hurt by a PBX that was killed meanwhile, which is nobody's fault.
    Cut(String),
    /// Ctrl-C came meanwhile.
    Interrupted,
    Failed(String),
}

impl Call {
    pub(super) fn new(number: u32, caller: usize, callee: usize, outgoing: CallId, placed: Instant) -> Self {
        Self {
            number,
            caller,
            callee,
            outgoing,
            legs: Vec::new(),
            incoming: Vec::new(),
            confirmed: None,
            placed,
            rings_after: None,
            answered_after: None,
            end: None,
            answered_at: Vec::new(),
        }
    }

    /// Takes what a phone tells. False if it does not concern this call.
    pub(super) fn on_event(&mut self, now: Instant, phone: usize, event: &Event) -> bool {
        match event {
            Event::Incoming { call, from } if phone == self.callee && is_from(from, &PEOPLE[self.caller]) => {
                self.legs.push(*call);
                self.incoming.push(*call);
                true
            }
            Event::Confirmed { call, .. } if self.is_incoming(phone, *call) => {
                self.confirmed = Some(*call);
                true
            }
            Event::Ended { call, .. } | Event::Failed { call, .. } | Event::Cancelled { call }
                if self.is_incoming(phone, *call) =>
            {
                self.incoming.retain(|open| open != call);
                true
            }
            Event::Ringing { call, code } if self.is_outgoing(phone, *call) => {
                if *code >= 180 {
                    self.rings_after.get_or_insert(now.saturating_since(self.placed));
                }
                true
            }
            Event::Answered { call, .. } if self.is_outgoing(phone, *call) => {
                self.answered_after.get_or_insert(now.saturating_since(self.placed));
                true
            }
            Event::Ended { call, by_us, code } if self.is_outgoing(phone, *call) => {
                self.end = Some(if *by_us { End::HungUp(*code) } else { End::HungUpByOther });
                true
            }
            Event::Failed { call, code } if self.is_outgoing(phone, *call) => {
                self.end = Some(End::Failed(*code));
                true
            }
            Event::Cancelled { call } if self.is_outgoing(phone, *call) => {
                self.end = Some(End::Failed(487));
                true
            }
            _ => false,
        }
    }

    /// A PBX saw a call between these users answered. False if it is not this one.
    pub(super) fn on_answered_by(&mut self, pbx: &'static str, at: Instant, from: &str, to: &str) -> bool {
        let ours = from == PEOPLE[self.caller].user && to == PEOPLE[self.callee].user && at >= self.placed;
        if ours {
            self.answered_at.push((at, pbx));
        }
        ours
    }

    /// Both phones may speak.
    pub(super) fn is_up(&self) -> bool {
        self.answered_after.is_some() && self.confirmed.is_some()
    }

    /// The caller's part is over.
    pub(super) fn is_over(&self) -> bool {
        self.end.is_some()
    }

    /// Nobody has a part of it left.
    pub(super) fn is_gone(&self) -> bool {
        self.is_over() && self.incoming.is_empty()
    }

    /// The outcome; `speaker` and `listener` are the caller's and the callee's audio. `stopped`: a PBX was killed since the call
    /// was placed. `interrupted`: Ctrl-C came.
    pub(super) fn outcome(
        mut self,
        speaker: Option<&Stream>,
        listener: Option<&Stream>,
        stopped: bool,
        interrupted: bool,
    ) -> Outcome {
        let (caller, callee) = (&PEOPLE[self.caller], &PEOPLE[self.callee]);
        let there = Audio::between(speaker, listener, caller);
        let back = Audio::between(listener, speaker, callee);
        let verdict = match self.complaint(caller, callee, there, back) {
            None => Verdict::Good,
            Some(complaint) if stopped => Verdict::Cut(complaint),
            Some(_) if interrupted => Verdict::Interrupted,
            Some(complaint) => Verdict::Failed(complaint),
        };
        // The answer comes from the callee's side: the PBX that saw it last is the caller's.
        self.answered_at.sort_by_key(|(at, _)| Reverse(*at));
        let via: Vec<&str> = self.answered_at.iter().map(|(_, name)| *name).collect();
        Outcome {
            number: self.number,
            from: caller.user,
            to: callee.user,
            via: via.join(" → "),
            rings_after: self.rings_after,
            answered_after: self.answered_after,
            there,
            back,
            verdict,
        }
    }

    /// What is wrong with the call, if anything.
    fn complaint(&self, caller: &Person, callee: &Person, there: Audio, back: Audio) -> Option<String> {
        if let Some(End::Failed(code)) = self.end {
            return Some(format!("not answered: {code}"));
        }
        if self.answered_after.is_none() {
            return Some("not answered in time".to_owned());
        }
        if self.confirmed.is_none() {
            return Some(format!("{}'s ACK did not arrive", caller.user));
        }
        for (audio, speaker, listener) in [(there, caller, callee), (back, callee, caller)] {
            let (speaker, listener) = (speaker.user, listener.user);
            if audio.heard < ENOUGH {
                return Some(format!("{listener} heard {} packets of {speaker}", audio.heard));
            }
            if audio.lost * 20 > audio.sent {
                return Some(format!("{} of {} packets to {listener} were lost", audio.lost, audio.sent));
            }
            if audio.tone < CLEAR {
                return Some(format!("{listener} did not hear {speaker}'s tone"));
            }
        }
        match self.end {
            Some(End::HungUp(200)) => None,
            Some(End::HungUp(code)) => Some(format!("BYE was answered {code}")),
            Some(End::HungUpByOther) => Some("hung up by the PBX".to_owned()),
            Some(End::Failed(_)) | None => Some("BYE was not answered".to_owned()),
        }
    }

    fn is_outgoing(&self, phone: usize, call: CallId) -> bool {
        phone == self.caller && call == self.outgoing
    }

    fn is_incoming(&self, phone: usize, call: CallId) -> bool {
        phone == self.callee && self.incoming.contains(&call)
    }
}

impl Audio {
    fn between(speaker: Option<&Stream>, listener: Option<&Stream>, person: &Person) -> Self {
        let sent = speaker.map_or(0, Stream::sent);
        let heard = listener.map_or(0, Stream::heard);
        // The receiver cannot know what was lost at the end.
        let lost = listener.map_or(0, Stream::lost).max(sent.saturating_sub(heard));
        Self { sent, heard, lost, tone: listener.map_or(0.0, |stream| stream.tone_power(person.hertz)) }
    }
}

/// The URI of a From header names this person.
fn is_from(uri: &str, person: &Person) -> bool {
    uri.strip_prefix("sip:").and_then(|rest| rest.split('@').next()) == Some(person.user)
}

/// Packets that must be heard in each direction: half of what is sent in the time that a call lasts.
const ENOUGH: u64 = 50;
/// The least share of the speaker's tone. μ-law and nothing else on the way leave nearly all of it.
const CLEAR: f64 = 0.5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::stream;
    use std::net::SocketAddr;

    fn at(milliseconds: u64) -> Instant {
        Instant::from_micros(milliseconds * 1_000)
    }

    fn call() -> Call {
        Call::new(1, 0, 1, CallId(7), at(0))
    }

    fn incoming() -> Event {
        Event::Incoming { call: CallId(3), from: "sip:bonnie@example.com".to_owned() }
    }

    /// Two seconds of both tones between two streams.
    fn talk() -> (Stream, Stream) {
        let nowhere = Some(SocketAddr::from(([127, 0, 0, 1], 9)));
        let (mut caller, mut callee) = (Stream::new(1, nowhere), Stream::new(2, nowhere));
        let (low, high) = (stream::tone(PEOPLE[0].hertz), stream::tone(PEOPLE[1].hertz));
        caller.speak(at(400));
        callee.speak(at(400));
        for millisecond in 400..2_400 {
            let now = at(millisecond);
            if let Some((_, bytes)) = caller.poll_packet(now, &low) {
                callee.on_datagram(now, &bytes);
            }
            if let Some((_, bytes)) = callee.poll_packet(now, &high) {
                caller.on_datagram(now, &bytes);
            }
        }
        (caller, callee)
    }

    fn answered(call: &mut Call) {
        assert!(call.on_event(at(5), 1, &incoming()));
        assert!(call.on_event(at(8), 0, &Event::Ringing { call: CallId(7), code: 180 }));
        assert!(call.on_event(at(310), 0, &Event::Answered { call: CallId(7), remote_media: None }));
        assert!(!call.is_up());
        assert!(call.on_event(at(312), 1, &Event::Confirmed { call: CallId(3), remote_media: None }));
        assert!(call.is_up());
    }

    #[test]
    fn a_call_with_audio_both_ways_and_a_clean_end_is_good() {
        let mut call = call();
        answered(&mut call);
        assert!(call.on_answered_by("pbx1", at(308), "bonnie", "clyde"));
        assert!(call.on_answered_by("pbx2", at(306), "bonnie", "clyde"));
        assert!(!call.on_answered_by("pbx2", at(306), "guest", "clyde"));
        assert!(call.on_event(at(2_500), 0, &Event::Ended { call: CallId(7), by_us: true, code: 200 }));
        assert!(!call.is_gone());
        assert!(call.on_event(at(2_501), 1, &Event::Ended { call: CallId(3), by_us: false, code: 200 }));
        assert!(call.is_gone());
        let (speaker, listener) = talk();
        let outcome = call.outcome(Some(&speaker), Some(&listener), false, false);
        assert_eq!(outcome.verdict, Verdict::Good);
        assert_eq!(outcome.via, "pbx1 → pbx2");
        assert_eq!((outcome.there.sent, outcome.there.heard, outcome.back.lost), (100, 100, 0));
        assert_eq!(outcome.rings_after, Some(Duration::from_millis(8)));
    }

    #[test]
    fn silence_is_a_failure_and_a_stop_excuses_it() {
        for (stopped, expected) in [
            (false, Verdict::Failed("clyde heard 0 packets of bonnie".to_owned())),
            (true, Verdict::Cut("clyde heard 0 packets of bonnie".to_owned())),
        ] {
            let mut call = call();
            answered(&mut call);
            assert!(call.on_event(at(2_500), 0, &Event::Ended { call: CallId(7), by_us: true, code: 200 }));
            let silent = Stream::new(1, None);
            assert_eq!(call.outcome(Some(&silent), Some(&silent), stopped, false).verdict, expected);
        }
    }

    #[test]
    fn a_refused_call_and_a_bye_into_the_void_are_failures() {
        let mut refused = call();
        assert!(refused.on_event(at(5), 0, &Event::Failed { call: CallId(7), code: 503 }));
        let verdict = refused.outcome(None, None, false, false).verdict;
        assert_eq!(verdict, Verdict::Failed("not answered: 503".to_owned()));

        let mut left = call();
        answered(&mut left);
        let (speaker, listener) = talk();
        let verdict = left.outcome(Some(&speaker), Some(&listener), false, false).verdict;
        assert_eq!(verdict, Verdict::Failed("BYE was not answered".to_owned()));
    }

    #[test]
    fn other_calls_are_left_alone() {
        let mut call = call();
        let guest = Event::Incoming { call: CallId(4), from: "sip:guest@127.0.0.1".to_owned() };
        assert!(!call.on_event(at(1), 1, &guest));
        assert!(!call.on_event(at(1), 0, &incoming()));
        assert!(!call.on_event(at(1), 0, &Event::Failed { call: CallId(9), code: 486 }));
        assert!(!call.is_over());
    }
}
