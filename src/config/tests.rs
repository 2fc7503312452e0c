//! Configurations as an operator writes them, good and bad.

use std::fs;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tempfile::TempDir;

use super::{AccessLog, AdminAddress, Outcome, Section, Snapshot, load, state_folder};
use crate::problem::Severity;
use crate::sites::{Address, Balance, Class, Protocol, TlsVersion};

/// A folder with a configuration in it.
struct Configuration(TempDir);

const SITE: &str = "hosts = [\"a.test\"]\nupstreams = [\"http://127.0.0.1:8001\"]\n";

impl Configuration {
    fn new(main: &str) -> Configuration {
        let folder = tempfile::tempdir().unwrap();
        for name in ["sites", "certs"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let configuration = Configuration(folder);
        configuration.write("sluss.toml", main);
        configuration
    }

    fn with_site(self, name: &str, text: &str) -> Configuration {
        self.write(&format!("sites/{name}.toml"), text);
        self
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn load(&self, previous: Option<&Snapshot>) -> Outcome {
        load(&self.path("sluss.toml"), previous)
    }

    #[track_caller]
    fn good(&self) -> Snapshot {
        let outcome = self.load(None);
        let harmful: Vec<_> = outcome.problems.iter().filter(|one| one.is_harmful()).collect();
        assert!(harmful.is_empty(), "{harmful:#?}");
        outcome.snapshot.unwrap()
    }
}

/// Loads, and expects exactly one harmful problem: `FILE:LINE key`, and words in what it says.
#[track_caller]
fn check(configuration: &Configuration, place: &str, words: &[&str]) {
    let outcome = configuration.load(None);
    let harmful: Vec<_> = outcome.problems.iter().filter(|one| one.is_harmful()).collect();
    let [problem] = harmful[..] else {
        panic!("{place}: expected one problem, found {harmful:#?}")
    };
    let file = problem.file.strip_prefix(configuration.0.path()).unwrap().display();
    let line = problem.line.map_or(String::new(), |line| format!(":{line}"));
    assert_eq!(format!("{file}{line} {}", problem.key).trim(), place, "{problem}");
    let said = problem.to_string();
    for word in words {
        assert!(said.contains(word), "{word:?} is missing in {said:?}");
    }
    assert_eq!(outcome.snapshot.is_none(), problem.severity == Severity::Fatal);
}

/// One mistake in the main file.
#[track_caller]
fn check_main(main: &str, place: &str, words: &[&str]) {
    check(&Configuration::new(main).with_site("a", SITE), place, words);
}

/// One mistake in a site's file.
#[track_caller]
fn check_site(site: &str, place: &str, words: &[&str]) {
    check(&Configuration::new("").with_site("a", site), place, words);
}

/// One mistake in what is added to a good site.
#[track_caller]
fn check_added(line: &str, place: &str, words: &[&str]) {
    check_site(&format!("{SITE}{line}"), place, words);
}

#[test]
fn mistakes_in_the_main_file_are_told_with_line_and_key() {
    let main = "sluss.toml";
    for (text, place, words) in [
        ("\n[queus]\nhandshake_depth = 1", ":2 queus", &["did you mean queues?"][..]),
        ("[queues]\nhandshake_dept = 1", ":2 queues.handshake_dept", &["handshake_depth?"]),
        ("[queues]\nhello = \"1s\"", ":2 queues.hello", &["hello belongs into timeouts"]),
        ("zzz = 1", ":1 zzz", &["known here: listen, runtime"]),
        ("backlog = 1", ":1 backlog", &["belongs into listen"]),
        ("[listen\nhttps = []", ":1", &["not valid TOML"]),
        ("[log]\nformat = \"text\"\nformat = \"json\"", ":3", &["not valid TOML", "duplicate"]),
        ("[runtime]\nthreads = 0", ":2 runtime.threads", &["found 0", "from 1 to 1024"]),
        ("[runtime]\nthreads = \"4\"", ":2 runtime.threads", &["\"4\"", "without quotes"]),
        ("[runtime]\nthreads = \"many\"", ":2 runtime.threads", &["\"many\"", "whole number"]),
        ("[timeouts]\nhello = 5", ":2 timeouts.hello", &["found 5", "\"5s\""]),
        ("[timeouts]\nhello = \"5\"", ":2 timeouts.hello", &["it has no unit"]),
        ("[timeouts]\nhello = \"5 parsecs\"", ":2 timeouts.hello", &["\"parsecs\" is not known"]),
        ("[timeouts]\nhello = \"0s\"", ":2 timeouts.hello", &["from \"1ms\" to \"1day\""]),
        ("[headers]\nmax_head = \"64kb\"", ":2 headers.max_head", &["write KiB"]),
        ("[headers]\nmax_head = \"1GiB\"", ":2 headers.max_head", &["\"1KiB\" to \"1MiB\""]),
        ("[headers]\nrequests = \"repare\"", ":2 headers.requests", &["did you mean \"repair\"?"]),
        ("[listen]\nhttps = \"[::]:443\"", ":2 listen.https", &["put it in brackets"]),
        ("[listen]\nhttps = [\":443\"]", ":2 listen.https[0]", &["all addresses are [::]"]),
        ("[listen]\nhttps = [\"::1\"]", ":2 listen.https[0]", &["the port is missing"]),
        ("[listen]\nhttps = []", ":2 listen.https", &["at least one address"]),
        (
            "[listen]\nhttps = [\"127.0.0.1:1\",\n\"127.0.0.1:1\"]",
            ":3 listen.https[1]",
            &["listen.https has 127.0.0.1:1 already"],
        ),
        (
            "[listen]\nhttp = [\"0.0.0.0:443\"]",
            ":2 listen.http[0]",
            &["listen.https has [::]:443 already"],
        ),
        (
            "[listen]\nhttps = [\"[::]:80\"]",
            ":1 listen.http",
            &["found [::]:80, but listen.https has [::]:80 already"],
        ),
        ("[listen]\nadmin = \"0.0.0.0:9180\"", ":2 listen.admin", &["admin_token_file"]),
        (
            "[listen]\nadmin_token_file = \"none\"",
            ":2 listen.admin_token_file",
            &["none", "cannot be read"],
        ),
        (
            "[listen]\ntrusted_proxies = [\"10.0.0.1/8\"]",
            ":2 listen.trusted_proxies[0]",
            &["the network is 10.0.0.0/8"],
        ),
        ("[log]\naccess = \"no/such/log\"", ":2 log.access", &["folder that exists"]),
        ("[sites]\ndirectory = \"seites\"", ":2 sites.directory", &["seites does not exist"]),
        ("[certificates]\ndirectory = \"x\"", ":2 certificates.directory", &["does not exist"]),
        ("[certificates]\nwatch = \"yes\"", ":2 certificates.watch", &["expected true or false"]),
        (
            "[certificates]\nticket_keys = \"x\"",
            ":2 certificates.ticket_keys",
            &["cannot be opened"],
        ),
        ("[runtime]\nuser = \"no such\"", ":2 runtime.user", &["no such user"]),
        ("listen = 5", ":1 listen", &["expected a table"]),
    ] {
        check_main(text, &format!("{main}{place}"), words);
    }
}

#[test]
fn mistakes_in_a_site_are_told_with_line_and_key() {
    let file = "sites/a.toml";
    check_site("upstreams = [\"http://a\"]", "sites/a.toml:1 hosts", &["missing"]);
    check_site("hosts = [\"a.test\"]", "sites/a.toml:1 upstreams", &["missing"]);
    for (text, place, words) in [
        ("hosts = []\nupstreams = [\"http://a\"]", ":1 hosts", &["expected a list"][..]),
        ("hosts = [\"https://a.test\"]\nupstreams = [\"http://a\"]", ":1 hosts[0]", &["no scheme"]),
        ("hosts = [\"a.*.test\"]\nupstreams = [\"http://a\"]", ":1 hosts[0]", &["*.example.com"]),
        ("hosts = [\"a.test\"]\nupstreams = []", ":2 upstreams", &["expected a list"]),
        (
            "hosts = [\"a.test\"]\nupstreams = [\"127.0.0.1:8001\"]",
            ":2 upstreams[0]",
            &["it has no scheme"],
        ),
        (
            "hosts = [\"a.test\"]\nupstreams = [{ url = \"http://a\", weight = 0 }]",
            ":2 upstreams[0].weight",
            &["found 0", "from 1 to 1000"],
        ),
        ("hosts = [\"a.test\"]\nupstreams = [{ weight = 2 }]", ":2 upstreams[0].url", &["missing"]),
        (
            "hosts = [\"a.test\"]\nupstreams = [\"http://a\", \"http://a:80\"]",
            ":2 upstreams[1]",
            &["stands in this list already"],
        ),
    ] {
        check_site(text, &format!("{file}{place}"), words);
    }
    for (line, place, words) in [
        ("weight = 0", ":3 weight", &["found 0"][..]),
        ("wieght = 2", ":3 wieght", &["did you mean weight?"]),
        ("interval = \"2s\"", ":3 interval", &["interval belongs into health"]),
        ("customer = \"a b\"", ":3 customer", &["\"a b\""]),
        ("balance = \"random\"", ":3 balance", &["least-loaded"]),
        ("balance = \"hash:cookie=\"", ":3 balance", &["the cookie's name is missing"]),
        ("health = \"/healthz\"", ":3 health", &["a table", "interval"]),
        ("health = { path = \"healthz\" }", ":3 health.path", &["begins with a slash"]),
        ("priority = [{ path = \"/a\" }]", ":3 priority[0].class", &["missing"]),
        (
            "priority = [{ path = \"/*/a\", class = \"bulk\" }]",
            ":3 priority[0].path",
            &["a star may stand only at the end"],
        ),
        (
            "priority = [{ path = \"/\", class = \"critcal\" }]",
            ":3 priority[0].class",
            &["did you mean \"critical\"?"],
        ),
        ("maintenance = \"none.html\"", ":3 maintenance", &["none.html cannot be read"]),
        ("host_header = \"a b\"", ":3 host_header", &["\"a b\""]),
        ("limits = { max_body = 5 }", ":3 limits.max_body", &["\"5B\""]),
        ("limits = { in_flight = -1 }", ":3 limits.in_flight", &["found -1"]),
        ("tls = { min_version = \"1.1\" }", ":3 tls.min_version", &["one of 1.2, 1.3"]),
        ("tls = { client_ca = \"ca.pem\" }", ":3 tls.client_ca", &["cannot be opened"]),
        ("headers = { requests = 1 }", ":3 headers.requests", &["observe, repair, reject"]),
        ("this is no TOML", ":3", &["not valid TOML"]),
    ] {
        check_added(line, &format!("{file}{place}"), words);
    }
}

#[test]
fn files_that_are_no_text_are_told() {
    let configuration = Configuration::new("").with_site("a", SITE);
    configuration.write("sites/b.toml", b"hosts = [\n\"\xff\"]");
    check(&configuration, "sites/b.toml:2", &["not UTF-8"]);
    let configuration = Configuration::new("").with_site("a b", SITE);
    check(&configuration, "sites/a b.toml", &["rename it"]);
    let configuration = Configuration::new("").with_site("a", SITE);
    fs::create_dir(configuration.path("sites/b.toml")).unwrap();
    check(&configuration, "sites/b.toml", &["no plain file"]);
    fs::remove_file(configuration.path("sluss.toml")).unwrap();
    fs::remove_dir(configuration.path("sites/b.toml")).unwrap();
    check(&configuration, "sluss.toml", &["cannot be read"]);
}

#[test]
fn every_mistake_of_every_file_is_told_at_once() {
    let configuration = Configuration::new("[listen]\nbacklok = 1\n[log]\nformat = 1\n")
        .with_site("a", "hosts = []\nwieght = 1\n")
        .with_site("b", "nothing");
    let outcome = configuration.load(None);
    let places: Vec<_> =
        outcome.problems.iter().map(|one| format!("{:?} {}", one.line, one.key)).collect();
    let expected = [
        "Some(2) listen.backlok",
        "Some(4) log.format",
        "Some(2) wieght",
        "Some(1) hosts",
        "Some(1) upstreams",
        "Some(1) ",
    ];
    assert_eq!(places, expected);
    assert!(outcome.snapshot.is_none());
}

#[test]
fn a_host_in_two_sites_names_both_files() {
    let configuration =
        Configuration::new("").with_site("a", SITE).with_site("b", &format!("weight = 2\n{SITE}"));
    check(&configuration, "sites/b.toml:2 hosts", &["a.test", "sites/a.toml"]);
    let outcome = configuration.load(None);
    assert_eq!(names(outcome.snapshot.as_ref().unwrap()), ["a"]);
}

#[test]
fn a_new_site_cannot_take_over_a_host() {
    let configuration = Configuration::new("").with_site("m", SITE);
    let first = configuration.good();
    let configuration = configuration.with_site("a", SITE);
    let outcome = configuration.load(Some(&first));
    let second = outcome.snapshot.unwrap();
    assert_eq!(names(&second), ["m"]);
    assert_eq!(outcome.problems.iter().filter(|one| one.is_harmful()).count(), 1);
    assert!(outcome.kept.is_empty());
}

#[test]
fn a_broken_site_keeps_its_last_good_version() {
    let configuration = Configuration::new("")
        .with_site("a", SITE)
        .with_site("b", &SITE.replace("a.test", "b.test"))
        .with_site("c", &SITE.replace("a.test", "c.test"));
    let first = configuration.good();
    configuration.write("sites/a.toml", "hosts = [");
    configuration.write("sites/b.toml", SITE.replace("a.test", "bb.test"));
    let outcome = configuration.load(Some(&first));
    assert_eq!(outcome.kept, ["site a"]);
    assert_eq!(outcome.changes.sites.changed, ["b"]);
    let second = outcome.snapshot.unwrap();
    assert_eq!(second.generation, 2);
    for name in ["a.test", "c.test"] {
        assert!(Arc::ptr_eq(first.sites.find(name).unwrap(), second.sites.find(name).unwrap()));
    }
    assert!(second.sites.find("bb.test").is_some() && second.sites.find("b.test").is_none());
    configuration.write("sluss.toml", "[queus]");
    let outcome = configuration.load(Some(&second));
    assert!(outcome.snapshot.is_none() && outcome.kept.is_empty());
}

#[test]
fn an_empty_main_file_means_the_defaults() {
    let configuration = Configuration::new("").with_site("a", SITE);
    let snapshot = configuration.good();
    let address = |text: &str| text.parse().unwrap();
    assert_eq!(snapshot.listen.https, [address("[::]:443")]);
    assert_eq!(snapshot.listen.http, [address("[::]:80")]);
    assert_eq!(snapshot.listen.admin, AdminAddress::Tcp(address("127.0.0.1:9180")));
    assert_eq!(snapshot.listen.backlog, 4096);
    assert_eq!(snapshot.runtime.state, configuration.path("run"));
    assert_eq!(snapshot.runtime.shutdown_grace, Duration::from_secs(30));
    assert_eq!(snapshot.certificates.directory, configuration.path("certs"));
    assert_eq!(snapshot.certificates.default, None);
    assert_eq!(snapshot.places.queues, configuration.path("queues.toml"));
    let queues = &snapshot.queues;
    assert_eq!((queues.handshake_concurrency, queues.handshake_depth), (32, 512));
    assert_eq!((queues.request_depth, queues.in_flight), (256, None));
    assert_eq!(queues.handshake_deadline, Duration::from_secs(1));
    assert_eq!(queues.request_deadline, Duration::from_secs(10));
    assert_eq!(queues.age_alarm, Duration::from_secs(2));
    let timeouts = &snapshot.timeouts;
    let seconds = [
        timeouts.hello,
        timeouts.head,
        timeouts.idle,
        timeouts.body,
        timeouts.connect,
        timeouts.response,
    ];
    assert_eq!(seconds.map(|timeout| timeout.as_secs()), [5, 10, 60, 30, 2, 60]);
    assert_eq!(snapshot.log.access, AccessLog::Stdout);
    let site = snapshot.sites.find("a.test").unwrap();
    assert_eq!((site.customer.as_str(), site.weight), ("a", 1));
    assert_eq!(site.upstream.balance, Balance::LeastLoaded);
    assert_eq!(site.tls.min_version, TlsVersion::Tls12);
    assert_eq!(site.limits.in_flight, None);
}

#[test]
fn measured_figures_stand_in_for_absent_keys_alone() {
    let configuration = Configuration::new(
        "[listen]\nbacklog = 100\n[queues]\nhandshake_depth = 7\nhandshake_concurrency = \"auto\"",
    );
    configuration.write(
        "queues.toml",
        "[machine]\ncores = 2\n[listen]\nbacklog = 200\n[costs]\nfull_rsa = 999\n\
         [queues]\nhandshake_depth = 70\nhandshake_concurrency = 24\nrequest_depth = 9\n",
    );
    let snapshot = configuration.good();
    assert_eq!(snapshot.listen.backlog, 100);
    assert_eq!(snapshot.queues.handshake_depth, 7);
    assert_eq!(snapshot.queues.handshake_concurrency, 24);
    assert_eq!(snapshot.queues.request_depth, 9);
    assert_eq!(snapshot.queues.costs.full_rsa, 999);
    assert_eq!(snapshot.queues.measured_on.unwrap().cores, Some(2));
    configuration.write("queues.toml", "[queues]\ndepth = 1\n");
    check(&configuration, "queues.toml:2 queues.depth", &["known here"]);
}

#[test]
fn upstreams_and_priorities_land_in_the_site() {
    let site = "hosts = [\"*.A.test\"]\nupstreams = [\"unix:app.sock\", \
                { url = \"h2c://127.0.0.1:1\", weight = 3, backup = true }]\n\
                priority = [{ path = \"/pay/*\", class = \"critical\" }]\n";
    let configuration = Configuration::new("").with_site("a", site);
    let snapshot = configuration.good();
    let site = snapshot.sites.find("x.a.test").unwrap();
    let [first, second] = &site.upstream.endpoints[..] else { panic!("two endpoints") };
    assert_eq!(first.address, Address::Unix(configuration.path("sites/app.sock")));
    assert_eq!((second.protocol, second.weight, second.backup), (Protocol::Http2, 3, true));
    assert_eq!(site.class("/pay/now"), Class::Critical);
    assert_eq!(site.class("/"), Class::Normal);
}

/// A certificate and its key; the same at each call, as what is compared has its end in it.
fn certificate() -> &'static str {
    static MADE: LazyLock<String> = LazyLock::new(|| {
        let made = rcgen::generate_simple_self_signed(["a.test".to_string()]).unwrap();
        format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem())
    });
    &MADE
}

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
    ("runtime.state", "\"elsewhere\""),
    ("runtime.shutdown_grace", "\"1s\""),
    ("runtime.max_connections", "17"),
    ("runtime.user", "\"65534:65534\""),
    ("certificates.directory", "\"sites\""),
    ("certificates.default", "\"a.test\""),
    ("certificates.ticket_keys", "\"token\""),
    ("certificates.watch", "true"),
    ("sites.directory", "\"certs\""),
    ("queues.file", "\"other.toml\""),
    ("queues.handshake_concurrency", "17"),
    ("queues.handshake_depth", "17"),
    ("queues.handshake_deadline", "\"17ms\""),
    ("queues.request_depth", "17"),
    ("queues.request_deadline", "\"17ms\""),
    ("queues.in_flight", "17"),
    ("queues.age_alarm", "\"17ms\""),
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
    ("maintenance", "\"../token\""),
    ("host_header", "\"origin.test:81\""),
    ("limits.in_flight", "17"),
    ("limits.connections_per_client", "17"),
    ("limits.requests_per_second", "17"),
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
    for (key, value) in MAIN_VALUES {
        assert_ne!(load(&format!("{key} = {value}")), default, "{key} does nothing");
    }
    expect_all(super::MAIN_KEYS, MAIN_VALUES);
}

