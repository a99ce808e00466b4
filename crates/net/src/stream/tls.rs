//! TLS: rustls configurations from the settings and from the files that they name.
//!
//! A [`TlsStore`] never changes. When a file or the settings did, [`TlsStore::load`] makes another, which is swapped in whole: running
//! connections go on with what they have, new ones get the new certificates, and a file that is wrong leaves the old store in use.
//!
//! Everywhere: TLS 1.2 and 1.3, and the provider of cryptography given explicitly, so that no other part of the process can change it.

mod certificates;
mod clients;
mod peer;
#[cfg(test)]
mod tests;
mod verify;

pub(crate) use peer::{Proof, Shown, TlsPeer};

use certificates::{BySni, Files, Identity, TlsError, Watched};
use client::VERSIONS;
use clients::Clients;
use engine::{ClientCertificates, Farm, ListenerId, Settings, Verify};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, Ticketer};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The configurations of all listeners that speak TLS, and of all peers that are reached over it.
pub(crate) struct TlsStore {
    servers: BTreeMap<ListenerId, Arc<ServerConfig>>,
    clients: Clients,
    certificates: Vec<CertificateStatus>,
    watched: Vec<Watched>,
}

/// A certificate of ours, as `status` shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertificateStatus {
    pub file: String,
    /// What it is for: names (`*.` for any one label), addresses, the domains of SIP URIs; lower case.
    pub names: Vec<String>,
    /// The last second at which it is valid, since 1970.
    pub not_after_unix: i64,
}

/// What works, but not for everybody or not for long.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum TlsWarning {
    /// Seconds until the certificate is no longer valid.
    Ending { file: String, seconds: i64 },
    /// Seconds since the certificate was last valid.
    Ended { file: String, seconds: i64 },
    /// The certificate is for none of the names that the farm is reached by.
    Foreign { file: String, farm: String, names: Vec<String> },
    /// Backends and trunks of the farm that may show any certificate.
    Unverified { farm: String, peers: Vec<String> },
    /// The system has no certificate authorities, and backends or trunks are to be verified by them.
    NoSystemAuthorities,
}

impl TlsStore {
    /// Reads the files that `settings` name. A store that takes the place of another one resumes none of its sessions: who connects
    /// again meets the new certificates, and is judged by the new `client_ca`.
    ///
    /// # Errors
    /// A file cannot be read, or does not hold what it should.
    pub(crate) fn load(settings: &Settings) -> Result<(Self, Vec<TlsWarning>), TlsError> {
        Self::load_at(settings, unix_now(), &client::system_authorities)
    }

    /// Whether any file that was read is another now, by its time of modification, length or inode, or is gone. The system's list of
    /// certificate authorities is not watched.
    pub(crate) fn changed_files(&self) -> bool {
        self.watched.iter().any(Watched::has_changed)
    }

    /// What a listener shows to those who connect: of the first of its farms that has certificates. `None`: none has, or the listener
    /// does not speak TLS.
    ///
    /// A farm with `client_ca` asks for a client's certificate, and ends the connection if one is shown that does not verify. A client
    /// that shows none is let in where `client_certificates` says `verify`; where it says `require`, its connection ends too.
    pub(crate) fn server(&self, listener: ListenerId) -> Option<Arc<ServerConfig>> {
        self.servers.get(&listener).cloned()
    }

    /// How a connection to `peer` is secured, and which name its server is asked for. `None`: nobody who is verified like this peer
    /// was to be reached over TLS when the store was loaded.
    pub(crate) fn client(&self, peer: &TlsPeer) -> Option<(Arc<ClientConfig>, ServerName<'static>)> {
        self.clients.meet(peer)
    }

