//! Whole handshakes in memory, with certificates made for each test.

mod parties;

use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::fingerprint;
use engine::{Advertise, Egress, Place, Service, Transport};
use parties::*;
use rcgen::{
    CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, SanType,
};
use rustls::HandshakeKind;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::TLS13;
use std::io;
use std::net::SocketAddr;
use std::slice::from_ref;

#[test]
fn the_certificate_follows_the_name_asked_for() {
    let (authority, folder) = (Authority::new("one"), Folder::new());
    let issued: Vec<Issued> = [
        &["sip.example.com"][..],
        &["*.example.com", "example.com"],
        &["PBX.example.com", "*.example.org", "pbx.example.com"],
    ]
    .map(|names| authority.issue(names))
    .into();
    let files: Vec<String> =
        issued.iter().enumerate().map(|(index, issued)| folder.write(&index.to_string(), &issued.pem())).collect();
    let settings = settings(farm(&[(1, Transport::Tls)], &files), backend(None, Verify::Off));
    let store = load(&settings);
    let cases = [
        ("sip.example.com", 0),
        ("SIP.Example.COM", 0),
        ("other.example.com", 1),
        ("example.com", 1),
        // The exact name in a later file comes before a wildcard in an earlier one.
        ("pbx.example.com", 2),
        ("any.example.org", 2),
        // A wildcard stands for one label, and never for none.
        ("a.b.example.com", 0),
        ("example.org", 0),
        ("example.net", 0),
        // An address is not sent as a name.
        ("10.0.0.2", 0),
    ];
    for (name, expected) in cases {
        let name = ServerName::try_from(name).expect("a valid name");
        let shown = shown(client(&store, &settings), name.clone(), server(&store, 1));
        let found = issued.iter().position(|issued| issued.der() == shown);
        assert_eq!(found, Some(expected), "{name:?}");
    }
}

#[test]
fn a_listener_belongs_to_the_first_farm_with_certificates() {
    let (authority, folder) = (Authority::new("one"), Folder::new());
    let (first, second) = (authority.issue(&["first.example.com"]), authority.issue(&["second.example.com"]));
    let files = [folder.write("first", &first.pem()), folder.write("second", &second.pem())];
    let listeners = [(1, Transport::Tls), (2, Transport::Udp)];
    let farms = vec![
        farm(&listeners, &[]),
        farm(&listeners, &files[..1]),
        farm(&[(1, Transport::Tls), (3, Transport::Wss), (4, Transport::Ws)], &files[1..]),
    ];
    let store = load(&settings_of(farms));
    let shown_at = |listener| shown(anybody(), by_address(), server(&store, listener));
    assert_eq!(shown_at(1), first.der());
    assert_eq!(shown_at(3), second.der());
    for listener in [2, 4, 5] {
        assert!(store.server(ListenerId(listener)).is_none(), "{listener}");
    }
    let files_shown: Vec<String> = store.certificates().into_iter().map(|status| status.file).collect();
    assert_eq!(files_shown, files);
}

