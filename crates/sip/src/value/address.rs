//! The values of From, To, Contact, Route and their like: a URI, perhaps in brackets, with header parameters.

use super::param;
use crate::check::Fault;
use crate::grammar::{
    around, find, find_any, head, is_lws, list_item_end, number, quoted_end, tail, trim, trim_end, trim_start, unquote,
};
use crate::header::Name;
use crate::uri::{self, Uri};

/// `"Display Name" <uri>;parameters`, or a bare `uri;parameters` (RFC 3261 §20.10).
#[derive(Clone, Copy, Debug)]
pub struct NameAddr<'a> {
    /// The whole value.
    pub raw: &'a [u8],
    /// The display name without quotes, escapes left in; empty if there is none.
    pub display: &'a [u8],
    /// The URI: between the brackets, or bare.
    pub uri_bytes: &'a [u8],
    /// The header parameters, without the first semicolon.
    pub params: &'a [u8],
}

/// A Contact value.
#[derive(Clone, Copy, Debug)]
pub enum Contact<'a> {
    /// `*`: all bindings (RFC 3261 §10.2.2).
    Star,
    /// An address.
    Address(NameAddr<'a>),
}

impl<'a> NameAddr<'a> {
    /// The URI in its parts; `None` if it cannot be read.
    pub fn uri(&self) -> Option<Uri<'a>> {
        uri::parse_octets(self.uri_bytes).ok()
    }

    /// A header parameter: `None` if it is absent, `Some(None)` if it has no value.
    pub fn param(&self, name: &[u8]) -> Option<Option<&'a [u8]>> {
        param(self.params, name)
    }

    /// The tag of a From or To.
    pub fn tag(&self) -> Option<&'a [u8]> {
        self.param(b"tag").flatten()
    }

    /// The `expires` parameter of a Contact in seconds, saturating.
    pub fn expires(&self) -> Option<u32> {
        let value = number(unquote(self.param(b"expires").flatten()?))?;
        Some(u32::try_from(value).unwrap_or(u32::MAX))
    }

    /// The `q` parameter of a Contact in thousandths, 0 to 1000.
    pub fn q(&self) -> Option<u16> {
        let value = self.param(b"q").flatten()?;
        let (whole, fraction) = match find(b'.', value) {
            Some(dot) => around(value, dot),
            None => (value, tail(value, value.len())),
        };
        if fraction.len() > 3 {
            return None;
        }
        let mut thousandths = number(whole)?;
        for place in 0..3 {
            let digit = fraction.get(place).copied().unwrap_or(b'0');
            if !digit.is_ascii_digit() {
                return None;
            }
            thousandths = thousandths.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
        }
        u16::try_from(thousandths).ok().filter(|thousandths| *thousandths <= 1000)
    }

    /// The `+sip.instance` parameter of a Contact without its quotes (RFC 5626 §4.1): `<urn:uuid:...>`.
    pub fn instance(&self) -> Option<&'a [u8]> {
        self.param(b"+sip.instance").flatten().map(unquote)
    }

    /// The `reg-id` parameter of a Contact (RFC 5626 §4.2).
    pub fn reg_id(&self) -> Option<u32> {
        let value = number(self.param(b"reg-id").flatten()?)?;
        u32::try_from(value).ok()
    }
}

/// Reads one value of Contact.
///
/// # Errors
/// As [`name_addr`].
pub fn contact(bytes: &[u8]) -> Result<Contact<'_>, Fault> {
    if trim(bytes) == b"*" {
        return Ok(Contact::Star);
    }
    name_addr(bytes).map(Contact::Address)
}

