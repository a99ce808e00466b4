//! What a user agent is told about itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// A user's account at a registrar, and where the user agent stands.
#[derive(Clone, Debug)]
pub struct Account {
    /// User part of the address-of-record, and the name given in digest answers.
    pub user: String,
    /// Domain of the address-of-record; also the host of the registrar's URI (RFC 3261 §10.2).
    pub domain: String,
    /// Display name in From; may be empty.
    pub display: String,
    pub password: String,
    /// Where requests outside a dialog are sent, whatever their Request-URI says.
    pub proxy: SocketAddr,
    /// Our own address: the sent-by of our Vias and the host of our Contact.
    pub contact: SocketAddr,
    /// Seconds that a registration is asked to last.
    pub expires: u32,
}

impl Account {
    /// The address-of-record as a name-addr without tag.
    pub(crate) fn address_of_record(&self) -> Vec<u8> {
        let uri = format!("<sip:{}@{}>", self.user, self.domain);
        if self.display.is_empty() {
            return uri.into_bytes();
        }
        let mut quoted = String::with_capacity(self.display.len() + uri.len() + 3);
        quoted.push('"');
        for letter in self.display.chars().filter(|letter| !letter.is_control()) {
            if letter == '"' || letter == '\\' {
                quoted.push('\\');
            }
            quoted.push(letter);
        }
        quoted.push_str("\" ");
        quoted.push_str(&uri);
        quoted.into_bytes()
    }
}

/// What an incoming call gets. All times count from the arrival of the INVITE, but `hang_up_after`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answering {
    /// When 180 is sent; not at all if the final answer comes before.
    pub ring_after: Duration,
    /// When the final answer is sent; `None`: rings for ever.
    pub answer_after: Option<Duration>,
    /// The final answer: 200, or the status of a refusal (300 to 699).
    pub code: u16,
    /// How long after the ACK we hang up; `None`: the caller does.
    pub hang_up_after: Option<Duration>,
    /// Where we want to hear the caller: goes into the SDP.
    pub media: SocketAddr,
}

impl Default for Answering {
    /// Rings at once, answers after 100 ms, never hangs up, and names a media address that discards.
    fn default() -> Self {
        Self {
            ring_after: Duration::ZERO,
            answer_after: Some(Duration::from_millis(100)),
            code: 200,
            hang_up_after: None,
            media: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(display: &str) -> Account {
        Account {
            user: "bonnie".to_owned(),
            domain: "example.com".to_owned(),
            display: display.to_owned(),
            password: String::new(),
            proxy: SocketAddr::from(([10, 0, 0, 1], 5060)),
            contact: SocketAddr::from(([10, 1, 0, 1], 5060)),
            expires: 60,
        }
    }

    #[test]
    fn display_names_are_quoted_and_cannot_break_out() {
        assert_eq!(account("").address_of_record(), b"<sip:bonnie@example.com>");
        assert_eq!(account("Bonnie P.").address_of_record(), b"\"Bonnie P.\" <sip:bonnie@example.com>");
        assert_eq!(account("a\"b\\\r\nc").address_of_record(), b"\"a\\\"b\\\\c\" <sip:bonnie@example.com>");
    }
}
