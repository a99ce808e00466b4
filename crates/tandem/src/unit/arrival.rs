//! Where a message that is only to be explained is taken to come from.

use engine::{Flow, Listener, Settings};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The flow of a message that arrives at `listener` ("udp:ADDRESS:PORT", by default the first that fits) from `source` (by default
/// an address that nobody has, RFC 5737 and RFC 3849).
///
/// # Errors
/// What does not fit the configuration, as a sentence.
pub(crate) fn flow(settings: &Settings, listener: Option<&str>, source: Option<SocketAddr>) -> Result<Flow, String> {
    let listener = match listener {
        Some(name) => named(settings, name)?,
        None => fitting(settings, source)?,
    };
    let remote = source.unwrap_or_else(|| stranger(listener.bind.is_ipv4()));
    if remote.is_ipv4() != listener.bind.is_ipv4() {
        return Err(format!("{remote} and the listener {} are of different address families", name_of(listener)));
    }
    Ok(Flow::of_datagram(listener.id, listener.bind.ip(), remote))
}

/// As written in the configuration, a wildcard as its address.
pub(crate) fn name_of(listener: &Listener) -> String {
    format!("{}:{}", listener.transport.name(), listener.bind)
}

fn listeners(settings: &Settings) -> impl Iterator<Item = &Listener> {
    settings.farms.iter().flat_map(|farm| &farm.listeners)
}

fn named<'a>(settings: &'a Settings, name: &str) -> Result<&'a Listener, String> {
    let wanted = name.replace('*', "0.0.0.0");
    listeners(settings).find(|listener| name_of(listener) == wanted).ok_or_else(|| {
        let known: Vec<String> = listeners(settings).map(name_of).collect();
        format!("there is no listener {name}; there are {}", known.join(", "))
    })
}

/// Backends arrive inside, all others outside.
fn fitting(settings: &Settings, source: Option<SocketAddr>) -> Result<&Listener, String> {
    let is_backend = source.is_some_and(|source| {
        settings.farms.iter().flat_map(|farm| &farm.backends).any(|backend| backend.address == source)
    });
    listeners(settings)
        .filter(|listener| if is_backend { listener.inside } else { listener.outside })
        .find(|listener| source.is_none_or(|source| source.is_ipv4() == listener.bind.is_ipv4()))
        .ok_or_else(|| match source {
            Some(source) => format!("no listener has the address family of {source}"),
            None => "no farm has a listener".to_owned(),
        })
}

fn stranger(ipv4: bool) -> SocketAddr {
    let address = if ipv4 {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))
    } else {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))
    };
    SocketAddr::new(address, 5060)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let text = "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:127.0.0.1:5060\", \"udp:[::1]:5060\"]\n\
                    inside = [\"udp:127.0.0.2:5060\", \"udp:[::1]:5070\"]\n\
                    [[farm.backend]]\naddress = \"127.0.0.11:5060\"\n";
        match config::load("a.toml", text) {
            Ok(checked) => checked.settings,
            Err(errors) => panic!("{errors:?}"),
        }
    }

    fn local(listener: Option<&str>, source: Option<&str>) -> Result<String, String> {
        let settings = settings();
        let source = source.map(|text| text.parse::<SocketAddr>().expect("a valid address"));
        let flow = flow(&settings, listener, source)?;
        Ok(format!("{} from {}", flow.local, flow.remote))
    }

    #[test]
    fn the_listener_follows_from_the_sender() {
        assert_eq!(local(None, None).as_deref(), Ok("127.0.0.1 from 192.0.2.1:5060"));
        assert_eq!(local(None, Some("[2001:db8::7]:5080")).as_deref(), Ok("::1 from [2001:db8::7]:5080"));
        assert_eq!(local(None, Some("127.0.0.11:5060")).as_deref(), Ok("127.0.0.2 from 127.0.0.11:5060"));
        assert_eq!(local(Some("udp:[::1]:5060"), None).as_deref(), Ok("::1 from [2001:db8::1]:5060"));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let error = local(Some("udp:127.0.0.9:5060"), None).expect_err("there is no such listener");
        assert!(error.contains("127.0.0.9") && error.contains("udp:127.0.0.1:5060"), "{error}");
        let error = local(Some("udp:127.0.0.1:5060"), Some("[::1]:9")).expect_err("the families differ");
        assert!(error.contains("different address families"), "{error}");
    }
}
