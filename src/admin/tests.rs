//! The admin listener over real sockets: paths, tokens, foreign hosts.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::config::report::{Changes, ReloadResult};
use crate::metrics::SiteSummary;

/// An edge that is only told about.
#[derive(Default)]
struct Told {
    site_down: AtomicBool,
    draining: AtomicBool,
}

impl View for Told {
    fn serving(&self) -> Serving {
        let draining = self.draining.load(Relaxed);
        let phase = if draining { Phase::Draining } else { Phase::Serving };
        Serving { phase, generation: 3, ..Serving::default() }
    }

    fn gather(&self) -> Gathered {
        let down = self.site_down.load(Relaxed);
        Gathered {
            sites_down: down
                .then(|| ("shop".into(), "connection refused".into()))
                .into_iter()
                .collect(),
            ..Gathered::default()
        }
    }

    fn sites(&self) -> Vec<SiteRow> {
        (0..3)
            .map(|at| SiteRow {
                summary: SiteSummary { site: format!("s{at}"), ..SiteSummary::default() },
                customer: "c".into(),
                hosts: vec![format!("s{at}.example")],
                waiting: 0,
                waiting_limit: 256,
                oldest_seconds: 0.0,
                in_flight: 0,
                in_flight_limit: 10,
                findings: 0,
                kept: false,
                endpoints: vec![EndpointRow { state: "up".into(), ..EndpointRow::default() }],
            })
            .collect()
    }

    fn certificates(&self) -> Vec<CertificateRow> {
        vec![CertificateRow { name: "a.example".into(), ..CertificateRow::default() }]
    }

    fn findings(&self) -> Vec<FindingRow> {
        let row =
            |site: &str, count| FindingRow { site: site.into(), count, ..FindingRow::default() };
        vec![row("s0", 1), row("s1", 3), row("s2", 2)]
    }

    fn reloads(&self) -> Vec<ReloadRow> {
        vec![ReloadRow { at_unix: 2, report: report() }, ReloadRow { at_unix: 1, report: report() }]
    }

    fn reload(&self) -> Reloading {
        Box::pin(async { report() })
    }
}

fn report() -> Report {
    Report {
        result: ReloadResult::Partly,
        generation: 3,
        seconds: 0.1,
        changes: Changes::none(),
        absent: Vec::new(),
        kept: vec!["b.example".into()],
        problems: Vec::new(),
    }
}

struct Pages {
    address: String,
    view: Arc<Told>,
    admin: Arc<Admin>,
}

async fn pages(address: AdminAddress, token: Option<Token>) -> Pages {
    let listener = Listener::bind(&address).await.unwrap();
    let (address, reach) = (listener.address().unwrap().to_string(), listener.reach());
    let view = Arc::new(Told::default());
    let admin = Admin::new(view.clone(), Metrics::new(1), Security { reach, token });
    tokio::spawn(serve(listener, admin.clone()));
    Pages { address, view, admin }
}

fn loopback() -> AdminAddress {
    AdminAddress::Tcp("127.0.0.1:0".parse().unwrap())
}

impl Pages {
    /// Status, head and body of the answer to one request.
    async fn ask(&self, method: &str, path: &str, fields: &str) -> (u16, String, String) {
        let host = self.address.as_str();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fields}Connection: close\r\n\r\n"
        );
        let mut answer = String::new();
        if let Some(path) = host.strip_prefix("unix:") {
            let mut stream = tokio::net::UnixStream::connect(path).await.unwrap();
            stream.write_all(request.replace(host, "sluss").as_bytes()).await.unwrap();
            stream.read_to_string(&mut answer).await.unwrap();
        } else {
            let mut stream = tokio::net::TcpStream::connect(host).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            stream.read_to_string(&mut answer).await.unwrap();
        }
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), head.to_lowercase(), body.to_owned())
    }

    async fn json(&self, path: &str) -> serde_json::Value {
        let (status, head, body) = self.ask("GET", path, "").await;
        assert_eq!(status, 200, "{path}");
        assert!(head.contains("content-type: application/json"), "{head}");
        serde_json::from_str(&body).unwrap()
    }
}

#[tokio::test]
async fn every_path_of_the_contract_answers() {
    let pages = pages(loopback(), None).await;
    for path in [
        "/",
        "/metrics",
        "/healthz",
        "/readyz",
        "/api/status",
        "/api/sites",
        "/api/certificates",
        "/api/findings",
        "/api/reload",
    ] {
        let (status, head, body) = pages.ask("GET", path, "").await;
        assert_eq!(status, 200, "{path}");
        assert!(!body.is_empty(), "{path}");
        assert!(head.contains("x-content-type-options: nosniff"), "{head}");
        assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
        let (status, _, body) = pages.ask("HEAD", path, "").await;
        assert_eq!((status, body.as_str()), (200, ""), "{path}");
    }
    assert_eq!(pages.ask("GET", "/secret", "").await.0, 404);
    let (status, head, _) =
        pages.ask("DELETE", "/api/sites", "Sec-Fetch-Site: same-origin\r\n").await;
    assert_eq!(status, 405);
    assert!(head.contains("allow: get, head"), "{head}");
    let (_, head, body) = pages.ask("GET", "/metrics", "").await;
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("\nsluss_snapshot_generation 3\n"), "{body}");
}

