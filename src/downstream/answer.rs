//! Responses of our own: a refusal or a redirect, as small and plain as it can be.
//!
//! The page names the status and the request id, never internals; `Sluss-Refused` carries the
//! reason's label for the operator who looks at a client's trace.

use std::io::Write as _;

use bytes::Bytes;

use crate::refusal::Refusal;
use crate::screen::Version;

/// A response of our own.
pub struct Local {
    /// What it tells; `None` for a redirect.
    pub refusal: Option<Refusal>,
    status: u16,
    location: Option<String>,
    request_id: String,
    body: Bytes,
}

impl Local {
    /// The response for a refusal; `page` replaces the plain body (a maintenance page).
    pub fn refusal(refusal: Refusal, page: Option<Bytes>, request_id: &str) -> Local {
        let status = refusal.status().unwrap_or(503);
        let body = page.unwrap_or_else(|| plain_page(status, request_id));
        Local {
            refusal: Some(refusal),
            status,
            location: None,
            request_id: request_id.into(),
            body,
        }
    }

    /// 308 Permanent Redirect: keeps the method (RFC 9110 15.4.9).
    pub fn redirect(location: String, request_id: &str) -> Local {
        Local {
            refusal: None,
            status: 308,
            location: Some(location),
            request_id: request_id.into(),
            body: Bytes::new(),
        }
    }

    /// Whether the connection is closed after it: a redirected client goes on elsewhere.
    pub fn closes(&self) -> bool {
        self.refusal.is_none_or(Refusal::closes)
    }

    /// The body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("content-type", "text/html; charset=utf-8".to_owned()),
            ("content-length", self.body.len().to_string()),
            ("cache-control", "no-store".to_owned()),
            ("x-request-id", self.request_id.clone()),
        ];
        if let Some(location) = &self.location {
            fields.push(("location", location.clone()));
        }
        if let Some(refusal) = self.refusal {
            fields.push(("sluss-refused", refusal.label().to_owned()));
        }
        if let Some(seconds) = self.refusal.and_then(Refusal::retry_after_seconds) {
            fields.push(("retry-after", seconds.to_string()));
        }
        fields
    }

    /// Writes it for an HTTP/1 client.
    pub fn write_h1(&self, out: &mut Vec<u8>, version: Version, close: bool, is_head: bool) {
        let minor = if version == Version::H10 { 0 } else { 1 };
        // Writing to a Vec cannot fail.
        let _ = write!(out, "HTTP/1.{minor} {} {}\r\n", self.status, reason(self.status));
        for (name, value) in self.fields() {
            let _ = write!(out, "{name}: {value}\r\n");
        }
        out.extend_from_slice(match (close, version) {
            (true, _) => b"connection: close\r\n\r\n".as_slice(),
            (false, Version::H10) => b"connection: keep-alive\r\n\r\n",
            (false, Version::H11 | Version::H2) => b"\r\n",
        });
        if !is_head {
            out.extend_from_slice(&self.body);
        }
    }

    /// The same for an HTTP/2 client.
    pub fn to_h2(&self) -> http::Response<()> {
        let mut response = http::Response::new(());
        *response.status_mut() =
            http::StatusCode::from_u16(self.status).unwrap_or(http::StatusCode::BAD_GATEWAY);
        for (name, value) in self.fields() {
            if let Ok(value) = http::HeaderValue::from_str(&value) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}

/// How long the page is that a refused head is answered with.
pub fn page_bytes(refusal: Refusal, request_id: &str) -> u64 {
    refusal.status().map_or(0, |status| plain_page(status, request_id).len() as u64)
}

fn plain_page(status: u16, request_id: &str) -> Bytes {
    let reason = reason(status);
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>{status} {reason}</title>\
         <h1>{status} {reason}</h1><p>Request id: <code>{request_id}</code>\n"
    )
    .into()
}

fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Refused")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(local: &Local, version: Version, close: bool, is_head: bool) -> String {
        let mut out = Vec::new();
        local.write_h1(&mut out, version, close, is_head);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_refusal_names_the_reason_and_the_request_but_no_internals() {
        let local = Local::refusal(Refusal::RequestQueueFull, None, "r-1");
        let written = text(&local, Version::H11, false, false);
        assert!(written.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{written}");
        assert!(written.contains("sluss-refused: request-queue-full\r\n"));
        assert!(written.contains("retry-after: 2\r\n"));
        assert!(written.contains("<code>r-1</code>"));
    }

    #[test]
    fn a_head_request_gets_the_length_but_no_body() {
        let local = Local::refusal(Refusal::UnknownHost, None, "r-1");
        let written = text(&local, Version::H10, true, true);
        assert!(written.contains(&format!("content-length: {}\r\n", local.body().len())));
        assert!(written.ends_with("connection: close\r\n\r\n"), "{written}");
    }
}
