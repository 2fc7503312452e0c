//! What a server's certificate says: hosts, validity, issuer, key; and what about that is odd.

use std::net::{Ipv4Addr, Ipv6Addr};

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::x509::X509Name;

use super::defect::Defect;
use super::key::KeyKind;
use crate::names::HostPattern;

/// A name longer than this is cut where people read it.
const SHOWN_NAME_CHARACTERS_MAX: usize = 96;

/// What serving and telling need of a certificate.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) hosts: Vec<HostPattern>,
    pub(super) key: KeyKind,
    pub(super) not_before: i64,
    pub(super) not_after: i64,
    pub(super) issuer: String,
    /// What is odd and does not keep it from being served.
    pub(super) oddities: Vec<Defect>,
}

/// Reads a leaf. A certificate that no server can use is a defect.
pub(super) fn facts(certificate: &X509Certificate<'_>) -> Result<Facts, Defect> {
    let key = KeyKind::of(certificate.public_key()).ok_or(Defect::KeyKind)?;
    let mut oddities = Vec::new();
    let hosts = hosts(certificate, &mut oddities)?;
    if hosts.is_empty() {
        oddities.push(Defect::NoHosts);
    }
    if certificate.is_ca() {
        oddities.push(Defect::Authority);
    }
    if let Ok(Some(usage)) = certificate.extended_key_usage()
        && !usage.value.server_auth
        && !usage.value.any
    {
        oddities.push(Defect::NotForServers);
    }
    Ok(Facts {
        hosts,
        key,
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
        issuer: shown_name(certificate.issuer()),
        oddities,
    })
}

/// The subject's alternative names; the common name is none, as in every browser since 2017.
fn hosts(
    certificate: &X509Certificate<'_>,
    oddities: &mut Vec<Defect>,
) -> Result<Vec<HostPattern>, Defect> {
    let names =
        certificate.subject_alternative_name().map_err(|_| Defect::Malformed { position: 1 })?;
    let mut hosts: Vec<HostPattern> = Vec::new();
    for name in names.iter().flat_map(|extension| &extension.value.general_names) {
        let text = match name {
            GeneralName::DNSName(text) => (*text).to_owned(),
            GeneralName::IPAddress(octets) => match address(octets) {
                Some(text) => text,
                None => continue,
            },
            _ => continue,
        };
        match HostPattern::parse(&text) {
            Ok(host) => hosts.push(host),
            Err(reason) => {
                let name = text.chars().take(SHOWN_NAME_CHARACTERS_MAX).collect();
                oddities.push(Defect::HostInvalid { name, reason });
            }
        }
    }
    // Some issuers repeat the common name.
    hosts.sort_unstable();
    hosts.dedup();
    Ok(hosts)
}

/// An address in the form in which a URI has it.
fn address(octets: &[u8]) -> Option<String> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(Ipv4Addr::from(octets).to_string());
    }
    let octets = <[u8; 16]>::try_from(octets).ok()?;
    Some(format!("[{}]", Ipv6Addr::from(octets)))
}

/// A distinguished name for people: organisation and common name.
pub(super) fn shown_name(name: &X509Name<'_>) -> String {
    let organization = name.iter_organization().next().and_then(|part| part.as_str().ok());
    let common = name.iter_common_name().next().and_then(|part| part.as_str().ok());
    let text = match (organization, common) {
        (Some(organization), Some(common)) => format!("{organization}, {common}"),
        (Some(one), None) | (None, Some(one)) => one.to_owned(),
        (None, None) => name.to_string(),
    };
    text.chars().filter(|c| !c.is_control()).take(SHOWN_NAME_CHARACTERS_MAX).collect()
}
