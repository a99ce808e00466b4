//! Edits as a patch list over the original octets: what no edit names leaves as it came.

use crate::message::{Header, Message, Span, Value};

/// A patch list. It is reusable: [`Edits::clear`] keeps the buffers, so that a steady state allocates nothing.
#[derive(Default, Debug)]
pub struct Edits {
    /// Ordered by (start, end), equal ones in the order they were added.
    operations: Vec<Operation>,
    /// The new texts, one after the other.
    text: Vec<u8>,
}

/// Replaces `at` by a part of the text; an empty `at` inserts, an empty part removes.
#[derive(Clone, Copy, Debug)]
struct Operation {
    at: Span,
    text_start: usize,
    text_end: usize,
}

impl Edits {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all edits and keeps the buffers.
    pub fn clear(&mut self) {
        self.operations.clear();
        self.text.clear();
    }

    /// Replaces the octets of a span.
    pub fn replace(&mut self, at: Span, text: &[u8]) {
        self.replace_with(at, |out| out.extend_from_slice(text));
    }

    /// Removes the octets of a span.
    pub fn remove(&mut self, at: Span) {
        self.replace_with(at, |_| {});
    }

    /// Inserts octets before offset `at`. Several insertions at one place stand in the order they were added, and before
    /// what replaces the octets that begin there.
    pub fn insert(&mut self, at: u32, text: &[u8]) {
        self.insert_with(at, |out| out.extend_from_slice(text));
    }

    /// Replaces the octets of a span by what `write` appends to the buffer.
    pub fn replace_with(&mut self, at: Span, write: impl FnOnce(&mut Vec<u8>)) {
        let text_start = self.text.len();
        write(&mut self.text);
        let place = self.operations.partition_point(|other| (other.at.start, other.at.end) <= (at.start, at.end));
        self.operations.insert(place, Operation { at, text_start, text_end: self.text.len() });
    }

    /// Inserts what `write` appends to the buffer before offset `at`.
    pub fn insert_with(&mut self, at: u32, write: impl FnOnce(&mut Vec<u8>)) {
        self.replace_with(Span { start: at, end: at }, write);
    }