/// How the text of each refusal begins; an empty one: the connection is good.
#[test]
fn servers_are_verified_as_the_backend_says() {
    let (authority, stranger, folder) = (Authority::new("one"), Authority::new("two"), Folder::new());
    let ca = folder.write("ca", &authority.pem);
    let good = authority.issue(&["10.0.0.11", "pbx.example.com"]);
    let expired = authority.issue_until(&["10.0.0.11"], LONG_AGO);
    let other_name = authority.issue(&["10.0.0.12"]);
    let strange = stranger.issue(&["10.0.0.11"]);
    let alone = Issued::self_signed(&["10.0.0.11"]);
    let cases = [
        (&good, ""),
        (&expired, "invalid peer certificate: certificate expired: verification time"),
        (
            &other_name,
            "invalid peer certificate: certificate not valid for name \"10.0.0.11\"; certificate is only valid for",
        ),
        (&strange, "invalid peer certificate: UnknownIssuer"),
        (&alone, "invalid peer certificate: UnknownIssuer"),
    ];
    for (issued, by_authority) in cases {
        let shown = fingerprint(&issued.der());
        let hexadecimal: String = shown.iter().map(|octet| format!("{octet:02x}")).collect();
        let not_pinned = format!(
            "invalid peer certificate: Other(OtherError(the server shows another certificate than the pinned one: \
             sha256:{hexadecimal}))"
        );
        let ways = [
            (Verify::System, by_authority),
            (Verify::File(ca.clone()), by_authority),
            (Verify::Pinned(shown), ""),
            (Verify::Pinned([7; 32]), not_pinned.as_str()),
            (Verify::Off, ""),
        ];
        for (verify, expected) in ways {
            for version in VERSIONS {
                let told = refusal_of(verify.clone(), &authority, issued.serve(version));
                let agrees = told.starts_with(expected) && told.is_empty() == expected.is_empty();
                assert!(agrees, "{verify:?} {version:?}: {told:?} instead of {expected:?}");
            }
        }
    }
    let itself = Verify::File(folder.write("itself", &alone.certificate.pem()));
    assert_eq!(refusal_of(itself, &authority, alone.serve(&TLS13)), "");
}

#[test]
fn a_pinned_certificate_without_its_key_is_worth_nothing() {
    let authority = Authority::new("one");
    for kind in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519, &PKCS_RSA_SHA256] {
        let (issued, thief) = (authority.issue_for(kind), authority.issue_for(kind));
        for version in VERSIONS {
            for verify in [Verify::Pinned(fingerprint(&issued.der())), Verify::Off] {
                assert_eq!(refusal_of(verify.clone(), &authority, issued.serve(version)), "", "{kind:?} {version:?}");
                let stolen = serve(vec![issued.der()], thief.key(), version);
                let told = refusal_of(verify, &authority, stolen);
                assert_eq!(told, "invalid peer certificate: BadSignature", "{kind:?} {version:?}");
            }
        }
    }
}

/// As the scripts of some PBXs issue them; the key is SEC1.
#[test]
fn a_certificate_of_version_1_can_be_pinned_and_shown() {
    let (authority, folder) = (Authority::new("one"), Folder::new());
    let certificate = CertificateDer::from_pem_slice(VERSION_1.as_bytes()).expect("a certificate");
    let key = || PrivateKeyDer::from_pem_slice(VERSION_1.as_bytes()).expect("a key");
    assert!(matches!(key(), PrivateKeyDer::Sec1(_)));
    for version in VERSIONS {
        for verify in [Verify::Pinned(fingerprint(&certificate)), Verify::Off] {
            let server = serve(vec![certificate.clone()], key(), version);
            assert_eq!(refusal_of(verify, &authority, server), "");
        }
    }
    let files = [folder.write("old", VERSION_1)];
    let settings = settings(farm(&[(1, Transport::Tls)], &files), backend(None, Verify::Off));
    let store = load(&settings);
    assert_eq!(shown(client(&store, &settings), by_address(), server(&store, 1)), certificate);
    assert_eq!(store.certificates()[0].names, ["pbx.example.com"]);
}

#[test]
fn a_client_shows_a_good_certificate_or_none() {
    let (authority, stranger, folder) = (Authority::new("one"), Authority::new("two"), Folder::new());
    let files = [folder.write("server", &authority.issue(&["sip.example.com"]).pem())];
    let mut farm = farm(&[(1, Transport::Tls)], &files);
    farm.client_ca = Some(folder.write("clients", &authority.pem));
    let settings = settings(farm, backend(None, Verify::Off));
    let store = load(&settings);
    let meet = |shown: Option<&Issued>| {
        let mut config = (*anybody()).clone();
        if let Some(shown) = shown {
            config.client_auth_cert_resolver = Arc::new(shown.certified());
        }
        let (_, server) = handshake(Arc::new(config), by_address(), server(&store, 1))?;
        Ok::<_, rustls::Error>(server.peer_certificates().map(|chain| chain[0].clone()))
    };
    let good = authority.issue(&["phone.example.com"]);
    assert_eq!(meet(None), Ok(None));
    assert_eq!(meet(Some(&good)), Ok(Some(good.der())));
    let refused = |shown: &Issued| meet(Some(shown)).expect_err("it is refused").to_string();
    assert_eq!(refused(&stranger.issue(&["phone.example.com"])), "invalid peer certificate: UnknownIssuer");
    assert_eq!(refused(&Issued::self_signed(&["phone.example.com"])), "invalid peer certificate: UnknownIssuer");
    let expired = authority.issue_until(&["phone.example.com"], LONG_AGO);
    assert!(refused(&expired).starts_with("invalid peer certificate: certificate expired"));
}

