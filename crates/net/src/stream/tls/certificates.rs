//! The files with certificates and keys: each read once for a store, and watched from then on. The choice among a farm's certificates.

use super::CertificateStatus;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

/// Why the files of a configuration cannot be used. The text names the file and says what to do.
#[derive(Debug)]
pub(crate) enum TlsError {
    /// `setting`: where the file is named.
    Read { file: String, setting: &'static str, error: io::Error },
    /// What should be PEM is not.
    Pem { file: String, error: pem::Error },
    /// The certificate with this number, from 1, cannot be read.
    Certificate { file: String, number: usize },
    /// A farm's file without a certificate.
    NoCertificate { file: String },
    /// A file without a certificate of an authority.
    NoAuthority { file: String, setting: &'static str },
    /// A farm's file without a private key.
    NoKey { file: String },
    /// A private key that only a password opens.
    EncryptedKey { file: String },
    /// More private keys than the one that belongs to the certificate.
    SeveralKeys { file: String, count: usize },
    /// A private key of an unknown kind, too short, or damaged.
    UnusableKey { file: String },
    /// The private key belongs to none of the certificates beside it.
    KeyMismatch { file: String },
    /// rustls refuses what is no file's fault.
    Library { error: rustls::Error },
}

/// What is read for one store.
pub(super) struct Files {
    provider: Arc<CryptoProvider>,
    identities: BTreeMap<String, Arc<Identity>>,
    authorities: BTreeMap<String, Arc<RootCertStore>>,
    watched: Vec<Watched>,
}

/// A certificate of ours with its key.
pub(super) struct Identity {
    pub(super) status: CertificateStatus,
    certified: Arc<CertifiedKey>,
}

/// Chooses the certificate of a farm by the name that a client asks for (SNI, RFC 6066 §3): the first file with exactly this name, else
/// the first with a wildcard in place of its first label, else the first of all; the first too for a client that asks for no name.
#[derive(Debug)]
pub(super) struct BySni {
    by_name: BTreeMap<String, Arc<CertifiedKey>>,
    first: Arc<CertifiedKey>,
}

/// A file, and how it was when it was read.
pub(super) struct Watched {
    file: String,
    stamp: Stamp,
}

/// What tells that a file is another, without reading it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    length: u64,
    device: u64,
    inode: u64,
}

impl Files {
    pub(super) fn new(provider: Arc<CryptoProvider>) -> Self {
        Self { provider, identities: BTreeMap::new(), authorities: BTreeMap::new(), watched: Vec::new() }
    }

    /// The certificate, its chain and its key in a file of a farm's.
    pub(super) fn identity(&mut self, file: &str) -> Result<Arc<Identity>, TlsError> {
        if let Some(known) = self.identities.get(file) {
            return Ok(Arc::clone(known));
        }
        let octets = self.read(file, "certificates")?;
        let identity = Arc::new(Identity::from_pem(file, &octets, &self.provider)?);
        self.identities.insert(file.to_owned(), Arc::clone(&identity));
        Ok(identity)
    }

    /// The certificate authorities in a file that `setting` names.
    pub(super) fn authorities(&mut self, file: &str, setting: &'static str) -> Result<Arc<RootCertStore>, TlsError> {
        if let Some(known) = self.authorities.get(file) {
            return Ok(Arc::clone(known));
        }
        let octets = self.read(file, setting)?;
        let mut authorities = RootCertStore::empty();
        for (index, certificate) in Sections::parse(file, &octets)?.certificates.into_iter().enumerate() {
            authorities
                .add(certificate)
                .map_err(|_unreadable| TlsError::Certificate { file: file.to_owned(), number: index + 1 })?;
        }
        if authorities.is_empty() {
            return Err(TlsError::NoAuthority { file: file.to_owned(), setting });
        }
        let authorities = Arc::new(authorities);
        self.authorities.insert(file.to_owned(), Arc::clone(&authorities));
        Ok(authorities)
    }

    /// The farms' certificates, ordered by file, and all files that were read.
    pub(super) fn into_parts(self) -> (Vec<CertificateStatus>, Vec<Watched>) {
        (self.identities.values().map(|identity| identity.status.clone()).collect(), self.watched)
    }

