//! Messages written and read as text, apart from crate `sip`: what a byte-exact test says must not come from the code under
//! test.

use std::fmt::Write;

/// A request, line by line. The defaults are a client's first request from Bonnie to Clyde.
#[derive(Clone, Debug)]
pub struct Script {
    method: String,
    uri: String,
    via: String,
    from: String,
    to: String,
    call_id: String,
    cseq: u32,
    max_forwards: Option<u32>,
    lines: Vec<String>,
    body: Vec<u8>,
    with_length: bool,
}

/// An answer to a request: Via, Record-Route, From, To, Call-ID and CSeq are copied, the rest is said here.
#[derive(Clone, Debug)]
pub struct Answer {
    code: u16,
    tag: Option<String>,
    lines: Vec<String>,
    body: Vec<u8>,
}

/// A message taken apart. Folded lines are joined; values keep everything else as it came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Text {
    pub start: String,
    /// Full name and value of each header line.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Script {
    pub fn new(method: &str) -> Self {
        Self {
            method: method.to_owned(),
            uri: "sip:clyde@example.com".to_owned(),
            via: "SIP/2.0/UDP 10.1.0.1:5060;rport;branch=z9hG4bKclient1".to_owned(),
            from: "\"Bonnie\" <sip:bonnie@example.com>;tag=ft".to_owned(),
            to: "<sip:clyde@example.com>".to_owned(),
            call_id: "call-1".to_owned(),
            cseq: 1,
            max_forwards: Some(70),
            lines: Vec::new(),
            body: Vec::new(),
            with_length: true,
        }
    }

    pub fn uri(mut self, uri: &str) -> Self {
        self.uri = uri.to_owned();
        self
    }

    /// The whole value of the Via header.
    pub fn via(mut self, via: &str) -> Self {
        self.via = via.to_owned();
        self
    }

    /// Keeps the default Via but for its branch (without the magic cookie).
    pub fn branch(mut self, branch: &str) -> Self {
        let kept = self.via.split(";branch=").next().unwrap_or_default().to_owned();
        self.via = format!("{kept};branch=z9hG4bK{branch}");
        self
    }

    /// The whole value of the From header.
    pub fn from(mut self, from: &str) -> Self {
        self.from = from.to_owned();
        self
    }

    /// The whole value of the To header.
    pub fn to(mut self, to: &str) -> Self {
        self.to = to.to_owned();
        self
    }

    pub fn call_id(mut self, call_id: &str) -> Self {
        self.call_id = call_id.to_owned();
        self
    }

    pub fn cseq(mut self, cseq: u32) -> Self {
        self.cseq = cseq;
        self
    }

    /// `None`: no such header.
    pub fn max_forwards(mut self, max_forwards: Option<u32>) -> Self {
        self.max_forwards = max_forwards;
        self
    }

    /// One more header line, without its end.
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    pub fn body(mut self, content_type: &str, body: &[u8]) -> Self {
        self.lines.push(format!("Content-Type: {content_type}"));
        self.body = body.to_vec();
        self
    }

    /// No Content-Length header.
    pub fn without_length(mut self) -> Self {
        self.with_length = false;
        self
    }

    pub fn build(&self) -> Vec<u8> {
        let mut text = format!("{} {} SIP/2.0\r\nVia: {}\r\n", self.method, self.uri, self.via);
        if let Some(hops) = self.max_forwards {
            push(&mut text, &format!("Max-Forwards: {hops}"));
        }
        push(&mut text, &format!("From: {}", self.from));
        push(&mut text, &format!("To: {}", self.to));
        push(&mut text, &format!("Call-ID: {}", self.call_id));
        push(&mut text, &format!("CSeq: {} {}", self.cseq, self.method));
        for line in &self.lines {
            push(&mut text, line);
        }
        if self.with_length {
            push(&mut text, &format!("Content-Length: {}", self.body.len()));
        }
        finish(text, &self.body)
    }
}

