//! What names mean, within the time that there is: a name server that hangs must not outlast the check.

use super::Refusal;
use super::prepare::{Goal, Place};
use engine::{Answers, Target};
use net::{NameStatus, Names};
use probe::Transport;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// Where the goals are, in their order. `local`: our own address, whose kind theirs must be. True in `stop` ends the wait.
pub(super) fn resolve(
    goals: &[&Goal],
    transport: Transport,
    local: Option<IpAddr>,
    until: Instant,
    stop: &AtomicBool,
) -> Result<Vec<SocketAddr>, Refusal> {
    let targets: Vec<Target> = goals.iter().filter_map(|goal| target(goal, transport)).collect();
    let known = if targets.is_empty() { (Answers::default(), Vec::new()) } else { ask(targets, until, stop)? };
    goals.iter().map(|goal| address(goal, transport, local, &known)).collect()
}

/// In a thread of its own, which nobody waits for after the time is over.
fn ask(targets: Vec<Target>, until: Instant, stop: &AtomicBool) -> Result<(Answers, Vec<NameStatus>), Refusal> {
    let (answer, answers) = mpsc::sync_channel(1);
    let at_most = until.saturating_duration_since(Instant::now());
    let asking = move || {
        let outcome = Names::start(&[], || {}).map(|names| {
            names.follow(targets);
            let _all_are_known = names.settle(at_most);
            (names.answers(), names.status())
        });
        // Fails where nobody waits any more.
        let _too_late = answer.send(outcome);
    };
    let started = thread::Builder::new().name("check-sip names".to_owned()).spawn(asking);
    started.map_err(|error| Refusal::unknown(format!("the system refused a thread: {error}")))?;
    // What was asked in time is told by the thread itself; the rest is for a system that hangs.
    let last = until + GRACE;
    loop {
        match answers.recv_timeout(TICK) {
            Ok(Ok(known)) => return Ok(known),
            Ok(Err(error)) => return Err(Refusal::unknown(error.to_string())),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Refusal::unknown("nobody can be asked for names".to_owned()));
            }
            Err(RecvTimeoutError::Timeout) if stop.load(Ordering::Relaxed) => {
                return Err(Refusal::unknown("interrupted while names were asked for".to_owned()));
            }
            Err(RecvTimeoutError::Timeout) if Instant::now() >= last => {
                return Err(Refusal::critical("the name servers take too long".to_owned()));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

fn address(
    goal: &Goal,
    transport: Transport,
    local: Option<IpAddr>,
    (answers, status): &(Answers, Vec<NameStatus>),
) -> Result<SocketAddr, Refusal> {
    let fits = |address: IpAddr| local.is_none_or(|local| local.is_ipv4() == address.is_ipv4());
    let target = match (&goal.host, target(goal, transport)) {
        (Place::Name(_), Some(target)) => target,
        (Place::Address(address), _) => {
            return Ok(SocketAddr::new(*address, goal.port.unwrap_or(carried(transport).default_port())));
        }
        (Place::Name(name), None) => return Err(Refusal::unknown(format!("{name} is no name"))),
    };
    let places = answers.of(&target);
    if let Some(found) = places.iter().find(|found| fits(found.place.address.ip())) {
        return Ok(found.place.address);
    }
    if !places.is_empty() {
        return Err(Refusal::unknown(format!("{target} has no address of the kind that -L has")));
    }
    let told = target.to_string();
    let failure = status.iter().find(|status| status.name == told).and_then(|status| status.failure.clone());
    let reason = failure.unwrap_or_else(|| "it leads nowhere, or nobody has answered in time".to_owned());
    Err(Refusal::critical(format!("{} is not known: {reason}", target.host)))
}

/// What is to be asked for; nothing for an address.
fn target(goal: &Goal, transport: Transport) -> Option<Target> {
    match &goal.host {
        Place::Address(_) => None,
        Place::Name(name) => Some(Target { host: name.clone(), port: goal.port, transport: Some(carried(transport)) }),
    }
}

fn carried(transport: Transport) -> engine::Transport {
    match transport {
        Transport::Udp => engine::Transport::Udp,
        Transport::Tcp => engine::Transport::Tcp,
        Transport::Tls => engine::Transport::Tls,
        Transport::Ws => engine::Transport::Ws,
        Transport::Wss => engine::Transport::Wss,
    }
}

/// How long after the time the last answer is waited for.
const GRACE: Duration = Duration::from_millis(100);
/// How often a signal is looked for.
const TICK: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;
    use engine::Found;

    fn name(port: Option<u16>) -> Goal {
        Goal { host: Place::Name("pbx.example.com".to_owned()), port }
    }

    #[test]
    fn addresses_are_asked_of_nobody_and_have_the_port_of_their_transport() {
        let goal = |port| Goal { host: Place::Address(IpAddr::from([10, 0, 0, 11])), port };
        let found = |port, transport| {
            let until = Instant::now();
            resolve(&[&goal(port)], transport, None, until, &AtomicBool::new(false)).map_err(|refusal| refusal.text)
        };
        assert_eq!(found(None, Transport::Udp), Ok(vec![SocketAddr::from(([10, 0, 0, 11], 5060))]));
        assert_eq!(found(None, Transport::Tls), Ok(vec![SocketAddr::from(([10, 0, 0, 11], 5061))]));
        assert_eq!(found(Some(5070), Transport::Tls), Ok(vec![SocketAddr::from(([10, 0, 0, 11], 5070))]));
    }

    #[test]
    fn of_several_places_the_first_of_our_kind_is_taken() {
        let place = |address: &str| Found {
            place: engine::Place {
                transport: engine::Transport::Udp,
                address: address.parse().expect("it is an address"),
                host: Some("pbx.example.com".to_owned()),
            },
            priority: 0,
            weight: 0,
        };
        let places = vec![place("[2001:db8::1]:5060"), place("10.0.0.11:5060"), place("10.0.0.12:5060")];
        let target = target(&name(None), Transport::Udp).expect("it is a name");
        let known = (Answers([(target, places)].into_iter().collect()), Vec::new());
        let found = |local: Option<&str>| {
            let local = local.map(|text| text.parse().expect("it is an address"));
            address(&name(None), Transport::Udp, local, &known)
                .map(|found| found.to_string())
                .map_err(|refusal| refusal.text)
        };
        assert_eq!(found(None).as_deref(), Ok("[2001:db8::1]:5060"));
        assert_eq!(found(Some("10.0.0.1")).as_deref(), Ok("10.0.0.11:5060"));
    }

    #[test]
    fn a_name_without_a_place_is_critical_and_says_why() {
        let failed = NameStatus {
            name: "udp:pbx.example.com".to_owned(),
            places: Vec::new(),
            age: None,
            again: Duration::ZERO,
            failure: Some("no such name".to_owned()),
            answers: 0,
            failures: 1,
        };
        let refused = |status| {
            let outcome = address(&name(None), Transport::Udp, None, &(Answers::default(), status));
            outcome.map_err(|refusal| (refusal.state, refusal.text)).expect_err("nothing is known of it")
        };
        let told = "pbx.example.com is not known: no such name".to_owned();
        assert_eq!(refused(vec![failed]), (probe::State::Critical, told));
        assert!(refused(Vec::new()).1.contains("nobody has answered in time"));
    }
}
