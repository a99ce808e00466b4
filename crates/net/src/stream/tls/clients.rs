//! How we meet servers: whom we believe, and what we show to those that ask who we are.

use super::certificates::{Files, TlsError};
use super::peer::{Proof, TlsPeer};
use super::verify::{self, Each};
use client::{Trust, verifier};
use engine::{Egress, Farm, FarmId, Transport, Verify};
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) struct Clients {
    provider: Arc<CryptoProvider>,
    verifiers: Vec<(Verify, Arc<dyn ServerCertVerifier>)>,
    /// The first certificate of each farm that has one.
    shown: BTreeMap<FarmId, Arc<SingleCertAndKey>>,
    /// One for each farm and way of verifying that the settings name: peers that are verified alike share it and its sessions.
    ready: Vec<(FarmId, Verify, Arc<ClientConfig>)>,
    /// The system's authorities were asked for, and there are none.
    pub(super) system_is_empty: bool,
}

impl Clients {
    pub(super) fn new(provider: Arc<CryptoProvider>) -> Self {
        Self { provider, verifiers: Vec::new(), shown: BTreeMap::new(), ready: Vec::new(), system_is_empty: false }
    }

    /// What the farm shows to servers. Before [`Clients::add`].
    pub(super) fn show(&mut self, farm: FarmId, identity: Arc<SingleCertAndKey>) {
        self.shown.insert(farm, identity);
    }

    /// Makes ready what the farm needs to meet a server that is verified like this.
    pub(super) fn add(
        &mut self,
        farm: FarmId,
        verify: &Verify,
        files: &mut Files,
        system: &dyn Fn() -> Vec<CertificateDer<'static>>,
    ) -> Result<(), TlsError> {
        if self.ready.iter().any(|(of, by, _)| *of == farm && by == verify) {
            return Ok(());
        }
        let verifier = match self.verifier(verify) {
            Some(known) => known,
            None => {
                let trust = self.trust(verify, files, system)?;
                let verifier = verifier(&self.provider, trust)?;
                self.verifiers.push((verify.clone(), Arc::clone(&verifier)));
                verifier
            }
        };
        let config = verify::client_config(&self.provider, verifier, self.shown.get(&farm).cloned())?;
        self.ready.push((farm, verify.clone(), Arc::new(config)));
        Ok(())
    }

    /// Verifies `peers`, whom the settings do not name any more, as `before` does. Their files may be gone.
    pub(super) fn take_over<'a>(&mut self, before: &Self, peers: impl Iterator<Item = &'a TlsPeer>) {
        for proof in peers.flat_map(TlsPeer::proofs) {
            if self.verifier(&proof.verify).is_none()
                && let Some(verifier) = before.verifier(&proof.verify)
            {
                self.verifiers.push((proof.verify.clone(), verifier));
            }
        }
    }

    /// `None`: nobody knows how to verify the peer.
    pub(super) fn meet(&self, peer: &TlsPeer) -> Option<(Arc<ClientConfig>, ServerName<'static>)> {
        let name = peer.first.name.clone();
        let is_ready = |(farm, verify, _): &&(FarmId, Verify, Arc<ClientConfig>)| {
            *farm == peer.farm && *verify == peer.first.verify
        };
        if peer.others.is_empty()
            && let Some((_, _, config)) = self.ready.iter().find(is_ready)
        {
            return Some((Arc::clone(config), name));
        }
        // Of its own: sessions that are resumed prove nothing but what was asked for when they began.
        let first = self.verifier(&peer.first.verify)?;
        let demand = |proof: &Proof| Some((self.verifier(&proof.verify)?, proof.name.clone()));
        let demands: Option<Vec<(Arc<dyn ServerCertVerifier>, ServerName<'static>)>> =
            peer.proofs().map(demand).collect();
        let verifier = Arc::new(Each { first, demands: demands? });
        let config = verify::client_config(&self.provider, verifier, self.shown.get(&peer.farm).cloned()).ok()?;
        Some((Arc::new(config), name))
    }

    fn verifier(&self, verify: &Verify) -> Option<Arc<dyn ServerCertVerifier>> {
        self.verifiers.iter().find(|(known, _)| known == verify).map(|(_, verifier)| Arc::clone(verifier))
    }

    fn trust(
        &mut self,
        verify: &Verify,
        files: &mut Files,
        system: &dyn Fn() -> Vec<CertificateDer<'static>>,
    ) -> Result<Trust, TlsError> {
        Ok(match verify {
            Verify::System => {
                let mut authorities = RootCertStore::empty();
                // The lists of old systems hold some that cannot be read; the others serve nevertheless.
                let _counts = authorities.add_parsable_certificates(system());
                self.system_is_empty = authorities.is_empty();
                Trust::Authorities(Arc::new(authorities))
            }
            Verify::File(file) => Trust::Authorities(files.authorities(file, "verify")?),
            Verify::Pinned(fingerprint) => Trust::Pinned(*fingerprint),
            Verify::Off => Trust::Anybody,
        })
    }
}

/// The peers that the settings of a farm name and that may be met over TLS: each by its name there, and how it is verified.
pub(super) fn named(farm: &Farm) -> impl Iterator<Item = (&str, &Verify)> {
    let backends = farm.backends.iter().filter(move |backend| match backend.transport {
        Some(transport) => transport.is_secure(),
        // It is reached as the client came.
        None => farm.listeners.iter().any(|listener| listener.transport.is_secure()),
    });
    let trunks = farm.trunks.iter().filter(|trunk| trunk.out.iter().any(|place| place.transport.is_secure()));
    let backends = backends.map(|backend| (backend.name.as_str(), &backend.verify));
    backends.chain(trunks.map(|trunk| (trunk.name.as_str(), &trunk.verify)))
}

/// Whether a domain that backends may call is reached over TLS: whoever serves it is verified by the system's authorities.
pub(super) fn has_secure_domain(farm: &Farm) -> bool {
    egress(farm).any(|way| match way {
        Egress::Domain { places, .. } => places.iter().any(|place| place.transport.is_secure()),
        Egress::Trunk(_) | Egress::Network(_) => false,
    })
}

/// Whether backends may name a place outside that is then met over TLS.
pub(super) fn may_meet_anybody(farm: &Farm) -> bool {
    egress(farm).next().is_some() && farm.listeners.iter().any(|listener| listener.transport == Transport::Tls)
}

fn egress(farm: &Farm) -> impl Iterator<Item = &Egress> {
    farm.services.iter().flat_map(|service| &service.egress)
}
