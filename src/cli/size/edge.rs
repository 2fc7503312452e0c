//! The edge that is measured: a child process of this program on a configuration of its own.
//!
//! The configuration is the operator's, with what a measurement must not touch replaced: ports of
//! the loopback address that the system chooses, an own state folder, throwaway certificates, sites
//! that lead to the endpoint in this process, no access log. Queues, timeouts and header
//! rules stay as they are, but for the threads: one for each core that the edge has here. Folder and
//! child are gone when the values are dropped.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rcgen::{CertificateParams, DnType, SanType};
use toml::{Table, Value};

use super::cores::Cores;
use super::origin::Origins;
use super::traces::Traces;
use super::{signing, silence};
use crate::load::target::Url;
use crate::names::Hostname;
use crate::sizing::KeyType;

/// A start reads a handful of small files.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Of what the edge said before it ended, kept for the message.
const LAST_WORDS: usize = 8;

/// The host whose endpoint never answers.
const SILENT: &str = "silent.localhost";

/// The folder with the configuration.
pub struct Scene {
    folder: PathBuf,
    traces: Traces,
    cores: Cores,
}

/// A running edge.
pub struct Edge {
    traces: Traces,
    /// Its process.
    pub process: u32,
    /// Its TLS listener.
    pub address: SocketAddr,
    /// Its admin listener.
    pub admin: SocketAddr,
}

/// What the configuration is made from.
pub struct Outline<'o> {
    /// The operator's main file.
    pub main: &'o Path,
    /// The serving threads that the edge is to have.
    pub threads: usize,
    /// A site for each.
    pub keys: &'o [KeyType],
    /// The endpoints behind it.
    pub origins: Origins,
}

/// The page of the host whose certificate has a key of this type.
pub fn page(key: KeyType) -> Result<Url> {
    Ok(Url::parse(&format!("https://{}/", host(key)?.as_str()))?)
}

/// The page of the host whose endpoint never answers.
pub fn silent_page() -> Result<Url> {
    Ok(Url::parse(&format!("https://{SILENT}/"))?)
}

fn host(key: KeyType) -> Result<Hostname> {
    let label = key.to_string().to_lowercase().replace(' ', "-");
    Ok(Hostname::parse(&format!("{label}.localhost"))?)
}

impl Scene {
    /// Writes everything but the queues' file, in a folder that nobody else may enter.
    pub fn make(outline: &Outline<'_>, cores: &Cores, traces: &Traces) -> Result<Scene> {
        let folder = std::env::temp_dir().join(format!("sluss-size-{}", std::process::id()));
        {
            let mut left = traces.hold();
            let made = DirBuilder::new().mode(0o700).create(&folder);
            made.with_context(|| format!("cannot make the folder {}", folder.display()))?;
            left.folder = Some(folder.clone());
        }
        let scene = Scene { folder, traces: traces.clone(), cores: cores.clone() };
        scene.fill(outline)?;
        Ok(scene)
    }

    fn fill(&self, outline: &Outline<'_>) -> Result<()> {
        let main = outline.main;
        let text =
            fs::read_to_string(main).with_context(|| format!("cannot read {}", main.display()))?;
        let written: Table =
            text.parse().with_context(|| format!("{} is no TOML", main.display()))?;
        self.write("sluss.toml", &derive(written, outline.threads)?.to_string())?;
        for key in outline.keys {
            let host = host(*key)?;
            self.add_site(host.as_str(), *key, outline.origins.answering, "")?;
        }
        let key = outline.keys.first().copied().unwrap_or(KeyType::EcdsaP256);
        let limits = format!("[limits]\nin_flight = {}\n", silence::IN_FLIGHT);
        self.add_site(SILENT, key, outline.origins.silent, &limits)
    }

    fn add_site(&self, name: &str, key: KeyType, origin: SocketAddr, more: &str) -> Result<()> {
        let (chain, private) = certificate(key, name)?;
        self.write(&format!("certs/{name}/fullchain.pem"), &chain)?;
        self.write(&format!("certs/{name}/privkey.pem"), &private)?;
        let site = format!("hosts = [\"{name}\"]\nupstreams = [\"http://{origin}\"]\n{more}");
        self.write(&format!("sites/{name}.toml"), &site)
    }

