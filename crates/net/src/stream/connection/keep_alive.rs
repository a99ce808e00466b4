//! Pings of ours: whom we ask for a sign of life, when, and what follows if none comes.
//!
//! | peer | asked after silence of | no sign of life within 10 s |
//! |---|---|---|
//! | a server that the settings name, on a connection that we opened | half of `idle`, 120 s at most | the connection ends |
//! | the same, and it has never answered a ping | the same | it is asked no more |
//! | a browser | half of `idle`, 25 s at most | the connection ends |
//! | any other | never | |
//!
//! Towards a server we are the client, whose part this is (RFC 5626 §4.4.1); other clients keep their connections alive themselves. Not
//! every server knows these pings, and TCP looks after those that do not. A browser cannot ping by itself, and must answer (RFC 6455
//! §5.5.2). Whatever comes is a sign of life. That of a dozing connection may be noticed some seconds late, but never after it was due:
//! what is judged was read just before.

use sip::Instant;
use std::time::Duration;

/// The pings of one connection.
pub(super) struct KeepAlive {
    peer: Peer,
    /// When the ping left that nothing has followed yet.
    asked: Option<Instant>,
}

/// What is to be done when [`KeepAlive::due`] is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Ping,
    /// No answer is awaited any more.
    Forget,
    /// The peer is gone.
    End,
}

enum Peer {
    Client,
    Browser,
    Server {
        /// The settings name it.
        kept: bool,
        pongs: Pongs,
    },
}

/// What is known of a server's answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pongs {
    Unknown,
    Given,
    /// The first ping stayed unanswered.
    Never,
}

impl KeepAlive {
    /// Of an accepted connection.
    pub(super) fn accepted(is_web_socket: bool) -> Self {
        Self { peer: if is_web_socket { Peer::Browser } else { Peer::Client }, asked: None }
    }

    /// Of one that we opened. Nobody is asked before [`KeepAlive::keep`].
    pub(super) fn opened() -> Self {
        Self { peer: Peer::Server { kept: false, pongs: Pongs::Unknown }, asked: None }
    }

    /// Whether the settings name the server at the other end; of an accepted connection that says nothing.
    pub(super) fn keep(&mut self, wanted: bool) {
        if let Peer::Server { kept, .. } = &mut self.peer {
            *kept = wanted;
        }
    }

    /// When the next step is due. `heard`: when octets came last. `blocked`: what left before still waits in our queue, and a ping
    /// would wait behind it.
    pub(super) fn due(&self, heard: Instant, idle: Duration, blocked: bool) -> Option<Instant> {
        if let Some(asked) = self.asked {
            return Some(asked + PONG_WITHIN);
        }
        let silence = match self.peer {
            _ if blocked => return None,
            Peer::Browser => BROWSER_SILENCE,
            Peer::Server { kept: true, pongs: Pongs::Unknown | Pongs::Given } => SERVER_SILENCE,
            Peer::Client | Peer::Server { .. } => return None,
        };
        Some(heard + silence.min(idle / 2))
    }

    /// Takes the step that is due.
    pub(super) fn step(&mut self, now: Instant) -> Step {
        if self.asked.take().is_none() {
            self.asked = Some(now);
            return Step::Ping;
        }
        match &mut self.peer {
            Peer::Server { pongs, .. } if *pongs != Pongs::Given => {
                *pongs = Pongs::Never;
                Step::Forget
            }
            _ => Step::End,
        }
    }

    /// Octets came. `pong`: among them an answer to a ping.
    pub(super) fn heard(&mut self, pong: bool) {
        self.asked = None;
        if let (true, Peer::Server { pongs, .. }) = (pong, &mut self.peer) {
            *pongs = Pongs::Given;
        }
    }
}

/// RFC 5626 §4.4.1.
const PONG_WITHIN: Duration = Duration::from_secs(10);
const SERVER_SILENCE: Duration = Duration::from_secs(120);
/// Some NATs and reverse proxies forget a connection after 30 s of silence. It is 25 s where the last sign of life was noticed late.
const BROWSER_SILENCE: Duration = Duration::from_secs(21);

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(900);
    const HEARD: Instant = Instant::from_micros(1_000_000);

    fn silence(keep_alive: &KeepAlive, idle: Duration) -> Option<Duration> {
        keep_alive.due(HEARD, idle, false).map(|due| due.saturating_since(HEARD))
    }

    fn kept() -> KeepAlive {
        let mut keep_alive = KeepAlive::opened();
        keep_alive.keep(true);
        keep_alive
    }

    #[test]
    fn only_browsers_and_servers_of_the_settings_are_asked() {
        assert_eq!(silence(&KeepAlive::accepted(false), IDLE), None);
        assert_eq!(silence(&KeepAlive::opened(), IDLE), None);
        assert_eq!(silence(&kept(), IDLE), Some(SERVER_SILENCE));
        assert_eq!(silence(&KeepAlive::accepted(true), IDLE), Some(BROWSER_SILENCE));
        // Before the connection is closed for being idle.
        let idle = Duration::from_secs(20);
        assert_eq!(silence(&kept(), idle), Some(Duration::from_secs(10)));
        assert_eq!(silence(&KeepAlive::accepted(true), idle), Some(Duration::from_secs(10)));
        let mut left = kept();
        left.keep(false);
        assert_eq!(silence(&left, IDLE), None);
        assert_eq!(kept().due(HEARD, IDLE, true), None, "a ping would wait behind what waits already");
    }

    #[test]
    fn a_server_that_answered_once_must_go_on_with_it() {
        let mut server = kept();
        assert_eq!(server.step(HEARD), Step::Ping);
        assert_eq!(silence(&server, IDLE), Some(PONG_WITHIN));
        server.heard(true);
        assert_eq!(silence(&server, IDLE), Some(SERVER_SILENCE));
        assert_eq!((server.step(HEARD), server.step(HEARD)), (Step::Ping, Step::End));
    }

    #[test]
    fn a_server_that_never_answers_is_asked_once() {
        let mut server = kept();
        assert_eq!((server.step(HEARD), server.step(HEARD)), (Step::Ping, Step::Forget));
        server.heard(false);
        server.keep(true);
        assert_eq!(silence(&server, IDLE), None);
        // What else it sends is no pong, but a sign of life.
        let mut server = kept();
        assert_eq!(server.step(HEARD), Step::Ping);
        server.heard(false);
        assert_eq!((server.step(HEARD), server.step(HEARD)), (Step::Ping, Step::Forget));
    }

    #[test]
    fn a_browser_must_answer() {
        let mut browser = KeepAlive::accepted(true);
        assert_eq!(browser.step(HEARD), Step::Ping);
        browser.heard(true);
        assert_eq!((browser.step(HEARD), browser.step(HEARD)), (Step::Ping, Step::End));
    }
}
