//! The four transaction machines, driven side by side on one clock as their owners drive them.

use sip::Instant;
use sip::transaction::{
    ClientAction, InviteClient, InviteServer, Link, OtherClient, OtherServer, ServerAction, Timing,
};
use std::time::Duration;

/// Reads `bytes` as a script: the first octet chooses the link, every further pair is an event and its operand.
///
/// | first octet modulo 6 | event | operand |
/// |---|---|---|
/// | 0 | the owner was away for a while, late timers fire once | its square in milliseconds |
/// | 1 | time passes, each timer fires at its moment | its square in milliseconds |
/// | 2 | a response comes, or is to be sent | thrice it, from 90, is the status code |
/// | 3 | the request comes again | |
/// | 4 | an ACK comes | |
/// | 5 | the next timer fires | |
///
/// # Panics
/// If a machine wants to be woken in the past, comes back from its end, or never ends.
pub fn transaction(bytes: &[u8]) {
    let Some((first, events)) = bytes.split_first() else {
        return;
    };
    let link = if first & 1 == 0 { Link::Datagram } else { Link::Stream };
    let start = Instant::from_micros(u64::from(*first) * 1_000);
    let mut bench = Machines::new(start, link);
    for event in events.chunks_exact(2) {
        if let [kind, operand] = event {
            bench.run(*kind, *operand);
        }
    }
    bench.finish();
}

struct Machines {
    now: Instant,
    link: Link,
    machines: [Machine; 4],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Machine {
    InviteClient(InviteClient),
    OtherClient(OtherClient),
    InviteServer(InviteServer),
    OtherServer(OtherServer),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Action {
    Client(ClientAction),
    Server(ServerAction),
}

/// What happens to a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    Timer,
    Code(u16),
    Request,
    Ack,
}

impl Machines {
    fn new(now: Instant, link: Link) -> Self {
        let machines = [
            Machine::InviteClient(InviteClient::start(now, link, &TIMING)),
            Machine::OtherClient(OtherClient::start(now, link, &TIMING)),
            Machine::InviteServer(InviteServer::start(link)),
            Machine::OtherServer(OtherServer::start(link)),
        ];
        Self { now, link, machines }
    }

    fn run(&mut self, kind: u8, operand: u8) {
        let operand = u64::from(operand);
        let time = Duration::from_millis(operand * operand);
        match kind % 6 {
            0 => {
                self.now += time;
                self.tell(Event::Timer);
            }
            1 => self.walk(self.now + time),
            2 => self.tell(Event::Code(90 + 3 * operand as u16)),
            3 => self.tell(Event::Request),
            4 => self.tell(Event::Ack),
            _ => {
                if let Some(deadline) = self.deadline() {
                    self.walk(deadline);
                }
            }
        }
    }

    /// Every machine answered, acknowledged and left alone comes to its end.
    fn finish(&mut self) {
        self.tell(Event::Code(486));
        self.tell(Event::Ack);
        let start = self.now;
        self.walk(start + LONGEST);
        for machine in &self.machines {
            assert!(machine.is_terminated(), "{machine:?} does not end");
        }
        assert_eq!(self.deadline(), None);
    }

    /// Moves the clock from deadline to deadline.
    fn walk(&mut self, end: Instant) {
        let mut wakes = 0;
        while let Some(deadline) = self.deadline().filter(|deadline| *deadline <= end) {
            wakes += 1;
            assert!(wakes < 100, "{:?} want to be woken again and again", self.machines);
            self.now = deadline.max(self.now);
            self.tell(Event::Timer);
        }
        self.now = end;
    }

    fn deadline(&self) -> Option<Instant> {
        self.machines.iter().filter_map(Machine::deadline).min()
    }

