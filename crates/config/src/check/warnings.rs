//! What is allowed and probably not meant.

use super::farm::Draft;
use crate::report::Report;
use engine::{Farm, Listener, Rule, Service};
use std::net::{IpAddr, Ipv4Addr};

pub(super) fn warn(draft: &Draft<'_>, report: &mut Report<'_>) {
    unused_services(draft, report);
    split_users(draft, report);
    public_farm(draft, report);
}

/// Services that no request reaches, or that reach no backend.
fn unused_services(draft: &Draft<'_>, report: &mut Report<'_>) {
    let mut catch_all: Option<&str> = None;
    for ((service, span), pool) in draft.farm.services.iter().zip(&draft.services).zip(&draft.pools) {
        if let Some(first) = catch_all
            && !is_referred_to(&draft.farm, service)
        {
            let message =
                format!("service \"{}\" is never reached: \"{first}\" before it matches everything", service.name);
            report.warning(span, message, "move it up: the first service in file order whose rule matches serves");
        } else if pool.is_empty() && !draft.entries.is_empty() {
            let message = format!("service \"{}\" has no backend", service.name);
            report.warning(
                span,
                message,
                format!("name it in `service` of a [[farm.backend]]: service = [\"{}\"]", service.name),
            );
        }
        if catch_all.is_none() && is_catch_all(&service.rule) {
            catch_all = Some(&service.name);
        }
    }
}

/// A trunk or a fallback may lead to a service that no rule leads to.
fn is_referred_to(farm: &Farm, service: &Service) -> bool {
    let index = farm.services.iter().position(|other| other.name == service.name);
    let by_trunk = farm.trunks.iter().any(|trunk| trunk.service.is_some() && trunk.service == index);
    let by_fallback = farm.services.iter().any(|other| match other.fallback {
        engine::Fallback::Service(to) => Some(to) == index,
        engine::Fallback::Status(_) => false,
    });
    by_trunk || by_fallback
}

fn is_catch_all(rule: &Rule) -> bool {
    rule.domain.is_empty()
        && rule.trunk.is_empty()
        && rule.from_user.is_none()
        && rule.method.is_empty()
        && rule.user.is_none()
        && rule.source.is_empty()
        && rule.header.is_empty()
}

/// A user whose REGISTER reaches one pool and whose INVITE another calls a PBX that does not know him.
fn split_users(draft: &Draft<'_>, report: &mut Report<'_>) {
    for ((service, span), pool) in draft.farm.services.iter().zip(&draft.services).zip(&draft.pools) {
        let Some(condition) = splitting_condition(&service.rule) else {
            continue;
        };
        if draft.pools.iter().any(|other| other != pool) {
            let message = format!(
                "`{condition}` may send a user's REGISTER and INVITE to different services (\"{}\" and another)",
                service.name
            );
            let hint = "give these services the same backends, or match on `domain`, `from_user` or `source`";
            report.warning(span, message, hint);
        }
    }
}

/// The condition that a user's REGISTER may fulfil and his INVITE not, or the other way round. A user is not a trunk, but
/// calls from a trunk to a user must find the pool that he registered at.
fn splitting_condition(rule: &Rule) -> Option<&'static str> {
    let has = |method: &str| rule.method.iter().any(|known| known == method);
    if has("REGISTER") != has("INVITE") {
        Some("method")
    } else if !rule.header.is_empty() {
        Some("header")
    } else if rule.user.is_some() {
        Some("user")
    } else if !rule.trunk.is_empty() {
        Some("trunk")
    } else {
        None
    }
}

/// Where the farm's address is known to everybody, PBXs must be set up for that.
fn public_farm(draft: &Draft<'_>, report: &mut Report<'_>) {
    let farm = &draft.farm;
    let public = farm
        .listeners
        .iter()
        .zip(&draft.listeners)
        .find(|(listener, _)| listener.outside && is_public_listener(listener));
    if let Some((_, span)) = public {
        if farm.backends.iter().any(|backend| is_private(backend.address.ip())) {
            let message = "this listener is public and backends are private: media does not pass the farm, so phones would send it to private addresses";
            let hint = "set the public address as external_media_address, and localnet, on each PBX";
            report.warning(span, message, hint);
        }
        if let Some(header) = &farm.origin_header {
            let message = "PBXs see all traffic of this public farm come from one address: one that trusts that address trusts everybody";
            let hint = format!(
                "match trunks by the header \"{header}: trunk NAME\", never by address alone, and exempt the farm from fail2ban"
            );
            report.warning(span, message, hint);
        }
    }
    if farm.origin_header.is_none() && (public.is_some() || !farm.trunks.is_empty()) {
        let message = "without `origin_header` a PBX cannot tell trunks from phones: all their requests come from the farm's address";
        report.warning(&draft.header, message, "leave `origin_header` at its default, \"X-Tandem-Origin\"");
    }
}

fn is_public_listener(listener: &Listener) -> bool {
    let advertised = listener.advertise.as_ref().and_then(|written| {
        let host = written.host.trim_start_matches('[').trim_end_matches(']');
        host.parse::<IpAddr>().ok()
    });
    !is_private(advertised.unwrap_or(listener.bind.ip()))
}

