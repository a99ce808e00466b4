//! Match rules of services.

use super::Arrival;
use crate::origin::Origin;
use crate::settings::Rule;
use sip::{Host, Method, Uri};

impl Rule {
    /// Does a request fit? All conditions must hold, an empty one does.
    pub(super) fn matches(&self, arrival: &Arrival<'_>) -> bool {
        let target = addressed(arrival);
        self.matches_sender(arrival)
            && (self.method.is_empty() || {
                let method = arrival.message.method();
                self.method.iter().any(|known| known.as_bytes() == method.as_bytes())
            })
            && (self.domain.is_empty() || matches_domain(&self.domain, &target))
            && self.user.as_ref().is_none_or(|pattern| pattern.is_match(target.user.unwrap_or_default()))
            && self.header.iter().all(|(name, pattern)| {
                arrival.message.named(name.as_bytes()).any(|header| pattern.is_match(header.value))
            })
    }

    fn matches_sender(&self, arrival: &Arrival<'_>) -> bool {
        let trunk = match arrival.origin {
            Origin::Trunk(index) => Some(&arrival.farm.settings.trunks[index].name),
            _ => None,
        };
        let source = arrival.flow.remote.ip().to_canonical();
        (self.trunk.is_empty() || trunk.is_some_and(|name| self.trunk.contains(name)))
            && (self.source.is_empty() || self.source.iter().any(|net| net.contains(&source)))
            && self
                .from_user
                .as_ref()
                .is_none_or(|pattern| pattern.is_match(arrival.message.from().uri.user.unwrap_or_default()))
    }
}

/// The URI that says who is meant: of To for REGISTER, else the Request-URI.
pub(super) fn addressed<'m>(arrival: &Arrival<'m>) -> Uri<'m> {
    match arrival.message.method() {
        Method::Register => arrival.message.to().uri,
        _ => arrival.uri,
    }
}

fn matches_domain(domains: &[String], target: &Uri<'_>) -> bool {
    match target.host {
        Host::Name(name) => {
            let name = name.strip_suffix(b".").unwrap_or(name);
            domains.iter().any(|domain| domain.as_bytes().eq_ignore_ascii_case(name))
        }
        Host::Ip(address) => domains.iter().any(|domain| sip::uri::host(domain.as_bytes()) == Host::Ip(address)),
    }
}
