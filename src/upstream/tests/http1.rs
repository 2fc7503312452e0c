//! HTTP/1.1: exchanges, bodies, reuse and what ends them.

use std::cell::Cell;

use super::origin::{Origin, Peer};
use super::*;
use crate::screen::{Action, Rule};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

async fn edge(origin: &Origin) -> Edge {
    Edge::new(vec![origin.endpoint()])
}

#[test]
fn a_connection_serves_many_requests() {
    run(async || {
        let origin = Origin::answering(OK).await;
        let edge = edge(&origin).await;
        for _ in 0..5 {
            assert_eq!(edge.fetch().await, (200, "hello".into()));
        }
        assert_eq!(origin.accepted(), 1);
        assert_eq!(edge.client.idle(), 1);
        let summary = edge.summary(0);
        assert_eq!((summary.in_flight, summary.connections, summary.requests_total), (0, 1, 5));
    });
}

#[test]
fn concurrent_requests_use_connections_of_their_own() {
    run(async || {
        let origin = Origin::answering(OK).await;
        let edge = edge(&origin).await;
        let all = futures_util::future::join_all((0..10).map(|_| edge.fetch())).await;
        assert!(all.iter().all(|(_, body)| body == "hello"));
        assert_eq!(edge.client.idle(), origin.accepted());
    });
}

#[test]
fn the_head_goes_out_canonical_and_with_the_body_in_one_write() {
    run(async || {
        let origin = Origin::start(async |_, mut peer: Peer| {
            let head = peer.head().await.unwrap();
            assert!(head.starts_with("POST /p?q HTTP/1.1\r\n"), "{head}");
            // Both came with one read: nothing is waited for.
            let body = peer.up_to("12345").await.unwrap();
            peer.write(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())).await;
            peer.write(&body).await;
        })
        .await;
        let edge = edge(&origin).await;
        let head = "POST /p?q HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\n";
        let response = edge.send(head, TestBody::of(&["12345"])).await.unwrap();
        assert_eq!(text(response.body).await, "12345");
    });
}

#[test]
fn chunked_bodies_and_trailers_pass_both_ways() {
    run(async || {
        let origin = Origin::start(async |_, mut peer: Peer| {
            peer.head().await.unwrap();
            let body = peer.up_to("\r\n\r\n").await.unwrap();
            assert_eq!(body, "3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 7\r\n\r\n");
            peer.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n")
                .await;
            peer.write("4;a=b\r\nwxyz\r\n").await;
            peer.write("1\r\n!\r\n0\r\nX-Sum: 9\r\nContent-Length: 3\r\n\r\n").await;
            // The same connection serves the next request: nothing was left over.
            peer.head().await.unwrap();
            peer.write(OK).await;
        })
        .await;
        let edge = edge(&origin).await;
        let (feeder, body) = TestBody::fed();
        feeder.data("abc");
        feeder.data("");
        feeder.data("de");
        feeder.trailer("x-sum", "7");
        let head = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n";
        let response = edge.send(head, body).await.unwrap();
        let (body, trailers) = collect(response.body).await.unwrap();
        assert_eq!(body, "wxyz!");
        let trailers = trailers.unwrap();
        assert_eq!(trailers["x-sum"], "9");
        assert!(!trailers.contains_key("content-length"));
        assert_eq!(edge.fetch().await.1, "hello");
        assert_eq!(origin.accepted(), 1);
    });
}

#[test]
fn a_body_that_ends_with_the_connection_is_whole_and_the_connection_is_not_kept() {
    run(async || {
        let origin = Origin::start(async |_, mut peer: Peer| {
            peer.head().await.unwrap();
            peer.write("HTTP/1.1 200 OK\r\n\r\nto the ").await;
            tokio::task::yield_now().await;
            peer.write("end").await;
        })
        .await;
        let edge = edge(&origin).await;
        assert_eq!(edge.fetch().await, (200, "to the end".into()));
        assert_eq!(edge.client.idle(), 0);
    });
}

