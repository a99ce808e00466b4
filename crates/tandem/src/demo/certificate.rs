//! The certificate that the balancer shows to the phone on TLS: made for this run, signed by itself.

use super::DOMAIN;
use anyhow::{Context, Result};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::pki_types::CertificateDer;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tempfile::TempDir;

/// A certificate with its key, in a file that is removed when this is dropped: not before the balancer has ended.
pub(super) struct Certificate {
    /// Certificate and key, as `certificates` of a farm takes them.
    pub(super) file: PathBuf,
    /// What the phone has to trust.
    pub(super) shown: CertificateDer<'static>,
    /// Nobody else may enter it.
    _folder: TempDir,
}

impl Certificate {
    /// For the domain and for the balancer's address.
    pub(super) fn make(farm: IpAddr) -> Result<Self> {
        let mut params =
            CertificateParams::new(vec![DOMAIN.to_owned(), farm.to_string()]).context("a name is wrong")?;
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, "tandem demo");
        params.distinguished_name = name;
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params.self_signed(&key).context("cannot make a certificate")?;
        let own = fs::Permissions::from_mode(0o700);
        let folder = tempfile::Builder::new().permissions(own).tempdir();
        let folder = folder.context("cannot make a folder for the certificate")?;
        let file = folder.path().join("demo.pem");
        let text = [certificate.pem(), key.serialize_pem()].concat();
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Self { file, shown: certificate.der().clone(), _folder: folder })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_nobody_elses_and_leaves_no_trace() {
        let certificate = Certificate::make(IpAddr::from([127, 0, 0, 1])).expect("a certificate is made");
        let text = fs::read_to_string(&certificate.file).expect("it was written");
        assert!(text.contains("BEGIN CERTIFICATE") && text.contains("BEGIN PRIVATE KEY"), "{text}");
        let folder = certificate.file.parent().expect("it is in a folder").to_owned();
        let mode = fs::metadata(&folder).expect("the folder is there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{mode:o}");
        drop(certificate);
        assert!(!folder.exists());
    }
}
