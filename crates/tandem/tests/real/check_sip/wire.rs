//! What one check and its peer asked each other, as tshark saw it.

use crate::common::capture::Whole;
use crate::common::wire::Taken;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The requests in order, each once, those of the peer in brackets, and what was left behind: a call that was answered and not ended,
/// a binding that was made and not removed. `beside` stands behind the peer, and what both say to each other is not looked at.
pub(super) fn between(all: &[Whole], peer: IpAddr, beside: IpAddr) -> String {
    let mut asked = Asked::default();
    for whole in all {
        let (source, target) = (whole.source.ip(), whole.target.ip());
        if source != beside && target != beside && (source == peer || target == peer) {
            asked.take(&whole.taken, target == peer);
        }
    }
    asked.text()
}

#[derive(Default)]
struct Asked {
    known: BTreeSet<(bool, String, String)>,
    words: Vec<String>,
    is_leaving: bool,
    is_bound: bool,
    is_in_call: bool,
}

impl Asked {
    fn take(&mut self, taken: &Taken, is_to_peer: bool) {
        let number = taken.text("cseq").unwrap_or_default();
        let method = number.split_whitespace().nth(1).unwrap_or_default().to_owned();
        if let Some(code) = taken.code() {
            let is_success = (200..300).contains(&code);
            match method.as_str() {
                "REGISTER" if is_success => self.is_bound = !self.is_leaving,
                "INVITE" if is_success => self.is_in_call = true,
                _ => {}
            }
            return;
        }
        let is_leaving = taken.text("expires").as_deref() == Some("0");
        match method.as_str() {
            // Kamailio is asked so whether it is up.
            "OPTIONS" => return,
            "REGISTER" => self.is_leaving = is_leaving,
            "BYE" => self.is_in_call = false,
            _ => {}
        }
        if !self.known.insert((is_to_peer, number, taken.text("call-id").unwrap_or_default())) {
            return;
        }
        let word = match (is_to_peer, is_leaving) {
            (true, true) if method == "REGISTER" => "un-REGISTER".to_owned(),
            (true, _) => method,
            (false, _) => format!("({method})"),
        };
        // Once more with a password is the same.
        if self.words.last() != Some(&word) {
            self.words.push(word);
        }
    }

    fn text(self) -> String {
        let mut text = if self.words.is_empty() { "nothing".to_owned() } else { self.words.join(", ") };
        for (is_left, what) in [(self.is_in_call, "call"), (self.is_bound, "binding")] {
            if is_left {
                text.push_str("; the ");
                text.push_str(what);
                text.push_str(" stays");
            }
        }
        text
    }
}

#[test]
fn what_is_left_behind_is_told() {
    let message = |start: &str, cseq: &str, more: &str| {
        Taken::of(format!("{start}\r\nCall-ID: 1\r\nCSeq: {cseq}\r\n{more}Content-Length: 0\r\n\r\n").as_bytes())
    };
    let mut asked = Asked::default();
    for _retransmitted in 0..2 {
        asked.take(&message("REGISTER sip:x SIP/2.0", "1 REGISTER", "Expires: 60\r\n"), true);
    }
    asked.take(&message("SIP/2.0 401 Unauthorized", "1 REGISTER", ""), false);
    asked.take(&message("REGISTER sip:x SIP/2.0", "2 REGISTER", "Expires: 60\r\n"), true);
    asked.take(&message("SIP/2.0 200 OK", "2 REGISTER", ""), false);
    asked.take(&message("INVITE sip:x SIP/2.0", "1 INVITE", ""), true);
    asked.take(&message("SIP/2.0 200 OK", "1 INVITE", ""), false);
    asked.take(&message("ACK sip:x SIP/2.0", "1 ACK", ""), true);
    assert!(asked.is_in_call && asked.is_bound);
    asked.take(&message("BYE sip:x SIP/2.0", "1 BYE", ""), false);
    assert_eq!(asked.words.join(", "), "REGISTER, INVITE, ACK, (BYE)");
    assert!(!asked.is_in_call && asked.is_bound);
    asked.take(&message("REGISTER sip:x SIP/2.0", "3 REGISTER", "Expires: 0\r\n"), true);
    assert!(asked.is_bound, "it was not confirmed");
    asked.take(&message("SIP/2.0 200 OK", "3 REGISTER", ""), false);
    assert_eq!(asked.text(), "REGISTER, INVITE, ACK, (BYE), un-REGISTER");
    assert_eq!(
        Asked { is_in_call: true, is_bound: true, ..Asked::default() }.text(),
        "nothing; the call stays; the binding stays"
    );
}
