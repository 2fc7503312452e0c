//! SIGUSR2: the real program hands its listeners to a new process while visitors come and go.
//!
//! A wait has a bound only so that a hanging test ends.

#![expect(clippy::unwrap_used, reason = "what the harness cannot do fails the test")]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of each half of the long download.
const HALF: usize = 300_000;

#[track_caller]
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} did not come about");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A site server: `/long` sends its second half when told, anything else is answered at once.
fn site() -> (SocketAddr, mpsc::Sender<()>) {
    let (go_on, told) = mpsc::channel();
    let told = Arc::new(Mutex::new(told));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, told) = (stream.unwrap(), told.clone());
            // A connection that is cut is seen by the visitor.
            thread::spawn(move || drop(answer(stream, &told)));
        }
    });
    (address, go_on)
}

fn answer(mut stream: TcpStream, told: &Mutex<mpsc::Receiver<()>>) -> io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    loop {
        head.clear();
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        if !head.starts_with(b"GET /long ") {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
            continue;
        }
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 2 * HALF)?;
        stream.write_all(&[b'1'; HALF])?;
        let _ = told.lock().unwrap().recv_timeout(PATIENCE);
        stream.write_all(&[b'2'; HALF])?;
    }
}

/// An edge in a folder of its own, whichever process it is now.
struct Edge {
    folder: TempDir,
    first: Child,
    https: SocketAddr,
    http: SocketAddr,
    client: Arc<ClientConfig>,
}

impl Edge {
    fn start(site: SocketAddr) -> Edge {
        let folder = tempfile::tempdir().unwrap();
        for name in ["sites", "certs/a.test"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        let text = format!("hosts = [\"a.test\"]\nupstreams = [\"http://{site}\"]\n");
        fs::write(folder.path().join("sites/a.toml"), text).unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
        let key = folder.path().join("certs/a.test/privkey.pem");
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let chain = folder.path().join("certs/a.test/fullchain.pem");
        fs::write(chain, made.cert.pem()).unwrap();
        write_main(&folder, "");
        let create = |name: &str| File::create(folder.path().join(name)).unwrap();
        // A link, so that another program can take its place.
        let program = folder.path().join("program");
        symlink(env!("CARGO_BIN_EXE_sluss"), &program).unwrap();
        // As an operator would: relative to where they are.
        let first = Command::new(program)
            .args(["run", "-c", "sluss.toml"])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(create("stdout"))
            .stderr(create("stderr"))
            .spawn()
            .unwrap();
        let none = "0.0.0.0:0".parse().unwrap();
        let client = trusting(made.cert.der());
        let mut edge = Edge { folder, first, https: none, http: none, client };
        let line = wait_for("the ready line", || edge.ready_lines().pop());
        edge.https = address(&line, "https=");
        edge.http = address(&line, "http=");
        edge
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn told(&self) -> String {
        fs::read_to_string(self.path("stderr")).unwrap_or_default()
    }

    fn ready_lines(&self) -> Vec<String> {
        let told = self.told();
        let lines = told.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let ready = lines.filter(|line| line.starts_with("sluss ready "));
        ready.map(|line| line.trim_end().to_owned()).collect()
    }

    /// The process that commands find.
    fn pid(&self) -> Option<i32> {
        fs::read_to_string(self.path("run/pid")).ok()?.trim().parse().ok()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid().unwrap()).unwrap(), signal).unwrap();
    }

    /// Sends SIGUSR2, and waits until another process has taken over.
    #[track_caller]
    fn hand_over(&self) {
        let (before, ready) = (self.pid(), self.ready_lines());
        self.signal(Signal::USR2);
        wait_for("another process", || self.pid().filter(|pid| Some(*pid) != before));
        wait_for("its ready line", || (self.ready_lines().len() > ready.len()).then_some(()));
        assert_eq!(address(&self.ready_lines().pop().unwrap(), "https="), self.https);
    }

    fn command(&self, command: &str) -> (i32, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_sluss"))
            .args([command, "-c", "sluss.toml"])
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code().unwrap(), text)
    }

    /// A GET on a connection of its own, whose answer is not read yet.
    fn request(&self, path: &str) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let stream = TcpStream::connect(self.https)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let name = "a.test".try_into().unwrap();
        let connection =
            ClientConnection::new(self.client.clone(), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, stream);
        write!(stream, "GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")?;
        Ok(stream)
    }

    /// The status line of a whole answer.
    fn get(&self, path: &str) -> io::Result<String> {
        let mut answer = String::new();
        self.request(path)?.read_to_string(&mut answer)?;
        Ok(answer.lines().next().unwrap_or("nothing").to_owned())
    }

    fn redirected(&self) -> io::Result<String> {
        let mut stream = TcpStream::connect(self.http)?;
        write!(stream, "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.split(' ').nth(1).unwrap_or("nothing").to_owned())
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        if let Some(pid) = self.pid().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.first.kill();
        let _ = self.first.wait();
        if thread::panicking() {
            eprintln!("--- the edge said:\n{}---", self.told());
        }
    }
}

/// The main file, with more at its end; the admin listener is a Unix socket.
fn write_main(folder: &TempDir, more: &str) {
    let text = format!(
        "[listen]\nhttps = [\"127.0.0.1:0\"]\nhttp = [\"127.0.0.1:0\"]\nadmin = \"unix:admin.sock\"\n\
         [runtime]\nthreads = 2\nshutdown_grace = \"60s\"\n\
         [queues]\nhandshake_deadline = \"30s\"\n\
         [log]\naccess = \"off\"\n{more}"
    );
    fs::write(folder.path().join("sluss.toml"), text).unwrap();
}

