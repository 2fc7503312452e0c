//! What can be wrong with a certificate's files: a closed list, each with its words and its remedy.
//!
//! A [`Defect`] is found by the file's reader and knows no path; [`Found`] adds which of the two
//! files it is in. Whether a broken certificate is absent or stands at its last good version is
//! told by the loader, which alone knows it.

use std::path::Path;

use rustix::io::Errno;

use crate::names::InvalidName;
use crate::problem::{Problem, Severity};

/// Which file of a certificate a defect is in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Part {
    /// The file with the chain.
    Chain,
    /// The file with the key; the same file in the one-file layout.
    Key,
}

/// A defect and its file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Found {
    pub(super) part: Part,
    pub(super) defect: Defect,
}

/// What is wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Defect {
    /// Neither, or only the other, of the two files is there.
    Missing,
    /// The system refuses to open or read it.
    Unreadable(Errno),
    /// A folder, pipe, socket or device stands where the file should be.
    NoFile,
    /// More bytes than any chain has.
    TooLarge { size: u64, size_max: u64 },
    /// No bytes at all.
    Empty,
    /// A PEM section begins and never ends.
    Cut { line: u32, label: String },
    /// A PEM section's contents are no base64.
    NotBase64 { section: usize },
    /// A line that begins a PEM section is malformed.
    SectionStart,
    /// Binary DER instead of PEM.
    Der,
    /// No PEM section that is a certificate.
    NoCertificate,
    /// No PEM section that is a private key.
    NoKey,
    /// The key asks for a passphrase.
    KeyEncrypted,
    /// Two or more private keys in one file.
    KeySeveral { count: usize },
    /// The key's bytes make no key, or one of a kind that TLS or the library does not take.
    KeyUnusable,
    /// The key is another certificate's.
    KeyOfAnother,
    /// The key belongs to a later certificate of the file.
    LeafNotFirst { position: usize },
    /// The certificate's bytes make no certificate.
    Malformed { position: usize },
    /// The certificate's public key is of a kind that TLS servers cannot use.
    KeyKind,
    /// The chain is not leaf, its issuer, that one's issuer, and so on; served put in order.
    ChainOrder,
    /// Its end has passed, and that of the certificate before it has not.
    ExpiredInPlaceOfValid,
    /// Its begin is yet to come, and the certificate before it is valid.
    NotYetValidInPlaceOfValid,
    /// No issuer's certificate follows the leaf.
    ChainIncomplete { issuer: String },
    /// A certificate above the leaf has expired.
    IssuerExpired { subject: String },
    /// No DNS name or address among the subject's alternative names.
    NoHosts,
    /// An alternative name that is no host name.
    HostInvalid { name: String, reason: InvalidName },
    /// Extended key usage without server authentication.
    NotForServers,
    /// The certificate of an authority, not of a server.
    Authority,
    /// Its folder's name cannot be a certificate's name.
    NameInvalid,
    /// `NAME.pem` beside the folder `NAME`.
    NameTwice,
    /// A folder without either file.
    FolderEmpty,
    /// Others than the owner may read the key.
    KeyExposed { mode: u32 },
}

impl Defect {
    /// How much harm it does: a [`Severity::Part`] keeps the certificate from being used.
    pub(super) fn severity(&self) -> Severity {
        match self {
            Defect::ChainIncomplete { .. }
            | Defect::ChainOrder
            | Defect::FolderEmpty
            | Defect::HostInvalid { .. }
            | Defect::IssuerExpired { .. }
            | Defect::KeyExposed { .. }
            | Defect::NameTwice
            | Defect::NoHosts
            | Defect::NotForServers
            | Defect::Authority => Severity::Warning,
            Defect::Cut { .. }
            | Defect::Der
            | Defect::Empty
            | Defect::ExpiredInPlaceOfValid
            | Defect::KeyEncrypted
            | Defect::KeyKind
            | Defect::KeyOfAnother
            | Defect::KeySeveral { .. }
            | Defect::KeyUnusable
            | Defect::LeafNotFirst { .. }
            | Defect::Malformed { .. }
            | Defect::Missing
            | Defect::NameInvalid
            | Defect::NoCertificate
            | Defect::NoFile
            | Defect::NoKey
            | Defect::NotBase64 { .. }
            | Defect::NotYetValidInPlaceOfValid
            | Defect::SectionStart
            | Defect::TooLarge { .. }
            | Defect::Unreadable(_) => Severity::Part,
        }
    }

