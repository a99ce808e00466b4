//! The Via header (RFC 3261 §20.42, RFC 3581).

use std::net::IpAddr;

use super::{name_and_value, param};
use crate::check::Fault;
use crate::grammar::{around, find, head, ip, is_lws, is_token, number, parameter_end, port, tail, trim, trim_start};
use crate::message::{Span, Value};
use crate::uri::{self, Host};

/// One Via value.
#[derive(Clone, Copy, Debug)]
pub struct Via<'a> {
    /// The whole value.
    pub raw: &'a [u8],
    /// The version of the protocol; anything but `2.0` is for [`check()`](crate::check()) to refuse, and still says where the refusal
    /// goes.
    pub version: &'a [u8],
    /// The transport as it is spelled.
    pub transport: &'a [u8],
    /// The host of the sent-by as it is spelled, brackets included.
    pub host_bytes: &'a [u8],
    /// The host of the sent-by.
    pub host: Host<'a>,
    /// The port of the sent-by, if it is written.
    pub port: Option<u16>,
    /// The parameters, without the first semicolon.
    pub params: &'a [u8],
    /// The header line that it stands in.
    pub line: Span,
    /// It is the first value of that line.
    pub first: bool,
    /// It is the last value of that line.
    pub last: bool,
}

impl<'a> Via<'a> {
    /// A parameter: `None` if it is absent, `Some(None)` if it has no value.
    pub fn param(&self, name: &[u8]) -> Option<Option<&'a [u8]>> {
        param(self.params, name)
    }

    /// What a proxy asks of the parameters, in one pass.
    pub fn parameters(&self) -> ViaParameters<'a> {
        let mut read = ViaParameters { branch: None, rport: None, received: false, hole: false };
        if self.params.is_empty() {
            // Nothing stands there, or nothing behind a semicolon.
            read.hole = self.raw.ends_with(b";");
            return read;
        }
        let mut rest = self.params;
        loop {
            let end = parameter_end(rest);
            read.note(trim(head(rest, end)));
            if end >= rest.len() {
                return read;
            }
            rest = tail(rest, end + 1);
        }
    }

    /// The branch.
    pub fn branch(&self) -> Option<&'a [u8]> {
        self.param(b"branch").flatten()
    }

    /// The `received` address; IPv6 with or without brackets (RFC 5118 §4.5).
    pub fn received(&self) -> Option<IpAddr> {
        self.param(b"received").flatten().and_then(ip)
    }

    /// The `rport`: `None` if it is absent, `Some(None)` if it has no value, or none that is a port.
    pub fn rport(&self) -> Option<Option<u16>> {
        self.param(b"rport").map(|value| value.and_then(port))
    }

    /// The `maddr` host.
    pub fn maddr(&self) -> Option<Host<'a>> {
        self.param(b"maddr").flatten().and_then(uri::read_host)
    }

    /// The `ttl`.
    pub fn ttl(&self) -> Option<u8> {
        self.param(b"ttl").flatten().and_then(number).and_then(|value| u8::try_from(value).ok())
    }

    /// The value as it came, for [`Edits::remove_values`](crate::edit::Edits::remove_values).
    pub fn value(&self) -> Value<'a> {
        Value { bytes: self.raw, line: self.line, first: self.first, last: self.last }
    }
}

/// The parameters of one Via value that a proxy reads or writes.
#[derive(Clone, Copy, Debug)]
pub struct ViaParameters<'a> {
    /// The first branch that has a value.
    pub branch: Option<&'a [u8]>,
    /// The last `rport` (RFC 3581 §3) as it is spelled, with its value.
    pub rport: Option<(&'a [u8], Option<&'a [u8]>)>,
    /// There is a `received`.
    pub received: bool,
    /// A piece between two semicolons is empty.
    pub(crate) hole: bool,
}

