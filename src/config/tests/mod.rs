//! Configurations as an operator writes them, good and bad.

mod keys;
mod mistakes;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::{AccessLog, AdminAddress, HandshakeOrder, Outcome, Snapshot, load, state_folder};
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

    /// A certificate of that name for that host; its chain can stand for an authority as well.
    fn with_certificate(self, name: &str, host: &str) -> Configuration {
        let made = rcgen::generate_simple_self_signed([host.to_string()]).unwrap();
        fs::create_dir_all(self.path(&format!("certs/{name}"))).unwrap();
        self.write(&format!("certs/{name}/fullchain.pem"), made.cert.pem());
        self.write(&format!("certs/{name}/privkey.pem"), made.signing_key.serialize_pem());
        self
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
fn a_site_that_names_no_known_certificate_is_told_and_keeps_its_version() {
    let configuration = Configuration::new("").with_certificate("shop", "a.test");
    let configuration = configuration.with_site("a", &format!("{SITE}certificate = \"shop\""));
    let first = configuration.good();
    configuration.write("sites/a.toml", format!("{SITE}weight = 2\ncertificate = \"shpo\""));
    check(&configuration, "sites/a.toml:4 certificate", &["shpo", "did you mean \"shop\"?"]);
    // Nothing to fall back to: it is served, and its handshakes are told.
    assert_eq!(names(&configuration.load(None).snapshot.unwrap()), ["a"]);
    let outcome = configuration.load(Some(&first));
    assert_eq!(outcome.kept, ["site a"]);
    assert_eq!(outcome.snapshot.unwrap().sites.find("a.test").unwrap().weight, 1);
}

#[test]
fn a_host_that_stays_with_a_site_that_fell_back_is_told_of_its_new_site() {
    let configuration = Configuration::new("").with_site("a", SITE);
    let first = configuration.good();
    let moved = SITE.replace("a.test", "moved.test");
    configuration.write("sites/a.toml", format!("{moved}certificate = \"none\""));
    let configuration = configuration.with_site("c", SITE);
    let outcome = configuration.load(Some(&first));
    assert_eq!(outcome.kept, ["site a"]);
    let told = outcome.problems.iter().find(|one| one.site.as_deref() == Some("c")).unwrap();
    assert!(told.is_harmful() && told.line == Some(1), "{told}");
    assert!(told.what.starts_with("a.test is still served by "), "{told}");
    let second = outcome.snapshot.unwrap();
    assert_eq!(second.sites.find("a.test").unwrap().id.as_str(), "a");
}

#[test]
fn hosts_without_certificate_are_a_warning() {
    let site = "hosts = [\"a.test\",\n \"b.test\", \"*.w.test\"]\nupstreams = [\"http://a\"]\n";
    let configuration = Configuration::new("").with_site("a", site);
    let warning = |configuration: &Configuration| {
        let outcome = configuration.load(None);
        assert!(outcome.problems.iter().all(|problem| !problem.is_harmful()));
        outcome
            .problems
            .iter()
            .find(|one| one.key == "hosts")
            .map(|one| (one.line, one.what.clone()))
    };
    let (line, what) = warning(&configuration).unwrap();
    assert_eq!(line, Some(1));
    assert!(what.contains("a.test and 2 more"), "{what}");
    let configuration =
        configuration.with_certificate("one", "a.test").with_certificate("two", "*.w.test");
    let (line, what) = warning(&configuration).unwrap();
    assert_eq!(line, Some(2));
    assert!(what.contains("valid for b.test:"), "{what}");
    assert_eq!(warning(&configuration.with_certificate("three", "b.test")), None);
}

#[test]
fn warnings_of_hosts_without_certificate_have_an_end() {
    let configuration = Configuration::new("");
    for at in 0..150 {
        let site = SITE.replace("a.test", &format!("s{at}.test"));
        configuration.write(&format!("sites/s{at}.toml"), site);
    }
    let outcome = configuration.load(None);
    let told: Vec<_> = outcome.problems.iter().filter(|one| one.key == "hosts").collect();
    assert_eq!(told.len(), 101);
    assert_eq!(told[100].file, configuration.path("sites"));
    assert!(told[100].what.starts_with("50 more sites"), "{}", told[100].what);
}

#[test]
fn what_belongs_to_the_process_is_carried_over_and_told_until_the_next_start() {
    let before = "[runtime]\nthreads = 1\nhandshake_nice = 3\n";
    let after = "[runtime]\nthreads = 2\nhandshake_nice = 4\nshutdown_grace = \"1s\"\n";
    let configuration = Configuration::new(before).with_site("a", SITE);
    let mut serving = configuration.good();
    configuration.write("sluss.toml", after);
    for _ in 0..2 {
        let outcome = configuration.load(Some(&serving));
        let told = |key: &str| {
            let mut problems = outcome.problems.iter();
            problems.find(|one| one.key == key).unwrap().what.clone()
        };
        assert_eq!(told("runtime.threads"), "found 2, but this edge was started with 1");
        assert_eq!(told("runtime.handshake_nice"), "found 4, but this edge was started with 3");
        serving = outcome.snapshot.unwrap();
        assert_eq!((serving.runtime.threads, serving.runtime.handshake_nice), (1, 3));
        assert_eq!(serving.runtime.shutdown_grace, Duration::from_secs(1));
    }
    assert_eq!(configuration.good().runtime.threads, 2);
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
    assert_eq!(snapshot.runtime.handshake_nice, 10);
    assert_eq!(snapshot.certificates.directory, configuration.path("certs"));
    assert_eq!(snapshot.certificates.default, None);
    assert_eq!(snapshot.places.queues, configuration.path("queues.toml"));
    let queues = &snapshot.queues;
    assert_eq!((queues.handshake_concurrency, queues.handshake_depth), (1_024, 512));
    assert_eq!(queues.handshake_order, HandshakeOrder::Fair);
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
    use crate::sizing::{Bounds, Capacity, Goals, KeyRate, KeyType, Machine, Measured, size};
    let rate = Measured { per_second: 2_000.0, spread: 0.0, runs: 3, at_least: false };
    let capacity = Capacity {
        threads: 1,
        full_handshakes: [KeyType::EcdsaP256, KeyType::Rsa(2_048)]
            .map(|key| KeyRate::measured(key, rate))
            .into(),
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

#[test]
fn hosts_without_certificate_are_told_again_until_they_have_one() {
    let configuration = Configuration::new("").with_site("a", SITE);
    let told = |outcome: &Outcome| {
        let bare =
            |one: &&crate::problem::Problem| one.what.contains("no certificate is valid for");
        outcome.problems.iter().filter(bare).count()
    };
    let mut first = configuration.load(None);
    assert_eq!(told(&first), 1);
    let first = first.snapshot.as_mut().map(|snapshot| {
        snapshot.site_files.settle();
        &*snapshot
    });
    let second = configuration.load(first);
    let snapshot = second.snapshot.as_ref().unwrap();
    assert!(snapshot.site_files.are_those_of(&first.unwrap().site_files));
    assert!(snapshot.certs.has_hosts_of(&first.unwrap().certs));
    assert_eq!(told(&second), 1);
    let configuration = configuration.with_certificate("a", "a.test");
    let third = configuration.load(Some(snapshot));
    assert_eq!(told(&third), 0);
    fs::remove_dir_all(configuration.path("certs/a")).unwrap();
    assert_eq!(told(&configuration.load(third.snapshot.as_ref())), 1);
}
