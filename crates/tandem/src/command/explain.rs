//! `tandem explain`: the way of one message, without sending anything.

use crate::configuration;
use crate::hex;
use crate::unit::{arrival, control, state_dir};
use anyhow::{Context, bail};
use engine::{Explanation, Secrets, Shared};
use net::Clock;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(clap::Args)]
#[command(
    after_help = "A message without any CRLF, as pasted from a page or written in an editor, gets CRLF line ends, and the empty line \
                        that ends its headers if it lacks one; any other is taken octet for octet.\n\n\
                        Without --live nothing is registered and every backend counts as up; tokens of a running unit are known only to \
                        that unit."
)]
pub(crate) struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE", required_unless_present = "live")]
    config: Option<PathBuf>,
    /// Who sends the message; without it a client at a documentation address
    #[arg(long, value_name = "IP:PORT")]
    from: Option<SocketAddr>,
    /// The listener it arrives at, as "udp:127.0.0.1:5060"; without it the first that fits
    #[arg(long, value_name = "LISTENER")]
    listener: Option<String>,
    /// Ask the running unit, which knows who is registered and what is up
    #[arg(long)]
    live: bool,
    /// Folder of the running unit, instead of `state_dir` in the file
    #[arg(long, value_name = "FOLDER", requires = "live")]
    state_dir: Option<PathBuf>,
    /// File with the message; "-" or nothing reads standard input
    #[arg(value_name = "MESSAGE")]
    message: Option<PathBuf>,
}

/// Prints the numbered steps and the verdict.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    // The file first: somebody who types a message should not learn afterwards that the file is wrong.
    let checked = arguments.config.as_deref().map(configuration::load_or_print).transpose()?;
    let message = with_line_ends(read_message(arguments.message.as_deref())?);
    let explanation = if arguments.live {
        let written = checked.as_ref().and_then(|checked| checked.unit.state_dir.as_deref());
        let folder = state_dir::choose(arguments.state_dir.as_deref(), written)?;
        ask(&folder, arguments, &message)?
    } else {
        let checked = checked.context("--config names the configuration")?;
        offline(checked, arguments, &message)?
    };
    let mut out = io::stdout().lock();
    for (index, step) in explanation.steps.iter().enumerate() {
        writeln!(out, "{:>3}. {step}", index + 1)?;
    }
    writeln!(out, "  => {}", explanation.verdict)?;
    Ok(ExitCode::SUCCESS)
}

fn offline(checked: config::Checked, arguments: &Arguments, message: &[u8]) -> anyhow::Result<Explanation> {
    let flow = match arrival::flow(&checked.settings, arguments.listener.as_deref(), arguments.from) {
        Ok(flow) => flow,
        Err(message) => bail!("{message}"),
    };
    // Nothing that is written with these keys leaves this process.
    let secrets = Secrets { key_id: 0, key: [0; 16], previous: None, contact_key: [0; 16], epoch: 0 };
    let now = Clock::now();
    let shared = Shared::new(checked.settings, secrets, 1, now, 0, 0);
    Ok(engine::explain(&shared, now, flow, message))
}

fn ask(folder: &Path, arguments: &Arguments, message: &[u8]) -> anyhow::Result<Explanation> {
    let request = control::Request::Explain {
        message: hex::encode(message),
        source: arguments.from,
        listener: arguments.listener.clone(),
    };
    let answer = control::ask(folder, &request)?;
    let explained: control::Explained =
        serde_json::from_value(answer).context("the unit's answer cannot be read: is it of another version?")?;
    Ok(Explanation { steps: explained.steps, verdict: explained.verdict })
}

fn read_message(path: Option<&Path>) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match path.filter(|path| *path != Path::new("-")) {
        Some(path) => File::open(path)
            .and_then(|file| file.take(LARGEST).read_to_end(&mut bytes))
            .with_context(|| format!("cannot read the message {}", path.display()))?,
        None => io::stdin()
            .lock()
            .take(LARGEST)
            .read_to_end(&mut bytes)
            .context("cannot read the message from standard input")?,
    };
    if bytes.is_empty() {
        bail!("there is no message: name a file, or write one to standard input");
    }
    Ok(bytes)
}

/// Gives CRLF to a message that has bare LF only, and the empty line that pasted messages often lack.
fn with_line_ends(message: Vec<u8>) -> Vec<u8> {
    if message.windows(2).any(|pair| pair == b"\r\n") {
        return message;
    }
    let mut converted = Vec::with_capacity(message.len() + 64);
    for byte in message {
        if byte == b'\n' {
            converted.push(b'\r');
        }
        converted.push(byte);
    }
    if !converted.windows(4).any(|four| four == b"\r\n\r\n") {
        if !converted.ends_with(b"\r\n") {
            converted.extend_from_slice(b"\r\n");
        }
        converted.extend_from_slice(b"\r\n");
    }
    converted
}

/// More than the largest datagram, so that what is too large is explained and not cut.
const LARGEST: u64 = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pasted_messages_get_their_line_ends() {
        let wanted = b"OPTIONS sip:a SIP/2.0\r\nA: b\r\n\r\n".to_vec();
        for pasted in
            ["OPTIONS sip:a SIP/2.0\nA: b\n\n", "OPTIONS sip:a SIP/2.0\nA: b\n", "OPTIONS sip:a SIP/2.0\nA: b"]
        {
            assert_eq!(with_line_ends(pasted.as_bytes().to_vec()), wanted, "{pasted:?}");
        }
    }

    #[test]
    fn a_message_as_sent_stays_as_it_is() {
        let mixed = b"OPTIONS sip:a SIP/2.0\r\nA: b\nC: d\r\n".to_vec();
        assert_eq!(with_line_ends(mixed.clone()), mixed);
    }
}
