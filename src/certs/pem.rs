//! PEM text in, certificates and keys out.
//!
//! Text between sections (certbot and openssl leave some) and sections of other kinds are skipped.
//! A section that begins and does not end is a defect: a file cut while it was written must not
//! pass for a shorter chain. Whether a certificate or key makes sense is not decided here.

use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::defect::Defect;
use crate::pem::{self, Error, Item};

/// What a PEM file holds, in the file's order.
pub(super) struct Contents {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) keys: Vec<PrivateKeyDer<'static>>,
}

/// Reads all sections of a PEM file.
pub(super) fn read(text: &[u8]) -> Result<Contents, Defect> {
    // Editors of some systems begin a file with a byte order mark; the section starts behind it.
    let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
    if text.is_empty() {
        return Err(Defect::Empty);
    }
    let mut contents = Contents { certificates: Vec::new(), keys: Vec::new() };
    for (number, section) in (1..).zip(pem::sections(text)) {
        match section.map_err(|error| defect(&error, text, number))? {
            Item::X509Certificate(der) => contents.certificates.push(der),
            Item::Pkcs8Key(der) => contents.keys.push(PrivateKeyDer::Pkcs8(der)),
            Item::Sec1Key(der) => contents.keys.push(PrivateKeyDer::Sec1(der)),
            // The old form of an encrypted key has headers inside the section; the decoder would
            // have refused them, so these bytes are a key.
            Item::Pkcs1Key(der) => contents.keys.push(PrivateKeyDer::Pkcs1(der)),
            // Parameters, requests, revocation lists: openssl puts them beside keys.
            _ => {}
        }
    }
    if contents.certificates.is_empty() && contents.keys.is_empty() && is_der(text) {
        return Err(Defect::Der);
    }
    if contents.keys.is_empty() && is_encrypted(text) {
        return Err(Defect::KeyEncrypted);
    }
    Ok(contents)
}

const BEGIN: &[u8] = b"-----BEGIN ";

fn defect(error: &Error, text: &[u8], section: usize) -> Defect {
    match error {
        // The old form of an encrypted key fails on its headers, before its end line matters.
        _ if is_encrypted(text) => Defect::KeyEncrypted,
        Error::MissingSectionEnd { end_marker } => {
            let label = String::from_utf8_lossy(end_marker);
            let label = label.trim_matches('-').trim_start_matches("END ").trim();
            Defect::Cut {
                line: line_of_last_section(text),
                label: label.chars().take(64).collect(),
            }
        }
        Error::IllegalSectionStart { .. } => Defect::SectionStart,
        Error::Base64Decode(_) => Defect::NotBase64 { section },
    }
}

/// The line of the last "BEGIN", from 1: the only section that can lack its end.
fn line_of_last_section(text: &[u8]) -> u32 {
    line_of(text, memchr::memmem::rfind(text, BEGIN).unwrap_or(0))
}

/// The line, from 1, where the section of that number begins, from 1 too.
pub(super) fn line_of_section(text: &[u8], number: usize) -> u32 {
    let start = memchr::memmem::find_iter(text, BEGIN).nth(number.saturating_sub(1));
    line_of(text, start.unwrap_or(0))
}

fn line_of(text: &[u8], start: usize) -> u32 {
    let lines = memchr::memchr_iter(b'\n', &text[..start]).count();
    u32::try_from(lines).unwrap_or(u32::MAX).saturating_add(1)
}

fn is_encrypted(text: &[u8]) -> bool {
    memchr::memmem::find(text, b"BEGIN ENCRYPTED PRIVATE KEY").is_some()
        || memchr::memmem::find(text, b"Proc-Type: 4,ENCRYPTED").is_some()
}

/// A DER sequence with a length of two bytes, as every certificate and every RSA key begins, or
/// a short one, as keys on elliptic curves do.
fn is_der(text: &[u8]) -> bool {
    matches!(text, [0x30, 0x82 | 0x81, ..])
        || matches!(text, [0x30, length, rest @ ..] if usize::from(*length) == rest.len())
}
