//! The command line before clap sees it: the two things that it could not take as the appliance's `check_sip` takes them.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Whether the program was called by its other name.
pub(super) fn is_other_name(program: &OsStr) -> bool {
    Path::new(program).file_name().is_some_and(|name| name == "check_sip" || name == "check-sip")
}

/// `-S` without a file stands for the built-in tone, which clap is given as an empty one. There is no file where another option,
/// a SIP URI or nothing follows.
pub(super) fn with_tones(words: Vec<OsString>) -> Vec<OsString> {
    let mut whole = Vec::with_capacity(words.len());
    let mut rest = words.into_iter().peekable();
    while let Some(word) = rest.next() {
        if word == "--" {
            whole.push(word);
            whole.extend(rest);
            return whole;
        }
        let Some(flags) = flags_before_send(&word) else {
            whole.push(word);
            continue;
        };
        if rest.peek().is_some_and(|next| is_file(next)) {
            whole.push(word);
            whole.extend(rest.next());
            continue;
        }
        if let Some(flags) = flags {
            whole.push(flags);
        }
        whole.push(OsString::from("--send="));
    }
    whole
}

/// If the word is the option `-S` that has no value in itself: the flags that stand before it in the same word, as in `-dS`.
fn flags_before_send(word: &OsStr) -> Option<Option<OsString>> {
    let text = word.to_str()?;
    if text == "--send" || text == "-S" {
        return Some(None);
    }
    let flags = text.strip_prefix('-')?.strip_suffix('S')?;
    let are_flags = !flags.is_empty() && flags.bytes().all(|flag| FLAGS.contains(&flag));
    are_flags.then(|| Some(OsString::from(format!("-{flags}"))))
}

fn is_file(word: &OsStr) -> bool {
    let octets = word.as_encoded_bytes();
    let begins = |with: &[u8]| octets.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    let is_option = octets.len() > 1 && begins(b"-");
    !is_option && !begins(b"sip:") && !begins(b"sips:")
}

/// The options of one letter that take no value.
const FLAGS: &[u8] = b"dh";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_send_without_a_file_is_the_tone() {
        let cases = [
            ("-T 9 -S -S sip:Bonnie@ sip:Clyde@10.0.0.11", "-T 9 --send= --send= sip:Bonnie@ sip:Clyde@10.0.0.11"),
            ("-S hello.ulaw sip:b@x sip:c@y", "-S hello.ulaw sip:b@x sip:c@y"),
            ("-S hello.ulaw -S SIPS:b@x sip:c@y", "-S hello.ulaw --send= SIPS:b@x sip:c@y"),
            ("--send=x sip:b@x sip:c@y", "--send=x sip:b@x sip:c@y"),
            ("-Sx sip:b@x sip:c@y", "-Sx sip:b@x sip:c@y"),
            ("--send --send x --send sip:b@x c@y", "--send= --send x --send= sip:b@x c@y"),
            ("sip:b@x sip:c@y -S", "sip:b@x sip:c@y --send="),
            ("sip:b@x sip:c@y -S --json", "sip:b@x sip:c@y --send= --json"),
            ("-dS sip:b@x sip:c@y", "-d --send= sip:b@x sip:c@y"),
            ("-dS hello.ulaw sip:b@x sip:c@y", "-dS hello.ulaw sip:b@x sip:c@y"),
            ("-R - -S sip:b@x sip:c@y", "-R - --send= sip:b@x sip:c@y"),
            ("-S -- sip:b@x sip:c@y", "--send= -- sip:b@x sip:c@y"),
            ("-- -S sip:c@y", "-- -S sip:c@y"),
            ("-S sipping.wav b c", "-S sipping.wav b c"),
            ("", ""),
        ];
        for (given, wanted) in cases {
            let words = given.split_ascii_whitespace().map(OsString::from).collect();
            let wanted: Vec<OsString> = wanted.split_ascii_whitespace().map(OsString::from).collect();
            assert_eq!(with_tones(words), wanted, "{given}");
        }
    }

    #[test]
    fn the_other_name_is_known_wherever_the_link_lies() {
        let named = |name: &str| is_other_name(OsStr::new(name));
        assert!(named("check_sip") && named("/usr/lib/nagios/plugins/check_sip") && named("./check-sip"));
        assert!(!named("tandem") && !named("/check_sip/tandem") && !named("check_sip.sh") && !named(""));
    }
}