#[test]
fn a_client_without_a_certificate_is_refused_where_one_is_required() {
    let (authority, folder) = (Authority::new("one"), Folder::new());
    let own = authority.issue(&["sip.example.com"]);
    let files = [folder.write("server", &own.pem())];
    let mut farm = farm(&[(1, Transport::Tls)], &files);
    farm.client_ca = Some(folder.write("clients", &authority.pem));
    let meet = |farm: &Farm, config: Arc<ClientConfig>| {
        let store = load(&settings_of(vec![farm.clone()]));
        let (_, theirs) = handshake(config, by_address(), server(&store, 1))?;
        Ok::<_, rustls::Error>(theirs.peer_certificates().map(|chain| chain[0].clone()))
    };
    assert_eq!(meet(&farm, anybody()), Ok(None));
    farm.client_certificates = ClientCertificates::Require;
    assert_eq!(meet(&farm, anybody()), Err(rustls::Error::NoCertificatesPresented));
    // What a farm shows to clients it shows to servers too.
    let settings = settings(farm.clone(), backend(Some(Transport::Tls), Verify::Off));
    let as_farm = client(&load(&settings), &settings);
    assert_eq!(meet(&farm, as_farm), Ok(Some(own.der())));
}

#[test]
fn two_names_at_one_address_are_both_proven() {
    let (authority, folder) = (Authority::new("one"), Folder::new());
    let verify = Verify::File(folder.write("ca", &authority.pem));
    let settings = settings(farm(&[], &[]), backend(Some(Transport::Tls), verify.clone()));
    let (id, address) = (settings.farms[0].id, settings.farms[0].backends[0].address.ip());
    let store = load(&settings);
    let refusal = |names: &[&str], issued: &Issued, version| {
        let mut proofs = names.iter().map(|name| Proof::new(&verify, Some(*name), address));
        let mut peer = TlsPeer::new(id, proofs.next().expect("one name at least"));
        proofs.for_each(|proof| peer.demand(proof));
        let (config, name) = store.client(&peer).expect("the file is known");
        handshake(config, name, issued.serve(version)).err().map_or_else(String::new, |error| error.to_string())
    };
    let (one, both) = (authority.issue(&["one.example"]), authority.issue(&["one.example", "two.example"]));
    for version in VERSIONS {
        assert_eq!(refusal(&["one.example"], &one, version), "");
        assert_eq!(refusal(&["one.example", "two.example"], &both, version), "");
        for names in [["one.example", "two.example"], ["two.example", "one.example"]] {
            let told = refusal(&names, &one, version);
            assert!(told.contains("certificate not valid for name \"two.example\""), "{version:?}: {told}");
        }
    }
}

#[test]
fn who_is_no_longer_named_is_verified_as_before() {
    let (authority, folder) = (Authority::new("one"), Folder::new());
    let verify = Verify::File(folder.write("ca", &authority.pem));
    let before = settings(farm(&[], &[]), backend(Some(Transport::Tls), verify));
    let gone = peer(before.farms[0].id, &before.farms[0].backends[0]);
    let old = load(&before);
    std::fs::remove_file(folder.path("ca")).expect("the folder is ours");
    let next = load(&settings_of(vec![farm(&[], &[])]));
    assert!(next.client(&gone).is_none());
    let next = next.with_former(&old, std::iter::once(&gone));
    let issued = authority.issue(&["10.0.0.11"]);
    let (config, name) = next.client(&gone).expect("it was taken over");
    assert!(handshake(config, name, issued.serve(&TLS13)).is_ok());
    assert!(!next.changed_files(), "a file that nobody names is nobody's concern");
}

