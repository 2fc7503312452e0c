//! The one place that knows the PEM reader, `rustls-pemfile`: it is archived upstream (its code lives
//! on in `rustls-pki-types`), so nobody else may come to depend on it.

use rustls::pki_types::CertificateDer;

pub use rustls_pemfile::{Error, Item};

/// The sections of a PEM text, in order; text between them is skipped. Ends after the first that
/// cannot be read.
pub fn sections(text: &[u8]) -> impl Iterator<Item = Result<Item, Error>> {
    let mut left = text;
    std::iter::from_fn(move || match rustls_pemfile::read_one_from_slice(left) {
        Ok(Some((section, rest))) => {
            left = rest;
            Some(Ok(section))
        }
        Ok(None) => None,
        Err(error) => {
            left = &[];
            Some(Err(error))
        }
    })
}

/// The certificates of a PEM text; other sections are skipped.
///
/// # Errors
/// Where a section cannot be read.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let only = |section| match section {
        Ok(Item::X509Certificate(certificate)) => Some(Ok(certificate)),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    };
    sections(text).filter_map(only).collect()
}

/// A sentence on why a text is no PEM; the library's errors print themselves for programmers.
pub fn why(error: &Error) -> &'static str {
    match error {
        Error::MissingSectionEnd { .. } => "is cut: a section has no end line",
        Error::IllegalSectionStart { .. } => "has a malformed section start",
        Error::Base64Decode(_) => "has a section that is no base64",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_come_in_order_and_the_first_that_is_cut_ends_them() {
        let text = "words\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n\
                    -----BEGIN CERTIFICATE-----\nAAAA\n";
        let found: Vec<_> = sections(text.as_bytes()).collect();
        assert!(matches!(
            &found[..],
            [Ok(Item::X509Certificate(_)), Err(Error::MissingSectionEnd { .. })]
        ));
        assert!(certificates(text.as_bytes()).is_err());
        assert_eq!(certificates(b"no section at all").unwrap().len(), 0);
    }
}
