//! HTTP/2 towards an endpoint, and TLS.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Waker};

use ::h2::server::SendResponse;
use ::h2::{Reason, RecvStream};
use http_body_util::StreamBody;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::screen::Framing;
use crate::timers::RESOLUTION;
use crate::upstream::lane::Pump;
use crate::upstream::patience::Patience;

/// What an endpoint takes before it gives more room (RFC 9113 6.9.2).
const WINDOW: usize = 65_535;

const POST: &str = "POST /rpc HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n";

type Request = http::Request<RecvStream>;
type Answer = SendResponse<Bytes>;

/// A scripted HTTP/2 origin: the script gets each request with its number, from 0.
struct Origin {
    spec: EndpointSpec,
    accepted: Rc<Cell<usize>>,
}

impl Origin {
    async fn start<F: AsyncFn(usize, Request, Answer) + 'static>(script: F) -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let spec = endpoint(format!("h2c://{address}"), Address::Ip(address), Protocol::Http2);
        let (accepted, counter) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let origin = Origin { spec, accepted: accepted.clone() };
        let script = Rc::new(script);
        tokio::task::spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                accepted.set(accepted.get() + 1);
                tokio::task::spawn_local(serve(stream, script.clone(), counter.clone()));
            }
        });
        origin
    }
}

async fn serve<F>(stream: TcpStream, script: Rc<F>, counter: Rc<Cell<usize>>)
where
    F: AsyncFn(usize, Request, Answer) + 'static,
{
    let mut connection = ::h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, answer))) = connection.accept().await {
        let (script, at) = (script.clone(), counter.replace(counter.get() + 1));
        tokio::task::spawn_local(async move { script(at, request, answer).await });
    }
}

fn ok() -> http::Response<()> {
    http::Response::new(())
}

#[test]
fn requests_share_a_connection() {
    run(async || {
        let origin = Origin::start(async |_, request: Request, mut answer: Answer| {
            assert_eq!(request.uri().to_string(), "http://a.example/");
            let mut stream = answer.send_response(ok(), false).unwrap();
            stream.send_data(Bytes::from_static(b"hello"), true).unwrap();
        })
        .await;
        let edge = Edge::new(vec![origin.spec.clone()]);
        let all = futures_util::future::join_all((0..20).map(|_| edge.fetch())).await;
        assert!(all.iter().all(|(status, body)| (*status, body.as_str()) == (200, "hello")));
        assert_eq!(origin.accepted.get(), 1);
        let summary = edge.summary(0);
        assert_eq!((summary.in_flight, summary.connections, summary.requests_total), (0, 1, 20));
    });
}

#[test]
fn a_call_streams_both_ways_and_ends_with_trailers() {
    run(async || {
        let origin = Origin::start(async |_, mut request: Request, mut answer: Answer| {
            assert_eq!(request.headers()["te"], "trailers");
            let mut stream = answer.send_response(ok(), false).unwrap();
            while let Some(data) = request.body_mut().data().await {
                let data = data.unwrap();
                request.body_mut().flow_control().release_capacity(data.len()).unwrap();
                stream.send_data(data, false).unwrap();
            }
            let trailers = request.body_mut().trailers().await.unwrap().unwrap();
            assert_eq!(trailers["x-client"], "1");
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            stream.send_trailers(trailers).unwrap();
        })
        .await;
        let edge = Edge::new(vec![origin.spec.clone()]);
        let (feeder, body) = TestBody::fed();
        let head = "POST /rpc HTTP/1.1\r\nHost: a.example\r\nTE: trailers\r\nConnection: TE\r\n\
                    Content-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut response = edge.send(head, body).await.unwrap();
        for _ in 0..3 {
            feeder.data("ping");
            let frame = response.body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), "ping");
        }
        feeder.trailer("x-client", "1");
        let last = response.body.frame().await.unwrap().unwrap();
        assert_eq!(last.into_trailers().unwrap()["grpc-status"], "0");
        assert!(response.body.frame().await.is_none());
        drop(response);
        assert_eq!(edge.summary(0).in_flight, 0);
    });
}