    /// Tells every machine, and judges what it makes of it.
    fn tell(&mut self, event: Event) {
        for machine in &mut self.machines {
            let (next, action) = machine.on(self.now, event);
            judge(self.now, self.link, event, (*machine, next), action);
            *machine = next;
        }
    }
}

impl Machine {
    fn on(self, now: Instant, event: Event) -> (Self, Action) {
        match self {
            Self::InviteClient(machine) => {
                let (next, action) = match event {
                    Event::Timer => machine.on_timer(now, &TIMING),
                    Event::Code(code) => machine.on_response(now, code, &TIMING),
                    Event::Request | Event::Ack => (machine, ClientAction::None),
                };
                (Self::InviteClient(next), Action::Client(action))
            }
            Self::OtherClient(machine) => {
                let (next, action) = match event {
                    Event::Timer => machine.on_timer(now, &TIMING),
                    Event::Code(code) => machine.on_response(now, code, &TIMING),
                    Event::Request | Event::Ack => (machine, ClientAction::None),
                };
                (Self::OtherClient(next), Action::Client(action))
            }
            Self::InviteServer(machine) => {
                let (next, action) = match event {
                    Event::Timer => machine.on_timer(now, &TIMING),
                    Event::Code(code) => machine.on_send_response(now, code, &TIMING),
                    Event::Request => machine.on_request(),
                    Event::Ack => machine.on_ack(now, &TIMING),
                };
                (Self::InviteServer(next), Action::Server(action))
            }
            Self::OtherServer(machine) => {
                let (next, action) = match event {
                    Event::Timer => machine.on_timer(now, &TIMING),
                    Event::Code(code) => machine.on_send_response(now, code, &TIMING),
                    Event::Request => machine.on_request(),
                    Event::Ack => (machine, ServerAction::Absorb),
                };
                (Self::OtherServer(next), Action::Server(action))
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::InviteClient(machine) => machine.deadline(),
            Self::OtherClient(machine) => machine.deadline(),
            Self::InviteServer(machine) => machine.deadline(),
            Self::OtherServer(machine) => machine.deadline(),
        }
    }

    fn is_terminated(&self) -> bool {
        match self {
            Self::InviteClient(machine) => machine.is_terminated(),
            Self::OtherClient(machine) => machine.is_terminated(),
            Self::InviteServer(machine) => machine.is_terminated(),
            Self::OtherServer(machine) => machine.is_terminated(),
        }
    }

    fn is_pending(&self) -> bool {
        match self {
            Self::InviteClient(machine) => machine.is_pending(),
            Self::OtherClient(machine) => machine.is_pending(),
            Self::InviteServer(machine) => machine.is_pending(),
            Self::OtherServer(machine) => machine.is_pending(),
        }
    }
}

impl Action {
    /// The transaction does nothing for the event.
    fn is_idle(self) -> bool {
        let idle = [
            Self::Client(ClientAction::None),
            Self::Client(ClientAction::Absorb),
            Self::Server(ServerAction::None),
            Self::Server(ServerAction::Absorb),
        ];
        idle.contains(&self)
    }

    fn is_retransmission(self) -> bool {
        [Self::Client(ClientAction::Retransmit), Self::Server(ServerAction::Retransmit)].contains(&self)
    }
}

/// One step of one machine, from the first state to the second.
fn judge(now: Instant, link: Link, event: Event, (before, after): (Machine, Machine), action: Action) {
    let step = || format!("{before:?} at {now:?} on {event:?}: {action:?} and {after:?}");
    assert!(!before.is_terminated() || (after == before && action.is_idle()), "not over: {}", step());
    assert!(!after.is_pending() || before.is_pending(), "pending again: {}", step());
    assert!(after.deadline().is_none_or(|deadline| deadline >= now), "woken in the past: {}", step());
    assert!(!after.is_terminated() || after.deadline().is_none(), "woken after the end: {}", step());
    if event != Event::Timer {
        return;
    }
    assert!(after.deadline().is_none_or(|deadline| deadline > now), "a timer that fired is still due: {}", step());
    assert!(link == Link::Datagram || !action.is_retransmission(), "a stream retransmits: {}", step());
    let due = before.deadline().is_some_and(|deadline| deadline <= now);
    assert!(due || (after == before && action.is_idle()), "an early timer did something: {}", step());
}

const TIMING: Timing = Timing::DEFAULT;
/// Two of the longest timers of §17 in a row, and one second.
const LONGEST: Duration = Duration::from_secs(65);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_events_holds_the_promises() {
        for link in 0..2 {
            for (one, other) in (0..36_u8).map(|pair| (pair / 6, pair % 6)) {
                for operand in [0, 4, 40, 180, 255] {
                    transaction(&[link, one, operand, other, operand, 1, 30]);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "woken in the past")]
    fn a_deadline_in_the_past_is_noticed() {
        let now = Instant::from_micros(9_000_000);
        let start = Instant::from_micros(0);
        let machine = Machine::OtherClient(OtherClient::start(start, Link::Datagram, &TIMING));
        judge(now, Link::Datagram, Event::Request, (machine, machine), Action::Client(ClientAction::None));
    }
}
