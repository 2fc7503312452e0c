//! Listeners that change with a reload: the new ones serve, and nobody finds the edge without one.

use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::support::client::{ServerNameSent, handshake, tcp};
use crate::support::origin::nobody;
use crate::support::wire::Wire;
use crate::support::{Edge, Origin, Setup, eventually, get};

/// An edge with `a.test` whose TLS listener has a port that it keeps.
fn edge_at(origin: &Origin, https: SocketAddr) -> Edge {
    Setup::default()
        .set("listen.https", &format!("[\"{https}\"]"))
        .site("a.test", origin.url())
        .start()
}

fn reload(edge: &mut Edge, https: &[SocketAddr]) -> (i32, String) {
    let https: Vec<String> = https.iter().map(|address| format!("\"{address}\"")).collect();
    edge.set("listen.https", &format!("[{}]", https.join(", ")));
    edge.command("reload")
}

#[track_caller]
fn assert_serves(address: SocketAddr) {
    let mut client = handshake(tcp(address), ServerNameSent::Name("a.test")).expect("it serves");
    assert_eq!(client.ask(get("a.test", "/")).status(), 200);
}

fn all_addresses(address: SocketAddr) -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], address.port()))
}

#[test]
fn one_address_gives_its_place_to_all_and_takes_it_back() {
    let (origin, one) = (Origin::echo(), nobody().unwrap());
    let mut edge = edge_at(&origin, one);
    let mut kept = edge.connect("a.test");
    for address in [all_addresses(one), one] {
        let (code, report) = reload(&mut edge, &[address]);
        assert_eq!(code, 0, "{report}");
        assert_serves(one);
    }
    let other = SocketAddr::from(([127, 0, 0, 2], one.port()));
    eventually("nobody listens there", || TcpStream::connect(other).is_err());
    assert_eq!(kept.ask(get("a.test", "/")).status(), 200, "its connections stay");
}

#[test]
fn where_the_new_address_is_taken_the_old_listener_stays_and_is_named() {
    let (origin, old) = (Origin::echo(), nobody().unwrap());
    let mut edge = edge_at(&origin, old);
    let another = TcpListener::bind("127.0.0.1:0").unwrap();
    let new = another.local_addr().unwrap();
    for _ in 0..2 {
        let (code, report) = reload(&mut edge, &[new]);
        assert_eq!(code, 3, "{report}");
        assert!(report.contains(&format!("{new} cannot be listened on")), "{report}");
        assert!(report.contains(&format!("last good version: listen.https {old}")), "{report}");
        assert_serves(old);
    }
    eventually("the alarm", || edge.alarms("reload-partly") == 1.0);
    drop(another);
    let (code, report) = edge.command("reload");
    assert_eq!(code, 0, "{report}");
    assert_serves(new);
    eventually("nobody listens there", || TcpStream::connect(old).is_err());
}

#[test]
fn a_listener_whose_place_cannot_be_taken_comes_back() {
    let (origin, old) = (Origin::echo(), nobody().unwrap());
    let mut edge = edge_at(&origin, old);
    let beside = SocketAddr::from(([127, 0, 0, 2], old.port()));
    let another = TcpListener::bind(beside).unwrap();
    let (code, report) = reload(&mut edge, &[all_addresses(old)]);
    assert_eq!(code, 3, "{report}");
    assert!(report.contains(&format!("listen.https {old}")), "{report}");
    assert_serves(old);
    drop(another);
    let (code, report) = edge.command("reload");
    assert_eq!(code, 0, "{report}");
    assert_serves(beside);
}

#[test]
fn two_listeners_change_places() {
    let (origin, one, other) = (Origin::echo(), nobody().unwrap(), nobody().unwrap());
    let mut edge = Setup::default()
        .set("listen.https", &format!("[\"{one}\"]"))
        .set("listen.http", &format!("[\"{other}\"]"))
        .site("a.test", origin.url())
        .start();
    edge.set("listen.http", &format!("[\"{one}\"]"));
    let (code, report) = reload(&mut edge, &[other]);
    assert_eq!(code, 0, "{report}");
    assert_serves(other);
    let answer = Wire::new(tcp(one)).ask(get("a.test", "/"));
    let location = format!("https://a.test:{}/", other.port());
    assert_eq!((answer.status(), answer.field("location")), (308, Some(location.as_str())));
}

#[test]
fn the_redirect_goes_to_where_tls_is_served_now() {
    let (origin, new) = (Origin::echo(), nobody().unwrap());
    let mut edge = Edge::before(origin.url());
    assert_eq!(reload(&mut edge, &[new]).0, 0);
    let answer = Wire::new(tcp(edge.http[0])).ask(get("a.test", "/"));
    let location = format!("https://a.test:{}/", new.port());
    assert_eq!(answer.field("location"), Some(location.as_str()));
}
