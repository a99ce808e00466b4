//! Who meets in the tests: authorities, what they issue, settings, and both ends of a connection in memory.

use super::super::*;
use engine::{Backend, FarmId, Limits, Listener, Transport};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, SignatureAlgorithm, date_time_ymd,
};
use rustls::client::Resumption;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConnection, Connection, ServerConnection, SupportedProtocolVersion};
use sim::settings::{bare_farm, listener_over};
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

/// Signs certificates.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(super) pem: String,
    pub(super) der: CertificateDer<'static>,
}

/// A certificate and its key.
pub(super) struct Issued {
    pub(super) key: KeyPair,
    pub(super) certificate: Certificate,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("randomness");
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).expect("valid parameters");
        Self { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(parameters, key) }
    }

    pub(super) fn issue(&self, names: &[&str]) -> Issued {
        let parameters = CertificateParams::new(strings(names)).expect("valid names");
        Issued::new(KeyPair::generate().expect("randomness"), |key| parameters.signed_by(key, &self.issuer))
    }

    pub(super) fn issue_until(&self, names: &[&str], not_after_unix: i64) -> Issued {
        let mut parameters = CertificateParams::new(strings(names)).expect("valid names");
        end_at(&mut parameters, not_after_unix);
        Issued::new(KeyPair::generate().expect("randomness"), |key| parameters.signed_by(key, &self.issuer))
    }

    pub(super) fn issue_for(&self, kind: &'static SignatureAlgorithm) -> Issued {
        let parameters = CertificateParams::new(strings(&["10.0.0.11"])).expect("valid names");
        Issued::new(KeyPair::generate_for(kind).expect("randomness"), |key| parameters.signed_by(key, &self.issuer))
    }

    pub(super) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("it is an authority");
        roots
    }
}

impl Issued {
    pub(super) fn new(key: KeyPair, sign: impl FnOnce(&KeyPair) -> Result<Certificate, rcgen::Error>) -> Self {
        let certificate = sign(&key).expect("valid parameters");
        Self { key, certificate }
    }

    pub(super) fn self_signed(names: &[&str]) -> Self {
        let parameters = CertificateParams::new(strings(names)).expect("valid names");
        Self::new(KeyPair::generate().expect("randomness"), |key| parameters.self_signed(key))
    }

    pub(super) fn pem(&self) -> String {
        self.certificate.pem() + &self.key.serialize_pem()
    }

    pub(super) fn der(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }

    pub(super) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.serialize_pem().as_bytes()).expect("it was just written")
    }

    pub(super) fn certified(&self) -> SingleCertAndKey {
        certified(vec![self.der()], self.key())
    }

    pub(super) fn serve(&self, version: &'static SupportedProtocolVersion) -> Arc<ServerConfig> {
        serve(vec![self.der()], self.key(), version)
    }
}

/// A folder that is removed with this value.
pub(super) struct Folder(TempDir);

impl Folder {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().expect("a place for temporary files"))
    }

    pub(super) fn path(&self, name: &str) -> String {
        let path: PathBuf = self.0.path().join(name);
        path.to_str().expect("the system's folder has a plain name").to_owned()
    }

    pub(super) fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).expect("the folder is ours");
        path
    }

    pub(super) fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("it was written")
    }

    /// Changes nothing but the time of modification.
    pub(super) fn touch(&self, name: &str) {
        let file = File::options().write(true).open(self.path(name)).expect("it was written");
        let modified = file.metadata().and_then(|metadata| metadata.modified()).expect("every file has one");
        file.set_modified(modified - Duration::from_secs(1)).expect("the file is ours");
    }
}

pub(super) fn farm(listeners: &[(u32, Transport)], certificates: &[String]) -> Farm {
    let bind = SocketAddr::from(([10, 0, 0, 2], 5061));
    let listener =
        |&(id, transport): &(u32, Transport)| Listener { id: ListenerId(id), ..listener_over(transport, bind) };
    Farm { certificates: certificates.to_vec(), ..bare_farm(listeners.iter().map(listener).collect()) }
}

pub(super) fn backend(transport: Option<Transport>, verify: Verify) -> Backend {
    Backend { transport, verify, ..sim::settings::backend("pbx1", SocketAddr::from(([10, 0, 0, 11], 5060))) }
}

pub(super) fn settings(mut farm: Farm, backend: Backend) -> Settings {
    farm.backends = vec![backend];
    settings_of(vec![farm])
}

pub(super) fn settings_of(farms: Vec<Farm>) -> Settings {
    Settings { farms, limits: Limits::default() }
}

pub(super) fn nobody() -> Vec<CertificateDer<'static>> {
    Vec::new()
}

pub(super) fn load(settings: &Settings) -> TlsStore {
    TlsStore::load_at(settings, NOW, &nobody).unwrap_or_else(|error| panic!("{error}")).0
}

pub(super) fn warnings(farm: Farm) -> Vec<String> {
    let settings = settings_of(vec![farm]);
    let (_, warnings) = TlsStore::load_at(&settings, NOW, &nobody).expect("the files are good");
    warnings.iter().map(TlsWarning::to_string).collect()
}

pub(super) fn refusal(farm: Farm) -> String {
    let settings = settings_of(vec![farm]);
    TlsStore::load_at(&settings, NOW, &nobody).err().expect("a file is wrong").to_string()
}

