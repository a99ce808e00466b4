//! What the tests of streams share: an authority with certificates for any name, TLS configurations by it, and what a browser sends.

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::sync::Arc;

/// A certificate authority that nobody else knows.
pub(crate) struct Authority {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate for one name, with its key.
pub(crate) struct Leaf {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) certificate_pem: String,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) key_pem: String,
}

/// A new authority.
pub(crate) fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("no name is wrong");
    params.distinguished_name = named("authority of the tests");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().expect("a key is made");
    let certificate = params.self_signed(&key).expect("the authority signs itself");
    Authority {
        certificate: certificate.der().clone(),
        certificate_pem: certificate.pem(),
        issuer: Issuer::new(params, key),
    }
}

impl Authority {
    /// A certificate for `name`: a DNS name or an address.
    pub(crate) fn leaf(&self, name: &str) -> Leaf {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("the test's name is well formed");
        params.distinguished_name = named(name);
        let key = KeyPair::generate().expect("a key is made");
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority signs");
        Leaf {
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            key_pem: key.serialize_pem(),
        }
    }

    /// A server called `name`. It asks for a client's certificate, and admits who has none.
    pub(crate) fn server(&self, name: &str, version: &'static SupportedProtocolVersion) -> Arc<ServerConfig> {
        let leaf = self.leaf(name);
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), provider())
            .allow_unauthenticated()
            .build()
            .expect("the authority is known");
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .expect("the provider knows the version")
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![leaf.certificate], leaf.key)
            .expect("the key fits the certificate");
        Arc::new(config)
    }

    /// A client that trusts this authority, with a certificate of its own or without.
    pub(crate) fn client(&self, version: &'static SupportedProtocolVersion, own: Option<Leaf>) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .expect("the provider knows the version")
            .with_root_certificates(self.roots());
        Arc::new(match own {
            Some(leaf) => {
                builder.with_client_auth_cert(vec![leaf.certificate], leaf.key).expect("the key fits the certificate")
            }
            None => builder.with_no_client_auth(),
        })
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("the authority is well formed");
        Arc::new(roots)
    }
}

/// A frame as a client sends it; `first` is its first octet: the mark of the last fragment, and the opcode.
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first];
    match u16::try_from(payload.len()) {
        Ok(short @ 0..=125) => frame.push(0x80 | u8::try_from(short).expect("at most 125")),
        Ok(length) => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&length.to_be_bytes());
        }
        Err(_) => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&u64::try_from(payload.len()).expect("a length").to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(octet, mask)| octet ^ mask));
    frame
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished_name = DistinguishedName::new();
    distinguished_name.push(DnType::CommonName, name);
    distinguished_name
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// A request for the upgrade, with the key of the example in RFC 6455 §1.2.
pub(crate) const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: sip.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: sip\r\n\r\n";

/// The response to it.
pub(crate) const UPGRADED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: sip\r\n\r\n";

mod tests {
    use super::*;
    use rustls::pki_types::pem::PemObject;

    #[test]
    fn what_is_given_as_pem_is_what_is_given_as_der() {
        let authority = authority();
        let leaf = authority.leaf("pbx.example");
        let certificate = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("it is a certificate");
        assert_eq!(certificate(&authority.certificate_pem), authority.certificate);
        assert_eq!(certificate(&leaf.certificate_pem), leaf.certificate);
        let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).expect("it is a key");
        assert_eq!(key.secret_der(), leaf.key.secret_der());
    }

    #[test]
    fn a_frame_is_masked_octet_by_octet() {
        // The example of RFC 6455 §5.7.
        assert_eq!(masked(0x81, b"Hello"), b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
    }
}
