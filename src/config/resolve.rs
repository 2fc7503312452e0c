//! Which version of each site is served: the new one, its last good one, or none. Pure.
//!
//! A file that could not be read into a site keeps the site's previous version. A host that stands
//! in two files belongs to the site that had it in the previous snapshot, else to the first by
//! name: a new customer's file must never take over another one's visitors. The loser keeps its
//! previous version; at a cold start it is left out. A site whose content did not change is shared
//! with the previous snapshot, so that whoever compares can do so by address.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::site_file::SiteFile;
use crate::names::{HostPattern, SiteId};
use crate::problem::{Problem, Severity};
use crate::sites::{Site, Sites};

/// A site's file after reading.
pub struct ReadSite {
    /// The file's stem.
    pub id: SiteId,
    /// The file.
    pub file: PathBuf,
    /// `None` where it has a mistake, which has been told.
    pub site: Option<SiteFile>,
}

/// The sites to serve.
#[derive(Default)]
pub struct Resolved {
    /// By name, those that keep a previous version because of a host last.
    pub sites: Vec<Arc<Site>>,
    /// Hosts that stand twice.
    pub problems: Vec<Problem>,
    /// The sites that keep their previous version.
    pub kept: Vec<String>,
}

/// Chooses a version for each site; `read` is sorted by name.
pub fn sites(read: Vec<ReadSite>, previous: Option<&Sites>) -> Resolved {
    let previous: Previous<'_> =
        previous.map_or(&[][..], Sites::all).iter().map(|site| (site.id.as_str(), site)).collect();
    let owners = owners(&read, &previous);
    let conflicts: Vec<Vec<Problem>> =
        (0..read.len()).map(|at| conflicts(&read, at, &owners)).collect();
    drop(owners);
    let mut resolved = Resolved::default();
    let mut last = Vec::new();
    for (entry, conflicts) in read.into_iter().zip(conflicts) {
        let before = previous.get(entry.id.as_str()).copied();
        match entry.site {
            Some(new) if conflicts.is_empty() => {
                resolved.sites.push(shared_where_equal(new.site, before));
                continue;
            }
            Some(_) => last.extend(before.cloned()),
            None => resolved.sites.extend(before.cloned()),
        }
        resolved.kept.extend(before.map(|before| format!("site {}", before.id)));
        resolved.problems.extend(conflicts);
    }
    resolved.sites.append(&mut last);
    resolved
}

type Previous<'p> = HashMap<&'p str, &'p Arc<Site>>;

/// The site that a host belongs to, as a position in `read`.
fn owners<'r>(read: &'r [ReadSite], previous: &Previous<'r>) -> HashMap<&'r HostPattern, usize> {
    let mut owners = HashMap::new();
    for (at, entry) in read.iter().enumerate() {
        let Some(before) = previous.get(entry.id.as_str()) else { continue };
        match &entry.site {
            Some(new) => {
                let still = new.site.hosts.iter().filter(|host| before.hosts.contains(host));
                owners.extend(still.map(|host| (host, at)));
            }
            None => owners.extend(before.hosts.iter().map(|host| (host, at))),
        }
    }
    for (at, entry) in read.iter().enumerate() {
        for host in entry.site.iter().flat_map(|new| &new.site.hosts) {
            owners.entry(host).or_insert(at);
        }
    }
    owners
}

/// The hosts of site `at` that belong to another.
fn conflicts(read: &[ReadSite], at: usize, owners: &HashMap<&HostPattern, usize>) -> Vec<Problem> {
    let entry = &read[at];
    let Some(new) = &entry.site else { return Vec::new() };
    let hosts = new.site.hosts.iter().zip(&new.host_lines);
    let foreign = hosts.filter_map(|(host, line)| {
        let owner = owners.get(host).filter(|owner| **owner != at)?;
        Some((host, line, &read[*owner]))
    });
    let tell = |(host, line, owner): (&HostPattern, &u32, &ReadSite)| Problem {
        severity: Severity::Part,
        file: entry.file.clone(),
        line: Some(*line),
        key: "hosts".to_string(),
        site: Some(entry.id.to_string()),
        what: format!("{host} is served already by {}", owner.file.display()),
        remedy: "take the host out of one of the two files".to_string(),
    };
    foreign.map(tell).collect()
}

fn shared_where_equal(new: Site, before: Option<&Arc<Site>>) -> Arc<Site> {
    match before {
        Some(before) if **before == new => Arc::clone(before),
        _ => Arc::new(new),
    }
}
