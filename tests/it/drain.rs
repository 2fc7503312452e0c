//! The end: what is in flight is finished, nothing new is taken.

use std::net::TcpStream;
use std::sync::{Mutex, mpsc};

use rustix::process::Signal;

use crate::support::origin::ok;
use crate::support::{Edge, End, Origin, PATIENCE, Setup, eventually, get};

/// An origin whose answer waits for a word.
fn held() -> (Origin, mpsc::Sender<()>) {
    let (release, wait) = mpsc::channel();
    let wait = Mutex::new(wait);
    let origin = Origin::answering(move |_| {
        let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
        ok("finished")
    });
    (origin, release)
}

#[test]
fn sigterm_finishes_what_is_in_flight_and_exits_0() {
    let (origin, release) = held();
    let mut edge = Setup::default()
        .set("runtime.shutdown_grace", r#""60s""#)
        .site("a.test", origin.url())
        .start();
    let mut idle = edge.connect("a.test");
    let mut busy = edge.connect("a.test");
    busy.send(get("a.test", "/"));
    eventually("the request at the site", || origin.accepted() == 1);
    let address = edge.https[0];
    edge.signal(Signal::TERM);
    eventually("nothing new is taken", || TcpStream::connect(address).is_err());
    assert_eq!(idle.end(), End::ClosedEarly, "idle connections are closed in good order");
    assert!(edge.runs(), "it waits for what is in flight");
    release.send(()).unwrap();
    let response = busy.response();
    assert_eq!((response.status(), response.text().as_str()), (200, "finished"));
    assert_eq!(response.field("connection"), Some("close"));
    assert_eq!(busy.end(), End::ClosedEarly);
    assert_eq!(edge.ended().code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once() {
    let (origin, _release) = held();
    let mut edge = Setup::default()
        .set("runtime.shutdown_grace", r#""1h""#)
        .site("a.test", origin.url())
        .start();
    let mut busy = edge.connect("a.test");
    busy.send(get("a.test", "/"));
    eventually("the request at the site", || origin.accepted() == 1);
    let address = edge.https[0];
    edge.signal(Signal::TERM);
    eventually("it drains", || TcpStream::connect(address).is_err());
    edge.signal(Signal::INT);
    edge.ended();
    assert_eq!(busy.end(), End::Cut);
}

#[test]
fn the_grace_ends_a_drain_that_does_not_end() {
    let (origin, _release) = held();
    let mut edge = Setup::default()
        .set("runtime.shutdown_grace", r#""200ms""#)
        .site("a.test", origin.url())
        .start();
    let mut busy = edge.connect("a.test");
    busy.send(get("a.test", "/"));
    eventually("the request at the site", || origin.accepted() == 1);
    edge.signal(Signal::TERM);
    edge.ended();
    assert_eq!(busy.end(), End::Cut);
}

#[test]
fn nothing_in_flight_ends_at_once_with_0() {
    let mut edge = Edge::before(Origin::echo().url());
    edge.signal(Signal::INT);
    assert_eq!(edge.ended().code(), Some(0));
}

#[test]
fn a_second_edge_on_the_same_state_folder_is_refused() {
    let edge = Edge::before(Origin::echo().url());
    let (code, told) = edge.command("run");
    assert_eq!(code, 1, "{told}");
    assert_eq!(edge.get("a.test", "/").status(), 503, "the first serves on: its site is gone");
}
