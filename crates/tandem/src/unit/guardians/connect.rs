//! The checks `tcp` and `tls`: a connection is opened, and over TLS the server's certificate verified. Each in a thread of its own that
//! ends with its check.

use net::Clock;
use probe::shell::{Trust, client_config, is_ours};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use sip::Instant;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::Sender;
use std::time::Duration;

/// Where to connect to.
#[derive(Clone, Debug)]
pub(crate) struct Goal {
    pub(crate) address: SocketAddr,
    /// `None`: the connection is all.
    pub(crate) tls: Option<Secured>,
    pub(crate) timeout: Duration,
}

/// What the server's certificate has to be.
#[derive(Clone, Debug)]
pub(crate) struct Secured {
    pub(crate) trust: Trust,
    /// A name, or an address.
    pub(crate) name: String,
}

/// Why a check did not go well.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The other side's, or the network's.
    Theirs(String),
    /// The check could not be made.
    Ours(String),
}

/// What came of a check: its number, and how long it took.
pub(crate) type Connected = (u64, Result<Duration, Fault>);

/// Begins a check; what comes of it goes to `connected`.
///
/// # Errors
/// The system refused a thread.
pub(crate) fn start(number: u64, goal: Goal, connected: Sender<Connected>) -> io::Result<()> {
    let body = move || {
        let outcome = connect(&goal);
        // Who asked may have gone meanwhile.
        let _unheard = connected.send((number, outcome));
    };
    std::thread::Builder::new().name("check".to_owned()).spawn(body).map(drop)
}

fn connect(goal: &Goal) -> Result<Duration, Fault> {
    // Before the time counts: files may be read for it.
    let tls = goal.tls.as_ref().map(client).transpose()?;
    let began = Clock::now();
    let mut stream = TcpStream::connect_timeout(&goal.address, goal.timeout.max(SHORTEST))
        .map_err(|error| of_connecting(goal, &error))?;
    if let Some(mut tls) = tls {
        shake_hands(&mut stream, &mut tls, began + goal.timeout)?;
    }
    Ok(Clock::now().saturating_since(began))
}

fn client(secured: &Secured) -> Result<ClientConnection, Fault> {
    let config = client_config(&secured.trust).map_err(|error| Fault::Ours(error.to_string()))?;
    let name = ServerName::try_from(secured.name.clone())
        .map_err(|_unreadable| Fault::Ours(format!("{} is no name that a certificate could be for", secured.name)))?;
    ClientConnection::new(config, name).map_err(|error| Fault::Ours(error.to_string()))
}

fn shake_hands(stream: &mut TcpStream, tls: &mut ClientConnection, ends: Instant) -> Result<(), Fault> {
    // What is left to say after the handshake belongs to it.
    while tls.is_handshaking() || tls.wants_write() {
        let left = ends.saturating_since(Clock::now());
        if left.is_zero() {
            return Err(Fault::Theirs("the TLS handshake did not end in time".to_owned()));
        }
        stream
            .set_read_timeout(Some(left))
            .and_then(|()| stream.set_write_timeout(Some(left)))
            .map_err(of_handshake)?;
        if tls.wants_write() {
            tls.write_tls(stream).map_err(of_handshake)?;
            continue;
        }
        if tls.read_tls(stream).map_err(of_handshake)? == 0 {
            return Err(Fault::Theirs("the connection was closed in the TLS handshake".to_owned()));
        }
        if let Err(error) = tls.process_new_packets() {
            // The server is told why; whether it listens is no matter.
            let _unsent = tls.write_tls(stream);
            return Err(Fault::Theirs(format!("the TLS handshake failed: {error}")));
        }
    }
    tls.send_close_notify();
    let _unsent = tls.write_tls(stream);
    Ok(())
}

fn of_connecting(goal: &Goal, error: &io::Error) -> Fault {
    let address = goal.address;
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            Fault::Theirs(format!("no connection to {address} within {:?}", goal.timeout))
        }
        io::ErrorKind::ConnectionRefused => Fault::Theirs(format!("nothing listens at {address}")),
        _ if lacks_something(error) => Fault::Ours(format!("cannot connect to {address}: {error}")),
        _ => Fault::Theirs(format!("no connection to {address}: {error}")),
    }
}

fn of_handshake(error: io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            Fault::Theirs("the TLS handshake did not end in time".to_owned())
        }
        _ => Fault::Theirs(format!("the TLS handshake failed: {error}")),
    }
}

/// This machine lacks something: that says nothing of the other one.
fn lacks_something(error: &io::Error) -> bool {
    is_ours(error) || error.kind() == io::ErrorKind::AddrNotAvailable
}

/// The library takes no shorter one.
const SHORTEST: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    fn goal(tls: Option<Secured>) -> Goal {
        Goal { address: SocketAddr::from(([192, 0, 2, 7], 5061)), tls, timeout: Duration::from_millis(1_500) }
    }

    #[test]
    fn what_this_machine_lacks_is_not_held_against_the_other() {
        let fault = |errno: Errno| of_connecting(&goal(None), &io::Error::from(errno));
        let theirs = |text: &str| Fault::Theirs(text.to_owned());
        assert_eq!(fault(Errno::ECONNREFUSED), theirs("nothing listens at 192.0.2.7:5061"));
        assert_eq!(fault(Errno::ETIMEDOUT), theirs("no connection to 192.0.2.7:5061 within 1.5s"));
        assert!(matches!(fault(Errno::EHOSTUNREACH), Fault::Theirs(_)));
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS, Errno::EADDRNOTAVAIL] {
            assert!(matches!(fault(errno), Fault::Ours(_)), "{errno}");
        }
    }

    #[test]
    fn a_check_that_cannot_be_made_is_ours() {
        let secured = |trust: Trust, name: &str| Secured { trust, name: name.to_owned() };
        for (secured, said) in [
            (secured(Trust::File("/nowhere/ca.pem".into()), "pbx.example.com"), "/nowhere/ca.pem"),
            (secured(Trust::Off, "no name"), "no name is no name"),
        ] {
            match connect(&goal(Some(secured))) {
                Err(Fault::Ours(text)) => assert!(text.contains(said), "{text}"),
                other => panic!("{other:?}"),
            }
        }
    }
}
