//! The main file and `queues.toml` as written.
//!
//! Reading never stops: a value that cannot be used is told and its default taken, so that one run
//! of `sluss check` shows everything. What both files may say (`[queues]`, the backlog, the
//! connections) is kept as optional here; [`QueueValues::or`] lets the explicit key win.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

use super::account::Account;
use super::descriptors::{connections_for, descriptor_limit};
use super::listen;
use super::screening::Headers;
use super::state;
use super::walk::{Document, Section, Table, Value};
use super::{AccessLog, Certificates, HandshakeCosts, HandshakeOrder, Listen, Log, LogFormat};
use super::{Machine, Queues, Runtime, Timeouts};
use crate::plain_file;
use crate::problem::Problem;

/// Every key of the main file.
pub const KEYS: &[Section] = &[
    Section {
        name: "",
        keys: &[
            "listen",
            "runtime",
            "certificates",
            "sites",
            "queues",
            "headers",
            "timeouts",
            "log",
        ],
    },
    Section {
        name: "listen",
        keys: &[
            "https",
            "http",
            "admin",
            "admin_token_file",
            "backlog",
            "proxy_protocol_from",
            "trusted_proxies",
        ],
    },
    Section {
        name: "runtime",
        keys: &["threads", "handshake_nice", "state", "shutdown_grace", "max_connections", "user"],
    },
    Section {
        name: "certificates",
        keys: &["directory", "default", "tickets", "ticket_keys", "watch", "keep_last_good_for"],
    },
    Section { name: "sites", keys: &["directory"] },
    Section {
        name: "queues",
        keys: &[
            "file",
            "handshake_concurrency",
            "handshake_depth",
            "handshake_deadline",
            "handshake_order",
            "request_depth",
            "request_deadline",
            "in_flight",
            "age_alarm",
        ],
    },
    Section {
        name: "headers",
        keys: &[
            "requests",
            "responses",
            "shadow",
            "max_head",
            "max_fields",
            "rules_version",
            "rules",
        ],
    },
    Section { name: "timeouts", keys: &["hello", "head", "idle", "body", "connect", "response"] },
    Section { name: "log", keys: &["format", "access"] },
];

/// Places for handshakes under way on one handshake thread: at 3,000 a second, clients 300 ms away
/// take 900.
const HANDSHAKES_AT_ONCE: usize = 1_024;

/// Measured: with it, established requests keep their unloaded p99 under five times the capacity;
/// with 0 they do not.
const HANDSHAKE_NICE: u64 = 10;

/// Every key of `queues.toml`.
pub const QUEUES_FILE_KEYS: &[Section] = &[
    Section { name: "", keys: &["machine", "listen", "runtime", "queues", "costs"] },
    Section { name: "machine", keys: &["cores", "cpu", "version", "key_types", "measured"] },
    Section { name: "listen", keys: &["backlog"] },
    Section { name: "runtime", keys: &["max_connections"] },
    Section {
        name: "queues",
        keys: &[
            "handshake_concurrency",
            "handshake_depth",
            "handshake_deadline",
            "request_depth",
            "request_deadline",
            "in_flight",
            "age_alarm",
        ],
    },
    Section { name: "costs", keys: &["full_ecdsa", "full_rsa", "resumed"] },
];

/// Browsers open six connections to a host at most.
const TICKETS_MAX: u64 = 6;

const STATE_DEFAULT: &str = "run";

const MILLISECOND: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);

/// In years as durations are written: of 365.25 days.
const TEN_YEARS: Duration = Duration::from_secs(315_576_000);
/// The bound of every count that sizes a queue; more waiters than this are no queue but a leak.
const COUNT_MAX: u64 = 1_000_000;

/// The main file, and what it says of queues.
pub struct MainFile {
    pub listen: Listen,
    pub runtime: Runtime,
    pub certificates: Certificates,
    /// Where `certificates.default` stands.
    pub default_line: Option<u32>,
    pub sites: PathBuf,
    pub queues_file: PathBuf,
    /// Whether the queues' file was named by the operator; the default one need not exist.
    pub queues_file_named: bool,
    pub queues: QueueValues,
    pub headers: Headers,
    pub timeouts: Timeouts,
    pub log: Log,
}

