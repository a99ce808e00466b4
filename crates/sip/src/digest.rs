//! Digest authentication as SIP uses it (RFC 3261 §22.4, RFC 7616, RFC 8760; without qop as in RFC 2617).
//!
//! Algorithms are MD5, SHA-256 and SHA-512-256, quality of protection is `auth` or none. Session variants (`-sess`) and
//! `auth-int` are neither offered nor answered.

use std::borrow::Cow;
use std::fmt::Write as _;

use md5::Md5;
use sha2::{Digest, Sha256, Sha512_256};

use crate::value::{Challenge, Credentials};

/// A digest algorithm, from weakest to strongest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Algorithm {
    /// RFC 2617; also meant where a challenge names none.
    Md5,
    /// RFC 7616.
    Sha256,
    /// RFC 7616: SHA-512 truncated to 256 bits, with initial values of its own.
    Sha512_256,
}

impl Algorithm {
    /// Reads the `algorithm` parameter, in any case; `None` for one that is unknown here.
    pub fn from_token(token: &[u8]) -> Option<Self> {
        [Self::Md5, Self::Sha256, Self::Sha512_256]
            .into_iter()
            .find(|algorithm| algorithm.as_str().as_bytes().eq_ignore_ascii_case(token))
    }

    /// The token as the RFCs spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
            Self::Sha512_256 => "SHA-512-256",
        }
    }

    /// The hash over the parts joined by colons, as lower-case hexadecimal digits.
    fn hash(self, parts: &[&[u8]]) -> String {
        match self {
            Self::Md5 => hash_of::<Md5>(parts),
            Self::Sha256 => hash_of::<Sha256>(parts),
            Self::Sha512_256 => hash_of::<Sha512_256>(parts),
        }
    }
}

/// All that goes into the answer to a challenge. Not `Debug`, since it holds a password.
#[derive(Clone, Copy)]
pub struct Answer<'a> {
    /// The challenge's algorithm, MD5 if it names none.
    pub algorithm: Algorithm,
    /// The account's user name, without control characters.
    pub username: &'a str,
    /// The challenge's realm, between its quotes.
    pub realm: &'a [u8],
    /// The account's password.
    pub password: &'a str,
    /// The challenge's nonce, between its quotes.
    pub nonce: &'a [u8],
    /// The method of the request that carries the answer.
    pub method: &'a [u8],
    /// The Request-URI of that request.
    pub uri: &'a [u8],
    /// Nonce count (from 1) and client nonce, if the challenge offers `auth` (see [`offers_auth`]); else none.
    pub qop_auth: Option<(u32, &'a [u8])>,
}

/// The value of the `response` parameter: lower-case hexadecimal digits (RFC 7616 §3.4.1).
pub fn response(answer: &Answer<'_>) -> String {
    let count = answer.qop_auth.map(|(count, _)| nonce_count(count));
    Proof {
        algorithm: answer.algorithm,
        username: answer.username.as_bytes(),
        realm: answer.realm,
        password: answer.password.as_bytes(),
        nonce: answer.nonce,
        method: answer.method,
        uri: answer.uri,
        qop_auth: count.as_deref().map(str::as_bytes).zip(answer.qop_auth.map(|(_, cnonce)| cnonce)),
    }
    .response()
}

/// The complete `Authorization` or, for a challenge of a proxy, `Proxy-Authorization` line with its line end. `opaque` is
/// the challenge's, repeated as it came.
pub fn authorization(answer: &Answer<'_>, proxy: bool, opaque: Option<&[u8]>) -> String {
    let name = if proxy { "Proxy-Authorization" } else { "Authorization" };
    let mut line = format!(
        "{name}: Digest username=\"{}\", realm=\"{}\", nonce=\"{}\", uri=\"{}\", response=\"{}\", algorithm={}",
        escape(answer.username),
        text(answer.realm),
        text(answer.nonce),
        text(answer.uri),
        response(answer),
        answer.algorithm.as_str(),
    );
    if let Some(opaque) = opaque {
        line.push_str(", opaque=\"");
        line.push_str(&text(opaque));
        line.push('"');
    }
    if let Some((count, cnonce)) = answer.qop_auth {
        line.push_str(", qop=auth, nc=");
        line.push_str(&nonce_count(count));
        line.push_str(", cnonce=\"");
        line.push_str(&text(cnonce));
        line.push('"');
    }
    line.push_str("\r\n");
    line
}

