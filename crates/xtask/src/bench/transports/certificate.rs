//! A certificate for the balancer, made anew for each run.

use anyhow::{Context, Result};
use rcgen::{CertificateParams, KeyPair};
use std::path::Path;

/// Writes the same certificate for everybody who is started in `folder`: `server.pem` holds it with its key, `server-key.pem` the key
/// alone. An elliptic curve, P-256, as certificates of today have.
pub(super) fn write(folder: &Path) -> Result<()> {
    let params = CertificateParams::new(vec!["127.0.0.1".to_string()]).context("the address is no name")?;
    let key = KeyPair::generate().context("cannot make a key")?;
    let certificate = params.self_signed(&key).context("cannot make a certificate")?;
    std::fs::create_dir_all(folder)?;
    let key = key.serialize_pem();
    for (name, text) in [("server.pem", format!("{}{key}", certificate.pem())), ("server-key.pem", key)] {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_are_written() {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        let inner = folder.path().join("new");
        write(&inner).expect("the folder is ours");
        let read = |name: &str| std::fs::read_to_string(inner.join(name)).expect("it was written");
        let (chain, key) = (read("server.pem"), read("server-key.pem"));
        assert!(chain.contains("BEGIN CERTIFICATE") && chain.ends_with(&key), "{chain}");
        assert!(key.contains("BEGIN PRIVATE KEY") && !key.contains("CERTIFICATE"), "{key}");
    }
}