/// What one file says of the queues; absent keys are `None`.
#[derive(Clone, Debug, Default)]
pub struct QueueValues {
    handshake_concurrency: Option<usize>,
    handshake_depth: Option<usize>,
    handshake_deadline: Option<Duration>,
    /// A choice and no figure: the main file's alone.
    handshake_order: Option<HandshakeOrder>,
    request_depth: Option<usize>,
    request_deadline: Option<Duration>,
    /// The inner `None` is the word `auto`.
    in_flight: Option<Option<u32>>,
    age_alarm: Option<Duration>,
    backlog: Option<u32>,
    connections_max: Option<usize>,
    costs: Option<HandshakeCosts>,
    machine: Option<Machine>,
}

impl MainFile {
    /// Reads the main file; `None` where it is no TOML.
    pub fn read(file: &Path, text: &str) -> (Option<MainFile>, Vec<Problem>) {
        let document = Document::main(file, text, KEYS);
        let read = document.parse().map(|root| {
            let root = document.root(&root);
            let queues = root.table("queues");
            let (listen, runtime) = (root.table("listen"), root.table("runtime"));
            let (queues_file, queues_file_named) = path(&document, &queues, "file", "queues.toml");
            let (certificates, sites) = (root.table("certificates"), root.table("sites"));
            MainFile {
                listen: listen::read(&listen),
                runtime: read_runtime(&document, &runtime),
                certificates: read_certificates(&document, &certificates),
                default_line: certificates.text("default").map(|(value, _)| value.line()),
                sites: directory(&document, &sites, "sites"),
                queues_file,
                queues_file_named,
                queues: QueueValues {
                    backlog: read_backlog(&listen),
                    connections_max: read_connections_max(&runtime),
                    handshake_order: read_order(&queues),
                    ..QueueValues::read(&queues)
                },
                headers: read_headers(&root.table("headers")),
                timeouts: read_timeouts(&root.table("timeouts")),
                log: read_log(&document, &root.table("log")),
            }
        });
        (read, document.into_problems())
    }
}

/// The state folder, as far as the main file can be read: a command must find the running edge
/// also while the file it would reload is broken.
pub fn state_folder(file: &Path, text: &str) -> PathBuf {
    let (root, _) = DeTable::parse_recoverable(text);
    let runtime = root.get_ref().get("runtime");
    let state = runtime.and_then(|runtime| runtime.get_ref().get("state"));
    let written = state.and_then(|state| state.get_ref().as_str()).filter(|text| !text.is_empty());
    file.parent().unwrap_or(Path::new("")).join(written.unwrap_or(STATE_DEFAULT))
}

impl QueueValues {
    /// Reads `queues.toml`; `None` where it is no TOML.
    pub fn read_file(file: &Path, text: &str) -> (Option<QueueValues>, Vec<Problem>) {
        let document = Document::main(file, text, QUEUES_FILE_KEYS);
        let read = document.parse().map(|root| {
            let root = document.root(&root);
            QueueValues {
                backlog: read_backlog(&root.table("listen")),
                connections_max: read_connections_max(&root.table("runtime")),
                costs: read_costs(&root),
                machine: root.value("machine").map(|_| read_machine(&root.table("machine"))),
                ..QueueValues::read(&root.table("queues"))
            }
        });
        (read, document.into_problems())
    }

    fn read(table: &Table<'_>) -> QueueValues {
        let count = |key, from| {
            table.value(key).and_then(|value| value.integer(from..=COUNT_MAX)).map(clamp_usize)
        };
        let duration =
            |key, to| table.value(key).and_then(|value| value.duration(MILLISECOND..=to));
        let hour = DAY / 24;
        QueueValues {
            handshake_concurrency: table
                .value("handshake_concurrency")
                .and_then(|value| value.auto(|value| value.integer(1..=COUNT_MAX)))
                .flatten()
                .map(clamp_usize),
            handshake_depth: count("handshake_depth", 1),
            handshake_deadline: duration("handshake_deadline", hour),
            request_depth: count("request_depth", 0),
            request_deadline: duration("request_deadline", hour),
            in_flight: table
                .value("in_flight")
                .and_then(|value| value.auto(|value| value.integer(1..=COUNT_MAX)))
                .map(|limit| limit.map(clamp_u32)),
            age_alarm: duration("age_alarm", hour),
            ..QueueValues::default()
        }
    }

