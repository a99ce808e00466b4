//! Runs over two connections, one to the proxy and one to the registrar, of which one is lost.

use super::world::{Script, answer_with, call, pbx, plan, reply, us};
use crate::Unreachable;
use crate::course::{Ends, Output, Probe};
use crate::plan::{Kind, Plan, Transport};
use crate::report::State;
use sip::{Instant, Limits, Message, Method, parse};
use std::net::SocketAddr;

const DESCRIPTION: &str =
    "v=0\r\no=- 1 1 IN IP4 10.0.0.11\r\ns=-\r\nc=IN IP4 10.0.0.11\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n";

/// A probe whose requests are answered at once, each over the connection that it came on.
struct Lines {
    probe: Probe,
    now: Instant,
    script: Script,
    /// Methods, and where they went.
    sent: Vec<(String, SocketAddr)>,
    invite: Vec<u8>,
    /// The last request without an answer.
    waiting: Vec<u8>,
}

fn registrar() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 20], 5061))
}

impl Lines {
    fn start(kind: Kind, script: Script) -> Self {
        let now = Instant::from_micros(1_000_000);
        let ends = Ends { signalling: us(), media: SocketAddr::new(us().ip(), 4_000) };
        let plan = Plan { transport: Transport::Tcp, registrar: Some(registrar()), ..plan(kind) };
        let probe = Probe::new(now, plan, ends, 1);
        let mut lines = Self { probe, now, script, sent: Vec::new(), invite: Vec::new(), waiting: Vec::new() };
        lines.drain();
        lines
    }

    fn drain(&mut self) {
        while let Some(output) = self.probe.poll_output() {
            let Output::Message { to, bytes } = output else { continue };
            let request = parse(&bytes, &Limits::default()).expect("our own messages are well-formed");
            let method = request.method();
            self.sent.push((String::from_utf8_lossy(method.as_bytes()).into_owned(), to));
            if method == Method::Invite {
                self.invite = bytes.clone();
            }
            match (self.script)(&request) {
                Some(answer) => self.probe.handle_message(self.now, to, &answer),
                None => self.waiting = bytes.clone(),
            }
            if method == Method::Cancel {
                let invite = parse(&self.invite, &Limits::default()).expect("our own messages are well-formed");
                self.probe.handle_message(self.now, to, &reply(&invite, 487, ""));
            }
        }
    }

    fn lose(&mut self, peer: SocketAddr) {
        self.probe.handle_unreachable(self.now, Unreachable::Connection { peer, text: "lost".to_owned() });
        self.drain();
    }

    /// Until so many messages were sent.
    fn run_until_sent(&mut self, count: usize) {
        while self.sent.len() < count {
            self.now = self.probe.poll_timeout().expect("it is not over");
            self.probe.handle_timeout(self.now);
            self.drain();
        }
    }

    fn assert_sent(&self, expected: &[(&str, SocketAddr)]) {
        let sent: Vec<(&str, SocketAddr)> = self.sent.iter().map(|(method, to)| (method.as_str(), *to)).collect();
        assert_eq!(sent, expected);
    }

    /// It is over with this verdict.
    fn assert_told(&self, state: State, text: &str) {
        let report = self.probe.report(self.now);
        assert!(self.probe.is_over(), "{}", report.line());
        assert_eq!((report.state, report.text.as_str()), (state, text));
    }
}

const LEFT: &str = "lost; un-REGISTER is not possible any more";

fn rings(request: &Message<'_>) -> Option<Vec<u8>> {
    match request.method() {
        Method::Invite => Some(reply(request, 180, "")),
        _ => answers(request),
    }
}

fn answers(request: &Message<'_>) -> Option<Vec<u8>> {
    answer_with(request, DESCRIPTION)
}

#[test]
fn a_registrar_that_is_lost_while_registering_ends_the_run() {
    for kind in [Kind::Register, call()] {
        let mut lines = Lines::start(kind, |_| None);
        lines.lose(registrar());
        lines.assert_sent(&[("REGISTER", registrar())]);
        lines.assert_told(State::Critical, "lost");
    }
}

