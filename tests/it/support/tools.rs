//! Programs from outside. Where one is missing its tests say so and end, unless
//! `SLUSS_REQUIRE_TOOLS=1` makes that a failure.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Resource, getrlimit, setrlimit};

/// A command of that program; `None` where it is not there.
#[track_caller]
pub fn tool(name: &str) -> Option<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    let found = folders.find_map(|folder| Some(folder.join(name)).filter(|path| path.is_file()));
    if found.is_none() {
        let required = std::env::var_os("SLUSS_REQUIRE_TOOLS").is_some_and(|value| value == "1");
        assert!(!required, "{name} is not there, and SLUSS_REQUIRE_TOOLS=1");
        // Past the test runner's capture: a skip must be seen.
        let _ = writeln!(std::io::stderr(), "skipped: {name} is not there");
    }
    found.map(Command::new)
}

/// Lets this process hold so many descriptors, where the machine allows it.
pub fn allow_descriptors(count: u64) {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < count) {
        limit.current = Some(limit.maximum.map_or(count, |maximum| maximum.min(count)));
        setrlimit(Resource::Nofile, limit).unwrap();
    }
}

/// Runs it: whether it succeeded, and what it printed.
pub fn run(command: &mut Command) -> (bool, Vec<u8>, String) {
    let output = command.stdin(Stdio::null()).output().expect("the program runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), output.stdout, told)
}

/// Opens a page of plots in a browser: on a desk and on a phone, by day and in a dark room, from the
/// file alone.
#[track_caller]
pub fn look_at_plots(page: &Path) {
    let (Some(mut node), Some(chromium)) = (tool("node"), tool("chromium")) else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser/report.mjs");
    let (good, out, told) =
        run(node.arg(script).arg(page).arg("4").env("CHROMIUM", chromium.get_program()));
    assert!(good, "{}{told}", String::from_utf8_lossy(&out));
}