#[track_caller]
fn truncated(answer: &'static str, expected: Refusal) {
    run(async move || {
        let origin = Origin::start(async move |_, mut peer: Peer| {
            peer.head().await.unwrap();
            peer.write(answer).await;
        })
        .await;
        let edge = edge(&origin).await;
        let response = edge.get().await.unwrap();
        assert_eq!(collect(response.body).await, Err(expected), "{answer}");
        assert_eq!(edge.client.idle(), 0);
        assert_eq!(edge.summary(0).in_flight, 0);
    });
}

#[test]
fn a_truncated_body_is_never_a_complete_message() {
    truncated("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", Refusal::UpstreamClosed);
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for rest in ["", "5\r\nhel", "5\r\nhello", "5\r\nhello\r\n", "5\r\nhello\r\n0\r\n"] {
        let answer: &str = Box::leak(format!("{chunked}{rest}").into());
        truncated(answer, Refusal::UpstreamClosed);
    }
    let answer: &str = Box::leak(format!("{chunked}5\nhello\r\n0\r\n\r\n").into());
    truncated(answer, Refusal::UpstreamBodyMalformed);
}

#[test]
fn bytes_after_the_message_are_told_and_end_the_connection() {
    run(async || {
        let origin =
            Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1").await;
        let edge = edge(&origin).await;
        let mut response = edge.get().await.unwrap();
        let findings = response.body.take_findings();
        assert_eq!(
            findings.iter().map(|found| found.rule).collect::<Vec<_>>(),
            [Rule::BodyForbidden]
        );
        assert_eq!(text(response.body).await, "ok");
        assert_eq!(edge.client.idle(), 0);
    });
}

#[test]
fn head_and_not_modified_have_no_body_whatever_their_length_says() {
    run(async || {
        let origin = Origin::start(async |_, mut peer: Peer| {
            peer.head().await.unwrap();
            peer.write("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n").await;
            peer.head().await.unwrap();
            peer.write("HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n").await;
            peer.head().await.unwrap();
            peer.write("HTTP/1.1 204 No Content\r\n\r\n").await;
        })
        .await;
        let edge = edge(&origin).await;
        let head = "HEAD / HTTP/1.1\r\nHost: a.example\r\n\r\n";
        let response = edge.send(head, TestBody::none()).await.unwrap();
        assert!(response.body.is_end_stream());
        assert_eq!(edge.fetch().await, (304, String::new()));
        assert_eq!(edge.fetch().await, (204, String::new()));
        assert_eq!(origin.accepted(), 1);
    });
}

#[test]
fn an_early_answer_ends_the_upload_and_the_connection() {
    run(async || {
        let origin = Origin::start(async |_, mut peer: Peer| {
            peer.head().await.unwrap();
            peer.write("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig").await;
            peer.closed().await;
        })
        .await;
        let edge = edge(&origin).await;
        let (feeder, body) = TestBody::fed();
        feeder.data("part");
        let head = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 999\r\n\r\n";
        let response = edge.send(head, body).await.unwrap();
        assert_eq!(response.head.status(), 413);
        assert_eq!(text(response.body).await, "big");
        assert_eq!(edge.client.idle(), 0);
        drop(feeder);
    });
}

#[test]
fn both_bodies_flow_at_the_same_time() {
    run(async || {
        let origin = Origin::start(async |_, mut peer: Peer| {
            peer.head().await.unwrap();
            peer.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            for _ in 0..3 {
                assert_eq!(peer.up_to("ping\r\n").await.unwrap(), "4\r\nping\r\n");
                peer.write("4\r\npong\r\n").await;
            }
            assert_eq!(peer.up_to("\r\n\r\n").await.unwrap(), "0\r\n\r\n");
            peer.write("0\r\n\r\n").await;
        })
        .await;
        let edge = edge(&origin).await;
        let (feeder, body) = TestBody::fed();
        let head = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut response = edge.send(head, body).await.unwrap();
        for _ in 0..3 {
            feeder.data("ping");
            let frame = response.body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), "pong");
        }
        drop(feeder);
        assert!(response.body.frame().await.is_none());
        assert_eq!(edge.client.idle(), 1, "both messages ended cleanly");
    });
}