#[test]
fn a_refused_stream_is_sent_again_while_its_body_is_untouched() {
    run(async || {
        let origin = Origin::start(async |at, _: Request, mut answer: Answer| {
            if at % 2 == 0 {
                answer.send_reset(Reason::REFUSED_STREAM);
                return;
            }
            answer.send_response(ok(), true).unwrap();
        })
        .await;
        let edge = Edge::new(vec![origin.spec.clone()]);
        let head = "POST / HTTP/1.1\r\nHost: a.example\r\n\r\n";
        let response = edge.send(head, TestBody::none()).await.unwrap();
        assert_eq!(response.head.status(), 200);
        assert_eq!(edge.upstream.retries(), (1, 0));
        let failure = edge.send(POST, TestBody::of(&["touched"])).await.unwrap_err();
        assert_eq!(failure.refusal, Refusal::UpstreamClosed);
    });
}

#[test]
fn a_connection_that_ends_fails_its_streams_and_is_replaced() {
    run(async || {
        let origin = Origin::start(async |at, _: Request, mut answer: Answer| {
            if at == 0 {
                let mut stream = answer.send_response(ok(), false).unwrap();
                stream.send_data(Bytes::from_static(b"half"), false).unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
                stream.send_reset(Reason::INTERNAL_ERROR);
                return;
            }
            answer.send_response(ok(), true).unwrap();
        })
        .await;
        let edge = Edge::new(vec![origin.spec.clone()]);
        let response = edge.get().await.unwrap();
        assert_eq!(collect(response.body).await, Err(Refusal::UpstreamClosed));
        assert_eq!(edge.fetch().await.0, 200);
    });
}

#[test]
fn an_endpoint_that_does_not_answer_is_timed_out_and_its_stream_reset() {
    run(async || {
        let reset = Rc::new(Cell::new(false));
        let seen = reset.clone();
        let origin = Origin::start(async move |_, _: Request, mut answer: Answer| {
            let reason = std::future::poll_fn(|cx| answer.poll_reset(cx)).await;
            seen.set(reason.is_ok());
        })
        .await;
        let edge = Edge::new(vec![origin.spec.clone()]).hasty();
        assert_eq!(edge.get().await.unwrap_err().refusal, Refusal::UpstreamTimeout);
        until("reset", || reset.get()).await;
    });
}

#[test]
fn a_stalled_body_is_timed_out() {
    run(async || {
        let origin = Origin::start(async |_, _: Request, mut answer: Answer| {
            let _stream = answer.send_response(ok(), false).unwrap();
            std::future::pending::<()>().await;
        })
        .await;
        let edge = Edge::new(vec![origin.spec.clone()]).hasty();
        let response = edge.get().await.unwrap();
        assert_eq!(collect(response.body).await, Err(Refusal::UpstreamBodyTimeout));
    });
}

#[test]
fn an_early_answer_ends_the_upload() {
    run(async || {
        let origin = Origin::start(async |_, request: Request, mut answer: Answer| {
            let mut early = ok();
            *early.status_mut() = http::StatusCode::PAYLOAD_TOO_LARGE;
            let mut stream = answer.send_response(early, false).unwrap();
            stream.send_data(Bytes::from_static(b"big"), true).unwrap();
            drop(request);
        })
        .await;
        let edge = Edge::new(vec![origin.spec.clone()]);
        let (feeder, body) = TestBody::fed();
        feeder.data("part");
        let response = edge.send(POST, body).await.unwrap();
        assert_eq!(response.head.status(), 413);
        assert_eq!(text(response.body).await, "big");
        assert_eq!(edge.summary(0).in_flight, 0);
        drop(feeder);
    });
}

#[test]
fn a_client_that_fails_while_uploading_resets_the_stream_and_is_the_reason_given() {
    run(async || {
        let reset = Rc::new(Cell::new(false));
        let seen = reset.clone();
        let origin = Origin::start(async move |_, mut request: Request, _answer: Answer| {
            let mut last = request.body_mut().data().await;
            while let Some(Ok(_)) = last {
                last = request.body_mut().data().await;
            }
            // An error, not an end: the upload must not look complete.
            seen.set(matches!(last, Some(Err(_))));
        })
        .await;
        let edge = Edge::new(vec![origin.spec.clone()]);
        let (feeder, body) = TestBody::fed();
        feeder.data("part");
        feeder.fail(Refusal::BodyTimeout);
        let failure = edge.send(POST, body).await.unwrap_err();
        assert_eq!(failure.refusal, Refusal::BodyTimeout);
        until("reset", || reset.get()).await;
    });
}

