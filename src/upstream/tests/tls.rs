//! Endpoints over TLS: who is trusted, what is negotiated, what a cut stream means.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// A TLS origin for `localhost` that answers every request on a connection with `answer`, then
/// closes without close_notify.
async fn origin(alpn: &'static [u8], answer: &'static str) -> EndpointSpec {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = authority.self_signed(&authority_key).unwrap();
    let authorities = Authorities::parse("ca.pem".into(), root.pem().as_bytes()).unwrap();
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::from_params(&authority, &authority_key);
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            tokio::task::spawn_local(async move {
                while matches!(stream.read(&mut [0; 4096]).await, Ok(1..)) {
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    if answer.ends_with("cut") {
                        return;
                    }
                }
            });
        }
    });
    let tls_name = Some("localhost".to_owned());
    let url = format!("https://localhost:{}", address.port());
    let plain = endpoint(url, Address::Ip(address), Protocol::Http1Tls);
    EndpointSpec { tls_name, ca: Some(Arc::new(authorities)), ..plain }
}

#[test]
fn an_endpoint_of_a_named_authority_is_trusted_and_its_connection_reused() {
    run(async || {
        let edge = Edge::new(vec![origin(b"http/1.1", OK).await]);
        for _ in 0..3 {
            assert_eq!(edge.fetch().await, (200, "hello".into()));
            // The session tickets that follow the handshake are no leftover.
            assert_eq!(edge.client.idle(), 1);
        }
        assert_eq!(edge.summary(0).connections_total, 1);
    });
}

#[track_caller]
fn untrusted(change: fn(EndpointSpec) -> EndpointSpec, cause: &'static str) {
    run(async move || {
        let spec = change(origin(b"http/1.1", OK).await);
        let mut edge = Edge::new(vec![spec]);
        edge.hold = PATIENCE;
        let failure = edge.get().await.unwrap_err();
        assert_eq!(failure.refusal, Refusal::UpstreamConnect, "waiting would not help");
        assert!(failure.endpoint.is_some());
        let told = edge.summary(0).last_failure.unwrap();
        assert!(told.contains(cause), "{told}");
    });
}

#[test]
fn who_cannot_be_verified_is_refused_at_once() {
    untrusted(|spec| EndpointSpec { ca: None, ..spec }, "UnknownIssuer");
    let other_name = |spec| EndpointSpec { tls_name: Some("other.example".into()), ..spec };
    untrusted(other_name, "not valid for name");
}

#[test]
fn an_authority_that_changed_counts_from_the_reload_on_and_the_endpoint_stays() {
    run(async || {
        let (endpoint, other) = (origin(b"http/1.1", OK).await, origin(b"http/1.1", OK).await);
        let strange = EndpointSpec { ca: other.ca, ..endpoint.clone() };
        let mut edge = Edge::new(vec![strange]);
        assert_eq!(edge.get().await.unwrap_err().refusal, Refusal::UpstreamConnect);
        let next = Upstream::new(&shop(), &spec(vec![endpoint]), Some(&edge.upstream));
        edge.upstream = Arc::new(next);
        assert_eq!(edge.fetch().await.0, 200);
        assert_eq!(edge.summary(0).connect_failures_total, 1, "it is the same endpoint");
    });
}

#[test]
fn a_body_that_ends_with_a_cut_stream_is_not_whole() {
    run(async || {
        let answer = "HTTP/1.1 200 OK\r\n\r\nthe rest was cut";
        let edge = Edge::new(vec![origin(b"http/1.1", answer).await]);
        let response = edge.get().await.unwrap();
        assert_eq!(collect(response.body).await, Err(Refusal::UpstreamClosed));
    });
}

#[test]
fn an_endpoint_that_does_not_negotiate_http2_is_refused() {
    run(async || {
        let spec = origin(b"http/1.1", OK).await;
        let edge = Edge::new(vec![EndpointSpec { protocol: Protocol::Http2Tls, ..spec }]);
        assert_eq!(edge.get().await.unwrap_err().refusal, Refusal::UpstreamConnect);
    });
}