    /// Puts the figures in place for the edges started from now on.
    pub fn write_queues(&self, text: &str) -> Result<()> {
        self.write("queues.toml", text)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let _held = self.traces.hold();
        let path = self.folder.join(name);
        let parent = path.parent().unwrap_or(&self.folder);
        let written = DirBuilder::new().recursive(true).mode(0o700).create(parent);
        let written = written.and_then(|()| fs::write(&path, text)).and_then(|()| {
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        });
        written.with_context(|| format!("cannot write {}", path.display()))
    }

    /// Starts an edge and waits until it serves; there is one at a time.
    pub fn start(&self) -> Result<Edge> {
        let program = std::env::current_exe().context("cannot tell where this program is")?;
        let mut command = Command::new(&program);
        command
            .args([Path::new("run"), Path::new("-c"), &self.folder.join("sluss.toml")])
            .env("RUST_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let (errors, process) = {
            let mut left = self.traces.hold();
            left.end_child();
            let child = self.cores.on_the_edges(|| command.spawn());
            let child = left
                .child
                .insert(child.with_context(|| format!("cannot start {}", program.display()))?);
            (child.stderr.take(), child.id())
        };
        // From here on the child ends with the value, also on the way out of an error.
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut edge =
            Edge { traces: self.traces.clone(), process, address: nowhere, admin: nowhere };
        let errors = errors.ok_or_else(|| anyhow!("the edge has no standard error"))?;
        let (told, heard) = mpsc::channel();
        std::thread::Builder::new()
            .name("size-edge".into())
            .spawn(move || listen(BufReader::new(errors), &told))?;
        match heard.recv_timeout(START_TIMEOUT) {
            Ok(Ok((address, admin))) => (edge.address, edge.admin) = (address, admin),
            Ok(Err(words)) => bail!("the edge did not start:\n{words}"),
            Err(_) => bail!("the edge did not start within {START_TIMEOUT:?}"),
        }
        Ok(edge)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.traces.hold().remove_folder();
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.traces.hold().end_child();
    }
}

/// Addresses of an edge that serves: TLS, admin.
type Listening = (SocketAddr, SocketAddr);

/// Reads the edge's standard error to its end, so that it never waits for a reader; tells the
/// addresses it serves on, or its last words where it ends before.
fn listen(errors: impl BufRead, told: &mpsc::Sender<Result<Listening, String>>) {
    let mut last = VecDeque::new();
    for line in errors.lines().map_while(Result::ok) {
        if let Some(addresses) = ready_addresses(&line) {
            let _ = told.send(Ok(addresses));
        }
        if last.len() == LAST_WORDS {
            last.pop_front();
        }
        last.push_back(line);
    }
    let _ = told.send(Err(Vec::from(last).join("\n")));
}

fn ready_addresses(line: &str) -> Option<Listening> {
    let rest = line.strip_prefix("sluss ready https=")?;
    let https = rest.split([' ', ',']).next()?.parse().ok()?;
    let admin = rest.split(' ').find_map(|word| word.strip_prefix("admin="))?;
    Some((https, admin.parse().ok()?))
}

/// The operator's main file with what a measurement must not touch replaced.
fn derive(mut main: Table, threads: usize) -> Result<Table> {
    let local = Value::from("127.0.0.1:0");
    let listen = table(&mut main, "listen")?;
    listen.insert("https".into(), Value::Array(vec![local.clone()]));
    listen.insert("http".into(), Value::Array(Vec::new()));
    listen.insert("admin".into(), local);
    // This process sends no PROXY protocol, and an admin token's file stays where it is.
    for key in ["admin_token_file", "proxy_protocol_from", "trusted_proxies"] {
        listen.remove(key);
    }
    let runtime = table(&mut main, "runtime")?;
    runtime.insert("threads".into(), Value::Integer(threads.try_into()?));
    runtime.insert("state".into(), Value::from("state"));
    runtime.insert("shutdown_grace".into(), Value::from("1s"));
    runtime.remove("user");
    main.insert("certificates".into(), Value::Table(directory("certs")));
    main.insert("sites".into(), Value::Table(directory("sites")));
    table(&mut main, "queues")?.remove("file");
    table(&mut main, "log")?.insert("access".into(), Value::from("off"));
    Ok(main)
}

