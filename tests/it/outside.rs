//! Programs that others wrote: curl, openssl, h2load, nginx.

use std::process::{Command, Stdio};

use crate::support::authority::authority;
use crate::support::origin::{nobody, ok};
use crate::support::tools::{run, tool};
use crate::support::websocket;
use crate::support::{Edge, Origin, eventually, pattern};

/// curl set up for the edge, trusting its authority.
fn curl(edge: &Edge) -> Option<Command> {
    let mut curl = tool("curl")?;
    edge.write("authority.pem", &authority().pem());
    curl.args(["-sS", "--max-time", "60", "--noproxy", "*", "--cacert"])
        .arg(edge.folder().join("authority.pem"))
        .arg("--connect-to")
        .arg(format!("a.test:443:{}", edge.https[0]));
    Some(curl)
}

#[test]
fn curl_uploads_and_downloads_by_http_1_and_http_2() {
    let origin = Origin::answering(|request| ok(&request.body));
    let edge = Edge::before(origin.url());
    let body = pattern(5 * 1024 * 1024 + 1);
    std::fs::write(edge.folder().join("upload"), &body).unwrap();
    let upload = format!("@{}", edge.folder().join("upload").display());
    for version in ["--http1.1", "--http2"] {
        for more in ["Content-Type: application/octet-stream", "Transfer-Encoding: chunked"] {
            if version == "--http2" && more.starts_with("Transfer") {
                continue; // Not in HTTP/2 (RFC 9113 8.2.2).
            }
            let Some(mut curl) = curl(&edge) else { return };
            let arguments = [version, "-H", more, "--data-binary", &upload, "https://a.test/"];
            let (good, out, told) = run(curl.args(arguments));
            assert!(good && out == body, "{version}, {more}: {} bytes, {told}", out.len());
        }
    }
}

#[test]
fn curl_sees_that_a_download_was_cut() {
    let origin = Origin::scripted(|mut connection| {
        connection.request();
        connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    });
    let edge = Edge::before(origin.url());
    for version in ["--http1.1", "--http2"] {
        let Some(mut curl) = curl(&edge) else { return };
        let (good, out, told) = run(curl.args([version, "https://a.test/"]));
        assert!(!good, "{version}: {told}");
        assert!(b"hello".starts_with(&out), "{version}: {out:?}");
    }
}

/// curl knows no WebSocket in this version; what it shows is the 101 and the bytes behind it.
#[test]
fn curl_upgrades_and_reads_on() {
    let origin = Origin::scripted(|mut connection| {
        let request = connection.head().unwrap();
        let key = request.field("sec-websocket-key").unwrap();
        connection.send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            websocket::accept(key)
        ));
        connection.send(websocket::frame(websocket::TEXT, b"Hello", None));
        connection.send(websocket::frame(websocket::CLOSE, &[3, 232], None));
    });
    let edge = Edge::before(origin.url());
    let Some(mut curl) = curl(&edge) else { return };
    curl.args(["--http1.1", "-i", "-N", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket"])
        .args(["-H", "Sec-WebSocket-Version: 13"])
        .args(["-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "https://a.test/chat"]);
    let (_, out, told) = run(&mut curl);
    let text = String::from_utf8_lossy(&out).to_lowercase();
    assert!(text.starts_with("http/1.1 101 switching protocols\r\n"), "{text} {told}");
    assert!(text.contains("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{text}");
    let frames = b"\x81\x05Hello\x88\x02\x03\xe8";
    assert!(out.ends_with(frames), "{out:?} {told}");
}

#[test]
fn openssl_gets_both_versions_and_the_right_certificate() {
    let edge = Edge::before(Origin::echo().url());
    let address = edge.https[0].to_string();
    edge.write("authority.pem", &authority().pem());
    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let Some(mut openssl) = tool("openssl") else { return };
        openssl
            .args(["s_client", "-connect", &address, "-servername", "a.test", version])
            .args(["-verify_return_error", "-verify_hostname", "a.test", "-CAfile"])
            .arg(edge.folder().join("authority.pem"));
        let (good, out, told) = run(&mut openssl);
        let text = String::from_utf8_lossy(&out);
        assert!(good && text.contains(name), "{version}: {text} {told}");
        assert!(text.contains("Verify return code: 0 (ok)"), "{text}");
    }
    // A key share for P-521, which the edge does not have: it asks for another hello (RFC 8446 4.1.4).
    let Some(mut retried) = tool("openssl") else { return };
    retried.args(["s_client", "-connect", &address, "-servername", "a.test", "-msg"]);
    let (good, out, told) = run(retried.args(["-groups", "P-521:X25519"]));
    let text = String::from_utf8_lossy(&out);
    assert!(good && text.contains("TLSv1.3") && text.matches("ClientHello").count() == 2, "{told}");
    let Some(mut old) = tool("openssl") else { return };
    let (good, ..) =
        run(old.args(["s_client", "-connect", &address, "-servername", "a.test", "-tls1_1"]));
    assert!(!good, "TLS 1.1 is refused");
}

#[test]
fn h2load_gets_an_answer_to_every_request() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    let edge = Edge::before(origin.url());
    let port = edge.https[0].port();
    for protocol in ["--npn-list=h2", "--h1"] {
        let Some(mut h2load) = tool("h2load") else { return };
        h2load
            .args(["-n", "2000", "-c", "8", "-m", "8", protocol, "--connect-to"])
            .arg(edge.https[0].to_string())
            .arg(format!("https://a.test:{port}/"));
        let (good, out, told) = run(&mut h2load);
        let text = String::from_utf8_lossy(&out);
        assert!(good && text.contains("2000 succeeded, 0 failed, 0 errored"), "{text} {told}");
    }
}

#[test]
fn nginx_serves_files_behind_the_edge() {
    let address = nobody().unwrap();
    let edge = Edge::before(format!("http://{address}"));
    let Some(mut nginx) = tool("nginx") else { return };
    let folder = edge.folder().to_owned();
    let body = pattern(3 * 1024 * 1024);
    std::fs::create_dir(folder.join("www")).unwrap();
    std::fs::write(folder.join("www/file"), &body).unwrap();
    let at = folder.display();
    edge.write(
        "nginx.conf",
        &format!(
            "daemon off; master_process off; pid {at}/nginx.pid; error_log {at}/nginx.log;\n\
             events {{}}\n\
             http {{ access_log off; client_body_temp_path {at}/t1; proxy_temp_path {at}/t2;\n\
             fastcgi_temp_path {at}/t3; uwsgi_temp_path {at}/t4; scgi_temp_path {at}/t5;\n\
             server {{ listen {address}; root {at}/www; }} }}\n"
        ),
    );
    let mut nginx = nginx
        .arg("-c")
        .arg(folder.join("nginx.conf"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("nginx listens", || std::net::TcpStream::connect(address).is_ok());
    let mut client = edge.connect("a.test");
    let whole = client.ask(crate::support::get("a.test", "/file"));
    let part = client.ask("GET /file HTTP/1.1\r\nHost: a.test\r\nRange: bytes=1000-1999\r\n\r\n");
    let missing = client.ask(crate::support::get("a.test", "/none"));
    nginx.kill().unwrap();
    nginx.wait().unwrap();
    assert!(whole.status() == 200 && whole.body == body);
    assert!(part.status() == 206 && part.body == body[1000..2000]);
    assert_eq!((missing.status(), missing.refused()), (404, None), "nginx's own 404");
}
