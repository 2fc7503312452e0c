//! Certificates as people, `sluss certs`, the metrics and the alarms see them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::CertStore;
use super::catalogue::{Catalogue, Entry, Overlap};
use super::defect::{Defect, Part};
use super::folder::file_path;
use crate::problem::{Problem, Severity};

const DAY_SECONDS: i64 = 24 * 60 * 60;

/// Certbot renews 30 days ahead: at 21 it has failed for more than a week.
const WARNING_DAYS: i64 = 21;

/// The last week: renewals that need a person must start now.
const URGENT_DAYS: i64 = 7;

/// As many series as `/metrics` has of certificates.
const EXPIRY_SERIES_MAX: usize = 100;

/// A report with more lines of one kind than this is not read; the rest is counted.
const WARNINGS_OF_A_KIND_MAX: usize = 100;

/// Broken certificates are named one by one as far as anybody would go through them.
const BROKEN_MAX: usize = 10_000;

/// Where a certificate stands in its validity.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Validity {
    /// Its end has passed; it is served all the same.
    Expired,
    /// Ends within 7 days.
    Urgent,
    /// Ends within 21 days.
    Expiring,
    /// Its begin is yet to come; it is served all the same.
    NotYetValid,
    /// Valid for more than 21 days.
    Valid,
}

impl Validity {
    /// The word for it in `sluss certs` and the admin API.
    pub fn label(self) -> &'static str {
        match self {
            Validity::Expired => "expired",
            Validity::Urgent => "urgent",
            Validity::Expiring => "expiring",
            Validity::NotYetValid => "not_yet_valid",
            Validity::Valid => "valid",
        }
    }
}

/// One certificate for `sluss certs` and `/api/certificates`. Nothing in it is secret.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Its folder's name.
    pub name: String,
    /// The hosts it is valid for.
    pub hosts: Vec<String>,
    /// The kind of its key.
    pub key: String,
    /// Organisation and common name of its issuer.
    pub issuer: String,
    /// RFC 3339.
    pub not_before: String,
    /// RFC 3339.
    pub not_after: String,
    /// Unix seconds.
    pub not_after_timestamp: i64,
    /// Whole days until then; negative once it has passed.
    pub days_left: i64,
    /// Where it stands.
    pub validity: Validity,
    /// The file with its chain.
    pub file: PathBuf,
    /// SHA-256 of the certificate, hexadecimal.
    pub fingerprint: String,
    /// RFC 3339: since when it stands at its last good version because its files are broken.
    pub kept_since: Option<String>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// How many certificates call for attention; for the alarms.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct ExpiryCounts {
    /// All of them.
    pub certificates: usize,
    /// Past their end.
    pub expired: usize,
    /// Within 7 days of it.
    pub urgent: usize,
    /// Within 21 days of it.
    pub expiring: usize,
    /// At their last good version.
    pub kept: usize,
}

impl CertStore {
    /// All certificates, the soonest to expire first. `now` in Unix seconds.
    pub fn summaries(&self, now: i64) -> Vec<Summary> {
        self.catalogue.by_expiry().map(|entry| summary(entry, &self.directory, now)).collect()
    }

    /// Name and end (Unix seconds) of certificates, the soonest to expire first: a hundred of those
    /// that have expired, which nobody may ever take away, and a hundred of those that will. `now`
    /// in Unix seconds.
    pub fn expiries(&self, now: i64) -> impl Iterator<Item = (&str, i64)> {
        let expired = self.catalogue.expired(now);
        let over = self.catalogue.by_expiry().take(expired.min(EXPIRY_SERIES_MAX));
        let soonest = self.catalogue.by_expiry().skip(expired).take(EXPIRY_SERIES_MAX);
        over.chain(soonest).map(|entry| (entry.certificate.name(), entry.certificate.not_after()))
    }

