//! Real handshakes, in memory, against the settings of a store.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion, RootCertStore,
    ServerConfig, ServerConnection, SupportedProtocolVersion,
};

use super::super::server_config::provider;
use super::super::{CertStore, LowestVersion, TlsPolicy};
use super::{AUTHORITY, Authority, Certs, Issued, Order, issue, order};

const TLS12: &SupportedProtocolVersion = &rustls::version::TLS12;
const TLS13: &SupportedProtocolVersion = &rustls::version::TLS13;
const PLAIN: TlsPolicy<'_> =
    TlsPolicy { lowest: LowestVersion::Tls12, client_ca: None, certificate: None };

/// A client that offers its latest session to whatever name it connects to: a thief of tickets.
#[derive(Debug, Default)]
struct OneSession {
    tls12: Mutex<Option<Tls12ClientSessionValue>>,
    tls13: Mutex<Option<Tls13ClientSessionValue>>,
}

impl ClientSessionStore for OneSession {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        *self.tls12.lock().unwrap() = Some(value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.tls12.lock().unwrap().clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        *self.tls12.lock().unwrap() = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        *self.tls13.lock().unwrap() = Some(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.tls13.lock().unwrap().take()
    }
}

/// A client of one version with one session to remember, which trusts the test's authority.
fn client(version: &'static SupportedProtocolVersion, identity: Option<&Issued>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(AUTHORITY.root.der().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(issued) => {
            let chain = issued.chain();
            let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap);
            let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain.collect(), key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::store(Arc::new(OneSession::default()));
    config
}

/// What came of a handshake.
#[derive(Debug)]
struct Shaken {
    kind: HandshakeKind,
    version: ProtocolVersion,
    group: Option<NamedGroup>,
    alpn: Option<Vec<u8>>,
    leaf: Vec<u8>,
    tickets: u32,
}

/// One handshake and a byte each way, so that the tickets arrive.
fn shake(
    server: Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    name: &str,
) -> Result<Shaken, rustls::Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(client.clone(), name)?;
    let mut server = ServerConnection::new(server)?;
    client.writer().write_all(b"?").unwrap();
    server.writer().write_all(b"!").unwrap();
    while client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    client.reader().read_exact(&mut [0]).unwrap();
    server.reader().read_exact(&mut [0]).unwrap();
    Ok(Shaken {
        kind: client.handshake_kind().unwrap(),
        version: client.protocol_version().unwrap(),
        group: client.negotiated_key_exchange_group().map(|group| group.name()),
        alpn: client.alpn_protocol().map(<[u8]>::to_vec),
        leaf: client.peer_certificates().unwrap()[0].to_vec(),
        tickets: client.tls13_tickets_received(),
    })
}

fn der(issued: &Issued) -> Vec<u8> {
    CertificateDer::from_pem_slice(issued.leaf.as_bytes()).unwrap().to_vec()
}

fn kind(store: &CertStore, client: &Arc<ClientConfig>, name: &str) -> HandshakeKind {
    shake(store.server_config(PLAIN), client, name).unwrap().kind
}

#[test]
fn both_versions_shake_hands_as_designed() {
    let certs = Certs::new();
    let issued = issue(&["a.example"]);
    certs.put("a", &issued);
    let store = certs.load(None).store;
    for version in [TLS12, TLS13] {
        let shaken =
            shake(store.server_config(PLAIN), &Arc::new(client(version, None)), "a.example");
        let shaken = shaken.unwrap();
        assert_eq!(shaken.version, version.version);
        assert_eq!(shaken.kind, HandshakeKind::Full);
        assert_eq!(shaken.alpn.as_deref(), Some(&b"h2"[..]));
        assert_eq!(shaken.leaf, der(&issued));
        if version.version == ProtocolVersion::TLSv1_3 {
            assert_eq!(shaken.group, Some(NamedGroup::X25519MLKEM768));
            assert_eq!(shaken.tickets, 1);
        }
    }
}

#[test]
fn sessions_resume_after_a_reload_with_a_renewed_certificate() {
    let certs = Certs::new();
    certs.put("a", &issue(&["a.example"]));
    let first = certs.load(None).store;
    for version in [TLS12, TLS13] {
        let client = Arc::new(client(version, None));
        assert_eq!(kind(&first, &client, "a.example"), HandshakeKind::Full);
        assert_eq!(kind(&first, &client, "a.example"), HandshakeKind::Resumed);
        certs.put("a", &issue(&["a.example"]));
        let second = certs.load(Some(&first)).store;
        assert_eq!(kind(&second, &client, "a.example"), HandshakeKind::Resumed);
    }
}

