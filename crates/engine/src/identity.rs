//! Users, calls and dialogs as keyed hashes: the keys of the directory.

use crate::id::FarmId;
use crate::running::FarmView;
use crate::token::Secrets;
use sip::{Checked, Host, Uri};
use std::hash::Hasher;
use std::net::IpAddr;

/// An address-of-record: one user of one domain of one farm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aor<'a> {
    pub(crate) user: &'a [u8],
    pub(crate) host: Host<'a>,
    /// The host is one of ours: all our names and addresses are one domain.
    pub(crate) own: bool,
}

impl<'a> Aor<'a> {
    /// `None` for a URI without a user.
    pub(crate) fn of(uri: &Uri<'a>, farm: FarmView<'_>, arrived_at: IpAddr) -> Option<Self> {
        Some(Self {
            user: uri.user.filter(|user| !user.is_empty())?,
            host: uri.host,
            own: farm.is_own_host(uri.host, arrived_at),
        })
    }

    pub(crate) fn key(&self, secrets: &Secrets, farm: FarmId) -> u64 {
        let mut hasher = secrets.table_hasher();
        hasher.write_u32(farm.0);
        write_unescaped(self.user, &mut hasher);
        hasher.write_u8(b'@');
        match self.host {
            _ if self.own => {}
            Host::Ip(address) => hasher.write(address.to_string().as_bytes()),
            Host::Name(name) => {
                let name = name.strip_suffix(b".").unwrap_or(name);
                for octet in name {
                    hasher.write_u8(octet.to_ascii_lowercase());
                }
            }
        }
        hasher.finish()
    }

    /// `user@host`, for people to read.
    pub(crate) fn name(&self) -> Vec<u8> {
        let mut name = self.user.to_vec();
        name.push(b'@');
        match self.host {
            Host::Ip(address) => name.extend_from_slice(address.to_string().as_bytes()),
            Host::Name(host) => name.extend_from_slice(host),
        }
        name
    }

    /// RFC 3323 §4.1.1.3: nobody in particular.
    pub(crate) fn is_anonymous(&self) -> bool {
        self.user.eq_ignore_ascii_case(b"anonymous")
            || matches!(self.host, Host::Name(name) if name.eq_ignore_ascii_case(b"anonymous.invalid"))
    }
}

/// Keyed hash of a Call-ID, a tag or a header's value.
pub(crate) fn text_key(secrets: &Secrets, text: &[u8]) -> u64 {
    let mut hasher = secrets.table_hasher();
    hasher.write(text);
    hasher.finish()
}

/// Keyed hash of an absent or present tag.
pub(crate) fn tag_key(secrets: &Secrets, tag: Option<&[u8]>) -> u64 {
    tag.map_or(0, |tag| text_key(secrets, tag))
}

/// What stays the same between a request and its repetition with credentials: Call-ID and From tag.
pub(crate) fn attempt_key(secrets: &Secrets, message: &Checked<'_>) -> u64 {
    let mut hasher = secrets.table_hasher();
    hasher.write(message.call_id());
    hasher.write_u8(0);
    hasher.write(message.from().tag.unwrap_or_default());
    hasher.finish()
}

/// Keyed hash of an address; an IPv4 address that is written as IPv6 is itself.
pub(crate) fn address_key(secrets: &Secrets, address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => text_key(secrets, &address.octets()),
        IpAddr::V6(address) => text_key(secrets, &address.octets()),
    }
}

