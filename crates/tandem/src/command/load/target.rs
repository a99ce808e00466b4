//! The options of every `tandem load` about whom it loads, and from where.

use super::streams::StreamArguments;
use anyhow::bail;
use load::authority::{self, Refusal};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The system chooses address and port.
pub(super) const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

// No comment of documentation here: it would replace the help of the subcommands.
#[derive(clap::Args)]
pub(super) struct Target {
    /// The balancer: where everything is sent; without a port 5060
    #[arg(long, value_name = "ADDRESS", value_parser = super::address)]
    pub(super) to: SocketAddr,
    /// The target is neither this machine nor in a private network, and it is mine to load
    #[arg(long)]
    i_own_the_target: bool,
    /// Our own address; without it the one that the system uses towards the balancer
    #[arg(long, value_name = "ADDRESS", value_parser = super::own_address)]
    from: Option<SocketAddr>,
    #[command(flatten)]
    pub(super) stream: StreamArguments,
}

impl Target {
    /// What clap cannot know to be wrong.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        match authority::check(self.to, self.i_own_the_target) {
            Ok(()) => {}
            Err(refusal @ Refusal::NoReceiver(_)) => bail!("{refusal}"),
            Err(refusal @ Refusal::Foreign(_)) => bail!(
                "{refusal}: loading a system of somebody else's is an attack, and nothing was sent; if it is yours, \
                 say --i-own-the-target"
            ),
        }
        if self.from.is_some_and(|from| from.is_ipv4() != self.to.is_ipv4()) {
            bail!("--from and --to are of different families");
        }
        Ok(())
    }

    /// Where we send from.
    pub(super) fn own(&self) -> SocketAddr {
        self.from.unwrap_or(ANY)
    }
}
