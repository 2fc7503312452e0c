//! Which of a site's endpoints gets a request: in turn, by client, by cookie, by who can be reached.

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use crate::support::client::Client;
use crate::support::origin::{nobody, ok};
use crate::support::{Edge, Origin, PATIENCE, Setup, eventually, get};

/// Two endpoints that tell their names.
fn two() -> [Origin; 2] {
    ["one", "two"].map(|name| Origin::answering(move |_| ok(name)))
}

fn edge_before([one, two]: &[Origin; 2], balance: &str) -> Edge {
    let upstreams = format!("{}\", \"{}", one.url(), two.url());
    Setup::default().site_with("a.test", upstreams, &format!("balance = \"{balance}\"")).start()
}

fn ask(client: &mut Client) -> String {
    client.ask(get("a.test", "/")).text()
}

fn ask_with_cookie(client: &mut Client, cookie: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\nHost: a.test\r\nCookie: x=1; id={cookie}\r\n\r\n");
    client.ask(request).text()
}

#[test]
fn round_robin_takes_turns() {
    let origins = two();
    let edge = edge_before(&origins, "round-robin");
    let mut client = edge.connect("a.test");
    let answers: Vec<String> = (0..10).map(|_| ask(&mut client)).collect();
    assert!(answers.windows(2).all(|pair| pair[0] != pair[1]), "{answers:?}");
}

#[test]
fn one_client_stays_with_one_endpoint() {
    let origins = two();
    let edge = edge_before(&origins, "hash:client");
    let answers: BTreeSet<String> = (0..10).map(|_| edge.get("a.test", "/").text()).collect();
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[test]
fn one_cookie_stays_with_one_endpoint_and_many_are_spread() {
    let origins = two();
    let edge = edge_before(&origins, "hash:cookie=id");
    let mut all = BTreeSet::new();
    for number in 0..20 {
        let cookie = format!("visitor-{number}");
        let mut client = edge.connect("a.test");
        let first = ask_with_cookie(&mut client, &cookie);
        assert_eq!(ask_with_cookie(&mut edge.connect("a.test"), &cookie), first);
        all.insert(first);
    }
    assert_eq!(all.len(), 2, "{all:?}");
}

#[test]
fn a_backup_is_asked_only_while_the_other_cannot_be() {
    let address = nobody().unwrap();
    let backup = Origin::answering(|_| ok("backup"));
    let upstreams =
        format!(r#"{{ url = "http://{address}" }}, {{ url = "{}", backup = true }}"#, backup.url());
    let first = Origin::at(address, |connection| {
        crate::support::origin::serve(connection, &|_: &_| ok("first"));
    });
    let edge = Setup::default().site("a.test", upstreams).start();
    let mut client = edge.connect("a.test");
    assert!((0..10).all(|_| ask(&mut client) == "first"));
    drop(first);
    eventually("the backup", || ask(&mut client) == "backup");
    let _first = Origin::at(address, |connection| {
        crate::support::origin::serve(connection, &|_: &_| ok("first"));
    });
    eventually("the first one again", || ask(&mut client) == "first");
}

/// A full accept queue: the kernel drops what comes, and connecting takes for ever.
#[test]
fn an_endpoint_that_does_not_take_connections_is_given_up_after_the_connect_timeout() {
    let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    silent.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    silent.listen(0).unwrap();
    let silent: TcpListener = silent.into();
    let address = silent.local_addr().unwrap();
    let soon = std::time::Duration::from_millis(300);
    let mut fillers = Vec::new();
    while let Ok(filler) = TcpStream::connect_timeout(&address, soon) {
        fillers.push(filler);
        assert!(fillers.len() < 10, "the queue has an end");
    }
    let well = Origin::answering(|_| ok("well"));
    let upstreams = format!("http://{address}\", \"{}", well.url());
    let edge = Setup::default()
        .set("timeouts.connect", "\"200ms\"")
        .site_with("a.test", upstreams, "balance = \"round-robin\"")
        .start();
    let begun = Instant::now();
    let mut client = edge.connect("a.test");
    assert!((0..4).all(|_| ask(&mut client) == "well"));
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
    eventually("its failure is told", || edge.admin("/api/sites").text().contains("timed out"));
}
