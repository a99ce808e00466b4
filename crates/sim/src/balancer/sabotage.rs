//! A balancer that is broken on purpose: the engine is as it is, and what goes in and out of it is changed on the way. A judge
//! that overlooks one of these overlooks an engine that does the same.

use crate::network::Datagram;
use crate::script::{Text, parameter};
use crate::settings::{VIP, box_address, peer_address};
use sip::{Instant, Limits};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// One way to be broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sabotage {
    /// Only the first copy of each 2xx to INVITE goes up.
    DropsRepeatedSuccess,
    /// CANCEL is answered 200 and goes no further.
    KeepsCancel,
    /// CANCEL is not answered.
    IgnoresCancel,
    /// Every INVITE to a box is followed by its CANCEL.
    CancelsAtOnce,
    /// The 503 of a box goes up as it came.
    ShowsOverload,
    /// A refreshed registration has another contact than before.
    BindsTwice,
    /// A phone that moves in a call gets the requests of the call at its first address.
    ForgetsMoves,
    /// A stranger's BYE goes to a box.
    FollowsForgery,
    /// An ACK goes to the box beside.
    MisleadsAck,
    /// No final answer to BYE goes up.
    KeepsAnswer,
    /// Each refusal of an INVITE is followed by another one.
    RefusesTwice,
    /// A refusal is sent once more after its ACK.
    RepeatsAfterAck,
    /// The last octet of each body is another one.
    AltersBody,
    /// No BYE of its own goes out: the calls of a box that is cut are only forgotten.
    CutsInSilence,
    /// A phone whose REGISTER no box has seen is told an hour.
    PromisesTooLong,
}

/// Does it, and remembers what it needs for that.
#[derive(Debug)]
pub(super) struct Saboteur {
    sabotage: Sabotage,
    /// Octets that were seen before.
    known: BTreeSet<Vec<u8>>,
    /// Tags of the To of each 503 that came.
    overloaded: BTreeSet<String>,
    /// By Call-ID: where the phone of a call was first.
    first: BTreeMap<String, SocketAddr>,
    /// By branch: refusals that went up.
    refusals: BTreeMap<String, Datagram>,
    /// To be sent with the next datagram that comes.
    delayed: Vec<Datagram>,
}

impl Saboteur {
    pub(super) fn new(sabotage: Sabotage) -> Self {
        Self {
            sabotage,
            known: BTreeSet::new(),
            overloaded: BTreeSet::new(),
            first: BTreeMap::new(),
            refusals: BTreeMap::new(),
            delayed: Vec::new(),
        }
    }

    /// A datagram came in, and the engine has answered it: what is sent besides.
    pub(super) fn incoming(&mut self, now: Instant, from: SocketAddr, to: SocketAddr, bytes: &[u8]) -> Vec<Datagram> {
        let text = Text::read(bytes);
        let mut sent: Vec<Datagram> = std::mem::take(&mut self.delayed);
        for datagram in &mut sent {
            datagram.at = now;
        }
        let is_request = text.code().is_none();
        match self.sabotage {
            Sabotage::ShowsOverload if text.code() == Some(503) => {
                self.overloaded.insert(text.header("To").unwrap_or_default().to_owned());
            }
            Sabotage::ForgetsMoves if !is_a_box(from) => {
                let call_id = text.header("Call-ID").unwrap_or_default().to_owned();
                self.first.entry(call_id).or_insert(from);
            }
            Sabotage::FollowsForgery if is_request && text.method() == "BYE" && from == peer_address(0) => {
                sent.push(Datagram { at: now, from: to, to: box_address(0), bytes: Arc::from(bytes) });
            }
            Sabotage::RepeatsAfterAck if is_request && text.method() == "ACK" => {
                self.delayed.extend(self.refusals.remove(&text.branch()));
            }
            _ => {}
        }
        sent
    }

