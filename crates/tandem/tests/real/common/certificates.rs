//! Certificates of the test: authorities, and what they issue.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::path::Path;

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub pem: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("there is randomness");
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).expect("the parameters are valid");
        Self { pem: certificate.pem(), issuer: Issuer::new(parameters, key) }
    }

    /// A certificate for these names and addresses, called by the first of them, and its key: as one text in PEM.
    pub fn issue(&self, names: &[&str]) -> String {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let subject = names.first().cloned().unwrap_or_default();
        let mut parameters = CertificateParams::new(names).expect("names and addresses");
        parameters.distinguished_name.push(DnType::CommonName, subject);
        let key = KeyPair::generate().expect("there is randomness");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("the parameters are valid");
        certificate.pem() + &key.serialize_pem()
    }

    /// Writes a certificate for these names and its key into a file of the folder; gives the file's path.
    pub fn issue_file(&self, folder: &Path, file: &str, names: &[&str]) -> String {
        write(folder, file, &self.issue(names))
    }

    /// Writes its own certificate into a file of the folder; gives the file's path.
    pub fn own_file(&self, folder: &Path, file: &str) -> String {
        write(folder, file, &self.pem)
    }
}

fn write(folder: &Path, file: &str, text: &str) -> String {
    let path = folder.join(file);
    std::fs::write(&path, text).expect("the folder is ours");
    path.to_str().expect("the system's folder has a plain name").to_owned()
}