    fn read(&mut self, file: &str, setting: &'static str) -> Result<Vec<u8>, TlsError> {
        let refused = |error: io::Error| TlsError::Read { file: file.to_owned(), setting, error };
        let mut source = File::open(file).map_err(refused)?;
        // Taken before the octets: a file that is replaced meanwhile looks changed afterwards, never the other way round.
        let stamp = Stamp::of(&source.metadata().map_err(refused)?);
        let mut octets = Vec::new();
        source.read_to_end(&mut octets).map_err(refused)?;
        self.watched.push(Watched { file: file.to_owned(), stamp });
        Ok(octets)
    }
}

impl Identity {
    /// Whether a client that asks for `name`, lower case, may be shown this certificate.
    pub(super) fn covers(&self, name: &str) -> bool {
        let wildcard = wildcard(name);
        self.status.names.iter().any(|known| known == name || Some(known) == wildcard.as_ref())
    }

    /// The same for servers that ask for a client's certificate.
    pub(super) fn for_servers(&self) -> Arc<SingleCertAndKey> {
        Arc::new(SingleCertAndKey::from(Arc::clone(&self.certified)))
    }

    /// The certificate is the one that the key fits, wherever it stands; all others are its chain, in their order.
    fn from_pem(file: &str, octets: &[u8], provider: &CryptoProvider) -> Result<Self, TlsError> {
        let file = file.to_owned();
        let Sections { mut certificates, mut keys } = Sections::parse(&file, octets)?;
        if certificates.is_empty() {
            return Err(TlsError::NoCertificate { file });
        }
        let key = match (keys.pop(), keys.len()) {
            (Some(key), 0) => key,
            (Some(_), others) => return Err(TlsError::SeveralKeys { file, count: others + 1 }),
            (None, _) if is_encrypted(octets) => return Err(TlsError::EncryptedKey { file }),
            (None, _) => return Err(TlsError::NoKey { file }),
        };
        let Ok(key) = provider.key_provider.load_private_key(key) else {
            return Err(TlsError::UnusableKey { file });
        };
        let public_key: Option<Vec<u8>> = key.public_key().map(|public_key| public_key.to_vec());
        let mut leaf = None;
        for (index, der) in certificates.iter().enumerate() {
            let Ok((_, certificate)) = parse_x509_certificate(der) else {
                return Err(TlsError::Certificate { file, number: index + 1 });
            };
            let fits = public_key.as_ref().is_none_or(|public_key| *public_key == *certificate.public_key().raw);
            if fits && leaf.is_none() {
                leaf = Some((index, names(&certificate), certificate.validity().not_after.timestamp()));
            }
        }
        let Some((index, names, not_after_unix)) = leaf else {
            return Err(TlsError::KeyMismatch { file });
        };
        let certificate = certificates.remove(index);
        certificates.insert(0, certificate);
        Ok(Self {
            status: CertificateStatus { file, names, not_after_unix },
            certified: Arc::new(CertifiedKey::new(certificates, key)),
        })
    }
}

impl BySni {
    /// `None`: there is no certificate.
    pub(super) fn new(identities: &[Arc<Identity>]) -> Option<Self> {
        let first = Arc::clone(&identities.first()?.certified);
        let mut by_name = BTreeMap::new();
        for identity in identities {
            for name in &identity.status.names {
                by_name.entry(name.clone()).or_insert_with(|| Arc::clone(&identity.certified));
            }
        }
        Some(Self { by_name, first })
    }

    fn choose(&self, name: Option<&str>) -> &Arc<CertifiedKey> {
        let Some(name) = name.map(str::to_ascii_lowercase) else {
            return &self.first;
        };
        self.by_name.get(&name).or_else(|| self.by_name.get(&wildcard(&name)?)).unwrap_or(&self.first)
    }
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.choose(client_hello.server_name())))
    }
}

