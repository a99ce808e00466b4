//! Digest from both sides (RFC 3261 §22): a user agent's answer to a challenge, and a PBX's check of the answer.

use crate::limits;
use crate::random::{Random, mix};
use sip::digest::{self, Algorithm, Answer, offers_auth};
use sip::message::Message;
use sip::time::Instant;
use sip::value::Challenge;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a nonce of ours is good; a later answer is told `stale`.
const NONCE_LIFETIME: Duration = Duration::from_secs(300);

/// Who we are to whoever asks.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl Login {
    /// The complete header lines that answer the challenges for one request, one for each.
    pub(crate) fn answer(
        &self,
        challenges: &mut [Challenged],
        method: &str,
        uri: &[u8],
        random: &mut Random,
    ) -> String {
        challenges.iter_mut().map(|challenged| challenged.answer(self, method, uri, &random.token())).collect()
    }
}

/// A challenge that we can answer, as often as its issuer lets us.
#[derive(Clone, Debug)]
pub(crate) struct Challenged {
    algorithm: Algorithm,
    realm: Vec<u8>,
    nonce: Vec<u8>,
    opaque: Option<Vec<u8>>,
    with_qop: bool,
    proxy: bool,
    /// The issuer knew our password but not the nonce any more.
    pub(crate) stale: bool,
    answers: u32,
}

impl Challenged {
    /// What we can answer of a 401 or 407: of each realm the strongest challenge, of servers and of proxies apart
    /// (RFC 3261 §22.3).
    pub(crate) fn read(response: &Message<'_>) -> Vec<Self> {
        let mut realms: Vec<(bool, &[u8])> = Vec::new();
        for challenge in response.challenges() {
            let Some(realm) = challenge.realm() else {
                continue;
            };
            if realms.len() < limits::REALMS && !realms.contains(&(challenge.proxy, realm)) {
                realms.push((challenge.proxy, realm));
            }
        }
        let strongest = realms.into_iter().filter_map(|(proxy, realm)| {
            let of_realm = |challenge: &Challenge<'_>| challenge.proxy == proxy && challenge.realm() == Some(realm);
            digest::strongest(response.challenges().filter(of_realm))
        });
        strongest.filter_map(|challenge| Self::of(&challenge)).collect()
    }

    /// Both come from the same realm, of a proxy or not, so that the answer to one takes the place of that to the other.
    pub(crate) fn has_realm_of(&self, other: &Self) -> bool {
        self.proxy == other.proxy && self.realm == other.realm
    }

    fn of(challenge: &Challenge<'_>) -> Option<Self> {
        let algorithm = match challenge.algorithm() {
            Some(token) => Algorithm::from_token(token)?,
            None => Algorithm::Md5,
        };
        Some(Self {
            algorithm,
            realm: challenge.realm()?.to_vec(),
            nonce: challenge.nonce()?.to_vec(),
            opaque: challenge.opaque().map(<[u8]>::to_vec),
            with_qop: challenge.qop().is_some_and(offers_auth),
            proxy: challenge.proxy,
            stale: challenge.stale(),
            answers: 0,
        })
    }

    /// The complete header line that answers the challenge for one request.
    fn answer(&mut self, login: &Login, method: &str, uri: &[u8], cnonce: &[u8]) -> String {
        self.answers = self.answers.saturating_add(1);
        let answer = Answer {
            algorithm: self.algorithm,
            username: &login.user,
            realm: &self.realm,
            password: &login.password,
            nonce: &self.nonce,
            method: method.as_bytes(),
            uri,
            qop_auth: if self.with_qop { Some((self.answers, cnonce)) } else { None },
        };
        digest::authorization(&answer, self.proxy, self.opaque.as_deref())
    }
}

/// Issues challenges and checks the answers. Its nonces hold their time of issue and a checksum, so that nothing is stored.
#[derive(Clone, Debug)]
pub(crate) struct Challenger {
    realm: String,
    algorithm: Algorithm,
    secret: u64,
}

/// What the credentials of a request are worth.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// The user proved the password.
    Proven(String),
    /// No credentials for our realm and with a nonce of ours: challenge.
    Unproven,
    /// The password is right and the nonce too old: challenge, with `stale`.
    Stale,
    /// Our nonce, but user or password are wrong: challenge.
    Wrong(String),
}

impl Challenger {
    pub(crate) fn new(realm: &str, algorithm: Algorithm, secret: u64) -> Self {
        Self { realm: realm.to_owned(), algorithm, secret }
    }

    /// The WWW-Authenticate line of a fresh challenge.
    pub(crate) fn challenge(&self, now: Instant, stale: bool) -> String {
        let micros = now.as_micros();
        let nonce = format!("{micros:016x}{:016x}", self.checksum(micros));
        digest::challenge_line(self.realm.as_bytes(), nonce.as_bytes(), self.algorithm, stale, false)
    }

    /// Judges the first credentials that answer a nonce of ours.
    pub(crate) fn judge(&self, now: Instant, request: &Message<'_>, passwords: &BTreeMap<String, String>) -> Verdict {
        let realm = self.realm.as_bytes();
        for credentials in request.credentials() {
            if credentials.realm() != Some(realm) {
                continue;
            }
            let Some(nonce) = credentials.nonce() else {
                continue;
            };
            let Some(issued) = self.issued_at(nonce) else {
                continue;
            };
            let Some(user) = credentials.username() else {
                continue;
            };
            let user = String::from_utf8_lossy(user).into_owned();
            let proven = passwords.get(&user).is_some_and(|password| {
                digest::verify(&credentials, request.method().as_bytes(), realm, nonce, password)
            });
            return match (proven, now.saturating_since(issued) > NONCE_LIFETIME) {
                (true, false) => Verdict::Proven(user),
                (true, true) => Verdict::Stale,
                (false, _) => Verdict::Wrong(user),
            };
        }
        Verdict::Unproven
    }