#[test]
fn no_session_resumes_on_another_site() {
    let mut certs = Certs::new();
    // The same certificate serves both names, so nothing but the name stands between them.
    certs.put("both", &issue(&["a.example", "b.example", "default.example"]));
    certs.settings.default = Some("both".into());
    let store = certs.load(None).store;
    for version in [TLS12, TLS13] {
        let client = Arc::new(client(version, None));
        assert_eq!(kind(&store, &client, "a.example"), HandshakeKind::Full);
        assert_eq!(kind(&store, &client, "b.example"), HandshakeKind::Full);
        assert_eq!(kind(&store, &client, "a.example"), HandshakeKind::Full);
        assert_eq!(kind(&store, &client, "a.example"), HandshakeKind::Resumed);
    }
}

#[test]
fn a_session_with_a_name_does_not_resume_without_one_nor_the_reverse() {
    let mut certs = Certs::new();
    certs.put("a", &issue(&["a.example"]));
    certs.settings.default = Some("a".into());
    let store = certs.load(None).store;
    for version in [TLS12, TLS13] {
        let named = client(version, None);
        let mut nameless = named.clone();
        nameless.enable_sni = false;
        let (named, nameless) = (Arc::new(named), Arc::new(nameless));
        assert_eq!(kind(&store, &named, "a.example"), HandshakeKind::Full);
        assert_eq!(kind(&store, &nameless, "a.example"), HandshakeKind::Full);
        assert_eq!(kind(&store, &nameless, "a.example"), HandshakeKind::Resumed);
        assert_eq!(kind(&store, &named, "a.example"), HandshakeKind::Full);
    }
}

#[test]
fn edges_that_share_ticket_keys_resume_each_others_sessions() {
    let mut certs = Certs::new();
    certs.put("a", &issue(&["a.example"]));
    let edges = |certs: &Certs| [certs.load(None).store, certs.load(None).store];
    let [own, other] = edges(&certs);
    let lonely = Arc::new(client(TLS13, None));
    assert_eq!(kind(&own, &lonely, "a.example"), HandshakeKind::Full);
    assert_eq!(kind(&other, &lonely, "a.example"), HandshakeKind::Full);
    let file = certs.path("ticket.keys");
    certs.write(
        "ticket.keys",
        "# made by openssl rand -base64 48\nMDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n",
    );
    certs.settings.ticket_keys = Some(file);
    let [own, other] = edges(&certs);
    for version in [TLS12, TLS13] {
        let client = Arc::new(client(version, None));
        assert_eq!(kind(&own, &client, "a.example"), HandshakeKind::Full);
        assert_eq!(kind(&other, &client, "a.example"), HandshakeKind::Resumed);
    }
}

