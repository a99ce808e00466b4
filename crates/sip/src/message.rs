//! A SIP message as a view over the received octets (RFC 3261 §7).

mod scan;
mod typed;

use std::ops::Range;

use crate::check::Fault;
use crate::grammar::Items;
use crate::header::{self, Name};
use scan::Entry;
pub(crate) use scan::{DeclaredLength, Index};
pub use scan::{parse, parse_quoted};

/// What a message may cost before it is refused.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest message, in octets.
    pub message_bytes: usize,
    /// The most header lines; a folded line counts once.
    pub headers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { message_bytes: 65_535, headers: 256 }
    }
}

/// Offsets of octets in [`Message::bytes`], `end` exclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The first octet.
    pub start: u32,
    /// The octet after the last one.
    pub end: u32,
}

impl Span {
    /// The number of octets.
    pub const fn len(self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }

    /// No octets.
    pub const fn is_empty(self) -> bool {
        self.end <= self.start
    }

    /// The offsets as an index range.
    pub const fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// A message: its octets and where its header lines stand in them. Nothing in it was judged yet;
/// [`check`](crate::check::check()) does that.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    bytes: &'a [u8],
    start: StartLine<'a>,
    index: Index,
}

/// The first line of a request, as it is spelled.
#[derive(Clone, Copy, Debug)]
pub struct RequestLine<'a> {
    /// The method.
    pub method: Method<'a>,
    /// The Request-URI.
    pub uri: &'a [u8],
    /// The protocol and version, normally `SIP/2.0`.
    pub version: &'a [u8],
}

/// The first line of a response, as it is spelled.
#[derive(Clone, Copy, Debug)]
pub struct StatusLine<'a> {
    /// The protocol and version, normally `SIP/2.0`.
    pub version: &'a [u8],
    /// The status code, 100 to 999.
    pub code: u16,
    /// The reason phrase; may be empty.
    pub reason: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
enum StartLine<'a> {
    Request(RequestLine<'a>),
    Response(StatusLine<'a>),
}

/// One header line with its folded continuations.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    /// Which header it is; `Name::Other` if it is none that we know.
    pub name: Name,
    /// The name as it stands there, without white space before the colon.
    pub spelled: &'a [u8],
    /// The value without white space around it; folding is left inside.
    pub value: &'a [u8],
    /// From the first octet of the name through the last line end.
    pub line: Span,
}

impl<'a> Header<'a> {
    /// The comma-separated values of this line; empty ones are skipped.
    pub fn values(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        self.line_values()
    }

    /// The same, by name: it also tells of empty values.
    pub(crate) fn line_values(&self) -> LineValues<'a> {
        LineValues { items: Items::new(self.value), line: self.line, first: true }
    }
}

/// One value of a comma-separated list.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    /// The value without white space around it.
    pub bytes: &'a [u8],
    /// The header line that it stands in.
    pub line: Span,
    /// It is the first value of that line.
    pub first: bool,
    /// It is the last value of that line.
    pub last: bool,
}

/// The method of a request. Case counts (RFC 3261 §7.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Method<'a> {
    Invite,
    Ack,
    Bye,
    Cancel,
    Register,
    Options,
    Prack,
    Update,
    Info,
    Message,
    Subscribe,
    Notify,
    Refer,
    Publish,
    Other(&'a [u8]),
}

impl<'a> Method<'a> {
    /// The method spelled so.
    pub fn from_bytes(spelled: &'a [u8]) -> Self {
        match spelled {
            b"INVITE" => Method::Invite,
            b"ACK" => Method::Ack,
            b"BYE" => Method::Bye,
            b"CANCEL" => Method::Cancel,
            b"REGISTER" => Method::Register,
            b"OPTIONS" => Method::Options,
            b"PRACK" => Method::Prack,
            b"UPDATE" => Method::Update,
            b"INFO" => Method::Info,
            b"MESSAGE" => Method::Message,
            b"SUBSCRIBE" => Method::Subscribe,
            b"NOTIFY" => Method::Notify,
            b"REFER" => Method::Refer,
            b"PUBLISH" => Method::Publish,
            other => Method::Other(other),
        }
    }

    /// The method as it is spelled.
    pub const fn as_bytes(self) -> &'a [u8] {
        match self {
            Method::Invite => b"INVITE",
            Method::Ack => b"ACK",
            Method::Bye => b"BYE",
            Method::Cancel => b"CANCEL",
            Method::Register => b"REGISTER",
            Method::Options => b"OPTIONS",
            Method::Prack => b"PRACK",
            Method::Update => b"UPDATE",
            Method::Info => b"INFO",
            Method::Message => b"MESSAGE",
            Method::Subscribe => b"SUBSCRIBE",
            Method::Notify => b"NOTIFY",
            Method::Refer => b"REFER",
            Method::Publish => b"PUBLISH",
            Method::Other(spelled) => spelled,
        }
    }
}

impl<'a> Message<'a> {
    /// The octets of the message: from its start line to the end of its body.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// A request, not a response.
    pub fn is_request(&self) -> bool {
        matches!(self.start, StartLine::Request(_))
    }

