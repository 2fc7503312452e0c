//! Which endpoint and which connection: retries, failover, hold, ejection, reload, checks.

use std::cell::Cell;

use super::origin::{Origin, Peer};
use super::*;
use tokio::net::TcpListener;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// An address at which nobody listens.
async fn nowhere() -> EndpointSpec {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    endpoint(format!("http://{address}"), Address::Ip(address), Protocol::Http1)
}

/// An origin that answers one request on each connection, then closes it when the next one comes.
async fn stale_origin() -> Origin {
    Origin::start(async |_, mut peer: Peer| {
        peer.head().await;
        peer.write(OK).await;
        peer.head().await;
        peer.reset();
    })
    .await
}

#[test]
fn a_stale_connection_is_replaced_even_for_a_post_without_body() {
    run(async || {
        let origin = stale_origin().await;
        let edge = Edge::new(vec![origin.endpoint()]);
        edge.fetch().await;
        let head = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n";
        let response = edge.send(head, TestBody::none()).await.unwrap();
        assert_eq!((response.head.status(), response.retries), (200, 1));
        assert_eq!(origin.accepted(), 2);
        assert_eq!(edge.upstream.retries(), (1, 0));
        assert_eq!(edge.summary(0).failures_total, 0, "staleness is not a failure");
    });
}

#[test]
fn a_stale_connection_is_not_replaced_once_the_body_was_touched() {
    run(async || {
        let origin = stale_origin().await;
        let edge = Edge::new(vec![origin.endpoint()]);
        edge.fetch().await;
        let head = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\n";
        let failure = edge.send(head, TestBody::of(&["body"])).await.unwrap_err();
        assert_eq!(failure.refusal, Refusal::UpstreamClosed);
        assert_eq!(origin.accepted(), 1);
    });
}

#[test]
fn a_connection_closed_while_idle_is_noticed_without_a_retry() {
    run(async || {
        let origin = Origin::start(async |_, mut peer: Peer| {
            peer.head().await;
            peer.write(OK).await;
        })
        .await;
        let edge = Edge::new(vec![origin.endpoint()]);
        for accepted in 1..=3 {
            assert_eq!(edge.fetch().await.0, 200);
            assert_eq!(origin.accepted(), accepted);
            // Until the close has arrived; the runtime sees it without being asked.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(edge.upstream.retries(), (0, 0));
    });
}

#[test]
fn idle_connections_closed_by_the_endpoint_are_swept() {
    run(async || {
        let origin = Origin::start(async |_, mut peer: Peer| {
            peer.head().await;
            peer.write(OK).await;
        })
        .await;
        let edge = Edge::new(vec![origin.endpoint()]);
        edge.fetch().await;
        assert_eq!(edge.client.idle(), 1);
        until("swept", || edge.client.idle() == 0).await;
        assert_eq!(edge.summary(0).connections, 0);
    });
}

#[test]
fn a_get_whose_fresh_connection_dies_goes_to_another_endpoint_and_a_post_does_not() {
    run(async || {
        let dying = Origin::start(async |_, mut peer: Peer| {
            peer.head().await;
            peer.reset();
        })
        .await;
        let sound = Origin::answering(OK).await;
        let edge = Edge::new(vec![dying.endpoint(), sound.endpoint()]);
        assert_eq!(edge.fetch().await.0, 200);
        assert_eq!((dying.accepted(), sound.accepted()), (1, 1));
        let head = "POST / HTTP/1.1\r\nHost: a.example\r\n\r\n";
        let mut refused = 0;
        for _ in 0..2 {
            let sent = edge.send(head, TestBody::none()).await;
            refused += u32::from(sent.is_err_and(|e| e.refusal == Refusal::UpstreamClosed));
        }
        assert_eq!(refused, 1);
    });
}

#[test]
fn who_cannot_be_connected_is_passed_over_with_body_and_all() {
    run(async || {
        let sound = Origin::start(async |_, mut peer: Peer| {
            while peer.head().await.is_some() {
                peer.up_to("body").await.unwrap();
                peer.write(OK).await;
            }
        })
        .await;
        let edge = Edge::new(vec![nowhere().await, sound.endpoint()]);
        let head = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\n";
        for _ in 0..10 {
            let response = edge.send(head, TestBody::of(&["body"])).await.unwrap();
            assert_eq!(response.head.status(), 200);
            drop(response);
        }
        let dead = edge.summary(0);
        assert_eq!(dead.connect_failures_total, 3, "then it is ejected");
        assert_eq!(dead.standing, Standing::Ejected);
        assert!(dead.last_failure.unwrap().contains("refused"));
        assert_eq!(edge.upstream.retries(), (0, 0), "no request was sent twice");
    });
}

#[test]
fn without_anybody_the_request_is_refused_when_its_hold_ends() {
    run(async || {
        let mut edge = Edge::new(vec![nowhere().await, nowhere().await]);
        edge.hold = SHORT;
        let start = Instant::now();
        let failure = edge.get().await.unwrap_err();
        assert_eq!(failure.refusal, Refusal::NoEndpoint);
        assert!(start.elapsed() >= SHORT);
        assert!(edge.upstream.endpoints().iter().any(|one| one.standing == Standing::Up));
    });
}

#[test]
fn a_held_request_is_served_once_an_endpoint_is_back() {
    run(async || {
        let spec = nowhere().await;
        let Address::Ip(address) = spec.address else { unreachable!() };
        let mut edge = Edge::new(vec![spec]);
        edge.hold = PATIENCE / 2;
        let back = async {
            tokio::time::sleep(SHORT).await;
            let listener = TcpListener::bind(address).await.unwrap();
            Origin::on(listener, async |_, mut peer: Peer| {
                peer.head().await;
                peer.write(OK).await;
            })
        };
        let ((status, _), _origin) = tokio::join!(edge.fetch(), back);
        assert_eq!(status, 200);
    });
}

#[test]
fn retries_end_with_the_budget() {
    run(async || {
        let dying = Origin::start(async |_, mut peer: Peer| {
            peer.head().await;
            peer.reset();
        })
        .await;
        let edge = Edge::new(vec![dying.endpoint()]);
        for _ in 0..20 {
            assert_eq!(edge.get().await.unwrap_err().refusal, Refusal::UpstreamClosed);
        }
        let (granted, denied) = edge.upstream.retries();
        // The floor may be paid anew where a second passes meanwhile.
        assert!((7..=13).contains(&granted), "{granted}");
        assert!(denied > 0);
        assert_eq!(dying.accepted() as u64, 20 + granted);
    });
}

#[test]
fn endpoints_keep_their_state_over_a_reload_that_keeps_their_address() {
    run(async || {
        let (kept, dropped) = (Origin::answering(OK).await, Origin::answering(OK).await);
        let mut edge = Edge::new(vec![kept.endpoint(), dropped.endpoint()]);
        edge.fetch().await;
        edge.fetch().await;
        let heavier = EndpointSpec { weight: 9, ..kept.endpoint() };
        let next = Upstream::new(&shop(), &spec(vec![heavier]), Some(&edge.upstream));
        edge.upstream = Arc::new(next);
        edge.fetch().await;
        assert_eq!(kept.accepted(), 1, "its idle connection was used");
        let summary = edge.summary(0);
        assert_eq!((summary.weight, summary.requests_total), (9, 2));
    });
}

#[test]
fn the_same_cookie_stays_with_its_endpoint() {
    run(async || {
        let origins = [Origin::answering(OK).await, Origin::answering(OK).await];
        let mut edge = Edge::new(origins.iter().map(Origin::endpoint).collect());
        let balance = Balance::HashCookie("sid".into());
        let endpoints = origins.iter().map(Origin::endpoint).collect();
        let spec = UpstreamSpec { balance, ..spec(endpoints) };
        edge.upstream = Arc::new(Upstream::new(&shop(), &spec, None));
        let mut seen = std::collections::BTreeSet::new();
        for sid in 0..20 {
            let head =
                format!("GET / HTTP/1.1\r\nHost: a.example\r\nCookie: a=b; sid={sid}; c=d\r\n\r\n");
            let first = edge.send(&head, TestBody::none()).await.unwrap().endpoint;
            for _ in 0..3 {
                let next = edge.send(&head, TestBody::none()).await.unwrap().endpoint;
                assert_eq!(next.url(), first.url());
            }
            seen.insert(first.url().to_owned());
        }
        assert_eq!(seen.len(), 2);
    });
}

#[test]
fn unix_sockets_are_spoken_to() {
    run(async || {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("origin.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        tokio::task::spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            while matches!(stream.read(&mut [0; 4096]).await, Ok(1..)) {
                stream.write_all(OK.as_bytes()).await.unwrap();
            }
        });
        let address = Address::Unix(path);
        let edge = Edge::new(vec![endpoint("unix:origin".into(), address, Protocol::Http1)]);
        assert_eq!(edge.fetch().await, (200, "hello".into()));
        assert_eq!(edge.fetch().await, (200, "hello".into()));
        assert_eq!(edge.client.idle(), 1);
    });
}