#[test]
fn a_broken_ticket_keys_file_keeps_the_earlier_keys() {
    let mut certs = Certs::new();
    certs.put("a", &issue(&["a.example"]));
    certs.settings.ticket_keys = Some(certs.path("ticket.keys"));
    certs.write("ticket.keys", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n");
    let first = certs.load(None).store;
    let client = Arc::new(client(TLS13, None));
    assert_eq!(kind(&first, &client, "a.example"), HandshakeKind::Full);
    certs.write("ticket.keys", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\nshort\n");
    let second = certs.load(Some(&first));
    assert!(second.problems[0].to_string().contains("ticket.keys:2: certificates.ticket_keys"));
    assert_eq!(kind(&second.store, &client, "a.example"), HandshakeKind::Resumed);
}

#[test]
fn a_site_may_ask_clients_for_certificates() {
    let mut certs = Certs::new();
    certs.put("a", &issue(&["a.example"]));
    certs.write("clients.ca", AUTHORITY.root.pem());
    let path = certs.path("clients.ca");
    certs.settings.client_authorities = vec![path.clone()];
    let store = certs.load(None).store;
    let policy = TlsPolicy { client_ca: Some(&path), ..PLAIN };
    let usage = rcgen::ExtendedKeyUsagePurpose::ClientAuth;
    let known = AUTHORITY.issue(&Order { usage: usage.clone(), ..order(&["client"]) });
    let unknown = Authority::new("Other").issue(&Order { usage, ..order(&["client"]) });
    for version in [TLS12, TLS13] {
        let attempt = |identity| {
            shake(store.server_config(policy), &Arc::new(client(version, identity)), "a.example")
        };
        assert!(attempt(None).is_err());
        assert!(attempt(Some(&unknown)).is_err());
        assert_eq!(attempt(Some(&known)).unwrap().kind, HandshakeKind::Full);
        // A session made without a certificate opens nothing where one is asked for.
        let stranger = Arc::new(client(version, None));
        assert_eq!(kind(&store, &stranger, "a.example"), HandshakeKind::Full);
        assert!(shake(store.server_config(policy), &stranger, "a.example").is_err());
        let member = Arc::new(client(version, Some(&known)));
        let mut kinds = (0..2).map(|_| shake(store.server_config(policy), &member, "a.example"));
        assert_eq!(kinds.next().unwrap().unwrap().kind, HandshakeKind::Full);
        assert_eq!(kinds.next().unwrap().unwrap().kind, HandshakeKind::Resumed);
    }
}

#[test]
fn authorities_that_cannot_be_read_let_nobody_in() {
    let mut certs = Certs::new();
    certs.put("a", &issue(&["a.example"]));
    let path = certs.path("clients.ca");
    certs.settings.client_authorities = vec![path.clone()];
    let policy = TlsPolicy { client_ca: Some(&path), ..PLAIN };
    let stranger = Arc::new(client(TLS13, None));
    let cold = certs.load(None);
    assert!(cold.problems[0].what.ends_with("; no client is let in"));
    assert!(shake(cold.store.server_config(policy), &stranger, "a.example").is_err());
    // A file that was good once stays in force.
    certs.write("clients.ca", AUTHORITY.root.pem());
    let good = certs.load(Some(&cold.store));
    certs.write("clients.ca", &AUTHORITY.root.pem()[..200]);
    let broken = certs.load(Some(&good.store));
    assert!(broken.problems[0].what.ends_with("; its last good version is used"));
    let usage = rcgen::ExtendedKeyUsagePurpose::ClientAuth;
    let known = AUTHORITY.issue(&Order { usage, ..order(&["client"]) });
    let member = Arc::new(client(TLS13, Some(&known)));
    assert!(shake(broken.store.server_config(policy), &member, "a.example").is_ok());
    assert!(shake(broken.store.server_config(policy), &stranger, "a.example").is_err());
    // A file that no site's settings were loaded with is not taken on trust either.
    let elsewhere = TlsPolicy { client_ca: Some(Path::new("/elsewhere")), ..PLAIN };
    assert!(shake(broken.store.server_config(elsewhere), &stranger, "a.example").is_err());
}

#[test]
fn a_site_may_name_its_certificate() {
    let certs = Certs::new();
    let [one, two] = [issue(&["a.example"]), issue(&["a.example"])];
    certs.put("one", &one);
    certs.put("two", &two);
    let store = certs.load(None).store;
    let client = Arc::new(client(TLS13, None));
    for (name, expected) in [("one", &one), ("two", &two)] {
        let policy = TlsPolicy { certificate: Some(name), ..PLAIN };
        let shaken = shake(store.server_config(policy), &client, "a.example").unwrap();
        if shaken.kind == HandshakeKind::Full {
            assert_eq!(shaken.leaf, der(expected));
        }
        assert!(Arc::ptr_eq(&store.server_config(policy), &store.server_config(policy)));
    }
    let absent = TlsPolicy { certificate: Some("three"), ..PLAIN };
    assert!(shake(store.server_config(absent), &client, "a.example").is_err());
}

#[test]
fn a_client_without_a_certificate_for_its_name_fails_and_an_old_version_too() {
    let certs = Certs::new();
    certs.put("a", &issue(&["a.example"]));
    let store = certs.load(None).store;
    let attempt = |policy, version, name| {
        shake(store.server_config(policy), &Arc::new(client(version, None)), name)
    };
    assert!(attempt(PLAIN, TLS13, "b.example").is_err());
    let modern = TlsPolicy { lowest: LowestVersion::Tls13, ..PLAIN };
    assert!(attempt(modern, TLS12, "a.example").is_err());
    assert!(attempt(modern, TLS13, "a.example").is_ok());
}

#[test]
fn a_client_that_knows_rsa_alone_gets_the_rsa_certificate() {
    let certs = Certs::new();
    let rsa =
        AUTHORITY.issue(&Order { algorithm: &rcgen::PKCS_RSA_SHA256, ..order(&["a.example"]) });
    certs.put("ecdsa", &issue(&["a.example"]));
    certs.put("rsa", &rsa);
    let store = certs.load(None).store;
    let mut old = (*provider()).clone();
    old.cipher_suites.retain(|suite| format!("{suite:?}").contains("_RSA_"));
    let mut roots = RootCertStore::empty();
    roots.add(AUTHORITY.root.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(old))
        .with_protocol_versions(&[TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let shaken = shake(store.server_config(PLAIN), &Arc::new(client), "a.example").unwrap();
    assert_eq!(shaken.leaf, der(&rsa));
}
