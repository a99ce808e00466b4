//! What a stranger sends who sees the wire: pieces of it in places where they must not count.

use super::plan::Forgery;
use crate::model::{FORGED, FORGED_CONTACT};
use crate::network::{Party, Sent};
use crate::random::Random;
use crate::script::{Script, Text, uri_in};
use crate::settings::peer_address;

/// The datagram of attack number `number`, made of something that was seen from a random moment on; `None`: nothing of that kind
/// was.
pub(super) fn forged(forgery: Forgery, number: u32, wire: &[Sent], random: &mut Random) -> Option<Vec<u8>> {
    let from = random.index(wire.len());
    let mut seen = wire.iter().skip(from).filter(|sent| sent.sender == Party::Balancer);
    let bytes = match forgery {
        Forgery::CopiedToken => {
            let (route, _) = seen.find_map(record_route)?;
            let call_id = format!("{FORGED}{number}");
            request("BYE", number).call_id(&call_id).to(SOMEBODY).line(&format!("Route: {route}")).build()
        }
        Forgery::AlteredToken => {
            let (route, call_id) = seen.find_map(record_route)?;
            let route = altered(&route, "sip:tdm", random)?;
            request("BYE", number).call_id(&call_id).to(SOMEBODY).line(&format!("Route: {route}")).build()
        }
        Forgery::WithoutTag => {
            let (route, call_id) = seen.find_map(record_route)?;
            request("INVITE", number).call_id(&call_id).line(&format!("Route: {route}")).build()
        }
        Forgery::ContactId => {
            let contact = seen.find_map(|sent| {
                let value = of_a_registration(sent, "Contact")?;
                Some(uri_in(&value)).filter(|uri| uri.contains(";tdm="))
            })?;
            let from = format!("<sip:mallory@example.com>;tag={FORGED_CONTACT}{number}");
            let call_id = format!("{FORGED}{number}");
            request("MESSAGE", number).uri(&contact).from(&from).call_id(&call_id).build()
        }
        Forgery::Path => {
            let path = seen.find_map(|sent| of_a_registration(sent, "Path"))?;
            let call_id = format!("{FORGED}{number}");
            request("INVITE", number).call_id(&call_id).line(&format!("Route: {path}")).build()
        }
        Forgery::Branch => {
            let text = Text::read(&seen.find(|sent| !sent.bytes.starts_with(b"SIP/2.0 "))?.bytes);
            let via = altered(&text.values("Via").into_iter().next()?, "branch=z9hG4bKtdm", random)?;
            response(&via, text.header("Call-ID")?, number)
        }
    };
    Some(bytes)
}

/// A request of the stranger, told from all others by its From tag.
fn request(method: &str, number: u32) -> Script {
    Script::new(method)
        .via(&format!("SIP/2.0/UDP {};rport;branch=z9hG4bKforged{number}", peer_address(0)))
        .from(&format!("<sip:mallory@example.com>;tag={FORGED}{number}"))
}