/// Reads one value of a header that holds addresses. The URI's own rules are left to [`NameAddr::uri`], except that it has to have a
/// scheme and that no white space, control octet, quote or bracket stands in it.
///
/// # Errors
/// `Quote(Name::Other)` for a quoted string that never ends, else `Address`.
pub fn name_addr(bytes: &[u8]) -> Result<NameAddr<'_>, Fault> {
    let raw = trim(bytes);
    if let [b'"', after @ ..] = raw {
        let end = quoted_end(after).ok_or(Fault::Quote(Name::Other))?;
        let (display, after) = around(after, end);
        return match trim_start(after) {
            [b'<', after @ ..] => bracketed(raw, display, after),
            _ => Err(Fault::Address),
        };
    }
    // What comes first tells the form: a bracket ends a display name, a semicolon a bare URI.
    match find_any([b'<', b';', b'"'], raw) {
        Some(position) if raw.get(position) == Some(&b'<') => {
            let (display, after) = around(raw, position);
            let display = trim_end(display);
            if !display.iter().all(|octet| is_display_octet(*octet)) {
                return Err(Fault::Address);
            }
            bracketed(raw, display, after)
        }
        _ => bare(raw),
    }
}

/// `after` begins behind the opening bracket.
fn bracketed<'a>(raw: &'a [u8], display: &'a [u8], after: &'a [u8]) -> Result<NameAddr<'a>, Fault> {
    let end = find(b'>', after).ok_or(Fault::Address)?;
    let (uri_bytes, after) = around(after, end);
    let params = match trim_start(after) {
        [] => tail(after, after.len()),
        [b';', params @ ..] => params,
        _ => return Err(Fault::Address),
    };
    finish(NameAddr { raw, display, uri_bytes, params })
}

/// Without brackets a semicolon ends the URI, and neither a comma nor a question mark may stand in it (RFC 3261 §20).
fn bare(raw: &[u8]) -> Result<NameAddr<'_>, Fault> {
    let end = find(b';', raw).unwrap_or(raw.len());
    let uri_bytes = trim_end(head(raw, end));
    if find_any([b',', b'?'], uri_bytes).is_some() {
        return Err(Fault::Address);
    }
    finish(NameAddr { raw, display: head(raw, 0), uri_bytes, params: tail(raw, end + 1) })
}