#[test]
fn every_key_of_a_site_takes_effect() {
    let load = |values: &[(&str, &str)]| {
        let base = [("hosts", "[\"a.test\"]"), ("upstreams", "[\"http://127.0.0.1:1\"]")];
        let base = base.iter().filter(|(key, _)| !values.iter().any(|(other, _)| other == key));
        let lines = base.chain(values).map(|(key, value)| format!("{key} = {value}\n"));
        let configuration = Configuration::new("").with_site("a", &lines.collect::<String>());
        configuration.write("token", "<p>back soon</p>");
        configuration.write("ca.pem", certificate());
        let shown = format!("{:#?}", configuration.good().sites);
        shown.replace(&configuration.0.path().display().to_string(), "")
    };
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
    expect_all(super::SITE_KEYS, SITE_VALUES);
}

/// Every key of the schema is tried, but for those that only hold others.
#[track_caller]
fn expect_all(schema: &[Section], values: &[(&str, &str)]) {
    let tried = |key: &str| values.iter().any(|(tried, _)| *tried == key);
    for section in schema.iter().filter(|section| section.name != "headers") {
        for key in section.keys {
            let dotted = [section.name, key].join(".");
            let table = section.name.is_empty() && schema.iter().any(|other| other.name == *key)
                || *key == "rules";
            assert!(table || tried(dotted.trim_start_matches('.')), "{dotted} is not tried");
        }
    }
}

