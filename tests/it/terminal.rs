//! The commands on a terminal: colours are for those who want them, and `sluss top` leaves the
//! terminal as it found it, on every way out.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};

use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Edge, Origin, eventually, wait_for};

/// The other screen, on which full-screen programs draw, and the way back.
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";
const SHOW_CURSOR: &str = "\x1b[?25h";

/// A command on a terminal of its own.
struct Terminal {
    child: Child,
    keys: File,
    /// The command's side, held open so that its modes can be looked at afterwards.
    side: File,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Runs `sluss COMMAND -c FILE` for the edge, with these variables.
    fn of(edge: &Edge, command: &str, variables: &[(&str, &str)]) -> Terminal {
        let size = Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(&size, None).unwrap();
        let (keys, side) = (File::from(pair.master), File::from(pair.slave));
        let child = Command::new(env!("CARGO_BIN_EXE_sluss"))
            .arg(command)
            .arg("-c")
            .arg(edge.folder().join("sluss.toml"))
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .envs(variables.iter().copied())
            .stdin(side.try_clone().unwrap())
            .stdout(side.try_clone().unwrap())
            .stderr(side.try_clone().unwrap())
            .spawn()
            .unwrap();
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut screen, sink) = (keys.try_clone().unwrap(), shown.clone());
        // Ends with an error once no side is open.
        std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok(length @ 1..) = screen.read(&mut buffer) {
                sink.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
        });
        Terminal { child, keys, side, shown }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// `top` itself waits half a minute for an edge that is gone.
    #[track_caller]
    fn ends(&mut self) -> ExitStatus {
        wait_for("the end of it", || self.child.try_wait().unwrap())
    }

    /// Whether lines are edited and echoed, as for a shell.
    fn is_cooked(&self) -> bool {
        let flags = tcgetattr(&self.side).unwrap().local_flags;
        flags.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    /// The screen is given back: what comes behind is for the shell's own.
    #[track_caller]
    fn is_clean(&self) -> String {
        eventually("the way back", || self.shown().contains(LEAVE));
        assert!(self.is_cooked(), "the terminal's modes are as they were");
        let shown = self.shown();
        let (before, after) = shown.rsplit_once(LEAVE).unwrap();
        assert!(!after.contains(ENTER), "{after:?}");
        assert!(before.contains(SHOW_CURSOR) || after.contains(SHOW_CURSOR), "{after:?}");
        after.to_owned()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // One that has ended is what was wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn top(edge: &Edge) -> Terminal {
    let terminal = Terminal::of(edge, "top", &[]);
    eventually("the picture", || terminal.shown().contains("a.test"));
    assert!(!terminal.is_cooked() && terminal.shown().contains(ENTER));
    terminal
}

#[test]
fn top_leaves_the_terminal_clean_on_a_key_and_on_a_signal() {
    let edge = Edge::before(Origin::echo().url());
    let mut quit = top(&edge);
    quit.keys.write_all(b"q").unwrap();
    assert!(quit.ends().success());
    quit.is_clean();
    let mut terminated = top(&edge);
    terminated.signal(Signal::TERM);
    assert!(terminated.ends().success());
    terminated.is_clean();
}

#[test]
fn top_tells_why_work_is_turned_away_and_what_is_odd() {
    let edge = Edge::before(Origin::echo().url());
    let mut visitor = edge.connect("a.test");
    visitor.send("GET / HTTP/1.1\r\nHost: a.test\r\nContent-Length: +5\r\n\r\n");
    assert_eq!(visitor.response().status(), 400);
    let mut top = top(&edge);
    for (key, word) in [(b"x", "head-malformed"), (b"f", "content-length-invalid")] {
        top.keys.write_all(key).unwrap();
        eventually(word, || top.shown().contains(word));
        // Back to the sites: what stood there before is not drawn anew.
        top.keys.write_all(b"\x7f").unwrap();
    }
    top.keys.write_all(b"q").unwrap();
    assert!(top.ends().success());
    top.is_clean();
}

#[test]
fn top_leaves_the_terminal_clean_when_the_edge_stays_away() {
    let edge = Edge::before(Origin::echo().url());
    let mut left = top(&edge);
    edge.signal(Signal::KILL);
    assert_eq!(left.ends().code(), Some(1));
    eventually("why", || left.is_clean().contains("the edge was away for 30 seconds"));
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let edge = Edge::before(Origin::echo().url());
    let shown = |command: &str, variables: &[(&str, &str)]| {
        let mut terminal = Terminal::of(&edge, command, variables);
        terminal.ends();
        eventually("the text", || terminal.shown().contains("a.test"));
        terminal.shown()
    };
    assert!(shown("certs", &[]).contains("\x1b[32m"), "a terminal gets colours");
    for unwanted in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let text = shown("certs", &[unwanted]);
        assert!(!text.contains('\x1b'), "{unwanted:?}: {text:?}");
    }
    let plain = Terminal::of(&edge, "top", &[("NO_COLOR", "1")]);
    eventually("the picture", || plain.shown().contains("a.test"));
    let coloured = |code: &&str| {
        let code = code.split('m').next().unwrap_or("");
        code.split(';').any(|one| matches!(one, "38" | "48" | "31" | "32" | "33"))
    };
    let text = plain.shown();
    assert_eq!(text.split("\x1b[").skip(1).find(coloured), None, "{text:?}");
}