/// Addresses that nobody out in the Internet can send to. A wildcard counts among them: it says nothing.
fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_private_v4(v4),
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    // RFC 6598: between a carrier and its customers.
    let is_shared = first == 100 && (64..128).contains(&second);
    address.is_unspecified() || address.is_loopback() || address.is_private() || address.is_link_local() || is_shared
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(text: &str) -> Vec<String> {
        let checked = crate::load("f", text).expect("the file is right");
        checked.warnings.into_iter().map(|warning| warning.message).collect()
    }

    fn farm(listen: &str, rest: &str) -> String {
        format!("[[farm]]\nname = \"a\"\nlisten = [\"{listen}\"]\n{rest}")
    }

    const BACKENDS: &str = "[[farm.backend]]\naddress = \"10.0.0.11\"\nservice = [\"one\"]\n\
        [[farm.backend]]\naddress = \"10.0.0.12\"\nservice = [\"two\"]\n";

    #[test]
    fn a_public_farm_warns_of_media_and_of_trust() {
        let backend = "[[farm.backend]]\naddress = \"10.0.0.11\"\n";
        let found = warnings(&farm("udp:203.0.113.10:5060", backend));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().any(|message| message.contains("media")));
        assert!(found.iter().any(|message| message.contains("trusts everybody")));
        assert!(warnings(&farm("udp:10.0.0.2:5060", backend)).is_empty());
        assert!(warnings(&farm("udp:*:5060", backend)).is_empty());
        let advertised = format!("advertise = \"203.0.113.7\"\n{backend}");
        assert_eq!(warnings(&farm("udp:10.0.0.2:5060", &advertised)).len(), 2);
    }

    #[test]
    fn a_public_farm_of_public_backends_warns_of_trust_only() {
        let found = warnings(&farm(
            "udp:203.0.113.10:5060",
            "origin_header = \"\"\n[[farm.backend]]\naddress = \"203.0.113.11\"\n",
        ));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found.iter().all(|message| message.starts_with("without `origin_header`")));
    }

    #[test]
    fn split_users_are_warned_of_unless_the_pools_are_the_same() {
        let services =
            "[[farm.service]]\nname = \"one\"\nmatch = { method = [\"REGISTER\"] }\n[[farm.service]]\nname = \"two\"\n";
        let found = warnings(&farm("udp:10.0.0.2:5060", &format!("{services}{BACKENDS}")));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found.iter().all(|message| message.starts_with("`method`")));
        let both = "[[farm.backend]]\naddress = \"10.0.0.11\"\nservice = [\"one\", \"two\"]\n";
        assert!(warnings(&farm("udp:10.0.0.2:5060", &format!("{services}{both}"))).is_empty());
        let by_domain = services.replace("method = [\"REGISTER\"]", "domain = [\"a.org\"]");
        assert!(warnings(&farm("udp:10.0.0.2:5060", &format!("{by_domain}{BACKENDS}"))).is_empty());
    }

    #[test]
    fn services_without_use_are_warned_of() {
        let services = "[[farm.service]]\nname = \"one\"\n[[farm.service]]\nname = \"two\"\n[[farm.service]]\nname = \"three\"\n\
            match = { domain = [\"a.org\"] }\n";
        let found = warnings(&farm("udp:10.0.0.2:5060", &format!("{services}{BACKENDS}")));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().all(|message| message.contains("never reached")));
        let moved = "[[farm.service]]\nname = \"three\"\nmatch = { domain = [\"a.org\"] }\n[[farm.service]]\nname = \"one\"\nfallback = \"two\"\n\
            [[farm.service]]\nname = \"two\"\n";
        let found = warnings(&farm("udp:10.0.0.2:5060", &format!("{moved}{BACKENDS}")));
        assert_eq!(found, ["service \"three\" has no backend"]);
    }

    #[test]
    fn a_backend_by_name_is_one_before_anybody_knows_it() {
        let services =
            "[[farm.service]]\nname = \"one\"\nmatch = { method = [\"REGISTER\"] }\n[[farm.service]]\nname = \"two\"\n";
        let backend =
            |services: &str| format!("[[farm.backend]]\naddress = \"pbx.example.com\"\nservice = [{services}]\n");
        let both = format!("{services}{}", backend("\"one\", \"two\""));
        assert!(warnings(&farm("udp:10.0.0.2:5060", &both)).is_empty());
        let split =
            format!("{services}{}[[farm.backend]]\naddress = \"10.0.0.11\"\nservice = [\"one\"]\n", backend("\"two\""));
        let found = warnings(&farm("udp:10.0.0.2:5060", &split));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found.iter().all(|message| message.starts_with("`method`")));
        let found = warnings(&farm("udp:10.0.0.2:5060", &format!("{services}{}", backend("\"two\""))));
        assert!(found.contains(&"service \"one\" has no backend".to_owned()), "{found:?}");
    }

    #[test]
    fn private_addresses() {
        for private in [
            "10.1.1.1",
            "127.0.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "fd00::1",
            "::1",
            "::",
            "169.254.1.1",
            "::ffff:10.0.0.1",
        ] {
            assert_eq!(private.parse().map(is_private), Ok(true), "{private}");
        }
        for public in ["203.0.113.10", "8.8.8.8", "2001:db8::1", "100.128.0.1"] {
            assert_eq!(public.parse().map(is_private), Ok(false), "{public}");
        }
    }
}
