//! URIs as SIP uses them (RFC 3261 §19.1, RFC 3966 for `tel:`). Nothing is unescaped: the parts are the octets as they came.

use std::fmt;
use std::net::IpAddr;

use crate::grammar::{Octets, around, find, find_any, head, ip, ipv6, octets, port, tail};
use crate::value;

/// A URI in its parts.
#[derive(Clone, Copy, Debug)]
pub struct Uri<'a> {
    /// The whole URI.
    pub raw: &'a [u8],
    /// The scheme.
    pub scheme: Scheme<'a>,
    /// The user part, escapes and all; the subscriber of `tel:`, all after the colon of `urn:`.
    pub user: Option<&'a [u8]>,
    /// What follows the user part's colon.
    pub password: Option<&'a [u8]>,
    /// The host; an empty name for schemes without one.
    pub host: Host<'a>,
    /// The port, if it is written.
    pub port: Option<u16>,
    /// The parameters, without the first semicolon.
    pub params: &'a [u8],
    /// The headers, without the question mark.
    pub headers: &'a [u8],
}

/// The scheme of a URI; case does not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme<'a> {
    Sip,
    Sips,
    Tel,
    Urn,
    Other(&'a [u8]),
}

/// The host of a SIP URI or of a Via.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Host<'a> {
    /// An address; IPv6 stands in brackets in a message.
    Ip(IpAddr),
    /// A name as it is spelled.
    Name(&'a [u8]),
}

/// Why octets are no URI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UriFault {
    /// No scheme and colon stand first.
    Scheme,
    /// White space, a control octet, a quote or an angle bracket.
    Octet,
    /// Nothing follows the scheme.
    Empty,
    /// An empty user part before the `@`.
    User,
    /// No host, or none that is a name, an IPv4 address or an IPv6 reference in brackets.
    Host,
    /// A port that is no number from 1 to 65,535.
    Port,
}

/// Reads a URI of any scheme.
///
/// # Errors
/// The first rule of the grammar that it breaks. Of a scheme other than `sip`, `sips`, `tel` and `urn` only the scheme and the
/// allowed octets are looked at.
pub fn parse(bytes: &[u8]) -> Result<Uri<'_>, UriFault> {
    let uri = parse_octets(bytes);
    // A missing scheme is told first, for that is what a reader looks for.
    if !are_uri_octets(bytes) && !matches!(uri, Err(UriFault::Scheme)) {
        return Err(UriFault::Octet);
    }
    uri
}

/// As [`parse`], of octets that may all stand in a URI: what reads the values of headers has looked at them already.
pub(crate) fn parse_octets(bytes: &[u8]) -> Result<Uri<'_>, UriFault> {
    let (scheme, rest) = scheme_and_rest(bytes).ok_or(UriFault::Scheme)?;
    if rest.is_empty() {
        return Err(UriFault::Empty);
    }
    let nothing = tail(bytes, bytes.len());
    let opaque = Uri {
        raw: bytes,
        scheme,
        user: None,
        password: None,
        host: Host::Name(b""),
        port: None,
        params: nothing,
        headers: nothing,
    };
    match scheme {
        Scheme::Sip | Scheme::Sips => sip(opaque, rest),
        Scheme::Tel => {
            let end = find(b';', rest).unwrap_or(rest.len());
            Ok(Uri { user: Some(head(rest, end)), params: tail(rest, end + 1), ..opaque })
        }
        Scheme::Urn => Ok(Uri { user: Some(rest), ..opaque }),
        Scheme::Other(_) => Ok(opaque),
    }
}

impl<'a> Uri<'a> {
    /// A URI parameter: `None` if it is absent, `Some(None)` if it has no value.
    pub fn param(&self, name: &[u8]) -> Option<Option<&'a [u8]>> {
        value::param(self.params, name)
    }

    /// The value of the `transport` parameter.
    pub fn transport(&self) -> Option<&'a [u8]> {
        self.param(b"transport").flatten()
    }
}

/// What follows the scheme of a `sips` URI; `None`: it has another one.
pub fn after_sips(uri: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = uri.split_at_checked(5)?;
    scheme.eq_ignore_ascii_case(b"sips:").then_some(rest)
}

/// Two hosts are the same: equal addresses, or names equal but for case and one trailing dot.
pub fn same_host(a: Host<'_>, b: Host<'_>) -> bool {
    match (a, b) {
        (Host::Ip(one), Host::Ip(other)) => one == other,
        (Host::Name(one), Host::Name(other)) => {
            let one = one.strip_suffix(b".").unwrap_or(one);
            let other = other.strip_suffix(b".").unwrap_or(other);
            one.eq_ignore_ascii_case(other)
        }
        _ => false,
    }
}

