//! The table in the documents, made of the rows.

use super::rows::{ROWS, Row, Theirs, Time};
use std::fmt::Write;

/// The whole of `docs/check-sip.md`.
pub(super) fn text() -> String {
    let mut text = HEAD.to_owned();
    for row in ROWS {
        let Row { what, ours, theirs, .. } = row;
        let options = row.words();
        let theirs = match theirs {
            Theirs::Run { exit, time, wire } => format!("{exit} | {} | {wire}", said(*time)),
            Theirs::Known(exit, time, wire) => format!("{exit} | {time}¹ | {wire}"),
            Theirs::Unknown => "– | – | –".to_owned(),
        };
        let (exit, time, line, wire) = (ours.exit, said(ours.time), ours.line, ours.wire);
        writeln!(text, "| {what} | `{options}` | {theirs} | {exit} | {time} | {wire} | `{line}` |")
            .expect("writing to a String cannot fail");
    }
    text + FOOT
}

fn said(time: Time) -> &'static str {
    match time {
        Time::AtOnce => "at once",
        Time::Audio => "the audio",
        Time::Limit => "`-T`",
        Time::Interrupted => "at once, then",
    }
}

const HEAD: &str = "# What `check-sip` makes of servers that fail

`tandem check-sip` takes the command line of the appliance's `check_sip`, which is a sample of Net::SIP (`invite_and_send.pl`). Here
both stand beside each other, with the same words against the same servers: sipp with the scenarios of
`crates/tandem/tests/real/data/check_sip`, Debian's Kamailio, Net::SIP itself, a socket that says nothing, and a closed port.

The test `crates/tandem/tests/real/check_sip.rs` runs each line of the table, but for what is marked, and asserts all of it; what was
on the wire it has from tshark. Where the sample is not installed, a script of ours (`call.pl`, beside the scenarios) makes the same
calls by Net::SIP in its place. The table is written from what the test asserts.

In the command lines HOST is the server, OWN an address of the caller's, AUDIO a file of 2 s, SHORT of 1 s, LONG of 30 s (PCMU), and
NONE no file. In the lines `…` stands for what differs from run to run; behind them follow the performance data.

- **after**: *at once*: much less than `-T`; *the audio*: as long as what is said; `-T`: when the time of the option is over, or the part
  of it that is not kept for clearing up.
- **on the wire**: the requests of the check in order, in brackets those of the server; requests that were sent again, or a REGISTER
  once more with a password, are listed once. *The call stays*: it was answered and nobody ended it. *The binding stays*: it was made
  and not removed.
- **exit**: that of `check-sip` is that of a monitoring plugin: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.

| the server | command line | original: exit | after | on the wire | `check-sip`: exit | after | on the wire | its line |
|---|---|---|---|---|---|---|---|---|
";

const FOOT: &str = "
¹ Noted when the appliance was studied, too long to be repeated by the test. – : it has no such option, or nobody has looked.

What follows from the table: the original never looks at the audio that comes back, takes a call that breaks off for a good one, leaves
calls and bindings behind, and can last longer than `-T`, for ever in one case. `check-sip` tells each failure in words of its own, ends
within `-T`, and hangs up and un-registers what it began as far as the server lets it.
";
