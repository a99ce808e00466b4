//! The trunks of a farm.

use super::farm::Names;
use super::identity;
use super::outside::Outside;
use crate::report::{Report, Span};
use crate::section::{Section, Value};
use engine::Trunk;
use ipnet::IpNet;

/// One trunk for each section, also for a broken one: indices depend on it.
pub(super) fn trunks(
    sections: &[Section],
    names: &Names<'_>,
    outside: &Outside<'_>,
    report: &mut Report<'_>,
) -> Vec<Trunk> {
    identity::unique_names("trunk", sections, report);
    let mut taken: Vec<(IpNet, &str)> = Vec::new();
    let mut trunks = Vec::with_capacity(sections.len());
    for section in sections {
        let name = section.optional_text("name").unwrap_or_default();
        for item in section.list("addresses") {
            let Value::Network(network) = item.value else {
                continue;
            };
            claim(network, name, &item.span, &mut taken, report);
        }
        let service =
            section.optional_text("service").and_then(|to| names.service(to, section.span_of("service"), report));
        trunks.push(Trunk {
            name: name.to_owned(),
            addresses: section.networks("addresses"),
            service,
            trusted: section.boolean("trusted"),
            out: outside.places(section),
            verify: section.verify("verify").clone(),
        });
    }
    trunks
}

/// A request from an address of two trunks would be of either.
fn claim<'s>(network: IpNet, name: &'s str, span: &Span, taken: &mut Vec<(IpNet, &'s str)>, report: &mut Report<'_>) {
    let other =
        taken.iter().find(|(known, owner)| *owner != name && (known.contains(&network) || network.contains(known)));
    if let Some((known, owner)) = other {
        report.error(span, format!("{network} meets {known} of trunk `{owner}`: it must be clear whose a request is"));
    }
    taken.push((network, name));
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_trunk_arrives() {
        let text = "[[farm]]\nname = \"a\"\nlisten = [\"udp:127.0.0.1:5060\"]\n\
            [[farm.trunk]]\nname = \"carrier\"\naddresses = [\"198.51.100.0/28\", \"127.0.0.9\"]\nservice = \"default\"\ntrusted = true\n\
            out = [\"198.51.100.1:5060\"]\n[[farm.backend]]\naddress = \"127.0.0.11\"\n";
        let checked = crate::load("f", text).expect("the file is right");
        let trunk = checked.settings.farms.first().and_then(|farm| farm.trunks.first()).expect("one trunk is written");
        assert_eq!((trunk.name.as_str(), trunk.service, trunk.trusted), ("carrier", Some(0), true));
        let addresses: Vec<String> = trunk.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["198.51.100.0/28", "127.0.0.9/32"]);
        let over_udp = engine::Place {
            transport: engine::Transport::Udp,
            address: "198.51.100.1:5060".parse().expect("an address"),
            host: None,
        };
        assert_eq!((trunk.out.as_slice(), &trunk.verify), ([over_udp].as_slice(), &engine::Verify::System));
    }

    #[test]
    fn two_trunks_share_no_address() {
        let text = "[[farm]]\nname = \"a\"\nlisten = [\"udp:127.0.0.1:5060\"]\n\
            [[farm.trunk]]\nname = \"x\"\naddresses = [\"198.51.100.0/24\"]\n[[farm.trunk]]\nname = \"y\"\naddresses = [\"198.51.100.7\"]\n\
            [[farm.backend]]\naddress = \"127.0.0.11\"\n";
        let errors = crate::load("f", text).expect_err("the trunks share an address");
        assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), [9]);
    }
}