#[test]
fn trunks_and_egress_are_verified_as_backends_are() {
    let (authority, folder) = (Authority::new("one"), Folder::new());
    let place = |transport| Place { transport, address: SocketAddr::from(([192, 0, 2, 7], 5061)), host: None };
    let file = Verify::File(folder.write("ca", &authority.pem));
    let mut farm = farm(&[(1, Transport::Tls)], &[]);
    let known = |farm: &Farm, verify: &Verify| {
        let peer = TlsPeer::new(farm.id, Proof::of_place(verify, &place(Transport::Tls)));
        load(&settings_of(vec![farm.clone()])).client(&peer).is_some()
    };
    let mut trunk = sim::settings::trunk("carrier", "192.0.2.0/24", place(Transport::Tls).address);
    trunk.verify = file.clone();
    for (transport, expected) in [(Transport::Udp, false), (Transport::Tcp, false), (Transport::Tls, true)] {
        trunk.out = vec![place(Transport::Udp), place(transport)];
        farm.trunks = vec![trunk.clone()];
        assert_eq!((known(&farm, &file), known(&farm, &Verify::System)), (expected, false), "{transport:?}");
    }
    trunk.verify = Verify::Off;
    farm.trunks = vec![trunk];
    assert!(warnings(farm.clone()).iter().any(|text| text.contains("can pose as carrier")));
    // Wherever a backend may call, the system's authorities are asked; a warning is due only where the settings name TLS.
    farm.trunks.clear();
    let network = Egress::Network("198.51.100.0/24".parse().expect("a network"));
    farm.services = vec![Service { egress: vec![network], ..sim::settings::service("default", Vec::new()) }];
    assert!(known(&farm, &Verify::System) && warnings(farm.clone()).is_empty());
    let domain = |transport| Egress::Domain { host: "example.net".to_owned(), places: vec![place(transport)] };
    for (transport, expected) in [(Transport::Udp, 0), (Transport::Tls, 1)] {
        farm.services[0].egress = vec![domain(transport)];
        assert_eq!(warnings(farm.clone()).len(), expected, "{transport:?}");
    }
}

#[test]
fn sessions_are_resumed_until_the_store_is_another() {
    let (authority, folder) = (Authority::new("one"), Folder::new());
    let files = [folder.write("server", &authority.issue(&["sip.example.com"]).pem())];
    let settings = settings(farm(&[(1, Transport::Tls)], &files), backend(None, Verify::Off));
    let store = load(&settings);
    for versions in [&VERSIONS[..1], &VERSIONS[1..]] {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .expect("the provider knows it")
            .with_root_certificates(authority.roots())
            .with_no_client_auth();
        let config = Arc::new(config);
        let kind = |store: &TlsStore| {
            let name = ServerName::try_from("sip.example.com").expect("a valid name");
            let (client, _) = handshake(Arc::clone(&config), name, server(store, 1)).expect("it is good");
            client.handshake_kind().map(|kind| kind == HandshakeKind::Resumed)
        };
        assert_eq!([kind(&store), kind(&store)], [Some(false), Some(true)], "{versions:?}");
        let (next, _) = TlsStore::load(&settings).expect("the file is good");
        assert_eq!(kind(&next), Some(false), "{versions:?}");
    }
}

