//! What is asked of the DNS, and what it said (RFC 3263), as plain data: `config` says which names a file needs, `net` finds out
//! what they mean, and `config` puts that into the settings. The engine itself knows addresses only.

use crate::settings::{Place, Transport};
use std::collections::BTreeMap;

/// A name as RFC 3263 §4 starts from it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Target {
    /// Lower case, without a dot at its end.
    pub host: String,
    /// Written: then only addresses are asked for, no services (§4.2).
    pub port: Option<u16>,
    /// Written: then nobody is asked which transport is spoken there (§4.1).
    pub transport: Option<Transport>,
}

/// One place that a name leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    pub place: Place,
    /// RFC 2782: the lower the sooner; 0 where no service record says.
    pub priority: u16,
    /// RFC 2782: the share among those of one priority; 0 where no service record says.
    pub weight: u16,
}

/// What is known of names: their places, best first, the same order from the same records. A name that nobody could answer is not
/// here; one that exists and leads nowhere has no places.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Answers(pub BTreeMap<Target, Vec<Found>>);

impl Answers {
    /// The places of a name; none if it is not known.
    pub fn of(&self, target: &Target) -> &[Found] {
        self.0.get(target).map_or(&[], Vec::as_slice)
    }
}

impl std::fmt::Display for Target {
    /// As it would be written in the file.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(transport) = self.transport {
            write!(formatter, "{}:", transport.name())?;
        }
        formatter.write_str(&self.host)?;
        match self.port {
            Some(port) => write!(formatter, ":{port}"),
            None => Ok(()),
        }
    }
}