impl Answer {
    pub fn new(code: u16) -> Self {
        Self { code, tag: (code > 100).then(|| "tt".to_owned()), lines: Vec::new(), body: Vec::new() }
    }

    /// The tag that To gets if it has none; `tt` unless said otherwise.
    pub fn tag(mut self, tag: &str) -> Self {
        self.tag = Some(tag.to_owned());
        self
    }

    /// One more header line, without its end.
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    pub fn body(mut self, content_type: &str, body: &[u8]) -> Self {
        self.lines.push(format!("Content-Type: {content_type}"));
        self.body = body.to_vec();
        self
    }

    /// The answer to `request`, as received.
    pub fn to(&self, request: &[u8]) -> Vec<u8> {
        let asked = Text::read(request);
        let mut text = format!("SIP/2.0 {} Answer\r\n", self.code);
        for (name, value) in &asked.headers {
            match name.as_str() {
                "Via" | "From" | "Call-ID" | "CSeq" | "Record-Route" => push(&mut text, &format!("{name}: {value}")),
                "To" => {
                    let tag = self.tag.as_ref().filter(|_| !value.contains(";tag="));
                    let tag = tag.map(|tag| format!(";tag={tag}")).unwrap_or_default();
                    push(&mut text, &format!("To: {value}{tag}"));
                }
                _ => {}
            }
        }
        for line in &self.lines {
            push(&mut text, line);
        }
        push(&mut text, &format!("Content-Length: {}", self.body.len()));
        finish(text, &self.body)
    }
}

impl Text {
    pub fn read(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(bytes.len());
        let (head, rest) = bytes.split_at(end);
        let head = String::from_utf8_lossy(head).into_owned();
        let mut lines = head.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let mut headers: Vec<(String, String)> = Vec::new();
        for line in lines {
            if line.starts_with([' ', '\t']) {
                if let Some(last) = headers.last_mut() {
                    last.1.push_str(line);
                }
            } else if let Some((name, value)) = line.split_once(':') {
                headers.push((full_name(name.trim()).to_owned(), value.trim().to_owned()));
            }
        }
        Self { start, headers, body: rest.get(4..).unwrap_or_default().to_vec() }
    }

    /// The status code of a response.
    pub fn code(&self) -> Option<u16> {
        self.start.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
    }

    /// The method of a request; of a response the method of its CSeq.
    pub fn method(&self) -> &str {
        if self.code().is_some() {
            return self.header("CSeq").and_then(|value| value.split(' ').nth(1)).unwrap_or_default();
        }
        self.start.split(' ').next().unwrap_or_default()
    }

