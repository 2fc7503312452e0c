//! Whom an alarm about the configuration concerns, and what exactly is wrong.

use std::collections::{BTreeMap, BTreeSet};

use crate::alarms::BrokenPart;
use crate::certs::{CertStore, Certificate};
use crate::config::Snapshot;
use crate::config::report::Report;
use crate::problem::Problem;
use crate::sites::Site;

/// A day.
pub(super) const DAY_SECONDS: i64 = 24 * 60 * 60;

/// Certificates that end sooner may become an alarm before this is looked at again.
const ATTENTION_SECONDS: i64 = 23 * DAY_SECONDS;

/// What alarms tell of certificates.
#[derive(Clone, Default)]
pub(super) struct CertificatesTold {
    /// Those at their last good version: which file, and what is wrong with it.
    pub(super) kept: Vec<(String, String)>,
    /// For each that calls for attention, the first site that is served with it.
    pub(super) sites: BTreeMap<String, String>,
}

impl CertificatesTold {
    /// Walks all sites where any certificate calls for attention.
    pub(super) fn now(snapshot: &Snapshot, now: i64) -> CertificatesTold {
        let certs = &snapshot.certs;
        let kept: Vec<(String, String)> =
            certs.kept_why().map(|(name, problem)| (name.to_owned(), place(&problem))).collect();
        let ending = certs.expiries(now).filter(|(_, end)| *end < now + ATTENTION_SECONDS);
        let wanted: BTreeSet<&str> = kept
            .iter()
            .map(|(name, _)| name.as_str())
            .chain(ending.map(|(name, _)| name))
            .chain(certs.absent().map(|(name, _)| name))
            .collect();
        let mut sites = BTreeMap::new();
        if !wanted.is_empty() {
            for site in snapshot.sites.all() {
                for name in certificates_of(site, snapshot) {
                    if wanted.contains(&*name) && !sites.contains_key(&name) {
                        sites.insert(name, site.id.to_string());
                    }
                }
            }
        }
        CertificatesTold { kept, sites }
    }
}

/// The one that the site names, else those of its hosts; one that is not there is known by its
/// name alone, which by custom is the host's.
fn certificates_of(site: &Site, snapshot: &Snapshot) -> Vec<String> {
    if let Some(name) = &site.certificate {
        return vec![name.clone()];
    }
    let of_host = |host: String| {
        let candidates = snapshot.certs.candidates(Some(&host));
        candidates
            .map(|one: &std::sync::Arc<Certificate>| one.name().to_owned())
            .chain([host.clone()])
            .collect::<Vec<_>>()
    };
    site.hosts.iter().flat_map(|host| of_host(host.to_string())).collect()
}

/// File, line and what is wrong there: what to do, the alarm tells itself.
fn place(problem: &Problem) -> String {
    Problem { remedy: String::new(), ..problem.clone() }.to_string()
}

/// Parts, other than certificates, that a reload left at their last good version.
pub(super) fn kept_parts(report: &Report) -> Vec<BrokenPart> {
    let parts = report.kept.iter().filter(|part| !part.starts_with("certificate "));
    let kept = |part: &String| {
        let site = part.strip_prefix("site ");
        let is_its = |problem: &&Problem| {
            let stem = problem.file.file_stem().and_then(|stem| stem.to_str());
            problem.is_harmful()
                && site.is_some()
                && (problem.site.as_deref() == site || stem == site)
        };
        let why = report.problems.iter().find(is_its).map(place);
        BrokenPart {
            part: part.clone(),
            site: site.map(str::to_owned),
            why: why.unwrap_or_else(|| "see the report".into()),
        }
    };
    parts.map(kept).collect()
}

/// Parts that are not served; `sites` names one for certificates, as for those that call for
/// attention.
pub(super) fn absent_parts(
    report: &Report,
    certs: &CertStore,
    sites: &BTreeMap<String, String>,
) -> Vec<BrokenPart> {
    let of_report = |(part, why): (String, String)| {
        let site = part.strip_prefix("site ").map(str::to_owned);
        BrokenPart { part, site, why }
    };
    let of_certificate = |(name, problem): (&str, &Problem)| BrokenPart {
        part: format!("certificate {name}"),
        site: sites.get(name).cloned(),
        why: problem.to_string(),
    };
    let certificates = certs.absent().map(of_certificate);
    report.unserved().into_iter().map(of_report).chain(certificates).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::report::{Changes, ReloadResult};
    use crate::problem::Severity;

    #[test]
    fn a_kept_site_is_told_with_what_is_wrong_in_its_file() {
        let problem = Problem {
            severity: Severity::Part,
            file: "/etc/sluss/sites/shop.toml".into(),
            line: Some(3),
            key: "hosts".into(),
            site: None,
            what: "found 7, expected a list".into(),
            remedy: "write a list".into(),
        };
        let report = Report {
            result: ReloadResult::Partly,
            generation: 2,
            seconds: 0.1,
            changes: Changes::none(),
            absent: Vec::new(),
            kept: vec!["certificate a".into(), "site shop".into()],
            problems: vec![problem],
        };
        let kept = kept_parts(&report);
        assert_eq!((kept.len(), kept[0].site.as_deref()), (1, Some("shop")));
        assert_eq!(kept[0].why, "/etc/sluss/sites/shop.toml:3: hosts: found 7, expected a list");
    }
}
