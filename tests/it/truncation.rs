//! A message that was cut short never looks whole.

use crate::support::http2::{empty, http2, url};
use crate::support::{Edge, End, Origin, eventually, get};
use http_body_util::BodyExt as _;

fn cut(answer: &'static str) -> (Origin, Edge) {
    let origin = Origin::scripted(move |mut connection| {
        connection.request().unwrap();
        connection.send(answer);
    });
    let edge = Edge::before(origin.url());
    (origin, edge)
}

#[track_caller]
fn is_seen_as_aborted(answer: &'static str) {
    let (_origin, edge) = cut(answer);
    let mut client = edge.connect("a.test");
    let response = client.ask(get("a.test", "/"));
    assert_eq!((response.status(), response.end), (200, End::Cut), "over HTTP/1");
    let cut = http2(&edge, "a.test", async |mut sender| {
        let request = http::Request::get(url("a.test", "/")).body(empty()).unwrap();
        match sender.send_request(request).await {
            Ok(response) => response.into_body().collect().await.is_err(),
            Err(_) => true,
        }
    });
    assert!(cut, "over HTTP/2");
}

#[test]
fn a_chunked_response_without_its_end_is_seen_as_aborted() {
    is_seen_as_aborted("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
}

#[test]
fn a_chunk_cut_in_the_middle_is_seen_as_aborted() {
    is_seen_as_aborted("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\nhello");
}

#[test]
fn a_malformed_chunk_is_seen_as_aborted() {
    is_seen_as_aborted(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n0\r\n\r\n",
    );
}

#[test]
fn a_counted_response_that_ends_early_is_seen_as_aborted() {
    is_seen_as_aborted("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello");
}

#[test]
fn a_request_body_cut_short_never_looks_whole_to_the_site() {
    for head in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let (told, seen) = std::sync::mpsc::channel();
        let origin = Origin::scripted(move |mut connection| {
            told.send(connection.request().unwrap().end).unwrap();
        });
        let edge = Edge::before(origin.url());
        let mut client = edge.connect("a.test");
        client.send(format!("POST / HTTP/1.1\r\nHost: a.test\r\n{head}\r\n\r\n5\r\nhello\r\n"));
        eventually("the request at the site", || origin.accepted() == 1);
        drop(client);
        assert_ne!(seen.recv().unwrap(), End::Whole, "{head}");
    }
}

#[test]
fn a_download_cut_by_the_site_is_logged_with_its_reason() {
    let (_origin, edge) = cut("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello");
    assert_eq!(edge.get("a.test", "/").end, End::Cut);
    let line = edge.logged("its line", |line| line["url.path"] == "/");
    assert_eq!(line["error.type"], "upstream-closed");
    assert_eq!(line["http.response.body.size"], 5);
}

#[test]
fn malformed_chunks_of_the_site_are_logged_and_counted() {
    let malformed = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n";
    let (_origin, edge) = cut(malformed);
    assert_eq!(edge.get("a.test", "/").end, End::Cut);
    let line = edge.logged("its line", |line| line["url.path"] == "/");
    assert_eq!(line["error.type"], "upstream-body-malformed");
    eventually("it is counted", || edge.refused("upstream-body-malformed") == 1.0);
}
