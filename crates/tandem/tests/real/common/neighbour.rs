//! A second network beside the test's, and a cable of Ethernet between both.

use super::{Process, holds_within, is_ci};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The other network. Gone when dropped.
pub struct Neighbour {
    /// Does nothing but be there.
    process: Process,
}

impl Neighbour {
    /// Lays a cable of 1,500 octets' MTU: the test's end has the address [`HERE`], the other one [`THERE`]. To be called after
    /// [`super::namespace`]. `None`: this kernel has no such cables, which was said; the test must return.
    ///
    /// # Panics
    /// With `CI=true` if there is no cable.
    pub fn join(folder: &Path) -> Option<Self> {
        let process = Process::start(Command::new("unshare").args(["--net", "sleep", "600"]), "neighbour", folder);
        let neighbour = Self { process };
        let is_apart = holds_within(Duration::from_secs(5), || {
            let other = network_of(&neighbour.id().to_string());
            other.is_some() && other != network_of("self")
        });
        let id = neighbour.id();
        let is_joined = is_apart
            && run("ip link add near type veth peer name far")
            && run(&format!("ip link set far netns {id}"))
            && run(&format!("ip address add {HERE}/24 dev near"))
            && run("ip link set near mtu 1500 up")
            && run(&format!("nsenter --net --target {id} ip address add {THERE}/24 dev far"))
            && run(&format!("nsenter --net --target {id} ip link set lo up"))
            && run(&format!("nsenter --net --target {id} ip link set far mtu 1500 up"));
        if !is_joined {
            assert!(!is_ci(), "CI=true, but no second network can be joined");
            eprintln!("skipped: no second network can be joined");
            return None;
        }
        Some(neighbour)
    }

    /// A process in the other network.
    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

fn network_of(process: &str) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{process}/ns/net")).ok()
}

fn run(words: &str) -> bool {
    let mut words = words.split(' ');
    let program = words.next().unwrap_or_default();
    Command::new(program).args(words).status().is_ok_and(|status| status.success())
}

pub const HERE: &str = "10.9.0.1";
pub const THERE: &str = "10.9.0.2";