#[test]
fn a_proxy_that_is_lost_while_registering_is_the_end_of_a_call_and_nothing_to_a_registration() {
    // Only the un-REGISTER is answered.
    let script: Script = |request| (request.expires() == Some(0)).then(|| reply(request, 200, ""));
    let mut lines = Lines::start(call(), script);
    lines.lose(pbx());
    lines.assert_sent(&[("REGISTER", registrar()), ("REGISTER", registrar())]);
    lines.assert_told(State::Critical, "lost");
    let mut lines = Lines::start(Kind::Register, |_| None);
    lines.lose(pbx());
    assert!(!lines.probe.is_decided());
    lines.assert_sent(&[("REGISTER", registrar())]);
}

#[test]
fn without_the_proxy_the_binding_is_removed_still() {
    let mut lines = Lines::start(call(), rings);
    lines.lose(pbx());
    lines.assert_sent(&[("REGISTER", registrar()), ("INVITE", pbx()), ("REGISTER", registrar())]);
    lines.assert_told(State::Critical, "lost");
    let mut lines = Lines::start(call(), answers);
    lines.lose(pbx());
    lines.assert_sent(&[("REGISTER", registrar()), ("INVITE", pbx()), ("ACK", pbx()), ("REGISTER", registrar())]);
    lines.assert_told(State::Critical, "lost");
}

#[test]
fn without_the_registrar_the_call_is_taken_back_still() {
    let mut lines = Lines::start(call(), rings);
    lines.lose(registrar());
    lines.assert_sent(&[("REGISTER", registrar()), ("INVITE", pbx()), ("CANCEL", pbx()), ("ACK", pbx())]);
    lines.assert_told(State::Critical, LEFT);
    let mut lines = Lines::start(call(), answers);
    lines.lose(registrar());
    lines.assert_sent(&[("REGISTER", registrar()), ("INVITE", pbx()), ("ACK", pbx()), ("BYE", pbx())]);
    lines.assert_told(State::Critical, LEFT);
}

#[test]
fn a_call_to_the_registrars_own_address_is_hung_up_over_the_connection_that_stands() {
    let mut lines = Lines::start(call(), |request| {
        let answer = answers(request)?;
        let text = String::from_utf8_lossy(&answer).replace("clyde@10.0.0.11:5060", "clyde@10.0.0.20:5061");
        Some(text.into_bytes())
    });
    lines.lose(registrar());
    lines.assert_sent(&[("REGISTER", registrar()), ("INVITE", pbx()), ("ACK", registrar()), ("BYE", pbx())]);
    lines.assert_told(State::Critical, LEFT);
}

#[test]
fn a_proxy_that_closes_after_the_bye_is_no_fault_and_a_registrar_that_does_before_the_end_is_one() {
    let script: Script = |request| if request.expires() == Some(0) { None } else { answers(request) };
    let begin = || {
        let mut lines = Lines::start(call(), script);
        lines.run_until_sent(5);
        let expected =
            [("REGISTER", registrar()), ("INVITE", pbx()), ("ACK", pbx()), ("BYE", pbx()), ("REGISTER", registrar())];
        lines.assert_sent(&expected);
        lines
    };
    let mut lines = begin();
    lines.lose(pbx());
    assert!(!lines.probe.is_decided(), "the un-REGISTER is under way");
    let leaving = parse(&lines.waiting, &Limits::default()).expect("our own messages are well-formed");
    let answer = reply(&leaving, 200, "");
    lines.probe.handle_message(lines.now, registrar(), &answer);
    let report = lines.probe.report(lines.now);
    assert!(lines.probe.is_over());
    assert_eq!(report.state, State::Ok, "{}", report.line());
    let mut lines = begin();
    lines.lose(registrar());
    let report = lines.probe.report(lines.now);
    assert!(lines.probe.is_over());
    assert_eq!(report.state, State::Warning, "{}", report.line());
    assert!(report.text.ends_with("but un-REGISTER was not answered by 10.0.0.20:5061"), "{}", report.text);
}
