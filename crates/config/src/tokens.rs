//! The words in texts of a guardian that stand for a backend.

/// `text` with `host`, `port` and `name` in place of the words HOST, PORT and NAME; longer words that hold these letters stay.
///
/// An address of IPv6 gets brackets where it stands in a URI or before a port, and none where it is a word of its own, as commands
/// want it.
pub fn with_tokens(text: &str, host: &str, port: u16, name: &str) -> String {
    let mut written = String::with_capacity(text.len() + host.len() + name.len());
    let mut rest = text;
    while !rest.is_empty() {
        let (word, after) = rest.split_at(rest.find(|letter: char| !is_of_word(letter)).unwrap_or(rest.len()));
        match word {
            "HOST" if is_bare_v6(host) && is_in_uri(&written, after) => {
                written.push('[');
                written.push_str(host);
                written.push(']');
            }
            "HOST" => written.push_str(host),
            "PORT" => written.push_str(&port.to_string()),
            "NAME" => written.push_str(name),
            other => written.push_str(other),
        }
        let (between, next) = after.split_at(after.find(is_of_word).unwrap_or(after.len()));
        written.push_str(between);
        rest = next;
    }
    written
}

fn is_of_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn is_bare_v6(host: &str) -> bool {
    host.contains(':') && !host.starts_with('[')
}

fn is_in_uri(before: &str, after: &str) -> bool {
    before.ends_with(['@', ':']) || before.ends_with("//") || after.starts_with(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_are_replaced() {
        for (text, expected) in [
            ("", ""),
            ("HOST", "10.0.0.11"),
            ("sip:clyde@HOST", "sip:clyde@10.0.0.11"),
            ("sip:clyde@HOST:PORT", "sip:clyde@10.0.0.11:5070"),
            ("-H HOST -p PORT -n NAME", "-H 10.0.0.11 -p 5070 -n pbx1"),
            ("HOST,HOST", "10.0.0.11,10.0.0.11"),
            ("/etc/tandem/NAME.pw", "/etc/tandem/pbx1.pw"),
            ("--host=HOST-1", "--host=10.0.0.11-1"),
            ("é HOST é", "é 10.0.0.11 é"),
            // These are other words.
            ("GHOST HOSTS HOST_1 _HOST éHOST HOST2", "GHOST HOSTS HOST_1 _HOST éHOST HOST2"),
            ("host Port NAMES", "host Port NAMES"),
        ] {
            assert_eq!(with_tokens(text, "10.0.0.11", 5070, "pbx1"), expected, "{text}");
        }
    }

    #[test]
    fn what_is_put_in_is_not_looked_at_again() {
        assert_eq!(with_tokens("NAME HOST", "PORT", 5060, "HOST"), "HOST PORT");
    }

    #[test]
    fn addresses_of_ipv6_have_brackets_in_uris_alone() {
        for (text, expected) in [
            ("sip:clyde@HOST", "sip:clyde@[2001:db8::1]"),
            ("sip:HOST", "sip:[2001:db8::1]"),
            ("HOST:PORT", "[2001:db8::1]:5060"),
            ("http://HOST/", "http://[2001:db8::1]/"),
            ("check_ping -H HOST", "check_ping -H 2001:db8::1"),
        ] {
            assert_eq!(with_tokens(text, "2001:db8::1", 5060, "a"), expected, "{text}");
        }
        assert_eq!(with_tokens("sip:clyde@HOST", "[2001:db8::1]", 5060, "a"), "sip:clyde@[2001:db8::1]");
    }
}