    /// Also knows `peers`, whom the settings do not name any more, as the store before did. What their files held when they were read
    /// last counts: nobody looks after them.
    pub(crate) fn with_former<'a>(mut self, before: &Self, peers: impl Iterator<Item = &'a TlsPeer>) -> Self {
        self.clients.take_over(&before.clients, peers);
        self
    }

    /// The certificates that the farms show, ordered by file.
    pub(crate) fn certificates(&self) -> Vec<CertificateStatus> {
        self.certificates.clone()
    }

    /// A warning for each certificate that is in its last 30 days or past them. Loading warns too, but a store may be in use for months.
    pub(crate) fn ending_now(&self) -> Vec<TlsWarning> {
        self.ending(unix_now())
    }

    /// The same at `now_unix`, in seconds since 1970.
    fn ending(&self, now_unix: i64) -> Vec<TlsWarning> {
        self.certificates
            .iter()
            .filter_map(|certificate| {
                let file = certificate.file.clone();
                match certificate.not_after_unix.saturating_sub(now_unix) {
                    seconds @ ..0 => Some(TlsWarning::Ended { file, seconds: seconds.saturating_neg() }),
                    seconds @ 0..=NOTICE_SECONDS => Some(TlsWarning::Ending { file, seconds }),
                    _ => None,
                }
            })
            .collect()
    }

    /// As [`TlsStore::load`] at a given time, and with `system` for the system's certificate authorities, asked only if
    /// somebody is verified by them.
    fn load_at(
        settings: &Settings,
        now_unix: i64,
        system: &dyn Fn() -> Vec<CertificateDer<'static>>,
    ) -> Result<(Self, Vec<TlsWarning>), TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut files = Files::new(Arc::clone(&provider));
        let mut servers = BTreeMap::new();
        let mut clients = Clients::new(Arc::clone(&provider));
        let mut needs_system = false;
        let mut warnings = Vec::new();
        for farm in &settings.farms {
            let mut identities = Vec::new();
            for file in &farm.certificates {
                let identity = files.identity(file)?;
                warnings.extend(foreign(farm, &identity));
                identities.push(identity);
            }
            let client_ca = match &farm.client_ca {
                Some(file) => Some(files.authorities(file, "client_ca")?),
                None => None,
            };
            if let Some(by_sni) = BySni::new(&identities) {
                let config = Arc::new(server_config(&provider, by_sni, client_ca, farm.client_certificates)?);
                for listener in farm.listeners.iter().filter(|listener| listener.transport.is_secure()) {
                    servers.entry(listener.id).or_insert_with(|| Arc::clone(&config));
                }
            }
            warnings.extend(unverified(farm));
            if let Some(first) = identities.first() {
                clients.show(farm.id, first.for_servers());
            }
            for (_, verify) in clients::named(farm) {
                needs_system |= *verify == Verify::System;
                clients.add(farm.id, verify, &mut files, system)?;
            }
            let has_domain = clients::has_secure_domain(farm);
            needs_system |= has_domain;
            if has_domain || clients::may_meet_anybody(farm) {
                clients.add(farm.id, &Verify::System, &mut files, system)?;
            }
        }
        if needs_system && clients.system_is_empty {
            warnings.push(TlsWarning::NoSystemAuthorities);
        }
        let (certificates, watched) = files.into_parts();
        let store = Self { servers, clients, certificates, watched };
        let mut all = store.ending(now_unix);
        all.append(&mut warnings);
        Ok((store, all))
    }
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    by_sni: BySni,
    client_ca: Option<Arc<RootCertStore>>,
    asked: ClientCertificates,
) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider)).with_protocol_versions(&VERSIONS)?;
    let builder = match client_ca {
        Some(authorities) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(authorities, Arc::clone(provider));
            let verifier = match asked {
                ClientCertificates::Verify => verifier.allow_unauthenticated(),
                ClientCertificates::Require => verifier,
            };
            let verifier = verifier.build().map_err(|error| rustls::Error::General(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(by_sni));
    // Each configuration has keys of its own for its tickets: a session never passes from one `client_ca` to another.
    config.ticketer = Ticketer::new()?;
    Ok(config)
}

/// A farm without domains is reached by any name.
fn foreign(farm: &Farm, identity: &Identity) -> Option<TlsWarning> {
    let advertised = farm.listeners.iter().filter_map(|listener| listener.advertise.as_ref());
    let names = advertised.map(|advertise| advertise.host.trim_matches(['[', ']']).to_ascii_lowercase());
    let addresses = farm.listeners.iter().map(|listener| listener.bind.ip().to_string());
    let mut ours = farm.domains.iter().cloned().chain(names).chain(addresses);
    let fits = farm.domains.is_empty() || ours.any(|name| identity.covers(&name));
    (!fits).then(|| TlsWarning::Foreign {
        file: identity.status.file.clone(),
        farm: farm.name.clone(),
        names: identity.status.names.clone(),
    })
}

fn unverified(farm: &Farm) -> Option<TlsWarning> {
    let peers: Vec<String> =
        clients::named(farm).filter(|(_, verify)| **verify == Verify::Off).map(|(name, _)| name.to_owned()).collect();
    (!peers.is_empty()).then(|| TlsWarning::Unverified { farm: farm.name.clone(), peers })
}

impl fmt::Display for TlsWarning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ending { file, seconds } => {
                write!(formatter, "the certificate in {file} ends in {}: renew it", span(*seconds))
            }
            Self::Ended { file, seconds } => {
                let ago = span(*seconds);
                write!(formatter, "the certificate in {file} ended {ago} ago, and is refused by whoever looks: renew it")
            }
            Self::Foreign { file, farm, names } => write!(
                formatter,
                "the certificate in {file} is for none of the domains of farm {farm}, so that phones may refuse it: it is for {}",
                if names.is_empty() { "no name at all".to_owned() } else { names.join(", ") }
            ),
            Self::Unverified { farm, peers } => write!(
                formatter,
                "farm {farm}: with verify = \"off\" whoever gets in between can pose as {}: name the authority's file, or the \
                 certificate's fingerprint as \"sha256:…\"",
                peers.join(", ")
            ),
            Self::NoSystemAuthorities => formatter.write_str(
                "this machine knows no certificate authorities, so that backends with verify = \"system\" are refused: install \
                 ca-certificates, or name the authority's file in `verify`",
            ),
        }
    }
}

/// Seconds since 1970.
fn unix_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(now).unwrap_or(i64::MAX)
}

/// Whole days, in words.
fn span(seconds: i64) -> String {
    match seconds / DAY_SECONDS {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

const DAY_SECONDS: i64 = 86_400;

/// Certificates that renew themselves do so a month before their end: one that is still there then needs somebody.
pub const NOTICE_DAYS: i64 = 30;
const NOTICE_SECONDS: i64 = NOTICE_DAYS * DAY_SECONDS;
