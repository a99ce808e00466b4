//! The log of facts on disk: what the data plane learnt, written within a second and read at the next start.

use super::state_dir::{StateDir, private_file};
use anyhow::Context;
use engine::{Loaded, Shared};
use net::Clock;
use sip::Instant;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The open log.
pub(crate) struct FactsLog {
    folder: PathBuf,
    file: File,
    /// Octets in the file.
    length: u64,
    /// Octets after the last compaction.
    compacted: u64,
    /// Written, but perhaps not on the disk.
    unsynced: bool,
    synced_at: Instant,
    /// A write failed midway: records after it could not be read, so the whole log is written anew.
    broken: bool,
    buffer: Vec<u8>,
}

impl FactsLog {
    /// Reads the log of the last start into `shared`, and begins a new one with what is still true. To be called before the first
    /// datagram.
    ///
    /// # Errors
    /// The log cannot be read or written.
    pub(crate) fn open(state: &StateDir, shared: &Shared, now: Instant) -> anyhow::Result<(Self, Loaded)> {
        let folder = state.path().to_path_buf();
        let path = folder.join(NAME);
        let log = match std::fs::read(&path) {
            Ok(log) => log,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let loaded = shared.load_facts(now, &log);
        let mut buffer = Vec::new();
        shared.dump_facts(now, &mut buffer);
        let file = write_whole(&folder, &buffer).with_context(|| format!("cannot write {}", path.display()))?;
        let length = buffer.len() as u64;
        let facts =
            Self { folder, file, length, compacted: length, unsynced: false, synced_at: now, broken: false, buffer };
        Ok((facts, loaded))
    }

    /// Appends what changed since the last call; writes the log anew when it has grown much beyond what is still true.
    ///
    /// # Errors
    /// The disk refused. Nothing is lost as long as a later call succeeds.
    pub(crate) fn write(&mut self, shared: &Shared, now: Instant) -> io::Result<()> {
        self.buffer.clear();
        shared.drain_facts(now, &mut self.buffer);
        let length = self.length + self.buffer.len() as u64;
        if self.broken || length > self.compacted * GROWTH + SLACK_BYTES {
            return self.compact(shared, now);
        }
        if !self.buffer.is_empty() {
            if let Err(error) = self.file.write_all(&self.buffer) {
                self.broken = true;
                return Err(error);
            }
            self.length = length;
            self.unsynced = true;
        }
        if self.unsynced && now.saturating_since(self.synced_at) >= SYNC_EVERY {
            return self.sync(now);
        }
        Ok(())
    }

    /// As [`FactsLog::write`], and waits until all of it is on the disk.
    ///
    /// # Errors
    /// The disk refused.
    pub(crate) fn close(&mut self, shared: &Shared) -> io::Result<()> {
        let now = Clock::now();
        self.write(shared, now)?;
        self.sync(now)
    }

    fn compact(&mut self, shared: &Shared, now: Instant) -> io::Result<()> {
        // Until it succeeds the changes that were just taken are in no file, but they are among the live facts.
        self.broken = true;
        self.buffer.clear();
        shared.dump_facts(now, &mut self.buffer);
        self.file = write_whole(&self.folder, &self.buffer)?;
        self.length = self.buffer.len() as u64;
        self.compacted = self.length;
        self.unsynced = false;
        self.synced_at = now;
        self.broken = false;
        // The buffer of a whole directory is not needed for the next changes.
        self.buffer = Vec::new();
        Ok(())
    }

    fn sync(&mut self, now: Instant) -> io::Result<()> {
        // Also after a failure the next try waits its turn.
        self.synced_at = now;
        self.file.sync_data()?;
        self.unsynced = false;
        Ok(())
    }
}

/// Replaces the log by `content`, whole or not at all; the file returned appends to it.
fn write_whole(folder: &Path, content: &[u8]) -> io::Result<File> {
    let next = folder.join("facts.new");
    let mut file = private_file(&next)?;
    file.set_len(0)?;
    file.write_all(content)?;
    file.sync_data()?;
    std::fs::rename(&next, folder.join(NAME))?;
    File::open(folder)?.sync_all()?;
    Ok(file)
}

const NAME: &str = "facts.log";
/// The log is written anew when it is so many times as long as after the last time …
const GROWTH: u64 = 4;
/// … and this much.
const SLACK_BYTES: u64 = 1 << 20;
const SYNC_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use engine::{Secrets, Settings};
    use std::sync::Arc;

    fn shared(now: Instant) -> Arc<Shared> {
        let secrets = Secrets { key_id: 1, key: [1; 16], previous: None, contact_key: [2; 16], epoch: 1 };
        Shared::new(Settings::default(), secrets, 1, now, 1_700_000_000_000, 1)
    }

    #[test]
    fn a_log_cut_short_is_read_and_begun_anew() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = StateDir::open(folder.path().to_path_buf()).expect("the folder is ours");
        let path = folder.path().join(NAME);
        std::fs::write(&path, [0, 200, 1, 2, 3]).expect("the folder is ours");
        let now = Clock::now();
        let (_facts, loaded) = FactsLog::open(&state, &shared(now), now).expect("the log is read");
        assert_eq!(loaded, Loaded { records: 0, damaged: 1 });
        assert_eq!(std::fs::read(&path).expect("the log is there"), b"");
    }

    #[test]
    fn a_broken_log_heals_at_the_next_write() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = StateDir::open(folder.path().to_path_buf()).expect("the folder is ours");
        let now = Clock::now();
        let shared = shared(now);
        let (mut facts, loaded) = FactsLog::open(&state, &shared, now).expect("there is no log yet");
        assert_eq!(loaded, Loaded::default());
        std::fs::write(folder.path().join(NAME), b"half a rec").expect("the folder is ours");
        facts.broken = true;
        facts.write(&shared, now).expect("the disk takes it");
        assert!(!facts.broken);
        assert_eq!(std::fs::read(folder.path().join(NAME)).expect("the log is there"), b"");
        facts.close(&shared).expect("the disk takes it");
    }
}