/// Whether the credentials prove the password for this realm and nonce and this method. Any of the three algorithms is
/// accepted, with qop `auth` or without. The response is compared in constant time.
///
/// Left to the caller: that the nonce is one it issued and still valid, and whose password it is (`username`). The `uri`
/// parameter is taken as it is and not held against the Request-URI, which proxies on the way may have rewritten.
pub fn verify(
    credentials: &Credentials<'_>,
    method: &[u8],
    realm: impl AsRef<[u8]>,
    nonce: impl AsRef<[u8]>,
    password: &str,
) -> bool {
    expected_response(credentials, method, realm.as_ref(), nonce.as_ref(), password)
        .zip(credentials.response())
        .is_some_and(|(expected, given)| equal_in_constant_time(expected.as_bytes(), given))
}

/// The complete `WWW-Authenticate` or, for a proxy, `Proxy-Authenticate` line with its line end. Realm and nonce stand
/// between quotes and may hold neither quotes nor control characters.
pub fn challenge_line(
    realm: impl AsRef<[u8]>,
    nonce: impl AsRef<[u8]>,
    algorithm: Algorithm,
    stale: bool,
    proxy: bool,
) -> String {
    let name = if proxy { "Proxy-Authenticate" } else { "WWW-Authenticate" };
    let stale = if stale { ", stale=TRUE" } else { "" };
    format!(
        "{name}: Digest realm=\"{}\", nonce=\"{}\", algorithm={}, qop=\"auth\"{stale}\r\n",
        text(realm.as_ref()),
        text(nonce.as_ref()),
        algorithm.as_str(),
    )
}

/// The challenge with the strongest algorithm among those that can be answered; among equals the topmost. RFC 8760 §2.4
/// would take the topmost of all unless a policy says otherwise: this is the policy. Challenges of several realms each want
/// an answer of their own, so the caller passes those of one realm at a time.
pub fn strongest<'a>(challenges: impl Iterator<Item = Challenge<'a>>) -> Option<Challenge<'a>> {
    let mut best: Option<(Algorithm, Challenge<'a>)> = None;
    for challenge in challenges {
        let Some(algorithm) = answerable(&challenge) else {
            continue;
        };
        if best.as_ref().is_none_or(|(strongest, _)| algorithm > *strongest) {
            best = Some((algorithm, challenge));
        }
    }
    best.map(|(_, challenge)| challenge)
}

/// Whether a challenge's `qop` parameter, without its quotes, lists `auth`.
pub fn offers_auth(qop: &[u8]) -> bool {
    qop.split(|octet| *octet == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(b"auth"))
}

/// The octets of a response's proof, as they are hashed.
struct Proof<'a> {
    algorithm: Algorithm,
    username: &'a [u8],
    realm: &'a [u8],
    password: &'a [u8],
    nonce: &'a [u8],
    method: &'a [u8],
    uri: &'a [u8],
    /// Nonce count as written, and client nonce.
    qop_auth: Option<(&'a [u8], &'a [u8])>,
}

impl Proof<'_> {
    /// RFC 7616 §3.4.1 with qop, RFC 2617 §3.2.2.1 without.
    fn response(&self) -> String {
        let who = self.algorithm.hash(&[self.username, self.realm, self.password]);
        let what = self.algorithm.hash(&[self.method, self.uri]);
        match self.qop_auth {
            Some((count, cnonce)) => {
                self.algorithm.hash(&[who.as_bytes(), self.nonce, count, cnonce, b"auth", what.as_bytes()])
            }
            None => self.algorithm.hash(&[who.as_bytes(), self.nonce, what.as_bytes()]),
        }
    }
}

/// What the response must be, or `None` if the credentials cannot fit at all.
fn expected_response(
    credentials: &Credentials<'_>,
    method: &[u8],
    realm: &[u8],
    nonce: &[u8],
    password: &str,
) -> Option<String> {
    if !credentials.scheme.eq_ignore_ascii_case(b"Digest") {
        return None;
    }
    if credentials.realm()? != realm || credentials.nonce()? != nonce {
        return None;
    }
    let algorithm = match credentials.algorithm() {
        Some(token) => Algorithm::from_token(token)?,
        None => Algorithm::Md5,
    };
    let qop_auth = match credentials.qop() {
        Some(qop) if qop.eq_ignore_ascii_case(b"auth") => Some((credentials.nc()?, credentials.cnonce()?)),
        Some(_) => return None,
        None => None,
    };
    let username = unescape(credentials.username()?);
    let proof = Proof {
        algorithm,
        username: &username,
        realm,
        password: password.as_bytes(),
        nonce,
        method,
        uri: credentials.uri()?,
        qop_auth,
    };
    Some(proof.response())
}

