//! A unit of one shard, where a test speaks of flows and of processes: every other party is the test.

use engine::{Flow, Input, Output, Secrets, Settings, Shard, Shared};
use sim::Text;
use sip::Instant;
use std::sync::Arc;
use std::time::Duration;

/// One shard and its clock, which stands at zero first.
pub(crate) struct Unit {
    pub(crate) shared: Arc<Shared>,
    pub(crate) now: Instant,
    shard: Shard,
}

/// What left.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) flow: Flow,
    pub(crate) bytes: Vec<u8>,
    pub(crate) text: Text,
}

impl Unit {
    pub(crate) fn new(settings: Settings) -> Self {
        Self::of_epoch(settings, 1)
    }

    pub(crate) fn of_epoch(settings: Settings, epoch: u32) -> Self {
        let secrets = Secrets { key_id: 1, key: [1; 16], previous: None, contact_key: [2; 16], epoch };
        let now = Instant::from_micros(0);
        let shared = Shared::new(settings, secrets, 1, now, 1_800_000_000_000, 1);
        let shard = Shard::new(0, Arc::clone(&shared));
        Self { shared, now, shard }
    }

    pub(crate) fn input(&mut self, input: Input<'_>) -> Vec<Sent> {
        self.shard.begin_batch(self.now);
        self.shard.handle_input(self.now, input);
        self.drain()
    }

    pub(crate) fn arrive(&mut self, flow: Flow, bytes: &[u8]) -> Vec<Sent> {
        self.input(Input::Datagram { flow, bytes })
    }

    /// Exactly one message leaves.
    #[track_caller]
    pub(crate) fn passes(&mut self, flow: Flow, bytes: &[u8]) -> Sent {
        let mut sent = self.arrive(flow, bytes);
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0)
    }

    /// What leaves while the clock runs for so long.
    pub(crate) fn advance(&mut self, time: Duration) -> Vec<Sent> {
        let end = self.now + time;
        let mut sent = Vec::new();
        while let Some(at) = self.shard.poll_timeout().filter(|at| *at <= end) {
            self.now = at;
            self.shard.begin_batch(at);
            self.shard.handle_timeout(at);
            sent.extend(self.drain());
        }
        self.now = end;
        sent
    }

    /// What the farm has counted under this name.
    pub(crate) fn counted(&self, wanted: &str) -> u64 {
        let counters = self.shared.snapshot(self.now).counters;
        counters.iter().filter(|(name, ..)| *name == wanted).map(|(.., count)| *count).sum()
    }

    /// What state the backends of all services are in.
    pub(crate) fn states(&self) -> Vec<&'static str> {
        let farms = self.shared.snapshot(self.now).farms;
        let services = farms.iter().flat_map(|farm| &farm.services);
        services.flat_map(|service| &service.backends).map(|backend| backend.state).collect()
    }

    fn drain(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        while let Some(output) = self.shard.poll_output() {
            if let Output::Send { flow, packet } = output {
                sent.push(Sent { flow, bytes: packet.to_vec(), text: Text::read(&packet) });
            }
        }
        sent
    }
}
