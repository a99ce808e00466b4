//! What `tandem check-sip` is told.

use crate::hex;
use probe::shell::Trust;
use probe::{Figure, Range, Transport};
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

#[derive(clap::Args)]
#[command(
    after_help = "Exit status and output are those of a monitoring plugin: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN, and one line \
                  on standard output. Called by the name check_sip, as by a link, the program takes these options at once.\n\n\
                  A password on the command line can be read by every user of the machine: --password-file, or the environment \
                  variable TANDEM_PASSWORD, keep it to themselves.\n\n\
                  A FIGURE is register, ring, answer, loss, jitter, delay, mos or total; without one, answer is meant. A RANGE is of \
                  good values: 10 (from 0 to 10), 10: (10 and above), ~:10 (10 and below), 10:20, @10:20 (all but these). Times are \
                  in seconds, loss in per cent: -w answer=2 -c loss=5 -c mos=3.5:"
)]
pub(crate) struct Arguments {
    /// Who calls: sip:bonnie@example.com; without a host that of the proxy, or of TO
    #[arg(value_name = "FROM")]
    pub(super) from: String,
    /// Who is called: sip:clyde@10.0.0.11; its host is where the call goes, unless there is a proxy
    #[arg(value_name = "TO")]
    pub(super) to: String,

    /// Send everything to this proxy, and register there unless -R says otherwise
    #[arg(short = 'P', long, value_name = "HOST[:PORT]")]
    pub(super) proxy: Option<String>,
    /// Register there first, and take that back at the end; - does not register at all
    #[arg(short = 'R', long, value_name = "HOST[:PORT]")]
    pub(super) registrar: Option<String>,
    /// Say this in the call, several one after the other: raw PCMU or WAV, 8000 Hz mono; without a FILE or -S a tone of 2 s
    #[arg(short = 'S', long, value_name = "FILE")]
    pub(super) send: Vec<OsString>,
    /// Our own address, and our port for SIP; without it whatever the system chooses
    #[arg(short = 'L', long, value_name = "IP[:PORT]", value_parser = leg)]
    pub(super) leg: Option<(IpAddr, Option<u16>)>,
    /// Everything takes at most so long: names, registration, call and clearing up; seconds, or as 500ms or 2m
    #[arg(short = 'T', long, value_name = "TIME", default_value = "30", value_parser = span)]
    pub(super) timeout: Duration,

    /// Name of the account, if it is not the user of FROM
    #[arg(long, value_name = "NAME")]
    pub(super) username: Option<String>,
    /// Password of the account
    #[arg(long, value_name = "PASSWORD", conflicts_with = "password_file")]
    pub(super) password: Option<String>,
    /// The same, as the first line of a file
    #[arg(long, value_name = "FILE")]
    pub(super) password_file: Option<PathBuf>,

    /// udp, tcp, tls, ws or wss [default: tls for a sips URI, what TO says in ;transport=, else udp]
    #[arg(long, value_name = "TRANSPORT", value_parser = transport)]
    pub(super) transport: Option<Transport>,
    /// Whose certificate is believed: system (by this machine's authorities), a FILE of authorities, sha256:… (this one), off
    #[arg(long, value_name = "TRUST", default_value = "system", value_parser = trust)]
    pub(super) tls_verify: Trust,

    /// Silence from the other side is critical
    #[arg(long)]
    pub(super) expect_audio: bool,
    /// What comes back is critical if it is worth less: a mean opinion score from 1 to 4.5
    #[arg(long, value_name = "MOS", value_parser = score)]
    pub(super) min_mos: Option<f64>,
    /// A warning if the figure is out of the range; may be given several times
    #[arg(short = 'w', long, value_name = "FIGURE=RANGE", value_parser = bound)]
    pub(super) warning: Vec<Bound>,
    /// Critical if the figure is out of the range; may be given several times
    #[arg(short = 'c', long, value_name = "FIGURE=RANGE", value_parser = bound)]
    pub(super) critical: Vec<Bound>,

    /// Write the audio that comes back to FILE, as WAV
    #[arg(long, value_name = "FILE")]
    pub(super) wav_out: Option<PathBuf>,
    /// JSON instead of the line
    #[arg(long)]
    pub(super) json: bool,
    /// Show the messages as a ladder, on standard error
    #[arg(long)]
    pub(super) ladder: bool,
    /// Show every message whole with its time, on standard error
    #[arg(short = 'd', long)]
    pub(super) debug: bool,
}

/// A figure and what is good for it.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Bound {
    pub(super) figure: Figure,
    pub(super) range: Range,
}

fn leg(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok((address.ip(), Some(address.port()).filter(|port| *port != 0)));
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    match bare.parse() {
        Ok(address) => Ok((address, None)),
        Err(_) => {
            Err("an address of this machine is wanted, as 192.0.2.1, 192.0.2.1:5070 or [2001:db8::1]:5070".to_owned())
        }
    }
}

fn span(text: &str) -> Result<Duration, String> {
    let end = text.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit {
        "ms" => Some(0.001),
        "" | "s" => Some(1.0),
        "m" => Some(60.0),
        _ => None,
    };
    let seconds = number.parse::<f64>().ok().zip(factor).map(|(number, factor)| number * factor);
    match seconds {
        Some(seconds) if (SHORTEST_S..=LONGEST_S).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("a time from {SHORTEST_S} s to {LONGEST_S} s is wanted, as 9, 500ms or 2m")),
    }
}

