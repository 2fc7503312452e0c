//! `sluss check --heads FILE`: what the configured screening makes of recorded heads, without an
//! edge and without traffic.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::Snapshot;
use crate::screen::{Direction, Policy, Recorded, judge_recorded};

/// A recording is read whole; nobody reads the verdicts on more.
const RECORDING_BYTES_MAX: u64 = 64 << 20;

/// The verdicts on a recording.
#[derive(Serialize)]
pub struct Verdicts {
    file: PathBuf,
    /// Whether nothing would be refused.
    good: bool,
    heads: Vec<Recorded>,
}

impl Verdicts {
    /// Judges a recording as the named site would, else as heads are that belong to no site.
    pub fn on(file: &Path, snapshot: &Snapshot, site: Option<&str>) -> Result<Verdicts, String> {
        let policy = policy(snapshot, site)?;
        let found = fs::metadata(file).map_err(|error| unreadable(file, &error))?;
        if !found.is_file() || found.len() > RECORDING_BYTES_MAX {
            return Err(format!("{} is no file of at most 64 MiB", file.display()));
        }
        let bytes = fs::read(file).map_err(|error| unreadable(file, &error))?;
        let heads = judge_recorded(&bytes, policy);
        let good = heads.iter().all(|head| head.refused.is_none());
        Ok(Verdicts { file: file.to_path_buf(), good, heads })
    }

    /// Whether nothing would be refused.
    pub fn is_good(&self) -> bool {
        self.good
    }

    /// The verdicts for people: every head with a finding, and a line that sums up.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let odd = self.heads.iter().filter(|head| !head.findings.is_empty());
        for head in odd.clone() {
            let verdict = match head.refused {
                Some(refusal) => format!("refused ({})", refusal.label()),
                None => "forwarded".to_string(),
            };
            let kind = match head.direction {
                Direction::Request => "request",
                Direction::Response => "response",
            };
            let (file, line) = (self.file.display(), head.line);
            let _ = writeln!(text, "{file}:{line}: {kind} {}: {verdict}", head.start_line);
            for finding in &head.findings {
                let (rule, action) = (finding.rule, finding.action.label());
                let shadow = if finding.shadow_refuses { ", the shadow refuses" } else { "" };
                let _ = writeln!(text, "  {rule} ({action}{shadow}): {}", finding.excerpt);
                let _ = writeln!(text, "      {}; {}", rule.explain(), rule.remedy());
            }
        }
        let refused = self.heads.iter().filter(|head| head.refused.is_some()).count();
        let shadow = self
            .heads
            .iter()
            .filter(|head| head.findings.iter().any(|finding| finding.shadow_refuses))
            .count();
        let (file, heads, odd) = (self.file.display(), self.heads.len(), odd.count());
        let _ = write!(text, "{file}: {heads} heads, {odd} with findings, {refused} refused");
        if shadow > 0 {
            let _ = write!(text, "; the shadow profile would refuse {shadow}");
        }
        text
    }
}

fn policy<'s>(snapshot: &'s Snapshot, site: Option<&str>) -> Result<&'s Policy, String> {
    let Some(name) = site else { return Ok(&snapshot.screening) };
    let found = snapshot.sites.all().iter().find(|site| site.id.as_str() == name);
    let found = found.ok_or_else(|| format!("there is no site {name:?} that could be loaded"))?;
    Ok(&found.screening)
}

fn unreadable(file: &Path, error: &std::io::Error) -> String {
    format!("{} cannot be read: {error}", file.display())
}
