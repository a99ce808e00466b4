//! Messages between two columns.

use super::Step;
use std::fmt::Write as _;

/// Characters between the two columns.
const WIDTH: usize = 60;
/// Longest text on an arrow, which leaves some of the arrow.
const LABEL: usize = WIDTH - 10;

/// A line for each step: its time, its message on an arrow, the peer.
pub(super) fn text(steps: &[Step], left_out: u64) -> String {
    let mut text = String::new();
    for step in steps {
        let seconds = step.at.as_secs_f64();
        let arrow = arrow(&step.line, step.outgoing);
        writeln!(text, "{seconds:>11.6}  |{arrow}|  {}", step.peer).expect("writing to a String cannot fail");
    }
    if left_out > 0 {
        writeln!(text, "  ... and {left_out} messages more").expect("writing to a String cannot fail");
    }
    text
}

/// `--- INVITE sip:clyde@10.0.0.11 ------->`, or the other way about.
fn arrow(line: &str, outgoing: bool) -> String {
    let is_long = line.chars().count() > LABEL;
    let mut label: String = line.chars().take(if is_long { LABEL - 3 } else { LABEL }).collect();
    if is_long {
        label.push_str("...");
    }
    let dashes = "-".repeat(WIDTH - 6 - label.chars().count());
    if outgoing { format!("--- {label} {dashes}>") } else { format!("<{dashes} {label} ---") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use std::time::Duration;

    fn step(millis: u64, outgoing: bool, line: &str) -> Step {
        Step {
            at: Duration::from_millis(millis),
            outgoing,
            peer: SocketAddr::from(([10, 0, 0, 11], 5060)),
            line: line.to_owned(),
            octets: Vec::new(),
        }
    }

    #[test]
    fn arrows_are_as_long_as_each_other_and_point_where_it_went() {
        let steps = [
            step(0, true, "OPTIONS sip:10.0.0.11"),
            step(12, false, "200 OK (OPTIONS)"),
            step(20, true, &"x".repeat(90)),
        ];
        let text = text(&steps, 2);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "   0.000000  |--- OPTIONS sip:10.0.0.11 --------------------------------->|  10.0.0.11:5060"
        );
        assert_eq!(
            lines[1],
            "   0.012000  |<-------------------------------------- 200 OK (OPTIONS) ---|  10.0.0.11:5060"
        );
        assert_eq!(lines[2].len(), lines[0].len());
        assert!(lines[2].contains("xxx..."), "{}", lines[2]);
        assert_eq!(lines[3], "  ... and 2 messages more");
    }
}
