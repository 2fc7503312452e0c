//! HTTP/2 towards clients and towards sites.

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;

use crate::support::frames::{self, END_HEADERS, END_STREAM, HEADERS, frame};
use crate::support::http2::{Outgoing, empty, full, h2c_echo, http2, url};
use crate::support::origin::ok;
use crate::support::{Edge, Origin, eventually, pattern};

/// A body of these pieces, with trailers behind.
fn pieces(pieces: Vec<Bytes>, trailers: Option<(&'static str, &'static str)>) -> Outgoing {
    let mut frames: Vec<_> = pieces.into_iter().map(|piece| Ok(Frame::data(piece))).collect();
    if let Some((name, value)) = trailers {
        let map = [(name.try_into().unwrap(), value.try_into().unwrap())].into_iter().collect();
        frames.push(Ok(Frame::trailers(map)));
    }
    StreamBody::new(stream::iter(frames)).boxed()
}

#[test]
fn many_requests_share_one_connection() {
    let origin = Origin::answering(|request| ok(request.target()));
    let edge = Edge::before(origin.url());
    http2(&edge, "a.test", async |sender| {
        let asked = (0..50).map(|n| {
            let mut sender = sender.clone();
            async move {
                let path = format!("/{n}");
                let request = http::Request::get(url("a.test", &path)).body(empty()).unwrap();
                let response = sender.send_request(request).await.unwrap();
                assert_eq!(response.status(), 200);
                assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), path);
            }
        });
        let mut work = tokio::task::JoinSet::new();
        for one in asked {
            work.spawn(one);
        }
        work.join_all().await;
    });
    let line = edge.logged("a line", |line| line["url.path"] == "/7");
    assert_eq!(line["network.protocol.version"], "2");
}

#[test]
fn bodies_come_through_between_http_2_and_http_1() {
    let origin = Origin::answering(|request| ok(&request.body));
    let edge = Edge::before(origin.url());
    let body = pattern(2 * 1024 * 1024 + 3);
    let (whole, streamed) = http2(&edge, "a.test", async |mut sender| {
        let mut bodies = Vec::new();
        let cut = body.chunks(40_000).map(Bytes::copy_from_slice).collect();
        for outgoing in [full(body.clone()), pieces(cut, None)] {
            let request = http::Request::post(url("a.test", "/")).body(outgoing).unwrap();
            let response = sender.send_request(request).await.unwrap();
            bodies.push(response.into_body().collect().await.unwrap().to_bytes());
        }
        (bodies.remove(0), bodies.remove(0))
    });
    assert!(whole == body, "with a length");
    assert!(streamed == body, "without one, chunked for the site");
}

#[test]
fn trailers_of_an_http_1_site_reach_an_http_2_client() {
    let origin = Origin::saying(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: status\r\n\r\n2\r\nhi\r\n0\r\n\
         Status: fine\r\n\r\n",
    );
    let edge = Edge::before(origin.url());
    let trailers = http2(&edge, "a.test", async |mut sender| {
        let request =
            http::Request::get(url("a.test", "/")).header("te", "trailers").body(empty()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        response.into_body().collect().await.unwrap().trailers().cloned()
    });
    assert_eq!(trailers.expect("trailers")["status"], "fine");
}

/// As gRPC does: HTTP/2 on both sides, data and trailers both ways.
#[test]
fn trailers_pass_both_ways_to_an_h2c_site() {
    let edge = Edge::before(h2c_echo());
    let (body, trailers) = http2(&edge, "a.test", async |mut sender| {
        let body = pieces(vec!["one".into(), "two".into()], Some(("grpc-status", "0")));
        let request = http::Request::post(url("a.test", "/service/method"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body)
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/grpc");
        let all = response.into_body().collect().await.unwrap();
        let trailers = all.trailers().cloned();
        (all.to_bytes(), trailers)
    });
    assert_eq!(body, "onetwo");
    assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
}

/// A bidirectional stream: each message is answered before the next is sent.
#[test]
fn an_h2c_site_answers_while_the_request_goes_on() {
    let edge = Edge::before(h2c_echo());
    http2(&edge, "a.test", async |mut sender| {
        let (say, said) = tokio::sync::mpsc::channel::<Bytes>(1);
        let frames = stream::unfold(said, async |mut said| {
            let piece = said.recv().await?;
            Some((Ok(Frame::data(piece)), said))
        });
        let body = StreamBody::new(Box::pin(frames)).boxed();
        let request = http::Request::post(url("a.test", "/")).body(body).unwrap();
        let mut answer = sender.send_request(request).await.unwrap().into_body();
        for word in ["ping", "pong", "done"] {
            say.send(word.into()).await.unwrap();
            let frame = answer.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), word);
        }
        drop(say);
        assert!(answer.frame().await.is_none_or(|frame| frame.unwrap().is_data()));
    });
}

