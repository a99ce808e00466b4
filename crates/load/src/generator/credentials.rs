//! Answers to challenges.

use super::settings::{Details, Kind};
use super::user::UserName;
use sip::digest::{self, Algorithm};

/// What all users' credentials are made of.
pub(super) struct Accounts {
    password: String,
    name: UserName,
    callee: UserName,
    domain: String,
    kind: Kind,
}

impl Accounts {
    /// `None` without a password.
    pub(super) fn new(kind: Kind, domain: &str, details: &Details) -> Option<Self> {
        Some(Self {
            password: details.password.clone()?,
            name: details.caller_name.clone(),
            callee: details.callee_name.clone(),
            domain: domain.to_owned(),
            kind,
        })
    }

    /// The header line that answers the challenge in `message` (RFC 8760) for the user with this number; `None` if there is no challenge
    /// that can be answered.
    pub(super) fn answer(&self, message: &[u8], number: u32) -> Option<String> {
        let message = sip::parse(message, &sip::Limits::default()).ok()?;
        let challenge = digest::strongest(message.challenges())?;
        let username = self.name.of(number);
        let uri = self.uri(number);
        let answer = digest::Answer {
            algorithm: challenge.algorithm().map_or(Some(Algorithm::Md5), Algorithm::from_token)?,
            username: &username,
            realm: challenge.realm()?,
            password: &self.password,
            nonce: challenge.nonce()?,
            method: self.kind.method().as_bytes(),
            uri: uri.as_bytes(),
            qop_auth: challenge.qop().filter(|qop| digest::offers_auth(qop)).map(|_| (1, CLIENT_NONCE)),
        };
        Some(digest::authorization(&answer, challenge.proxy, challenge.opaque()))
    }

    /// The Request-URI of the request that is challenged.
    fn uri(&self, number: u32) -> String {
        match self.kind {
            Kind::Register => format!("sip:{}", self.domain),
            Kind::Call | Kind::Options => format!("sip:{}@{}", self.callee.of(number), self.domain),
        }
    }
}

/// A client nonce that everybody may know: a load proves nothing to anybody.
const CLIENT_NONCE: &[u8] = b"tandem-load";