    /// What is sent instead of what the engine wants sent.
    pub(super) fn outgoing(&mut self, mut datagram: Datagram) -> Vec<Datagram> {
        let text = Text::read(&datagram.bytes);
        let (method, code) = (text.method(), text.code());
        let is_success = code.is_some_and(|code| (200..300).contains(&code));
        let is_refusal = code.is_some_and(|code| code >= 300);
        let is_request = code.is_none();
        let mut besides = None;
        let sabotage = self.sabotage;
        match sabotage {
            Sabotage::DropsRepeatedSuccess if method == "INVITE" && is_success && !self.is_new(&datagram) => {
                return Vec::new();
            }
            Sabotage::KeepsCancel if is_request && method == "CANCEL" => return Vec::new(),
            Sabotage::IgnoresCancel if !is_request && method == "CANCEL" => return Vec::new(),
            Sabotage::KeepsAnswer if method == "BYE" && (is_success || is_refusal) => return Vec::new(),
            Sabotage::CancelsAtOnce if is_request && method == "INVITE" && is_a_box(datagram.to) => {
                besides = cancel_of(&datagram);
            }
            Sabotage::ShowsOverload
                if code == Some(500) && self.overloaded.contains(text.header("To").unwrap_or_default()) =>
            {
                datagram.bytes = replaced(&text, &datagram.bytes, "SIP/2.0 503 Service Unavailable");
            }
            Sabotage::BindsTwice if is_request && method == "REGISTER" && is_refresh(&text) => {
                datagram.bytes = with_another_contact(&datagram.bytes);
            }
            Sabotage::ForgetsMoves if is_request && is_in_dialog(&text) && !is_a_box(datagram.to) => {
                let call_id = text.header("Call-ID").unwrap_or_default();
                datagram.to = self.first.get(call_id).copied().unwrap_or(datagram.to);
            }
            Sabotage::MisleadsAck if is_request && method == "ACK" && is_a_box(datagram.to) => {
                datagram.to = beside(datagram.to);
            }
            Sabotage::RefusesTwice if method == "INVITE" && is_refusal && code != Some(480) => {
                let bytes = replaced(&text, &datagram.bytes, "SIP/2.0 480 Temporarily Unavailable");
                besides = self.is_new(&datagram).then(|| Datagram { bytes, ..datagram.clone() });
            }
            Sabotage::RepeatsAfterAck if method == "INVITE" && is_refusal => {
                self.refusals.insert(text.branch(), datagram.clone());
            }
            // In all other requests the Via of whoever asked is below ours.
            Sabotage::CutsInSilence if is_request && method == "BYE" && text.values("Via").len() == 1 => {
                return Vec::new();
            }
            Sabotage::PromisesTooLong if method == "REGISTER" && (is_request || is_success) => {
                let name = [text.header("Call-ID"), text.header("CSeq")].map(Option::unwrap_or_default).concat();
                if is_request {
                    self.known.insert(name.into_bytes());
                } else if !self.known.contains(name.as_bytes()) {
                    datagram.bytes = with_an_hour(&text, &datagram.bytes);
                }
            }
            Sabotage::AltersBody if !text.body.is_empty() => datagram.bytes = with_another_end(&datagram.bytes),
            _ => {}
        }
        [Some(datagram), besides].into_iter().flatten().collect()
    }

    /// No datagram had these octets before.
    fn is_new(&mut self, datagram: &Datagram) -> bool {
        self.known.insert(datagram.bytes.to_vec())
    }
}

fn is_a_box(address: SocketAddr) -> bool {
    (0..BOXES).any(|index| box_address(index) == address)
}

/// The next box.
fn beside(address: SocketAddr) -> SocketAddr {
    let index = (0..BOXES).find(|index| box_address(*index) == address).unwrap_or_default();
    box_address((index + 1) % BOXES)
}

fn is_in_dialog(text: &Text) -> bool {
    text.header("To").is_some_and(|to| to.contains(";tag="))
}

/// The first two REGISTERs are the challenged one and the one with credentials.
fn is_refresh(text: &Text) -> bool {
    let number = text.header("CSeq").and_then(|value| value.split(' ').next()).and_then(|number| number.parse().ok());
    number.is_some_and(|number: u32| number > 2)
}

/// The CANCEL of an INVITE that is about to be sent.
fn cancel_of(invite: &Datagram) -> Option<Datagram> {
    let message = sip::parse(&invite.bytes, &Limits::default()).ok()?;
    let mut bytes = Vec::new();
    sip::build::cancel(&message, b"", &mut bytes);
    Some(Datagram { at: invite.at, from: VIP, to: invite.to, bytes: Arc::from(bytes) })
}

/// The message with another first line.
fn replaced(text: &Text, bytes: &[u8], start: &str) -> Arc<[u8]> {
    let rest = bytes.get(text.start.len()..).unwrap_or_default();
    Arc::from([start.as_bytes(), rest].concat())
}

/// The last digit of the contact's number is another one.
fn with_another_contact(bytes: &[u8]) -> Arc<[u8]> {
    let mut bytes = bytes.to_vec();
    let last = memchr::memmem::find(&bytes, b";tdm=").map(|at| at + b";tdm=".len() + 15);
    if let Some(digit) = last.and_then(|at| bytes.get_mut(at)) {
        *digit = if *digit == b'0' { b'1' } else { b'0' };
    }
    Arc::from(bytes)
}

/// The contact lasts an hour.
fn with_an_hour(text: &Text, bytes: &[u8]) -> Arc<[u8]> {
    let told = text.header("Contact").and_then(|contact| parameter(contact, "expires")).unwrap_or_default();
    let line = format!(";expires={told}\r\n");
    let whole = String::from_utf8_lossy(bytes);
    Arc::from(whole.replacen(&line, ";expires=3600\r\n", 1).into_bytes())
}

