//! The demo: two PBXs as processes of their own, two phones and the balancer in this one, all on loopback.
//!
//! ```text
//!   places      who is where, on ports that are free
//!   boxes, pbx  the two processes, and what each of them does
//!   balancer    the engine and its sockets, on a configuration as anybody would write it; certificate: what it shows over TLS
//!   phone       a user agent; line: its signalling, by datagrams or over TLS; stream: the audio of one call
//!   call        what happened to one call, and whether it went well
//!   stage       the loop that drives phones and calls; screen: what is seen; pcap: what is written down
//! ```
#![allow(
    clippy::disallowed_methods,
    reason = "the demo is a shell around the pure crates: it owns sockets, threads and clocks"
)]

mod balancer;
mod boxes;
mod call;
mod certificate;
mod line;
mod pbx;
mod pcap;
mod phone;
mod places;
mod screen;
mod stage;
mod stream;

pub(crate) use pbx::run as run_pbx;

use anyhow::{Context, Result};
use balancer::Balancer;
use boxes::Boxes;
use certificate::Certificate;
use pcap::Capture;
use places::Places;
use screen::Screen;
use stage::Stage;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::time::Duration;

/// What the command line asks for.
pub(crate) struct Options {
    /// `None`: until Ctrl-C.
    pub(crate) calls: Option<u32>,
    pub(crate) stops: Vec<Stop>,
    pub(crate) pcap: Option<PathBuf>,
    /// `None`: the first one that is free.
    pub(crate) port_base: Option<u16>,
}

/// A PBX to be killed, and when, from the start on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Stop {
    pub(crate) name: String,
    pub(crate) after: Duration,
}

/// A user of both PBXs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) password: String,
}

/// Somebody with a phone of ours.
struct Person {
    user: &'static str,
    display: &'static str,
    password: &'static str,
    /// The phone speaks to the balancer over TLS, not by datagrams.
    is_over_tls: bool,
    /// The tone that he speaks.
    hertz: f64,
}

/// Plays the demo. True if all calls went well; those that were up or being set up while a PBX was killed do not count.
pub(crate) fn run(options: Options) -> Result<bool> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).context("cannot listen for signals")?;
    }
    let places = Places::find(options.port_base)?;
    let capture = match &options.pcap {
        Some(path) => Some(Arc::new(Capture::create(path)?)),
        None => None,
    };
    let mut screen = Screen::new();
    screen.header(&places, options.pcap.as_deref());
    // Its file is gone only after the balancer, which looks after it.
    let certificate = Certificate::make(places.farm_tls.ip())?;
    let (told, news) = mpsc::channel();
    let boxes = Boxes::start(&places, &told)?;
    let balancer = Balancer::start(&places, &certificate, capture.clone(), told)?;
    let phones = phone::open_both(&places, &certificate, capture.as_ref())?;
    for (person, phone) in PEOPLE.iter().zip(&phones) {
        if let Some(version) = phone.tls_version() {
            screen.note(&format!("{}'s phone is connected over {version}", person.display));
        }
    }
    let mut stage = Stage::new(phones, boxes, balancer, news, options.stops, interrupted, screen)?;
    let result = stage.play(options.calls);
    stage.leave();
    // The workers write to the capture until they have ended.
    drop(stage);
    if let Some(capture) = capture {
        capture.finish()?;
    }
    result
}

impl FromStr for Stop {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, seconds) = text.split_once('@').ok_or_else(|| "expected PBX@SECONDS, e.g. pbx1@4".to_owned())?;
        if !BOXES.contains(&name) {
            return Err(format!("no PBX is called \"{name}\": there are {}", BOXES.join(" and ")));
        }
        let seconds: f64 = seconds.parse().map_err(|_| format!("\"{seconds}\" is no number of seconds"))?;
        let after =
            Duration::try_from_secs_f64(seconds).map_err(|_| format!("{seconds} s is no time from the start"))?;
        Ok(Self { name: name.to_owned(), after })
    }
}

impl FromStr for User {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, password) = text.split_once(':').ok_or_else(|| "expected NAME:PASSWORD".to_owned())?;
        Ok(Self { name: name.to_owned(), password: password.to_owned() })
    }
}

/// The PBXs' names.
const BOXES: [&str; 2] = ["pbx1", "pbx2"];
/// The users' domain, besides the balancer's address.
const DOMAIN: &str = "example.com";
/// The two with phones of ours. They call each other in turn.
static PEOPLE: [Person; 2] = [
    Person { user: "bonnie", display: "Bonnie", password: "bonnies-secret", is_over_tls: true, hertz: 440.0 },
    Person { user: "clyde", display: "Clyde", password: "clydes-secret", is_over_tls: false, hertz: 880.0 },
];
/// For anybody's softphone: name and password.
const GUEST: (&str, &str) = ("guest", "welcome");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_names_a_box_and_a_time() {
        assert_eq!("pbx1@4".parse::<Stop>(), Ok(Stop { name: "pbx1".to_owned(), after: Duration::from_secs(4) }));
        assert_eq!("pbx2@0.5".parse::<Stop>().map(|stop| stop.after), Ok(Duration::from_millis(500)));
        for wrong in ["pbx1", "pbx3@4", "pbx1@", "pbx1@soon", "pbx1@-1", "pbx1@inf", "@4"] {
            assert!(wrong.parse::<Stop>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_user_may_have_any_password() {
        let user: User = "guest:a:b".parse().expect("a colon separates name and password");
        assert_eq!((user.name.as_str(), user.password.as_str()), ("guest", "a:b"));
        assert!("guest".parse::<User>().is_err());
    }
}
