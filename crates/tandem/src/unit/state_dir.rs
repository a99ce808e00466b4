//! The folder of a unit: what must survive the process, and the socket it is asked through.
//!
//! ```text
//! secret        the keys of tokens and contacts, as JSON
//! epoch         the boot epoch of the last start
//! facts.log     what the data plane learnt
//! control.sock  where `status` and `explain --live` ask
//! lock          locked by the unit that runs
//! ```

use super::privileges;
use crate::hex;
use anyhow::{Context, bail};
use engine::Secrets;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The folder, ours alone while this value lives.
pub(crate) struct StateDir {
    path: PathBuf,
    /// The system unlocks it when the process ends, however it ends.
    _lock: File,
}

impl StateDir {
    /// Makes the folder if there is none, and locks it.
    ///
    /// # Errors
    /// It cannot be made or written, or another unit has it.
    pub(crate) fn open(path: PathBuf) -> anyhow::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&path).with_context(|| {
            format!("cannot make the state folder {}: name another with `state_dir` or --state-dir", path.display())
        })?;
        let lock = private_file(&path.join("lock"))
            .with_context(|| format!("cannot write to the state folder {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => bail!(
                "another unit runs with the state folder {}: stop it, or give this one a folder of its own",
                path.display()
            ),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock the state folder {}", path.display()))
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The keys of the unit, made at its first start, and a boot epoch greater than that of any start before.
    ///
    /// # Errors
    /// The files cannot be read or written, or the secret is damaged: it is never replaced, since every phone would have to
    /// register anew.
    pub(crate) fn secrets(&self, unix_ms: u64) -> anyhow::Result<Secrets> {
        let path = self.path.join("secret");
        let keys = match std::fs::read(&path) {
            Ok(text) => Keys::parse(&text).with_context(|| {
                format!(
                    "the secret {} is damaged: restore it, or remove it (calls under way are lost then, and phones must register anew)",
                    path.display()
                )
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let keys = Keys { key_id: 1, key: random()?, previous: None, contact_key: random()? };
                self.replace("secret", &keys.text()?)?;
                keys
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read the secret {}", path.display())),
        };
        Ok(Secrets {
            key_id: keys.key_id,
            key: keys.key,
            previous: keys.previous,
            contact_key: keys.contact_key,
            epoch: self.next_epoch(unix_ms)?,
        })
    }

    /// What an operator should know of the folder.
    pub(crate) fn warning(&self) -> Option<String> {
        let path = self.path.join("secret");
        let mode = std::fs::metadata(&path).ok()?.permissions().mode();
        (mode & 0o077 != 0).then(|| format!("others may read the secret {}: `chmod 600` it", path.display()))
    }

    /// Two starts within one second, and a clock that was set back, must not share an epoch.
    fn next_epoch(&self, unix_ms: u64) -> anyhow::Result<u32> {
        let path = self.path.join("epoch");
        let last = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u32>().ok()).unwrap_or(0);
        let now = u32::try_from(unix_ms / 1_000).unwrap_or(u32::MAX);
        let epoch = now.max(last.saturating_add(1));
        self.replace("epoch", format!("{epoch}\n").as_bytes())?;
        Ok(epoch)
    }

    /// Writes a file whole or not at all.
    fn replace(&self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        let (path, next) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let write = || -> io::Result<()> {
            let mut file = private_file(&next)?;
            file.set_len(0)?;
            file.write_all(content)?;
            file.sync_all()?;
            std::fs::rename(&next, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The folder of a unit: as told, as written in its configuration, or the usual one of the user.
///
/// # Errors
/// Nothing is told or written, and the user has no home.
pub(crate) fn choose(told: Option<&Path>, written: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = told.or(written) {
        return Ok(path.to_path_buf());
    }
    if privileges::is_root() {
        return Ok(PathBuf::from("/var/lib/tandem"));
    }
    match std::env::var_os("HOME").filter(|home| !home.is_empty()) {
        Some(home) => Ok(Path::new(&home).join(".local/state/tandem")),
        None => bail!("no state folder: HOME is not set; name one with `state_dir` or --state-dir"),
    }
}

/// Whether a unit keeps something of this name in its folder.
pub(crate) fn is_file_of_a_unit(name: &OsStr) -> bool {
    FILES.iter().any(|known| name == *known)
}

/// Octets from the system's random source.
///
/// # Errors
/// The source cannot be read.
pub(crate) fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).context("cannot read /dev/urandom")?;
    Ok(bytes)
}

/// Opens a file that only its owner may read, made if there is none.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// What is kept of [`Secrets`].
#[derive(PartialEq, Eq)]
struct Keys {
    key_id: u8,
    key: [u8; 16],
    previous: Option<(u8, [u8; 16])>,
    contact_key: [u8; 16],
}

/// [`Keys`] as written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    key_id: u8,
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous_key_id: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous_key: Option<String>,
    contact_key: String,
}

impl Keys {
    fn parse(text: &[u8]) -> anyhow::Result<Self> {
        let written: Written = serde_json::from_slice(text)?;
        let previous = match (written.previous_key_id, &written.previous_key) {
            (Some(id), Some(key)) => Some((id, parse_key(key)?)),
            (None, None) => None,
            _ => bail!("previous_key and previous_key_id belong together"),
        };
        Ok(Self {
            key_id: written.key_id,
            key: parse_key(&written.key)?,
            previous,
            contact_key: parse_key(&written.contact_key)?,
        })
    }

    fn text(&self) -> anyhow::Result<Vec<u8>> {
        let written = Written {
            key_id: self.key_id,
            key: hex::encode(&self.key),
            previous_key_id: self.previous.map(|(id, _)| id),
            previous_key: self.previous.map(|(_, key)| hex::encode(&key)),
            contact_key: hex::encode(&self.contact_key),
        };
        let mut text = serde_json::to_vec_pretty(&written)?;
        text.push(b'\n');
        Ok(text)
    }
}

fn parse_key(text: &str) -> anyhow::Result<[u8; 16]> {
    let bytes = hex::decode(text).context("a key is not hexadecimal")?;
    <[u8; 16]>::try_from(bytes.as_slice()).context("a key does not have 16 octets")
}

/// Everything that is ever in the folder: what is written anew is called "new" until it is whole.
const FILES: [&str; 8] =
    ["secret", "secret.new", "epoch", "epoch.new", "facts.log", "facts.new", "control.sock", "lock"];

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path) -> anyhow::Result<StateDir> {
        StateDir::open(folder.join("state"))
    }

    #[test]
    fn secrets_are_made_once_and_epochs_grow() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = open(folder.path()).expect("the folder is ours");
        let first = state.secrets(5_000).expect("secrets are made");
        let second = state.secrets(5_000).expect("secrets are read");
        assert_eq!((first.key, first.contact_key), (second.key, second.contact_key));
        assert_ne!(first.key, first.contact_key);
        assert_eq!((first.epoch, second.epoch), (5, 6));
        assert_eq!(state.secrets(90_000).expect("secrets are read").epoch, 90);
        let mode = |name: &str| {
            let metadata = std::fs::metadata(folder.path().join(name)).expect("it was made");
            metadata.permissions().mode() & 0o777
        };
        assert_eq!((mode("state"), mode("state/secret")), (0o700, 0o600));
        assert_eq!(state.warning(), None);
        for entry in std::fs::read_dir(folder.path().join("state")).expect("the folder is ours") {
            let name = entry.expect("the folder is ours").file_name();
            assert!(is_file_of_a_unit(&name), "{name:?}");
        }
        assert!(!is_file_of_a_unit(OsStr::new("passwd")));
    }

    #[test]
    fn a_folder_has_one_unit() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = open(folder.path()).expect("the folder is ours");
        let error = open(folder.path()).map(|_| ()).expect_err("it is locked");
        assert!(error.to_string().contains("another unit runs"), "{error}");
        drop(state);
        assert!(open(folder.path()).is_ok());
    }

    #[test]
    fn a_damaged_secret_is_refused_and_kept() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = open(folder.path()).expect("the folder is ours");
        let path = folder.path().join("state/secret");
        std::fs::write(&path, "{\"key_id\":1,\"key\":\"00\",\"contact_key\":\"00\"}").expect("the folder is ours");
        let error = state.secrets(1).map(|_| ()).expect_err("the keys are short");
        assert!(format!("{error:#}").contains("16 octets"), "{error:#}");
        assert!(std::fs::read_to_string(&path).is_ok_and(|text| text.contains("\"00\"")));
    }

    #[test]
    fn keys_come_back_from_their_text() {
        let keys = Keys { key_id: 3, key: [1; 16], previous: Some((2, [9; 16])), contact_key: [2; 16] };
        let text = keys.text().expect("keys can be written");
        assert!(Keys::parse(&text).is_ok_and(|read| read == keys));
    }

    #[test]
    fn what_is_told_comes_first() {
        let (told, written) = (Path::new("/a"), Path::new("/b"));
        assert_eq!(choose(Some(told), Some(written)).ok(), Some(told.to_path_buf()));
        assert_eq!(choose(None, Some(written)).ok(), Some(written.to_path_buf()));
    }
}
