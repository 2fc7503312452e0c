//! One `--traffic` argument: what was written, and the traffic it stands for.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::load::arrivals::Arrivals;
use crate::load::hosts::Hosts;
use crate::load::odd::{Abort, Slow};
use crate::load::sources::SOURCES_MAX;
use crate::load::trust::{Group, Versions};
use crate::load::{Kind, Protocol, Then, Traffic};
use crate::names::Hostname;

/// The shortest step of a slow visitor: faster, it is not slow.
const STEP_MIN: Duration = Duration::from_millis(1);
/// Threads of one traffic: more cores than this drive several generators.
const THREADS_MAX: usize = 64;

/// The keys, for `sluss load --help`.
pub(super) const HELP: &str = "\
Traffic: --traffic 'kind=KIND,KEY=VALUE,...' may be repeated; all run side by side and are reported
apart. Kinds:
  requests        over connections that stand before the run: connections=16, streams=1
  handshakes      a new connection and a full handshake each; then=close|request
  resumed         a new connection and a resumed session each; then=close|request
  slow-senders    a byte each step=1s, in slow=hello|head|body, until the server loses patience
  slow-readers    a request, and a KiB of the answer each step=1s
  malformed       a head that is wrong in one way, fourteen ways in turn
  aborts          a reset at=connect|hello|handshake|request|mixed