fn names(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.sites.all().iter().map(|site| site.id.as_str()).collect()
}

#[test]
fn relative_paths_start_at_the_file_they_stand_in() {
    let configuration = Configuration::new("[log]\naccess = \"access.log\"").with_site("a", SITE);
    let path = configuration.path("access.log");
    assert_eq!(configuration.good().log.access, AccessLog::File(path));
    assert!(!Path::new("access.log").exists());
}

#[test]
fn the_state_folder_is_found_in_a_broken_file() {
    let configuration = Configuration::new("[queus]\n[runtime]\nstate = \"here\"\n[log\n");
    assert_eq!(state_folder(&configuration.path("sluss.toml")), configuration.path("here"));
    assert_eq!(state_folder(&configuration.path("gone.toml")), configuration.path("run"));
}

#[test]
fn what_size_writes_is_read_without_a_complaint() {
    use crate::sizing::{Bounds, Capacity, Goals, KeyType, Machine, Measured, size};
    let rate = Measured { per_second: 2_000.0, spread: 0.0, runs: 3 };
    let capacity = Capacity {
        full_handshakes: vec![(KeyType::Ecdsa, rate), (KeyType::Rsa, rate)],
        resumptions: rate,
        requests_h1: rate,
        requests_h2: rate,
        connection_bytes: 20_000,
    };
    let bounds = Bounds {
        threads: 1,
        memory_bytes: 1 << 30,
        descriptors: 1_024,
        somaxconn: 4_096,
        syn_backlog: 4_096,
    };
    let machine = Machine { cores: Some(1), cpu: Some("a CPU".into()), ..Machine::default() };
    let sizing = size(&capacity, &Goals::default(), &bounds);
    let configuration = Configuration::new("");
    configuration.write("queues.toml", sizing.render(&machine));
    let snapshot = configuration.good();
    assert_eq!(snapshot.queues.handshake_depth, 1_600);
    assert_eq!(snapshot.queues.costs.resumed, 500);
    assert_eq!(snapshot.queues.measured_on, Some(machine));
}
