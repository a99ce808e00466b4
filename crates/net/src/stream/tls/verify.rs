//! How the servers that we connect to are verified.

use super::VERSIONS;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::sign::{SingleCertAndKey, public_key_to_spki};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;
use x509_parser::parse_x509_certificate;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Whose certificates are believed.
pub(super) enum Trust {
    /// Those that lead to one of these authorities, are valid today, and name the server.
    Authorities(Arc<RootCertStore>),
    /// The one with this SHA-256 of its DER, whatever its names and dates.
    Pinned([u8; 32]),
    /// All.
    Anybody,
}

/// Judges the certificates of servers that are trusted like this.
pub(super) fn verifier(
    provider: &Arc<CryptoProvider>,
    trust: Trust,
) -> Result<Arc<dyn ServerCertVerifier>, rustls::Error> {
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

/// The client's side of connections to servers that `verifier` judges. `shown`: to those that ask for a client's certificate.
pub(super) fn client_config(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
    shown: Option<Arc<SingleCertAndKey>>,
) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&VERSIONS)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    Ok(match shown {
        Some(shown) => builder.with_client_cert_resolver(shown),
        None => builder.with_no_client_auth(),
    })
}

/// The certificate authorities that the system trusts; those of its files that cannot be read are left out.
pub(super) fn system_authorities() -> Vec<CertificateDer<'static>> {
    rustls_native_certs::load_native_certs().certs
}

pub(super) fn fingerprint(certificate: &[u8]) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

/// Several names at one address: the certificate must satisfy each of them, since messages for all of them take one connection.
#[derive(Debug)]
pub(super) struct Each {
    /// Proves that the server holds the key.
    pub(super) first: Arc<dyn ServerCertVerifier>,
    pub(super) demands: Vec<(Arc<dyn ServerCertVerifier>, ServerName<'static>)>,
}

impl ServerCertVerifier for Each {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        for (verifier, name) in &self.demands {
            verifier.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.first.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.first.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.first.supported_verify_schemes()
    }
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
