//! The one pass over a received message: line ends, header names, where the body begins.

use memchr::{memchr2, memmem, memrchr};
use smallvec::SmallVec;

use super::{Limits, Message, Method, RequestLine, StartLine, StatusLine};
use crate::check::Fault;
use crate::grammar::{around, find, head, number, tail, trim_end, trim_start};
use crate::header::Name;

/// Header lines that are indexed without an allocation.
const HEADERS_INLINE: usize = 24;

/// No line has this name.
const NOWHERE: u16 = u16::MAX;

/// Splits octets into start line, header lines and body (RFC 3261 §7). It allocates nothing for up to 24 header lines
/// and is lenient: what can be given a shape is a message, and [`check`](crate::check::check()) finds the rest.
///
/// Line ends before the start line are skipped (§7.5). The body is what Content-Length says; octets after it are ignored and are
/// no part of [`Message::bytes`] (§18.3). Without a Content-Length that can be followed the body is the rest.
///
/// # Errors
/// `Empty` (nothing but line ends, white space and NUL octets), `NotSip` (the first line is none of SIP), `StatusCode` (a
/// response without a readable code), `TooLarge` (4 GiB and more; the limit itself is judged by `check`, so that a too large
/// request can still be answered).
pub fn parse<'a>(datagram: &'a [u8], limits: &Limits) -> Result<Message<'a>, Fault> {
    let bytes = skip_line_ends(datagram);
    if bytes.iter().all(|octet| matches!(octet, b'\r' | b'\n' | b'\0' | b' ' | b'\t')) {
        return Err(Fault::Empty);
    }
    if u32::try_from(bytes.len()).is_err() {
        return Err(Fault::TooLarge);
    }
    let line = physical_line(bytes, 0);
    let (start, start_fault) = start_line(head(bytes, line.end))?;
    let mut message = Message { bytes, start, index: Index::empty() };
    if datagram.len() > limits.message_bytes {
        message.index.note(Fault::TooLarge);
    }
    if let Some(fault) = start_fault.or(line.fault) {
        message.index.note(fault);
    }
    message.index.read(bytes, line.next, limits);
    if let DeclaredLength::Octets(length) = message.index.declared_length(bytes) {
        let body = message.body();
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(body.len());
        message.bytes = head(bytes, bytes.len() - body.len() + length);
    }
    Ok(message)
}

/// Reads the start of a message as an ICMP error quotes it, cut off anywhere: the header lines that arrived whole. `None` if not
/// even the start line did, or if it is none of SIP.
pub fn parse_quoted<'a>(quoted: &'a [u8], limits: &Limits) -> Option<Message<'a>> {
    let whole = match memmem::find(quoted, b"\r\n\r\n") {
        Some(_) => quoted,
        None => head(quoted, memmem::rfind(quoted, b"\r\n")? + 2),
    };
    parse(whole, limits).ok()
}

/// A header line's place. Sixteen octets; the line ends where the next one begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) line_start: u32,
    pub(crate) value_start: u32,
    pub(crate) value_end: u32,
    pub(crate) name_length: u16,
    pub(crate) name: Name,
}

/// Where the header lines of a message are.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    pub(crate) entries: SmallVec<[Entry; HEADERS_INLINE]>,
    /// The first entry of each name, so that nobody searches.
    first: [u16; Name::COUNT],
    /// The names that more than one line has.
    repeated: u64,
    /// Where the last indexed line ends; before `headers_end` only if there were too many lines.
    indexed_end: u32,
    pub(crate) headers_end: u32,
    pub(crate) body_start: u32,
    pub(crate) fault: Option<Fault>,
}

/// What the Content-Length header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DeclaredLength {
    Absent,
    /// Several lines, so that two receivers could disagree.
    Repeated,
    /// No number of digits only.
    Unreadable,
    /// A number; `u64::MAX` stands for all that are larger.
    Octets(u64),
}

impl Index {
    pub(crate) fn empty() -> Self {
        Self {
            entries: SmallVec::new(),
            first: [NOWHERE; Name::COUNT],
            repeated: 0,
            indexed_end: 0,
            headers_end: 0,
            body_start: 0,
            fault: None,
        }
    }

