//! Whose certificates are believed.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WantsClientCert, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::sign::public_key_to_spki;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use x509_parser::parse_x509_certificate;
use x509_parser::x509::SubjectPublicKeyInfo;

/// What is spoken.
pub static VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

/// Whose certificates are believed.
pub enum Trust {
    /// Those that lead to one of these authorities, are valid today, and name the server.
    Authorities(Arc<RootCertStore>),
    /// The one with this SHA-256 of its DER, whatever its names and dates.
    Pinned([u8; 32]),
    /// All.
    Anybody,
}

/// Judges the certificates of servers that are trusted like this.
///
/// # Errors
/// The library makes nothing of these authorities.
pub fn verifier(provider: &Arc<CryptoProvider>, trust: Trust) -> Result<Arc<dyn ServerCertVerifier>, rustls::Error> {
    let believed = match trust {
        // The library makes no verifier of these.
        Trust::Authorities(authorities) if authorities.is_empty() => Believed::Nobody,
        Trust::Authorities(authorities) => {
            let verifier = WebPkiServerVerifier::builder_with_provider(authorities, Arc::clone(provider))
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
            return Ok(verifier);
        }
        Trust::Pinned(fingerprint) => Believed::Pinned(fingerprint),
        Trust::Anybody => Believed::Anybody,
    };
    Ok(Arc::new(KeyHolder { believed, algorithms: provider.signature_verification_algorithms }))
}

/// The client's side of connections to servers that `verifier` judges; whether it shows a certificate of its own is still open.
///
/// # Errors
/// The provider does not know the versions.
pub fn config_builder(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider)).with_protocol_versions(&VERSIONS)?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier))
}

/// The certificate authorities that the system trusts; those of its files that cannot be read are left out.
pub fn system_authorities() -> Vec<CertificateDer<'static>> {
    rustls_native_certs::load_native_certs().certs
}

/// The certificate authorities in a PEM file.
///
/// # Errors
/// In words: the file cannot be read, holds what is no certificate, or none at all.
pub fn authorities(file: &Path) -> Result<RootCertStore, String> {
    let wrong = |error: &dyn fmt::Display| format!("the authorities of {} cannot be read: {error}", file.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| wrong(&error))? {
        let certificate = certificate.map_err(|error| wrong(&error))?;
        roots.add(certificate).map_err(|error| wrong(&error))?;
    }
    if roots.is_empty() {
        return Err(wrong(&"there is no certificate in it"));
    }
    Ok(roots)
}

/// SHA-256 of a certificate's DER.
pub fn fingerprint(certificate: &[u8]) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

/// Believes whoever holds the key of the certificate shown, if it is one to be believed at all. The certificate may be of any version:
/// rustls itself reads version 3 only, but the scripts of some PBXs issue version 1.
#[derive(Debug)]
struct KeyHolder {
    believed: Believed,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
enum Believed {
    Pinned([u8; 32]),
    Anybody,
    Nobody,
}

impl ServerCertVerifier for KeyHolder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = fingerprint(end_entity);
        match self.believed {
            Believed::Pinned(pinned) if pinned != shown => {
                Err(CertificateError::Other(OtherError(Arc::new(NotPinned { shown }))).into())
            }
            Believed::Nobody => Err(CertificateError::UnknownIssuer.into()),
            Believed::Pinned(_) | Believed::Anybody => Ok(ServerCertVerified::assertion()),
        }
    }

    /// In TLS 1.2 the scheme does not name the curve: of its algorithms that of the key is taken.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = public_key(cert)?;
        let bits: &[u8] = &key.subject_public_key.data;
        let holds = self
            .algorithms
            .mapping
            .iter()
            .filter(|(scheme, _)| *scheme == dss.scheme)
            .flat_map(|(_, algorithms)| algorithms.iter())
            .filter(|algorithm| *public_key_to_spki(&algorithm.public_key_alg_id(), bits) == *key.raw)
            .any(|algorithm| algorithm.verify_signature(bits, message, dss.signature()).is_ok());
        if holds { Ok(HandshakeSignatureValid::assertion()) } else { Err(CertificateError::BadSignature.into()) }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = public_key(cert)?;
        verify_tls13_signature_with_raw_key(message, &SubjectPublicKeyInfoDer::from(key.raw), dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn public_key<'a>(certificate: &'a CertificateDer<'_>) -> Result<SubjectPublicKeyInfo<'a>, rustls::Error> {
    let (_, certificate) = parse_x509_certificate(certificate).map_err(|_unreadable| CertificateError::BadEncoding)?;
    Ok(certificate.tbs_certificate.subject_pki)
}

/// Why a server with another certificate than the pinned one is refused. It tells which, for the operator who renewed it.
struct NotPinned {
    shown: [u8; 32],
}

impl fmt::Display for NotPinned {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the server shows another certificate than the pinned one: sha256:")?;
        self.shown.iter().try_for_each(|octet| write!(formatter, "{octet:02x}"))
    }
}

/// What rustls puts into the text of its error.
impl fmt::Debug for NotPinned {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl std::error::Error for NotPinned {}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::crypto::aws_lc_rs;
    use std::time::Duration;

    #[test]
    fn authorities_are_to_be_there() {
        let said = |file: &str| authorities(Path::new(file)).err().unwrap_or_default();
        assert!(said("/nowhere/ca.pem").contains("/nowhere/ca.pem"), "{}", said("/nowhere/ca.pem"));
        assert!(said("/dev/null").contains("no certificate"), "{}", said("/dev/null"));
    }

    #[test]
    fn a_pinned_certificate_is_the_only_one_that_is_believed() {
        let certificate = CertificateDer::from(b"any octets".as_slice());
        let name = ServerName::try_from("pbx.example.com").expect("it is a name");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let judged = |trust| {
            let verifier = verifier(&provider, trust).expect("nothing is read");
            verifier.verify_server_cert(&certificate, &[], &name, &[], UnixTime::since_unix_epoch(Duration::ZERO))
        };
        assert!(judged(Trust::Pinned(fingerprint(&certificate))).is_ok() && judged(Trust::Anybody).is_ok());
        let refused = judged(Trust::Pinned([0; 32])).expect_err("it is another one").to_string();
        assert!(refused.contains("another certificate than the pinned one: sha256:"), "{refused}");
    }
}
