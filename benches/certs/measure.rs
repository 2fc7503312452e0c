//! Cold start, memory, lookups, reloads, and handshakes while reloads run.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};
use sluss::certs::{self, CertSettings, CertStore, Loaded, TlsPolicy};

use crate::generate::{RENEWED, host};

/// Handshakes a second beside the reloads: far below the capacity, so that latency is their own.
const HANDSHAKES_PER_SECOND: u32 = 200;

/// For how long handshakes are watched, without and with a reload every second.
const WATCHED: Duration = Duration::from_secs(20);

/// Runs every measurement over a generated folder and prints the figures.
pub(crate) fn all(directory: &Path) {
    let settings = CertSettings { directory: directory.join("certs"), ..CertSettings::default() };
    let count = read_all(&settings.directory);
    // Identities written just now would prove nothing yet.
    thread::sleep(Duration::from_secs(4));
    let before = resident_bytes();
    let (loaded, cold) = timed(|| certs::load(&settings, None));
    let client = client(directory);
    let ((), handshake) = timed(|| shake(&loaded.store, &client, &host(count / 2)));
    let der: usize = fs::read_to_string(directory.join("complete")).unwrap().parse().unwrap();
    let resident = resident_bytes() - before;
    assert_eq!(loaded.store.all().len(), count, "{:#?}", loaded.problems.first());
    println!(
        "certificates            {count}, {} threads",
        thread::available_parallelism().unwrap()
    );
    println!("cold start              {cold}, and {handshake} for the first handshake");
    println!("resident memory         {} MiB", resident >> 20);
    println!("  a certificate         {} bytes", resident / count);
    println!("  beyond its DER        {} bytes (DER {})", (resident - der) / count, der / count);
    lookups(&loaded.store, count);
    let store = reloads(&settings, directory, loaded);
    beside_handshakes(&settings, Arc::new(store), &client, count);
}

/// Brings all files into the page cache: the disk is not what is measured.
fn read_all(certificates: &Path) -> usize {
    let mut count = 0;
    for folder in fs::read_dir(certificates).unwrap() {
        let folder = folder.unwrap().path();
        for file in ["fullchain.pem", "privkey.pem"] {
            fs::read(folder.join(file)).unwrap();
        }
        count += 1;
    }
    count
}

fn lookups(store: &CertStore, count: usize) {
    let hosts: Vec<String> = (0..100_000).map(|at| host(at * 7919 % count)).collect();
    let (found, elapsed) =
        timed(|| hosts.iter().filter(|host| store.has_certificate(Some(host))).count());
    assert_eq!(found, hosts.len());
    println!("a lookup                {} ns", elapsed.cpu.as_nanos() / hosts.len() as u128);
}

fn reloads(settings: &CertSettings, directory: &Path, cold: Loaded) -> CertStore {
    let mut store = cold.store;
    let mut reload = |what: &str, expected: usize| {
        let (loaded, elapsed) = timed(|| certs::load(settings, Some(&store)));
        assert_eq!(loaded.changed.len(), expected);
        store = loaded.store;
        println!("reload, {what:<15} {elapsed}, resident {} MiB", resident_bytes() >> 20);
    };
    for _ in 0..5 {
        reload("nothing changed", 0);
    }
    let swap = |numbers: std::ops::Range<usize>| {
        for number in numbers {
            let [current, renewed, aside] =
                ["certs", "renewed", "aside"].map(|kind| directory.join(kind).join(host(number)));
            fs::create_dir_all(aside.parent().unwrap()).unwrap();
            fs::rename(&current, &aside).unwrap();
            fs::rename(&renewed, &current).unwrap();
            fs::rename(&aside, &renewed).unwrap();
        }
    };
    swap(0..10);
    reload("10 changed", 10);
    swap(0..RENEWED);
    reload("1000 changed", RENEWED);
    let broken = settings.directory.join(host(0)).join("fullchain.pem");
    let good = fs::read(&broken).unwrap();
    fs::write(&broken, &good[..good.len() / 3]).unwrap();
    let (loaded, elapsed) = timed(|| certs::load(settings, Some(&store)));
    assert_eq!(loaded.kept, [host(0)]);
    println!("reload, one cut         {elapsed}: {}", loaded.problems[0]);
    fs::write(&broken, good).unwrap();
    loaded.store
}

/// Handshakes at a fixed rate, timed from when each was due, with and without reloads.
fn beside_handshakes(
    settings: &CertSettings,
    store: Arc<CertStore>,
    client: &Arc<ClientConfig>,
    count: usize,
) {
    let current = Mutex::new(store);
    // The first handshake of each certificate prepares its key; that is not what is compared.
    let names: Vec<String> = (0..500).map(|at| host(at * 31 % count)).collect();
    names.iter().for_each(|name| shake(&current.lock().unwrap().clone(), client, name));
    let quiet = percentiles(&current, client, &names);
    let done = AtomicBool::new(false);
    let busy = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let before = current.lock().unwrap().clone();
                let store = Arc::new(certs::load(settings, Some(&before)).store);
                *current.lock().unwrap() = store;
                thread::sleep(Duration::from_secs(1));
            }
        });
        let busy = percentiles(&current, client, &names);
        done.store(true, Ordering::Relaxed);
        busy
    });
    println!("handshakes, no reload   p50 {:.2?}, p99 {:.2?}", quiet.0, quiet.1);
    println!("handshakes, reloading   p50 {:.2?}, p99 {:.2?}", busy.0, busy.1);
    println!("resident in the end     {} MiB", resident_bytes() >> 20);
}

fn percentiles(
    current: &Mutex<Arc<CertStore>>,
    client: &Arc<ClientConfig>,
    names: &[String],
) -> (Duration, Duration) {
    // Where the handshake threads stand.
    let own = thread::scope(|scope| {
        let measured = scope.spawn(|| {
            rustix::process::setpriority_process(None, 10).unwrap();
            let start = Instant::now();
            let total = HANDSHAKES_PER_SECOND * WATCHED.as_secs() as u32;
            let mut latencies = Vec::new();
            for number in 0..total {
                let due = start + Duration::from_secs(1) * number / HANDSHAKES_PER_SECOND;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let store = current.lock().unwrap().clone();
                shake(&store, client, &names[number as usize % names.len()]);
                latencies.push(due.elapsed());
            }
            latencies.sort_unstable();
            latencies
        });
        measured.join().unwrap()
    });
    (own[own.len() / 2], own[own.len() * 99 / 100])
}

/// A client that trusts the folder's authority and resumes nothing.
fn client(directory: &Path) -> Arc<ClientConfig> {
    let root = fs::read(directory.join("root.pem")).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&root).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

/// A full handshake in memory.
fn shake(store: &CertStore, client: &Arc<ClientConfig>, name: &str) {
    let config = store.server_config(TlsPolicy::default());
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(client.clone(), name).unwrap();
    let mut server = ServerConnection::new(config).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().unwrap();
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
        }
    }
}

/// How long something took, on the clock and of all cores together.
struct Took {
    wall: Duration,
    cpu: Duration,
}

impl std::fmt::Display for Took {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2?} ({:.2?} of CPU)", self.wall, self.cpu)
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Took) {
    let (began, before) = (Instant::now(), cpu_time());
    let result = work();
    (result, Took { wall: began.elapsed(), cpu: cpu_time() - before })
}

/// What all threads of this process have used: on a machine that others use too, the clock alone
/// tells of them as well.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

/// Resident memory of this process.
fn resident_bytes() -> usize {
    let status = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = status.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size()
}
