//! Which version of each site is served: the new one, its last good one, or none. Pure.
//!
//! A file that could not be read into a site keeps the site's previous version. A host that stands
//! in two files belongs to the site that had it in the previous snapshot, else to the first by
//! name: a new customer's file must never take over another one's visitors. The loser keeps its
//! previous version; at a cold start it is left out. A site whose content did not change is shared
//! with the previous snapshot, so that whoever compares can do so by address.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};

use super::site_file::SiteFile;
use super::site_folder;
use super::walk::nearest;
use crate::certs::{CertStore, Certificate};
use crate::names::{HostPattern, SiteId};
use crate::problem::{Problem, Severity};
use crate::sites::{Site, Sites};

/// Sites whose hosts have no certificate are named one by one as far as anybody would read it.
const WARNINGS_MAX: usize = 100;

/// A site's file after reading.
pub struct ReadSite {
    /// The file's stem.
    pub id: SiteId,
    /// `None` where it has a mistake, which has been told.
    pub site: Option<Arc<SiteFile>>,
}

/// The sites to serve.
#[derive(Default)]
pub struct Resolved {
    /// Where their files are.
    folder: PathBuf,
    /// By name, those that keep a previous version because of a host last.
    pub chosen: Vec<Chosen>,
    /// What the files contradict each other in.
    pub problems: Vec<Problem>,
    /// The sites that keep their previous version.
    pub kept: Vec<String>,
    /// The sites that have none, and are not served.
    pub absent: Vec<String>,
    /// Whether all sites are those of the previous snapshot, and each as its file says.
    pub all_stay: bool,
}

/// The version of a site that is served.
pub struct Chosen {
    /// The site.
    pub site: Arc<Site>,
    /// `None` where the file's version is not the one that is served.
    written: Option<Written>,
}

/// Where the file says what a certificate may contradict.
struct Written {
    said: Arc<SiteFile>,
    /// The version before it.
    before: Option<Arc<Site>>,
}

/// Chooses a version for each site; `read` is sorted by name, and their files are in `folder`.
pub fn sites(read: Vec<ReadSite>, folder: &Path, previous: Option<&Sites>) -> Resolved {
    let previous = previous.map_or(&[][..], Sites::all);
    let mut resolved = Resolved { folder: folder.to_path_buf(), ..Resolved::default() };
    if all_stay(&read, previous) {
        let stays = |(entry, before): (ReadSite, &Arc<Site>)| {
            let written = Written { said: entry.site?, before: Some(before.clone()) };
            Some(Chosen { site: before.clone(), written: Some(written) })
        };
        resolved.chosen = read.into_iter().zip(previous).filter_map(stays).collect();
        resolved.all_stay = true;
        return resolved;
    }
    let previous: Previous<'_> = previous.iter().map(|site| (site.id.as_str(), site)).collect();
    let owners = owners(&read, &previous);
    let conflicts: Vec<_> =
        (0..read.len()).map(|at| conflicts(&read, at, &owners, folder)).collect();
    // What is read is taken apart below.
    drop(owners);
    let mut last = Vec::new();
    for (entry, conflicts) in read.into_iter().zip(conflicts) {
        let before = previous.get(entry.id.as_str()).copied();
        match entry.site {
            Some(new) if conflicts.is_empty() => {
                let site = shared_where_equal(&new.site, before);
                let written = Written { said: new, before: before.cloned() };
                resolved.chosen.push(Chosen { site, written: Some(written) });
                continue;
            }
            Some(_) => last.extend(before.cloned().map(Chosen::earlier)),
            None => resolved.chosen.extend(before.cloned().map(Chosen::earlier)),
        }
        let named = if before.is_some() { &mut resolved.kept } else { &mut resolved.absent };
        named.push(format!("site {}", entry.id));
        resolved.problems.extend(conflicts);
    }
    resolved.chosen.append(&mut last);
    resolved
}

impl Resolved {
    /// All sites are those of the previous snapshot, each as its file says, and none names another
    /// file; none is listed.
    pub fn standing() -> Resolved {
        Resolved { all_stay: true, ..Resolved::default() }
    }
}