#[test]
fn an_answer_sent_before_the_connection_broke_under_the_upload_is_relayed() {
    run(async || {
        let origin = Origin::start(async |_, mut peer: Peer| {
            peer.head().await.unwrap();
            peer.write("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
        })
        .await;
        let edge = edge(&origin).await;
        let (feeder, body) = TestBody::fed();
        let head = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n";
        let fed = async {
            for _ in 0..100 {
                let _ = feeder.0.send(Ok(Frame::data(Bytes::from_static(&[b'x'; 1024]))));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let (response, ()) = tokio::join!(edge.send(head, body), fed);
        assert_eq!(response.unwrap().head.status(), 403);
    });
}

#[test]
fn interim_answers_are_relayed_and_continue_starts_the_upload() {
    run(async || {
        let origin = Origin::start(async |_, mut peer: Peer| {
            peer.head().await.unwrap();
            peer.write("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n").await;
            let early = timeout(Duration::from_millis(50), peer.up_to("body")).await;
            assert!(early.is_err(), "the body must wait");
            peer.write("HTTP/1.1 100 Continue\r\n\r\n").await;
            peer.up_to("body").await.unwrap();
            peer.write(OK).await;
        })
        .await;
        let edge = edge(&origin).await;
        let head = "PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\
                    Expect: 100-continue\r\n\r\n";
        let response = edge.send(head, TestBody::of(&["body"])).await.unwrap();
        assert_eq!(response.head.status(), 200);
        assert_eq!(*edge.interims.borrow(), [103, 100]);
        assert_eq!(edge.client.idle(), 1);
    });
}

#[test]
fn a_refused_expectation_leaves_the_body_with_the_client() {
    run(async || {
        let origin = Origin::start(async |_, mut peer: Peer| {
            peer.head().await.unwrap();
            peer.write("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n").await;
            peer.closed().await;
        })
        .await;
        let edge = edge(&origin).await;
        let (feeder, body) = TestBody::fed();
        let head = "PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\
                    Expect: 100-continue\r\n\r\n";
        let response = edge.send(head, body).await.unwrap();
        assert_eq!(response.head.status(), 417);
        assert_eq!(edge.client.idle(), 0, "the origin may still read the body that never comes");
        drop(feeder);
    });
}

#[test]
fn an_origin_that_never_says_continue_gets_the_body_after_a_while() {
    run(async || {
        let origin = Origin::start(async |_, mut peer: Peer| {
            peer.head().await.unwrap();
            peer.up_to("body").await.unwrap();
            peer.write(OK).await;
        })
        .await;
        let edge = edge(&origin).await;
        let head = "PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\
                    Expect: 100-continue\r\n\r\n";
        let start = Instant::now();
        edge.send(head, TestBody::of(&["body"])).await.unwrap();
        assert!(start.elapsed() >= CONTINUE_PATIENCE);
    });
}

#[test]
fn endless_interim_answers_are_cut() {
    run(async || {
        let origin = Origin::start(async |_, mut peer: Peer| {
            peer.head().await.unwrap();
            for _ in 0..=INTERIM_MAX {
                peer.write("HTTP/1.1 103 Early Hints\r\n\r\n").await;
            }
            peer.closed().await;
        })
        .await;
        let edge = edge(&origin).await;
        let failure = edge.get().await.unwrap_err();
        assert_eq!(failure.refusal, Refusal::UpstreamHeadMalformed);
        let told = failure.findings.last().map(|found| (found.rule, found.action));
        assert_eq!(told, Some((Rule::Oversize, Action::Refuse)));
    });
}

#[test]
fn an_upgrade_hands_out_the_connection_with_what_was_read_ahead() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    run(async || {
        let origin = Origin::start(async |_, mut peer: Peer| {
            let head = peer.head().await.unwrap();
            assert!(head.to_lowercase().contains("upgrade: websocket"), "{head}");
            peer.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n").await;
            peer.write("Connection: Upgrade\r\n\r\nfirst").await;
            assert_eq!(peer.up_to("frame").await.unwrap(), "frame");
            peer.write("second").await;
        })
        .await;
        let edge = edge(&origin).await;
        let head = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\n\
                    Upgrade: websocket\r\n\r\n";
        let response = edge.send(head, TestBody::none()).await.unwrap();
        let mut io = response.upgraded.unwrap();
        let mut first = [0; 5];
        io.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"first");
        io.write_all(b"frame").await.unwrap();
        assert_eq!(edge.summary(0).in_flight, 1);
        let mut rest = String::new();
        io.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "second");
        drop(io);
        assert_eq!(edge.summary(0).in_flight, 0);
    });
}

