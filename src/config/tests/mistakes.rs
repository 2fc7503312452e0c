//! The likeliest mistakes, each as a line of data.

use super::{Configuration, SITE, check};

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
fn what_switches_isolation_and_fairness_off_is_judged_as_all_keys() {
    for (text, place, words) in [
        ("[runtime]\nhandshake_nice = 20", ":2 runtime.handshake_nice", &["from 0 to 19"][..]),
        ("[runtime]\nhandshake_nice = -1", ":2 runtime.handshake_nice", &["found -1", "from 0"]),
        ("[queues]\nhandshake_order = \"fare\"", ":2 queues.handshake_order", &["mean \"fair\"?"]),
    ] {
        check_main(text, &format!("sluss.toml{place}"), words);
    }
}

#[test]
fn mistakes_in_the_main_file_are_told_with_line_and_key() {
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
        ("[headers]\nrules_version = \"2025\"", ":2 headers.rules_version", &["one of 2026-11"]),
        ("[headers]\nrules = { obs-fol = \"note\" }", ":2 headers.rules.obs-fol", &["obs-fold?"]),
        ("[headers]\nrules = { obs-fold = \"drop\" }", ":2 headers.rules.obs-fold", &["refuse"]),
        (
            "[headers.rules]\n\nframing-conflict = \"note\"",
            ":3 headers.rules.framing-conflict",
            &["cannot be laxer", "make it stricter"],
        ),
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
            &["none", "cannot be used"],
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
        check_main(text, &format!("sluss.toml{place}"), words);
    }
}

#[test]
fn places_and_words_that_cannot_be_are_told_with_line_and_key() {
    for (text, place, words) in [
        ("[runtime]\nstate = \"sluss.toml\"", ":2 runtime.state", "is no folder"),
        ("[runtime]\nstate = \"/proc/x\"", ":2 runtime.state", "is the kernel's"),
        ("[certificates]\ndefault = \"x\"", ":2 certificates.default", "\"x\" is not there"),
        ("[listen]\nhttps = [\"0.0.0.0:99999\"]", ":2 listen.https[0]", "no number up to 65535"),
        ("[listen]\nhttps = [\"a.test:443\"]", ":2 listen.https[0]", "names are not looked up"),
        ("[timeouts]\nidle = \"never\"", ":2 timeouts.idle", "does not begin with a number"),
        ("[log]\naccess = \"stderr\"", ":2 log.access", "expected stdout, off or a file"),
    ] {
        check_main(text, &format!("sluss.toml{place}"), &[words]);
    }
}

#[test]
fn the_nearest_certificate_is_suggested_where_the_default_is_none() {
    let configuration = Configuration::new("[certificates]\ndefault = \"shpo\"")
        .with_site("a", SITE)
        .with_certificate("shop", "a.test");
    let words = ["\"shpo\" is not there", "did you mean \"shop\"?"];
    check(&configuration, "sluss.toml:2 certificates.default", &words);
}

#[test]
fn broken_authorities_of_visitors_are_told_with_the_line_in_their_file() {
    let site = format!("{SITE}tls = {{ client_ca = \"../ca.pem\" }}");
    let configuration = Configuration::new("").with_site("a", &site);
    let good = super::keys::certificate();
    let lines = good.lines().count();
    configuration.write("ca.pem", format!("{good}-----BEGIN CERTIFICATE-----\ncut"));
    check(&configuration, &format!("sites/../ca.pem:{} tls.client_ca", lines + 1), &["is cut"]);
}

#[test]
fn a_check_that_may_take_longer_than_its_interval_is_a_warning() {
    let site = format!("{SITE}health = {{ interval = \"1s\", timeout = \"2s\" }}");
    let outcome = Configuration::new("").with_site("a", &site).load(None);
    let told = outcome.problems.iter().find(|one| one.key == "health.timeout").unwrap();
    assert!(!told.is_harmful() && told.line == Some(3), "{told}");
}

/// Who opened it would wait for a writer for ever.
#[test]
fn a_pipe_in_the_place_of_a_file_is_told_and_not_waited_for() {
    let pipe = |main: &str, site: &str| {
        let configuration = Configuration::new(main).with_site("a", &format!("{SITE}{site}"));
        for name in ["pipe", "sites/pipe"] {
            let made = std::process::Command::new("mkfifo").arg(configuration.path(name)).status();
            assert!(made.unwrap().success());
        }
        configuration
    };
    for (main, key) in [
        ("[certificates]\nticket_keys = \"pipe\"", "certificates.ticket_keys"),
        ("[listen]\nadmin_token_file = \"pipe\"", "listen.admin_token_file"),
    ] {
        check(&pipe(main, ""), &format!("sluss.toml:2 {key}"), &["it is no plain file"]);
    }
    for (site, key) in [
        ("maintenance = \"pipe\"", "maintenance"),
        ("tls = { client_ca = \"pipe\" }", "tls.client_ca"),
    ] {
        check(&pipe("", site), &format!("sites/a.toml:3 {key}"), &["it is no plain file"]);
    }
    let site = "hosts = [\"a.test\"]\nupstreams = [{ url = \"https://a\", ca = \"pipe\" }]\n";
    let configuration = pipe("", "");
    configuration.write("sites/a.toml", site);
    check(&configuration, "sites/a.toml:2 upstreams[0].ca", &["it is no plain file"]);
}

/// What `run` would refuse.
#[test]
fn an_admin_token_is_one_word_of_a_bounded_length() {
    let main = "[listen]\nadmin_token_file = \"token\"";
    for token in ["too-short", "two words of a token", &"x".repeat(1_025), &"x".repeat(10_000)] {
        let configuration = Configuration::new(main).with_site("a", SITE);
        configuration.write("token", format!("{token}\n"));
        check(&configuration, "sluss.toml:2 listen.admin_token_file", &["cannot be used"]);
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
            "hosts = [\"a.test\"]\nupstreams = [{ url = \"http://a\", tls = true }]",
            ":2 upstreams[0].tls",
            &["write https:// or h2:// in url"],
        ),
        (
            "hosts = [\"a.test:443\"]\nupstreams = [\"http://a\"]",
            ":1 hosts[0]",
            &["a host has no port: leave it out"],
        ),
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
        ("tls = { min_version = 1.2 }", ":3 tls.min_version", &["put it in quotes: \"1.2\""]),
        ("headers = { rules = {} }", ":3 headers.rules", &["rules stands at the top of the file"]),
        ("hsts = true", ":3 hsts", &["Strict-Transport-Security"]),
        ("host_header = \"http://x\"", ":3 host_header", &["no scheme and no path"]),
        ("tls = { min_version = \"1.1\" }", ":3 tls.min_version", &["one of 1.2, 1.3"]),
        ("tls = { client_ca = \"ca.pem\" }", ":3 tls.client_ca", &["cannot be opened"]),
        ("headers = { requests = 1 }", ":3 headers.requests", &["observe, repair, reject"]),
        ("rules = { host = \"repair\" }", ":3 rules.host", &["cannot be laxer"]),
        ("this is no TOML", ":3", &["not valid TOML"]),
    ] {
        check_added(line, &format!("{file}{place}"), words);
    }
}