impl<'a> ViaParameters<'a> {
    /// Takes one piece between semicolons, trimmed.
    fn note(&mut self, piece: &'a [u8]) {
        if piece.is_empty() {
            self.hole = true;
            return;
        }
        let (name, value) = name_and_value(piece);
        match name.len() {
            5 if name.eq_ignore_ascii_case(b"rport") => self.rport = Some((name, value)),
            6 if self.branch.is_none() && name.eq_ignore_ascii_case(b"branch") => self.branch = value,
            8 => self.received |= name.eq_ignore_ascii_case(b"received"),
            _ => {}
        }
    }
}

/// Reads one value of Via: `SIP/2.0/UDP host:port;parameters`, with white space around each piece.
///
/// # Errors
/// `Via` for everything that is not of this shape.
pub fn via<'a>(value: &Value<'a>) -> Result<Via<'a>, Fault> {
    let (version, rest) = version(value.bytes).ok_or(Fault::Via)?;
    let end = rest.iter().position(|octet| is_lws(*octet)).ok_or(Fault::Via)?;
    let transport = head(rest, end);
    if !is_token(transport) {
        return Err(Fault::Via);
    }
    let rest = trim_start(tail(rest, end));
    let (host, end) = uri::leading_host(rest).ok_or(Fault::Via)?;
    let host_bytes = head(rest, end);
    let mut rest = trim_start(tail(rest, end));
    let mut sent_by_port = None;
    if let [b':', after @ ..] = rest {
        let end = find(b';', after).unwrap_or(after.len());
        sent_by_port = Some(port(trim(head(after, end))).ok_or(Fault::Via)?);
        rest = tail(after, end);
    }
    let params = match rest {
        [] => rest,
        [b';', params @ ..] => params,
        _ => return Err(Fault::Via),
    };
    Ok(Via {
        raw: value.bytes,
        version,
        transport,
        host_bytes,
        host,
        port: sent_by_port,
        params,
        line: value.line,
        first: value.first,
        last: value.last,
    })
}

/// The version, and what follows the slash behind it.
fn version(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    if let Some(rest) = bytes.strip_prefix(b"SIP/2.0/") {
        return Some((bytes.get(4..7)?, trim_start(rest)));
    }
    let (protocol, rest) = around(bytes, find(b'/', bytes)?);
    let (version, rest) = around(rest, find(b'/', rest)?);
    let version = trim(version);
    let readable = trim(protocol).eq_ignore_ascii_case(b"SIP") && is_version(version);
    readable.then(|| (version, trim_start(rest)))
}

