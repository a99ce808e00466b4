//! Messages in a stream of octets, with the keep-alives between them.

use super::Came;
use sip::Limits;
use sip::frame::{Frame, FrameFault, Framer};
use std::collections::VecDeque;

/// Messages framed by their Content-Length, and the keep-alives between them (RFC 3261 §18.3, RFC 5626 §3.5.1).
///
/// The framer cannot tell an answer to our ping from half a ping of the peer, and passes a single line end over. So the line ends
/// between two messages are read here wherever that can be seen: the framer is given everything up to the last octet that is no line
/// end at once and what follows octet by octet. While an answer is awaited, it is given every line end on its own.
pub(super) struct Framed {
    limits: Limits,
    /// Made when a message begins. As long as it is idle it holds nothing at all.
    pub(super) framer: Option<Framer>,
    /// How many octets of CRLFCRLF have come since the last message.
    line_ends: u8,
    /// Pings of ours that were not answered yet.
    pub(super) pongs_awaited: u8,
}

impl Framed {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, framer: None, line_ends: 0, pongs_awaited: 0 }
    }

    pub(super) fn receive(
        &mut self,
        octets: &[u8],
        came: &mut VecDeque<Came>,
        answers: &mut Vec<u8>,
    ) -> Result<(), FrameFault> {
        let at_once = if self.pongs_awaited > 0 {
            0
        } else {
            octets.iter().rposition(|octet| !is_line_end(*octet)).map_or(0, |last| last + 1)
        };
        let (mut solid, mut rest) = octets.split_at_checked(at_once).unwrap_or((octets, &[]));
        while let Some((&first, after)) = solid.split_first()
            && is_line_end(first)
            && self.is_idle()
        {
            self.line_end(first, came, answers)?;
            solid = after;
        }
        if !solid.is_empty() {
            self.push(solid, came, answers)?;
        }
        while let Some(&first) = rest.first() {
            let length = if is_line_end(first) {
                1
            } else {
                rest.iter().position(|octet| is_line_end(*octet)).unwrap_or(rest.len())
            };
            let (piece, after) = rest.split_at_checked(length).unwrap_or((rest, &[]));
            rest = after;
            if is_line_end(first) && self.is_idle() {
                self.line_end(first, came, answers)?;
            } else {
                self.push(piece, came, answers)?;
            }
        }
        Ok(())
    }

    /// Gives the framer octets of a message, or of several.
    fn push(&mut self, octets: &[u8], came: &mut VecDeque<Came>, answers: &mut Vec<u8>) -> Result<(), FrameFault> {
        // A line end before a message means nothing, but half of one is none.
        if matches!(self.line_ends, 1 | 3) {
            return Err(FrameFault::LineEnd);
        }
        self.line_ends = 0;
        let limits = self.limits;
        let framer = self.framer.get_or_insert_with(|| Framer::new(limits));
        framer.push(octets);
        while let Some(frame) = framer.next() {
            match frame? {
                Frame::Message(message) => came.push_back(Came::Message(message)),
                Frame::Ping => answer_ping(came, answers),
            }
        }
        Ok(())
    }

    /// One octet of a line end between two messages.
    fn line_end(&mut self, octet: u8, came: &mut VecDeque<Came>, answers: &mut Vec<u8>) -> Result<(), FrameFault> {
        let wanted = if matches!(self.line_ends, 0 | 2) { b'\r' } else { b'\n' };
        if octet != wanted {
            return Err(FrameFault::LineEnd);
        }
        self.line_ends += 1;
        match self.line_ends {
            2 | 4 if self.pongs_awaited > 0 => {
                self.pongs_awaited -= 1;
                self.line_ends -= 2;
                Came::Pong.tell(came);
            }
            4 => {
                self.line_ends = 0;
                answer_ping(came, answers);
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn is_idle(&self) -> bool {
        self.framer.as_ref().is_none_or(Framer::is_idle)
    }

    pub(super) fn rest(&mut self) {
        if self.is_idle() {
            self.framer = None;
        }
    }
}

fn answer_ping(came: &mut VecDeque<Came>, answers: &mut Vec<u8>) {
    answers.extend_from_slice(b"\r\n");
    Came::Ping.tell(came);
}

fn is_line_end(octet: u8) -> bool {
    matches!(octet, b'\r' | b'\n')
}
