//! What is measured. One more peer is one more entry here: a command and the text of its configuration.

use super::process::{self, Running};
use super::{BALANCER, BALANCER_CORE, CALLEE, RELAY_CALLEE_SIDE, SECURE};
use crate::peers;
use anyhow::{Context, Result};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// The name of the raw relay, to which all others are compared.
pub(super) const RELAY: &str = "raw relay";
pub(super) const STATEFUL: &str = "tandem stateful";
pub(super) const STATELESS: &str = "tandem stateless";
pub(super) const KAMAILIO_STATEFUL: &str = "kamailio stateful";
pub(super) const STREAMS: &str = "tandem";
pub(super) const KAMAILIO_STREAMS: &str = "kamailio";

/// The configuration of tandem, in its folder.
const CONFIG: &str = "tandem.toml";

const PORT: u16 = 5060;

/// With room for the transactions that wait for retransmissions, 32 s each: the peak shall be that of the program, not of this bound.
const TANDEM_STATEFUL: &str = r#"[unit]
state_dir = "FOLDER"
workers = PROCESSES

[limits]
transactions = 10000000

[[farm]]
name = "bench"
listen = ["udp:LISTEN"]

[[farm.backend]]
address = "CALLEE"
"#;

const TANDEM_STATELESS: &str = r#"[unit]
state_dir = "FOLDER"
workers = PROCESSES

[[farm]]
name = "bench"
listen = ["udp:LISTEN"]
transactions = "stateless"
registrations = "off"

[[farm.service]]
name = "default"
algorithm = "hash-call-id"
persistence = "none"

[[farm.backend]]
address = "CALLEE"
"#;

/// Every phone of these measurements has the same address: behind it is a whole office.
const TANDEM_STREAMS: &str = r#"[unit]
state_dir = "FOLDER"
workers = PROCESSES

[limits]
transactions = 10000000
connections_per_source = 100000

[[farm]]
name = "bench"
listen = ["udp:LISTEN", "tcp:LISTEN", "tls:SECURE"]
certificates = ["FOLDER/server.pem"]

[[farm.backend]]
address = "CALLEE"
"#;

/// Open files of a program with many connections.
const DESCRIPTORS: u32 = 65_536;

/// A program that relays calls from the generator's one end to its other.
pub(super) struct Subject {
    pub(super) name: String,
    program: PathBuf,
    arguments: Vec<String>,
    /// Where its files are, made before it starts.
    folder: PathBuf,
    /// Names and texts, with FOLDER, LISTEN, SECURE, CALLEE and PROCESSES still to be replaced.
    files: Vec<(&'static str, &'static str)>,
    /// Children of Kamailio, workers of tandem.
    processes: u32,
    /// Where it may run.
    cores: &'static str,
    /// Open files that it may have; `None`: as many as we.
    descriptors: Option<u32>,
}

/// Everything that can be measured on this machine, the relay first. `own` is this program, beside which tandem was built.
pub(super) fn all(own: &Path, folder: &Path, children: &[u32]) -> Vec<Subject> {
    let tandem = own.with_file_name("tandem");
    let mut subjects = vec![
        relay(own, folder),
        balancer(STATEFUL, &tandem, folder, TANDEM_STATEFUL),
        balancer(STATELESS, &tandem, folder, TANDEM_STATELESS),
    ];
    let Some(kamailio) = peers::find("kamailio") else {
        println!("kamailio is not installed and not measured");
        return subjects;
    };
    for (kind, config) in [
        ("kamailio stateless", include_str!("kamailio-stateless.cfg")),
        (KAMAILIO_STATEFUL, include_str!("kamailio-stateful.cfg")),
    ] {
        for count in children {
            subjects.push(peer(kind, &kamailio, folder, config, *count));
        }
    }
    subjects
}

/// Tandem with transactions and so many workers on those cores; `own` as in [`all`].
pub(super) fn stateful(own: &Path, folder: &Path, workers: u32, cores: &'static str) -> Subject {
    let subject = balancer(STATEFUL, &own.with_file_name("tandem"), folder, TANDEM_STATEFUL);
    let plural = if workers == 1 { "worker" } else { "workers" };
    let name = format!("{STATEFUL}, {workers} {plural}");
    Subject { name, folder: folder.join(format!("tandem-{workers}-workers")), processes: workers, cores, ..subject }
}

/// Tandem on UDP, TCP and TLS, with one worker. The certificate is to be written into its folder as `server.pem`, with its key.
pub(super) fn streaming(own: &Path, folder: &Path) -> Subject {
    let subject = balancer(STREAMS, &own.with_file_name("tandem"), folder, TANDEM_STREAMS);
    Subject { descriptors: Some(DESCRIPTORS), ..subject }
}

/// Kamailio with transactions on UDP and TCP, and on TLS if that is installed; `None` without Kamailio. The certificate is to be written
/// into its folder as `server.pem`, the key as `server-key.pem`.
pub(super) fn streaming_peer(folder: &Path, children: u32) -> Option<Subject> {
    let kamailio = peers::find("kamailio")?;
    let mut subject = peer(KAMAILIO_STREAMS, &kamailio, folder, include_str!("kamailio-streams.cfg"), children);
    if peers::find(peers::KAMAILIO_TLS).is_some() {
        subject.arguments.extend(["-A".to_string(), "WITH_TLS".to_string()]);
    }
    Some(Subject { descriptors: Some(DESCRIPTORS), ..subject })
}