impl Chosen {
    fn earlier(site: Arc<Site>) -> Chosen {
        Chosen { site, written: None }
    }

    /// The files of client authorities that the site may need: its own, and those of its earlier
    /// version where that may yet come back for want of a certificate.
    pub fn client_authorities(&self) -> impl Iterator<Item = &PathBuf> {
        let before = self.written.as_ref().and_then(|written| written.before.as_ref());
        let before = before.filter(|before| before.certificate != self.site.certificate);
        let both = [Some(&self.site), before].into_iter().flatten();
        both.filter_map(|site| site.tls.client_ca.as_ref())
    }
}

/// Compares the sites with the certificates that there are. A site that names one that is missing
/// keeps its previous version, unless that one is no better off.
pub fn compare_with_certificates(resolved: &mut Resolved, certs: &CertStore) {
    let (mut uncovered, folder) = (Vec::new(), &*resolved.folder);
    let mut fallen = Vec::new();
    for chosen in &mut resolved.chosen {
        let Some(written) = &chosen.written else { continue };
        let site = &chosen.site;
        let Some(name) = site.certificate.as_deref() else {
            let bare = |host: &&HostPattern| !has_certificate(certs, host);
            uncovered.extend(bare_hosts((site, folder), written, None, bare));
            continue;
        };
        if let Some(certificate) = certs.named(name) {
            let bare = |host: &&HostPattern| !covers(certificate, host);
            uncovered.extend(bare_hosts((site, folder), written, Some(name), bare));
            continue;
        }
        resolved.problems.push(no_such_certificate((site, folder), written, name, certs));
        let usable = |before: &&Arc<Site>| match &before.certificate {
            Some(name) => certs.named(name).is_some(),
            None => true,
        };
        if let Some(before) = written.before.as_ref().filter(usable) {
            resolved.kept.push(format!("site {}", before.id));
            fallen.push(Arc::clone(before));
            *chosen = Chosen::earlier(Arc::clone(before));
        }
    }
    resolved.problems.extend(taken_back(&fallen, &resolved.chosen, folder));
    let more = uncovered.len().saturating_sub(WARNINGS_MAX);
    if more > 0 {
        uncovered.truncate(WARNINGS_MAX + 1);
        if let Some(last) = uncovered.last_mut() {
            last.what = format!("{more} more sites have hosts that no certificate is valid for");
            last.file.pop();
            (last.line, last.site) = (None, None);
        }
    }
    resolved.problems.append(&mut uncovered);
}

/// The hosts that sites which fell back have again, and that other files have by now: they are served
/// as before.
fn taken_back(fallen: &[Arc<Site>], chosen: &[Chosen], folder: &Path) -> Vec<Problem> {
    let owners: HashMap<&HostPattern, &Site> =
        fallen.iter().flat_map(|site| site.hosts.iter().map(move |host| (host, &**site))).collect();
    let written = chosen.iter().filter_map(|chosen| Some((&chosen.site, chosen.written.as_ref()?)));
    let hosts = written.flat_map(|(site, written)| {
        let lines = written.said.host_lines.iter();
        site.hosts.iter().zip(lines).map(move |(host, line)| (&**site, host, line))
    });
    let tell = |(site, host, line): (&Site, &HostPattern, &u32)| {
        let owner = owners.get(host)?;
        Some(Problem {
            severity: Severity::Part,
            file: site_folder::file(folder, &site.id),
            line: Some(*line),
            key: "hosts".to_string(),
            site: Some(site.id.to_string()),
            what: format!(
                "{host} is still served by {}, which stays at its last good version",
                site_folder::file(folder, &owner.id).display()
            ),
            remedy: "mend that file; then the host comes here".to_string(),
        })
    };
    if owners.is_empty() { Vec::new() } else { hosts.filter_map(tell).collect() }
}

