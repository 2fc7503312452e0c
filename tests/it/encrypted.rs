//! Who must prove who they are besides the edge: sites over TLS, and visitors with certificates.

use std::sync::mpsc;

use http_body_util::BodyExt as _;

use crate::support::authority::{Authority, authority};
use crate::support::client::{ServerNameSent, handshake_by};
use crate::support::http2::{full, h2_echo, http2, url};
use crate::support::origin::{echo, ok};
use crate::support::wire::Message;
use crate::support::{Edge, Origin, Setup, eventually, get, pattern};

/// An edge before a site over TLS, trusting the run's authority.
fn before_encrypted(url: &str) -> Edge {
    let setup = Setup::default();
    setup.write("inside.pem", &authority().pem());
    setup.site("a.test", format!(r#"{{ url = "{url}", ca = "../inside.pem" }}"#)).start()
}

#[test]
fn a_site_over_tls_is_verified_and_served() {
    let origin = Origin::encrypted(authority(), echo);
    let edge = before_encrypted(&origin.tls_url());
    let mut client = edge.connect("a.test");
    for _ in 0..3 {
        let response = client.ask(get("a.test", "/path"));
        assert_eq!(response.status(), 200);
        let seen = response.text();
        assert!(seen.starts_with("GET /path HTTP/1.1\n") && seen.contains("\nhost: a.test\n"));
    }
    assert_eq!(origin.accepted(), 1, "the connection is kept");
}

/// A renewal of the file that went wrong harms nobody, and says so.
#[test]
fn a_file_of_authorities_that_breaks_leaves_the_site_as_it_was() {
    let origin = Origin::encrypted(authority(), echo);
    let edge = before_encrypted(&origin.tls_url());
    for broken in ["", "nothing", "-----BEGIN CERTIFICATE-----\ncut"] {
        edge.write("inside.pem", broken);
        let (code, report) = edge.command("reload");
        assert_eq!(code, 3, "{report}");
        assert!(report.contains("last good version: site a.test"), "{report}");
        assert!(report.contains("a.test.toml:2: upstreams[0].ca: "), "{report}");
        assert!(edge.command("check").1.contains("upstreams[0].ca"));
        assert_eq!(edge.get("a.test", "/").status(), 200);
    }
    edge.write("inside.pem", &authority().pem());
    assert_eq!(edge.command("reload").0, 0);
    assert_eq!(edge.get("a.test", "/").status(), 200);
}

#[test]
fn bodies_come_through_a_site_over_tls() {
    let origin = Origin::encrypted(authority(), |request: &Message| ok(&request.body));
    let edge = before_encrypted(&origin.tls_url());
    let body = pattern(1_000_003);
    let mut request =
        format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n", body.len())
            .into_bytes();
    request.extend(&body);
    assert!(edge.connect("a.test").ask(request).body == body);
}

#[test]
fn an_http_2_site_over_tls_is_verified_and_served() {
    let edge = before_encrypted(&h2_echo(authority()));
    let body = pattern(1_000_003);
    let back = http2(&edge, "a.test", async |mut sender| {
        let request = http::Request::post(url("a.test", "/")).body(full(body.clone())).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap().to_bytes()
    });
    assert!(back == body);
}

/// Whoever answers at a site's address without its certificate gets not one byte of a request.
#[test]
fn a_site_that_cannot_prove_who_it_is_gets_no_request() {
    let stranger = Authority::stranger();
    let (told, asked) = mpsc::channel::<()>();
    let tell = move |_: &Message| {
        told.send(()).unwrap();
        ok("trusted")
    };
    let strange = Origin::encrypted(&stranger, tell.clone());
    let of_another_name = Origin::encrypted(authority(), tell);
    let plain = Origin::scripted(|mut connection| {
        connection.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        connection.rest();
    });
    let by_address = format!("https://{}", of_another_name.address());
    for url in [strange.tls_url(), by_address, plain.tls_url(), h2_echo(&stranger)] {
        let edge = before_encrypted(&url);
        let response = edge.get("a.test", "/");
        let said = (response.status(), response.refused());
        assert_eq!(said, (502, Some("upstream-connect")), "{url}");
        eventually("it is counted", || edge.refused("upstream-connect") == 1.0);
    }
    assert!(asked.try_recv().is_err());
}

/// Two sites on one certificate: `a.test` for everybody, `b.test` for who has a certificate.
fn guarded(origin: &Origin) -> Edge {
    let setup = Setup::default();
    setup.write("visitors.pem", &authority().pem());
    let setup = setup.site("a.test", origin.url()).site_with(
        "b.test",
        origin.url(),
        r#"tls = { client_ca = "../visitors.pem" }"#,
    );
    for name in ["a.test", "b.test"] {
        setup.issue(name, &["a.test", "b.test"]);
    }
    setup.start()
}

/// A request by a visitor with a certificate of that authority; `None` where it gets no answer.
fn ask_as(edge: &Edge, name: &str, of: Option<&Authority>, host: &str) -> Option<Message> {
    let config = authority().client_of(&["http/1.1"], of);
    let mut client = handshake_by(edge.tcp(), ServerNameSent::Name(name), config).ok()?;
    // In TLS 1.3 the client's handshake is done before the edge has judged its certificate.
    client.try_send(get(host, "/")).ok()?;
    client.head().map(|head| client.body(head))
}

#[test]
fn a_site_may_ask_its_visitors_for_a_certificate() {
    let origin = Origin::echo();
    let edge = guarded(&origin);
    let served = ask_as(&edge, "b.test", Some(authority()), "b.test").expect("an answer");
    assert_eq!(served.status(), 200);
    assert!(ask_as(&edge, "b.test", None, "b.test").is_none(), "without a certificate");
    let stranger = Authority::stranger();
    assert!(ask_as(&edge, "b.test", Some(&stranger), "b.test").is_none(), "another authority's");
    eventually("both are counted", || edge.refused("handshake-failed") == 2.0);
    assert_eq!(origin.accepted(), 1);
}

/// The certificate covers both hosts, but nobody was asked on the way through the other door.
#[test]
fn a_connection_to_an_open_site_is_no_way_into_a_guarded_one() {
    let origin = Origin::echo();
    let edge = guarded(&origin);
    assert_eq!(ask_as(&edge, "a.test", None, "a.test").expect("an answer").status(), 200);
    let refused = ask_as(&edge, "a.test", None, "b.test").expect("an answer");
    assert_eq!((refused.status(), refused.refused()), (421, Some("misdirected")));
}