/// An answer to a request that the balancer never sent.
fn response(via: &str, call_id: &str, number: u32) -> Vec<u8> {
    let below = peer_address(0);
    format!(
        "SIP/2.0 200 OK\r\nVia: {via}\r\nVia: SIP/2.0/UDP {below};branch=z9hG4bKforged{number}\r\n\
         From: <sip:mallory@example.com>;tag={FORGED}{number}\r\nTo: {SOMEBODY}\r\nCall-ID: {call_id}\r\n\
         CSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

/// The first Record-Route and the Call-ID.
fn record_route(sent: &Sent) -> Option<(String, String)> {
    memchr::memmem::find(&sent.bytes, b"Record-Route: ")?;
    let text = Text::read(&sent.bytes);
    let route = text.values("Record-Route").into_iter().next()?;
    Some((route, text.header("Call-ID")?.to_owned()))
}

/// A value of a REGISTER as a box gets it.
fn of_a_registration(sent: &Sent, name: &str) -> Option<String> {
    if !sent.bytes.starts_with(b"REGISTER ") {
        return None;
    }
    Text::read(&sent.bytes).values(name).into_iter().next()
}

/// The text with one of the characters after `prefix` altered, where the token that begins there goes on.
fn altered(text: &str, prefix: &str, random: &mut Random) -> Option<String> {
    let start = text.find(prefix)? + prefix.len();
    let rest = text.get(start..)?;
    let length = rest.bytes().take_while(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_')).count();
    if length == 0 {
        return None;
    }
    let mut octets = text.as_bytes().to_vec();
    let octet = octets.get_mut(start + random.index(length))?;
    *octet = if *octet == b'A' { b'B' } else { b'A' };
    String::from_utf8(octets).ok()
}

const SOMEBODY: &str = "<sip:clyde@example.com>;tag=guessed";

#[cfg(test)]
mod tests {
    use super::super::plan::FORGERIES;
    use super::*;
    use crate::network::Fate;
    use crate::settings::VIP;
    use sip::Instant;
    use std::sync::Arc;

    const TOKEN: &str = "tdmIAEAAAAR0123456789abcdefghijklmnopqrstuvwxyzABCDEFG";

    /// A REGISTER and an INVITE as the balancer sends them.
    fn wire() -> Vec<Sent> {
        let via = format!("SIP/2.0/UDP {VIP};branch=z9hG4bKtdmAAAABBBB");
        let register = Script::new("REGISTER")
            .via(&via)
            .line("Contact: <sip:bonnie@10.0.0.1:5060;tdm=0123456789abcdef>;expires=60")
            .line(&format!("Path: <sip:{TOKEN}@{VIP};lr>"))
            .build();
        let invite = Script::new("INVITE").via(&via).line(&format!("Record-Route: <sip:{TOKEN}@{VIP};lr>")).build();
        let sent = |bytes: Vec<u8>| Sent {
            at: Instant::from_micros(1),
            from: VIP,
            to: peer_address(1),
            bytes: Arc::from(bytes),
            sender: Party::Balancer,
            receiver: Some(Party::Pbx(0)),
            fate: Fate::Delivered,
            arrived: None,
        };
        // Whatever the random moment, both come after it.
        [register, invite].into_iter().cycle().take(2_000).map(sent).collect()
    }

    fn read(forgery: Forgery) -> Text {
        let bytes = forged(forgery, 7, &wire(), &mut Random::new(3)).expect("there is one of each kind on the wire");
        Text::read(&bytes)
    }

    #[test]
    fn each_kind_is_told_by_its_tag() {
        for forgery in FORGERIES {
            let from = read(forgery).header("From").unwrap_or_default().to_owned();
            assert!(from.contains(&format!(";tag={FORGED}")), "{forgery:?}: {from}");
            assert_eq!(from.contains(FORGED_CONTACT), forgery == Forgery::ContactId);
            assert_eq!(forged(forgery, 7, &[], &mut Random::new(3)), None);
        }
    }

    #[test]
    fn tokens_are_copied_or_altered_in_one_place() {
        let route = |forgery: Forgery| read(forgery).header("Route").unwrap_or_default().to_owned();
        let token = format!("<sip:{TOKEN}@{VIP};lr>");
        for forgery in [Forgery::CopiedToken, Forgery::WithoutTag, Forgery::Path] {
            assert_eq!(route(forgery), token);
        }
        let wrong = route(Forgery::AlteredToken);
        assert_eq!(wrong.len(), token.len());
        assert_eq!(wrong.bytes().zip(token.bytes()).filter(|(one, other)| one != other).count(), 1);
        assert!(wrong.starts_with("<sip:tdm"), "{wrong}");
        let branch = read(Forgery::Branch).branch();
        assert!(branch.starts_with("z9hG4bKtdm") && branch != "z9hG4bKtdmAAAABBBB", "{branch}");
    }

    #[test]
    fn what_has_no_tag_stays_without() {
        let invite = read(Forgery::WithoutTag);
        assert_eq!(invite.header("To"), Some("<sip:clyde@example.com>"));
        assert_eq!(invite.header("Call-ID"), Some("call-1"));
        assert_eq!(read(Forgery::ContactId).uri(), "sip:bonnie@10.0.0.1:5060;tdm=0123456789abcdef");
    }
}