fn finish(address: NameAddr<'_>) -> Result<NameAddr<'_>, Fault> {
    if !is_uri_like(address.uri_bytes) {
        return Err(Fault::Address);
    }
    // A second value, or a quoted string without end, in the parameters.
    if find_any([b',', b'"'], address.params).is_some() {
        check_params(address.params)?;
    }
    Ok(address)
}

fn check_params(params: &[u8]) -> Result<(), Fault> {
    let mut rest = params;
    while let Some(quote) = find(b'"', rest) {
        let after = tail(rest, quote + 1);
        let end = quoted_end(after).ok_or(Fault::Quote(Name::Other))?;
        rest = tail(after, end + 1);
    }
    if list_item_end(params) < params.len() { Err(Fault::Address) } else { Ok(()) }
}

/// A scheme with its colon stands first, and no octet confuses where the URI ends.
fn is_uri_like(bytes: &[u8]) -> bool {
    uri::scheme_and_rest(bytes).is_some() && uri::are_uri_octets(bytes)
}

/// A display name without quotes should be tokens. Of what phones send instead, only that is refused which could make two readers see
/// two different addresses (RFC 4475 §3.1.2.15).
const fn is_display_octet(octet: u8) -> bool {
    is_lws(octet) || (octet >= b' ' && !matches!(octet, b',' | b';' | b':' | b'"' | b'>' | 0x7f))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> NameAddr<'_> {
        name_addr(text).unwrap_or_else(|fault| panic!("{fault}: {}", String::from_utf8_lossy(text)))
    }

    #[test]
    fn brackets_bare_and_display_names() {
        let address = read(b"\"J Rosenberg \\\\\\\"\"       <sip:jdrosen@example.com>\r\n  ;\r\n  tag = 98asjd8");
        assert_eq!(address.display, b"J Rosenberg \\\\\\\"");
        assert_eq!(address.uri_bytes, b"sip:jdrosen@example.com");
        assert_eq!(address.tag(), Some(b"98asjd8".as_slice()));

        let address = read(b"sip:vivekg@chair-dnrc.example.com ;   tag    = 1918181833n");
        assert_eq!(address.uri_bytes, b"sip:vivekg@chair-dnrc.example.com");
        assert_eq!(address.tag(), Some(b"1918181833n".as_slice()));
        assert_eq!(address.display, b"");

        let address = read(b"caller<sip:caller@example.com>;tag=323");
        assert_eq!((address.display, address.tag()), (b"caller".as_slice(), Some(b"323".as_slice())));
        assert_eq!(read(b"M. Ranganathan  <sip:m@x>").display, b"M. Ranganathan");
        assert_eq!(read("Jürgen <sip:j@x>".as_bytes()).uri_bytes, b"sip:j@x");
        assert_eq!(read(b"<http://www.example.com>;tag=1").uri().map(|uri| uri.user), Some(None));
    }

    #[test]
    fn a_parameter_inside_the_brackets_is_none_of_the_header() {
        let inside = read(b"<sip:+19725552222@gw1.example.net;unknownparam>");
        assert_eq!(inside.param(b"unknownparam"), None);
        assert_eq!(inside.uri().and_then(|uri| uri.param(b"unknownparam")), Some(None));
        let outside = read(b"sip:+19725552222@gw1.example.net;unknownparam");
        assert_eq!(outside.param(b"unknownparam"), Some(None));
        assert_eq!((outside.params, read(b"sip:a@b").params), (b"unknownparam".as_slice(), b"".as_slice()));
    }

    #[test]
    fn what_is_no_address() {
        let quote = Fault::Quote(Name::Other);
        let cases: [(&[u8], Fault); 13] = [
            (b"\"Mr. J. User <sip:j.user@example.com>", quote),
            (b"<sip:a@b>;x=\"y", quote),
            (b"\"Watson, Thomas\" < sip:t.watson@example.org >", Fault::Address),
            (b"Bell, Alexander <sip:a.g.bell@example.com>;tag=43", Fault::Address),
            (b"sip:user@example.com?Route=%3Csip:sip.example.com%3E", Fault::Address),
            (b"alan@jasomi.com", Fault::Address),
            (b"<sip:a@b", Fault::Address),
            (b"<sip:a@b> x", Fault::Address),
            (b"<>", Fault::Address),
            (b"", Fault::Address),
            (b"sip:victim@x <sip:other@y>", Fault::Address),
            (b"<sip:a@b>;tag=1, <sip:c@d>;tag=2", Fault::Address),
            (b"sip:a@b, sip:c@d", Fault::Address),
        ];
        for (text, fault) in cases {
            assert_eq!(name_addr(text).err(), Some(fault), "{}", String::from_utf8_lossy(text));
        }
        assert!(name_addr(b"<sip:a@b>;x=\"y,z\"").is_ok());
    }

    #[test]
    fn contact_parameters() {
        let text = b"<sip:a@b;ob>;+sip.instance=\"<urn:uuid:0-1>\";reg-id=1;expires=280297596632815;q=0.33";
        let address = read(text);
        assert_eq!(address.instance(), Some(b"<urn:uuid:0-1>".as_slice()));
        assert_eq!(address.reg_id(), Some(1));
        assert_eq!(address.expires(), Some(u32::MAX));
        assert_eq!(address.q(), Some(330));
        assert_eq!(read(b"<sip:a@b>;reg-id=4294967295").reg_id(), Some(u32::MAX));
        assert_eq!(read(b"<sip:a@b>;reg-id=4294967296").reg_id(), None);
        assert_eq!(read(b"<sip:a@b>;expires=x").expires(), None);
        assert!(matches!(contact(b" * "), Ok(Contact::Star)));
        assert!(matches!(contact(b"<sip:a@b>"), Ok(Contact::Address(_))));
        assert!(contact(b"**").is_err());
    }

    /// RFC 3261 §25.1: from 0 to 1, with at most three decimals.
    #[test]
    fn preferences_have_three_decimals_at_most() {
        for (text, thousandths) in [
            ("0", Some(0)),
            ("0.5", Some(500)),
            ("0.333", Some(333)),
            ("0.3333", None),
            ("0.3x", None),
            ("1", Some(1000)),
            ("1.000", Some(1000)),
            ("1.001", None),
        ] {
            assert_eq!(read(format!("<sip:a@b>;q={text}").as_bytes()).q(), thousandths, "{text}");
        }
    }
}
