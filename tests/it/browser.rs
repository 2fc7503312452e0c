//! A browser that people use: Chromium without a screen, in a profile of its own that trusts one
//! authority more.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use crate::support::authority::authority;
use crate::support::origin::ok;
use crate::support::tools::{look_at_plots, run, tool};
use crate::support::{Edge, Origin, Setup, eventually, wait_for, websocket};

/// Killed and collected when the test is over, however it ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the page at `url` has become once it is loaded; `None` where the programs are missing.
/// `folder` is the browser's home.
fn page(folder: &Path, authority: Option<&Path>, url: &str) -> Option<String> {
    let (mut browser, _) = (tool("chromium")?, tool("certutil")?);
    let trust = folder.join(".pki/nssdb");
    fs::create_dir_all(&trust).unwrap();
    let database = format!("sql:{}", trust.display());
    let (made, _, told) = run(tool("certutil")?.args(["-d", &database, "-N", "--empty-password"]));
    assert!(made, "{told}");
    if let Some(authority) = authority {
        let import = ["-d", &database, "-A", "-t", "C,,", "-n", "test", "-i"];
        let (imported, _, told) = run(tool("certutil")?.args(import).arg(authority));
        assert!(imported, "{told}");
    }
    let dump = folder.join("dom");
    let browser = browser
        .env("HOME", folder)
        // Root has no sandbox; nothing here comes from outside.
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--no-first-run", "--disable-background-networking", "--disable-component-update"])
        .args(["--no-proxy-server", "--host-resolver-rules=MAP *.test 127.0.0.1"])
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .args(["--dump-dom", url])
        .stdin(Stdio::null())
        .stdout(File::create(&dump).unwrap())
        .stderr(File::create(folder.join("browser-said")).unwrap())
        .spawn()
        .unwrap();
    let mut browser = Running(browser);
    wait_for("the browser's end", || browser.0.try_wait().unwrap());
    Some(fs::read_to_string(dump).unwrap())
}

#[test]
fn a_browser_shows_the_demo() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let demo = Command::new(env!("CARGO_BIN_EXE_sluss"))
        .args(["demo", "--https", "127.0.0.1:0", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(File::create(at("stdout")).unwrap())
        .stderr(File::create(at("stderr")).unwrap())
        .spawn()
        .unwrap();
    let _demo = Running(demo);
    let port = wait_for("the demo", || {
        let text = fs::read_to_string(at("stderr")).unwrap();
        let rest = text.split_once("sluss ready https=127.0.0.1:")?.1;
        Some(rest.split_once([' ', ','])?.0.to_owned())
    });
    let url = format!("https://blog.localhost:{port}/");
    let home = |name: &str| {
        let home = at(name);
        fs::create_dir(&home).unwrap();
        home
    };
    let Some(shown) = page(&home("trusting"), Some(&at("certs/demo/ca.pem")), &url) else { return };
    assert!(shown.contains("<h1>blog</h1>"), "{shown}");
    eventually("the log's line, by HTTP/2", || {
        fs::read_to_string(at("stdout")).unwrap().contains("\"GET / HTTP/2\" 200 ")
    });
    // The control: without its authority the browser shows no page.
    let shown = page(&home("strange"), None, &url).expect("the same programs");
    assert!(!shown.contains("<h1>blog</h1>"), "{shown}");
}

#[test]
fn a_browser_shows_the_page_of_a_load() {
    let origin = Origin::answering(|_| ok("hello"));
    let edge = Edge::before(origin.url());
    let page = edge.folder().join("load.html");
    let mut load = Command::new(env!("CARGO_BIN_EXE_sluss"));
    load.args(["load", "https://a.test/", "--insecure", "--duration", "3s", "--connect"])
        .arg(edge.https[0].to_string())
        .args(["--arrivals", "constant", "--rate", "100"])
        .args(["--traffic", "kind=requests", "--traffic", "kind=handshakes"])
        .arg("--html")
        .arg(&page);
    // On a crowded machine the generator may be late, and say so by its exit code.
    let (_, _, told) = run(&mut load);
    assert!(page.exists(), "{told}");
    look_at_plots(&page);
}

/// The page over a real edge: what it shows is what happens.
#[test]
fn the_dashboard_tells_of_traffic_and_of_a_server_that_goes() {
    let (Some(mut node), Some(chromium)) = (tool("node"), tool("chromium")) else { return };
    let origin = Origin::answering(|_| ok("hello"));
    let setup = Setup::default().set("queues.request_deadline", r#""500ms""#);
    let edge = setup.site("a.test", origin.url()).start();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser/dashboard.mjs");
    let watching = node
        .args([script, &format!("http://{}/", edge.admin)])
        .env("CHROMIUM", chromium.get_program())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(edge.folder().join("browser-said")).unwrap())
        .spawn();
    let mut watching = Running(watching.unwrap());
    let said = BufReader::new(watching.0.stdout.take().unwrap());
    let over = AtomicBool::new(false);
    let lines: Vec<String> = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let status = edge.get("a.test", "/").status();
                assert!(status == 200 || status == 503, "{status}");
            }
        });
        let lines = said.lines().map_while(Result::ok).inspect(|line| {
            if line == "under traffic" {
                origin.stop();
            }
        });
        let lines = lines.collect();
        over.store(true, Ordering::Relaxed);
        lines
    });
    let told = fs::read_to_string(edge.folder().join("browser-said")).unwrap();
    assert_eq!(lines, ["under traffic", "the dashboard works"], "{told}");
}

