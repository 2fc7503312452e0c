//! `sluss size`: what it refuses, what it leaves behind, and that a file is proven or stays. How fast
//! the machine is decides no test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::support::authority::authority;
use crate::support::tools::look_at_plots;
use crate::support::{Edge, Origin, Setup, eventually, wait_for};

/// What stands in the queues' file before.
const OLD: &str = "[queues]\nhandshake_depth = 77\n";

/// Short steps and tight objectives: whatever comes of it, it comes soon.
const SHORT: [&str; 7] = [
    "--quick",
    "--step",
    "30ms",
    "--objective",
    "p99 handshake < 60ms",
    "--objective",
    "p99 request < 60ms",
];

/// A configuration with one site, and a folder for what is temporary.
struct Desk(TempDir);

impl Desk {
    fn new() -> Desk {
        let desk = Desk(tempfile::tempdir().unwrap());
        for folder in ["sites", "tmp"] {
            fs::create_dir(desk.path(folder)).unwrap();
        }
        authority().issue(&desk.path("certs/a.test"), &["a.test".to_owned()]);
        desk.write("sites/a.toml", "hosts = [\"a.test\"]\nupstreams = [\"http://127.0.0.1:9\"]\n");
        desk.write("queues.toml", OLD);
        desk.write(
            "sluss.toml",
            "[listen]\nhttps = [\"127.0.0.1:0\"]\nhttp = []\nadmin = \"127.0.0.1:0\"\n",
        );
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn sluss(&self, command: &str) -> Command {
        let mut sluss = Command::new(env!("CARGO_BIN_EXE_sluss"));
        sluss.args([command, "-c"]).arg(self.path("sluss.toml"));
        sluss.env("TMPDIR", self.path("tmp")).current_dir(self.0.path()).stdin(Stdio::null());
        sluss
    }

    fn size(&self, arguments: &[&str]) -> Output {
        self.sluss("size").args(arguments).output().unwrap()
    }

    /// The folders of edges that are measured.
    fn temporary(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path("tmp")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    #[track_caller]
    fn check_refused(&self, arguments: &[&str], code: i32, expected: &str) {
        let output = self.size(arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
        assert!(told.contains(expected), "{arguments:?}: {told}");
        assert_eq!(self.read("queues.toml"), OLD);
        assert!(self.temporary().is_empty(), "its folder is still there");
    }
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_runs() {
    let desk = Desk::new();
    desk.check_refused(&["--objective", "p98 handshake < 1s"], 2, "p50, p90 or p99");
    desk.check_refused(&["--step", "1ms"], 2, "from 10ms to 10s");
    desk.check_refused(&["--burst", "0"], 2, "from 1/s to 1000000/s");
    desk.check_refused(&["--accept-stall", "1h"], 2, "from 1ms to 10s");
    desk.check_refused(&["--established-share", "100%"], 2, "from 0% to 95%");
    desk.check_refused(&["--slow-site", "fast"], 2, "from 0.1/s to 100000/s");
    desk.check_refused(&["--memory-share", "0.99"], 2, "from 1% to 90%");
    desk.check_refused(&["--target", "https://127.0.0.1:9/"], 2, "--out");
    let elsewhere = ["--out", "new.toml", "--target"];
    let target = |url| [elsewhere[0], elsewhere[1], elsewhere[2], url];
    desk.check_refused(&target("https://192.0.2.1/"), 1, "--i-own-this-host 192.0.2.1");
    desk.check_refused(&target("http://127.0.0.1:9/"), 1, "expected https://");
    desk.check_refused(&target("https://127.0.0.1:9/"), 1, "key type failed");
    desk.write("sluss.toml", "[queues]\nhandshake_deptj = 1\n");
    desk.check_refused(&[], 1, "nothing was measured");
}

#[test]
fn a_signal_ends_the_edge_and_removes_its_folder() {
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let desk = Desk::new();
        let mut size = desk.sluss("size").stderr(Stdio::null()).spawn().unwrap();
        let edge = wait_for("the edge that is measured", || {
            let folder = desk.temporary().pop()?;
            fs::read_to_string(folder.join("state/pid")).ok()?.trim().parse::<u32>().ok()
        });
        let pid = rustix::process::Pid::from_child(&size);
        rustix::process::kill_process(pid, signal).unwrap();
        let status = wait_for("the end", || size.try_wait().unwrap());
        assert_eq!(status.code(), Some(1));
        assert!(desk.temporary().is_empty(), "its folder is still there");
        assert!(!Path::new(&format!("/proc/{edge}")).exists(), "its edge still runs");
        assert_eq!(desk.read("queues.toml"), OLD);
    }
}

/// Whether the machine is calm enough for figures is the machine's affair. That they are proven
/// before they are written, or else nothing is written and the reason told, is ours.
#[test]
fn a_file_is_proven_and_accepted_or_the_old_one_stays() {
    let desk = Desk::new();
    let output = desk
        .size(&[&SHORT[..], &["--explain", "--burst", "5000/s", "--html", "size.html"]].concat());
    let (shown, told) = (text(&output.stdout), text(&output.stderr));
    assert!(desk.temporary().is_empty(), "its folder is still there");
    // Whatever the proof shows, it has a page; before it, there is nothing to show.
    assert_eq!(desk.path("size.html").exists(), shown.contains("with the new figures"), "{told}");
    if desk.path("size.html").exists() {
        look_at_plots(&desk.path("size.html"));
    }
    if !output.status.success() {
        assert!(told.contains("nothing was written"), "{told}");
        assert_eq!(desk.read("queues.toml"), OLD);
        return;
    }
    assert!(shown.contains("with the new figures") && shown.contains("is written"), "{shown}");
    let check = desk.sluss("check").output().unwrap();
    assert!(check.status.success(), "{}", text(&check.stderr));
    assert!(desk.read("queues.toml").contains("# 5000/s (goal) in a burst"));
    check_arithmetic(&desk.read("queues.toml"), &shown);
}

#[test]
fn a_running_edge_is_measured_where_one_is_named() {
    let origin = Origin::echo();
    let edge = Edge::before(origin.url());
    let desk = Desk::new();
    let connect = edge.https[0].to_string();
    let target =
        ["--json", "--target", "https://a.test/", "--connect", &connect, "--out", "new.toml"];
    let output = desk.size(&[&SHORT[..], &target].concat());
    assert_eq!(desk.read("queues.toml"), OLD, "only --out is written");
    assert_eq!(edge.get("a.test", "/").status(), 200, "it serves on");
    if !output.status.success() {
        let told = text(&output.stderr);
        assert!(told.contains("nothing was written") && !desk.path("new.toml").exists(), "{told}");
        return;
    }
    assert!(text(&output.stderr).contains("Not proven"));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON alone");
    assert!(told["proof"].is_null() && told["file"] == "new.toml", "{told}");
    let figures = told["figures"].as_array().unwrap();
    let depth = figures.iter().find(|figure| figure["key"] == "handshake_depth").unwrap();
    assert!(depth["value"].as_u64() > Some(0) && depth["arithmetic"].is_string(), "{depth}");
    assert!(desk.read("new.toml").contains("key_types = \"ECDSA P-256\""));
}

#[test]
fn an_edge_that_starts_on_another_machine_says_so() {
    let setup = Setup::default();
    setup.write("queues.toml", "[machine]\ncores = 1000\nkey_types = \"RSA-2048\"\n");
    let edge = setup.site("a.test", Origin::echo().url()).start();
    eventually("the alarm", || {
        let status = edge.admin_json("/api/status").to_string();
        ["machine-differs", "cores: measured 1000, now ", "measured RSA-2048, now ECDSA P-256"]
            .iter()
            .all(|part| status.contains(part))
    });
    assert!(edge.told().contains("machine-differs"), "{}", edge.told());
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The depth follows from the figures in its comment, and `--explain` shows the same.
#[track_caller]
fn check_arithmetic(file: &str, shown: &str) {
    let table: toml::Table = file.parse().unwrap();
    let depth = table["queues"]["handshake_depth"].as_integer().unwrap();
    let formula = shown.lines().find(|line| line.contains("handshakes/s x 80 %")).unwrap();
    let number = |word: &str| word.parse::<f64>().ok();
    let mut numbers = formula.split_whitespace().filter_map(number);
    let (threads, rate) = (numbers.next().unwrap(), numbers.next().unwrap());
    let expected = (threads * rate * 0.8).max(64.0);
    // The rate is shown without its decimals, once for each thread.
    assert!((depth as f64 - expected).abs() <= threads + 1.0, "{depth}: {formula}");
    let (first, _) = formula.trim().split_once(" = ").unwrap();
    let words =
        |text: &str| text.replace('#', " ").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words(file).contains(&words(first)), "{first} is not in the file");
}