/// The endpoint gives no room until its window is used up: no more than that, a piece that waits in
/// hyper and one in the lane may have left the client. Then the rest follows.
#[test]
fn a_large_upload_waits_for_a_slow_endpoint() {
    const PIECE: usize = 10_000;
    run(async || {
        let taken = Rc::new(Cell::new(0));
        let taken_before_room = Rc::new(Cell::new(0));
        let (count, seen) = (taken.clone(), taken_before_room.clone());
        let origin = Origin::start(async move |_, mut request: Request, mut answer: Answer| {
            let upload = request.body_mut();
            let (mut total, mut held) = (0, 0);
            while let Some(data) = upload.data().await {
                let length = data.unwrap().len();
                total += length;
                held += length;
                if total < WINDOW {
                    continue;
                }
                if total == WINDOW {
                    // Turns enough for the whole body, would it not wait.
                    for _ in 0..200 {
                        tokio::task::yield_now().await;
                    }
                    seen.set(count.get());
                }
                upload.flow_control().release_capacity(std::mem::take(&mut held)).unwrap();
            }
            let mut stream = answer.send_response(ok(), false).unwrap();
            stream.send_data(Bytes::from(total.to_string()), true).unwrap();
        })
        .await;
        let edge = Edge::new(vec![origin.spec.clone()]);
        let pieces = (0..50).map(move |_| {
            taken.set(taken.get() + PIECE);
            Ok(Frame::data(Bytes::from_static(&[b'x'; PIECE])))
        });
        let body = StreamBody::new(futures_util::stream::iter(pieces));
        let response = edge.send(POST, body).await.unwrap();
        assert_eq!(text(response.body).await, "500000");
        let taken = taken_before_room.get();
        assert!((WINDOW..WINDOW + 3 * PIECE).contains(&taken), "{taken}");
    });
}

#[tokio::test(start_paused = true)]
async fn an_upload_has_time_while_it_moves() {
    let limit = Duration::from_secs(60);
    let timeouts = Timeouts { connect: limit, response: limit, body: limit };
    let (timers, local) = (Timers::new(), LocalSet::new());
    local.spawn_local(timers.clone().sweep());
    let (deadline, mut patience) = (timers.deadline(), Patience::new(timeouts, Instant::now()));
    let (feeder, mut body) = TestBody::fed();
    (0..9).for_each(|_| feeder.data("piece"));
    let (mut pump, mut upload) = Pump::new(Framing::Chunked);
    let mut is_exhausted = || {
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(pump.poll(cx, &mut body, &mut patience).is_pending());
        patience.poll_exhausted(&deadline, pump.waits(), cx).is_ready()
    };
    local
        .run_until(async {
            for _ in 0..4 {
                assert!(!is_exhausted());
                tokio::time::sleep(limit * 3 / 4).await;
                assert!(!is_exhausted());
                let cx = &mut Context::from_waker(Waker::noop());
                assert!(Pin::new(&mut upload).poll_frame(cx).is_ready());
            }
            assert!(!is_exhausted());
            tokio::time::sleep(limit + RESOLUTION).await;
            assert!(is_exhausted());
        })
        .await;
}

#[test]
fn an_endpoint_that_speaks_no_http2_is_told_apart() {
    run(async || {
        let plain = origin::Origin::start(async |_, mut peer: origin::Peer| {
            peer.head().await;
            peer.write("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
            peer.closed().await;
        })
        .await;
        let spec = EndpointSpec { protocol: Protocol::Http2, ..plain.endpoint() };
        let edge = Edge::new(vec![spec]);
        assert_eq!(edge.get().await.unwrap_err().refusal, Refusal::UpstreamHeadMalformed);
    });
}