pub(super) fn peer(farm: FarmId, backend: &Backend) -> TlsPeer {
    TlsPeer::new(farm, Proof::new(&backend.verify, backend.host.as_deref(), backend.address.ip()))
}

/// What the backend of `settings` is met with, each time as if for the first time.
pub(super) fn client(store: &TlsStore, settings: &Settings) -> Arc<ClientConfig> {
    let farm = &settings.farms[0];
    let (config, _) = store.client(&peer(farm.id, &farm.backends[0])).expect("the backend is reached over TLS");
    let mut config = (*config).clone();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// What meets any server.
pub(super) fn anybody() -> Arc<ClientConfig> {
    let settings = settings(farm(&[], &[]), backend(Some(Transport::Tls), Verify::Off));
    client(&load(&settings), &settings)
}

pub(super) fn server(store: &TlsStore, listener: u32) -> Arc<ServerConfig> {
    store.server(ListenerId(listener)).expect("the listener has a certificate")
}

fn certified(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> SingleCertAndKey {
    let key = aws_lc_rs::default_provider().key_provider.load_private_key(key).expect("a usable key");
    SingleCertAndKey::from(CertifiedKey::new(chain, key))
}

/// A server of somebody else.
pub(super) fn serve(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    version: &'static SupportedProtocolVersion,
) -> Arc<ServerConfig> {
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .expect("the provider knows it")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certified(chain, key)));
    Arc::new(config)
}

/// Why a backend at 10.0.0.11 that is verified like this is not connected to `server`; empty: it is. The system trusts `authority`.
pub(super) fn refusal_of(verify: Verify, authority: &Authority, server: Arc<ServerConfig>) -> String {
    let backend = backend(Some(Transport::Tls), verify);
    let farm = farm(&[], &[]);
    let peer = peer(farm.id, &backend);
    let settings = settings(farm, backend);
    let system = || vec![authority.der.clone()];
    let (store, _) = TlsStore::load_at(&settings, NOW, &system).expect("the files are good");
    let (config, name) = store.client(&peer).expect("the backend is reached over TLS");
    handshake(config, name, server).err().map_or_else(String::new, |error| error.to_string())
}

pub(super) fn shown(
    client: Arc<ClientConfig>,
    name: ServerName<'static>,
    server: Arc<ServerConfig>,
) -> CertificateDer<'static> {
    let (client, _) = handshake(client, name, server).expect("the handshake succeeds");
    client.peer_certificates().and_then(<[_]>::first).expect("a server shows a certificate").clone()
}

pub(super) fn by_address() -> ServerName<'static> {
    ServerName::try_from("10.0.0.2").expect("an address")
}

/// Both ends after their handshake, with the tickets delivered.
pub(super) fn handshake(
    client: Arc<ClientConfig>,
    name: ServerName<'static>,
    server: Arc<ServerConfig>,
) -> Result<(Connection, Connection), rustls::Error> {
    let mut client = Connection::Client(ClientConnection::new(client, name)?);
    let mut server = Connection::Server(ServerConnection::new(server)?);
    while client.wants_write() || server.wants_write() {
        carry(&mut client, &mut server)?;
        carry(&mut server, &mut client)?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn carry(from: &mut Connection, to: &mut Connection) -> Result<(), rustls::Error> {
    let mut octets = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut octets).expect("memory takes everything");
    }
    let mut rest = octets.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).expect("memory gives everything");
        to.process_new_packets()?;
    }
    Ok(())
}

pub(super) fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

pub(super) fn end_at(parameters: &mut CertificateParams, unix: i64) {
    parameters.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(unix.unsigned_abs());
}

/// In 2027: what certificates made here are judged by when they are read. Handshakes look at the clock.
pub(super) const NOW: i64 = 1_800_000_000;

/// In 2020.
pub(super) const LONG_AGO: i64 = 1_577_836_800;

/// A section that is PEM, but no certificate.
pub(super) const DAMAGED: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

/// Made by `openssl x509 -req -signkey`. The key is for nothing but these tests.
pub(super) const VERSION_1: &str = "-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIEU9U1Ziyk77C+9uyV4LEZGoCDlWfvkGDyePyAg8hQuUoAoGCCqGSM49
AwEHoUQDQgAEhUv0rdykQpWKqcrWRm3AqdFq4qL+J0lOAIlRYjnxtPdCB6pEGiJS
KZD9nuGE7FeDh5nNS9oMaJ+zGm4EqVUyYQ==
-----END EC PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBLjCB1QIUFkc4v2nZaCXP/HSDtxcanTJmIrcwCgYIKoZIzj0EAwIwGjEYMBYG
A1UEAwwPcGJ4LmV4YW1wbGUuY29tMB4XDTI2MTEyMzA2MDg0MFoXDTM2MTEyMDA2
MDg0MFowGjEYMBYGA1UEAwwPcGJ4LmV4YW1wbGUuY29tMFkwEwYHKoZIzj0CAQYI
KoZIzj0DAQcDQgAEhUv0rdykQpWKqcrWRm3AqdFq4qL+J0lOAIlRYjnxtPdCB6pE
GiJSKZD9nuGE7FeDh5nNS9oMaJ+zGm4EqVUyYTAKBggqhkjOPQQDAgNIADBFAiB2
hwWRoONsqggHeWwKp9uzFUtf2rzvZWGXvfKvTq6b9wIhAM/6AiconWYgHFAEEoSt
ngZ48/+3Ap+c6jr8HyY3af9l
-----END CERTIFICATE-----
";