#[tokio::test]
async fn sites_and_findings_can_be_narrowed() {
    let pages = pages(loopback(), None).await;
    let all = pages.json("/api/sites").await;
    assert_eq!(all["total"], 3);
    assert_eq!(all["sites"][0]["site"], "s0");
    let page: SitesPage =
        serde_json::from_value(pages.json("/api/sites?q=S1.exa&limit=1").await).unwrap();
    assert_eq!((page.total, page.sites[0].summary.site.as_str()), (1, "s1"));
    assert_eq!(pages.json("/api/findings?site=s1").await.as_array().unwrap().len(), 1);
    let most = pages.json("/api/findings?limit=2").await;
    let sites = [&most[0]["site"], &most[1]["site"], &most[2]["site"]];
    assert_eq!(sites, [&"s1".into(), &"s2".into(), &serde_json::Value::Null]);
    assert_eq!(pages.ask("GET", "/api/findings?limit=x", "").await.0, 400);
}

#[tokio::test]
async fn a_reload_needs_the_own_page_and_answers_its_report() {
    let pages = pages(loopback(), None).await;
    assert_eq!(pages.ask("POST", "/api/reload", "").await.0, 403);
    let foreign = "Origin: http://evil.example\r\n";
    assert_eq!(pages.ask("POST", "/api/reload", foreign).await.0, 403);
    let own = format!("Origin: http://{}\r\n", pages.address);
    let (status, _, body) = pages.ask("POST", "/api/reload", &own).await;
    let told: Report = serde_json::from_str(&body).unwrap();
    assert_eq!((status, told.result), (200, ReloadResult::Partly));
    let last = pages.json("/api/reload").await;
    assert_eq!((last["result"].as_str(), last["at_unix"].as_i64()), (Some("partly"), Some(2)));
    assert_eq!(last["earlier"][0]["at_unix"], 1);
}

#[tokio::test]
async fn an_alarm_stands_in_status_health_and_metrics() {
    let pages = pages(loopback(), None).await;
    pages.admin.look();
    assert_eq!(pages.ask("GET", "/healthz", "").await.2, "ok\n");
    pages.view.site_down.store(true, Relaxed);
    pages.admin.look();
    let (status, _, body) = pages.ask("GET", "/healthz", "").await;
    assert_eq!(status, 200);
    assert!(body.starts_with("degraded\nupstreams-down shop since "), "{body}");
    let status: Status = serde_json::from_value(pages.json("/api/status").await).unwrap();
    assert_eq!(status.health, Health::Degraded);
    assert_eq!(status.alarms[0].site.as_deref(), Some("shop"));
    let (_, _, text) = pages.ask("GET", "/metrics", "").await;
    assert!(text.contains("sluss_alarm{alarm=\"upstreams-down\"} 1\n"));
    assert!(text.contains("sluss_alarm{alarm=\"memory\"} 0\n"));
}

#[tokio::test]
async fn readiness_ends_with_the_drain() {
    let pages = pages(loopback(), None).await;
    assert_eq!(pages.ask("GET", "/readyz", "").await.0, 200);
    pages.view.draining.store(true, Relaxed);
    assert_eq!(pages.ask("GET", "/readyz", "").await.0, 503);
}

#[tokio::test]
async fn with_a_token_a_stranger_learns_only_health() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, "a-token-of-some-length\n").unwrap();
    let pages = pages(loopback(), Some(Token::read(&file).unwrap())).await;
    pages.view.site_down.store(true, Relaxed);
    pages.admin.look();
    let (status, head, _) = pages.ask("GET", "/api/status", "").await;
    assert_eq!(status, 401);
    assert!(head.contains("www-authenticate: basic"), "{head}");
    assert_eq!(pages.ask("GET", "/healthz", "").await.2, "degraded\n");
    let bearer = "Authorization: Bearer a-token-of-some-length\r\n";
    assert_eq!(pages.ask("GET", "/api/status", bearer).await.0, 200);
    assert_eq!(pages.ask("POST", "/api/reload", bearer).await.0, 200);
}

#[tokio::test]
async fn a_unix_socket_serves_and_replaces_a_stale_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let pages = pages(AdminAddress::Unix(path.clone()), None).await;
    assert_eq!(pages.address, format!("unix:{}", path.display()));
    assert_eq!(pages.ask("GET", "/readyz", "").await.0, 200);
    assert_eq!(pages.ask("POST", "/api/reload", "").await.0, 200);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    assert!(Listener::bind(&AdminAddress::Unix(path)).await.is_err(), "a live one stays");
}

#[tokio::test]
async fn more_connections_than_places_wait_for_one() {
    let pages = pages(loopback(), None).await;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        held.push(tokio::net::TcpStream::connect(&pages.address).await.unwrap());
    }
    let waiting = pages.ask("GET", "/readyz", "");
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(200), &mut waiting).await;
    assert!(early.is_err(), "answered beside {CONNECTIONS_MAX} others");
    held.clear();
    assert_eq!(waiting.await.0, 200);
}
