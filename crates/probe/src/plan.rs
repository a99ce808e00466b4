//! What a probe is told to do.

use crate::report::{Figure, Threshold};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// What carries the messages.
pub use ua::Carrier as Transport;

/// One check, with all names resolved.
#[derive(Clone)]
pub struct Plan {
    pub kind: Kind,
    pub transport: Transport,
    /// The whole run may take so long, clearing up included.
    pub limit: Duration,
    /// Who we are: a whole URI such as `sip:bonnie@example.com`.
    pub from: String,
    /// The name of the account; empty: the user of `from`.
    pub username: String,
    /// `None`: whoever asks for a password refuses us.
    pub password: Option<String>,
    /// Where requests go.
    pub proxy: SocketAddr,
    /// Where to register first and to un-register at the end; `None`: nowhere.
    pub registrar: Option<SocketAddr>,
    /// Seconds that a registration is asked to last.
    pub expires: u32,
    /// What makes a run that went well a warning or worse.
    pub thresholds: Vec<Threshold>,
}

impl Plan {
    /// Without audio the run has failed.
    pub(crate) fn wants_audio(&self) -> bool {
        let judged = [Figure::Loss, Figure::Jitter, Figure::Delay, Figure::Mos];
        match &self.kind {
            Kind::Call(call) => {
                call.expect_audio
                    || call.min_mos > 0.0
                    || self.thresholds.iter().any(|threshold| judged.contains(&threshold.figure))
            }
            Kind::Options { .. } | Kind::Register => false,
        }
    }
}

impl fmt::Debug for Plan {
    /// All but the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("kind", &self.kind)
            .field("transport", &self.transport)
            .field("limit", &self.limit)
            .field("from", &self.from)
            .field("username", &self.username)
            .field("proxy", &self.proxy)
            .field("registrar", &self.registrar)
            .field("thresholds", &self.thresholds)
            .finish_non_exhaustive()
    }
}

/// What is checked.
#[derive(Clone, PartialEq, Debug)]
pub enum Kind {
    /// One OPTIONS to a whole URI. Final answers within one of the ranges, ends included, are good; without ranges any is but
    /// 408 and 5xx.
    Options {
        target: String,
        accept: Vec<(u16, u16)>,
    },
    /// A binding is made and removed, at the registrar, or at the proxy where there is none.
    Register,
    Call(CallPlan),
}

/// A call to be placed.
#[derive(Clone, PartialEq, Debug)]
pub struct CallPlan {
    /// Whom to call: a whole URI.
    pub target: String,
    /// What to say, one after the other; nothing: a tone of two seconds.
    pub sounds: Vec<Sound>,
    /// The run fails if no audio comes back.
    pub expect_audio: bool,
    /// The run fails if what comes back is worth less; 0: not asked for.
    pub min_mos: f64,
}

/// Something to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sound {
    /// Where it came from, for messages.
    pub name: String,
    /// Octets of mu-law, 8,000 a second.
    pub samples: Arc<[u8]>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_shown_without_its_password() {
        let plan = Plan {
            kind: Kind::Register,
            transport: Transport::Udp,
            limit: Duration::from_secs(9),
            from: "sip:bonnie@example.com".to_owned(),
            username: String::new(),
            password: Some("a-secret".to_owned()),
            proxy: SocketAddr::from(([10, 0, 0, 11], 5060)),
            registrar: None,
            expires: 60,
            thresholds: Vec::new(),
        };
        let shown = format!("{plan:?}");
        assert!(shown.contains("sip:bonnie@example.com"), "{shown}");
        assert!(!shown.contains("a-secret"), "{shown}");
    }
}
