//! Every key takes effect: none is parsed and forgotten.

use std::sync::LazyLock;

use super::{Configuration, SITE};
use crate::config::{MAIN_KEYS, SITE_KEYS, Section};

/// A value other than the default for each key of the main file.
const MAIN_VALUES: &[(&str, &str)] = &[
    ("listen.https", "[\"127.0.0.1:0\"]"),
    ("listen.http", "[]"),
    ("listen.admin", "\"unix:admin.sock\""),
    ("listen.admin_token_file", "\"token\""),
    ("listen.backlog", "17"),
    ("listen.proxy_protocol_from", "[\"10.0.0.0/8\"]"),
    ("listen.trusted_proxies", "[\"10.0.0.1\"]"),
    ("runtime.threads", "77"),
    ("runtime.handshake_nice", "17"),
    ("runtime.state", "\"elsewhere\""),
    ("runtime.shutdown_grace", "\"1s\""),
    ("runtime.max_connections", "17"),
    ("runtime.user", "\"65534:65534\""),
    ("certificates.directory", "\"sites\""),
    ("certificates.default", "\"a.test\""),
    ("certificates.tickets", "2"),
    ("certificates.ticket_keys", "\"token\""),
    ("certificates.watch", "true"),
    ("certificates.keep_last_good_for", "\"17d\""),
    ("sites.directory", "\"certs\""),
    ("queues.file", "\"other.toml\""),
    ("queues.handshake_concurrency", "17"),
    ("queues.handshake_depth", "17"),
    ("queues.handshake_deadline", "\"17ms\""),
    ("queues.handshake_order", "\"arrival\""),
    ("queues.request_depth", "17"),
    ("queues.request_deadline", "\"17ms\""),
    ("queues.in_flight", "17"),
    ("queues.age_alarm", "\"17ms\""),
    ("headers.requests", "\"reject\""),
    ("headers.responses", "\"observe\""),
    ("headers.shadow", "\"reject\""),
    ("headers.max_head", "\"17KiB\""),
    ("headers.max_fields", "17"),
    ("headers.rules", "{ obs-fold = \"refuse\" }"),
    ("timeouts.hello", "\"17ms\""),
    ("timeouts.head", "\"17ms\""),
    ("timeouts.idle", "\"17ms\""),
    ("timeouts.body", "\"17ms\""),
    ("timeouts.connect", "\"17ms\""),
    ("timeouts.response", "\"17ms\""),
    ("log.format", "\"json\""),
    ("log.access", "\"off\""),
];

/// The same for a site; `[]` are lists of tables.
const SITE_VALUES: &[(&str, &str)] = &[
    ("hosts", "[\"b.test\"]"),
    ("upstreams", "[\"http://127.0.0.1:2\"]"),
    ("upstreams.url", "\"http://127.0.0.1:2\""),
    ("upstreams.weight", "17"),
    ("upstreams.backup", "true"),
    ("upstreams.ca", "\"../ca.pem\""),
    ("customer", "\"other\""),
    ("certificate", "\"a.test\""),
    ("weight", "17"),
    ("balance", "\"round-robin\""),
    ("health", "{}"),
    ("health.path", "\"/x\""),
    ("health.interval", "\"17s\""),
    ("health.healthy", "17"),
    ("health.unhealthy", "17"),
    ("health.timeout", "\"17s\""),
    ("priority", "[{ path = \"/\", class = \"bulk\" }]"),
    ("priority.path", "\"/x\""),
    ("priority.class", "\"critical\""),
    ("maintenance", "\"a.toml\""),
    ("host_header", "\"origin.test:81\""),
    ("headers.requests", "\"reject\""),
    ("headers.responses", "\"observe\""),
    ("headers.shadow", "\"reject\""),
    ("headers.max_head", "\"17KiB\""),
    ("headers.max_fields", "17"),
    ("rules", "{ obs-fold = \"refuse\" }"),
    ("limits.in_flight", "17"),
    ("limits.connections", "17"),
    ("limits.connections_per_client", "17"),
    ("limits.handshakes_per_second", "17"),
    ("limits.handshakes_per_second_per_client", "17"),
    ("limits.requests_per_second", "17"),
    ("limits.requests_per_second_per_client", "17"),
    ("limits.in_flight_per_client", "17"),
    ("limits.max_body", "\"17B\""),
    ("tls.min_version", "\"1.3\""),
    ("tls.client_ca", "\"../ca.pem\""),
];