    fn checksum(&self, micros: u64) -> u64 {
        mix(self.secret ^ mix(micros))
    }

    /// When we issued this nonce; `None` if it is not ours.
    fn issued_at(&self, nonce: &[u8]) -> Option<Instant> {
        let text = std::str::from_utf8(nonce).ok()?;
        let (micros, checksum) = text.split_at_checked(16)?;
        let micros = u64::from_str_radix(micros, 16).ok()?;
        let checksum = u64::from_str_radix(checksum, 16).ok()?;
        (checksum == self.checksum(micros)).then_some(Instant::from_micros(micros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sip::message::{Limits, parse};

    const ALGORITHMS: [Algorithm; 3] = [Algorithm::Md5, Algorithm::Sha256, Algorithm::Sha512_256];

    fn challenge_response(line: &str) -> Vec<u8> {
        format!(
            "SIP/2.0 401 Unauthorized\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKx\r\nFrom: <sip:b@e>;tag=1\r\n\
             To: <sip:b@e>;tag=2\r\nCall-ID: 1\r\nCSeq: 1 REGISTER\r\n{line}Content-Length: 0\r\n\r\n"
        )
        .into_bytes()
    }

    fn register(line: &str) -> Vec<u8> {
        format!(
            "REGISTER sip:e SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKx\r\nFrom: <sip:b@e>;tag=1\r\n\
             To: <sip:b@e>\r\nCall-ID: 1\r\nCSeq: 2 REGISTER\r\n{line}Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        )
        .into_bytes()
    }

    fn verdict(challenger: &Challenger, later: Duration, password: &str, stale: bool) -> Verdict {
        let start = Instant::from_micros(1_000_000);
        let bytes = challenge_response(&challenger.challenge(start, stale));
        let response = parse(&bytes, &Limits::default()).expect("the test's response is well-formed");
        let mut challenged = Challenged::read(&response).pop().expect("our own challenge can be answered");
        assert_eq!(challenged.stale, stale);
        let login = Login { user: "b".to_owned(), password: password.to_owned() };
        let bytes = register(&challenged.answer(&login, "REGISTER", b"sip:e", b"cnonce"));
        let request = parse(&bytes, &Limits::default()).expect("the test's request is well-formed");
        let passwords = BTreeMap::from([("b".to_owned(), "secret".to_owned())]);
        challenger.judge(start + later, &request, &passwords)
    }

    #[test]
    fn a_right_answer_is_proven_with_each_algorithm() {
        for algorithm in ALGORITHMS {
            let challenger = Challenger::new("example.com", algorithm, 5);
            assert_eq!(verdict(&challenger, Duration::ZERO, "secret", false), Verdict::Proven("b".to_owned()));
        }
    }

    #[test]
    fn of_each_realm_the_strongest_challenge_is_read_and_of_proxies_apart() {
        let line =
            |realm: &str, nonce: &str, algorithm, proxy| digest::challenge_line(realm, nonce, algorithm, false, proxy);
        let lines = [
            line("a", "n1", Algorithm::Md5, false),
            line("b", "n2", Algorithm::Md5, false),
            line("a", "n3", Algorithm::Sha256, false),
            line("a", "n4", Algorithm::Md5, true),
            "WWW-Authenticate: Digest nonce=\"n5\"\r\nWWW-Authenticate: Digest realm=\"c\"\r\n".to_owned(),
        ];
        let bytes = challenge_response(&lines.concat());
        let response = parse(&bytes, &Limits::default()).expect("the test's response is well-formed");
        let nonces: Vec<Vec<u8>> = Challenged::read(&response).into_iter().map(|read| read.nonce).collect();
        assert_eq!(nonces, [b"n3", b"n2", b"n4"]);
    }

    #[test]
    fn a_response_of_many_realms_is_read_up_to_the_bound() {
        let line = |realm: usize| format!("WWW-Authenticate: Digest realm=\"{realm}\", nonce=\"n\"\r\n");
        let lines: Vec<String> = (0..=limits::REALMS).map(line).collect();
        let bytes = challenge_response(&lines.concat());
        let response = parse(&bytes, &Limits::default()).expect("the test's response is well-formed");
        assert_eq!(Challenged::read(&response).len(), limits::REALMS);
    }

    #[test]
    fn a_wrong_password_an_old_nonce_and_a_foreign_nonce_are_told_apart() {
        let challenger = Challenger::new("example.com", Algorithm::Sha256, 5);
        assert_eq!(verdict(&challenger, Duration::ZERO, "other", false), Verdict::Wrong("b".to_owned()));
        assert_eq!(verdict(&challenger, Duration::from_secs(301), "secret", true), Verdict::Stale);
        let bytes = register("");
        let request = parse(&bytes, &Limits::default()).expect("the test's request is well-formed");
        assert_eq!(challenger.judge(Instant::default(), &request, &BTreeMap::new()), Verdict::Unproven);
        let other = Challenger::new("example.com", Algorithm::Sha256, 6);
        let foreign = format!("{:016x}{:016x}", 9, other.checksum(9));
        assert_eq!(challenger.issued_at(foreign.as_bytes()), None);
        assert_eq!(other.issued_at(foreign.as_bytes()), Some(Instant::from_micros(9)));
    }
}
