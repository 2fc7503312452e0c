//! `sluss reload`: signals the running edge and waits for its report.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::ConfigFile;
use crate::config::state::{self, Filed};
use crate::config::{self};

/// 100,000 certificates on a cold disk take far less; whoever waits longer should look themselves.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often the report is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// `sluss reload`
#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command: exit 0 all applied, 3 applied in part, 1 refused or no edge found.
pub fn run(arguments: &Arguments) -> ExitCode {
    match reload(arguments) {
        Ok(filed) => {
            print(&filed, arguments);
            ExitCode::from(filed.report.exit_code())
        }
        Err(why) => {
            eprintln!("sluss reload: {why}");
            ExitCode::FAILURE
        }
    }
}

fn reload(arguments: &Arguments) -> Result<Filed, String> {
    let folder = config::state_folder(&arguments.config.path());
    let running = state::find(&folder).map_err(|error| {
        format!("{error}; start one with `sluss run`, or name its file with -c")
    })?;
    let before = state::read_report(&folder).map_or(0, |filed| filed.attempt);
    let pid = i32::try_from(running.pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| format!("{} is no process", running.pid))?;
    kill_process(pid, Signal::HUP).map_err(|error| {
        format!("process {} cannot be signalled: {error}; run it as the edge's user", running.pid)
    })?;
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        match state::read_report(&folder).filter(|filed| filed.attempt > before) {
            Some(filed) => return Ok(filed),
            None => thread::sleep(LOOK_EVERY),
        }
    }
    Err(format!("no report after {} s; see the edge's log", PATIENCE.as_secs()))
}

fn print(filed: &Filed, arguments: &Arguments) {
    if !arguments.json {
        return print!("{}", filed.report.text());
    }
    match serde_json::to_string_pretty(&filed.report) {
        Ok(json) => println!("{json}"),
        Err(error) => eprintln!("sluss reload: the report cannot be printed: {error}"),
    }
}
