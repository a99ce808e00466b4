//! The phones: `tandem load` over streams, as a program of its own with room for many connections.

use super::Carrier;
use crate::bench::process::{self, Running};
use crate::bench::{BALANCER, Bench, CALLEE, GENERATOR_CORE, loads};
use anyhow::Result;
use serde_json::Value;

/// What the phones are to do.
#[derive(Clone, Debug)]
pub(super) struct Phones {
    arguments: Vec<String>,
}

impl Phones {
    /// So many connections each with one ping of a user under way, answered by the callee.
    pub(super) fn pinging(carrier: Carrier, connections: u32) -> Self {
        Self::new("options", carrier, connections).answered()
    }

    /// Everybody registers at once with the callee.
    pub(super) fn storm(carrier: Carrier, connections: u32) -> Self {
        Self::new("registrations", carrier, connections).answered().flag("--storm")
    }

    /// Connections over which nothing but keep-alives goes.
    pub(super) fn idle(carrier: Carrier, connections: u32) -> Self {
        Self::new("idle", carrier, connections)
    }

    pub(super) fn with(mut self, option: &str, value: impl ToString) -> Self {
        self.arguments.extend([option.to_string(), value.to_string()]);
        self
    }

    pub(super) fn flag(mut self, option: &str) -> Self {
        self.arguments.push(option.to_string());
        self
    }

    /// What was reported. That something failed is in it, and no error here.
    pub(super) fn run(self, bench: &Bench<'_>, running: &Running) -> Result<Value> {
        let mut taskset = process::taskset(Some(DESCRIPTORS));
        loads::told_by(bench, running, taskset.args(["-c", GENERATOR_CORE]), self.arguments, &mut |_| Ok(()))
    }

    fn new(kind: &str, carrier: Carrier, connections: u32) -> Self {
        let phones = Self { arguments: vec![kind.to_string()] }
            .with("--to", carrier.address())
            .with("--transport", carrier.name())
            .with("--connections", connections)
            .flag("--json");
        if carrier == Carrier::Tls { phones.flag("--insecure") } else { phones }
    }

    /// With a server behind the balancer. The domain is the same over every transport.
    fn answered(self) -> Self {
        self.with("--answer", CALLEE).with("--domain", BALANCER)
    }
}

/// Lets this network use almost all ports: each connection needs one, and so does each that ended a moment ago.
pub(super) fn widen_ports() {
    // Where the system does not allow it, there are 28,000 of them.
    let _as_it_was = std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "10000 65000\n");
}

/// Open files of the generator.
const DESCRIPTORS: u32 = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_phones_do_is_written_as_options() {
        let words = Phones::pinging(Carrier::Tcp, 1_000).with("--duration", "10s").arguments.join(" ");
        let wanted = "options --to 127.0.0.1:5060 --transport tcp --connections 1000 --json --answer 127.0.0.2:5080 \
                      --domain 127.0.0.1:5060 --duration 10s";
        assert_eq!(words, wanted);
        let words = Phones::storm(Carrier::Tls, 5).arguments.join(" ");
        assert!(words.starts_with("registrations --to 127.0.0.1:5061 --transport tls --connections 5"), "{words}");
        assert!(words.contains(" --insecure ") && words.ends_with(" --storm"), "{words}");
        assert!(!Phones::idle(Carrier::Tls, 5).arguments.join(" ").contains("--answer"));
    }
}