    /// What was found and what was expected.
    pub(super) fn what(&self) -> String {
        match self {
            Defect::Missing => "the file is missing, or a link to it leads nowhere".into(),
            Defect::Unreadable(errno) => format!("cannot be read: {errno}"),
            Defect::NoFile => "is no regular file".into(),
            Defect::TooLarge { size, size_max } => {
                format!("has {size} bytes; a chain with its key has at most {size_max}")
            }
            Defect::Empty => "is empty".into(),
            Defect::Cut { label, .. } => {
                format!("is cut: the section \"{label}\" has no end line")
            }
            Defect::NotBase64 { section } => {
                format!("the contents of PEM section {section} are no base64")
            }
            Defect::SectionStart => "a line that begins a PEM section is malformed".into(),
            Defect::Der => "holds binary DER; PEM text is expected".into(),
            Defect::NoCertificate => "holds no certificate (\"BEGIN CERTIFICATE\")".into(),
            Defect::NoKey => "holds no private key (\"BEGIN PRIVATE KEY\")".into(),
            Defect::KeyEncrypted => "the private key is encrypted with a passphrase".into(),
            Defect::KeySeveral { count } => {
                format!("holds {count} private keys; exactly one is expected")
            }
            Defect::KeyUnusable => {
                "the private key is malformed or of an unsupported kind or size; ECDSA P-256, P-384 \
                 and P-521, Ed25519 and RSA with 2048 to 8192 bits are supported"
                    .into()
            }
            Defect::KeyOfAnother => "the private key does not belong to the certificate".into(),
            Defect::LeafNotFirst { position } => {
                format!("the private key belongs to certificate {position} of the file, not to the first")
            }
            Defect::Malformed { position } => {
                format!("certificate {position} of the file is no valid X.509 certificate")
            }
            Defect::KeyKind => "the certificate's public key is of a kind TLS cannot use".into(),
            Defect::ExpiredInPlaceOfValid => {
                "has expired, and the certificate that it would replace has not".into()
            }
            Defect::NotYetValidInPlaceOfValid => {
                "is not valid yet, and the certificate that it would replace is valid now".into()
            }
            Defect::ChainOrder => {
                "the chain is out of order or has certificates that do not belong to it; it is \
                 served put in order"
                    .into()
            }
            Defect::ChainIncomplete { issuer } => {
                format!("the certificate of its issuer ({issuer}) does not follow")
            }
            Defect::IssuerExpired { subject } => {
                format!("the issuer's certificate ({subject}) in the chain has expired")
            }
            Defect::NoHosts => "names no host (subjectAltName without DNS name or address)".into(),
            Defect::HostInvalid { name, reason } => {
                format!("the alternative name {name:?} is ignored: {reason}")
            }
            Defect::NotForServers => "its extended key usage is not server authentication".into(),
            Defect::Authority => "is the certificate of an authority, not of a server".into(),
            Defect::NameInvalid => {
                "this name cannot be a certificate's: 1 to 253 printable characters are expected".into()
            }
            Defect::NameTwice => "a folder of the same name is there too; the folder is used".into(),
            Defect::FolderEmpty => "holds neither fullchain.pem nor privkey.pem".into(),
            Defect::KeyExposed { mode } => {
                format!("others than its owner may read the private key (mode {mode:04o})")
            }
        }
    }

    /// What to do about it.
    pub(super) fn remedy(&self) -> &'static str {
        match self {
            Defect::Missing => "put it there or remove the certificate's folder",
            Defect::Unreadable(_) => "let the user that runs sluss read it",
            Defect::NoFile => "put the PEM file there",
            Defect::TooLarge { .. } | Defect::NoCertificate => {
                "put the certificate and its chain there, as certbot's fullchain.pem"
            }
            Defect::Empty
            | Defect::Cut { .. }
            | Defect::NotBase64 { .. }
            | Defect::SectionStart => {
                "write the file anew; write beside it and rename, so that it is never half there"
            }
            Defect::Der => {
                "convert it: openssl x509 -inform der -in FILE (or openssl pkey for a key)"
            }
            Defect::NoKey => "put the private key there",
            Defect::KeyEncrypted => "remove the passphrase: openssl pkey -in FILE -out NEW",
            Defect::KeySeveral { .. } => "leave only the certificate's own key",
            Defect::KeyUnusable => "make a new key and have a certificate issued for it",
            Defect::KeyOfAnother => {
                "put the key there that the certificate was issued for; a renewal caught half-way \
                 mends itself with the next reload"
            }
            Defect::LeafNotFirst { .. } | Defect::ChainOrder => {
                "order it: the server's certificate first, then its issuer, then that one's issuer"
            }
            Defect::ExpiredInPlaceOfValid => "renew it, or put the former one back",
            Defect::NotYetValidInPlaceOfValid => {
                "reload once it is valid; where it should be by now, set this machine's clock"
            }
            Defect::Malformed { .. } => "fetch the certificate from its issuer again",
            Defect::KeyKind => "have a certificate issued for an ECDSA or RSA key",
            Defect::ChainIncomplete { .. } => {
                "append it where it is an intermediate's (certbot's fullchain.pem has it): many clients \
                 fail without; where it is a root's that clients have, nothing is missing"
            }
            Defect::IssuerExpired { .. } => "replace the chain by the issuer's current one",
            Defect::NoHosts => "have it issued with the site's hosts as subjectAltName",
            Defect::HostInvalid { .. } => "have it issued without that name",
            Defect::NotForServers | Defect::Authority => "have a server's certificate issued",
            Defect::NameInvalid => "rename it",
            Defect::NameTwice => "remove or rename one of the two",
            Defect::FolderEmpty => "put the two files there or remove the folder",
            Defect::KeyExposed { .. } => "chmod 600",
        }
    }

    fn line(&self) -> Option<u32> {
        match self {
            Defect::Cut { line, .. } => Some(*line),
            _ => None,
        }
    }

    /// The defect as a problem of `file`.
    pub(super) fn problem(&self, file: &Path) -> Problem {
        Problem {
            severity: self.severity(),
            file: file.to_path_buf(),
            line: self.line(),
            key: String::new(),
            site: None,
            what: self.what(),
            remedy: self.remedy().into(),
        }
    }
}

impl Found {
    pub(super) fn chain(defect: Defect) -> Found {
        Found { part: Part::Chain, defect }
    }

    pub(super) fn key(defect: Defect) -> Found {
        Found { part: Part::Key, defect }
    }
}