Keys of every kind:
  name=NAME          in the report (the kind)
  rate=R             arrivals a second (--rate)
  arrivals=HOW       as --arrivals
  start=TIME         the first arrival's earliest time (0s)
  duration=TIME      how long arrivals come (to the end of --duration)
  timeout=TIME       how long a visitor waits, from when it was due (10s)
  host=NAME          whom to ask for (the URL's host, or --hosts); also hosts=FILE, zipf=S
  path=/PATH         what to ask for (the URL's)
  protocol=h1|h2     HTTP/1.1 or HTTP/2 (h1); streams=N needs h2
  tls=1.2|1.3|both   versions offered (both)
  group=NAME         x25519 | x25519mlkem768 | p256 | p384, offered first (x25519)
  expect=TEXT        what every body must hold; {host} stands for the name asked for
  threads=N          generator threads of this traffic (1)
  sources=N          loopback addresses that its connections come from, 127.0.0.1 and on (1); from
                     some 2,000 new connections a second on, one costs the generator dear

Examples:
  sluss load https://127.0.0.1:8443/ --insecure --rate 500
  sluss load https://shop.example --connect 127.0.0.1:8443 --cacert ca.pem \\
    --traffic 'kind=requests,name=established,rate=500,connections=16' \\
    --traffic 'kind=handshakes,name=flood,rate=10000,timeout=1500ms'";

const KEYS: [&str; 23] = [
    "kind",
    "name",
    "rate",
    "arrivals",
    "start",
    "duration",
    "timeout",
    "host",
    "hosts",
    "zipf",
    "path",
    "protocol",
    "tls",
    "group",
    "expect",
    "threads",
    "sources",
    "connections",
    "streams",
    "then",
    "step",
    "slow",
    "at",
];

/// What stands in for keys that were not written.
pub(super) struct Usual<'a> {
    pub(super) rate: f64,
    pub(super) arrivals: &'a str,
    pub(super) duration: Duration,
    pub(super) hosts: &'a Hosts,
    pub(super) path: &'a str,
}

/// Keys with their values; each known and at most once.
#[derive(Debug)]
pub(super) struct Written(Vec<(String, String)>);

impl Written {
    pub(super) fn parse(text: &str) -> Result<Written> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for part in text.split(',') {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| anyhow!("expected KEY=VALUE, found '{part}'"))?;
            if !KEYS.contains(&key) {
                bail!("unknown key '{key}'; {}", nearest(key));
            }
            if pairs.iter().any(|(known, _)| known == key) {
                bail!("'{key}' stands twice");
            }
            pairs.push((key.to_owned(), value.to_owned()));
        }
        Ok(Written(pairs))
    }

    pub(super) fn resolve(&self, usual: &Usual<'_>) -> Result<Traffic> {
        let kind = self.kind()?;
        let start = self.time("start")?.unwrap_or(Duration::ZERO);
        let left = usual.duration.saturating_sub(start);
        let length = self.time("duration")?.unwrap_or(left);
        if length.is_zero() || length > left {
            bail!("start and duration must lie within --duration");
        }
        let rate = self.number("rate")?.unwrap_or(usual.rate);
        if rate <= 0.0 {
            bail!("the rate must be more than zero");
        }
        let arrivals = self.value("arrivals").unwrap_or(usual.arrivals);
        let patience = self.time("timeout")?.unwrap_or(Duration::from_secs(10));
        if patience.is_zero() || patience > Duration::from_secs(3600) {
            bail!("timeout must be longer than zero and at most an hour");
        }
        let threads = self.count("threads")?.unwrap_or(1);
        if threads > THREADS_MAX {
            bail!("threads must be at most {THREADS_MAX}");
        }
        let sources = self.count("sources")?.unwrap_or(1);
        if sources > SOURCES_MAX as usize {
            bail!("sources must be at most {SOURCES_MAX}");
        }
        let path = self.value("path").unwrap_or(usual.path);
        if !path.starts_with('/') || path.bytes().any(|byte| byte <= b' ' || byte >= 0x7F) {
            bail!("path must begin with a slash and hold no blanks");
        }
        Ok(Traffic {
            name: self.value("name").unwrap_or(kind.name()).to_owned(),
            kind,
            arrivals: Arrivals::parse(arrivals, Some(rate)).context("arrivals")?,
            start,
            length,
            patience,
            hosts: self.hosts(usual.hosts)?,
            path: path.to_owned(),
            protocol: self.protocol(kind)?,
            versions: self.versions()?,
            group: self.group()?,
            expect: self.value("expect").map(str::to_owned),
            threads,
            sources: sources as u32,
        })
    }

    fn kind(&self) -> Result<Kind> {
        let then = match self.value("then") {
            None | Some("close") => Then::Close,
            Some("request") => Then::Request,
            Some(other) => bail!("then={other}: expected close or request"),
        };
        match self.value("kind") {
            None | Some("requests") => Ok(Kind::Requests {
                connections: self.count("connections")?.unwrap_or(16),
                streams: self.count("streams")?.unwrap_or(1),
            }),
            Some("handshakes") => Ok(Kind::Handshakes(then)),
            Some("resumed") => Ok(Kind::Resumed(then)),
            Some("slow-senders") => {
                Ok(Kind::SlowSenders { slow: self.slow()?, step: self.step()? })
            }
            Some("slow-readers") => Ok(Kind::SlowReaders { step: self.step()? }),
            Some("malformed") => Ok(Kind::Malformed),
            Some("aborts") => Ok(Kind::Aborts(self.abort()?)),
            Some(other) => bail!(
                "kind={other}: expected requests, handshakes, resumed, slow-senders, \
                 slow-readers, malformed or aborts"
            ),
        }
    }

    fn step(&self) -> Result<Duration> {
        let step = self.time("step")?.unwrap_or(Duration::from_secs(1));
        if step < STEP_MIN {
            bail!("step must be at least {}", humantime::format_duration(STEP_MIN));
        }
        Ok(step)
    }

    fn slow(&self) -> Result<Slow> {
        match self.value("slow") {
            Some("hello") => Ok(Slow::Hello),
            None | Some("head") => Ok(Slow::Head),
            Some("body") => Ok(Slow::Body),
            Some(other) => bail!("slow={other}: expected hello, head or body"),
        }
    }

    fn abort(&self) -> Result<Abort> {
        match self.value("at") {
            Some("connect") => Ok(Abort::Connect),
            Some("hello") => Ok(Abort::Hello),
            Some("handshake") => Ok(Abort::Handshake),
            Some("request") => Ok(Abort::Request),
            None | Some("mixed") => Ok(Abort::Mixed),
            Some(other) => {
                bail!("at={other}: expected connect, hello, handshake, request or mixed")
            }
        }
    }

    fn protocol(&self, kind: Kind) -> Result<Protocol> {
        let protocol = match self.value("protocol") {
            None | Some("h1") => Protocol::H1,
            Some("h2") => Protocol::H2,
            Some(other) => bail!("protocol={other}: expected h1 or h2"),
        };
        if let (Kind::Requests { streams: 2.., .. }, Protocol::H1) = (kind, protocol) {
            bail!("HTTP/1.1 has one stream at a time; add protocol=h2");
        }
        let can = matches!(kind, Kind::Requests { .. } | Kind::Handshakes(_) | Kind::Resumed(_));
        if protocol == Protocol::H2 && !can {
            bail!("{} speaks HTTP/1.1 only", kind.name());
        }
        Ok(protocol)
    }

    fn hosts(&self, usual: &Hosts) -> Result<Hosts> {
        let zipf = self.number("zipf")?;
        match (self.value("host"), self.value("hosts")) {
            (Some(_), Some(_)) => bail!("host and hosts exclude each other"),
            (Some(name), None) => Ok(Hosts::single(Hostname::parse(name).context("host")?)),
            (None, Some(file)) => super::read_hosts(&PathBuf::from(file), zipf),
            (None, None) if zipf.is_some() => bail!("zipf needs hosts"),
            (None, None) => Ok(usual.clone()),
        }
    }

    fn versions(&self) -> Result<Versions> {
        match self.value("tls") {
            None | Some("both") => Ok(Versions::Both),
            Some("1.2") => Ok(Versions::Tls12),
            Some("1.3") => Ok(Versions::Tls13),
            Some(other) => bail!("tls={other}: expected 1.2, 1.3 or both"),
        }
    }

    fn group(&self) -> Result<Group> {
        match self.value("group") {
            None | Some("x25519") => Ok(Group::X25519),
            Some("x25519mlkem768") => Ok(Group::X25519MlKem768),
            Some("p256") => Ok(Group::P256),
            Some("p384") => Ok(Group::P384),
            Some(other) => {
                bail!("group={other}: expected x25519, x25519mlkem768, p256 or p384")
            }
        }
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    fn time(&self, key: &str) -> Result<Option<Duration>> {
        let parse = |text| {
            humantime::parse_duration(text)
                .with_context(|| format!("{key}={text}: expected a time such as 500ms or 10s"))
        };
        self.value(key).map(parse).transpose()
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(text) = self.value(key) else { return Ok(None) };
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() && number >= 0.0 => Ok(Some(number)),
            Ok(_) | Err(_) => bail!("{key}={text}: expected a number, zero or more"),
        }
    }

    fn count(&self, key: &str) -> Result<Option<usize>> {
        let Some(text) = self.value(key) else { return Ok(None) };
        match text.parse::<usize>() {
            Ok(count) if (1..=100_000).contains(&count) => Ok(Some(count)),
            Ok(_) | Err(_) => bail!("{key}={text}: expected a number from 1 to 100000"),
        }
    }
}

