//! The commands and their exit codes: 0 done, 1 refused or failed, 2 usage, 3 done in part.
//!
//! Messages for people go to standard error, results to standard output.

mod certs;
mod check;
mod client;
mod demo;
mod findings;
mod load;
mod reload;
mod size;
mod status;
mod table;
mod top;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::server;

/// Looked for in this order where no `-c` says otherwise.
const DEFAULT_FILES: [&str; 2] = ["config/sluss.toml", "/etc/sluss/sluss.toml"];

#[derive(Debug, Parser)]
#[command(
    name = "sluss",
    version,
    about = "A TLS edge: bounded fair queues, header screening, atomic reload"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the edge in the foreground
    Run {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Verify everything that a start or a reload would, and change nothing
    Check(check::Arguments),
    /// Show every certificate of the running edge
    Certs(certs::Arguments),
    /// Show what the header rules of the running edge found
    Findings(findings::Arguments),
    /// Show state and alarms of the running edge: exit code 3 where an alarm stands
    Status(status::Arguments),
    /// Let the running edge read its files again, and tell what came of it
    Reload(reload::Arguments),
    /// Try sluss: an edge, three sites and their certificates, from nothing
    Demo(demo::Demo),
    /// Watch queues, sites and latencies of the running edge, live
    Top(top::Arguments),
    /// Load a server in an open loop and report what its visitors would have seen
    Load(Box<load::Arguments>),
    /// Measure what the edge can do on this machine and size its queues from it
    Size(size::Arguments),
}

/// `-c FILE`.
#[derive(Args, Clone, Debug)]
struct ConfigFile {
    /// The main file [default: config/sluss.toml, else /etc/sluss/sluss.toml]
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    file: Option<PathBuf>,
}

impl ConfigFile {
    /// The same where it must be there: else the answer would be about nothing.
    fn existing(&self) -> anyhow::Result<PathBuf> {
        let path = self.path();
        anyhow::ensure!(
            path.exists(),
            "there is no {}; name the edge's main file with -c",
            path.display()
        );
        Ok(path)
    }

    /// The file that was named, else the first default that exists, else the first default.
    fn path(&self) -> PathBuf {
        let defaults = DEFAULT_FILES.map(Path::new);
        let found = defaults.iter().find(|path| path.exists()).unwrap_or(&defaults[0]);
        self.file.clone().unwrap_or_else(|| found.to_path_buf())
    }
}

/// Runs the command of the process' arguments.
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Run { config } => server::run(&config.path(), server::Greeting::None),
        Command::Reload(arguments) => reload::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Certs(arguments) => certs::run(&arguments),
        Command::Findings(arguments) => findings::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Top(arguments) => top::run(&arguments),
        Command::Load(arguments) => load::run(&arguments),
        Command::Size(arguments) => size::run(&arguments),
    }
}
