//! The real program, started in a folder of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use serde_json::Value;
use tempfile::TempDir;

use super::authority::authority;
use super::client::{Client, ServerNameSent, handshake, tcp};
use super::wire::{Message, Wire, get};
use super::{eventually, wait_for};

/// An edge to be.
pub struct Setup {
    folder: TempDir,
    environment: Vec<(String, String)>,
    main: BTreeMap<String, BTreeMap<String, String>>,
}

/// A running edge. Dropped, it is killed.
pub struct Edge {
    child: Child,
    setup: Setup,
    /// TLS listeners.
    pub https: Vec<SocketAddr>,
    /// Plain listeners.
    pub http: Vec<SocketAddr>,
    /// The admin listener.
    pub admin: SocketAddr,
}

impl Default for Setup {
    /// All ports 0, one thread, the access log as JSON in a file. The bounds in time are far away:
    /// the machine may be crowded.
    fn default() -> Setup {
        let (folder, environment) = (tempfile::tempdir().unwrap(), Vec::new());
        let setup = Setup { folder, environment, main: BTreeMap::new() };
        for folder in ["sites", "certs"] {
            fs::create_dir(setup.folder.path().join(folder)).unwrap();
        }
        setup
            .set("listen.https", r#"["127.0.0.1:0"]"#)
            .set("listen.http", r#"["127.0.0.1:0"]"#)
            .set("listen.admin", r#""127.0.0.1:0""#)
            .set("runtime.threads", "1")
            .set("queues.handshake_deadline", r#""30s""#)
            .set("timeouts.hello", r#""30s""#)
            .set("timeouts.connect", r#""10s""#)
            .set("log.format", r#""json""#)
            .set("log.access", r#""access.log""#)
    }
}

impl Setup {
    /// Sets a key of the main file, `section.key`, to a TOML value.
    pub fn set(mut self, key: &str, value: &str) -> Setup {
        self.change(key, value);
        self
    }

    /// Sets a variable of its environment.
    pub fn variable(mut self, name: &str, value: &str) -> Setup {
        self.environment.push((name.into(), value.into()));
        self
    }

    fn change(&mut self, key: &str, value: &str) {
        let (section, key) = key.split_once('.').expect("section.key");
        self.main.entry(section.into()).or_default().insert(key.into(), value.into());
    }

    /// Adds a site with its certificate.
    pub fn site(self, host: &str, upstream: impl AsRef<str>) -> Setup {
        self.site_with(host, upstream, "")
    }

    /// The same with more keys.
    pub fn site_with(self, host: &str, upstream: impl AsRef<str>, more: &str) -> Setup {
        self.write_site(host, upstream.as_ref(), more);
        self.issue(host, &[host]);
        self
    }

    fn write_site(&self, host: &str, upstream: &str, more: &str) {
        // A URL, or an inline table that has it.
        let quote = if upstream.starts_with('{') { "" } else { "\"" };
        let upstreams = format!("[{quote}{upstream}{quote}]");
        let text = format!("hosts = [\"{host}\"]\nupstreams = {upstreams}\n{more}\n");
        self.write(&format!("sites/{}.toml", stem(host)), &text);
    }

    /// Writes a certificate.
    pub fn issue(&self, name: &str, hosts: &[&str]) {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        authority().issue(&self.path("certs").join(stem(name)), &hosts);
    }

    /// Writes a file below the folder.
    pub fn write(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).unwrap();
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn write_main(&self) {
        let mut text = String::new();
        for (section, keys) in &self.main {
            text += &format!("[{section}]\n");
            for (key, value) in keys {
                text += &format!("{key} = {value}\n");
            }
        }
        self.write("sluss.toml", &text);
    }

    /// Starts it and waits until it serves.
    #[track_caller]
    pub fn start(self) -> Edge {
        self.write_main();
        let main = self.path("sluss.toml");
        let main = main.to_str().expect("a temporary folder's name is text").to_owned();
        self.launch(&["run", "-c", &main])
    }

    #[track_caller]
    fn launch(self, arguments: &[&str]) -> Edge {
        let create = |name: &str| File::create(self.path(name)).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_sluss"))
            .args(arguments)
            .envs(self.environment.iter().cloned())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(create("stdout"))
            .stderr(create("stderr"))
            .spawn()
            .expect("the program starts");
        let told = self.path("stderr");
        let line = wait_for("the ready line", || {
            let text = fs::read_to_string(&told).unwrap_or_default();
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the edge ended at its start, {status}: {text}");
            }
            let line = text.lines().find(|line| line.starts_with("sluss ready "))?;
            text.ends_with('\n').then(|| line.to_owned())
        });
        let https = addresses(&line, "https");
        let (http, admin) = (addresses(&line, "http"), addresses(&line, "admin"));
        // A Unix socket has no address of this kind.
        let admin = admin.first().copied().unwrap_or_else(|| ([127, 0, 0, 1], 0).into());
        Edge { child, setup: self, https, http, admin }
    }
}

/// A file's name for a host.
fn stem(host: &str) -> String {
    host.replace('*', "any")
}

fn addresses(line: &str, key: &str) -> Vec<SocketAddr> {
    let start = format!("{key}=");
    let list = line.split(' ').find_map(|word| word.strip_prefix(&start)).expect("the key");
    let is_tcp = |one: &&str| !one.is_empty() && !one.starts_with("unix:");
    list.split(',').filter(is_tcp).map(|one| one.parse().unwrap()).collect()
}

impl Edge {
    /// An edge with one site, `a.test`.
    #[track_caller]
    pub fn before(upstream: impl AsRef<str>) -> Edge {
        Setup::default().site("a.test", upstream).start()
    }

    /// The edge of `sluss demo --incident`, whose configuration is its own.
    #[track_caller]
    pub fn demo(incident: &str) -> Edge {
        let ports = ["--https", "127.0.0.1:0", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        Setup::default().launch(&[&["demo", "--incident", incident], &ports[..]].concat())
    }

    /// A TLS connection with that server name.
    #[track_caller]
    pub fn connect(&self, name: &str) -> Client {
        self.try_connect(ServerNameSent::Name(name)).expect("the handshake succeeds")
    }

    /// The same where the handshake may fail.
    pub fn try_connect(&self, name: ServerNameSent<'_>) -> std::io::Result<Client> {
        handshake(self.tcp(), name)
    }

    /// A TCP connection to the TLS listener.
    pub fn tcp(&self) -> TcpStream {
        tcp(self.https[0])
    }

    /// A connection that has sent the first byte of a hello, and is accepted for that at once.
    pub fn tcp_that_greets(&self) -> TcpStream {
        let mut stream = self.tcp();
        stream.write_all(&[22]).expect("it is open");
        stream
    }

    /// One GET on a connection of its own.
    #[track_caller]
    pub fn get(&self, host: &str, path: &str) -> Message {
        self.connect(host).ask(get(host, path))
    }

    /// The admin page's answer.
    #[track_caller]
    pub fn admin(&self, path: &str) -> Message {
        let host = self.admin.to_string();
        Wire::new(tcp(self.admin)).ask(get(&host, path))
    }

    /// The same as JSON.
    pub fn admin_json(&self, path: &str) -> Value {
        serde_json::from_slice(&self.admin(path).body).expect("JSON")
    }

    /// The sum of a metric's samples whose line contains all of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.admin("/metrics").text();
        let matching = |line: &&str| {
            let named = line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
            named && labels.iter().all(|label| line.contains(label))
        };
        let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
        text.lines().filter(matching).filter_map(value).sum()
    }

    /// What was refused for that reason.
    pub fn refused(&self, reason: &str) -> f64 {
        self.metric("sluss_refused_total", &[&format!("reason=\"{reason}\"")])
    }

    /// Waits for a line of the access log.
    #[track_caller]
    pub fn logged(&self, what: &str, matching: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, || {
            let text = fs::read_to_string(self.setup.path("access.log")).unwrap_or_default();
            let mut lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
            lines.find(|line| matching(line))
        })
    }

    /// What it says on standard error.
    pub fn told(&self) -> String {
        fs::read_to_string(self.setup.path("stderr")).unwrap_or_default()
    }

    /// What it printed on standard output.
    pub fn printed(&self) -> String {
        fs::read_to_string(self.setup.path("stdout")).unwrap_or_default()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        wait_for("the edge's end", || self.child.try_wait().unwrap())
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Runs `sluss COMMAND -c FILE`: exit code, and what it printed.
    pub fn command(&self, command: &str) -> (i32, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_sluss"))
            .args(command.split(' '))
            .arg("-c")
            .arg(self.setup.path("sluss.toml"))
            .output()
            .unwrap();
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text += &String::from_utf8_lossy(&output.stderr);
        (output.status.code().expect("an exit code"), text)
    }

    /// Runs `sluss` with these arguments in an empty folder: exit code, and what it printed.
    pub fn bare_command(arguments: &str) -> (i32, String) {
        let folder = tempfile::tempdir().unwrap();
        Edge::command_in(folder.path(), arguments)
    }

    /// The same in that folder.
    pub fn command_in(folder: &Path, arguments: &str) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluss"));
        let output = command.args(arguments.split(' ')).current_dir(folder).output();
        let output = output.unwrap();
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text += &String::from_utf8_lossy(&output.stderr);
        (output.status.code().expect("an exit code"), text)
    }

    /// Resident memory, KiB.
    pub fn resident_kib(&self) -> u64 {
        let text = self.told_by_kernel("status");
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// A file of the process's folder in /proc.
    pub fn told_by_kernel(&self, file: &str) -> String {
        let mut text = String::new();
        let path = format!("/proc/{}/{file}", self.child.id());
        File::open(path).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    /// The niceness of its threads whose name begins so.
    pub fn niceness(&self, name: &str) -> Vec<i32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let stats =
            tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("stat")).ok());
        let mut found = Vec::new();
        for stat in stats {
            // `ID (NAME) STATE ...`; niceness is the 17th from the state on (proc_pid_stat(5)).
            let (thread, rest) = stat.rsplit_once(") ").expect("a thread's name in brackets");
            if thread.split_once('(').is_some_and(|(_, named)| named.starts_with(name)) {
                found.push(rest.split(' ').nth(16).expect("niceness").parse().unwrap());
            }
        }
        found
    }

    /// The generation in force.
    pub fn generation(&self) -> f64 {
        self.metric("sluss_snapshot_generation", &[])
    }

    /// Changes a key of the main file; takes effect with a reload.
    pub fn set(&mut self, key: &str, value: &str) {
        self.setup.change(key, value);
        self.setup.write_main();
    }

    /// Takes a key out of the main file; takes effect with a reload.
    pub fn unset(&mut self, key: &str) {
        let (section, key) = key.split_once('.').expect("section.key");
        self.setup.main.entry(section.into()).or_default().remove(key);
        self.setup.write_main();
    }

    /// Adds or changes a site; takes effect with a reload.
    pub fn site(&self, host: &str, upstream: impl AsRef<str>, more: &str) {
        self.setup.write_site(host, upstream.as_ref(), more);
    }

    /// Renews or adds a certificate; takes effect with a reload.
    pub fn issue(&self, host: &str) {
        self.setup.issue(host, &[host]);
    }

    /// The same with a certificate that ends so many days from now.
    pub fn issue_until(&self, host: &str, days_left: i64) {
        let folder = self.setup.path("certs").join(stem(host));
        authority().issue_until(&folder, &[host.to_owned()], days_left);
    }

    /// Raises or lowers its bound of open descriptors.
    pub fn limit_descriptors(&self, count: u64) {
        let limits = Rlimit { current: Some(count), maximum: getrlimit(Resource::Nofile).maximum };
        let pid = rustix::process::Pid::from_child(&self.child);
        prlimit(Some(pid), Resource::Nofile, limits).unwrap();
    }

    /// Writes a file below its folder.
    pub fn write(&self, path: &str, text: &str) {
        self.setup.write(path, text);
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.setup.folder.path()
    }

    /// How many alarms of that kind stand.
    pub fn alarms(&self, alarm: &str) -> f64 {
        self.metric("sluss_alarm", &[&format!("alarm=\"{alarm}\"")])
    }

    /// Whether metrics, sites' rows and status all tell that an endpoint of the site is down.
    pub fn tells_down(&self, site: &str) -> bool {
        let label = format!("site=\"{site}\"");
        let troubled = self.admin_json(&format!("/api/sites?troubled=1&q={site}"));
        let state = &troubled["sites"][0]["endpoints"][0]["state"];
        self.metric("sluss_upstream_endpoints", &["state=\"down\""]) >= 1.0
            && self.metric("sluss_upstream_endpoint_down", &[&label]) == 1.0
            && state.as_str().is_some_and(|state| state != "up")
            && self.admin_json("/api/status")["endpoints_down"].as_u64() >= Some(1)
    }

    /// Waits until a metric's sum satisfies the condition.
    #[track_caller]
    pub fn metric_becomes(&self, name: &str, labels: &[&str], condition: impl Fn(f64) -> bool) {
        eventually(name, || condition(self.metric(name, labels)));
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the edge said:\n{}---", self.told());
        }
    }
}