#[test]
fn a_new_file_is_noticed_and_shown_to_new_connections() {
    let (authority, folder) = (Authority::new("one"), Folder::new());
    let (old, new) = (authority.issue(&["sip.example.com"]), authority.issue(&["sip.example.com"]));
    let file = folder.write("server", &old.pem());
    let mut farm = farm(&[(1, Transport::Tls)], from_ref(&file));
    farm.client_ca = Some(folder.write("clients", &authority.pem));
    let ca = folder.write("ca", &authority.pem);
    let settings = settings(farm, backend(None, Verify::File(ca)));
    let shown_by = |store: &TlsStore| shown(anybody(), by_address(), server(store, 1));
    let store = load(&settings);
    assert!(!store.changed_files());

    let next = folder.write("next", &new.pem());
    std::fs::rename(next, &file).expect("the folder is ours");
    assert!(store.changed_files());
    assert_eq!(shown_by(&store), old.der());
    let (reloaded, _) = TlsStore::load(&settings).expect("the file is good");
    assert!(!reloaded.changed_files());
    assert_eq!((shown_by(&store), shown_by(&reloaded)), (old.der(), new.der()));

    for watched in ["server", "clients", "ca"] {
        let (store, _) = TlsStore::load(&settings).expect("the files are good");
        folder.touch(watched);
        assert!(store.changed_files(), "{watched}: the time is another");
        let (store, _) = TlsStore::load(&settings).expect("the files are good");
        folder.write(watched, &(folder.text(watched) + "\n"));
        assert!(store.changed_files(), "{watched}: the length is another");
    }
    let (store, _) = TlsStore::load(&settings).expect("the files are good");
    std::fs::remove_file(&file).expect("the folder is ours");
    assert!(store.changed_files());
    assert!(TlsStore::load(&settings).is_err());
    assert_eq!(shown_by(&store), new.der());
}

#[test]
fn chain_and_key_stand_in_any_order_and_form() {
    let (authority, folder) = (Authority::new("one"), Folder::new());
    for kind in [&PKCS_ECDSA_P256_SHA256, &PKCS_RSA_SHA256] {
        let issued = authority.issue_for(kind);
        let key = issued.key.serialize_pem();
        let mut texts = vec![
            format!("{key}{}{}", authority.pem, issued.certificate.pem()),
            format!("{}{key}{}", issued.certificate.pem(), authority.pem),
            format!("a comment\n{}{}{key}", authority.pem, issued.certificate.pem()).replace('\n', "\r\n"),
        ];
        if *kind == PKCS_RSA_SHA256 {
            // PKCS#8 (RFC 5208 §5) puts 26 octets before the PKCS#1 key of 2048 bits.
            let pkcs1 = STANDARD.encode(issued.key.serialized_der().get(26..).expect("the key is longer"));
            let key = format!("-----BEGIN RSA PRIVATE KEY-----\n{pkcs1}\n-----END RSA PRIVATE KEY-----\n");
            texts.push(format!("{key}{}{}", issued.certificate.pem(), authority.pem));
        }
        for text in texts {
            let files = [folder.write("server", &text)];
            let settings = settings(farm(&[(1, Transport::Tls)], &files), backend(None, Verify::Off));
            let store = load(&settings);
            let (client, _) =
                handshake(client(&store, &settings), by_address(), server(&store, 1)).expect("it is good");
            let chain = client.peer_certificates().expect("the server shows its certificates");
            assert_eq!(chain, [issued.der(), authority.der.clone()], "{text}");
        }
    }
}

