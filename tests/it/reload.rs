//! Reloads: what changes takes effect, what is broken stays as it was, nothing in flight is cut.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use rustix::process::Signal;

use crate::support::client::{ServerNameSent, tcp};
use crate::support::origin::{nobody, ok};
use crate::support::{Edge, End, Origin, PATIENCE, Setup, eventually, get, pattern};

#[test]
fn a_renewed_certificate_is_served_when_the_reload_returns() {
    let origin = Origin::echo();
    let edge = Edge::before(origin.url());
    let mut kept = edge.connect("a.test");
    let old = kept.certificate();
    assert_eq!(edge.connect("a.test").certificate(), old);
    edge.issue("a.test");
    assert_eq!(edge.command("reload").0, 0);
    assert_ne!(edge.connect("a.test").certificate(), old);
    assert_eq!(kept.ask(get("a.test", "/")).status(), 200, "open connections stay");
}

#[test]
fn a_download_in_flight_outlives_the_site_it_came_from() {
    let (go_on, told) = mpsc::channel::<()>();
    let told = std::sync::Mutex::new(told);
    let half = pattern(500_000);
    let origin = Origin::scripted(move |mut connection| {
        connection.request().unwrap();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
        connection.send(pattern(500_000));
        told.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        connection.send(pattern(500_000));
    });
    let other = Origin::answering(|_| ok("the other"));
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    client.send(get("a.test", "/"));
    assert_eq!(client.head().unwrap().status(), 200);
    let (first, _) = client.exactly(500_000);
    edge.site("a.test", other.url(), "");
    edge.issue("a.test");
    assert_eq!(edge.command("reload").0, 0);
    assert_eq!(edge.get("a.test", "/").text(), "the other", "new requests go elsewhere");
    std::fs::remove_file(edge.folder().join("sites/a.test.toml")).unwrap();
    assert_eq!(edge.command("reload").0, 0);
    let gone = edge.try_connect(ServerNameSent::Name("a.test"));
    assert!(gone.is_err(), "the site is gone, and its name is refused");
    go_on.send(()).unwrap();
    let (second, end) = client.exactly(500_000);
    assert!(first == half && second == half && end == End::Whole, "the download is whole");
}

#[test]
fn a_site_can_be_added_and_changed() {
    let (first, second) = (
        Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none"),
        Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo"),
    );
    let edge = Edge::before(first.url());
    let mut client = edge.connect("a.test");
    assert_eq!(client.ask(get("a.test", "/")).text(), "one");
    edge.site("a.test", second.url(), "");
    edge.site("b.test", first.url(), "");
    edge.issue("b.test");
    assert_eq!(edge.command("reload").0, 0);
    assert_eq!(client.ask(get("a.test", "/")).text(), "two", "the next request sees it");
    assert_eq!(edge.get("b.test", "/").text(), "one");
}

