//! What other programs make of the numbers: Prometheus' own checker, and a browser.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::support::tools::{run, tool};
use crate::support::{Edge, Origin, get};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn prometheus_finds_nothing_wrong_with_a_scrape() {
    let origin = Origin::echo();
    let edge = Edge::before(origin.url());
    let mut client = edge.connect("a.test");
    // Refused, odd and unknown: what is there only once it has happened.
    for request in ["GET /a HTTP/1.1\r\nHost: a.test\r\nProxy: x\r\n\r\n", &get("c.test", "/")] {
        client.ask(request);
    }
    edge.metric_becomes("sluss_header_findings_total", &["a.test"], |count| count > 0.0);
    edge.write("scrape.txt", &edge.admin("/metrics").text());
    let Some(mut promtool) = tool("promtool") else { return };
    let scrape = std::fs::File::open(edge.folder().join("scrape.txt")).unwrap();
    let output = promtool.args(["check", "metrics"]).stdin(Stdio::from(scrape)).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && told.is_empty(), "{told}");
}

#[test]
fn prometheus_takes_the_shipped_alert_rules() {
    let Some(mut promtool) = tool("promtool") else { return };
    let rules = root().join("config/prometheus-alerts.yml");
    let (good, out, told) = run(promtool.args(["check", "rules"]).arg(rules));
    assert!(good, "{}{told}", String::from_utf8_lossy(&out));
}

/// A rule or a panel over a metric that is not there would be silent for ever.
#[test]
fn shipped_rules_and_panels_ask_for_metrics_that_there_are() {
    let documented = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    for file in ["prometheus-alerts.yml", "grafana-dashboard.json"] {
        let text = std::fs::read_to_string(root().join("config").join(file)).unwrap();
        let mut names = 0;
        for rest in text.split("sluss_").skip(1) {
            let end =
                rest.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(rest.len());
            let name = format!("sluss_{}", &rest[..end]);
            let name = name.trim_end_matches("_bucket").trim_end_matches("_count");
            let name = name.trim_end_matches("_sum");
            assert!(documented.contains(&format!("`{name}`")), "config/{file}: {name}");
            names += 1;
        }
        assert!(names > 0, "config/{file} asks for nothing");
    }
}

/// Built with the tests: `cargo test` builds the examples too.
fn example(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_sluss")).parent().unwrap();
    let path = folder.join("examples").join(name);
    assert!(path.is_file(), "{} is not built: cargo build --example {name}", path.display());
    path
}

/// Under its own policy, with live numbers, by keyboard, on a phone, without an error.
#[test]
fn a_browser_shows_the_dashboard() {
    let (Some(mut node), Some(chromium)) = (tool("node"), tool("chromium")) else { return };
    let script = root().join("tests/browser/dashboard.mjs");
    let command =
        node.arg(script).arg(example("dashboard")).env("CHROMIUM", chromium.get_program());
    let (good, out, told) = run(command);
    assert!(good, "{}{told}", String::from_utf8_lossy(&out));
}