fn transport(text: &str) -> Result<Transport, String> {
    named(text).ok_or_else(|| "udp, tcp, tls, ws or wss is wanted".to_owned())
}

/// The transport of this name, as it is written here and in URIs.
pub(super) fn named(text: &str) -> Option<Transport> {
    let all = [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss];
    all.into_iter().find(|transport| transport.as_str().eq_ignore_ascii_case(text))
}

fn trust(text: &str) -> Result<Trust, String> {
    match text {
        "" => return Err("system, a file, sha256:… or off is wanted".to_owned()),
        "system" => return Ok(Trust::System),
        "off" => return Ok(Trust::Off),
        _ => {}
    }
    let Some(digits) = text.strip_prefix("sha256:") else { return Ok(Trust::File(PathBuf::from(text))) };
    let digits: String = digits.chars().filter(|letter| *letter != ':').collect();
    let fingerprint: Option<[u8; 32]> = hex::decode(&digits).and_then(|octets| octets.try_into().ok());
    fingerprint.map(Trust::Pinned).ok_or_else(|| "a SHA-256 fingerprint has 64 hexadecimal digits".to_owned())
}

fn score(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(score) if (1.0..=4.5).contains(&score) => Ok(score),
        _ => Err("a mean opinion score from 1 to 4.5 is wanted".to_owned()),
    }
}

fn bound(text: &str) -> Result<Bound, String> {
    let (figure, range) = match text.split_once('=') {
        Some((name, range)) => {
            let figure = Figure::parse(name).ok_or_else(|| {
                let all = Figure::ALL.map(Figure::as_str).join(", ");
                format!("there is no figure {name}; there are {all}")
            })?;
            (figure, range)
        }
        None => (Figure::Answer, text),
    };
    let range = Range::parse(range).map_err(|fault| fault.to_string())?;
    Ok(Bound { figure, range })
}

const SHORTEST_S: f64 = 0.1;
const LONGEST_S: f64 = 3_600.0;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    /// The words after `tandem check-sip`.
    fn parsed(words: &str) -> Result<Arguments, String> {
        let words = ["check-sip"].into_iter().chain(words.split(' '));
        Line::try_parse_from(words).map(|line| line.arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn the_appliances_options_are_taken() {
        let words = "-d -P 10.0.0.9:5070 -R - -S a.ulaw --send= -L 10.0.0.1:5080 -T 9 --username u --password p sip:b@x sip:c@y";
        let arguments = parsed(words).expect("all of it is known");
        assert!(arguments.debug && !arguments.json && !arguments.ladder);
        assert_eq!((arguments.from.as_str(), arguments.to.as_str()), ("sip:b@x", "sip:c@y"));
        assert_eq!(arguments.proxy.as_deref(), Some("10.0.0.9:5070"));
        assert_eq!(arguments.registrar.as_deref(), Some("-"));
        assert_eq!(arguments.send, ["a.ulaw", ""]);
        assert_eq!(arguments.leg, Some((IpAddr::from([10, 0, 0, 1]), Some(5080))));
        assert_eq!(arguments.timeout, Duration::from_secs(9));
        assert_eq!((arguments.username.as_deref(), arguments.password.as_deref()), (Some("u"), Some("p")));
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let arguments = parsed("b c").expect("two words are enough");
        assert_eq!(arguments.timeout, Duration::from_secs(30));
        assert_eq!(arguments.tls_verify, Trust::System);
        assert!(arguments.send.is_empty() && arguments.transport.is_none() && arguments.min_mos.is_none());
    }

    #[test]
    fn values_have_bounds() {
        for good in
            ["-T 0.1", "-T 3600", "-T 100ms", "-T 60m", "--min-mos 1", "--min-mos 4.5", "-L ::1", "-L [::1]:5060"]
        {
            assert!(parsed(&format!("{good} b c")).is_ok(), "{good}");
        }
        let bad = [
            "-T 0.09",
            "-T 3601",
            "-T 61m",
            "-T x",
            "-T -1",
            "-T nan",
            "--min-mos 0.9",
            "--min-mos 4.6",
            "-L host",
            "--transport sctp",
            "--tls-verify sha256:00",
            "--password p --password-file f",
            "-w 20:10",
            "-c speed=1",
        ];
        for bad in bad {
            assert!(parsed(&format!("{bad} b c")).is_err(), "{bad}");
        }
        assert!(parsed("b").is_err() && parsed("b c d").is_err());
    }

    #[test]
    fn a_bare_range_is_of_the_answer() {
        let arguments = parsed("-w 2 -w loss=1 -c mos=3.5: b c").expect("the ranges are right");
        let told =
            |bounds: &[Bound]| bounds.iter().map(|bound| (bound.figure, bound.range.to_string())).collect::<Vec<_>>();
        assert_eq!(told(&arguments.warning), [(Figure::Answer, "2".to_owned()), (Figure::Loss, "1".to_owned())]);
        assert_eq!(told(&arguments.critical), [(Figure::Mos, "3.5:".to_owned())]);
    }

    #[test]
    fn trust_is_a_word_a_fingerprint_or_a_file() {
        assert_eq!(trust("off"), Ok(Trust::Off));
        assert_eq!(trust("ca.pem"), Ok(Trust::File(PathBuf::from("ca.pem"))));
        assert_eq!(trust(&format!("sha256:{}", "0A:".repeat(32))), Ok(Trust::Pinned([10; 32])));
        assert!(trust("").is_err() && trust("sha256:xy").is_err());
    }
}
