//! The edge under a service manager and behind a Unix socket, and the demo where a port is taken.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::support::{Edge, Origin, PATIENCE, Setup};

#[test]
fn the_service_manager_is_told_of_start_reload_and_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut text = [0; 256];
        let length = manager.recv(&mut text).expect("a word to the manager");
        let text = String::from_utf8_lossy(&text[..length]).into_owned();
        text.lines().next().unwrap_or_default().to_owned()
    };
    let mut edge = Setup::default()
        .variable("NOTIFY_SOCKET", path.to_str().unwrap())
        .site("a.test", Origin::echo().url())
        .start();
    assert_eq!(told(), "READY=1");
    assert_eq!(edge.command("reload").0, 0);
    assert_eq!([told(), told()], ["RELOADING=1", "READY=1"]);
    edge.signal(Signal::TERM);
    assert_eq!(told(), "STOPPING=1");
    assert_eq!(edge.ended().code(), Some(0));
}

#[test]
fn no_memory_of_an_edge_gets_into_a_core_dump() {
    if !std::path::Path::new("/proc/self/coredump_filter").exists() {
        eprintln!("skipped: this kernel has no filter for core dumps");
        return;
    }
    let edge = Edge::before(Origin::echo().url());
    assert_eq!(edge.told_by_kernel("coredump_filter").trim(), "00000000");
}

#[test]
fn the_admin_listener_can_be_a_unix_socket() {
    let mut edge: Edge = Setup::default()
        .set("listen.admin", "\"unix:admin.sock\"")
        .site("a.test", Origin::echo().url())
        .start();
    let path = edge.folder().join("admin.sock");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    for command in ["status", "reload", "certs"] {
        let (code, text) = edge.command(command);
        assert_eq!(code, 0, "{command}: {text}");
    }
    edge.signal(Signal::TERM);
    assert_eq!(edge.ended().code(), Some(0));
    assert!(!path.exists(), "it is removed at the end");
}

#[test]
fn a_demo_whose_port_is_taken_says_so_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let another = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = another.local_addr().unwrap().to_string();
    let free = "127.0.0.1:0";
    let output = Command::new(env!("CARGO_BIN_EXE_sluss"))
        .args(["demo", "--https", &taken, "--http", free, "--admin", free])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(&taken) && told.contains("in use by another program"), "{told}");
}
