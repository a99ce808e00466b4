//! Whose certificates are believed. As the balancer does it towards its backends, so that a check and the balancer agree.

use super::{StartError, Trust};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::sign::public_key_to_spki;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use x509_parser::parse_x509_certificate;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Makes the client's side of TLS. The system's authorities are kept: to read them takes longer than a packet of audio lasts.
#[derive(Default)]
pub(super) struct Trusts {
    system: Option<(Instant, Arc<RootCertStore>)>,
}

impl Trusts {
    /// TLS 1.2 and 1.3. No session is resumed: a check is to see the whole handshake.
    pub(super) fn config(&mut self, trust: &Trust) -> Result<Arc<ClientConfig>, StartError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let wrong = |error: &dyn fmt::Display| StartError::Certificates { text: error.to_string() };
        let roots = match trust {
            Trust::System => Some(self.system()),
            Trust::File(file) => Some(Arc::new(authorities(file)?)),
            Trust::Pinned(_) | Trust::Off => None,
        };
        let verifier: Arc<dyn ServerCertVerifier> = match (roots, trust) {
            (Some(roots), _) if roots.is_empty() => {
                let text = "this machine knows no certificate authorities: install ca-certificates, or name the authority's file";
                return Err(StartError::Certificates { text: text.to_owned() });
            }
            (Some(roots), _) => WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
                .build()
                .map_err(|error| wrong(&error))?,
            (None, Trust::Pinned(fingerprint)) => Arc::new(KeyHolder { pinned: Some(*fingerprint), algorithms }),
            (None, _) => Arc::new(KeyHolder { pinned: None, algorithms }),
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&VERSIONS)
            .map_err(|error| wrong(&error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// Those of the system's files that cannot be read are left out.
    fn system(&mut self) -> Arc<RootCertStore> {
        if let Some((read, roots)) = &self.system
            && read.elapsed() < KEPT
        {
            return Arc::clone(roots);
        }
        let mut roots = RootCertStore::empty();
        let (_added, _ignored) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let roots = Arc::new(roots);
        self.system = Some((Instant::now(), Arc::clone(&roots)));
        roots
    }
}

fn authorities(file: &Path) -> Result<RootCertStore, StartError> {
    let wrong = |error: &dyn fmt::Display| StartError::Certificates {
        text: format!("the authorities of {} cannot be read: {error}", file.display()),
    };
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

/// Believes whoever holds the key of the certificate shown, if it is the pinned one where one is pinned. The certificate may be of
/// any version: rustls itself reads version 3 only, but the scripts of some PBXs issue version 1.
#[derive(Debug)]
struct KeyHolder {
    pinned: Option<[u8; 32]>,
    algorithms: WebPkiSupportedAlgorithms,
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
        let shown: [u8; 32] = Sha256::digest(end_entity).into();
        match self.pinned {
            Some(pinned) if pinned != shown => {
                Err(CertificateError::Other(OtherError(Arc::new(NotPinned { shown }))).into())
            }
            _ => Ok(ServerCertVerified::assertion()),
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

static VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
/// Until the system's authorities are read again.
const KEPT: Duration = Duration::from_secs(3_600);

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn authorities_are_to_be_there() {
        let said = |file: &str| match Trusts::default().config(&Trust::File(PathBuf::from(file))) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        assert!(said("/nowhere/ca.pem").contains("/nowhere/ca.pem"), "{}", said("/nowhere/ca.pem"));
        assert!(said("/dev/null").contains("no certificate"), "{}", said("/dev/null"));
        let mut trusts = Trusts::default();
        assert!(trusts.config(&Trust::Off).is_ok() && trusts.config(&Trust::Pinned([1; 32])).is_ok());
        assert!(trusts.system.is_none(), "the system's authorities are read only when they are asked for");
    }

    #[test]
    fn a_pinned_certificate_is_the_only_one_that_is_believed() {
        let certificate = CertificateDer::from(b"any octets".as_slice());
        let fingerprint: [u8; 32] = Sha256::digest(&certificate).into();
        let name = ServerName::try_from("pbx.example.com").expect("it is a name");
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        let judged = |pinned| {
            let verifier = KeyHolder { pinned, algorithms };
            verifier.verify_server_cert(&certificate, &[], &name, &[], UnixTime::since_unix_epoch(Duration::ZERO))
        };
        assert!(judged(Some(fingerprint)).is_ok() && judged(None).is_ok());
        let refused = judged(Some([0; 32])).expect_err("it is another one").to_string();
        assert!(refused.contains("another certificate than the pinned one: sha256:"), "{refused}");
    }
}
