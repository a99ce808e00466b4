//! Messages out of a stream (RFC 3261 §18.3, RFC 5626 §3.5.1).

use std::fmt;

use memchr::{memchr2, memmem};

use crate::check::Fault;
use crate::grammar::{head, tail};
use crate::message::{DeclaredLength, Index, Limits};

/// Cuts a stream into messages by their Content-Length. It holds what was received and not yet handed out; a message is copied out
/// when it is complete, and nothing is ever allocated by what a Content-Length promises.
#[derive(Debug)]
pub struct Framer {
    limits: Limits,
    buffer: Vec<u8>,
    /// Octets of the buffer that were handed out already.
    taken: usize,
    /// Octets after `taken` in which no end of headers begins, so that slow senders cost no second look.
    searched: usize,
    /// The length of the message at `taken`, once its headers were read.
    length: Option<usize>,
    fault: Option<FrameFault>,
}

/// What stands in a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// A message, from its start line through its body.
    Message(Vec<u8>),
    /// Two line ends between messages: a keep-alive that asks for one line end as the answer. A single one is passed over in silence.
    Ping,
}

/// Why a stream cannot be followed any further. It has to be closed, since nobody knows where the next message begins.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FrameFault {
    /// A message without Content-Length.
    LengthMissing,
    /// A message with several Content-Length lines.
    LengthRepeated,
    /// A Content-Length that is no number of digits only.
    LengthUnreadable,
    /// A message, or its headers alone, longer than the limit.
    TooLarge,
    /// A line feed or carriage return on its own in the headers: two receivers could see two different Content-Lengths.
    LineEnd,
}

impl Framer {
    /// A framer for a new stream.
    pub fn new(limits: Limits) -> Self {
        Self { limits, buffer: Vec::new(), taken: 0, searched: 0, length: None, fault: None }
    }

    /// Takes octets as they arrive. The caller drains [`Framer::next`] after each call; then the buffer never holds more than one
    /// message and these octets.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.fault.is_some() {
            return;
        }
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete frame, or `None` until more has arrived. After an error every later call returns the same error.
    #[allow(clippy::should_implement_trait, reason = "a framer yields again after None, when more has arrived")]
    pub fn next(&mut self) -> Option<Result<Frame, FrameFault>> {
        if let Some(fault) = self.fault {
            return Some(Err(fault));
        }
        match self.advance() {
            Ok(frame) => frame.map(Ok),
            Err(fault) => {
                self.fault = Some(fault);
                self.buffer = Vec::new();
                self.taken = 0;
                Some(Err(fault))
            }
        }
    }

    /// Nothing of an unfinished message is held: the stream may be closed here without a loss.
    pub fn is_idle(&self) -> bool {
        tail(&self.buffer, self.taken).iter().all(|octet| matches!(octet, b'\r' | b'\n'))
    }

    fn advance(&mut self) -> Result<Option<Frame>, FrameFault> {
        let length = match self.length {
            Some(length) => length,
            None => {
                match tail(&self.buffer, self.taken) {
                    [b'\r', b'\n', b'\r', b'\n', ..] => {
                        self.taken += 4;
                        return Ok(Some(Frame::Ping));
                    }
                    // The second line end of a keep-alive may still be on its way.
                    [] | [b'\r'] | [b'\r', b'\n'] | [b'\r', b'\n', b'\r'] => return Ok(None),
                    [b'\r', b'\n', ..] => self.taken += 2,
                    _ => {}
                }
                match self.message_length()? {
                    Some(length) => length,
                    None => return Ok(None),
                }
            }
        };
        let Some(message) = tail(&self.buffer, self.taken).get(..length) else {
            self.length = Some(length);
            return Ok(None);
        };
        let message = message.to_vec();
        self.taken += length;
        self.searched = 0;
        self.length = None;
        Ok(Some(Frame::Message(message)))
    }

    /// The length of the message at `taken`; `None` until its headers are complete.
    fn message_length(&mut self) -> Result<Option<usize>, FrameFault> {
        let rest = tail(&self.buffer, self.taken);
        let Some(found) = memmem::find(tail(rest, self.searched), b"\r\n\r\n") else {
            if rest.len() > self.limits.message_bytes {
                return Err(FrameFault::TooLarge);
            }
            // The end of headers may have arrived in part.
            self.searched = rest.len().saturating_sub(3);
            return Ok(None);
        };
        let headers_length = self.searched + found + 4;
        let headers = rest.get(..headers_length).unwrap_or_default();
        let room = self.limits.message_bytes.checked_sub(headers_length).ok_or(FrameFault::TooLarge)?;
        let start_line_end = memmem::find(headers, b"\r\n").unwrap_or(headers_length);
        if memchr2(b'\r', b'\n', head(headers, start_line_end)).is_some() {
            return Err(FrameFault::LineEnd);
        }
        let mut index = Index::empty();
        index.read(headers, start_line_end + 2, &self.limits);
        match index.fault {
            Some(Fault::BareLineFeed | Fault::BareCarriageReturn) => {
                return Err(FrameFault::LineEnd);
            }
            Some(Fault::TooManyHeaders) => return Err(FrameFault::TooLarge),
            _ => {}
        }
        match index.declared_length(headers) {
            DeclaredLength::Absent => Err(FrameFault::LengthMissing),
            DeclaredLength::Repeated => Err(FrameFault::LengthRepeated),
            DeclaredLength::Unreadable => Err(FrameFault::LengthUnreadable),
            DeclaredLength::Octets(body) => match usize::try_from(body) {
                Ok(body) if body <= room => Ok(Some(headers_length + body)),
                _ => Err(FrameFault::TooLarge),
            },
        }
    }
}