/// The algorithm of a challenge that can be answered.
fn answerable(challenge: &Challenge<'_>) -> Option<Algorithm> {
    if !challenge.scheme.eq_ignore_ascii_case(b"Digest") || !challenge.qop().is_none_or(offers_auth) {
        return None;
    }
    match challenge.algorithm() {
        Some(token) => Algorithm::from_token(token),
        None => Some(Algorithm::Md5),
    }
}

fn hash_of<D: Digest>(parts: &[&[u8]]) -> String {
    let mut hasher = D::new();
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            hasher.update(b":");
        }
        hasher.update(part);
    }
    let mut digits = String::with_capacity(64);
    for octet in hasher.finalize().iter() {
        write!(digits, "{octet:02x}").expect("writing to a String cannot fail");
    }
    digits
}

fn nonce_count(count: u32) -> String {
    format!("{count:08x}")
}

/// No early exit at the first difference, so that the time taken tells nothing about it.
fn equal_in_constant_time(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let difference = left.iter().zip(right).fold(0_u8, |difference, (a, b)| difference | (a ^ b));
    std::hint::black_box(difference) == 0
}

/// The inside of a quoted string: quotes and backslashes get a backslash (RFC 3261 §25.1).
fn escape(plain: &str) -> String {
    let mut escaped = String::with_capacity(plain.len());
    for character in plain.chars() {
        if matches!(character, '"' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// The reverse of [`escape`].
fn unescape(quoted: &[u8]) -> Cow<'_, [u8]> {
    if !quoted.contains(&b'\\') {
        return Cow::Borrowed(quoted);
    }
    let mut plain = Vec::with_capacity(quoted.len());
    let mut octets = quoted.iter().copied();
    while let Some(octet) = octets.next() {
        let octet = if octet == b'\\' { octets.next().unwrap_or(octet) } else { octet };
        plain.push(octet);
    }
    Cow::Owned(plain)
}

/// Parameters of real challenges are ASCII or UTF-8; what is neither cannot be answered and is sent back with marks.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Limits, Message, parse};

    /// RFC 7616 §3.9.1.
    const MUFASA: Answer<'static> = Answer {
        algorithm: Algorithm::Md5,
        username: "Mufasa",
        realm: b"http-auth@example.org",
        password: "Circle of Life",
        nonce: b"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
        method: b"GET",
        uri: b"/dir/index.html",
        qop_auth: Some((1, b"f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ")),
    };

    const BOB: Answer<'static> = Answer {
        algorithm: Algorithm::Md5,
        username: "bob",
        realm: b"biloxi.com",
        password: "zanzibar",
        nonce: b"dcd98b7102dd2f0e8b11d0f600bfb0c093",
        method: b"INVITE",
        uri: b"sip:bob@biloxi.com",
        qop_auth: None,
    };

    fn with_lines(lines: &str) -> Vec<u8> {
        format!(
            "INVITE sip:bob@biloxi.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKa\r\n{lines}\
             Content-Length: 0\r\n\r\n"
        )
        .into_bytes()
    }

    fn parsed(bytes: &[u8]) -> Message<'_> {
        parse(bytes, &Limits::default()).expect("the test's message has a shape")
    }

    fn verifies(line: &str, method: &[u8], nonce: &[u8], password: &str) -> bool {
        let bytes = with_lines(line);
        let message = parsed(&bytes);
        let credentials = message.credentials().next().expect("the test's message has credentials");
        verify(&credentials, method, b"biloxi.com", nonce, password)
    }

    /// The algorithm and nonce of the challenge chosen.
    fn chosen(lines: &str) -> Option<(Option<String>, String)> {
        let bytes = with_lines(lines);
        let message = parsed(&bytes);
        let challenge = strongest(message.challenges())?;
        let owned = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Some((challenge.algorithm().map(owned), challenge.nonce().map(owned).unwrap_or_default()))
    }

    #[test]
    fn md5_and_sha_256_of_rfc_7616_section_3_9_1() {
        assert_eq!(response(&MUFASA), "8ca523f5e9506fed4657c9700eebdbec");
        assert_eq!(
            response(&Answer { algorithm: Algorithm::Sha256, ..MUFASA }),
            "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"
        );
    }

    #[test]
    fn sha_512_256_of_rfc_7616_section_3_9_2_as_corrected_by_erratum_4897() {
        let answer = Answer {
            algorithm: Algorithm::Sha512_256,
            username: "J\u{e4}s\u{f8}n Doe",
            realm: b"api@example.org",
            password: "Secret, or not?",
            nonce: b"5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK",
            method: b"GET",
            uri: b"/doe.json",
            qop_auth: Some((1, b"NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v")),
        };
        assert_eq!(response(&answer), "3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5");
    }

    #[test]
    fn md5_of_rfc_2617_section_3_5() {
        let answer = Answer {
            realm: b"testrealm@host.com",
            password: "Circle Of Life",
            nonce: b"dcd98b7102dd2f0e8b11d0f600bfb0c093",
            qop_auth: Some((1, b"0a4f113b")),
            ..MUFASA
        };
        assert_eq!(response(&answer), "6629fae49393a05397450978507c4ef1");
    }

    #[test]
    fn md5_with_and_without_qop_for_a_sip_uri() {
        assert_eq!(response(&BOB), "bf57e4e0d0bffc0fbaedce64d59add5e");
        let with_qop = Answer { qop_auth: Some((1, b"0a4f113b")), ..BOB };
        assert_eq!(response(&with_qop), "89eb0059246c02b2f6ee02c7961d5ea3");
    }

    #[test]
    fn an_authorization_line_holds_each_parameter() {
        assert_eq!(
            authorization(&BOB, false, None),
            "Authorization: Digest username=\"bob\", realm=\"biloxi.com\", \
             nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", uri=\"sip:bob@biloxi.com\", \
             response=\"bf57e4e0d0bffc0fbaedce64d59add5e\", algorithm=MD5\r\n"
        );
        let with_qop = Answer { qop_auth: Some((1, b"0a4f113b")), ..BOB };
        assert_eq!(
            authorization(&with_qop, true, Some(b"5ccc")),
            "Proxy-Authorization: Digest username=\"bob\", realm=\"biloxi.com\", \
             nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", uri=\"sip:bob@biloxi.com\", \
             response=\"89eb0059246c02b2f6ee02c7961d5ea3\", algorithm=MD5, opaque=\"5ccc\", \
             qop=auth, nc=00000001, cnonce=\"0a4f113b\"\r\n"
        );
    }

    #[test]
    fn nonce_counts_are_eight_hexadecimal_digits() {
        assert_eq!(nonce_count(1), "00000001");
        assert_eq!(nonce_count(0xabc), "00000abc");
    }

    #[test]
    fn what_authorization_writes_verify_accepts() {
        for algorithm in [Algorithm::Md5, Algorithm::Sha256, Algorithm::Sha512_256] {
            for qop_auth in [None, Some((10_u32, b"0a4f113b".as_slice()))] {
                let line = authorization(&Answer { algorithm, qop_auth, ..BOB }, false, Some(b"o"));
                assert!(verifies(&line, b"INVITE", BOB.nonce, "zanzibar"), "{line}");
                assert!(!verifies(&line, b"INVITE", BOB.nonce, "Zanzibar"), "{line}");
                assert!(!verifies(&line, b"BYE", BOB.nonce, "zanzibar"), "{line}");
                assert!(!verifies(&line, b"INVITE", b"another nonce", "zanzibar"), "{line}");
            }
        }
    }

    #[test]
    fn verify_refuses_what_it_does_not_know_or_what_is_missing() {
        let good = authorization(&BOB, false, None);
        for (found, put) in [
            ("algorithm=MD5", "algorithm=MD5-sess"),
            ("algorithm=MD5", "algorithm=MD5, qop=auth-int, nc=00000001, cnonce=\"x\""),
            ("algorithm=MD5", "algorithm=MD5, qop=auth"),
            ("username=\"bob\", ", ""),
            ("realm=\"biloxi.com\"", "realm=\"other.com\""),
            ("response=\"bf57", "response=\"bf58"),
            ("9add5e\"", "9add5\""),
            ("Digest", "Basic"),
        ] {
            let line = good.replace(found, put);
            assert_ne!(line, good, "{found} stands in the line");
            assert!(!verifies(&line, b"INVITE", BOB.nonce, "zanzibar"), "{line}");
        }
    }

    #[test]
    fn a_proof_for_auth_is_refused_under_the_name_of_auth_int() {
        let line = authorization(&Answer { qop_auth: Some((1, b"0a4f113b")), ..BOB }, false, None);
        for (qop, expected) in [("qop=auth", true), ("qop=AUTH", true), ("qop=auth-int", false)] {
            let line = line.replace("qop=auth", qop);
            assert_eq!(verifies(&line, b"INVITE", BOB.nonce, "zanzibar"), expected, "{line}");
        }
    }

    #[test]
    fn a_missing_algorithm_means_md5() {
        let line = authorization(&BOB, false, None).replace(", algorithm=MD5", "");
        assert!(verifies(&line, b"INVITE", BOB.nonce, "zanzibar"), "{line}");
    }

    #[test]
    fn a_challenge_line_holds_each_parameter() {
        assert_eq!(
            challenge_line("biloxi.com", "n1", Algorithm::Sha256, false, false),
            "WWW-Authenticate: Digest realm=\"biloxi.com\", nonce=\"n1\", algorithm=SHA-256, qop=\"auth\"\r\n"
        );
        assert_eq!(
            challenge_line(b"biloxi.com", b"n2", Algorithm::Md5, true, true),
            "Proxy-Authenticate: Digest realm=\"biloxi.com\", nonce=\"n2\", algorithm=MD5, qop=\"auth\", \
             stale=TRUE\r\n"
        );
    }

    #[test]
    fn the_strongest_challenge_wins_whatever_the_order() {
        let md5 = challenge_line("r", "n1", Algorithm::Md5, false, false);
        let sha256 = challenge_line("r", "n2", Algorithm::Sha256, false, false);
        let sha512 = challenge_line("r", "n3", Algorithm::Sha512_256, false, false);
        for lines in [format!("{md5}{sha512}{sha256}"), format!("{sha512}{sha256}{md5}")] {
            assert_eq!(chosen(&lines), Some((Some("SHA-512-256".to_owned()), "n3".to_owned())));
        }
        assert_eq!(chosen(&format!("{md5}{sha256}")), Some((Some("SHA-256".to_owned()), "n2".to_owned())));
    }

    #[test]
    fn among_equals_the_topmost_wins() {
        let first = challenge_line("r", "n1", Algorithm::Md5, false, false);
        let second = challenge_line("r", "n2", Algorithm::Md5, false, false);
        assert_eq!(chosen(&format!("{first}{second}")), Some((Some("MD5".to_owned()), "n1".to_owned())));
    }

    #[test]
    fn challenges_that_cannot_be_answered_are_passed_over() {
        let unanswerable = "WWW-Authenticate: Digest realm=\"r\", nonce=\"a\", algorithm=SHA-256-sess\r\n\
                            WWW-Authenticate: Digest realm=\"r\", nonce=\"b\", qop=\"auth-int\"\r\n\
                            WWW-Authenticate: Bearer realm=\"r\"\r\n";
        assert_eq!(chosen(unanswerable), None);
        let plain = "WWW-Authenticate: digest realm=\"r\", nonce=\"c\"\r\n";
        assert_eq!(chosen(&format!("{unanswerable}{plain}")), Some((None, "c".to_owned())));
    }

    #[test]
    fn offers_auth_reads_a_list() {
        for (qop, expected) in
            [("auth", true), ("auth,auth-int", true), ("auth-int, AUTH", true), ("auth-int", false), ("", false)]
        {
            assert_eq!(offers_auth(qop.as_bytes()), expected, "{qop}");
        }
    }

    #[test]
    fn tokens_are_read_in_any_case() {
        for algorithm in [Algorithm::Md5, Algorithm::Sha256, Algorithm::Sha512_256] {
            assert_eq!(Algorithm::from_token(algorithm.as_str().as_bytes()), Some(algorithm));
        }
        assert_eq!(Algorithm::from_token(b"md5"), Some(Algorithm::Md5));
        assert_eq!(Algorithm::from_token(b"MD5-sess"), None);
        assert_eq!(Algorithm::from_token(b""), None);
    }

    #[test]
    fn escapes_come_back_as_they_were() {
        for plain in ["bob", "b\"o\\b", "\\", ""] {
            assert_eq!(&*unescape(escape(plain).as_bytes()), plain.as_bytes());
        }
        assert_eq!(&*unescape(b"ends in \\"), b"ends in \\");
    }

    #[test]
    fn comparison_sees_length_and_every_octet() {
        assert!(equal_in_constant_time(b"abc", b"abc"));
        assert!(!equal_in_constant_time(b"abc", b"abd"));
        assert!(!equal_in_constant_time(b"abc", b"ab"));
        assert!(!equal_in_constant_time(b"abc", b"bac"), "two differences do not make up for each other");
        assert!(equal_in_constant_time(b"", b""));
    }
}