    /// Removes values of the comma-separated list of ONE header line: the whole line if none is left, else each value with one
    /// comma. All removals on one line have to go through one call, since each decides which comma goes along.
    pub fn remove_values(&mut self, message: &Message<'_>, removed: &[Value<'_>]) {
        let Some(line) = removed.first().map(|value| value.line) else {
            return;
        };
        debug_assert!(removed.iter().all(|value| value.line == line), "the values stand in one line");
        if let [only] = removed
            && only.first
            && only.last
        {
            // The usual case: nothing else stands in the line.
            return self.remove(line);
        }
        let Some(header) = message.headers().find(|header| header.line == line) else {
            debug_assert!(false, "the values are of this message");
            return;
        };
        let mut kept_end: Option<u32> = None;
        let mut run_start: Option<u32> = None;
        for value in header.values() {
            let at = message.span_of(value.bytes);
            if removed.iter().any(|other| message.span_of(other.bytes) == at) {
                run_start = run_start.or(Some(at.start));
                continue;
            }
            // A run before a value that stays goes with the commas that follow it.
            if let Some(start) = run_start.take() {
                self.remove(Span { start, end: at.start });
            }
            kept_end = Some(at.end);
        }
        match (run_start, kept_end) {
            (None, _) => {}
            // A run at the end goes with the comma before it.
            (Some(_), Some(start)) => self.remove(Span { start, end: message.span_of(header.value).end }),
            (Some(_), None) => self.remove_header(&header),
        }
    }

    /// Removes values of any number of lines; those of one line stand together and are all of that line's that go.
    pub fn remove_each(&mut self, message: &Message<'_>, removed: &[Value<'_>]) {
        for of_one_line in removed.chunk_by(|one, next| one.line == next.line) {
            self.remove_values(message, of_one_line);
        }
    }

    /// Removes a header line with its folded continuations.
    pub fn remove_header(&mut self, header: &Header<'_>) {
        self.remove(header.line);
    }

    /// Appends `source` with all edits to `out`.
    ///
    /// Edits must not overlap: that is a bug, which tests stop at. In production the later edit's text stands behind the earlier one's.
    pub fn apply(&self, source: &[u8], out: &mut Vec<u8>) {
        out.reserve(source.len() + self.text.len());
        let mut copied = 0;
        for operation in &self.operations {
            let range = operation.at.range();
            debug_assert!(range.start >= copied && range.start <= range.end, "edits overlap at octet {}", range.start);
            debug_assert!(range.end <= source.len(), "an edit lies past the end");
            out.extend_from_slice(source.get(copied..range.start).unwrap_or_default());
            out.extend_from_slice(self.text.get(operation.text_start..operation.text_end).unwrap_or_default());
            copied = copied.max(range.end);
        }
        out.extend_from_slice(source.get(copied..).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::header::Name;
    use crate::message::{Limits, parse};

    fn applied(edits: &Edits, source: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        edits.apply(source, &mut out);
        out
    }

    /// The Route lines after those values were removed whose number is in `gone`.
    fn routes_without(lines: &str, gone: &[usize]) -> String {
        let text = format!("INVITE sip:a@b SIP/2.0\r\n{lines}To: x\r\n\r\n");
        let message = parse(text.as_bytes(), &Limits::default()).expect("it has a shape");
        let mut edits = Edits::new();
        for line in message.all(Name::Route) {
            let removed: Vec<Value<'_>> = message
                .values(Name::Route)
                .enumerate()
                .filter(|(place, value)| gone.contains(place) && value.line == line.line)
                .map(|(_, value)| value)
                .collect();
            edits.remove_values(&message, &removed);
        }
        let out = String::from_utf8(applied(&edits, text.as_bytes())).expect("the text was UTF-8");
        out.trim_start_matches("INVITE sip:a@b SIP/2.0\r\n").trim_end_matches("To: x\r\n\r\n").to_owned()
    }

    #[test]
    fn first_middle_last_and_all_values() {
        let line = "Route: <sip:a,x>, \"q,\" <sip:b> ,<sip:c>\r\n";
        assert_eq!(routes_without(line, &[0]), "Route: \"q,\" <sip:b> ,<sip:c>\r\n");
        assert_eq!(routes_without(line, &[1]), "Route: <sip:a,x>, <sip:c>\r\n");
        assert_eq!(routes_without(line, &[2]), "Route: <sip:a,x>, \"q,\" <sip:b>\r\n");
        assert_eq!(routes_without(line, &[0, 1]), "Route: <sip:c>\r\n");
        assert_eq!(routes_without(line, &[1, 2]), "Route: <sip:a,x>\r\n");
        assert_eq!(routes_without(line, &[0, 2]), "Route: \"q,\" <sip:b>\r\n");
        assert_eq!(routes_without(line, &[0, 1, 2]), "");
        assert_eq!(routes_without(line, &[]), line);
    }

    #[test]
    fn folded_lines_and_several_lines() {
        let folded = "Route:\r\n <sip:a>,\r\n <sip:b>\r\n ,<sip:c>\r\n";
        assert_eq!(routes_without(folded, &[0]), "Route:\r\n <sip:b>\r\n ,<sip:c>\r\n");
        assert_eq!(routes_without(folded, &[1]), "Route:\r\n <sip:a>,\r\n <sip:c>\r\n");
        assert_eq!(routes_without(folded, &[2]), "Route:\r\n <sip:a>,\r\n <sip:b>\r\n");
        assert_eq!(routes_without(folded, &[0, 1, 2]), "");
        let two = "Route: <sip:a>\r\nRoute: <sip:b>,<sip:c>\r\n";
        assert_eq!(routes_without(two, &[0, 1]), "Route: <sip:c>\r\n");
        assert_eq!(routes_without(two, &[0, 1, 2]), "");
    }

    #[test]
    fn operations_in_any_order() {
        let source = b"0123456789";
        let mut edits = Edits::new();
        edits.insert(10, b"end");
        edits.replace(Span { start: 4, end: 6 }, b"FOURFIVE");
        edits.remove(Span { start: 2, end: 4 });
        edits.insert(2, b"a");
        edits.insert_with(2, |out| out.push(b'b'));
        edits.insert(0, b"start");
        assert_eq!(applied(&edits, source), b"start01abFOURFIVE6789end");
        assert!(applied(&edits, source).capacity() < 100, "10 octets and 18 of new texts need no more");
        edits.clear();
        assert_eq!(applied(&edits, source), source);
    }

    #[test]
    fn values_of_several_lines_go_in_one_call() {
        let text = b"BYE sip:a SIP/2.0\r\nRoute: <sip:0>,<sip:1>\r\nRoute: <sip:2>\r\n\
            Route: <sip:3>,<sip:4>,<sip:5>\r\n\r\n";
        let message = parse(text, &Limits::default()).expect("it has a shape");
        let removed: Vec<Value<'_>> =
            message.values(Name::Route).filter(|value| !matches!(value.bytes, b"<sip:1>" | b"<sip:4>")).collect();
        let mut edits = Edits::new();
        edits.remove_each(&message, &removed);
        assert_eq!(applied(&edits, text), b"BYE sip:a SIP/2.0\r\nRoute: <sip:1>\r\nRoute: <sip:4>\r\n\r\n");
    }

    #[test]
    fn a_removed_line_and_one_inserted_in_its_place() {
        let text = b"INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h\r\nTo: x\r\n\r\n";
        let message = parse(text, &Limits::default()).expect("it has a shape");
        let header = message.first(Name::Via).expect("there is a Via");
        let mut edits = Edits::new();
        edits.remove_header(&header);
        edits.insert(header.line.start, b"Via: SIP/2.0/UDP i\r\n");
        edits.insert(message.headers_end(), b"X: y\r\n");
        assert_eq!(applied(&edits, text), b"INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP i\r\nTo: x\r\nX: y\r\n\r\n");
    }

    proptest! {
        #[test]
        fn what_stays_is_the_list_without_the_removed_values(
            separators in prop::collection::vec(prop::sample::select(vec![",", ", ", " ,", ",\r\n ", "\r\n\t,"]), 0..6),
            mask in 0_u32..128,
        ) {
            let count = separators.len() + 1;
            let mut line = String::from("Route: ");
            for place in 0..count {
                line.push_str(&format!("\"n,{place}\" <sip:{place};lr>;x={place}"));
                line.push_str(separators.get(place).copied().unwrap_or("\r\n"));
            }
            let gone: Vec<usize> = (0..count).filter(|place| (mask >> *place) & 1 == 1).collect();
            let left = routes_without(&line, &gone);
            let text = format!("INVITE sip:a@b SIP/2.0\r\n{left}\r\n");
            let message = parse(text.as_bytes(), &Limits::default()).expect("it has a shape");
            let found: Vec<String> =
                message.values(Name::Route).map(|value| String::from_utf8_lossy(value.bytes).into_owned()).collect();
            let wanted: Vec<String> = (0..count)
                .filter(|place| !gone.contains(place))
                .map(|place| format!("\"n,{place}\" <sip:{place};lr>;x={place}"))
                .collect();
            prop_assert_eq!(found, wanted);
            prop_assert!(message.first(Name::Route).is_none_or(|header| !header.line_values().has_hole()));
        }
    }
}