fn no_such_certificate(
    (site, folder): (&Site, &Path),
    written: &Written,
    name: &str,
    certs: &CertStore,
) -> Problem {
    let known: Vec<&str> = certs.all().map(|certificate| certificate.name()).collect();
    let near = nearest(name, &known).map(|near| format!("did you mean {near:?}?"));
    Problem {
        severity: Severity::Part,
        file: site_folder::file(folder, &site.id),
        line: written.said.certificate_line,
        key: "certificate".to_string(),
        site: Some(site.id.to_string()),
        what: format!("found {name:?}, but there is no certificate of that name"),
        remedy: near.unwrap_or_else(|| {
            "put it into the folder of certificates, or leave the key out".to_string()
        }),
    }
}

/// One warning for all hosts of a site that have no certificate: a new customer's is often ordered
/// only after the site was set up, so it is no mistake.
fn bare_hosts(
    (site, folder): (&Site, &Path),
    written: &Written,
    certificate: Option<&str>,
    bare: impl Fn(&&HostPattern) -> bool,
) -> Option<Problem> {
    let hosts: Vec<&HostPattern> = site.hosts.iter().filter(bare).collect();
    let first = *hosts.first()?;
    let line = site.hosts.iter().position(|host| host == first);
    let more = match hosts.len() {
        1 => String::new(),
        count => format!(" and {} more of its hosts", count - 1),
    };
    let what = match certificate {
        Some(name) => format!("the certificate {name:?} is not valid for {first}{more}"),
        None => format!("no certificate is valid for {first}{more}: its visitors are turned away"),
    };
    Some(Problem {
        severity: Severity::Warning,
        file: site_folder::file(folder, &site.id),
        line: line.and_then(|at| written.said.host_lines.get(at)).copied(),
        key: "hosts".to_string(),
        site: Some(site.id.to_string()),
        what,
        remedy: "put a certificate for it into the folder of certificates".to_string(),
    })
}

fn has_certificate(certs: &CertStore, host: &HostPattern) -> bool {
    let name = match host {
        HostPattern::Exact(host) => host.to_string(),
        // Any label will do that has no certificate to itself.
        HostPattern::Wildcard(parent) => format!("any-label-below-the-wildcard.{parent}"),
    };
    certs.candidates(Some(&name)).any(|certificate| covers(certificate, host))
}

fn covers(certificate: &Certificate, host: &HostPattern) -> bool {
    match host {
        HostPattern::Exact(host) => certificate.covers(host.as_str()),
        HostPattern::Wildcard(_) => certificate.hosts().contains(host),
    }
}

type Previous<'p> = HashMap<&'p str, &'p Arc<Site>>;

/// Whether every site is as it was and no other is there: its hosts were told apart before.
fn all_stay(read: &[ReadSite], previous: &[Arc<Site>]) -> bool {
    let stays = |(entry, before): (&ReadSite, &Arc<Site>)| {
        entry.site.as_ref().is_some_and(|new| is_same(&new.site, before))
    };
    read.len() == previous.len() && read.iter().zip(previous).all(stays)
}

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
fn conflicts(
    read: &[ReadSite],
    at: usize,
    owners: &HashMap<&HostPattern, usize>,
    folder: &Path,
) -> Vec<Problem> {
    let entry = &read[at];
    let Some(new) = &entry.site else { return Vec::new() };
    let hosts = new.site.hosts.iter().zip(&*new.host_lines);
    let foreign = hosts.filter_map(|(host, line)| {
        let owner = owners.get(host).filter(|owner| **owner != at)?;
        Some((host, line, &read[*owner]))
    });
    let tell = |(host, line, owner): (&HostPattern, &u32, &ReadSite)| Problem {
        severity: Severity::Part,
        file: site_folder::file(folder, &entry.id),
        line: Some(*line),
        key: "hosts".to_string(),
        site: Some(entry.id.to_string()),
        what: format!(
            "{host} is served already by {}",
            site_folder::file(folder, &owner.id).display()
        ),
        remedy: "take the host out of one of the two files".to_string(),
    };
    foreign.map(tell).collect()
}

fn shared_where_equal(new: &Arc<Site>, before: Option<&Arc<Site>>) -> Arc<Site> {
    Arc::clone(before.filter(|before| is_same(new, before)).unwrap_or(new))
}

fn is_same(new: &Arc<Site>, before: &Arc<Site>) -> bool {
    Arc::ptr_eq(new, before) || new == before
}
