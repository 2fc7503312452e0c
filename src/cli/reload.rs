//! `sluss reload`: signals the running edge and waits for its report; with `--admin` it asks over the
//! admin listener, from wherever that is reached.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::client::EdgeArguments;
use crate::config::report::Report;
use crate::config::state;

/// 100,000 certificates on a cold disk take far less; whoever waits longer should look themselves.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often the report is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// `sluss reload`
#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    edge: EdgeArguments,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command: exit 0 all applied, 3 applied in part, 1 refused or no edge found.
pub fn run(arguments: &Arguments) -> ExitCode {
    match reload(arguments) {
        Ok(report) => {
            print(&report, arguments);
            ExitCode::from(report.exit_code())
        }
        Err(why) => {
            eprintln!("sluss reload: {why:#}");
            ExitCode::FAILURE
        }
    }
}

fn reload(arguments: &Arguments) -> Result<Report> {
    if arguments.edge.is_named() {
        return arguments.edge.find()?.reload();
    }
    let folder = arguments.edge.state_folder()?;
    let running = state::find(&folder).map_err(|error| {
        anyhow!("{error}; start one with `sluss run`, or name its file with -c")
    })?;
    let before = state::read_report(&folder).map_or(0, |filed| filed.attempt);
    let pid = i32::try_from(running.pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| anyhow!("{} is no process", running.pid))?;
    kill_process(pid, Signal::HUP).map_err(|error| {
        anyhow!("process {} cannot be signalled: {error}; run it as the edge's user", running.pid)
    })?;
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        match state::read_report(&folder).filter(|filed| filed.attempt > before) {
            Some(filed) => return Ok(filed.report),
            None => thread::sleep(LOOK_EVERY),
        }
    }
    bail!("no report after {} s; see the edge's log", PATIENCE.as_secs())
}

fn print(report: &Report, arguments: &Arguments) {
    if !arguments.json {
        return print!("{}", report.text());
    }
    match serde_json::to_string_pretty(report) {
        Ok(json) => println!("{json}"),
        Err(error) => eprintln!("sluss reload: the report cannot be printed: {error}"),
    }
}
