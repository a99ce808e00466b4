//! Whose certificates are believed. As the balancer does it towards its backends, so that a check and the balancer agree.

use super::{StartError, Trust};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Makes the client's side of TLS. The system's authorities are kept: to read them takes longer than a packet of audio lasts.
#[derive(Default)]
pub(super) struct Trusts {
    system: Option<(Instant, Arc<RootCertStore>)>,
}

impl Trusts {
    /// TLS 1.2 and 1.3. No session is resumed: a check is to see the whole handshake.
    pub(super) fn config(&mut self, trust: &Trust) -> Result<Arc<ClientConfig>, StartError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let wrong = |error: &dyn fmt::Display| StartError::Certificates { text: error.to_string() };
        let believed = match trust {
            Trust::System => client::Trust::Authorities(self.system()),
            Trust::File(file) => {
                client::Trust::Authorities(Arc::new(client::authorities(file).map_err(|error| wrong(&error))?))
            }
            Trust::Pinned(fingerprint) => client::Trust::Pinned(*fingerprint),
            Trust::Off => client::Trust::Anybody,
        };
        if matches!(&believed, client::Trust::Authorities(roots) if roots.is_empty()) {
            let text =
                "this machine knows no certificate authorities: install ca-certificates, or name the authority's file";
            return Err(wrong(&text));
        }
        let verifier = client::verifier(&provider, believed).map_err(|error| wrong(&error))?;
        let builder = client::config_builder(&provider, verifier).map_err(|error| wrong(&error))?;
        let mut config = builder.with_no_client_auth();
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
        let (_added, _ignored) = roots.add_parsable_certificates(client::system_authorities());
        let roots = Arc::new(roots);
        self.system = Some((Instant::now(), Arc::clone(&roots)));
        roots
    }
}

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
}