fn directory(name: &str) -> Table {
    Table::from_iter([("directory".to_owned(), Value::from(name))])
}

fn table<'t>(main: &'t mut Table, name: &str) -> Result<&'t mut Table> {
    let value = main.entry(name).or_insert_with(|| Value::Table(Table::new()));
    value.as_table_mut().ok_or_else(|| anyhow!("{name} is no table"))
}

/// A chain of one certificate, and its key.
fn certificate(key: KeyType, host: &str) -> Result<(String, String)> {
    let pair = signing::pair(key)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, host);
    params.subject_alt_names = vec![SanType::DnsName(host.try_into()?)];
    Ok((params.self_signed(&pair)?.pem(), pair.serialize_pem()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::machine::this_machine;

    #[test]
    fn the_edge_measured_keeps_the_operators_settings_and_none_of_his_places() {
        let written = "[listen]\nhttps = [\"[::]:443\"]\nadmin = \"unix:/run/s\"\n\
            admin_token_file = \"t\"\nbacklog = 100\nproxy_protocol_from = [\"10.0.0.0/8\"]\n\
            [runtime]\nthreads = 3\nuser = \"sluss\"\n[certificates]\ndirectory = \"c\"\n\
            default = \"a\"\n[queues]\nfile = \"q.toml\"\nhandshake_depth = 7\n\
            [headers]\nrequests = \"reject\"\n[log]\naccess = \"/var/log/access\"\n";
        let text = derive(written.parse().unwrap(), 2).unwrap().to_string();
        for stays in ["backlog = 100", "threads = 2", "handshake_depth = 7", "\"reject\""] {
            assert!(text.contains(stays), "{stays} in {text}");
        }
        for goes in ["443", "unix:", "token", "10.0.0.0", "user", "default", "q.toml", "/var/log"] {
            assert!(!text.contains(goes), "{goes} in {text}");
        }
    }

    #[test]
    fn the_configuration_it_writes_is_a_good_one() {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("sluss.toml");
        fs::write(&main, "[runtime]\nthreads = 1\n").unwrap();
        let keys = [KeyType::EcdsaP256, KeyType::EcdsaP384, KeyType::Ed25519, KeyType::Rsa(3_072)];
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
        let origins = Origins { answering: nowhere, silent: nowhere };
        let outline = Outline { main: &main, threads: 2, keys: &keys, origins };
        let cores = Cores::divide().unwrap();
        let scene = Scene::make(&outline, &cores, &Traces::default()).unwrap();
        let outcome = crate::config::check(&scene.folder.join("sluss.toml"));
        assert_eq!(outcome.problems, []);
        let snapshot = outcome.snapshot.unwrap();
        assert_eq!((snapshot.sites.all().len(), snapshot.certs.all().len()), (5, 5));
        let found = this_machine(&snapshot.certs).key_types.unwrap();
        assert_eq!(found, "ECDSA P-256, ECDSA P-384, Ed25519, RSA-3072");
        let path = scene.folder.clone();
        drop(scene);
        assert!(!path.exists());
    }

    #[test]
    fn the_ready_line_tells_where_it_serves() {
        let line = "sluss ready https=127.0.0.1:4433 http= admin=127.0.0.1:1 sites=1";
        let expected = ["127.0.0.1:4433", "127.0.0.1:1"].map(|text| text.parse().unwrap());
        assert_eq!(ready_addresses(line), Some(expected.into()));
        assert_eq!(ready_addresses("warning: https=127.0.0.1:4433"), None);
    }
}