#[test]
fn names_are_looked_up() {
    run(async || {
        let origin = Origin::answering(OK).await;
        let address = Address::Name("localhost".into(), origin.address.port());
        let edge = Edge::new(vec![endpoint("http://localhost".into(), address, Protocol::Http1)]);
        assert_eq!(edge.fetch().await.0, 200);
    });
}

#[test]
fn a_failed_check_takes_an_endpoint_out_and_a_passed_one_brings_it_back() {
    run(async || {
        let healthy = Rc::new(Cell::new(false));
        let state = healthy.clone();
        let origin = Origin::start(async move |_, mut peer: Peer| {
            let head = peer.head().await.unwrap();
            assert!(head.starts_with("GET /up HTTP/1.1\r\nHost: a.example\r\n"), "{head}");
            let status = if state.get() { "204 Fine" } else { "503 Broken" };
            peer.write(&format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n")).await;
        })
        .await;
        let check = HealthCheck {
            path: "/up".into(),
            interval: Duration::from_millis(20),
            healthy: 2,
            unhealthy: 3,
            timeout: Duration::from_secs(1),
        };
        let spec = UpstreamSpec { health: Some(check), ..spec(vec![origin.endpoint()]) };
        let mut edge = Edge::new(Vec::new());
        edge.upstream = Arc::new(Upstream::new(&shop(), &spec, None));
        let target = probe::Target { upstream: edge.upstream.clone(), host: "a.example".into() };
        tokio::task::spawn_local(probe::probe_all(vec![target]));
        until("down", || edge.summary(0).standing == Standing::Down).await;
        assert!(edge.summary(0).last_failure.unwrap().contains("503"));
        assert_eq!(edge.get().await.unwrap_err().refusal, Refusal::NoEndpoint);
        healthy.set(true);
        until("up again", || edge.summary(0).standing == Standing::Up).await;
    });
}