/// What the page says of itself comes back to the site as a request.
const PAGE: &str = "<!doctype html><title>chat</title><img src=/held><script>
const protocol = performance.getEntriesByType('navigation')[0].nextHopProtocol;
const chat = new WebSocket('wss://' + location.host + '/chat');
chat.onopen = () => chat.send('through the edge');
chat.onmessage = (event) => { fetch('/report/' + protocol + '/' + encodeURI(event.data)); chat.close(1000); };
chat.onerror = () => fetch('/report/error');
</script>";

#[test]
fn a_browser_speaks_http_2_and_websocket() {
    let (report, reported) = mpsc::channel();
    let reported = std::sync::Mutex::new(reported);
    let (keep, kept) = mpsc::channel();
    let origin = Origin::scripted(move |mut connection| {
        while let Some(request) = connection.request() {
            let answer = match request.target() {
                "/" => {
                    let fields = "Content-Type: text/html\r\nConnection: keep-alive";
                    let length = PAGE.len();
                    format!("HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: {length}\r\n\r\n{PAGE}")
                        .into_bytes()
                }
                "/chat" => return websocket::echo(&mut connection, &request),
                // The page is loaded only when it has reported.
                "/held" => {
                    let told: String = reported.lock().unwrap().recv().unwrap();
                    keep.send(told).unwrap();
                    ok("")
                }
                target if target.starts_with("/report/") => {
                    report.send(target.to_owned()).unwrap();
                    ok("")
                }
                _ => ok(""),
            };
            if connection.try_send(answer).is_err() {
                return;
            }
        }
    });
    let edge = Edge::before(origin.url());
    edge.write("authority.pem", &authority().pem());
    let home = tempfile::tempdir().unwrap();
    let url = format!("https://a.test:{}/", edge.https[0].port());
    if page(home.path(), Some(&edge.folder().join("authority.pem")), &url).is_none() {
        return;
    }
    assert_eq!(kept.try_recv().as_deref(), Ok("/report/h2/through%20the%20edge"));
    let line = edge.logged("its line", |line| line["url.path"] == "/chat");
    assert_eq!(line["http.response.status_code"], 101);
    assert_eq!(edge.refused("http2-flood"), 0.0);
}

/// A visitor who comes back again and again, each time on a new connection.
const VISITS: &str = "<!doctype html><title>visits</title><script>
for (let visit = 0; visit < 60; visit++) {
  const request = new XMLHttpRequest();
  request.open('GET', '/visit', false);
  request.send();
  const rested = performance.now() + 250;
  while (performance.now() < rested);
}
</script><p>all of them";

#[test]
fn a_browser_resumes_its_session_before_and_after_a_reload() {
    let origin = Origin::answering(|request| match request.target() {
        "/" => {
            let length = VISITS.len();
            let fields = format!("Content-Type: text/html\r\nContent-Length: {length}");
            format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{VISITS}").into_bytes()
        }
        _ => ok(""),
    });
    let setup = Setup::default().set("timeouts.idle", r#""100ms""#);
    let edge = setup.site("a.test", origin.url()).start();
    edge.write("authority.pem", &authority().pem());
    let trusted = edge.folder().join("authority.pem");
    let home = tempfile::tempdir().unwrap();
    let url = format!("https://a.test:{}/", edge.https[0].port());
    let done = |resumed: &[&str]| {
        edge.metric("sluss_handshakes_total", &[&["result=\"ok\""], resumed].concat())
    };
    std::thread::scope(|scope| {
        let browsing = scope.spawn(|| page(home.path(), Some(&trusted), &url));
        eventually("half of the visits", || done(&[]) >= 20.0 || browsing.is_finished());
        edge.issue("a.test");
        assert_eq!(edge.command("reload").0, 0);
        let before = done(&[]);
        let Some(shown) = browsing.join().unwrap() else { return };
        assert!(shown.contains("all of them"), "{shown}");
        let (all, resumed) = (done(&[]), done(&["resumed=\"true\""]));
        assert!(all > before && all >= 40.0, "{all} handshakes, {before} before the reload");
        assert!(resumed >= 0.95 * all, "{resumed} of {all}");
    });
}
