//! The balancer of the demo: the product itself, on a configuration as anybody would write it.

use super::boxes::News;
use super::certificate::Certificate;
use super::pcap::Capture;
use super::places::Places;
use super::{BOXES, DOMAIN};
use anyhow::{Context, Result, anyhow};
use engine::{BackendId, Secrets, Shared};
use net::{Clock, DataPlane, Tap};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{SystemTime, UNIX_EPOCH};

/// A running balancer. Stops when dropped.
pub(super) struct Balancer {
    _data_plane: DataPlane,
    names: Vec<(BackendId, String)>,
}

impl Balancer {
    /// Listens at the farm's addresses. What an operator would be told goes to `told`.
    pub(super) fn start(
        places: &Places,
        certificate: &Certificate,
        capture: Option<Arc<Capture>>,
        told: Sender<News>,
    ) -> Result<Self> {
        let text = configuration(places, &certificate.file);
        let checked = config::load("demo", &text).map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            anyhow!("the configuration of the demo is wrong:\n{}", lines.join("\n"))
        })?;
        let names = checked
            .settings
            .farms
            .iter()
            .flat_map(|farm| &farm.backends)
            .map(|backend| (backend.id, backend.name.clone()))
            .collect();
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock shows a time before 1970")?;
        let (secrets, seed) = secrets(since_1970.as_secs() as u32)?;
        let unix_ms = since_1970.as_millis() as u64;
        let shared = Shared::new(checked.settings, secrets, SHARDS, Clock::now(), unix_ms, seed);
        let events = move |event| {
            // Nobody listens once the demo is over.
            let _listening = told.send(News::Engine(event));
        };
        let tap = capture.map(|capture| capture as Arc<dyn Tap>);
        // The warnings speak of bursts that two phones do not make.
        let (data_plane, _warnings) =
            DataPlane::start(shared, WORKERS, SHARDS, events, tap).context("cannot start the balancer")?;
        Ok(Self { _data_plane: data_plane, names })
    }

    /// The name of a PBX as an event tells it.
    pub(super) fn name_of(&self, backend: BackendId) -> &str {
        self.names.iter().find(|(id, _)| *id == backend).map_or("a PBX", |(_, name)| name)
    }
}

/// Users are equal on both PBXs, so that a call may go to the one that holds the callee's registration.
fn configuration(places: &Places, certificate: &Path) -> String {
    let mut text = format!(
        "[unit]\nname = \"demo\"\n\n[[farm]]\nname = \"demo\"\nlisten = [\"udp:{}\", \"tls:{}\"]\n\
         domains = [\"{DOMAIN}\"]\ncertificates = ['{}']\n\n\
         [[farm.service]]\nname = \"default\"\nalgorithm = \"weight\"\npersistence = \"user\"\ncallee_affinity = true\n\
         failover = {{ answer_timeout = \"1s\", final_timeout = \"2s\" }}\n",
        places.farm,
        places.farm_tls,
        certificate.display()
    );
    for (name, address) in BOXES.into_iter().zip(places.boxes) {
        // Writing to a string cannot fail.
        let _written = write!(text, "\n[[farm.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n");
    }
    text
}

/// Secrets for this run alone, and a seed.
fn secrets(epoch: u32) -> Result<(Secrets, u64)> {
    let mut source = File::open(RANDOM).with_context(|| format!("cannot open {RANDOM}"))?;
    let (mut key, mut contact_key, mut seed) = ([0_u8; 16], [0_u8; 16], [0_u8; 8]);
    for part in [&mut key[..], &mut contact_key[..], &mut seed[..]] {
        source.read_exact(part).with_context(|| format!("cannot read {RANDOM}"))?;
    }
    Ok((Secrets { key_id: 1, key, previous: None, contact_key, epoch }, u64::from_ne_bytes(seed)))
}

const WORKERS: usize = 2;
const SHARDS: usize = 4;
const RANDOM: &str = "/dev/urandom";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_right_and_has_both_boxes() {
        let here = |last: u8, port: u16| std::net::SocketAddr::from(([127, 0, 0, last], port));
        let places = Places {
            farm: here(1, 5_060),
            farm_tls: here(1, 5_061),
            boxes: [here(11, 5_060), here(12, 5_060)],
            phones: [here(21, 5_060), here(22, 5_060)],
            media: [here(21, 6_060), here(22, 6_060)],
        };
        let checked = config::load("demo", &configuration(&places, Path::new("/run/demo.pem")))
            .expect("the demo is configured right");
        assert!(checked.warnings.is_empty(), "{:?}", checked.warnings);
        let farm = checked.settings.farms.first().expect("one farm is written");
        assert_eq!(farm.certificates, ["/run/demo.pem"]);
        let names: Vec<&str> = farm.backends.iter().map(|backend| backend.name.as_str()).collect();
        assert_eq!(names, BOXES);
        let service = farm.services.first().expect("one service is written");
        assert!(service.callee_affinity);
        assert_eq!(service.failover.answer_timeout, std::time::Duration::from_secs(1));
    }
}
