//! The listeners of a farm, outside ones first.

use crate::report::Span;
use crate::section::{AdvertiseAs, ListenAt, Section, Value};
use engine::{Advertise, Listener, ListenerId};

/// The listeners and where they stand. Without `inside` those of `listen` serve both sides.
pub(super) fn listeners(farm: &Section) -> Vec<(Listener, Span)> {
    let farm_wide = farm.advertise("advertise");
    let inside = farm.list("inside");
    let outside = farm.list("listen").iter().filter_map(|item| match &item.value {
        Value::Listener(at) => Some((listener(at, farm_wide, true, inside.is_empty()), item.span.clone())),
        _ => None,
    });
    let inside = inside.iter().filter_map(|item| match &item.value {
        Value::Listener(at) => Some((listener(at, None, false, true), item.span.clone())),
        _ => None,
    });
    outside.chain(inside).collect()
}

fn listener(at: &ListenAt, farm_wide: Option<&AdvertiseAs>, outside: bool, inside: bool) -> Listener {
    let advertise = at
        .advertise
        .as_ref()
        .or(farm_wide)
        .map(|written| Advertise { host: written.host.clone(), port: written.port.unwrap_or(at.bind.port()) });
    Listener {
        id: ListenerId::of(at.transport.name(), at.bind),
        transport: at.transport,
        bind: at.bind,
        advertise,
        outside,
        inside,
    }
}

#[cfg(test)]
mod tests {
    fn listeners(lines: &str) -> Vec<engine::Listener> {
        let text = format!("[[farm]]\nname = \"a\"\n{lines}\n[[farm.backend]]\naddress = \"127.0.0.11\"\n");
        let checked = crate::load("f", &text).expect("the file is right");
        checked.settings.farms.into_iter().flat_map(|farm| farm.listeners).collect()
    }

    fn advertised(listener: &engine::Listener) -> Option<(&str, u16)> {
        listener.advertise.as_ref().map(|written| (written.host.as_str(), written.port))
    }

    #[test]
    fn outside_first_then_inside() {
        let found = listeners("listen = [\"udp:127.0.0.1:5060\"]\ninside = [\"udp:127.0.0.1:5070\"]");
        let sides: Vec<(bool, bool)> = found.iter().map(|listener| (listener.outside, listener.inside)).collect();
        assert_eq!(sides, [(true, false), (false, true)]);
    }

    #[test]
    fn an_entrys_own_advertise_wins_over_the_farms() {
        let found = listeners(
            "advertise = \"sip.example.com\"\ninside = [\"udp:127.0.0.1:5090\"]\n\
             listen = [\"udp:127.0.0.1:5060\", { bind = \"udp:127.0.0.2:5080\", advertise = \"203.0.113.7:5062\" }]",
        );
        let names: Vec<Option<(&str, u16)>> = found.iter().map(advertised).collect();
        assert_eq!(names, [Some(("sip.example.com", 5060)), Some(("203.0.113.7", 5062)), None]);
    }
}