fn nearest(key: &str) -> String {
    let near = KEYS
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key)));
    near.map_or(String::new(), |near| format!("did you mean '{near}'?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<Traffic> {
        let hosts = Hosts::single(Hostname::parse("a.example").unwrap());
        Written::parse(text)?.resolve(&Usual {
            rate: 100.0,
            arrivals: "poisson",
            duration: Duration::from_secs(10),
            hosts: &hosts,
            path: "/",
        })
    }

    #[track_caller]
    fn check_refused(text: &str, expected: &str) {
        let error = format!("{:#}", resolve(text).expect_err(text));
        assert!(error.contains(expected), "{text}: {error}");
    }

    #[test]
    fn sources_are_bounded() {
        assert_eq!(resolve("kind=handshakes,sources=250").unwrap().sources, 250);
        check_refused("kind=handshakes,sources=251", "sources must be at most 250");
        check_refused("kind=handshakes,sources=0", "from 1");
    }

    #[test]
    fn what_is_not_written_comes_from_the_run() {
        let traffic = resolve("kind=handshakes").unwrap();
        assert_eq!((traffic.threads, traffic.sources), (1, 1));
        assert_eq!(
            (traffic.name.as_str(), traffic.kind),
            ("handshakes", Kind::Handshakes(Then::Close))
        );
        assert_eq!(traffic.arrivals.to_string(), "poisson 100/s");
        assert_eq!(traffic.length, Duration::from_secs(10));
        let late = resolve("kind=resumed,then=request,start=4s,rate=7,arrivals=constant").unwrap();
        assert_eq!((late.start, late.length), (Duration::from_secs(4), Duration::from_secs(6)));
        assert_eq!(late.arrivals.to_string(), "constant 7/s");
    }

    #[test]
    fn mistakes_are_told_with_what_was_expected() {
        check_refused("kind", "expected KEY=VALUE");
        check_refused("knid=requests", "did you mean 'kind'?");
        check_refused("kind=dances", "expected requests");
        check_refused("kind=requests,kind=resumed", "stands twice");
        check_refused("rate=-1", "zero or more");
        check_refused("rate=0", "more than zero");
        check_refused("connections=0", "from 1 to");
        check_refused("timeout=fast", "expected a time");
        check_refused("start=11s", "within --duration");
        check_refused("start=5s,duration=6s", "within --duration");
        check_refused("arrivals=ramp:1", "ramp:FROM:TO");
        check_refused("host=a/b", "host");
        check_refused("zipf=1", "zipf needs hosts");
        check_refused("path=x", "slash");
        check_refused("kind=requests,streams=4", "add protocol=h2");
        check_refused("kind=malformed,protocol=h2", "HTTP/1.1 only");
        check_refused("kind=aborts,at=lunch", "expected connect");
        check_refused("kind=slow-senders,step=0s", "at least 1ms");
        check_refused("kind=slow-senders,slow=trailer", "expected hello");
    }
}
