//! What is wrong with an operator's file, said so that it can be mended without asking anybody.
//!
//! Loading never stops at the first problem: every room that reads files collects all of them.
//! A problem is data; who prints it decides between text and JSON.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One defect of a file the operator wrote or another program left.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Problem {
    /// How much harm it does.
    pub severity: Severity,
    /// The file, as the operator would name it.
    pub file: PathBuf,
    /// The line, from 1, where the file has lines and the place is known.
    pub line: Option<u32>,
    /// The key or field, as `queues.handshake_depth`; empty where the whole file is meant.
    pub key: String,
    /// The site concerned, where there is one.
    pub site: Option<String>,
    /// What was found and what was expected.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// How much harm a problem does.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It works, but the operator should know.
    Warning,
    /// This part (a site, a certificate) cannot be used as it stands; the others are unharmed.
    Part,
    /// The whole configuration is refused.
    Fatal,
}

impl Problem {
    /// Whether it is more than a warning.
    pub fn is_harmful(&self) -> bool {
        self.severity > Severity::Warning
    }
}

impl Severity {
    /// The word before a problem in a list for people.
    pub fn label(self) -> &'static str {
        match self {
            Severity::Warning => "warning",
            Severity::Part => "error in one part",
            Severity::Fatal => "error",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.what)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}