    /// These values, and `other`'s where these say nothing.
    pub fn or(self, other: QueueValues) -> QueueValues {
        QueueValues {
            handshake_concurrency: self.handshake_concurrency.or(other.handshake_concurrency),
            handshake_depth: self.handshake_depth.or(other.handshake_depth),
            handshake_deadline: self.handshake_deadline.or(other.handshake_deadline),
            handshake_order: self.handshake_order,
            request_depth: self.request_depth.or(other.request_depth),
            request_deadline: self.request_deadline.or(other.request_deadline),
            in_flight: self.in_flight.or(other.in_flight),
            age_alarm: self.age_alarm.or(other.age_alarm),
            backlog: self.backlog.or(other.backlog),
            connections_max: self.connections_max.or(other.connections_max),
            costs: self.costs.or(other.costs),
            machine: self.machine.or(other.machine),
        }
    }

    /// Puts the values, and the defaults where there are none, where they act.
    pub fn settle(self, listen: &mut Listen, runtime: &mut Runtime) -> Queues {
        listen.backlog = self.backlog.unwrap_or(listen.backlog);
        runtime.connections_max = self.connections_max.unwrap_or(runtime.connections_max);
        Queues {
            handshake_concurrency: self.handshake_concurrency.unwrap_or(HANDSHAKES_AT_ONCE),
            handshake_depth: self.handshake_depth.unwrap_or(512),
            handshake_deadline: self.handshake_deadline.unwrap_or(Duration::from_secs(1)),
            handshake_order: self.handshake_order.unwrap_or(HandshakeOrder::Fair),
            request_depth: self.request_depth.unwrap_or(256),
            request_deadline: self.request_deadline.unwrap_or(Duration::from_secs(10)),
            in_flight: self.in_flight.flatten(),
            age_alarm: self.age_alarm.unwrap_or(Duration::from_secs(2)),
            costs: self.costs.unwrap_or_default(),
            measured_on: self.machine,
        }
    }
}

impl Default for HandshakeCosts {
    /// Measured with aws-lc-rs on one core of 2.5 GHz, one small request included.
    fn default() -> HandshakeCosts {
        HandshakeCosts { full_ecdsa: 150, full_rsa: 445, resumed: 120 }
    }
}

fn read_runtime(document: &Document<'_>, table: &Table<'_>) -> Runtime {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads =
        table.value("threads").and_then(|value| value.auto(|value| value.integer(1..=1024)));
    let user = table.text("user").and_then(|(value, _)| {
        value.parse("the name of a user of this system, or UID:GID", Account::find)
    });
    Runtime {
        threads: threads.flatten().map_or(cores, clamp_usize),
        handshake_nice: clamp_u8(table.integer("handshake_nice", 0..=19, HANDSHAKE_NICE)),
        state: read_state(document, table),
        shutdown_grace: table.duration(
            "shutdown_grace",
            Duration::ZERO..=DAY,
            Duration::from_secs(30),
        ),
        connections_max: connections_for(descriptor_limit()),
        user,
    }
}

fn read_state(document: &Document<'_>, table: &Table<'_>) -> PathBuf {
    let (folder, _) = path(document, table, "state", STATE_DEFAULT);
    if let Some(why) = state::impossible(&folder) {
        match table.value("state") {
            Some(value) => value.problem(why, "name a folder that can be made"),
            None => table.problem("state", why, "name a folder that can be made"),
        }
    }
    folder
}

fn read_order(queues: &Table<'_>) -> Option<HandshakeOrder> {
    let orders = [("fair", HandshakeOrder::Fair), ("arrival", HandshakeOrder::Arrival)];
    queues.value("handshake_order")?.one_of(&orders)
}

fn read_backlog(table: &Table<'_>) -> Option<u32> {
    Some(clamp_u32(table.value("backlog")?.integer(1..=COUNT_MAX)?))
}

fn read_connections_max(table: &Table<'_>) -> Option<usize> {
    let value = table.value("max_connections")?;
    let wanted = clamp_usize(value.auto(|value| value.integer(1..=10_000_000))??);
    let limit = descriptor_limit();
    if wanted > connections_for(limit) {
        let what = format!(
            "found {wanted}, but {limit} file descriptors allow only {}: two a connection, less a \
             reserve",
            connections_for(limit)
        );
        value.warning(what, "raise the limit (LimitNOFILE= in a unit, ulimit -Hn)");
    }
    Some(wanted)
}

