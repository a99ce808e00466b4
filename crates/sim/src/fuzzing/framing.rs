//! A stream cut into messages, whatever the sizes of the pieces that it comes in.

use sip::frame::{Frame, FrameFault, Framer};
use sip::message::{Limits, parse};

/// Reads `bytes` as a stream, and as the sizes of the pieces that it comes in.
///
/// | octets | what they say |
/// |---|---|
/// | the first | odd: the limits are small |
/// | the second, modulo 16 | how many sizes follow |
/// | the sizes | of the pieces, in turn and over again; 0 is 256 |
/// | all others | the stream |
///
/// # Panics
/// If the messages, the keep-alives or the fault depend on the pieces, an octet is lost between two messages, a message is longer
/// than the limit or than its Content-Length says, or a stream goes on after its fault.
pub fn framing(bytes: &[u8]) {
    let Some((&[options, count], rest)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let limits = if options & 1 == 0 { Limits::default() } else { SMALL };
    let (sizes, stream) = rest.split_at(usize::from(count % 16).min(rest.len()));
    let sizes: Vec<usize> = sizes.iter().map(|&size| if size == 0 { 256 } else { usize::from(size) }).collect();
    let whole = cut(stream, &[], limits);
    assert_eq!(cut(stream, &sizes, limits), whole, "in pieces of {sizes:?}");
    assert_eq!(cut(stream, &[1], limits), whole, "octet by octet");
    judge(stream, &whole, limits);
}

/// What became of a stream.
#[derive(PartialEq, Eq, Debug, Default)]
struct Cut {
    frames: Vec<Frame>,
    fault: Option<FrameFault>,
    /// Nothing of an unfinished message is left.
    idle: bool,
}

/// Cuts a stream that comes in pieces of these sizes, in turn; none: at once.
fn cut(stream: &[u8], sizes: &[usize], limits: Limits) -> Cut {
    let mut framer = Framer::new(limits);
    let mut found = Cut::default();
    let mut sizes = sizes.iter().cycle();
    let mut rest = stream;
    while !rest.is_empty() {
        let size = sizes.next().copied().unwrap_or(rest.len()).min(rest.len());
        let (piece, after) = rest.split_at(size);
        rest = after;
        framer.push(piece);
        while let Some(frame) = framer.next() {
            match frame {
                Ok(frame) => {
                    assert_eq!(found.fault, None, "a stream goes on after its fault");
                    found.frames.push(frame);
                    assert!(found.frames.len() <= stream.len(), "a stream holds no more frames than octets");
                }
                Err(fault) => {
                    assert!(found.fault.is_none_or(|known| known == fault), "a second fault: {fault}");
                    found.fault = Some(fault);
                    break;
                }
            }
        }
    }
    found.idle = framer.is_idle();
    found
}

/// Every octet up to the fault, or to what is unfinished, is in a message or in a line end between two.
fn judge(stream: &[u8], found: &Cut, limits: Limits) {
    let mut rest = stream;
    for frame in &found.frames {
        rest = match frame {
            Frame::Ping => rest.strip_prefix(b"\r\n\r\n").expect("a keep-alive is two line ends"),
            Frame::Message(message) => {
                assert!(message.len() <= limits.message_bytes, "a message of {} octets", message.len());
                judge_message(message, limits);
                let rest = rest.strip_prefix(b"\r\n").unwrap_or(rest);
                rest.strip_prefix(&message[..]).expect("messages come as they were sent")
            }
        };
    }
    if found.fault.is_none() {
        let is_line_ends = rest.iter().all(|octet| matches!(octet, b'\r' | b'\n'));
        assert_eq!(found.idle, is_line_ends, "{} octets are left", rest.len());
    }
}

/// Whoever reads it as a datagram finds the same message: nothing is missing, and nothing follows its body.
fn judge_message(message: &[u8], limits: Limits) {
    if let Ok(read) = parse(message, &limits) {
        assert_eq!(read.bytes().len(), message.len(), "octets follow the body");
        assert_eq!(read.body().len() + read.body_start() as usize, message.len());
    }
}

/// So small that a short script reaches them.
const SMALL: Limits = Limits { message_bytes: 120, headers: 3 };

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &[u8] = b"OPTIONS sip:a@b SIP/2.0\r\nl: 4\r\n\r\n\r\n\r\n";

    #[test]
    fn every_size_of_pieces_in_both_limits() {
        let long = [b"OPTIONS sip:a@b SIP/2.0\r\nl: 90\r\n\r\n".as_slice(), &[b'x'; 90]].concat();
        let many = b"OPTIONS sip:a@b SIP/2.0\r\nA: 1\r\nB: 2\r\nC: 3\r\nl: 0\r\n\r\n";
        for end in [ONE, &long, many, b"\r\n\r", b"GET / HTTP/1.1\r\n\r\n", b"X\nl: 0\r\n\r\n", &[b'a'; 200]] {
            let stream = [b"\r\n".as_slice(), ONE, b"\r\n\r\n", ONE, end].concat();
            for options in 0..2 {
                for size in 0..=130 {
                    framing(&[&[options, 2, size, 7][..], &stream].concat());
                }
            }
        }
    }

    #[test]
    fn short_scripts_are_no_stream() {
        for script in [&b""[..], b"\x00", b"\x01\x0f", b"\x01\x0f\x01\x02"] {
            framing(script);
        }
    }

    #[test]
    #[should_panic(expected = "messages come as they were sent")]
    fn a_lost_octet_is_noticed() {
        let found = Cut { frames: vec![Frame::Message(ONE.to_vec())], fault: None, idle: true };
        judge(ONE.get(1..).expect("it is longer"), &found, Limits::default());
    }

    #[test]
    #[should_panic(expected = "octets follow the body")]
    fn a_message_with_more_than_its_body_is_noticed() {
        let found = Cut { frames: vec![Frame::Message([ONE, b"x"].concat())], fault: None, idle: true };
        judge(&[ONE, b"x"].concat(), &found, Limits::default());
    }
}
