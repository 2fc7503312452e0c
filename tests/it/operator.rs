//! What the operator sees: the access log, the metrics, the admin pages, the commands.

use crate::alarms;
use crate::support::{Edge, Origin, Setup, get};

#[test]
fn the_access_log_says_what_was_asked_and_how_it_went() {
    let origin = Origin::echo();
    let edge = Edge::before(origin.url());
    let body = edge
        .connect("a.test")
        .ask("POST /path?q=1 HTTP/1.1\r\nHost: a.test\r\nUser-Agent: a \"b\"\x1b\r\nContent-Length: 5\r\n\r\nhello")
        .body;
    let line = edge.logged("its line", |line| line["url.path"] == "/path");
    for (key, value) in [
        ("http.request.method", "POST"),
        ("url.query", "q=1"),
        ("url.scheme", "https"),
        ("server.address", "a.test"),
        ("sluss.site", "a.test"),
        ("network.protocol.version", "1.1"),
        ("tls.protocol.version", "1.3"),
        ("client.address", "127.0.0.1"),
        ("sluss.endpoint", &origin.url()),
    ] {
        assert_eq!(line[key], value, "{key} in {line}");
    }
    assert!(line.get("error.type").is_none(), "nothing went wrong: {line}");
    assert_eq!(line["http.response.status_code"], 200);
    assert_eq!(line["http.request.body.size"], 5);
    assert_eq!(line["http.response.body.size"], body.len());
    assert!(line["http.server.request.duration"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_head_that_is_refused_is_logged_with_its_start_and_the_bytes_of_its_answer() {
    let edge = Edge::before(Origin::echo().url());
    let answer = edge.connect("a.test").ask("GET /a?secret=1 HTTP/1.1\r\n\r\n");
    assert_eq!(answer.status(), 400);
    let line = edge.logged("its line", |line| line["http.response.status_code"] == 400);
    let start = line["sluss.start_line"].as_str().unwrap();
    assert!(start.starts_with("GET /a?[") && !start.contains("secret"), "{line}");
    assert_eq!(line["http.response.body.size"], answer.body.len());
}

#[test]
fn a_text_log_has_a_line_a_request() {
    let origin = Origin::echo();
    let edge = Setup::default().set("log.format", r#""text""#).site("a.test", origin.url()).start();
    edge.get("a.test", "/one");
    let path = edge.folder().join("access.log");
    crate::support::eventually("the line", || {
        let text = std::fs::read_to_string(&path).unwrap();
        text.starts_with("127.0.0.1 - - [") && text.contains("\"GET /one HTTP/1.1\" 200 ")
    });
}

#[test]
fn the_metrics_count_requests_and_refusals_by_site_and_reason() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    for _ in 0..3 {
        client.ask(get("a.test", "/"));
    }
    client.ask(get("c.test", "/"));
    client.ask("GET / HTTP/1.1\r\n\r\n");
    let site = "site=\"a.test\"";
    edge.metric_becomes("sluss_requests_total", &[site], |count| count >= 4.0);
    assert_eq!(edge.refused("unknown-host"), 1.0);
    assert_eq!(edge.metric("sluss_refused_total", &[site, "reason=\"head-malformed\""]), 1.0);
    assert_eq!(edge.metric("sluss_handshakes_total", &["result=\"ok\""]), 1.0);
    let findings = ["site=\"a.test\"", "direction=\"request\"", "rule=\"host\""];
    assert_eq!(edge.metric("sluss_header_findings_total", &findings), 1.0);
}

#[test]
fn the_admin_pages_answer() {
    let edge = Edge::before(Origin::echo().url());
    for path in [
        "/",
        "/healthz",
        "/readyz",
        "/metrics",
        "/api/status",
        "/api/sites",
        "/api/certificates",
        "/api/findings",
        "/api/reload",
    ] {
        assert_eq!(edge.admin(path).status(), 200, "{path}");
    }
    assert_eq!(edge.admin("/nothing").status(), 404);
    for mistake in ["sort=nothing", "limit=many", "from=-1"] {
        assert_eq!(edge.admin(&format!("/api/sites?{mistake}")).status(), 400, "{mistake}");
    }
    let sites = edge.admin_json("/api/sites?sort=p99_ms&limit=1");
    assert!(sites["sites"][0]["p99_ms"].is_null(), "no traffic, no percentile: {sites}");
}

#[test]
fn the_commands_find_the_running_edge() {
    let edge = Edge::before(Origin::echo().url());
    let (code, text) = edge.command("status");
    assert!(code == 0 || code == 3, "{text}");
    let (code, text) = edge.command("certs");
    assert!(code == 0 && text.contains("a.test"), "{text}");
    // Scripts read the same as data.
    let json = |command: &str| {
        let (code, text) = edge.command(command);
        let data: serde_json::Value = serde_json::from_str(&text).expect(&text);
        (code, data)
    };
    let (code, status) = json("status --json");
    let alarms = status["alarms"].as_array().unwrap().len();
    assert_eq!(code, if alarms == 0 { 0 } else { 3 }, "{status}");
    assert_eq!((&status["sites"], &status["phase"]), (&1.into(), &"serving".into()), "{status}");
    let (code, certs) = json("certs --json");
    assert_eq!((code, &certs[0]["name"]), (0, &"a.test".into()), "{certs}");
    assert!(certs[0]["days_left"].as_i64() > Some(0), "{certs}");
    edge.connect("a.test").ask("GET / HTTP/1.1\r\nHost: a.test\r\nProxy: x\r\n\r\n");
    crate::support::eventually("the finding", || {
        let (code, text) = edge.command("findings");
        code == 0 && text.contains("field-name-reserved")
    });
    assert_eq!(edge.command("check").0, 0);
}

#[test]
fn parts_that_are_broken_at_the_start_are_named_until_they_are_mended() {
    let origin = Origin::echo();
    let setup = Setup::default().site("a.test", origin.url()).site("c.test", origin.url());
    setup.write("sites/b.test.toml", "hosts = [");
    setup.write("certs/c.test/fullchain.pem", "");
    let mut edge = setup.start();
    let parts = ["site b.test", "certificate c.test"];
    alarms::raised(&edge, "not-served");
    assert_eq!(edge.alarms("not-served"), 2.0);
    let named = |edge: &Edge| {
        let (code, text) = edge.command("status");
        code == 3 && parts.iter().all(|part| text.contains(part))
    };
    assert!(named(&edge));
    let status = edge.admin_json("/api/status");
    let standing = status["alarms"].as_array().unwrap();
    for (part, site) in parts.iter().zip(["b.test", "c.test"]) {
        let alarm = standing.iter().find(|one| one["subject"] == *part).expect(part);
        assert_eq!(alarm["site"], site, "{alarm}");
    }
    let (_, certs) = edge.command("certs");
    let line = certs.lines().find(|line| line.starts_with("c.test ")).expect("its line");
    assert!(line.contains("absent"), "{certs}");
    let rows = edge.admin_json("/api/certificates");
    assert_eq!((&rows[0]["name"], &rows[0]["validity"]), (&"c.test".into(), &"absent".into()));
    // A reload that changes nothing does not make it well.
    edge.set("queues.request_dept", "3");
    assert_eq!(edge.command("reload").0, 1);
    assert!(named(&edge));
    edge.set("queues.request_depth", "3");
    edge.unset("queues.request_dept");
    edge.site("b.test", origin.url(), "");
    for host in ["b.test", "c.test"] {
        edge.issue(host);
    }
    assert_eq!(edge.command("reload").0, 0);
    alarms::cleared(&edge, "not-served");
    assert!(!edge.command("certs").1.contains("absent"));
}

#[test]
fn a_reload_is_asked_for_over_the_admin_address_too() {
    let mut edge = Edge::before(Origin::echo().url());
    let reload = |more: &str| Edge::bare_command(&format!("reload --admin {}{more}", edge.admin));
    let (code, text) = reload("");
    assert!(code == 0 && text.starts_with("applied: generation 2 serves"), "{code}: {text}");
    edge.write("sites/a.test.toml", "hosts = [\"a.test\"\n");
    let (code, text) = reload(" --json");
    assert!(code == 3 && text.contains("\"partly\""), "{code}: {text}");
    let admin = edge.admin;
    edge.set("queues.request_depth", r#""many""#);
    let (code, text) = Edge::bare_command(&format!("reload --admin {admin}"));
    assert!(code == 1 && text.starts_with("refused: generation 3 serves on"), "{code}: {text}");
    drop(edge);
    let (code, text) = Edge::bare_command(&format!("reload --admin {admin}"));
    assert!(code == 1 && text.contains("cannot ask the edge"), "{code}: {text}");
}

#[test]
fn what_cannot_be_meant_is_a_mistake_of_usage() {
    for arguments in ["status --admin foo", "reload --admin foo"] {
        let (code, text) = Edge::bare_command(arguments);
        assert!(code == 2 && text.contains("ADDRESS:PORT"), "{arguments}: {code}: {text}");
    }
    for command in ["status", "reload"] {
        let (code, text) = Edge::bare_command(&format!("{command} -c /nonexistent.toml"));
        assert!(code == 1 && text.contains("there is no /nonexistent.toml"), "{code}: {text}");
    }
}

#[test]
fn a_load_that_tells_nothing_does_not_end_as_if_it_had() {
    let origin = Origin::echo();
    let edge = Edge::before(origin.url());
    let load = |more: &str| {
        let address = edge.https[0];
        let url = format!("load https://a.test/ --insecure --connect {address} --duration 200ms");
        Edge::bare_command(&format!("{url} {more}"))
    };
    for (mistake, expected) in
        [("--rate 0", "more than zero"), ("--traffic kind=foo", "expected requests")]
    {
        let (code, text) = load(mistake);
        assert!(code == 2 && text.contains(expected), "{mistake}: {code}: {text}");
    }
    let (code, text) = load("--rate 10 --arrivals constant");
    // 3 where a crowded machine makes the generator late.
    assert!(code == 0 || text.contains("NOT TO BE TRUSTED"), "{code}: {text}");
    let refused = "--rate 10 --arrivals constant --traffic kind=handshakes,host=nobody.test";
    let (code, text) = load(refused);
    assert!(code == 3 && text.contains("TLS alert"), "{code}: {text}");
}

#[test]
fn relative_paths_hold_where_the_file_is_named_without_a_folder() {
    let edge = Edge::before(Origin::echo().url());
    let (code, text) = Edge::command_in(edge.folder(), "check -c sluss.toml");
    assert_eq!(code, 0, "log.access is relative: {text}");
}

#[test]
fn a_session_is_resumed_and_the_log_says_so() {
    let origin = Origin::echo();
    let edge = Edge::before(origin.url());
    let config = std::sync::Arc::new(crate::support::authority::authority().client(&[]));
    for resumed in [false, true] {
        let connection =
            rustls::ClientConnection::new(config.clone(), "a.test".try_into().unwrap()).unwrap();
        let stream = rustls::StreamOwned::new(connection, edge.tcp());
        let mut client = crate::support::wire::Wire::new(stream);
        let path = format!("/{resumed}");
        assert_eq!(client.ask(get("a.test", &path)).status(), 200);
        let line = edge.logged("its line", |line| line["url.path"] == path.as_str());
        assert_eq!(line["tls.resumed"], resumed);
    }
}