    /// The Request-URI of a request.
    pub fn uri(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    /// The value of the first line of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// The values of all lines of that name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The comma-separated values of all lines of that name.
    pub fn values(&self, name: &str) -> Vec<String> {
        self.all(name).iter().flat_map(|value| split_values(value)).collect()
    }

    /// The branch of the top Via.
    pub fn branch(&self) -> String {
        let top = self.values("Via").into_iter().next().unwrap_or_default();
        parameter(&top, "branch").unwrap_or_default()
    }

    /// The header lines but those named, name and value as received.
    pub fn without(&self, names: &[&str]) -> Vec<(String, String)> {
        self.headers
            .iter()
            .filter(|(name, _)| !names.iter().any(|left_out| left_out.eq_ignore_ascii_case(name)))
            .cloned()
            .collect()
    }
}

/// A parameter of a header value; a flag is an empty string. Parameters of a URI in angle brackets are not looked at.
pub fn parameter(value: &str, name: &str) -> Option<String> {
    let after = value.rfind('>').map_or(value, |at| &value[at..]);
    after.split(';').skip(1).find_map(|parameter| {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

/// The URI between angle brackets.
pub fn uri_in(value: &str) -> String {
    let inner = value.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(uri, _)| uri);
    inner.unwrap_or(value).to_owned()
}

/// A test's text as octets: lines end with CRLF, white space around lines is layout, the empty line at the end is added when
/// there is no body.
pub fn octets(text: &str) -> Vec<u8> {
    let mut lines: Vec<&str> = text.trim().lines().map(str::trim).collect();
    if !lines.contains(&"") {
        lines.extend(["", ""]);
    }
    lines.join("\r\n").into_bytes()
}

fn split_values(line: &str) -> Vec<String> {
    let mut values = vec![String::new()];
    let (mut quoted, mut in_brackets) = (false, false);
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            '<' if !quoted => in_brackets = true,
            '>' if !quoted => in_brackets = false,
            ',' if !quoted && !in_brackets => {
                values.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(value) = values.last_mut() {
            value.push(letter);
        }
    }
    values.into_iter().map(|value| value.trim().to_owned()).collect()
}

fn full_name(name: &str) -> &str {
    match name {
        "v" => "Via",
        "f" => "From",
        "t" => "To",
        "i" => "Call-ID",
        "m" => "Contact",
        "l" => "Content-Length",
        "k" => "Supported",
        "c" => "Content-Type",
        _ => name,
    }
}

fn push(text: &mut String, line: &str) {
    write!(text, "{line}\r\n").expect("writing into a string cannot fail");
}

fn finish(mut text: String, body: &[u8]) -> Vec<u8> {
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let bytes = Script::new("MESSAGE").branch("b7").line("X-One: 1").body("text/plain", b"a\0b").build();
        let text = Text::read(&bytes);
        assert_eq!(text.start, "MESSAGE sip:clyde@example.com SIP/2.0");
        assert_eq!((text.method(), text.uri(), text.code()), ("MESSAGE", "sip:clyde@example.com", None));
        assert_eq!(text.branch(), "z9hG4bKb7");
        assert_eq!(text.header("x-one"), Some("1"));
        assert_eq!(text.header("Content-Length"), Some("3"));
        assert_eq!(text.body, b"a\0b");
    }

    #[test]
    fn answers_copy_what_they_must() {
        let request = octets(
            "INVITE sip:a@b SIP/2.0
             v: SIP/2.0/UDP p1;branch=z9hG4bKx, SIP/2.0/UDP p2;branch=z9hG4bKy
             Record-Route: <sip:p1;lr>
             From: <sip:c@d>;tag=1
             To: \"x, y\" <sip:a@b>
             Call-ID: 9
             CSeq: 3 INVITE
             Subject: not copied",
        );
        let text = Text::read(&Answer::new(180).tag("9f").line("Require: 100rel").to(&request));
        assert_eq!((text.code(), text.method()), (Some(180), "INVITE"));
        assert_eq!(text.values("Via").len(), 2);
        assert_eq!(text.header("To"), Some("\"x, y\" <sip:a@b>;tag=9f"));
        assert_eq!(text.header("Record-Route"), Some("<sip:p1;lr>"));
        assert_eq!(text.header("Subject"), None);
        assert_eq!(text.without(&["Via", "Record-Route", "From", "To", "Call-ID", "CSeq", "Content-Length"]).len(), 1);
    }

    #[test]
    fn values_and_parameters_are_told_apart() {
        assert_eq!(split_values("<sip:a;x=1,2>;q=1, \"b, c\" <sip:d>"), ["<sip:a;x=1,2>;q=1", "\"b, c\" <sip:d>"]);
        assert_eq!(parameter("<sip:a;tag=no>;tag=yes", "tag"), Some("yes".to_owned()));
        assert_eq!(parameter("SIP/2.0/UDP h;rport;branch=b", "rport"), Some(String::new()));
        assert_eq!(parameter("SIP/2.0/UDP h;branch=b", "rport"), None);
        assert_eq!(uri_in("\"B\" <sip:b@c;lr>;x"), "sip:b@c;lr");
    }
}
