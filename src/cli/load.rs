//! `sluss load`: arguments → plan, live figures while it runs, the report in the form asked for.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::load::hosts::Hosts;
use crate::load::outcome::{Family, Outcome};
use crate::load::report::Report;
use crate::load::sources::Sources;
use crate::load::target::{Target, Url};
use crate::load::trust::Trust;
use crate::load::{Live, Plan, Traffic, compare, page, table};

mod traffic;

use traffic::Written;

/// Longer runs are a mistake more often than a wish.
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);
/// Arrivals of all traffics together.
const ARRIVALS_MAX: f64 = 1e9;

/// The arguments of `sluss load`.
#[derive(Args, Debug)]
#[command(after_long_help = traffic::HELP)]
pub struct Arguments {
    /// What to load: https://HOST[:PORT][/PATH]
    #[arg(required_unless_present = "compare")]
    url: Option<String>,
    /// Arrivals a second, for all traffics that name no rate of their own
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// How long arrivals come
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// constant, poisson, ramp:FROM:TO, step:FROM:TO:STEPS or burst:SIZE:EVERY
    #[arg(long, default_value = "poisson")]
    arrivals: String,
    /// One kind of traffic, as KEY=VALUE,...; may be repeated, see below
    #[arg(long, value_name = "KEY=VALUE,...", default_value = "kind=requests")]
    traffic: Vec<String>,
    /// Hosts to ask for, one a line, each with a weight if it is not 1
    #[arg(long, value_name = "FILE")]
    hosts: Option<PathBuf>,
    /// Weigh the hosts by their place in the file: the n-th by 1/n^S
    #[arg(long, value_name = "S", requires = "hosts")]
    zipf: Option<f64>,
    /// Connect here, whatever names are asked for
    #[arg(long, value_name = "HOST:PORT")]
    connect: Option<String>,
    /// Believe the authorities in this PEM file
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// Believe every certificate
    #[arg(long, conflicts_with = "cacert")]
    insecure: bool,
    /// The same seed offers the same schedule
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Work under way at once in each traffic; what is due beyond is counted as not sent
    #[arg(long, value_name = "COUNT", default_value_t = 20_000)]
    in_flight: usize,
    /// Repeats the name of a target that is not loopback: a load test of another's is an attack
    #[arg(long, value_name = "NAME")]
    i_own_this_host: Option<String>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Write the report as one page with figures
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Run nothing; compare two JSON reports
    #[arg(long, num_args = 2, value_names = ["A.json", "B.json"])]
    compare: Option<Vec<PathBuf>>,
}

/// Exit code of arguments that cannot be meant.
const USAGE: u8 = 2;
/// Exit code of a run whose figures say little: see [`is_worthless`].
const WORTHLESS: u8 = 3;

/// Runs the load and prints its report: 0 where it ran, 1 where it could not, 2 where the arguments
/// cannot be meant, 3 where the result is not to be trusted or nothing was done.
pub fn run(arguments: &Arguments) -> ExitCode {
    let told = |error: anyhow::Error, code| {
        eprintln!("sluss load: {error:#}");
        ExitCode::from(code)
    };
    if let Some([before, after]) = arguments.compare.as_deref() {
        let compared = compared(before, after);
        return compared.map_or_else(|error| told(error, 1), |()| ExitCode::SUCCESS);
    }
    let wanted = match Wanted::read(arguments) {
        Ok(wanted) => wanted,
        Err(error) => return told(error, USAGE),
    };
    match load(wanted, arguments) {
        Ok(report) if is_worthless(&report) => ExitCode::from(WORTHLESS),
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => told(error, 1),
    }
}

fn compared(before: &Path, after: &Path) -> Result<()> {
    write(&compare::text(&read_report(before)?, &read_report(after)?))
}

fn load(wanted: Wanted, arguments: &Arguments) -> Result<Report> {
    let plan = wanted.plan(arguments)?;
    let progress = Progress::new(&plan);
    let report = crate::load::run(&plan, |lives, elapsed| progress.show(lives, elapsed))?;
    progress.clear();
    print(&report, arguments)?;
    Ok(report)
}

/// Whether the generator itself was late, or nothing of all that was asked for was done.
fn is_worthless(report: &Report) -> bool {
    let done = Outcome::ALL.iter().filter(|outcome| outcome.family() == Family::Done);
    let done: Vec<&str> = done.map(|outcome| outcome.name()).collect();
    let is_done =
        |(outcome, count): (&String, &u64)| *count > 0 && done.contains(&outcome.as_str());
    let traffics = &report.traffics;
    traffics.iter().any(|traffic| !traffic.generator.behind.is_empty())
        || !traffics.iter().any(|traffic| traffic.outcomes.iter().any(is_done))
}

fn print(report: &Report, arguments: &Arguments) -> Result<()> {
    let text = if arguments.json {
        serde_json::to_string_pretty(report)? + "\n"
    } else {
        table::text(report)
    };
    write(&text)?;
    let Some(file) = &arguments.html else { return Ok(()) };
    std::fs::write(file, page::html(report))
        .with_context(|| format!("cannot write {}", file.display()))
}

fn write(text: &str) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("cannot write the report")
}

fn read_report(file: &Path) -> Result<Report> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is no report of sluss load --json", file.display()))
}

/// What the arguments say, before anything is looked for.
struct Wanted {
    url: Url,
    traffics: Vec<Traffic>,
}