fn read_certificates(document: &Document<'_>, table: &Table<'_>) -> Certificates {
    let ticket_keys = table.text("ticket_keys").map(|(value, text)| {
        let path = document.path(text);
        expect_file(&value, &path);
        path
    });
    Certificates {
        directory: directory(document, table, "certs"),
        default: table.text("default").map(|(_, name)| name.to_string()),
        tickets: clamp_usize(table.integer("tickets", 0..=TICKETS_MAX, 1)),
        ticket_keys,
        watch: table.value("watch").and_then(|value| value.boolean()).unwrap_or(false),
        keep_last_good_for: table
            .text("keep_last_good_for")
            .and_then(|(value, _)| value.duration(Duration::from_secs(1)..=TEN_YEARS)),
    }
}

fn read_headers(table: &Table<'_>) -> Headers {
    Headers::default().overridden(table, table.value("rules"))
}

fn read_timeouts(table: &Table<'_>) -> Timeouts {
    let seconds =
        |key, default| table.duration(key, MILLISECOND..=DAY, Duration::from_secs(default));
    Timeouts {
        hello: seconds("hello", 5),
        head: seconds("head", 10),
        idle: seconds("idle", 60),
        body: seconds("body", 30),
        connect: seconds("connect", 2),
        response: seconds("response", 60),
    }
}

fn read_log(document: &Document<'_>, table: &Table<'_>) -> Log {
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let format = table.value("format").and_then(|value| value.one_of(&formats));
    let access = match table.text("access") {
        None | Some((_, "stdout")) => AccessLog::Stdout,
        Some((_, "off")) => AccessLog::Off,
        Some((value, "stderr")) => {
            let remedy = "the program's own log has it; a file of that name is \"./stderr\"";
            value.wrong_with("stdout, off or a file", remedy);
            AccessLog::Stdout
        }
        Some((value, written)) => {
            let path = document.path(written);
            // Of a bare name the folder is the one where sluss runs.
            let folder = path.parent().map(|folder| match folder.as_os_str().is_empty() {
                true => Path::new("."),
                false => folder,
            });
            if path.is_dir() || !folder.is_some_and(Path::is_dir) {
                let what = format!(
                    "found {written:?}, expected stdout, off or a file in a folder that exists"
                );
                value.problem(what, "make the folder, or name another file");
            }
            AccessLog::File(path)
        }
    };
    Log { format: format.unwrap_or(LogFormat::Text), access }
}

fn read_costs(root: &Table<'_>) -> Option<HandshakeCosts> {
    root.value("costs")?;
    let (table, default) = (root.table("costs"), HandshakeCosts::default());
    let cost = |key, default: u32| clamp_u32(table.integer(key, 1..=COUNT_MAX, default.into()));
    Some(HandshakeCosts {
        full_ecdsa: cost("full_ecdsa", default.full_ecdsa),
        full_rsa: cost("full_rsa", default.full_rsa),
        resumed: cost("resumed", default.resumed),
    })
}

fn read_machine(table: &Table<'_>) -> Machine {
    let text = |key| table.text(key).map(|(_, text)| text.to_string());
    let cores = table.value("cores").and_then(|value| value.integer(1..=COUNT_MAX));
    Machine {
        cores: cores.map(clamp_usize),
        cpu: text("cpu"),
        version: text("version"),
        key_types: text("key_types"),
        measured: text("measured"),
    }
}

/// A folder that must be there.
fn directory(document: &Document<'_>, table: &Table<'_>, default: &str) -> PathBuf {
    let (path, _) = path(document, table, "directory", default);
    if !path.is_dir() {
        let what = format!("the folder {} does not exist", path.display());
        let remedy = "make it, or name another; paths are relative to the file they stand in";
        match table.value("directory") {
            Some(value) => value.problem(what, remedy),
            None => table.problem("directory", what, remedy),
        }
    }
    path
}

/// A path, and whether it was written.
fn path(
    document: &Document<'_>,
    table: &Table<'_>,
    key: &'static str,
    default: &str,
) -> (PathBuf, bool) {
    match table.text(key) {
        Some((_, written)) => (document.path(written), written != default),
        None => (document.path(default), false),
    }
}

/// Tells where `path` is no file that can be opened.
pub fn expect_file(value: &Value<'_>, path: &Path) {
    if let Err(error) = plain_file::open(path) {
        let what = format!("{} cannot be opened: {error}", path.display());
        value.problem(what, "name a file that this user may read");
    }
}

/// For numbers that a range check has bounded already.
pub fn clamp_u32(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn clamp_u8(number: u64) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

fn clamp_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
