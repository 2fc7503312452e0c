//! What screening costs, beside httparse alone, httparse into a `HeaderMap` (what hyper's parser
//! does) and hyper's whole HTTP/1 connection in memory. `cargo bench --bench screen`.

#![expect(clippy::unwrap_used, reason = "a bench that cannot run fails")]

use std::hint::black_box;
use std::pin::Pin;
use std::task::{Context, Poll};

use divan::Bencher;
use divan::counter::ItemsCount;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use sluss::screen::{
    ClientText, Forward, Policy, Reading, RequestHead, RequestMethod, ResponseHead, ResponseTo,
    Scan, Storage, Version, request, response,
};

/// A browser's request: about 600 bytes, 14 fields.
const REQUEST: &[u8] = b"GET /articles/2026/11/header-screening?utm_source=feed HTTP/1.1\r\n\
Host: www.example.com\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
Accept-Language: en-US,en;q=0.5\r\n\
Accept-Encoding: gzip, deflate, br, zstd\r\n\
Referer: https://www.example.com/\r\n\
Connection: keep-alive\r\n\
Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\
Upgrade-Insecure-Requests: 1\r\n\
Sec-Fetch-Dest: document\r\n\
Sec-Fetch-Mode: navigate\r\n\
Sec-Fetch-Site: same-origin\r\n\
Priority: u=0, i\r\n\
\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
Date: Mon, 23 Nov 2026 10:00:00 GMT\r\n\
Server: Apache/2.4.71 (Debian)\r\n\
Last-Modified: Sun, 22 Nov 2026 09:00:00 GMT\r\n\
ETag: \"5f3-6123456789abc\"\r\n\
Accept-Ranges: bytes\r\n\
Content-Length: 1024\r\n\
Cache-Control: max-age=3600, public\r\n\
Vary: Accept-Encoding\r\n\
X-Content-Type-Options: nosniff\r\n\
X-Frame-Options: SAMEORIGIN\r\n\
Strict-Transport-Security: max-age=31536000\r\n\
Content-Type: text/html; charset=utf-8\r\n\
\r\n";

fn main() {
    divan::main();
}

fn screened(policy: &Policy, storage: Storage) -> RequestHead {
    match request(black_box(REQUEST), &mut Scan::default(), policy, storage) {
        Ok(Reading::Complete { screened, .. }) => screened.head,
        other => panic!("{other:?}"),
    }
}

fn screened_response(policy: &Policy, storage: Storage) -> ResponseHead {
    let to = RequestMethod::Get;
    match response(black_box(RESPONSE), &mut Scan::default(), policy, to, storage) {
        Ok(Reading::Complete { screened, .. }) => screened.head,
        other => panic!("{other:?}"),
    }
}

#[divan::bench]
fn request_screened(bencher: Bencher<'_, '_>) {
    let policy = Policy::default();
    let mut storage = Some(Storage::default());
    bencher.bench_local(|| {
        let head = screened(&policy, storage.take().unwrap_or_default());
        storage = Some(black_box(head).into_storage());
    });
}

#[divan::bench]
fn request_screened_and_written(bencher: Bencher<'_, '_>) {
    let policy = Policy::default();
    let forward = Forward {
        client: &ClientText::new([192, 0, 2, 1].into(), 443, "https"),
        trusted: false,
        request_id: "0123456789abcdef",
        host_header: None,
        keep_upgrade: false,
    };
    let mut storage = Some(Storage::default());
    let mut out = Vec::with_capacity(4096);
    bencher.bench_local(|| {
        let head = screened(&policy, storage.take().unwrap_or_default());
        out.clear();
        head.write_h1(&mut out, &forward);
        black_box(&out);
        storage = Some(head.into_storage());
    });
}

#[divan::bench]
fn request_httparse(bencher: Bencher<'_, '_>) {
    bencher.bench_local(|| {
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut parsed = httparse::Request::new(&mut fields);
        parsed.parse(black_box(REQUEST)).unwrap();
        black_box(parsed.headers.len())
    });
}

#[divan::bench]
fn request_httparse_into_map(bencher: Bencher<'_, '_>) {
    bencher.bench_local(|| {
        let bytes = bytes::Bytes::copy_from_slice(black_box(REQUEST));
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut parsed = httparse::Request::new(&mut fields);
        parsed.parse(&bytes).unwrap();
        let mut map = HeaderMap::with_capacity(parsed.headers.len());
        for field in parsed.headers.iter() {
            let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).unwrap();
            map.append(HeaderName::from_bytes(field.name.as_bytes()).unwrap(), value);
        }
        let uri = http::Uri::from_maybe_shared(bytes.slice_ref(parsed.path.unwrap().as_bytes()));
        black_box((map, uri.unwrap()))
    });
}

/// Requests a connection brings in one measurement.
const PIPELINED: usize = 64;

#[divan::bench]
fn request_hyper_connection(bencher: Bencher<'_, '_>) {
    let bytes = REQUEST.repeat(PIPELINED);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    bencher.counter(ItemsCount::new(PIPELINED)).bench_local(|| {
        let served = std::cell::Cell::new(0);
        let service =
            hyper::service::service_fn(|request: hyper::Request<hyper::body::Incoming>| {
                black_box(request.headers().len());
                served.set(served.get() + 1);
                let empty = http_body_util::Empty::<bytes::Bytes>::new();
                std::future::ready(Ok::<_, std::convert::Infallible>(hyper::Response::new(empty)))
            });
        let memory = Memory { bytes: &bytes, at: 0 };
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.pipeline_flush(true);
        // That the connection ends without `Connection: close` is no failure here.
        let _ = black_box(runtime.block_on(builder.serve_connection(memory, service)));
        assert_eq!(served.get(), PIPELINED);
    });
}

/// A connection that holds its input and forgets its output.
struct Memory<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl hyper::rt::Read for Memory<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        // One request a read, as clients send them.
        let len = buffer.remaining().min(REQUEST.len()).min(self.bytes.len() - self.at);
        buffer.put_slice(&self.bytes[self.at..self.at + len]);
        self.at += len;
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Memory<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[divan::bench]
fn response_screened(bencher: Bencher<'_, '_>) {
    let policy = Policy::default();
    let mut storage = Some(Storage::default());
    bencher.bench_local(|| {
        let head = screened_response(&policy, storage.take().unwrap_or_default());
        storage = Some(black_box(head).into_storage());
    });
}

#[divan::bench]
fn response_screened_and_written(bencher: Bencher<'_, '_>) {
    let policy = Policy::default();
    let to = ResponseTo { version: Version::H11, close: false, chunked: true, request_id: None };
    let mut storage = Some(Storage::default());
    let mut out = Vec::with_capacity(4096);
    bencher.bench_local(|| {
        let head = screened_response(&policy, storage.take().unwrap_or_default());
        out.clear();
        head.write_h1(&mut out, &to);
        black_box(&out);
        storage = Some(head.into_storage());
    });
}

#[divan::bench]
fn response_httparse(bencher: Bencher<'_, '_>) {
    bencher.bench_local(|| {
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut parsed = httparse::Response::new(&mut fields);
        parsed.parse(black_box(RESPONSE)).unwrap();
        black_box(parsed.headers.len())
    });
}
