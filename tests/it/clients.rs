//! What one client may take of a site, beside what the site may take of all: the next one is served.
//!
//! The edge is told who comes by the PROXY protocol, so that one machine can be many clients.

use std::io::Write as _;
use std::sync::{Mutex, mpsc};

use crate::support::client::{Client, ServerNameSent, handshake};
use crate::support::origin::ok;
use crate::support::{Edge, Origin, Setup, eventually, get};

const CLIENT: &str = "192.0.2.7";
const NEIGHBOUR: &str = "192.0.2.8";

fn setup(origin: &Origin, limits: &str) -> Setup {
    Setup::default().set("listen.proxy_protocol_from", r#"["127.0.0.0/8"]"#).site_with(
        "a.test",
        origin.url(),
        &format!("limits = {{ {limits} }}"),
    )
}

fn try_connect(edge: &Edge, client: &str) -> std::io::Result<Client> {
    let mut stream = edge.tcp();
    let (family, local) =
        if client.contains(':') { ("TCP6", "2001:db8::1") } else { ("TCP4", "198.51.100.1") };
    write!(stream, "PROXY {family} {client} {local} 4711 443\r\n")?;
    handshake(stream, ServerNameSent::Name("a.test"))
}

fn connect(edge: &Edge, client: &str) -> Client {
    try_connect(edge, client).expect("the handshake succeeds")
}

fn quick() -> Origin {
    Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
}

#[test]
fn more_new_connections_a_second_of_one_client_are_reset() {
    let origin = quick();
    let edge = setup(&origin, "handshakes_per_second_per_client = 3").start();
    let mut first = connect(&edge, CLIENT);
    let refused = (0..50).filter(|_| try_connect(&edge, CLIENT).is_err()).count();
    assert!(refused > 0, "the burst is three, and another one a third of a second later");
    assert!(try_connect(&edge, NEIGHBOUR).is_ok(), "another client has its own");
    eventually("each is counted", || edge.refused("client-handshake-rate") == refused as f64);
    assert_eq!(first.ask(get("a.test", "/")).status(), 200, "who is in stays in");
    eventually("later ones are let in", || try_connect(&edge, CLIENT).is_ok());
}

#[test]
fn more_requests_a_second_of_one_client_are_429s_over_all_its_connections() {
    let origin = quick();
    let edge = setup(&origin, "requests_per_second_per_client = 2").start();
    let mut clients = [connect(&edge, CLIENT), connect(&edge, CLIENT)];
    let together: String = (0..25).map(|_| get("a.test", "/")).collect();
    let mut statuses = Vec::new();
    for client in &mut clients {
        client.send(&together);
    }
    for client in &mut clients {
        for _ in 0..25 {
            let response = client.response();
            statuses.push(response.status());
            if response.status() != 200 {
                let refused = (response.status(), response.refused());
                assert_eq!(refused, (429, Some("client-request-rate")));
                assert!(response.field("retry-after").is_some());
            }
        }
    }
    let refused = statuses.iter().filter(|status| **status == 429).count();
    assert!(refused > 0 && statuses.contains(&200), "{statuses:?}");
    assert_eq!(connect(&edge, NEIGHBOUR).ask(get("a.test", "/")).status(), 200);
    eventually("each is counted", || edge.refused("client-request-rate") == refused as f64);
    let [client, _] = &mut clients;
    eventually("later ones are let in", || client.ask(get("a.test", "/")).status() == 200);
}

#[test]
fn one_client_has_so_many_requests_under_way_waiting_ones_counted() {
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let origin = Origin::answering(move |_| {
        let _ = held.lock().unwrap().recv();
        ok("served")
    });
    let edge = setup(&origin, "in_flight = 1, in_flight_per_client = 2").start();
    let mut clients = [(); 3].map(|()| connect(&edge, CLIENT));
    clients[0].send(get("a.test", "/at-the-site"));
    eventually("the first is at the site", || origin.accepted() == 1);
    clients[1].send(get("a.test", "/waits"));
    edge.metric_becomes("sluss_queue_depth", &["queue=\"request\""], |depth| depth == 1.0);
    let refused = clients[2].ask(get("a.test", "/refused"));
    assert_eq!((refused.status(), refused.refused()), (429, Some("client-in-flight")));
    eventually("it is counted", || edge.refused("client-in-flight") == 1.0);
    let mut neighbour = connect(&edge, NEIGHBOUR);
    neighbour.send(get("a.test", "/waits-too"));
    edge.metric_becomes("sluss_queue_depth", &["queue=\"request\""], |depth| depth == 2.0);
    for _ in 0..4 {
        release.send(()).unwrap();
    }
    assert_eq!(clients[0].response().text(), "served");
    assert_eq!(clients[1].response().text(), "served");
    assert_eq!(neighbour.response().text(), "served");
    assert_eq!(clients[2].ask(get("a.test", "/again")).text(), "served", "its places are free");
}

#[test]
fn a_household_with_a_whole_ipv6_network_is_one_client() {
    let origin = quick();
    let edge = setup(&origin, "connections_per_client = 1").start();
    let _held = connect(&edge, "2001:db8:0:7::1");
    assert!(try_connect(&edge, "2001:db8:0:7:ffff::2").is_err(), "the same /64");
    assert!(try_connect(&edge, "2001:db8:0:8::1").is_ok(), "the next one");
    eventually("it is counted", || edge.refused("client-connection-limit") == 1.0);
}

#[test]
fn a_proxy_of_ones_own_speaks_for_many_clients() {
    let limits = "connections_per_client = 1, handshakes_per_second_per_client = 1, \
                  requests_per_second_per_client = 1";
    let trusted = r#"["192.0.2.7"]"#;
    let origin = quick();
    let edge = setup(&origin, limits).set("listen.trusted_proxies", trusted).start();
    let mut clients = [(); 3].map(|()| connect(&edge, CLIENT));
    for client in &mut clients {
        assert_eq!(client.ask(get("a.test", "/")).status(), 200);
    }
    let mut neighbour = connect(&edge, NEIGHBOUR);
    assert!(try_connect(&edge, NEIGHBOUR).is_err());
    let statuses = [(); 3].map(|()| neighbour.ask(get("a.test", "/")).status());
    assert!(statuses.contains(&429), "{statuses:?}");
}

#[test]
fn bounds_of_one_client_take_effect_and_go_by_a_reload() {
    let origin = quick();
    let edge = setup(&origin, "requests_per_second_per_client = 1").start();
    let mut client = connect(&edge, CLIENT);
    let statuses = [(); 3].map(|()| client.ask(get("a.test", "/")).status());
    assert!(statuses.contains(&429), "{statuses:?}");
    let before = edge.generation();
    edge.site("a.test", origin.url(), "");
    edge.signal(rustix::process::Signal::HUP);
    eventually("it is reloaded", || edge.generation() > before);
    let statuses = [(); 9].map(|()| client.ask(get("a.test", "/")).status());
    assert_eq!(statuses, [200; 9]);
}