#[test]
fn a_stream_that_is_reset_cancels_the_work_upstream() {
    let origin = Origin::scripted(|mut connection| {
        connection.request().unwrap();
        connection.rest();
    });
    let edge = Edge::before(origin.url());
    http2(&edge, "a.test", async |mut sender| {
        let request = http::Request::get(url("a.test", "/long")).body(empty()).unwrap();
        let asked = tokio::spawn(sender.send_request(request));
        while origin.accepted() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        asked.abort();
        let _ = asked.await;
        while origin.ended() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    let line = edge.logged("a line", |line| line["url.path"] == "/long");
    assert_eq!(line["error.type"], "client-gone");
}

/// RFC 9110 9.3.2.
#[test]
fn a_refusal_of_head_has_no_content() {
    let edge = Edge::before("http://127.0.0.1:1");
    let mut client = frames::open(&edge, "a.test");
    let fields = [(":method", "HEAD"), (":scheme", "https"), (":authority", "c.test")];
    let fields = [&fields[..], &[(":path", "/")]].concat();
    let whole = END_HEADERS | END_STREAM;
    client.send(frame(HEADERS, whole, 1, frames::block(&fields)));
    assert_eq!(client.stream_data(1), b"");
    let line = edge.logged("its line", |line| line["error.type"] == "unknown-host");
    assert_eq!(line["http.response.body.size"], 0);
}

#[test]
fn refusals_carry_their_reason_over_http_2() {
    let origin = Origin::scripted(|mut connection| drop(connection.request()));
    let edge = Edge::before(origin.url());
    http2(&edge, "a.test", async |mut sender| {
        for (host, status, reason) in
            [("a.test", 502, "upstream-closed"), ("c.test", 404, "unknown-host")]
        {
            let request = http::Request::get(url(host, "/")).body(empty()).unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), status);
            assert_eq!(response.headers()["sluss-refused"], reason);
            let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
            let page = response.into_body().collect().await.unwrap().to_bytes();
            assert!(String::from_utf8_lossy(&page).contains(&id));
        }
    });
}

#[test]
fn a_slow_http_2_reader_holds_the_site_back_and_costs_no_memory() {
    const LONG_BYTES: usize = 64 * 1024 * 1024;
    let (finished, told) = std::sync::mpsc::channel();
    let origin = Origin::scripted(move |mut connection| {
        connection.request().unwrap();
        connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LONG_BYTES}\r\n\r\n"));
        let piece = pattern(1024 * 1024);
        for _ in 0..LONG_BYTES / piece.len() {
            connection.send(&piece);
        }
        finished.send(()).unwrap();
    });
    let edge = Edge::before(origin.url());
    let before = edge.resident_kib();
    http2(&edge, "a.test", async |mut sender| {
        let request = http::Request::get(url("a.test", "/")).body(empty()).unwrap();
        let mut body = sender.send_request(request).await.unwrap().into_body();
        let mut taken = 0;
        while taken < 4 * 1024 * 1024 {
            taken += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
        }
        assert!(told.try_recv().is_err(), "the site is held back");
        let during = edge.resident_kib();
        assert!(during - before.min(during) < 12 * 1024, "from {before} to {during} KiB");
        while let Some(frame) = body.frame().await {
            taken += frame.unwrap().into_data().unwrap().len();
        }
        assert_eq!(taken, LONG_BYTES);
    });
    eventually("the site is done", || origin.ended() == 1);
}
