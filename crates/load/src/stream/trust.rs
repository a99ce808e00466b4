//! Whose certificates are believed.

use client::VERSIONS;
use net::NetError;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Who may be the balancer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trust {
    /// Whoever has a certificate by one of the authorities in this PEM file, for the name that is asked for.
    Authorities(PathBuf),
    /// Anybody at all: for a load this is no danger, since it sends nothing that is worth a secret.
    Anybody,
}

/// TLS 1.2 and 1.3. No session is resumed: every connection stands for another phone.
pub(super) fn client_config(trust: &Trust) -> Result<Arc<ClientConfig>, NetError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&VERSIONS)
        .map_err(|error| NetError::Certificates { error: Box::new(error) })?;
    let mut config = match trust {
        Trust::Authorities(file) => builder.with_root_certificates(roots(file)?).with_no_client_auth(),
        Trust::Anybody => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Believer { schemes })).with_no_client_auth()
        }
    };
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn roots(file: &Path) -> Result<RootCertStore, NetError> {
    client::authorities(file).map_err(|text| NetError::Certificates { error: text.into() })
}

/// Believes everything.
#[derive(Debug)]
struct Believer {
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for Believer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_to_be_there() {
        let said = |file: &str| match client_config(&Trust::Authorities(PathBuf::from(file))) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        assert!(said("/nowhere/ca.pem").contains("/nowhere/ca.pem"), "{}", said("/nowhere/ca.pem"));
        assert!(said("/dev/null").contains("no certificate"), "{}", said("/dev/null"));
        assert!(client_config(&Trust::Anybody).is_ok());
    }
}
