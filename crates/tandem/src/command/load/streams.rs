//! The options of `tandem load` about TCP, TLS and WebSocket.

use anyhow::bail;
use load::stream::{Streams, Transport, Trust};
use std::path::PathBuf;

// No comment of documentation here: it would replace the help of the subcommands.
#[derive(clap::Args)]
pub(super) struct StreamArguments {
    /// How the balancer is reached
    #[arg(long, value_enum, default_value_t = Choice::Udp)]
    transport: Choice,
    /// So many connections, opened before the load begins; each user keeps to one [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: Option<u32>,
    /// Over tls and wss: believe certificates by the authorities in this PEM file
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    ca: Option<PathBuf>,
    /// Over tls and wss: believe any certificate
    #[arg(long)]
    insecure: bool,
    /// Whom the certificate must be for, and the Host of a WebSocket [default: the address of --to]
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Choice {
    Udp,
    Tcp,
    Tls,
    Ws,
    Wss,
}

impl StreamArguments {
    /// `at_once`: all connections are opened at the same moment. `None`: it is UDP.
    pub(super) fn streams(&self, at_once: bool) -> anyhow::Result<Option<Streams>> {
        let transport = match self.transport {
            Choice::Udp => None,
            Choice::Tcp => Some(Transport::Tcp),
            Choice::Tls => Some(Transport::Tls),
            Choice::Ws => Some(Transport::Ws),
            Choice::Wss => Some(Transport::Wss),
        };
        let names_trust = self.ca.is_some() || self.insecure;
        let Some(transport) = transport else {
            if at_once || names_trust || self.connections.is_some() || self.server_name.is_some() {
                bail!("over udp there are no connections and no certificates: say --transport tcp, tls, ws or wss");
            }
            return Ok(None);
        };
        if names_trust && !transport.is_secure() {
            bail!("over {transport} nobody shows a certificate: --ca and --insecure are for tls and wss");
        }
        let trust = match &self.ca {
            Some(file) => Trust::Authorities(file.clone()),
            None if transport.is_secure() && !self.insecure => bail!(
                "over {transport} the balancer shows a certificate: name the authorities to be believed with --ca FILE (of a \
                 self-signed certificate its own file), or believe any with --insecure"
            ),
            None => Trust::Anybody,
        };
        Ok(Some(Streams {
            transport,
            connections: self.connections.unwrap_or(1),
            trust,
            server_name: self.server_name.clone(),
            at_once,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        stream: StreamArguments,
    }

    fn streams(words: &str) -> Result<Option<Streams>, String> {
        let words = ["load"].into_iter().chain(words.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        line.stream.streams(false).map_err(|error| error.to_string())
    }

    #[test]
    fn udp_has_no_connections() {
        assert_eq!(streams(""), Ok(None));
        for words in ["--connections 2", "--insecure", "--ca ca.pem", "--server-name pbx.example"] {
            assert!(streams(words).is_err_and(|error| error.contains("--transport tcp")), "{words}");
        }
    }

    #[test]
    fn a_stream_is_as_it_was_asked_for() {
        let plain = Streams {
            transport: Transport::Tcp,
            connections: 1,
            trust: Trust::Anybody,
            server_name: None,
            at_once: false,
        };
        assert_eq!(streams("--transport tcp"), Ok(Some(plain.clone())));
        let secure = Streams {
            transport: Transport::Wss,
            connections: 9,
            trust: Trust::Authorities(PathBuf::from("ca.pem")),
            server_name: Some("pbx.example".to_owned()),
            ..plain
        };
        let words = "--transport wss --connections 9 --ca ca.pem --server-name pbx.example";
        assert_eq!(streams(words), Ok(Some(secure)));
        assert!(streams("--transport tls --insecure").is_ok());
    }

    #[test]
    fn nobody_is_believed_unasked() {
        assert!(streams("--transport tls").is_err_and(|error| error.contains("--ca FILE")));
        assert!(streams("--transport ws --insecure").is_err_and(|error| error.contains("tls and wss")));
        assert!(streams("--transport tls --insecure --ca ca.pem").is_err());
        assert!(streams("--transport tcp --connections 0").is_err());
        assert!(streams("--transport sctp").is_err());
    }
}