    /// Indexes the header lines that begin at `start`, up to the empty line. `bytes` must be shorter than 4 GiB.
    pub(crate) fn read(&mut self, bytes: &[u8], start: usize, limits: &Limits) {
        let most = limits.headers.min(usize::from(NOWHERE));
        let mut at = start;
        loop {
            match tail(bytes, at) {
                [] => {
                    self.note(Fault::HeadersUnterminated);
                    return self.finish(at, at, at);
                }
                [b'\r', b'\n', ..] => return self.finish(at, at, at + 2),
                [b'\n', ..] => {
                    self.note(Fault::BareLineFeed);
                    return self.finish(at, at, at + 1);
                }
                _ => {}
            }
            if self.entries.len() >= most {
                self.note(Fault::TooManyHeaders);
                return self.skip_lines(bytes, at);
            }
            let line = logical_line(bytes, at);
            if let Some(fault) = line.fault {
                self.note(fault);
            }
            self.add(at, head(tail(bytes, at), line.end - at));
            at = line.next;
        }
    }

    /// The position of the first line with that name.
    pub(crate) fn first_of(&self, name: Name) -> Option<usize> {
        self.first.get(name.index()).filter(|position| **position != NOWHERE).map(|position| usize::from(*position))
    }

    pub(crate) fn is_repeated(&self, name: Name) -> bool {
        self.repeated & name.bit() != 0
    }

    /// Where the line at that position ends.
    pub(crate) fn line_end(&self, position: usize) -> u32 {
        self.entries.get(position + 1).map_or(self.indexed_end, |next| next.line_start)
    }

    pub(crate) fn declared_length(&self, bytes: &[u8]) -> DeclaredLength {
        let Some(entry) = self.first_of(Name::ContentLength).and_then(|position| self.entries.get(position)) else {
            return DeclaredLength::Absent;
        };
        if self.is_repeated(Name::ContentLength) {
            return DeclaredLength::Repeated;
        }
        let value = bytes.get(entry.value_start as usize..entry.value_end as usize).unwrap_or_default();
        number(value).map_or(DeclaredLength::Unreadable, DeclaredLength::Octets)
    }

    /// Remembers a fault. The first one counts, but half a line end outranks all others: with it the lines themselves are in doubt.
    fn note(&mut self, fault: Fault) {
        let is_half = |fault: Fault| matches!(fault, Fault::BareLineFeed | Fault::BareCarriageReturn);
        match self.fault {
            Some(known) if is_half(known) || !is_half(fault) => {}
            _ => self.fault = Some(fault),
        }
    }

    fn finish(&mut self, indexed_end: usize, headers_end: usize, body_start: usize) {
        self.indexed_end = offset(indexed_end);
        self.headers_end = offset(headers_end);
        self.body_start = offset(body_start);
    }

    /// Finds the body without indexing the lines before it.
    fn skip_lines(&mut self, bytes: &[u8], at: usize) {
        match memmem::find(tail(bytes, at), b"\r\n\r\n") {
            Some(found) => self.finish(at, at + found + 2, at + found + 4),
            None => self.finish(at, bytes.len(), bytes.len()),
        }
    }

    /// Adds one line, given without its line end.
    fn add(&mut self, start: usize, line: &[u8]) {
        let Some(colon) = find(b':', line) else {
            self.note(Fault::HeaderLine);
            let end = start + line.len();
            return self.insert(start, Name::Other, trim_end(line).len(), (end, end));
        };
        let (before, after) = around(line, colon);
        let spelled = trim_end(before);
        // HCOLON allows spaces and tabs before the colon, but no line end.
        let gap = tail(before, spelled.len());
        if spelled.is_empty() || (!gap.is_empty() && memchr2(b'\r', b'\n', gap).is_some()) {
            self.note(Fault::HeaderName);
        }
        let value = trim_start(after);
        let value_start = start + line.len() - value.len();
        let value_end = value_start + trim_end(value).len();
        self.insert(start, Name::from_bytes(spelled), spelled.len(), (value_start, value_end));
    }