/// RFC 9110 7.8: a server switches to what was asked for, and says to what.
#[test]
fn an_upgrade_to_what_nobody_asked_for_is_refused_and_told() {
    let upgrade =
        "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let plain = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
    for (head, fields) in [
        (plain, "Upgrade: websocket\r\nConnection: Upgrade\r\n"),
        (upgrade, "Upgrade: h2c\r\nConnection: Upgrade\r\n"),
        (upgrade, "Upgrade: websocket, h2c\r\nConnection: Upgrade\r\n"),
        (upgrade, "Upgrade: websocket\r\n"),
        (upgrade, ""),
    ] {
        run(async move || {
            let answer = format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n");
            let edge = edge(&Origin::answering(Box::leak(answer.into())).await).await;
            let failure = edge.send(head, TestBody::none()).await.unwrap_err();
            assert_eq!(failure.refusal, Refusal::UpstreamHeadMalformed);
            let told: Vec<_> =
                failure.findings.iter().map(|found| (found.rule, found.action)).collect();
            assert_eq!(told, [(Rule::UpgradeInvalid, Action::Refuse)], "{fields}");
        });
    }
}

/// What an interim head says of the connection holds once the final one has come.
#[test]
fn an_interim_head_may_end_the_connection() {
    for fields in ["Connection: close\r\n", "Content-Length: 5\r\n"] {
        run(async move || {
            let answer = format!(
                "HTTP/1.1 103 Early Hints\r\n{fields}\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            );
            let edge = edge(&Origin::answering(Box::leak(answer.into())).await).await;
            assert_eq!(edge.fetch().await, (200, "ok".into()));
            assert_eq!(edge.client.idle(), 0, "{fields}");
        });
    }
}

#[test]
fn content_that_was_announced_where_none_may_be_is_one_finding() {
    run(async || {
        let answer = "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello";
        let edge = edge(&Origin::answering(answer).await).await;
        let mut response = edge.get().await.unwrap();
        assert_eq!((response.findings.len(), response.body.take_findings().len()), (1, 0));
    });
}

#[test]
fn an_endpoint_that_does_not_answer_is_timed_out() {
    run(async || {
        let closed = Rc::new(Cell::new(false));
        let seen = closed.clone();
        let origin = Origin::start(async move |_, mut peer: Peer| {
            peer.closed().await;
            seen.set(true);
        })
        .await;
        let edge = edge(&origin).await.hasty();
        let failure = edge.get().await.unwrap_err();
        assert_eq!(failure.refusal, Refusal::UpstreamTimeout);
        assert_eq!(edge.summary(0).failures_total, 1);
        until("the connection is closed", || closed.get()).await;
    });
}

#[test]
fn a_stalled_body_is_timed_out() {
    run(async || {
        let origin = Origin::start(async |_, mut peer: Peer| {
            peer.head().await.unwrap();
            peer.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
            peer.closed().await;
        })
        .await;
        let edge = edge(&origin).await.hasty();
        let response = edge.get().await.unwrap();
        assert_eq!(collect(response.body).await, Err(Refusal::UpstreamBodyTimeout));
    });
}

#[test]
fn a_slow_but_steady_body_is_not_timed_out() {
    run(async || {
        let origin = Origin::start(async |_, mut peer: Peer| {
            peer.head().await.unwrap();
            peer.write("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n").await;
            for _ in 0..6 {
                tokio::time::sleep(SHORT / 2).await;
                peer.write("x").await;
            }
        })
        .await;
        let edge = edge(&origin).await.hasty();
        assert_eq!(edge.fetch().await, (200, "xxxxxx".into()));
    });
}

#[test]
fn a_client_that_uploads_slowly_does_not_time_the_endpoint_out() {
    run(async || {
        let origin = Origin::start(async |_, mut peer: Peer| {
            peer.head().await.unwrap();
            peer.up_to("end").await.unwrap();
            peer.write(OK).await;
        })
        .await;
        let edge = edge(&origin).await.hasty();
        let (feeder, body) = TestBody::fed();
        let fed = async {
            feeder.data("one");
            tokio::time::sleep(SHORT * 2).await;
            feeder.data("end");
        };
        let head = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 6\r\n\r\n";
        let (response, ()) = tokio::join!(edge.send(head, body), fed);
        assert_eq!(response.unwrap().head.status(), 200);
    });
}

#[test]
fn a_malformed_head_is_told_with_its_findings() {
    run(async || {
        let origin = Origin::answering(
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\nx",
        )
        .await;
        let edge = edge(&origin).await;
        let failure = edge.get().await.unwrap_err();
        assert_eq!(failure.refusal, Refusal::UpstreamHeadMalformed);
        assert!(failure.findings.iter().any(|found| found.rule == Rule::FramingConflict));
        assert!(failure.start_line.starts_with("HTTP/1.1 200"), "{}", failure.start_line);
        let cause = edge.summary(0).last_failure.unwrap();
        assert!(cause.ends_with(": framing-conflict"), "what refuses, not what is mended: {cause}");
    });
}

#[test]
fn an_unfinished_body_or_request_closes_its_connection_when_dropped() {
    run(async || {
        let closed = Rc::new(Cell::new(0));
        let seen = closed.clone();
        let origin = Origin::start(async move |at, mut peer: Peer| {
            peer.head().await.unwrap();
            if at == 0 {
                peer.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
            }
            peer.closed().await;
            seen.set(seen.get() + 1);
        })
        .await;
        let edge = edge(&origin).await;
        drop(edge.get().await.unwrap().body);
        until("the body's connection is closed", || closed.get() == 1).await;
        assert!(timeout(SHORT / 4, edge.get()).await.is_err());
        until("the request's connection is closed", || closed.get() == 2).await;
        let summary = edge.summary(0);
        assert_eq!((summary.in_flight, summary.connections), (0, 0));
        assert_eq!(edge.client.idle(), 0);
    });
}

#[test]
fn a_client_that_fails_while_uploading_is_the_reason_given() {
    run(async || {
        let origin = Origin::start(async |_, mut peer: Peer| peer.closed().await).await;
        let edge = edge(&origin).await;
        let (feeder, body) = TestBody::fed();
        feeder.data("part");
        feeder.fail(Refusal::ClientGone);
        let head = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 999\r\n\r\n";
        let failure = edge.send(head, body).await.unwrap_err();
        assert_eq!(failure.refusal, Refusal::ClientGone);
        assert_eq!(edge.summary(0).failures_total, 0, "the endpoint is not to blame");
        assert_eq!(edge.client.idle(), 0);
    });
}

#[test]
fn large_bodies_pass_unharmed_in_bounded_pieces() {
    run(async || {
        const SIZE: usize = 3_000_000;
        let origin = Origin::start(async |_, mut peer: Peer| {
            peer.head().await.unwrap();
            peer.write(&format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n")).await;
            let line: String = (0..1_000).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
            peer.write(&line.repeat(SIZE / 1_000)).await;
        })
        .await;
        let edge = edge(&origin).await;
        let mut body = edge.get().await.unwrap().body;
        assert_eq!(body.size_hint().exact(), Some(SIZE as u64));
        let (mut read, mut largest) = (0, 0);
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            for byte in &data {
                assert_eq!(*byte, b'a' + (read % 1_000 % 23) as u8, "at {read}");
                read += 1;
            }
            largest = largest.max(data.len());
        }
        assert_eq!(read, SIZE);
        assert!(largest <= 64 * 1024, "{largest}");
        assert_eq!(edge.client.idle(), 1);
    });
}
