//! A name server that says what a script wants, over UDP and TCP at the same port.

use hickory_resolver::proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::{CNAME, NAPTR, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A running server. What its zone does not have does not exist.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    script: Arc<Script>,
    threads: Vec<JoinHandle<()>>,
}

/// What is said on one question.
#[derive(Clone)]
pub(super) enum Reply {
    Records(Vec<Record>),
    /// Over UDP only that there is more.
    Truncated(Vec<Record>),
    Code(ResponseCode),
    /// These octets, after those of the question.
    Octets(Vec<u8>),
}

#[derive(Default)]
struct Script {
    /// By kind and name, as in "SRV _sip._udp.pbx.test".
    zone: Mutex<BTreeMap<String, Reply>>,
    asked: Mutex<Vec<String>>,
    over_tcp: AtomicUsize,
    silent: AtomicBool,
    stop: AtomicBool,
}

impl Server {
    /// At `address`, which is free.
    pub(super) fn start(address: &str) -> Self {
        let address: SocketAddr = address.parse().expect("a valid address");
        let script = Arc::new(Script::default());
        let datagrams = UdpSocket::bind(address).expect("the port is free");
        let listener = TcpListener::bind(address).expect("the port is free");
        let (udp, tcp) = (Arc::clone(&script), Arc::clone(&script));
        let threads = vec![
            thread::spawn(move || serve_datagrams(&udp, &datagrams)),
            thread::spawn(move || serve_streams(&tcp, &listener)),
        ];
        Self { address, script, threads }
    }

    pub(super) fn set(&self, question: &str, reply: Reply) {
        self.script.zone.lock().expect("no thread panicked").insert(question.to_owned(), reply);
    }

    pub(super) fn remove(&self, question: &str) {
        self.script.zone.lock().expect("no thread panicked").remove(question);
    }

    /// The addresses of a name, which hold for so many seconds.
    pub(super) fn addresses(&self, name: &str, ttl: u32, addresses: &[&str]) {
        let records = |is_v4: bool| -> Vec<Record> {
            let addresses = addresses.iter().map(|text| text.parse::<IpAddr>().expect("a valid address"));
            addresses
                .filter(|address| address.is_ipv4() == is_v4)
                .map(|address| record(name, ttl, address.into()))
                .collect()
        };
        self.set(&format!("A {name}"), Reply::Records(records(true)));
        self.set(&format!("AAAA {name}"), Reply::Records(records(false)));
    }

    pub(super) fn be_silent(&self, silent: bool) {
        self.script.silent.store(silent, Ordering::Relaxed);
    }

    /// What was asked since the last time.
    pub(super) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.script.asked.lock().expect("no thread panicked"))
    }

    pub(super) fn over_tcp(&self) -> usize {
        self.script.over_tcp.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.script.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("no thread panicked");
        }
    }
}

impl Script {
    /// The octets that answer a query; none if nothing is said.
    fn reply(&self, query: &[u8], is_stream: bool) -> Option<Vec<u8>> {
        let asked = Message::from_vec(query).ok()?;
        let question: &Query = asked.queries.first()?;
        let name = question.name().to_lowercase().to_ascii();
        let key = format!("{} {}", question.query_type(), name.trim_end_matches('.'));
        let reply = self.zone.lock().expect("no thread panicked").get(&key).cloned();
        self.asked.lock().expect("no thread panicked").push(key);
        if self.silent.load(Ordering::Relaxed) {
            return None;
        }
        let mut message = Message::response(asked.metadata.id, OpCode::Query);
        message.add_query(question.clone());
        match reply {
            None => message.metadata.response_code = ResponseCode::NXDomain,
            Some(Reply::Code(code)) => message.metadata.response_code = code,
            Some(Reply::Truncated(_)) if !is_stream => message.metadata.truncation = true,
            Some(Reply::Records(records) | Reply::Truncated(records)) => {
                message.add_answers(records);
            }
            Some(Reply::Octets(rest)) => {
                let mut octets = message.to_vec().expect("a header and a question fit");
                // As though there were one answer.
                octets[7] = 1;
                octets.extend_from_slice(&rest);
                return Some(octets);
            }
        }
        Some(message.to_vec().expect("the test's records fit"))
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A record of `owner`.
pub(super) fn record(owner: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(name(owner), ttl, data)
}

pub(super) fn srv(priority: u16, weight: u16, port: u16, target: &str) -> RData {
    RData::SRV(SRV::new(priority, weight, port, name(target)))
}

pub(super) fn naptr(order: u16, services: &str, replacement: &str) -> RData {
    let octets = |text: &str| text.as_bytes().to_vec().into_boxed_slice();
    RData::NAPTR(NAPTR::new(order, 0, octets("s"), octets(services), octets(""), name(replacement)))
}

pub(super) fn cname(canonical: &str) -> RData {
    RData::CNAME(CNAME(name(canonical)))
}

fn name(text: &str) -> Name {
    Name::from_ascii(format!("{text}.")).expect("the test's name is well formed")
}

fn serve_datagrams(script: &Script, socket: &UdpSocket) {
    socket.set_read_timeout(Some(TURN)).expect("a valid timeout");
    let mut buffer = [0; 4_096];
    while !script.is_stopped() {
        let Ok((count, client)) = socket.recv_from(&mut buffer) else { continue };
        if let Some(reply) = script.reply(&buffer[..count], false) {
            // Who asked may be gone.
            let _sent = socket.send_to(&reply, client);
        }
    }
}

fn serve_streams(script: &Arc<Script>, listener: &TcpListener) {
    listener.set_nonblocking(true).expect("the socket is open");
    while !script.is_stopped() {
        match listener.accept() {
            Ok((stream, _)) => {
                let script = Arc::clone(script);
                // Ends with the connection.
                thread::spawn(move || serve_stream(&script, stream));
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                thread::sleep(TURN);
            }
        }
    }
}

fn serve_stream(script: &Script, mut stream: TcpStream) {
    stream.set_nonblocking(false).expect("the socket is open");
    let mut length = [0; 2];
    while stream.read_exact(&mut length).is_ok() {
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        if stream.read_exact(&mut query).is_err() {
            return;
        }
        script.over_tcp.fetch_add(1, Ordering::Relaxed);
        if let Some(reply) = script.reply(&query, true) {
            let count = u16::try_from(reply.len()).expect("a reply has 64 KB at most");
            if stream.write_all(&[&count.to_be_bytes()[..], &reply].concat()).is_err() {
                return;
            }
        }
    }
}

const TURN: Duration = Duration::from_millis(10);