    /// The start line of a request; `None` for a response.
    pub fn request_line(&self) -> Option<RequestLine<'a>> {
        match self.start {
            StartLine::Request(line) => Some(line),
            StartLine::Response(_) => None,
        }
    }

    /// The start line of a response; `None` for a request.
    pub fn status_line(&self) -> Option<StatusLine<'a>> {
        match self.start {
            StartLine::Request(_) => None,
            StartLine::Response(line) => Some(line),
        }
    }

    /// The method of a request, or for a response the one that its CSeq names (`Method::Other(b"")` if that is unreadable).
    pub fn method(&self) -> Method<'a> {
        match self.start {
            StartLine::Request(line) => line.method,
            StartLine::Response(_) => self.cseq().map_or(Method::Other(b""), |cseq| cseq.method),
        }
    }

    /// All header lines in order.
    pub fn headers(&self) -> impl Iterator<Item = Header<'a>> {
        (0..self.index.entries.len()).filter_map(move |position| self.header_at(position))
    }

    /// The first line of that header. Takes the same time wherever it stands.
    pub fn first(&self, name: Name) -> Option<Header<'a>> {
        self.index.first_of(name).and_then(|position| self.header_at(position))
    }

    /// All lines of that header in order.
    pub fn all(&self, name: Name) -> impl Iterator<Item = Header<'a>> {
        let first = self.index.first_of(name);
        let end = first.map_or(0, |first| if self.is_repeated(name) { self.index.entries.len() } else { first + 1 });
        (first.unwrap_or(0)..end)
            .filter(move |position| self.index.entries.get(*position).is_some_and(|entry| entry.name == name))
            .filter_map(move |position| self.header_at(position))
    }

    /// All lines of a header given by its full or compact name in any case, also where white space stands
    /// before the colon: what one receiver reads as that header must not slip past a rule that removes it.
    pub fn named(&self, name: &[u8]) -> impl Iterator<Item = Header<'a>> {
        let known = Name::from_bytes(name);
        self.all(known).filter(move |found| known != Name::Other || header::is_same(found.spelled, name))
    }

    /// The comma-separated values of all lines of that header in order. Commas in quoted strings and in `<>` do not
    /// separate. Empty values are skipped.
    pub fn values(&self, name: Name) -> impl Iterator<Item = Value<'a>> {
        self.all(name).flat_map(|line| line.values())
    }

    /// The body; for a datagram without Content-Length all that follows the empty line.
    pub fn body(&self) -> &'a [u8] {
        self.bytes.get(self.index.body_start as usize..).unwrap_or_default()
    }

    /// Offset of the first octet of the body.
    pub fn body_start(&self) -> u32 {
        self.index.body_start
    }

    /// Offset of the empty line that ends the headers, where a header line may be inserted as the last one.
    pub fn headers_end(&self) -> u32 {
        self.index.headers_end
    }

    /// Where a part of [`Message::bytes`] stands in it.
    ///
    /// # Panics
    /// If `part` was not borrowed from this message's octets: a bug of the caller, whatever was received.
    pub fn span_of(&self, part: &[u8]) -> Span {
        let start = (part.as_ptr() as usize).wrapping_sub(self.bytes.as_ptr() as usize);
        let end = start.saturating_add(part.len());
        assert!(end <= self.bytes.len(), "the slice is no part of the message");
        Span { start: scan::offset(start), end: scan::offset(end) }
    }

    /// The octets of a span; empty where it does not lie in the message.
    pub(crate) fn slice(&self, span: Span) -> &'a [u8] {
        self.bytes.get(span.range()).unwrap_or_default()
    }

    /// What is wrong with lines and line ends, as found while the headers were indexed.
    pub(crate) fn line_fault(&self) -> Option<Fault> {
        self.index.fault
    }

    /// More than one line has this name.
    pub(crate) fn is_repeated(&self, name: Name) -> bool {
        self.index.is_repeated(name)
    }

    /// What the Content-Length header says.
    pub(crate) fn declared_length(&self) -> DeclaredLength {
        self.index.declared_length(self.bytes)
    }

    /// How many header lines there are.
    pub(crate) fn header_count(&self) -> usize {
        self.index.entries.len()
    }

    fn header_at(&self, position: usize) -> Option<Header<'a>> {
        let entry: &Entry = self.index.entries.get(position)?;
        let line = Span { start: entry.line_start, end: self.index.line_end(position) };
        let spelled = Span { start: entry.line_start, end: entry.line_start + u32::from(entry.name_length) };
        let value = Span { start: entry.value_start, end: entry.value_end };
        Some(Header { name: entry.name, spelled: self.slice(spelled), value: self.slice(value), line })
    }
}

/// The values of one header line.
pub(crate) struct LineValues<'a> {
    items: Items<'a>,
    line: Span,
    first: bool,
}

impl LineValues<'_> {
    /// The line has a value without an octet in it, among those that were taken or those that are left.
    pub(crate) fn has_hole(self) -> bool {
        self.items.has_hole()
    }
}

impl<'a> Iterator for LineValues<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        let bytes = self.items.next()?;
        let first = std::mem::replace(&mut self.first, false);
        Some(Value { bytes, line: self.line, first, last: self.items.is_finished() })
    }
}

#[cfg(test)]
mod tests;