/// RFC 3261 §19.1.4: an escaped unreserved character equals the character.
fn write_unescaped(mut text: &[u8], hasher: &mut impl Hasher) {
    while let Some((&first, rest)) = text.split_first() {
        text = rest;
        let escaped = (first == b'%')
            .then(|| rest.split_first_chunk::<2>())
            .flatten()
            .and_then(|(digits, after)| Some((hex(digits[0])? * 16 + hex(digits[1])?, after)))
            .filter(|(octet, _)| octet.is_ascii_alphanumeric() || b"-_.!~*'()".contains(octet));
        match escaped {
            Some((octet, after)) => {
                hasher.write_u8(octet);
                text = after;
            }
            None => hasher.write_u8(first),
        }
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::unit::{VIP, address, arrive, flow, request, running, secrets};
    use std::collections::hash_map::DefaultHasher;

    /// Key, name and anonymity of the user that a request to this URI is for.
    fn user(uri: &str, farm: FarmId) -> Option<(u64, String, bool)> {
        arrive(&running(|_| ()), flow(VIP, "10.1.0.1:5060"), &request("OPTIONS", uri, ""), |arrival| {
            let aor = Aor::of(&arrival.uri, arrival.farm, arrival.flow.local)?;
            let name = String::from_utf8_lossy(&aor.name()).into_owned();
            Some((aor.key(&secrets(), farm), name, aor.is_anonymous()))
        })
    }

    fn hashed(text: &[u8]) -> u64 {
        let mut hasher = DefaultHasher::new();
        write_unescaped(text, &mut hasher);
        hasher.finish()
    }

    #[test]
    fn escapes_of_unreserved_characters_do_not_make_another_user() {
        assert_eq!(hashed(b"bonnie"), hashed(b"%62onnie"));
        assert_ne!(hashed(b"a%40b"), hashed(b"a@b"));
        assert_ne!(hashed(b"a%00b"), hashed(b"a"));
        assert_ne!(hashed(b"100%"), hashed(b"100"));
    }

    #[test]
    fn all_our_names_and_addresses_are_one_domain() {
        let farm = FarmId::of("pbx");
        let key = |uri: &str| user(uri, farm).map(|(key, ..)| key).expect("a user");
        // The log of facts holds these keys from one start to the next.
        let bonnie = 8_351_272_604_967_756_376;
        for uri in [
            "sip:bonnie@example.com",
            "sips:%62onnie@EXAMPLE.com.:5061",
            "sip:bonnie@10.0.0.1",
            "sip:bonnie@10.0.0.1:9",
        ] {
            assert_eq!(key(uri), bonnie, "{uri}");
        }
        assert_eq!(key("sip:bonnie@other.example"), key("sip:bonnie@Other.Example."));
        assert_eq!(key("sip:bonnie@192.0.2.1"), key("sip:bonnie@192.0.2.1:5070"));
        let strangers = ["other.example", "another.example", "192.0.2.1", "192.0.2.2", "[2001:db8::1]"];
        let mut keys: Vec<u64> = strangers.iter().map(|host| key(&format!("sip:bonnie@{host}"))).collect();
        keys.extend([bonnie, key("sip:clyde@example.com"), key("sip:Bonnie@example.com")]);
        keys.extend(user("sip:bonnie@example.com", FarmId::of("hotel")).map(|(key, ..)| key));
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 9);
        assert_eq!(user("sip:example.com", farm), None);
    }

    /// RFC 3323 §4.1.1.3.
    #[test]
    fn nobody_in_particular_is_told_by_user_or_by_host() {
        for (address, anonymous) in [
            ("bonnie@example.com", false),
            ("Anonymous@example.com", true),
            ("bonnie@Anonymous.invalid", true),
            ("anonymous@anonymous.invalid", true),
            ("bonnie@192.0.2.1", false),
        ] {
            let (_, name, found) = user(&format!("sip:{address}"), FarmId(1)).expect("a user");
            assert_eq!((name.as_str(), found), (address, anonymous));
        }
        assert_eq!(user("sip:b@[2001:db8::1]", FarmId(1)).map(|(_, name, _)| name), Some("b@2001:db8::1".to_owned()));
    }

    #[test]
    fn keys_of_texts_tags_and_addresses_tell_them_apart() {
        let secrets = secrets();
        let (one, other) = (text_key(&secrets, b"one"), text_key(&secrets, b"other"));
        assert_ne!(one, other);
        assert_eq!([Some(&b"one"[..]), Some(&b"other"[..]), None].map(|tag| tag_key(&secrets, tag)), [one, other, 0]);
        let at = |text: &str| address_key(&secrets, address(text).ip());
        assert_eq!(at("192.0.2.1:5060"), at("[::ffff:192.0.2.1]:5070"));
        let mut keys = ["192.0.2.1:1", "192.0.2.2:1", "[2001:db8::1]:1", "[2001:db8::2]:1"].map(at).to_vec();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 4);
    }

    #[test]
    fn a_request_with_credentials_is_the_same_attempt() {
        let running = running(|_| ());
        let first = request("INVITE", "sip:clyde@example.com", "");
        let key = |text: &str| {
            arrive(&running, flow(VIP, "10.1.0.1:5060"), text, |arrival| attempt_key(&secrets(), arrival.message))
        };
        let again = first.replace("bKc", "bKd").replace("CSeq: 1", "CSeq: 2");
        assert_eq!(key(&first), key(&again));
        assert_ne!(key(&first), key(&first.replace("call-1", "call-2")));
        assert_ne!(key(&first), key(&first.replace("tag=ft", "tag=fu")));
    }
}