fn with_another_end(bytes: &[u8]) -> Arc<[u8]> {
    let mut bytes = bytes.to_vec();
    if let Some(last) = bytes.last_mut() {
        *last = if *last == b'!' { b'?' } else { b'!' };
    }
    Arc::from(bytes)
}

/// As many as a random world has.
const BOXES: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Answer, Script};
    use crate::settings::phone_address;

    fn datagram(to: SocketAddr, bytes: Vec<u8>) -> Datagram {
        Datagram { at: Instant::from_micros(1), from: VIP, to, bytes: Arc::from(bytes) }
    }

    fn lines(sent: &[Datagram]) -> Vec<String> {
        sent.iter().map(|datagram| Text::read(&datagram.bytes).start).collect()
    }

    #[test]
    fn what_is_not_sabotaged_passes() {
        let invite = datagram(box_address(0), Script::new("INVITE").build());
        let mut saboteur = Saboteur::new(Sabotage::KeepsAnswer);
        let sent = saboteur.outgoing(invite.clone());
        assert_eq!(lines(&sent), lines(&[invite]));
        let answer = Answer::new(200).to(&Script::new("BYE").build());
        assert!(saboteur.outgoing(datagram(phone_address(0), answer)).is_empty());
    }

    #[test]
    fn an_invite_is_cancelled_at_once() {
        let invite = datagram(box_address(1), Script::new("INVITE").build());
        let sent = Saboteur::new(Sabotage::CancelsAtOnce).outgoing(invite);
        assert_eq!(lines(&sent), ["INVITE sip:clyde@example.com SIP/2.0", "CANCEL sip:clyde@example.com SIP/2.0"]);
        assert!(sent.iter().all(|datagram| datagram.to == box_address(1)));
    }

    #[test]
    fn a_refusal_is_repeated_with_what_comes_after_its_ack() {
        let mut saboteur = Saboteur::new(Sabotage::RepeatsAfterAck);
        let refusal = Answer::new(486).to(&Script::new("INVITE").build());
        saboteur.outgoing(datagram(phone_address(0), refusal));
        let mut comes = |method: &str| {
            let bytes = Script::new(method).build();
            lines(&saboteur.incoming(Instant::from_micros(2), phone_address(0), VIP, &bytes))
        };
        assert_eq!(comes("ACK"), Vec::<String>::new());
        assert_eq!(comes("OPTIONS"), ["SIP/2.0 486 Answer"]);
        assert_eq!(comes("OPTIONS"), Vec::<String>::new());
    }

    #[test]
    fn a_bye_of_its_own_is_kept() {
        let bye = Script::new("BYE").build();
        let below = "Via: SIP/2.0/UDP 10.1.0.2:5060;branch=z9hG4bKbelow";
        let passed_on = Script::new("BYE").line(below).build();
        let mut saboteur = Saboteur::new(Sabotage::CutsInSilence);
        let mut sent = |bytes: Vec<u8>| lines(&saboteur.outgoing(datagram(phone_address(0), bytes))).len();
        assert_eq!([sent(bye), sent(passed_on)], [0, 1]);
    }

    #[test]
    fn a_phone_is_told_an_hour_of_what_no_box_has_seen() {
        let register = Script::new("REGISTER").cseq(7).build();
        let told = |saboteur: &mut Saboteur| {
            let answer = Answer::new(200).line("Contact: <sip:b@10.1.0.1>;expires=30").to(&register);
            let sent = saboteur.outgoing(datagram(phone_address(0), answer));
            sent.first().and_then(|sent| Text::read(&sent.bytes).header("Contact").map(str::to_owned))
        };
        let mut saboteur = Saboteur::new(Sabotage::PromisesTooLong);
        assert_eq!(told(&mut saboteur).as_deref(), Some("<sip:b@10.1.0.1>;expires=3600"));
        saboteur.outgoing(datagram(box_address(0), register.clone()));
        assert_eq!(told(&mut saboteur).as_deref(), Some("<sip:b@10.1.0.1>;expires=30"));
    }

    #[test]
    fn a_refresh_has_another_contact() {
        let register = |cseq: u32| -> Vec<Option<String>> {
            let script = Script::new("REGISTER").cseq(cseq).line("Contact: <sip:b@10.0.0.1;tdm=0123456789abcdef>");
            let sent = Saboteur::new(Sabotage::BindsTwice).outgoing(datagram(box_address(0), script.build()));
            sent.iter().map(|datagram| Text::read(&datagram.bytes).header("Contact").map(str::to_owned)).collect()
        };
        let contacts = [register(2), register(3)];
        assert_eq!(contacts[0], [Some("<sip:b@10.0.0.1;tdm=0123456789abcdef>".to_owned())]);
        assert_eq!(contacts[1], [Some("<sip:b@10.0.0.1;tdm=0123456789abcde0>".to_owned())]);
    }
}