/// Two user parts are the same (RFC 3261 §19.1.4): an escape of an unreserved character equals the character; escapes of others
/// only equal themselves. Case counts, except for the digits of an escape.
pub fn unescape_eq(a: &[u8], b: &[u8]) -> bool {
    a == b || Units { rest: a }.eq(Units { rest: b })
}

/// A host as settings write it: an address, IPv6 with or without brackets, or else a name.
pub fn host(bytes: &[u8]) -> Host<'_> {
    ip(bytes).map_or(Host::Name(bytes), Host::Ip)
}

/// Reads the host of a URI or Via: a name, an IPv4 address, or an IPv6 address in brackets.
pub(crate) fn read_host(bytes: &[u8]) -> Option<Host<'_>> {
    leading_host(bytes).filter(|(_, end)| *end == bytes.len()).map(|(host, _)| host)
}

/// The host that `bytes` begin with, and its length. It ends through its closing bracket, or before a delimiter.
pub(crate) fn leading_host(bytes: &[u8]) -> Option<(Host<'_>, usize)> {
    let first = bytes.first()?;
    if *first == b'[' {
        let bracket = find(b']', bytes)?;
        let address = ipv6(bytes.get(1..bracket)?)?;
        return Some((Host::Ip(IpAddr::V6(address)), bracket + 1));
    }
    let end = bytes.iter().position(|octet| !HOST_OCTETS.has(*octet)).unwrap_or(bytes.len());
    let is_delimited = bytes.get(end).is_none_or(|octet| is_host_end(*octet));
    if end == 0 || !is_delimited {
        return None;
    }
    let name = head(bytes, end);
    let address = if first.is_ascii_digit() { ip(name) } else { None };
    Some((address.map_or(Host::Name(name), Host::Ip), end))
}

/// `[user[:password]@]host[:port][;parameters][?headers]`
fn sip<'a>(base: Uri<'a>, rest: &'a [u8]) -> Result<Uri<'a>, UriFault> {
    let mut uri = base;
    // A user part may hold `;`, `?`, `,` and `/`, but `@` only escaped: the first one ends it.
    let mut rest = rest;
    if let Some(at) = find(b'@', rest) {
        let (userinfo, after) = around(rest, at);
        rest = after;
        match find(b':', userinfo) {
            Some(colon) => {
                let (user, password) = around(userinfo, colon);
                uri.user = Some(user);
                uri.password = Some(password);
            }
            None => uri.user = Some(userinfo),
        }
        if uri.user.is_none_or(<[u8]>::is_empty) {
            return Err(UriFault::User);
        }
    }
    let (host, end) = leading_host(rest).ok_or(UriFault::Host)?;
    uri.host = host;
    rest = tail(rest, end);
    if let [b':', after @ ..] = rest {
        let end = find_any([b';', b'?'], after).unwrap_or(after.len());
        uri.port = Some(port(head(after, end)).ok_or(UriFault::Port)?);
        rest = tail(after, end);
    }
    match rest {
        [] => {}
        [b';', after @ ..] => {
            let end = find(b'?', after).unwrap_or(after.len());
            uri.params = head(after, end);
            uri.headers = tail(after, end + 1);
        }
        [b'?', after @ ..] => uri.headers = after,
        _ => return Err(UriFault::Host),
    }
    Ok(uri)
}

/// The scheme, and what follows its colon.
pub(crate) fn scheme_and_rest(bytes: &[u8]) -> Option<(Scheme<'_>, &[u8])> {
    if let Some(rest) = bytes.strip_prefix(b"sip:") {
        return Some((Scheme::Sip, rest));
    }
    let (name, rest) = around(bytes, find(b':', bytes)?);
    Some((scheme(name)?, rest))
}