#[test]
fn a_file_that_is_wrong_is_named_with_what_to_do() {
    let (authority, folder) = (Authority::new("one"), Folder::new());
    let (issued, other) = (authority.issue(&["sip.example.com"]), authority.issue(&["sip.example.com"]));
    let (certificate, key) = (issued.certificate.pem(), issued.key.serialize_pem());
    let section = |kind: &str, text: &str| format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n");
    let old_encryption = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA";
    let encrypted = "the private key in FILE is encrypted, and nobody is there to type the password: put what \
                     `openssl pkey -in FILE` prints in its place, and let tandem alone read the file";
    let unusable = "the private key in FILE cannot be used: it must be RSA of 2048 to 8192 bits, ECDSA P-256, P-384 \
                    or P-521, or Ed25519";
    let nothing = "FILE holds no certificate: it must hold the certificate, its chain and its private key, all as PEM";
    let cases = [
        (String::new(), nothing),
        (key.clone(), nothing),
        (certificate.clone(), "FILE holds no private key: append that of its certificate, as PEM"),
        (certificate.clone() + &section("ENCRYPTED PRIVATE KEY", "AAAA"), encrypted),
        (certificate.clone() + &section("RSA PRIVATE KEY", old_encryption), encrypted),
        (certificate.clone() + &key + &key, "FILE holds 2 private keys: leave only that of its certificate"),
        (certificate.clone() + &section("PRIVATE KEY", "AAAA"), unusable),
        (
            certificate.clone() + &other.key.serialize_pem(),
            "the private key in FILE belongs to no certificate there: put the key there that the certificate was issued for",
        ),
        (
            certificate.clone() + &section("CERTIFICATE", "AAAA") + &key,
            "certificate 2 in FILE is damaged: copy it again whole",
        ),
        (section("CERTIFICATE", "!!!!") + &key, "FILE is damaged: a section is not base64; copy it again whole"),
        (
            key.clone() + "-----BEGIN CERTIFICATE-----\nAAAA\n",
            "FILE is damaged: its last section, CERTIFICATE, has no end; copy it again whole",
        ),
        (
            "-----BEGIN CERTIFICATE---\nAAAA\n".to_owned(),
            "FILE is damaged: the line \"-----BEGIN CERTIFICATE---\" begins no section; copy it again whole",
        ),
    ];
    for (text, expected) in cases {
        let file = folder.write("server", &text);
        let told = refusal(farm(&[(1, Transport::Tls)], from_ref(&file)));
        assert_eq!(told, expected.replace("FILE", &file), "{text}");
    }
    let missing = folder.path("missing");
    assert_eq!(
        refusal(farm(&[], from_ref(&missing))),
        format!("cannot read {missing}: there is no such file; put it there, or correct `certificates`")
    );
    let directory = folder.path("");
    assert_eq!(
        refusal(farm(&[], from_ref(&directory))),
        format!("cannot read {directory}: Is a directory (os error 21); name a PEM file in `certificates`")
    );
    // A test may run as root, who reads everything.
    let error = io::Error::from(io::ErrorKind::PermissionDenied);
    assert_eq!(
        TlsError::Read { file: "/a.pem".to_owned(), setting: "verify", error }.to_string(),
        "cannot read /a.pem: permission denied; let the user that tandem runs as read it"
    );
}

#[test]
fn authorities_are_read_as_strictly() {
    let (authority, folder) = (Authority::new("one"), Folder::new());
    let (missing, key) = (folder.path("missing"), folder.write("key", &authority.issue(&[]).key.serialize_pem()));
    let damaged = folder.write("damaged", &format!("{}{DAMAGED}", authority.pem));
    let cases = [
        (&missing, "cannot read FILE: there is no such file; put it there, or correct `SETTING`"),
        (&key, "FILE holds no certificate: name a file in `SETTING` that holds those of the authorities, as PEM"),
        (&damaged, "certificate 2 in FILE is damaged: copy it again whole"),
    ];
    for (file, expected) in cases {
        let expected = expected.replace("FILE", file);
        let mut asking = farm(&[(1, Transport::Tls)], &[]);
        asking.client_ca = Some(file.clone());
        assert_eq!(refusal(asking), expected.replace("SETTING", "client_ca"));
        let mut verifying = farm(&[], &[]);
        verifying.backends = vec![backend(Some(Transport::Tls), Verify::File(file.clone()))];
        assert_eq!(refusal(verifying.clone()), expected.replace("SETTING", "verify"));
        // A backend that is not reached over TLS needs no authority.
        for transport in [None, Some(Transport::Tcp)] {
            verifying.backends = vec![backend(transport, Verify::File(file.clone()))];
            let asked = peer(verifying.id, &verifying.backends[0]);
            let store = load(&settings_of(vec![verifying.clone()]));
            assert!(store.client(&asked).is_none(), "{transport:?}");
        }
    }
}