    fn insert(&mut self, start: usize, name: Name, name_length: usize, value: (usize, usize)) {
        let name_length = u16::try_from(name_length).unwrap_or_else(|_| {
            self.note(Fault::HeaderName);
            u16::MAX
        });
        // The caller stops before the position could reach `NOWHERE`.
        let position = u16::try_from(self.entries.len()).unwrap_or(NOWHERE);
        if let Some(first) = self.first.get_mut(name.index()) {
            if *first == NOWHERE {
                *first = position;
            } else {
                self.repeated |= name.bit();
            }
        }
        self.entries.push(Entry {
            line_start: offset(start),
            value_start: offset(value.0),
            value_end: offset(value.1),
            name_length,
            name,
        });
    }
}

/// A position as an offset. Every message is shorter than 4 GiB: `parse` refuses others, the framer far shorter ones.
pub(crate) fn offset(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}

struct Line {
    /// The octet after the last one of the text.
    end: usize,
    /// The first octet of the next line.
    next: usize,
    /// What is wrong with the line's end, or inside.
    fault: Option<Fault>,
}

/// The line that begins at `from`, with all lines folded onto it (RFC 3261 §7.3.1).
fn logical_line(bytes: &[u8], from: usize) -> Line {
    let mut line = physical_line(bytes, from);
    while line.next > line.end && matches!(bytes.get(line.next), Some(b' ' | b'\t')) {
        let folded = physical_line(bytes, line.next);
        line = Line { fault: line.fault.or(folded.fault), ..folded };
    }
    line
}

/// The line that begins at `from`. A lone carriage return does not end it, since two receivers would disagree whether it does.
fn physical_line(bytes: &[u8], from: usize) -> Line {
    let mut at = from;
    let mut fault = None;
    while let Some(found) = memchr2(b'\r', b'\n', tail(bytes, at)) {
        let end = at + found;
        match tail(bytes, end) {
            [b'\r', b'\n', ..] => {
                return Line { end, next: end + 2, fault };
            }
            [b'\n', ..] => {
                return Line { end, next: end + 1, fault: fault.or(Some(Fault::BareLineFeed)) };
            }
            _ => {
                fault = fault.or(Some(Fault::BareCarriageReturn));
                at = end + 1;
            }
        }
    }
    Line { end: bytes.len(), next: bytes.len(), fault }
}

fn skip_line_ends(datagram: &[u8]) -> &[u8] {
    let mut rest = datagram;
    while let [b'\r' | b'\n', after @ ..] = rest {
        rest = after;
    }
    rest
}

fn start_line(line: &[u8]) -> Result<(StartLine<'_>, Option<Fault>), Fault> {
    if is_version(line) {
        return Ok((StartLine::Response(status_line(line)?), None));
    }
    let trimmed = trim_end(line);
    let Some(space) = memrchr(b' ', trimmed) else {
        return Err(Fault::NotSip);
    };
    let (before, version) = around(trimmed, space);
    if !is_version(version) {
        return Err(Fault::NotSip);
    }
    let before = trim_end(before);
    let (method, uri) = match find(b' ', before) {
        Some(space) => around(before, space),
        None => (before, tail(before, before.len())),
    };
    let uri = trim_start(uri);
    // Exactly one space between the three parts and nothing after them (RFC 3261 §7.1).
    let regular = !method.is_empty() && !uri.is_empty() && method.len() + uri.len() + version.len() + 2 == line.len();
    let fault = if regular { None } else { Some(Fault::RequestLine) };
    let request = RequestLine { method: Method::from_bytes(method), uri, version };
    Ok((StartLine::Request(request), fault))
}

/// `SIP/2.0 200 OK`; the reason may be empty, and the space before it missing then.
fn status_line(line: &[u8]) -> Result<StatusLine<'_>, Fault> {
    let space = find(b' ', line).ok_or(Fault::StatusCode)?;
    let (version, rest) = around(line, space);
    let (digits, reason) = match rest.split_at_checked(3) {
        Some((digits, [])) => (digits, tail(rest, 3)),
        Some((digits, [b' ', reason @ ..])) => (digits, reason),
        _ => return Err(Fault::StatusCode),
    };
    let code = number(digits).and_then(|code| u16::try_from(code).ok()).filter(|code| *code >= 100);
    Ok(StatusLine { version, code: code.ok_or(Fault::StatusCode)?, reason })
}

/// The octets begin as a SIP version does; case does not count (RFC 3261 §7.1).
fn is_version(bytes: &[u8]) -> bool {
    bytes.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"SIP/"))
}