fn scheme(name: &[u8]) -> Option<Scheme<'_>> {
    let (first, rest) = name.split_first()?;
    let regular = first.is_ascii_alphabetic()
        && rest.iter().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'+' | b'-' | b'.'));
    if !regular {
        return None;
    }
    let known: [(&[u8], Scheme<'_>); 4] =
        [(b"sip", Scheme::Sip), (b"sips", Scheme::Sips), (b"tel", Scheme::Tel), (b"urn", Scheme::Urn)];
    let found = known.into_iter().find(|(spelled, _)| spelled.eq_ignore_ascii_case(name));
    Some(found.map_or(Scheme::Other(name), |(_, scheme)| scheme))
}

/// All of them may stand in a URI.
pub(crate) fn are_uri_octets(bytes: &[u8]) -> bool {
    URI_OCTETS.has_all(bytes)
}

/// What may stand in a URI of a message. Octets above 127 are let pass: they break a rule, but confuse nobody about where the URI ends.
const fn is_uri_octet(octet: u8) -> bool {
    (octet > b' ') & (octet != b'<') & (octet != b'>') & (octet != b'"') & (octet != 0x7f)
}

/// Letters, digits, dots and hyphens; and underscores, which are no part of host names but of many private ones.
const fn is_host_octet(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-' | b'_')
}

const fn is_host_end(octet: u8) -> bool {
    matches!(octet, b':' | b';' | b'?' | b' ' | b'\t' | b'\r' | b'\n')
}

const HOST_OCTETS: Octets = octets!(is_host_octet);
const URI_OCTETS: Octets = octets!(is_uri_octet);

/// The characters of a user part; `true` marks one that was escaped and must stay so.
struct Units<'a> {
    rest: &'a [u8],
}

impl Iterator for Units<'_> {
    type Item = (u8, bool);

    fn next(&mut self) -> Option<(u8, bool)> {
        let (first, after) = self.rest.split_first()?;
        if let [b'%', high, low, after @ ..] = self.rest
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            self.rest = after;
            let octet = high * 16 + low;
            return Some((octet, !is_unreserved(octet)));
        }
        self.rest = after;
        Some((*first, false))
    }
}

const fn hex(octet: u8) -> Option<u8> {
    match octet {
        b'0'..=b'9' => Some(octet - b'0'),
        b'a'..=b'f' => Some(octet - b'a' + 10),
        b'A'..=b'F' => Some(octet - b'A' + 10),
        _ => None,
    }
}

const fn is_unreserved(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.' | b'!' | b'~' | b'*' | b'\'' | b'(' | b')')
}

impl fmt::Display for UriFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            UriFault::Scheme => "the uri has no scheme",
            UriFault::Octet => "the uri holds an octet that must be escaped",
            UriFault::Empty => "the uri is empty after its scheme",
            UriFault::User => "the uri has an empty user part",
            UriFault::Host => "the uri has no readable host",
            UriFault::Port => "the uri has no readable port",
        })
    }
}