    /// How many certificates call for attention. `now` in Unix seconds.
    pub fn expiry_counts(&self, now: i64) -> ExpiryCounts {
        let certificates = self.catalogue.entries().len();
        let kept = self.kept().count();
        let mut counts = ExpiryCounts { certificates, kept, ..ExpiryCounts::default() };
        for entry in self.catalogue.by_expiry() {
            match validity(entry, now) {
                Validity::Expired => counts.expired += 1,
                Validity::Urgent => counts.urgent += 1,
                Validity::Expiring => counts.expiring += 1,
                Validity::NotYetValid => {}
                // In the order of expiry, none after it ends sooner.
                Validity::Valid => break,
            }
        }
        counts
    }

    /// The certificates at their last good version, and what is wrong with which of their files.
    pub fn kept_why(&self) -> impl Iterator<Item = (&str, Problem)> {
        self.catalogue.marked().filter_map(|entry| {
            let kept = entry.kept.as_ref()?;
            let problem = kept.defect.problem(&path(entry, &self.directory, kept.part));
            Some((entry.certificate.name(), problem))
        })
    }

    /// The certificates at their last good version and since when (Unix seconds).
    pub fn kept(&self) -> impl Iterator<Item = (&str, i64)> {
        let marked = self.catalogue.marked();
        marked.filter_map(|entry| Some((entry.certificate.name(), entry.kept.as_ref()?.since)))
    }
}

fn summary(entry: &Entry, directory: &Path, now: i64) -> Summary {
    let certificate = &entry.certificate;
    Summary {
        name: certificate.name.to_string(),
        hosts: certificate.hosts.iter().map(ToString::to_string).collect(),
        key: certificate.key.to_string(),
        issuer: certificate.issuer.to_string(),
        not_before: rfc3339(certificate.not_before),
        not_after: rfc3339(certificate.not_after),
        not_after_timestamp: certificate.not_after,
        days_left: days_left(certificate.not_after, now),
        validity: validity(entry, now),
        file: path(entry, directory, Part::Chain),
        fingerprint: certificate.fingerprint.iter().map(|byte| format!("{byte:02x}")).collect(),
        kept_since: entry.kept.as_ref().map(|kept| rfc3339(kept.since)),
        problems: problems(entry, directory, now),
    }
}

fn validity(entry: &Entry, now: i64) -> Validity {
    let certificate = &entry.certificate;
    match certificate.not_after.saturating_sub(now) {
        ..0 => Validity::Expired,
        left if left < URGENT_DAYS * DAY_SECONDS => Validity::Urgent,
        left if left < WARNING_DAYS * DAY_SECONDS => Validity::Expiring,
        _ if now < certificate.not_before => Validity::NotYetValid,
        _ => Validity::Valid,
    }
}

fn days_left(not_after: i64, now: i64) -> i64 {
    not_after.saturating_sub(now).div_euclid(DAY_SECONDS)
}

/// Everything wrong with the certificates that are served.
pub(super) fn all_problems(catalogue: &Catalogue, directory: &Path, now: i64) -> Vec<Problem> {
    let told = catalogue.to_tell(now, WARNING_DAYS * DAY_SECONDS);
    told.into_iter().flat_map(|entry| problems(entry, directory, now)).collect()
}

/// Everything wrong with a certificate that is served.
fn problems(entry: &Entry, directory: &Path, now: i64) -> Vec<Problem> {
    let file = |part| path(entry, directory, part);
    let mut problems = Vec::new();
    if let Some(kept) = &entry.kept {
        let mut problem = kept.defect.problem(&file(kept.part));
        problem.severity = Severity::Part;
        problem.what.push_str(&format!(
            "; its last good version, valid until {}, is served{}",
            date(entry.certificate.not_after),
            kept.until.map(|until| format!(" until {}", rfc3339(until))).unwrap_or_default()
        ));
        problems.push(problem);
    }
    let oddities = entry.certificate.oddities.iter();
    problems.extend(oddities.map(|defect| defect.problem(&file(Part::Chain))));
    if let Some(mode) = entry.exposed {
        problems.push(Defect::KeyExposed { mode }.problem(&file(Part::Key)));
    }
    problems.extend(expiry(entry, now).map(|(what, remedy)| Problem {
        severity: Severity::Warning,
        file: file(Part::Chain),
        line: None,
        key: String::new(),
        site: None,
        what,
        remedy: remedy.into(),
    }));
    problems
}