/// The name without the variant: `kamailio stateful` of `kamailio stateful, 2 children`.
pub(super) fn family(name: &str) -> &str {
    name.split_once(',').map_or(name, |(family, _)| family)
}

impl Subject {
    /// Where its files are, tandem's state among them.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where tandem's configuration is.
    pub(super) fn config_path(&self) -> PathBuf {
        self.folder.join(CONFIG)
    }

    /// Tandem's configuration; "" for what has none.
    pub(super) fn config_text(&self) -> String {
        let written = self.files.iter().find(|(name, _)| *name == CONFIG);
        written.map(|(_, text)| self.filled_in(text)).unwrap_or_default()
    }

    /// Starts it on its cores; returns when it listens.
    pub(super) fn start(&self) -> Result<Running> {
        std::fs::create_dir_all(&self.folder)?;
        for (name, text) in &self.files {
            std::fs::write(self.folder.join(name), self.filled_in(text))?;
        }
        let path = self.folder.join("log");
        let log = File::create(&path)?;
        let child = process::taskset(self.descriptors)
            .args(["-c", self.cores])
            .arg(&self.program)
            .args(self.arguments.iter().map(|argument| self.filled_in(argument)))
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start taskset (package util-linux)")?;
        Running::wait_for_port(child, &path, PORT)
    }

    fn filled_in(&self, text: &str) -> String {
        text.replace("FOLDER", &self.folder.to_string_lossy())
            .replace("LISTEN", BALANCER)
            .replace("SECURE", SECURE)
            .replace("CALLEE", CALLEE)
            .replace("PROCESSES", &self.processes.to_string())
    }
}

/// The raw relay; `own` is this program.
pub(super) fn relay(own: &Path, folder: &Path) -> Subject {
    let arguments = ["relay", "--listen", "LISTEN", "--callee-side", RELAY_CALLEE_SIDE, "--callee", "CALLEE"];
    Subject {
        name: RELAY.to_string(),
        program: own.to_path_buf(),
        arguments: arguments.map(String::from).to_vec(),
        folder: folder.join("relay"),
        files: Vec::new(),
        processes: 1,
        cores: BALANCER_CORE,
        descriptors: None,
    }
}

fn balancer(name: &str, program: &Path, folder: &Path, config: &'static str) -> Subject {
    let arguments = ["run", "--config", "FOLDER/tandem.toml"];
    Subject {
        name: name.to_string(),
        program: program.to_path_buf(),
        arguments: arguments.map(String::from).to_vec(),
        folder: folder.join(name.replace(' ', "-")),
        files: vec![(CONFIG, config)],
        processes: 1,
        cores: BALANCER_CORE,
        descriptors: None,
    }
}

fn peer(kind: &str, program: &Path, folder: &Path, config: &'static str, children: u32) -> Subject {
    // In the foreground, with room for the transactions of the whole measurement.
    let arguments = ["-DD", "-f", "FOLDER/kamailio.cfg", "-Y", "FOLDER", "-m", "512", "-M", "16"];
    let plural = if children == 1 { "child" } else { "children" };
    Subject {
        name: format!("{kind}, {children} {plural}"),
        program: program.to_path_buf(),
        arguments: arguments.map(String::from).to_vec(),
        folder: folder.join(format!("{}-{children}", kind.replace(' ', "-"))),
        files: vec![("kamailio.cfg", config), ("dispatcher.list", "1 sip:CALLEE\n")],
        processes: children,
        cores: BALANCER_CORE,
        descriptors: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything(children: &[u32]) -> Vec<Subject> {
        let (own, folder) = (Path::new("/bin/xtask"), Path::new("/nowhere"));
        let peers = children.iter().filter_map(|count| streaming_peer(folder, *count));
        let mut subjects = all(own, folder, children);
        subjects.push(streaming(own, folder));
        subjects.extend(peers);
        subjects
    }

    #[test]
    fn configurations_are_filled_in_completely() {
        for subject in everything(&[1, 2]) {
            let files = subject.files.iter().map(|(_, text)| *text);
            for text in files.chain(subject.arguments.iter().map(String::as_str)) {
                let filled = subject.filled_in(text);
                for word in ["FOLDER", "LISTEN", "SECURE", "CALLEE", "PROCESSES"] {
                    assert!(!filled.contains(word), "{}: {filled}", subject.name);
                }
            }
        }
    }

    #[test]
    fn workers_are_written_into_the_configuration() {
        let subject = stateful(Path::new("/bin/xtask"), Path::new("/nowhere"), 2, "0,1");
        assert_eq!(subject.name, "tandem stateful, 2 workers");
        assert!(subject.config_text().contains("workers = 2\n"), "{}", subject.config_text());
        assert_eq!(subject.config_path(), Path::new("/nowhere/tandem-2-workers/tandem.toml"));
        assert_eq!(relay(Path::new("/bin/xtask"), Path::new("/nowhere")).config_text(), "");
    }

    #[test]
    fn our_configurations_are_accepted() {
        for subject in everything(&[]) {
            for (name, text) in subject.files.iter().filter(|(name, _)| *name == CONFIG) {
                if let Err(errors) = config::load(name, &subject.filled_in(text)) {
                    let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
                    panic!("{}: {}", subject.name, text.join("\n"));
                }
            }
        }
    }

    #[test]
    fn variants_belong_to_one_family() {
        assert_eq!(family("kamailio stateful, 2 children"), "kamailio stateful");
        assert_eq!(family(RELAY), RELAY);
    }
}