impl std::error::Error for UriFault {}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Uri<'_> {
        parse(text).unwrap_or_else(|fault| panic!("{fault}: {}", String::from_utf8_lossy(text)))
    }

    fn address(text: &str) -> Host<'static> {
        Host::Ip(text.parse().expect("a literal address"))
    }

    #[test]
    fn all_parts() {
        let uri = read(b"SIP:alice:secret@example.com:5070;transport=tcp;lr?Subject=x");
        assert_eq!(uri.scheme, Scheme::Sip);
        assert_eq!(uri.user, Some(b"alice".as_slice()));
        assert_eq!(uri.password, Some(b"secret".as_slice()));
        assert_eq!(uri.host, Host::Name(b"example.com"));
        assert_eq!(uri.port, Some(5070));
        assert_eq!(uri.transport(), Some(b"tcp".as_slice()));
        assert_eq!(uri.param(b"LR"), Some(None));
        assert_eq!(uri.param(b"maddr"), None);
        assert_eq!(uri.headers, b"Subject=x");
        for text in [b"sip:a@b?Subject=x".as_slice(), b"sip:a@b:5070?Subject=x", b"sip:[::1]?Subject=x"] {
            assert_eq!((read(text).params, read(text).headers), (b"".as_slice(), b"Subject=x".as_slice()));
        }
    }

    #[test]
    fn user_parts_may_hold_delimiters_and_escapes() {
        let uri = read(b"sip:user;par=u%40example.net@example.com");
        assert_eq!(uri.user, Some(b"user;par=u%40example.net".as_slice()));
        assert_eq!(uri.host, Host::Name(b"example.com"));
        let uri = read(b"sip:sips%3Auser%40example.com@example.net");
        assert_eq!(uri.user, Some(b"sips%3Auser%40example.com".as_slice()));
        let uri = read(b"sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com");
        assert_eq!(uri.user, Some(b"1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*".as_slice()));
        assert_eq!(uri.host, Host::Name(b"example.com"));
        assert_eq!(read(b"sip:null-%00-null@example.com").user, Some(b"null-%00-null".as_slice()));
    }

    #[test]
    fn ipv6_references() {
        assert_eq!(read(b"sip:[2001:db8::10]").host, address("2001:db8::10"));
        let ambiguous = read(b"sip:[2001:db8::10:5070]");
        assert_eq!((ambiguous.host, ambiguous.port), (address("2001:db8::10:5070"), None));
        let plain = read(b"sip:[2001:db8::10]:5070");
        assert_eq!((plain.host, plain.port), (address("2001:db8::10"), Some(5070)));
        assert_eq!(read(b"sip:user@[2001:db8:::192.0.2.1]").host, address("2001:db8::192.0.2.1"));
        assert_eq!(read(b"sip:ted@[::ffff:192.0.2.2];lr").host, address("::ffff:192.0.2.2"));
        assert_eq!(parse(b"sip:2001:db8::10").err(), Some(UriFault::Port));
        assert_eq!(parse(b"sip:[2001:db8::10").err(), Some(UriFault::Host));
        assert_eq!(parse(b"sip:[2001:db8::10]x").err(), Some(UriFault::Host));
    }

    #[test]
    fn other_schemes() {
        let tel = read(b"tel:+1-201-555-0123;phone-context=example.com");
        assert_eq!((tel.scheme, tel.user), (Scheme::Tel, Some(b"+1-201-555-0123".as_slice())));
        assert_eq!(tel.param(b"phone-context"), Some(Some(b"example.com".as_slice())));
        assert_eq!(tel.host, Host::Name(b""));
        assert_eq!((tel.params, tel.headers), (b"phone-context=example.com".as_slice(), b"".as_slice()));
        assert_eq!(read(b"tel:0123").params, b"");
        assert_eq!(read(b"urn:service:sos").user, Some(b"service:sos".as_slice()));
        assert_eq!(read(b"soap.beep://192.0.2.103:3002").scheme, Scheme::Other(b"soap.beep"));
        assert_eq!(read(b"isbn:2983792873").user, None);
        assert_eq!(read(b"sips:a@b").scheme, Scheme::Sips);
    }

    #[test]
    fn what_is_no_uri() {
        let cases: [(&[u8], UriFault); 14] = [
            (b"", UriFault::Scheme),
            (b"alan@jasomi.com", UriFault::Scheme),
            (b"<sip:a@b>", UriFault::Scheme),
            (b":a", UriFault::Scheme),
            (b"sip:", UriFault::Empty),
            (b"sip:a@", UriFault::Host),
            (b"sip:a@:5060", UriFault::Host),
            (b"sip:;lr", UriFault::Host),
            (b"sip:@b", UriFault::User),
            (b"sip:a@b@c", UriFault::Host),
            (b"sip:a b@c", UriFault::Octet),
            (b"sip:a@b:0", UriFault::Port),
            (b"sip:a@b:", UriFault::Port),
            (b"sip:a@b; lr", UriFault::Octet),
        ];
        for (text, fault) in cases {
            assert_eq!(parse(text).err(), Some(fault), "{}", String::from_utf8_lossy(text));
        }
        assert_eq!(UriFault::User.to_string(), "the uri has an empty user part");
    }

    #[test]
    fn hosts_compare_without_case_and_trailing_dot() {
        assert!(same_host(Host::Name(b"Example.COM."), Host::Name(b"example.com")));
        assert!(!same_host(Host::Name(b"example.com"), Host::Name(b"example.org")));
        assert!(same_host(read(b"sip:[2001:DB8:0::1]").host, address("2001:db8::1")));
        assert!(!same_host(Host::Name(b"192.0.2.1x"), address("192.0.2.1")));
        assert_eq!(read(b"sip:3com.example").host, Host::Name(b"3com.example"));
        assert_eq!(host(b"2001:db8::1"), host(b"[2001:db8::1]"));
        assert_eq!(host(b"192.0.2.1"), address("192.0.2.1"));
        assert_eq!(host(b"pbx.example.com"), Host::Name(b"pbx.example.com"));
    }

    #[test]
    fn user_parts_compare_by_meaning() {
        assert!(unescape_eq(b"%75se%72", b"user"));
        assert!(unescape_eq(b"%6a%6A%6f%6F", b"jjoo"));
        assert!(unescape_eq(b"a%3bb", b"a%3Bb"));
        assert!(!unescape_eq(b"a%3bb", b"a;b"));
        assert!(!unescape_eq(b"User", b"user"));
        assert!(!unescape_eq(b"a%00", b"a"));
        assert!(unescape_eq(b"%Z1", b"%Z1"));
        assert!(!unescape_eq(b"%4", b"4"));
    }
}