#[test]
fn every_key_of_the_main_file_takes_effect() {
    let load = |main: &str| {
        let configuration = Configuration::new(main).with_site("a", SITE);
        configuration.write("token", "0123456789abcdef0123456789abcdef0123456789abcdef");
        configuration.write("certs/a.test.pem", certificate());
        let shown = format!("{:#?}", configuration.good());
        shown.replace(&configuration.0.path().display().to_string(), "")
    };
    let default = load("");
    assert_eq!(load(""), default, "a difference must come from the key alone");
    for (key, value) in MAIN_VALUES {
        assert_ne!(load(&format!("{key} = {value}")), default, "{key} does nothing");
    }
    expect_all(MAIN_KEYS, MAIN_VALUES);
}

#[test]
fn every_key_of_a_site_takes_effect() {
    let load = |values: &[(&str, &str)]| {
        let base = [("hosts", "[\"a.test\"]"), ("upstreams", "[\"http://127.0.0.1:1\"]")];
        let base = base.iter().filter(|(key, _)| !values.iter().any(|(other, _)| other == key));
        let lines = base.chain(values).map(|(key, value)| format!("{key} = {value}\n"));
        let configuration = Configuration::new("").with_site("a", &lines.collect::<String>());
        configuration.write("ca.pem", certificate());
        configuration.write("certs/a.test.pem", certificate());
        let shown = format!("{:#?}", configuration.good().sites);
        shown.replace(&configuration.0.path().display().to_string(), "")
    };
    assert_eq!(load(&[]), load(&[]), "a difference must come from the key alone");
    for (key, value) in SITE_VALUES {
        let (plain, changed) = match key.split_once('.') {
            Some(("upstreams", inner)) => {
                let list = |more: &str| format!("[{{ url = \"http://127.0.0.1:1\"{more} }}]");
                let changed = match inner {
                    "url" => "[{ url = \"http://127.0.0.1:2\" }]".to_string(),
                    _ => list(&format!(", {inner} = {value}")),
                };
                (load(&[("upstreams", &list(""))]), load(&[("upstreams", &changed)]))
            }
            Some(("priority", inner)) => {
                let rule = |path: &str, class: &str| {
                    load(&[("priority", &format!("[{{ path = {path}, class = {class} }}]"))])
                };
                let plain = rule("\"/\"", "\"bulk\"");
                let path = inner == "path";
                (plain, if path { rule(value, "\"bulk\"") } else { rule("\"/\"", value) })
            }
            Some(("health", _)) => (load(&[("health.path", "\"/\"")]), load(&[(key, value)])),
            _ => (load(&[]), load(&[(key, value)])),
        };
        assert_ne!(changed, plain, "{key} does nothing");
    }
    expect_all(SITE_KEYS, SITE_VALUES);
}

/// Every key of the schema is tried, but for those that only hold others.
#[track_caller]
fn expect_all(schema: &[Section], values: &[(&str, &str)]) {
    // There is one edition of the rules so far, so no other value to try.
    let tried =
        |key: &str| key == "headers.rules_version" || values.iter().any(|(tried, _)| *tried == key);
    for section in schema {
        for key in section.keys {
            let dotted = [section.name, key].join(".");
            let table = section.name.is_empty() && schema.iter().any(|other| other.name == *key);
            assert!(table || tried(dotted.trim_start_matches('.')), "{dotted} is not tried");
        }
    }
}

/// A certificate and its key; the same at each call, as what is compared has its end in it.
pub(super) fn certificate() -> &'static str {
    static MADE: LazyLock<String> = LazyLock::new(|| {
        let made = rcgen::generate_simple_self_signed(["a.test".to_string()]).unwrap();
        format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem())
    });
    &MADE
}