fn expiry(entry: &Entry, now: i64) -> Option<(String, &'static str)> {
    let certificate = &entry.certificate;
    // Of a hundred thousand few need it as text.
    let end = || date(certificate.not_after);
    let days = days_left(certificate.not_after, now);
    Some(match validity(entry, now) {
        Validity::Expired => (
            format!("expired on {}; it is served, and clients warn of it or refuse it", end()),
            "renew it now",
        ),
        Validity::Urgent => (format!("expires in {days} days, on {}", end()), "renew it now"),
        Validity::Expiring => (
            format!("expires in {days} days, on {}", end()),
            "see why it was not renewed; certbot renews 30 days ahead",
        ),
        Validity::NotYetValid => (
            format!("is not valid before {}; it is served", date(certificate.not_before)),
            "set this machine's clock, or wait with the certificate",
        ),
        Validity::Valid => return None,
    })
}

/// Two certificates of one kind for one host.
pub(super) fn overlap(overlap: &Overlap, catalogue: &Catalogue, directory: &Path) -> Problem {
    let at = |position: u32| &catalogue.entries()[position as usize];
    let (unused, used) = (at(overlap.unused), at(overlap.used));
    let others = match overlap.hosts {
        1 => String::new(),
        hosts => format!(" and {} more of its hosts", hosts - 1),
    };
    Problem {
        severity: Severity::Warning,
        file: path(unused, directory, Part::Chain),
        line: None,
        key: String::new(),
        site: None,
        what: format!(
            "is not used for {}{others}: the certificate {:?} is for the same, with the same kind of \
             key, and is served",
            overlap.host, used.certificate.name
        ),
        remedy: "remove the one of the two that is not needed, or name one in the site's file"
            .into(),
    }
}

/// `[certificates] default` names none.
pub(super) fn default_is_missing(directory: &Path, name: &str) -> Problem {
    Problem {
        severity: Severity::Part,
        file: directory.to_path_buf(),
        line: None,
        key: "certificates.default".into(),
        site: None,
        what: format!(
            "the default certificate {name:?} is not there; clients without a known name are refused"
        ),
        remedy: "put it there, name another, or set default = \"\"".into(),
    }
}

/// The problems worst first, with a bound on how many of a kind are told one by one. The remedy
/// tells the kinds apart: it is one text for each.
pub(super) fn bounded(mut problems: Vec<Problem>, directory: &Path) -> Vec<Problem> {
    problems.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.file.cmp(&b.file)));
    let mut counts: BTreeMap<(Severity, String), usize> = BTreeMap::new();
    problems.retain(|problem| {
        let count = counts.entry((problem.severity, problem.remedy.clone())).or_default();
        *count += 1;
        *count <= told_max(problem.severity)
    });
    for ((severity, remedy), count) in counts {
        let more = count.saturating_sub(told_max(severity));
        if more > 0 {
            problems.push(Problem {
                severity,
                file: directory.to_path_buf(),
                line: None,
                key: String::new(),
                site: None,
                what: format!("{more} more certificates have a problem with this remedy"),
                remedy,
            });
        }
    }
    problems
}

fn told_max(severity: Severity) -> usize {
    match severity {
        Severity::Warning => WARNINGS_OF_A_KIND_MAX,
        Severity::Part | Severity::Fatal => BROKEN_MAX,
    }
}

/// Where an entry's file is.
fn path(entry: &Entry, directory: &Path, part: Part) -> PathBuf {
    file_path(directory, &entry.certificate.name, entry.certificate.layout, part)
}

fn rfc3339(seconds: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok();
    // Years past 9999 stand in some private certificates for "for ever".
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| seconds.to_string())
}

fn date(seconds: i64) -> String {
    rfc3339(seconds).split('T').next().unwrap_or_default().to_owned()
}