impl FrameFault {
    /// The fault as a metric label.
    pub const fn label(self) -> &'static str {
        match self {
            FrameFault::LengthMissing => "length_missing",
            FrameFault::LengthRepeated => "length_repeated",
            FrameFault::LengthUnreadable => "length_unreadable",
            FrameFault::TooLarge => "too_large",
            FrameFault::LineEnd => "line_end",
        }
    }
}

impl fmt::Display for FrameFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            FrameFault::LengthMissing => "a message in the stream has no content length",
            FrameFault::LengthRepeated => "a message in the stream has several content lengths",
            FrameFault::LengthUnreadable => "the content length of a message in the stream is no number",
            FrameFault::TooLarge => "a message in the stream is too large",
            FrameFault::LineEnd => "a line in the stream ends with half a line end",
        })
    }
}

impl std::error::Error for FrameFault {}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &[u8] = b"OPTIONS sip:a@b SIP/2.0\r\nl: 4\r\n\r\n\r\n\r\n";
    const TWO: &[u8] = b"SIP/2.0 200 OK\r\nContent-Length : 0\r\n\r\n";

    /// All frames of a stream that arrives in pieces of `size` octets.
    fn frames(stream: &[u8], size: usize) -> Vec<Result<Frame, FrameFault>> {
        let mut framer = Framer::new(Limits::default());
        let mut found = Vec::new();
        for piece in stream.chunks(size) {
            framer.push(piece);
            while let Some(frame) = framer.next() {
                let is_fault = frame.is_err();
                found.push(frame);
                assert!(found.len() <= stream.len(), "a stream holds no more frames than octets");
                if is_fault {
                    return found;
                }
            }
        }
        found
    }

    #[test]
    fn messages_and_keep_alives_in_pieces_of_any_size() {
        let stream = [b"\r\n".as_slice(), ONE, b"\r\n", TWO, b"\r\n\r\n", ONE, TWO].concat();
        let wanted: [Result<Frame, FrameFault>; 5] = [
            Ok(Frame::Message(ONE.to_vec())),
            Ok(Frame::Message(TWO.to_vec())),
            Ok(Frame::Ping),
            Ok(Frame::Message(ONE.to_vec())),
            Ok(Frame::Message(TWO.to_vec())),
        ];
        for size in 1..=stream.len() {
            assert_eq!(frames(&stream, size), wanted, "in pieces of {size}");
        }
    }

    #[test]
    fn faults_end_the_stream() {
        let cases: [(&[u8], FrameFault); 10] = [
            (b"X: y\r\n", FrameFault::LengthMissing),
            (b"l: 0\r\nContent-Length: 0\r\n", FrameFault::LengthRepeated),
            (b"l: -1\r\n", FrameFault::LengthUnreadable),
            (b"l: +5\r\n", FrameFault::LengthUnreadable),
            (b"l: 0x05\r\n", FrameFault::LengthUnreadable),
            (b"l:\r\n", FrameFault::LengthUnreadable),
            (b"l: 4294967296\r\n", FrameFault::TooLarge),
            (b"l: 18446744073709551616\r\n", FrameFault::TooLarge),
            (b"l: 65535\r\n", FrameFault::TooLarge),
            (b"X: y\nl: 9\r\nl: 0\r\n", FrameFault::LineEnd),
        ];
        for (lines, fault) in cases {
            let stream = [b"OPTIONS sip:a@b SIP/2.0\r\n".as_slice(), lines, b"\r\n", TWO].concat();
            let wanted: [Result<Frame, FrameFault>; 1] = [Err(fault)];
            assert_eq!(frames(&stream, stream.len()), wanted, "{}", String::from_utf8_lossy(lines));
        }
        for headers in ["SIP/2.0\nl: 9\r\nl: 0\r\n", "SIP/2.0\r\nno colon\r\nX: y\rl: 9\r\nl: 0\r\n"] {
            let stream = format!("OPTIONS sip:a@b {headers}\r\n");
            assert_eq!(frames(stream.as_bytes(), stream.len()).first(), Some(&Err(FrameFault::LineEnd)));
        }
    }

    #[test]
    fn a_dead_stream_stays_dead_and_holds_nothing() {
        let mut framer = Framer::new(Limits::default());
        framer.push(b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(framer.next(), Some(Err(FrameFault::LengthMissing)));
        framer.push(TWO);
        assert_eq!(framer.next(), Some(Err(FrameFault::LengthMissing)));
        assert!(framer.buffer.is_empty());
    }

    #[test]
    fn headers_without_end_are_bounded() {
        let mut framer = Framer::new(Limits { message_bytes: 1000, headers: 256 });
        framer.push(&[b'a'; 1000]);
        assert_eq!(framer.next(), None);
        assert!(!framer.is_idle());
        framer.push(b"a");
        assert_eq!(framer.next(), Some(Err(FrameFault::TooLarge)));
    }

    #[test]
    fn a_declared_length_allocates_nothing() {
        let mut framer = Framer::new(Limits { message_bytes: 1 << 30, headers: 256 });
        framer.push(b"OPTIONS sip:a@b SIP/2.0\r\nl: 1000000000\r\n\r\n");
        assert_eq!(framer.next(), None);
        assert!(framer.buffer.capacity() < 1000);
        framer.push(b"x");
        assert_eq!(framer.next(), None);
    }

    #[test]
    fn a_stream_between_messages_is_idle() {
        let mut framer = Framer::new(Limits::default());
        assert!(framer.is_idle());
        framer.push(TWO);
        assert!(!framer.is_idle());
        assert!(matches!(framer.next(), Some(Ok(Frame::Message(_)))));
        framer.push(b"\r\n");
        assert_eq!(framer.next(), None);
        assert!(framer.is_idle());
    }

    /// What a framer with these limits makes of a stream's first octets.
    fn first_frame(stream: &[u8], message_bytes: usize, headers: usize) -> Option<Result<Frame, FrameFault>> {
        let mut framer = Framer::new(Limits { message_bytes, headers });
        framer.push(stream);
        framer.next()
    }

    #[test]
    fn a_message_may_be_as_long_as_the_limit_and_no_longer() {
        for message in [ONE, TWO] {
            let whole = Some(Ok(Frame::Message(message.to_vec())));
            assert_eq!(first_frame(message, message.len(), 256), whole);
            assert_eq!(first_frame(message, message.len() - 1, 256), Some(Err(FrameFault::TooLarge)));
        }
    }

    #[test]
    fn a_message_may_have_as_many_header_lines_as_the_limit_and_no_more() {
        let three_lines = b"SIP/2.0 200 OK\r\nl: 0\r\nX: y\r\nX: z\r\n\r\n";
        assert_eq!(first_frame(three_lines, 1000, 3), Some(Ok(Frame::Message(three_lines.to_vec()))));
        assert_eq!(first_frame(three_lines, 1000, 2), Some(Err(FrameFault::TooLarge)));
    }

    #[test]
    fn the_start_line_is_no_header() {
        let message = b"SIP/2.0 200 l:\r\nl: 0\r\n\r\n";
        assert_eq!(first_frame(message, 1000, 256), Some(Ok(Frame::Message(message.to_vec()))));
    }

    #[test]
    fn what_was_handed_out_is_dropped_when_more_arrives() {
        let mut framer = Framer::new(Limits::default());
        framer.push(TWO);
        assert_eq!(framer.next(), Some(Ok(Frame::Message(TWO.to_vec()))));
        framer.push(b"OPT");
        assert_eq!(framer.buffer, b"OPT");
        framer.push(b"IONS");
        assert_eq!(framer.buffer, b"OPTIONS", "what was not handed out is kept");
    }

    #[test]
    fn each_fault_has_its_label_and_its_sentence() {
        for (fault, label, sentence) in [
            (FrameFault::LengthMissing, "length_missing", "a message in the stream has no content length"),
            (FrameFault::LengthRepeated, "length_repeated", "a message in the stream has several content lengths"),
            (
                FrameFault::LengthUnreadable,
                "length_unreadable",
                "the content length of a message in the stream is no number",
            ),
            (FrameFault::TooLarge, "too_large", "a message in the stream is too large"),
            (FrameFault::LineEnd, "line_end", "a line in the stream ends with half a line end"),
        ] {
            assert_eq!((fault.label(), fault.to_string().as_str()), (label, sentence));
        }
    }
}