#[test]
fn the_end_of_a_certificate_is_announced() {
    let (authority, folder) = (Authority::new("one"), Folder::new());
    let file = folder.write("server", &authority.issue_until(&["sip.example.com"], NOW).pem());
    let settings = settings_of(vec![farm(&[(1, Transport::Tls)], from_ref(&file))]);
    let store = load(&settings);
    let cases = [
        (-30 * DAY_SECONDS - 1, None),
        (-30 * DAY_SECONDS, Some("ends in 30 days: renew it")),
        (-2 * DAY_SECONDS + 1, Some("ends in 1 day: renew it")),
        (1 - DAY_SECONDS, Some("ends in less than a day: renew it")),
        (0, Some("ends in less than a day: renew it")),
        (1, Some("ended less than a day ago, and is refused by whoever looks: renew it")),
        (3 * DAY_SECONDS, Some("ended 3 days ago, and is refused by whoever looks: renew it")),
    ];
    for (seconds, expected) in cases {
        let expected: Vec<String> =
            expected.iter().map(|expected| format!("the certificate in {file} {expected}")).collect();
        let told: Vec<String> = store.ending(NOW + seconds).iter().map(TlsWarning::to_string).collect();
        assert_eq!(told, expected, "{seconds}");
        let (_, warnings) = TlsStore::load_at(&settings, NOW + seconds, &nobody).expect("the file is good");
        assert_eq!(warnings, store.ending(NOW + seconds), "{seconds}");
    }
}

#[test]
fn certificates_for_other_names_and_backends_without_proof_are_announced() {
    let (authority, folder) = (Authority::new("one"), Folder::new());
    let file = folder.write("server", &authority.issue(&["sip.example.com", "*.example.org"]).pem());
    let foreign = format!(
        "the certificate in {file} is for none of the domains of farm pbx, so that phones may refuse it: it is for \
         sip.example.com, *.example.org"
    );
    let advertise = |host: &str| Some(Advertise { host: host.to_owned(), port: 5061 });
    let cases = [
        (vec![], None, false),
        (vec!["sip.example.com"], None, false),
        (vec!["example.com"], None, true),
        (vec!["example.com", "any.example.org"], None, false),
        (vec!["a.any.example.org"], None, true),
        // Phones may verify the name that they are told to connect to.
        (vec!["example.com"], advertise("SIP.example.com"), false),
        (vec!["example.com"], advertise("192.0.2.1"), true),
    ];
    for (domains, advertise, expected) in cases {
        let mut farm = farm(&[(1, Transport::Tls)], from_ref(&file));
        farm.domains = domains.iter().map(|&domain| domain.to_owned()).collect();
        farm.listeners[0].advertise = advertise;
        let told = warnings(farm);
        assert_eq!(told, if expected { vec![foreign.clone()] } else { vec![] }, "{domains:?}");
    }
    let mut farm = farm(&[(1, Transport::Tls)], &[]);
    farm.backends = vec![
        backend(None, Verify::Off),
        backend(Some(Transport::Udp), Verify::Off),
        backend(Some(Transport::Tls), Verify::Off),
        backend(None, Verify::System),
        backend(Some(Transport::Tls), Verify::System),
    ];
    assert_eq!(
        warnings(farm),
        [
            "farm pbx: with verify = \"off\" whoever gets in between can pose as pbx1, pbx1: name the authority's file, or the \
             certificate's fingerprint as \"sha256:…\"",
            "this machine knows no certificate authorities, so that backends with verify = \"system\" are refused: install \
             ca-certificates, or name the authority's file in `verify`",
        ]
    );
}

#[test]
fn status_shows_what_a_certificate_is_for() {
    let folder = Folder::new();
    let mut parameters =
        CertificateParams::new(strings(&["SIP.example.com", "10.0.0.2", "2001:db8::2"])).expect("valid");
    for uri in ["sip:Example.com", "sip:clyde@example.com", "https://example.com", "sip:sip.example.com"] {
        parameters.subject_alt_names.push(SanType::URI(uri.try_into().expect("ASCII")));
    }
    end_at(&mut parameters, NOW);
    let issued = Issued::new(KeyPair::generate().expect("randomness"), |key| parameters.self_signed(key));
    let file = folder.write("server", &issued.pem());
    let store = load(&settings(farm(&[], from_ref(&file)), backend(None, Verify::Off)));
    let names = strings(&["sip.example.com", "10.0.0.2", "2001:db8::2", "example.com"]);
    assert_eq!(store.certificates(), [CertificateStatus { file, names, not_after_unix: NOW }]);
}