impl Wanted {
    fn read(arguments: &Arguments) -> Result<Wanted> {
        let url = Url::parse(arguments.url.as_deref().unwrap_or(""))?;
        let duration = arguments.duration;
        if duration.is_zero() || duration > DURATION_MAX {
            bail!("--duration must be longer than zero and at most a day");
        }
        let hosts = match &arguments.hosts {
            Some(file) => read_hosts(file, arguments.zipf)?,
            None => Hosts::single(url.host.clone()),
        };
        let usual = traffic::Usual {
            rate: arguments.rate,
            arrivals: &arguments.arrivals,
            duration,
            hosts: &hosts,
            path: &url.path,
        };
        let traffics: Vec<Traffic> = arguments
            .traffic
            .iter()
            .map(|text| {
                Written::parse(text)
                    .and_then(|written| written.resolve(&usual))
                    .with_context(|| format!("--traffic '{text}'"))
            })
            .collect::<Result<_>>()?;
        let expected: f64 =
            traffics.iter().map(|traffic| traffic.arrivals.expected(traffic.length)).sum();
        if expected > ARRIVALS_MAX {
            bail!("{expected:.0} arrivals are more than a run may have ({ARRIVALS_MAX:.0})");
        }
        Ok(Wanted { url, traffics })
    }

    fn plan(self, arguments: &Arguments) -> Result<Plan> {
        let Wanted { url, traffics } = self;
        let duration = arguments.duration;
        let target =
            Target::find(url, arguments.connect.as_deref(), arguments.i_own_this_host.as_deref())?;
        let several = traffics.iter().find(|traffic| traffic.sources > 1);
        if let Some(traffic) = several.filter(|_| !Sources::are_there_for(target.address)) {
            bail!(
                "{}: sources={} needs a target at an IPv4 loopback address; it is {}",
                traffic.name,
                traffic.sources,
                target.address
            );
        }
        let trust = match (&arguments.cacert, arguments.insecure) {
            (Some(file), _) => Trust::Authorities(file.clone()),
            (None, true) => Trust::Nobody,
            (None, false) => Trust::System,
        };
        Ok(Plan {
            target,
            traffics,
            duration,
            seed: arguments.seed,
            trust,
            in_flight_max: arguments.in_flight,
        })
    }
}

fn read_hosts(file: &Path, zipf: Option<f64>) -> Result<Hosts> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the hosts in {}", file.display()))?;
    Hosts::parse(&text, zipf).with_context(|| file.display().to_string())
}

/// The live figures on a terminal's standard error; nothing elsewhere.
struct Progress {
    bar: ProgressBar,
    names: Vec<String>,
    seen: std::cell::RefCell<Vec<Seen>>,
}

/// A traffic's figures at the last look.
#[derive(Clone, Copy, Default)]
struct Seen {
    at: Duration,
    offered: u64,
    ended: [u64; Family::ALL.len()],
    latency: Duration,
}

impl Progress {
    fn new(plan: &Plan) -> Progress {
        let bar = if std::io::stderr().is_terminal() {
            ProgressBar::new(plan.duration.as_millis().try_into().unwrap_or(u64::MAX))
        } else {
            ProgressBar::hidden()
        };
        let style = ProgressStyle::with_template("{bar:30} {percent:>3} %{msg}")
            .expect("the template is a constant");
        bar.set_style(style);
        let names = plan.traffics.iter().map(|traffic| traffic.name.clone()).collect();
        let seen = vec![Seen::default(); plan.traffics.len()].into();
        Progress { bar, names, seen }
    }

    fn show(&self, lives: &[Arc<Live>], elapsed: Duration) {
        let mut message = String::new();
        let mut seen = self.seen.borrow_mut();
        for ((live, name), seen) in lives.iter().zip(&self.names).zip(seen.iter_mut()) {
            let now = Seen {
                at: elapsed,
                offered: live.offered(),
                ended: Family::ALL.map(|family| live.ended(family)),
                latency: live.latency_sum(),
            };
            message.push_str("\n  ");
            message.push_str(&live_line(name, seen, &now));
            *seen = now;
        }
        self.bar.set_position(elapsed.as_millis().try_into().unwrap_or(u64::MAX));
        self.bar.set_message(message);
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// One traffic since the last look; what did not happen is left out, so that it fits a line.
fn live_line(name: &str, before: &Seen, now: &Seen) -> String {
    let seconds = now.at.saturating_sub(before.at).as_secs_f64().max(1e-3);
    let a_second = |now: u64, before: u64| (now - before) as f64 / seconds;
    let mut line = format!("{name:<12} {:.0}/s offered", a_second(now.offered, before.offered));
    for family in Family::ALL {
        let count = a_second(now.ended[family as usize], before.ended[family as usize]);
        if count > 0.0 {
            line += &format!(", {count:.0} {}", family.name());
        }
    }
    let done = now.ended[Family::Done as usize] - before.ended[Family::Done as usize];
    if done > 0 {
        let sum = (now.latency - before.latency).as_secs_f64() * 1000.0;
        line += &format!(", {:.1} ms", sum / done as f64);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_line_tells_what_happened_since_the_last() {
        let before = Seen { offered: 100, ended: [90, 0, 0, 5], ..Seen::default() };
        let now = Seen {
            at: Duration::from_millis(500),
            offered: 200,
            ended: [140, 10, 0, 5],
            latency: Duration::from_millis(100),
        };
        let expected = "flood        200/s offered, 100 done, 20 refused, 2.0 ms";
        assert_eq!(live_line("flood", &before, &now), expected);
        assert_eq!(live_line("flood", &now, &now), "flood        0/s offered");
    }
}
