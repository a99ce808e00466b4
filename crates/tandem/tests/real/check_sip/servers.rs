//! The other sides: sipp with the scenarios of `data/check_sip`, Kamailio, a far end by Net::SIP, silence, and nobody.

use crate::common::kamailio::{self, Server as Registrar};
use crate::common::{Process, await_bound, sipp};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What stands at port 5060 of the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Server {
    Sipp(Scenario),
    /// Debian's Kamailio asks for a password; behind it a sipp answers and echoes.
    Kamailio,
    /// Net::SIP answers and echoes.
    FarEnd,
    /// Somebody takes datagrams and says nothing.
    Silent,
    Closed,
}

/// A file of `data/check_sip` and what is put into it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Scenario {
    name: &'static str,
    /// Of its one answer that differs from case to case.
    status: &'static str,
    /// A whole line of that answer; may be empty.
    header: &'static str,
    /// Payload type and name.
    codec: (&'static str, &'static str),
    media: Media,
}

/// What becomes of audio that comes to port 6000 of the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Media {
    Echo,
    Silence,
    Closed,
}

/// Where one case is tried.
pub(super) struct Place {
    /// Host of the server.
    pub(super) peer: String,
    /// Host of what stands behind the server, if anything does.
    pub(super) beside: String,
}

/// A server at work. Stops when dropped.
pub(super) struct Running {
    processes: Vec<Process>,
    _sockets: Vec<UdpSocket>,
    /// Where sipp tells what it did not expect.
    surprises: Option<PathBuf>,
}

impl Server {
    /// Registers, rings, answers, and says 200 to BYE.
    pub(super) const fn answers(media: Media) -> Self {
        Self::Sipp(Scenario::answering(media))
    }

    pub(super) const fn answers_with_pcma() -> Self {
        Self::Sipp(Scenario { name: "answers", status: "200 OK", header: "", codec: PCMA, media: Media::Silence })
    }

    pub(super) const fn answers_and_says_to_bye(status: &'static str) -> Self {
        Self::Sipp(Scenario { name: "answers", status, header: "", codec: PCMU, media: Media::Echo })
    }

    pub(super) const fn refuses(status: &'static str, header: &'static str) -> Self {
        Self::Sipp(Scenario { name: "refuses", status, header, codec: PCMU, media: Media::Closed })
    }

    pub(super) const fn refuses_register(status: &'static str) -> Self {
        Self::Sipp(Scenario { name: "refuses_register", status, header: "", codec: PCMU, media: Media::Closed })
    }

    /// A scenario that has one form only.
    pub(super) const fn plays(name: &'static str, media: Media) -> Self {
        Self::Sipp(Scenario { name, status: "200 OK", header: "", codec: PCMU, media })
    }

    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// If it does not, with what it said.
    pub(super) fn start(self, folder: &Path, place: &Place) -> Running {
        let Place { peer, beside } = place;
        match self {
            Self::Sipp(scenario) => scenario.start(folder, peer),
            Self::Kamailio => {
                let mut running = Scenario::answering(Media::Echo).start(folder, beside);
                let name = format!("kamailio-{peer}");
                let registrar = Registrar { name: &name, realm: "pbx", host: peer, farm: beside, users: "bonnie" };
                running.processes.push(kamailio::start(folder, &registrar));
                running
            }
            Self::FarEnd => {
                let mut command = Command::new("perl");
                command.arg(data().join("echo.pl")).arg(peer);
                let process = Process::start(&mut command, &format!("far-end-{peer}"), folder);
                await_bound(&process, &format!("{peer}:{SIGNALLING}"));
                Running { processes: vec![process], _sockets: Vec::new(), surprises: None }
            }
            Self::Silent => {
                Running { processes: Vec::new(), _sockets: vec![socket(peer, SIGNALLING)], surprises: None }
            }
            Self::Closed => Running { processes: Vec::new(), _sockets: Vec::new(), surprises: None },
        }
    }
}

impl Scenario {
    const fn answering(media: Media) -> Self {
        Self { name: "answers", status: "200 OK", header: "", codec: PCMU, media }
    }

    fn start(self, folder: &Path, host: &str) -> Running {
        let file = folder.join(format!("{}-{host}.xml", self.name));
        let surprises = folder.join(format!("{}-{host}.surprises", self.name));
        std::fs::write(&file, self.text()).expect("the folder is ours");
        let told = surprises.to_str().expect("the system's folder has a plain name");
        let common = ["-mi", host, "-default_behaviors", "all,-bye", "-trace_err", "-error_file", told];
        let is_echo = self.media == Media::Echo;
        // It may open its port for audio even if it is to do nothing there.
        let audio: &[&str] = if is_echo { &["-mp", "6000", "-rtp_echo"] } else { &["-mp", "7000"] };
        let sockets = if self.media == Media::Silence { vec![socket(host, AUDIO)] } else { Vec::new() };
        let (name, at) = (format!("{}-{host}", self.name), format!("{host}:{SIGNALLING}"));
        let process = sipp::serve(folder, &file, &name, &at, &[&common[..], audio].concat());
        if is_echo {
            await_bound(&process, &format!("{host}:{AUDIO}"));
        }
        Running { processes: vec![process], _sockets: sockets, surprises: Some(surprises) }
    }

    fn text(self) -> String {
        let file = data().join(format!("{}.xml", self.name));
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let header = if self.header.is_empty() { String::new() } else { format!("{}\n", self.header) };
        let (head, scenario) = text.split_once("<scenario").expect("every file has one");
        let (number, codec) = self.codec;
        // What stands in the comment at the top is for readers.
        let scenario = scenario
            .replace("STATUS", self.status)
            .replace("HEADER\n", &header)
            .replace("NUMBER", number)
            .replace("CODEC", codec);
        format!("{head}<scenario{scenario}")
    }
}

impl Running {
    /// What the server did not expect, or waited for in vain.
    pub(super) fn surprise(&self) -> Option<String> {
        let told = std::fs::read_to_string(self.surprises.as_ref()?).ok()?;
        let mut lines = told.lines();
        lines.find(|line| line.contains("nexpected") || line.contains("timeout on message")).map(str::to_owned)
    }
}

pub(super) fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/data/check_sip")
}

/// Takes datagrams, and is never read.
fn socket(host: &str, port: u16) -> UdpSocket {
    UdpSocket::bind((host, port)).unwrap_or_else(|error| panic!("{host}:{port}: {error}"))
}

const PCMU: (&str, &str) = ("0", "PCMU");
const PCMA: (&str, &str) = ("8", "PCMA");
const SIGNALLING: u16 = 5060;
const AUDIO: u16 = 6000;