impl Watched {
    pub(super) fn has_changed(&self) -> bool {
        std::fs::metadata(&self.file).map_or(true, |metadata| Stamp::of(&metadata) != self.stamp)
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            length: metadata.size(),
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// What a PEM file holds for us; sections of other kinds are passed over.
struct Sections {
    certificates: Vec<CertificateDer<'static>>,
    /// PKCS#8, PKCS#1 or SEC1.
    keys: Vec<PrivateKeyDer<'static>>,
}

impl Sections {
    fn parse(file: &str, octets: &[u8]) -> Result<Self, TlsError> {
        let mut sections = Self { certificates: Vec::new(), keys: Vec::new() };
        for section in <(SectionKind, Vec<u8>) as PemObject>::pem_slice_iter(octets) {
            match section {
                Ok((SectionKind::Certificate, der)) => sections.certificates.push(CertificateDer::from(der)),
                Ok((kind, der)) => sections.keys.extend(PrivateKeyDer::from_pem(kind, der)),
                // The old way of encrypting leaves lines in the section that are not base64.
                Err(_) if is_encrypted(octets) => return Err(TlsError::EncryptedKey { file: file.to_owned() }),
                Err(error) => return Err(TlsError::Pem { file: file.to_owned(), error }),
            }
        }
        Ok(sections)
    }
}

/// The word stands in the headers of encrypted keys, old and new.
fn is_encrypted(octets: &[u8]) -> bool {
    octets.windows(ENCRYPTED.len()).any(|window| window == ENCRYPTED)
}

/// What a certificate is for, as [`names`] has it; nothing if it cannot be read.
pub(super) fn names_of(certificate: &[u8]) -> Vec<String> {
    parse_x509_certificate(certificate).map_or_else(|_unreadable| Vec::new(), |(_, certificate)| names(&certificate))
}

/// Subject alternative names; the common name where there is none.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    if let Ok(Some(extension)) = certificate.subject_alternative_name() {
        for name in &extension.value.general_names {
            let name = match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                GeneralName::IPAddress(octets) => address(octets).map(|address| address.to_string()),
                GeneralName::URI(uri) => sip_domain(uri),
                _ => None,
            };
            names.extend(name.filter(|name| !names.contains(name)));
        }
    }
    if names.is_empty() {
        let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        names.extend(common.map(str::to_ascii_lowercase));
    }
    names
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    let sixteen = <[u8; 16]>::try_from(octets).map(IpAddr::from);
    four.or(sixteen).ok()
}

/// A SIP URI without a user names a domain (RFC 5922 §7.1).
fn sip_domain(uri: &str) -> Option<String> {
    let (scheme, domain) = uri.split_once(':')?;
    let is_domain = scheme.eq_ignore_ascii_case("sip") && DnsName::try_from(domain).is_ok();
    is_domain.then(|| domain.to_ascii_lowercase())
}

/// How a certificate for any sibling of `name` is written.
fn wildcard(name: &str) -> Option<String> {
    let (_, parent) = name.split_once('.')?;
    Some(format!("*.{parent}"))
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self::Library { error }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { file, setting, error } => match error.kind() {
                io::ErrorKind::NotFound => {
                    write!(formatter, "cannot read {file}: there is no such file; put it there, or correct `{setting}`")
                }
                io::ErrorKind::PermissionDenied => {
                    write!(formatter, "cannot read {file}: permission denied; let the user that tandem runs as read it")
                }
                _ => write!(formatter, "cannot read {file}: {error}; name a PEM file in `{setting}`"),
            },
            Self::Pem { file, error } => write!(formatter, "{file} is damaged: {}; copy it again whole", fault(error)),
            Self::Certificate { file, number } => {
                write!(formatter, "certificate {number} in {file} is damaged: copy it again whole")
            }
            Self::NoCertificate { file } => write!(
                formatter,
                "{file} holds no certificate: it must hold the certificate, its chain and its private key, all as PEM"
            ),
            Self::NoAuthority { file, setting } => write!(
                formatter,
                "{file} holds no certificate: name a file in `{setting}` that holds those of the authorities, as PEM"
            ),
            Self::NoKey { file } => {
                write!(formatter, "{file} holds no private key: append that of its certificate, as PEM")
            }
            Self::EncryptedKey { file } => write!(
                formatter,
                "the private key in {file} is encrypted, and nobody is there to type the password: put what \
                 `openssl pkey -in {file}` prints in its place, and let tandem alone read the file"
            ),
            Self::SeveralKeys { file, count } => {
                write!(formatter, "{file} holds {count} private keys: leave only that of its certificate")
            }
            Self::UnusableKey { file } => write!(
                formatter,
                "the private key in {file} cannot be used: it must be RSA of 2048 to 8192 bits, ECDSA P-256, P-384 or \
                 P-521, or Ed25519"
            ),
            Self::KeyMismatch { file } => write!(
                formatter,
                "the private key in {file} belongs to no certificate there: put the key there that the certificate was \
                 issued for"
            ),
            Self::Library { error } => write!(formatter, "cannot set up TLS: {error}"),
        }
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { error, .. } => Some(error),
            Self::Pem { error, .. } => Some(error),
            Self::Library { error } => Some(error),
            _ => None,
        }
    }
}

fn fault(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            format!("its last section, {}, has no end", String::from_utf8_lossy(end_marker))
        }
        pem::Error::IllegalSectionStart { line } => {
            format!("the line \"{}\" begins no section", String::from_utf8_lossy(line))
        }
        pem::Error::Base64Decode(_) => "a section is not base64".to_owned(),
        other => other.to_string(),
    }
}

const ENCRYPTED: &[u8] = b"ENCRYPTED";
