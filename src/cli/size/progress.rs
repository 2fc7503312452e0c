//! What is being done, on standard error: a line that changes on a terminal, and one for each
//! result that stays.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// The line and its clock.
pub struct Progress(ProgressBar);

impl Progress {
    /// Shows nothing yet; nothing that changes where standard error is no terminal.
    pub fn new() -> Progress {
        if !std::io::stderr().is_terminal() {
            return Progress(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} {elapsed} {msg}")
            .expect("the template is a constant");
        bar.set_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        Progress(bar)
    }

    /// What goes on now.
    pub fn now(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }

    /// A result.
    pub fn done(&self, what: &str) {
        self.0.suspend(|| eprintln!("{what}"));
    }

    /// Takes the line away.
    pub fn clear(&self) {
        self.0.finish_and_clear();
    }
}