fn address(line: &str, key: &str) -> SocketAddr {
    line.split(' ').find_map(|word| word.strip_prefix(key)).unwrap().parse().unwrap()
}

fn trusting(certificate: &CertificateDer<'_>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone().into_owned()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap();
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}

/// Visitors who come one after the other, each on a new connection.
struct Visitors {
    served: AtomicUsize,
    failures: Mutex<Vec<String>>,
    enough: AtomicBool,
}

impl Visitors {
    fn come(&self, edge: &Edge) {
        while !self.enough.load(Ordering::Relaxed) {
            let (answer, plain) = (edge.get("/"), edge.redirected());
            let well = matches!(&answer, Ok(line) if line == "HTTP/1.1 200 OK")
                && matches!(&plain, Ok(status) if status == "308" || status == "301");
            if !well {
                self.failures.lock().unwrap().push(format!("{answer:?}, {plain:?}"));
            }
            self.served.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[track_caller]
    fn wait_for_more(&self) {
        let before = self.served.load(Ordering::Relaxed);
        wait_for("visitors", || (self.served.load(Ordering::Relaxed) >= before + 20).then_some(()));
    }
}

#[test]
fn a_successor_takes_over_and_no_connection_is_refused() {
    let (site, go_on) = site();
    let mut edge = Edge::start(site);
    let first = edge.pid().unwrap();
    let visitors =
        Visitors { served: AtomicUsize::new(0), failures: Mutex::default(), enough: false.into() };
    let mut download = edge.request("/long").unwrap();
    let mut whole = vec![0; HALF];
    download.read_exact(&mut whole).unwrap();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| visitors.come(&edge));
        }
        // A failed wait must let the visitors go, or the scope would wait for them for ever.
        let watched = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            visitors.wait_for_more();
            edge.hand_over();
            visitors.wait_for_more();
            assert_ne!(edge.pid(), Some(first));
            // The first process still has the download, and takes nothing else.
            let (code, report) = edge.command("reload");
            assert_eq!(code, 0, "{report}");
            let (code, status) = edge.command("status");
            assert_eq!(code, 0, "{status}");
            // A successor can have a successor.
            edge.hand_over();
            visitors.wait_for_more();
        }));
        visitors.enough.store(true, Ordering::Relaxed);
        watched.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert_eq!(*visitors.failures.lock().unwrap(), Vec::<String>::new());
    assert!(edge.first.try_wait().unwrap().is_none(), "the first process finishes the download");
    go_on.send(()).unwrap();
    download.read_to_end(&mut whole).unwrap();
    let body = whole.rsplitn(2, |byte| *byte == b'\n').next().unwrap();
    assert_eq!(body.len(), 2 * HALF, "the download is whole");
    let ended = wait_for("the first one's end", || edge.first.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0));
    assert_eq!(edge.command("status").0, 0, "the old process has left the admin socket");
    edge.signal(Signal::TERM);
    wait_for("the last one's end", || edge.pid().is_none().then_some(()));
    wait_for("the socket's end", || (!edge.path("admin.sock").exists()).then_some(()));
    assert_eq!(edge.command("status").0, 1);
}

#[test]
fn a_successor_that_fails_leaves_the_old_one_serving_and_able_to_try_again() {
    let (site, _go_on) = site();
    let edge = Edge::start(site);
    let first = edge.pid();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = format!("https = [\"127.0.0.1:0\", \"{}\"]", taken.local_addr().unwrap());
    // The one is refused as it is read, the other fails half-way: a new address is taken.
    let broken = fs::read_to_string(edge.path("sluss.toml")).unwrap();
    let half_way = broken.replace("https = [\"127.0.0.1:0\"]", &socket);
    for (text, reason) in
        [(broken + "surprise = 1\n", "surprise"), (half_way, "cannot be listened")]
    {
        fs::write(edge.path("sluss.toml"), text).unwrap();
        let failures = |told: String| told.matches("ended before it served").count();
        let before = failures(edge.told());
        edge.signal(Signal::USR2);
        wait_for("the failure's line", || (failures(edge.told()) > before).then_some(()));
        assert!(edge.told().contains(reason), "the reason is told");
        assert_eq!(edge.pid(), first);
        assert_eq!(edge.get("/").unwrap(), "HTTP/1.1 200 OK");
        assert_ne!(edge.command("status").0, 1, "commands find it");
    }
    write_main(&edge.folder, "");
    edge.hand_over();
    assert_ne!(edge.pid(), first);
    assert_eq!(edge.get("/").unwrap(), "HTTP/1.1 200 OK");
}

#[test]
fn one_successor_starts_at_a_time_and_ends_with_an_edge_that_is_told_to() {
    let (site, _go_on) = site();
    let mut edge = Edge::start(site);
    // A successor that takes its time.
    let program = edge.path("program");
    fs::remove_file(&program).unwrap();
    fs::write(&program, "#!/bin/sh\nexec sleep 600\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    edge.signal(Signal::USR2);
    wait_for("the successor", || edge.told().contains("a successor starts").then_some(()));
    edge.signal(Signal::USR2);
    wait_for("the warning", || edge.told().contains("a hand-over is under way").then_some(()));
    assert_eq!(edge.get("/").unwrap(), "HTTP/1.1 200 OK");
    edge.signal(Signal::TERM);
    let ended = wait_for("its end", || edge.first.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0));
    // The successor has the lock as well.
    wait_for("the successor's end", || (edge.command("status").0 == 1).then_some(()));
    assert_eq!(edge.ready_lines().len(), 1, "it never served");
}
