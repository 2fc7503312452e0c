//! Sites that come and go: hold, retry, the maintenance page, the alarm.

use std::thread;

use crate::support::origin::{nobody, ok};
use crate::support::{Edge, Origin, Setup, eventually, get};

#[test]
fn a_request_is_held_until_its_site_is_back() {
    let address = nobody().unwrap();
    let edge = Setup::default()
        .set("queues.request_deadline", r#""60s""#)
        .site("a.test", format!("http://{address}"))
        .start();
    let mut client = edge.connect("a.test");
    client.send(get("a.test", "/"));
    edge.metric_becomes("sluss_connections", &["state=\"active\""], |active| active == 1.0);
    let back = Origin::at(address, |connection| {
        crate::support::origin::serve(connection, &|_: &_| ok("back"));
    });
    let response = client.response();
    assert_eq!((response.status(), response.text().as_str()), (200, "back"));
    drop(back);
}

#[test]
fn another_endpoint_answers_for_one_that_is_gone() {
    let (gone, well) =
        (nobody().unwrap(), Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell"));
    let edge = Edge::before(format!("http://{gone}\", \"{}", well.url()));
    let mut client = edge.connect("a.test");
    for _ in 0..20 {
        assert_eq!(client.ask(get("a.test", "/")).text(), "well");
    }
}

#[test]
fn a_request_that_changes_something_is_not_sent_twice() {
    let rude = Origin::scripted(|mut connection| drop(connection.request()));
    let edge = Edge::before(rude.url());
    let response =
        edge.connect("a.test").ask("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(response.status(), 502);
    assert_eq!(rude.accepted(), 1);
}

#[test]
fn the_maintenance_page_stands_in_for_a_site_that_is_gone() {
    let setup = Setup::default().set("queues.request_deadline", r#""200ms""#);
    setup.write("sites/maintenance.html", "<h1>Back soon</h1>");
    let gone = format!("http://{}", nobody().unwrap());
    let edge = setup.site_with("a.test", gone, r#"maintenance = "maintenance.html""#).start();
    let mut client = edge.connect("a.test");
    for _ in 0..2 {
        let response = client.ask(get("a.test", "/"));
        assert_eq!((response.status(), response.text().as_str()), (503, "<h1>Back soon</h1>"));
        assert_eq!(response.refused(), Some("no-endpoint"));
        assert!(response.field("retry-after").is_some());
    }
}

#[test]
fn a_flood_of_requests_at_a_dead_site_leaves_others_alone() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    let edge = Setup::default()
        .set("queues.request_deadline", r#""300ms""#)
        .site("dead.test", format!("http://{}", nobody().unwrap()))
        .site("a.test", origin.url())
        .start();
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| assert_eq!(edge.get("dead.test", "/").status(), 503));
        }
        for _ in 0..20 {
            assert_eq!(edge.get("a.test", "/").status(), 200);
        }
    });
}

#[test]
fn a_site_that_restarts_loses_no_request() {
    let first = Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none");
    let address = first.address();
    let edge = Setup::default()
        .set("queues.request_deadline", r#""60s""#)
        .site("a.test", first.url())
        .start();
    let mut client = edge.connect("a.test");
    assert_eq!(client.ask(get("a.test", "/")).text(), "one");
    first.stop();
    client.send(get("a.test", "/"));
    edge.metric_becomes("sluss_connections", &["state=\"active\""], |active| active == 1.0);
    drop(first);
    let _second = Origin::at(address, |connection| {
        crate::support::origin::serve(connection, &|_: &_| ok("two"));
    });
    assert_eq!(client.response().text(), "two");
}

#[test]
fn a_stopped_site_raises_an_alarm_and_its_return_ends_it() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    let address = origin.address();
    let edge = Setup::default()
        .set("queues.request_deadline", r#""100ms""#)
        .site_with(
            "a.test",
            origin.url(),
            r#"health = { path = "/", interval = "100ms", healthy = 1, unhealthy = 2, timeout = "1s" }"#,
        )
        .start();
    assert_eq!(edge.get("a.test", "/").status(), 200);
    origin.stop();
    drop(origin);
    eventually("the alarm", || {
        let _ = edge.get("a.test", "/");
        edge.metric("sluss_alarm", &["upstreams-down"]) >= 1.0
    });
    let status = edge.admin_json("/api/status").to_string();
    assert!(status.contains("upstreams-down") && status.contains("a.test"), "{status}");
    assert_eq!(edge.command("status").0, 3, "`sluss status` says that an alarm stands");
    let _back = Origin::at(address, |connection| {
        crate::support::origin::serve(connection, &|_: &_| ok("back"));
    });
    eventually("the site's return", || edge.get("a.test", "/").status() == 200);
    eventually("the end of the alarm", || edge.metric("sluss_alarm", &["upstreams-down"]) == 0.0);
}
