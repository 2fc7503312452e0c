//! Which certificate a host gets.

use rustls::SignatureScheme;

use super::super::CertStore;
use super::super::certificate::State;
use super::{AUTHORITY, Certs, Order, issue, order, told};

const BOTH: &[SignatureScheme] =
    &[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256];
const RSA: &[SignatureScheme] = &[SignatureScheme::RSA_PKCS1_SHA256];

#[track_caller]
fn check(store: &CertStore, name: &str, schemes: &[SignatureScheme], expected: Option<&str>) {
    let server_name = (!name.is_empty()).then_some(name);
    let chosen = store.catalogue.choices(server_name, schemes).next();
    assert_eq!(chosen.map(|certificate| certificate.name()), expected);
}

#[test]
fn exact_before_wildcard_before_default() {
    let mut certs = Certs::new();
    certs.put("exact", &issue(&["a.shop.example"]));
    certs.put("wild", &issue(&["*.shop.example"]));
    certs.put("other", &issue(&["other.example"]));
    let store = certs.load(None).store;
    check(&store, "a.shop.example", BOTH, Some("exact"));
    check(&store, "A.Shop.Example.", BOTH, Some("exact"));
    check(&store, "b.shop.example", BOTH, Some("wild"));
    check(&store, "a.b.shop.example", BOTH, None);
    check(&store, "shop.example", BOTH, None);
    check(&store, "", BOTH, None);
    assert!(!store.has_certificate(None));
    certs.settings.default = Some("other".into());
    let store = certs.load(Some(&store)).store;
    check(&store, "unknown.example", BOTH, Some("other"));
    check(&store, "", BOTH, Some("other"));
    assert!(store.has_certificate(None));
}

#[test]
fn the_clients_schemes_choose_between_two_kinds_of_key() {
    let certs = Certs::new();
    let rsa = Order { algorithm: &rcgen::PKCS_RSA_SHA256, ..order(&["both.example"]) };
    certs.put("both-ecdsa", &issue(&["both.example", "extra.example"]));
    certs.put("both-rsa", &AUTHORITY.issue(&rsa));
    let loaded = certs.load(None);
    assert_eq!(told(&loaded, &certs), [""; 0]);
    let store = loaded.store;
    check(&store, "both.example", BOTH, Some("both-ecdsa"));
    check(&store, "both.example", RSA, Some("both-rsa"));
    check(&store, "both.example", &[SignatureScheme::ED25519], Some("both-ecdsa"));
    // Which of the two a connection got is not known: only what both cover counts.
    assert!(store.covers(Some("both.example"), "both.example"));
    assert!(!store.covers(Some("both.example"), "extra.example"));
    assert!(store.covers(Some("extra.example"), "both.example"));
}

#[test]
fn one_that_is_valid_goes_before_the_curve() {
    let certs = Certs::new();
    certs.put("ecdsa", &AUTHORITY.issue(&Order { days: -1, ..order(&["both.example"]) }));
    let rsa = Order { algorithm: &rcgen::PKCS_RSA_SHA256, ..order(&["both.example"]) };
    certs.put("rsa", &AUTHORITY.issue(&rsa));
    let store = certs.load(None).store;
    check(&store, "both.example", BOTH, Some("rsa"));
    check(&store, "both.example", &[SignatureScheme::ECDSA_NISTP256_SHA256], Some("ecdsa"));
    certs.put("rsa", &AUTHORITY.issue(&Order { days: -1, ..rsa }));
    check(&certs.load(None).store, "both.example", BOTH, Some("ecdsa"));
}

/// With many certificates a key is taken apart at its first handshake alone.
#[test]
fn a_key_that_is_refused_at_its_first_use_leaves_the_host_to_the_other() {
    let certs = Certs::new();
    certs.put("ecdsa", &issue(&["both.example"]));
    let rsa = Order { algorithm: &rcgen::PKCS_RSA_SHA256, ..order(&["both.example"]) };
    certs.put("rsa", &AUTHORITY.issue(&rsa));
    let store = certs.load(None).store;
    let used = |store: &CertStore| {
        let key = store.catalogue.certified_key(Some("both.example"), BOTH)?;
        let by = |name: &str| {
            let own = store.named(name).unwrap().certified_key();
            own.is_some_and(|own| own.cert[0] == key.cert[0])
        };
        ["ecdsa", "rsa"].into_iter().find(|name| by(name))
    };
    assert_eq!(used(&store), Some("ecdsa"));
    *store.named("ecdsa").unwrap().state.write().unwrap() = State::Refused;
    assert_eq!(used(&store), Some("rsa"));
    *store.named("rsa").unwrap().state.write().unwrap() = State::Refused;
    assert_eq!(used(&store), None);
}

#[test]
fn of_two_for_one_host_the_longer_valid_is_served_and_the_other_told() {
    let certs = Certs::new();
    certs.put("a", &issue(&["twice.example", "more.example"]));
    certs.put("b", &AUTHORITY.issue(&Order { days: 91, ..order(&["twice.example"]) }));
    let loaded = certs.load(None);
    check(&loaded.store, "twice.example", BOTH, Some("b"));
    check(&loaded.store, "more.example", BOTH, Some("a"));
    let problems = told(&loaded, &certs);
    assert!(problems[0].starts_with(
        "a/fullchain.pem: is not used for twice.example: the certificate \"b\" is for the same"
    ));
}

#[test]
fn of_two_equally_valid_the_first_name_is_served() {
    let certs = Certs::new();
    let issued = issue(&["twice.example"]);
    certs.put("z", &issued);
    certs.put("m", &issued);
    check(&certs.load(None).store, "twice.example", BOTH, Some("m"));
}

#[test]
fn international_names_are_found_in_their_ascii_form() {
    let certs = Certs::new();
    certs.put("idn", &issue(&["xn--bcher-kva.example"]));
    let store = certs.load(None).store;
    check(&store, "xn--bcher-kva.example", BOTH, Some("idn"));
    assert!(store.covers(Some("xn--bcher-kva.example"), "xn--bcher-kva.example"));
}

#[test]
fn addresses_are_hosts_too() {
    let certs = Certs::new();
    certs.put("address", &issue(&["127.0.0.1", "::1"]));
    let store = certs.load(None).store;
    let certificate = store.named("address").unwrap();
    assert!(certificate.covers("127.0.0.1") && certificate.covers("[::1]"));
}