#[test]
fn listeners_can_be_added_and_removed() {
    let origin = Origin::echo();
    let mut edge = Edge::before(origin.url());
    let mut kept = edge.connect("a.test");
    let added = nobody().unwrap();
    edge.set("listen.https", &format!(r#"["127.0.0.1:0", "{added}"]"#));
    assert_eq!(edge.command("reload").0, 0);
    let mut client =
        crate::support::client::handshake(tcp(added), ServerNameSent::Name("a.test")).unwrap();
    assert_eq!(client.ask(get("a.test", "/")).status(), 200);
    let removed = edge.https[0];
    edge.set("listen.https", &format!(r#"["{added}"]"#));
    assert_eq!(edge.command("reload").0, 0);
    eventually("nobody listens there", || TcpStream::connect(removed).is_err());
    assert_eq!(kept.ask(get("a.test", "/")).status(), 200, "its connections stay");
}

#[test]
fn a_broken_certificate_stays_at_its_last_good_version() {
    let origin = Origin::echo();
    let edge = Setup::default().site("a.test", origin.url()).site("b.test", origin.url()).start();
    let old = edge.connect("b.test").certificate();
    edge.write("certs/b.test/fullchain.pem", "-----BEGIN CERTIFICATE-----\nbroken\n");
    edge.issue("a.test");
    let before = edge.connect("a.test").certificate();
    let (code, report) = edge.command("reload");
    assert_eq!(code, 3, "{report}");
    assert!(report.contains("b.test"), "{report}");
    assert_eq!(edge.connect("b.test").certificate(), old);
    assert_ne!(edge.connect("a.test").certificate(), before, "the others move on");
    eventually("the alarm", || edge.metric("sluss_alarm", &["certificate-kept"]) == 1.0);
    assert_eq!(edge.metric("sluss_certificates_kept", &[]), 1.0);
}

#[test]
fn the_last_good_version_ends_when_the_operator_says_so() {
    let origin = Origin::echo();
    let edge = Setup::default()
        .set("certificates.keep_last_good_for", "\"1s\"")
        .site("a.test", origin.url())
        .site("b.test", origin.url())
        .start();
    edge.write("certs/b.test/fullchain.pem", "");
    let (code, report) = edge.command("reload");
    assert!(code == 3 && report.contains("is served until"), "{report}");
    let generation = edge.generation();
    eventually("its end", || edge.try_connect(ServerNameSent::Name("b.test")).is_err());
    assert_eq!(edge.get("a.test", "/").status(), 200);
    assert_eq!(edge.generation(), generation, "no reload was needed");
    edge.issue("b.test");
    assert_eq!(edge.command("reload").0, 0);
    assert_eq!(edge.get("b.test", "/").status(), 200);
}

#[test]
fn a_broken_site_stays_as_it_was() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none");
    let edge = Setup::default().site("a.test", origin.url()).site("b.test", origin.url()).start();
    edge.write("sites/b.test.toml", "hosts = [\"b.test\"\n");
    let (code, report) = edge.command("reload");
    assert_eq!(code, 3, "{report}");
    assert!(report.contains("b.test"), "{report}");
    assert_eq!(edge.get("b.test", "/").text(), "one");
}

#[test]
fn a_broken_main_file_changes_nothing() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none");
    let mut edge = Edge::before(origin.url());
    let generation = edge.generation();
    edge.set("queues.request_dept", "3");
    let (code, report) = edge.command("reload");
    assert_eq!(code, 1, "{report}");
    assert!(report.contains("request_depth"), "the nearest name is suggested: {report}");
    assert_eq!(edge.generation(), generation);
    assert_eq!(edge.get("a.test", "/").text(), "one");
    assert_eq!(edge.metric("sluss_reloads_total", &["refused"]), 1.0);
}

/// Without a signal: also what is written in two steps, of which the first alone is no pair.
#[test]
fn a_watched_renewal_is_served_and_a_half_written_one_is_not() {
    let edge = Setup::default()
        .set("certificates.watch", "true")
        .site("a.test", Origin::echo().url())
        .start();
    let served = || edge.connect("a.test").certificate();
    let mut old = served();
    for _ in 0..2 {
        edge.issue("a.test");
        eventually("the renewed one", || served() != old);
        old = served();
    }
    let folder = edge.folder().join("certs/a.test");
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let (chain, key) = (read("fullchain.pem"), read("privkey.pem"));
    edge.issue("a.test");
    let new_key = read("privkey.pem");
    std::fs::write(folder.join("privkey.pem"), &key).unwrap();
    eventually("the half is found", || edge.alarms("certificate-kept") == 1.0);
    assert_eq!(served(), old);
    std::fs::write(folder.join("privkey.pem"), &new_key).unwrap();
    eventually("the whole is served", || served() != old);
    assert_ne!(read("fullchain.pem"), chain);
    let generation = edge.generation();
    let begun = std::time::Instant::now();
    eventually("some looks", || begun.elapsed() > std::time::Duration::from_secs(7));
    assert_eq!(edge.generation(), generation, "what stands still is not reloaded again");
}

#[test]
fn an_access_log_that_could_not_be_opened_is_opened_by_the_next_reload() {
    let mut edge = Edge::before(Origin::echo().url());
    let new = edge.folder().join("new.log");
    // A pipe that nobody reads: not even root opens it.
    rustix::fs::mkfifoat(rustix::fs::CWD, &new, rustix::fs::Mode::RWXU).unwrap();
    edge.set("log.access", "\"new.log\"");
    for path in ["/one", "/two"] {
        let (code, report) = edge.command("reload");
        assert!(code == 3 && report.contains("last good version: log.access"), "{report}");
        edge.get("a.test", path);
        edge.logged("in the old log", |line| line["url.path"] == path);
    }
    std::fs::remove_file(&new).unwrap();
    assert_eq!(edge.command("reload").0, 0);
    edge.get("a.test", "/three");
    eventually("the line in the new log", || {
        std::fs::read_to_string(&new).unwrap_or_default().contains("\"/three\"")
    });
}

/// To open it would be to wait for a writer.
#[test]
fn a_named_pipe_in_a_files_place_keeps_no_reload_and_no_signal_waiting() {
    let mut edge = Edge::before(Origin::echo().url());
    let pipe = edge.folder().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
    edge.set("certificates.ticket_keys", "\"pipe\"");
    for command in ["check", "reload"] {
        let (code, report) = edge.command(command);
        assert!(code == 1 && report.contains("it is no plain file"), "{report}");
    }
    edge.signal(Signal::TERM);
    assert_eq!(edge.ended().code(), Some(0));
}

/// Reloads one behind the other while clients connect, ask and download.
#[test]
fn a_storm_of_reloads_fails_no_request() {
    const RELOADS: usize = 100;
    let origin = Origin::answering(|request| match request.target() {
        "/long" => ok(pattern(8 * 1024 * 1024)),
        _ => ok("hi"),
    });
    let edge = Setup::default().set("runtime.threads", "2").site("a.test", origin.url()).start();
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut kept = edge.connect("a.test");
            while !stop.load(Ordering::SeqCst) {
                assert_eq!(kept.ask(get("a.test", "/")).text(), "hi", "on a kept connection");
                served.fetch_add(1, Ordering::SeqCst);
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                assert_eq!(edge.get("a.test", "/").text(), "hi", "on a new connection");
                served.fetch_add(1, Ordering::SeqCst);
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                let long = edge.get("a.test", "/long");
                assert!(long.end == End::Whole && long.body == pattern(8 * 1024 * 1024));
                served.fetch_add(1, Ordering::SeqCst);
            }
        });
        let _stop = SetOnDrop(&stop); // A failing wait here must not leave the others running.
        let mut early = 0;
        for number in 0..RELOADS {
            if number % 10 == 0 {
                edge.issue("a.test");
            }
            let generation = edge.generation();
            edge.signal(Signal::HUP);
            eventually("the reload", || edge.generation() > generation);
            if number == 20 {
                early = edge.resident_kib();
            }
        }
        let late = edge.resident_kib();
        // 5 % and, for a process this small, the allocator's own grain.
        assert!(late < early + early / 20 + 8 * 1024, "from {early} to {late} KiB");
    });
    assert!(served.load(Ordering::SeqCst) > 0);
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
