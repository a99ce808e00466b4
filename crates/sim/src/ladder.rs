//! The wire as a reader wants to see it: one line a datagram.

use crate::network::{Fate, Sent};
use std::fmt::Write;

/// The last `count` datagrams: time in seconds, from, to, first line, CSeq of answers, Call-ID, and what went wrong.
pub fn ladder(wire: &[Sent], count: usize) -> String {
    let mut text = String::new();
    let skipped = wire.len().saturating_sub(count);
    if skipped > 0 {
        line(&mut text, format_args!("  ... {skipped} datagrams before"));
    }
    for sent in wire.iter().skip(skipped) {
        let seconds = sent.at.as_micros() as f64 / 1e6;
        let receiver = sent.receiver.map_or_else(|| sent.to.to_string(), |party| party.to_string());
        let fate = match sent.fate {
            Fate::Delivered => "",
            Fate::Flying => "  (under way)",
            Fate::Lost => "  (lost)",
            Fate::Unreachable => "  (nobody there)",
        };
        let sender = sent.sender;
        let what = describe(&sent.bytes);
        line(&mut text, format_args!("{seconds:>11.6}  {sender:<8} -> {receiver:<8}  {what}{fate}"));
    }
    text
}

/// First line, CSeq where the first line does not say it, and Call-ID.
fn describe(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split("\r\n");
    let first: String = lines.next().unwrap_or_default().chars().take(72).collect();
    let mut cseq = "";
    let mut call_id = "";
    for header in lines.take_while(|header| !header.is_empty()) {
        if let Some((name, value)) = header.split_once(':') {
            match name.trim() {
                "CSeq" => cseq = value.trim(),
                "Call-ID" | "i" => call_id = value.trim(),
                _ => {}
            }
        }
    }
    if first.is_empty() && cseq.is_empty() {
        return format!("{} octets", bytes.len());
    }
    format!("{first}  [{cseq}]  {call_id}")
}

fn line(text: &mut String, what: std::fmt::Arguments<'_>) {
    writeln!(text, "{what}").expect("writing into a string cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Party;
    use crate::settings::{VIP, phone_address};
    use sip::Instant;
    use std::sync::Arc;

    #[test]
    fn a_line_says_who_what_and_what_became_of_it() {
        let bytes: &[u8] = b"SIP/2.0 180 Ringing\r\nCall-ID: abc\r\nCSeq: 2 INVITE\r\n\r\n";
        let sent = Sent {
            at: Instant::from_micros(1_250_000),
            from: VIP,
            to: phone_address(0),
            bytes: Arc::from(bytes),
            sender: Party::Balancer,
            receiver: Some(Party::Phone(0)),
            fate: Fate::Lost,
            arrived: None,
        };
        let text = ladder(&[sent.clone(), sent], 1);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.first().copied(), Some("  ... 1 datagrams before"));
        assert_eq!(
            lines.last().copied(),
            Some("   1.250000  farm     -> phone1    SIP/2.0 180 Ringing  [2 INVITE]  abc  (lost)")
        );
    }
}