/// Digits, a dot and digits.
fn is_version(text: &[u8]) -> bool {
    let Some(dot) = find(b'.', text) else { return false };
    let digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    digits(head(text, dot)) && digits(tail(text, dot + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Via<'_>, Fault> {
        via(&Value { bytes, line: Span { start: 0, end: 0 }, first: true, last: true })
    }

    fn fine(bytes: &[u8]) -> Via<'_> {
        read(bytes).unwrap_or_else(|fault| panic!("{fault}: {}", String::from_utf8_lossy(bytes)))
    }

    #[test]
    fn all_parts() {
        let via = fine(b"SIP/2.0/UDP 192.0.2.2:5070;branch=z9hG4bK1;rport;received=192.0.2.9;ttl=16;maddr=224.2.0.1");
        assert_eq!(via.transport, b"UDP");
        assert_eq!(via.host, Host::Ip(IpAddr::from([192, 0, 2, 2])));
        assert_eq!(via.port, Some(5070));
        assert_eq!(via.branch(), Some(b"z9hG4bK1".as_slice()));
        assert_eq!(via.rport(), Some(None));
        assert_eq!(via.received(), Some(IpAddr::from([192, 0, 2, 9])));
        assert_eq!(via.ttl(), Some(16));
        assert_eq!(via.maddr(), Some(Host::Ip(IpAddr::from([224, 2, 0, 1]))));
        assert_eq!(fine(b"SIP/2.0/UDP h;rport=19823").rport(), Some(Some(19_823)));
        assert_eq!(fine(b"SIP/2.0/UDP h").rport(), None);
    }

    #[test]
    fn parameters_in_one_pass() {
        let read = fine(b"SIP/2.0/UDP h;RPort ; received=192.0.2.9;branch;Branch = z9hG4bK1;branch=2").parameters();
        assert_eq!((read.branch, read.received, read.hole), (Some(b"z9hG4bK1".as_slice()), true, false));
        assert_eq!(read.rport, Some((b"RPort".as_slice(), None)));
        let read = fine(b"SIP/2.0/UDP h;rport=5060;branch=").parameters();
        assert_eq!(read.rport, Some((b"rport".as_slice(), Some(b"5060".as_slice()))));
        assert_eq!((read.branch, read.received), (Some(b"".as_slice()), false));
        // Names as long as those of the three.
        let read = fine(b"SIP/2.0/UDP h;maddr=224.2.0.1;hidden=1;keep-for=1").parameters();
        assert_eq!((read.branch, read.received, read.rport), (None, false, None));
        for (text, hole) in [
            ("h", false),
            ("h;a=\";;\"", false),
            ("h;", true),
            ("h ; ", true),
            ("h;;a", true),
            ("h;a;", true),
            ("h; ;a", true),
        ] {
            let text = format!("SIP/2.0/UDP {text}");
            assert_eq!(fine(text.trim_end().as_bytes()).parameters().hole, hole, "{text}");
        }
    }

    #[test]
    fn white_space_and_folding_between_the_pieces() {
        let via = fine(b"SIP  /   2.0\r\n /UDP\r\n    192.0.2.2;branch=390skdjuw");
        assert_eq!(via.host, Host::Ip(IpAddr::from([192, 0, 2, 2])));
        assert_eq!(via.branch(), Some(b"390skdjuw".as_slice()));
        let via = fine(b"SIP  / 2.0  / TCP     spindle.example.com : 5060  ;\r\n  branch  =   z9hG4bK9ikj8");
        assert_eq!((via.host_bytes, via.port), (b"spindle.example.com".as_slice(), Some(5060)));
        assert_eq!(via.branch(), Some(b"z9hG4bK9ikj8".as_slice()));
    }

    #[test]
    fn ipv6_with_and_without_brackets_in_received() {
        let wanted: Option<IpAddr> = "2001:db8::9:255".parse().ok();
        let with = fine(b"SIP/2.0/UDP [2001:db8::9:1];received=[2001:db8::9:255];branch=z9hG4bKas3-111");
        let without = fine(b"SIP/2.0/UDP [2001:db8::9:1]:6050;received=2001:db8::9:255;branch=z9hG4bKas3");
        assert_eq!((with.received(), without.received()), (wanted, wanted));
        assert_eq!((with.port, without.port), (None, Some(6050)));
        assert_eq!(with.host_bytes, b"[2001:db8::9:1]");
    }

    #[test]
    fn what_is_no_via() {
        let cases: [&[u8]; 15] = [
            b"",
            b"SIP/two/UDP c.example.com",
            b"SIP/a.b/UDP h",
            b"SIP/2.x/UDP h",
            b"SIP/x.0/UDP h",
            b"SIP/2./UDP h",
            b"SIP/.0/UDP h",
            b"SIP/2.0/UDP",
            b"SIP/2.0/UDP ",
            b"SIP/2.0/UD~PTo :::]",
            b"SIP/2.0/UDP 2001:db8::1",
            b"SIP/2.0/UDP host:99999",
            b"SIP/2.0/UDP host x",
            b"HTTP/2.0/UDP host",
            b"SIP/2.0/U@P host",
        ];
        for text in cases {
            assert_eq!(read(text).err(), Some(Fault::Via), "{}", String::from_utf8_lossy(text));
        }
        assert_eq!(fine(b"SIP/10.25/UDP h").version, b"10.25");
    }
}
