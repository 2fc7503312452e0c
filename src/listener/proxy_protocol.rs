//! The PROXY protocol header (HAProxy's `proxy-protocol.txt`, versions 1 and 2) of a trusted
//! network's connection: it must come first and whole, and names the real client.

use std::net::SocketAddr;

use bytes::{Buf, Bytes, BytesMut};
use ppp::{HeaderResult, v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::refusal::Refusal;

/// Version 1 is at most 107 bytes; version 2 is 16 bytes and its addresses and TLVs, for which the
/// specification recommends receivers to take at least 216; senders' certificates may need more.
pub const HEADER_BYTES_MAX: usize = 4_096;

/// What the header says of the client, and the bytes that came behind it.
#[derive(Debug, Eq, PartialEq)]
pub struct Introduced {
    /// The client and the address it connected to; `None` where the sender speaks for itself (a
    /// health check, or an address family other than IP).
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// Already read, not part of the header.
    pub rest: Bytes,
}

/// Reads the header. The caller bounds it in time. *Cancel safety*: none.
///
/// # Errors
/// `ProxyHeader` where it is missing, malformed or too long; `ClientGone` where the peer left.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Introduced, Refusal> {
    let mut bytes = BytesMut::with_capacity(256);
    loop {
        let count = stream.read_buf(&mut bytes).await.map_err(|_| Refusal::ClientGone)?;
        if count == 0 {
            return Err(Refusal::ClientGone);
        }
        if let Some((addresses, length)) = parse(&bytes)? {
            bytes.advance(length);
            return Ok(Introduced { addresses, rest: bytes.freeze() });
        }
    }
}

type Parsed = (Option<(SocketAddr, SocketAddr)>, usize);

/// What version 1 begins with, and the most it may be long, line end included.
const V1_BEGIN: &[u8] = b"PROXY ";
const V1_BYTES_MAX: usize = 107;

/// What version 2 begins with; behind it stand two bytes and the length of the rest.
const V2_BEGIN: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED: usize = 16;

/// The bytes of the whole header; `None` while it is incomplete. The parser's own word on
/// incomplete headers is not taken: it gives some of them up for malformed.
fn whole(bytes: &[u8]) -> Result<Option<&[u8]>, Refusal> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, expected)| byte == expected);
    if begins(V1_BEGIN) {
        let line = &bytes[..bytes.len().min(V1_BYTES_MAX)];
        return match memchr::memmem::find(line, b"\r\n") {
            Some(end) => Ok(Some(&bytes[..end + 2])),
            None if bytes.len() < V1_BYTES_MAX => Ok(None),
            None => Err(Refusal::ProxyHeader),
        };
    }
    if !begins(V2_BEGIN) {
        return Err(Refusal::ProxyHeader);
    }
    let Some(fixed) = bytes.get(..V2_FIXED) else { return Ok(None) };
    let length = V2_FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > HEADER_BYTES_MAX {
        return Err(Refusal::ProxyHeader);
    }
    Ok(bytes.get(..length))
}

/// `None` while the header is incomplete.
fn parse(bytes: &[u8]) -> Result<Option<Parsed>, Refusal> {
    let Some(header) = whole(bytes)? else { return Ok(None) };
    match HeaderResult::parse(header) {
        HeaderResult::V1(Ok(header)) => {
            let addresses = match header.addresses {
                v1::Addresses::Tcp4(a) => Some((
                    (a.source_address, a.source_port).into(),
                    (a.destination_address, a.destination_port).into(),
                )),
                v1::Addresses::Tcp6(a) => Some((
                    (a.source_address, a.source_port).into(),
                    (a.destination_address, a.destination_port).into(),
                )),
                v1::Addresses::Unknown => None,
            };
            Ok(Some((addresses, header.header.len())))
        }
        HeaderResult::V2(Ok(header)) => {
            let addresses = match (header.command, header.addresses) {
                (v2::Command::Proxy, v2::Addresses::IPv4(a)) => Some((
                    (a.source_address, a.source_port).into(),
                    (a.destination_address, a.destination_port).into(),
                )),
                (v2::Command::Proxy, v2::Addresses::IPv6(a)) => Some((
                    (a.source_address, a.source_port).into(),
                    (a.destination_address, a.destination_port).into(),
                )),
                _ => None,
            };
            Ok(Some((addresses, header.len())))
        }
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => Err(Refusal::ProxyHeader),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], client: Option<&str>, rest: &[u8]) {
        let (addresses, length) = parse(bytes).unwrap().expect("a whole header");
        assert_eq!(addresses.map(|(source, _)| source.to_string()).as_deref(), client);
        assert_eq!(&bytes[length..], rest);
    }

    #[test]
    fn both_versions_name_the_client() {
        check(b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 443\r\nGET", Some("192.0.2.1:5000"), b"GET");
        check(b"PROXY UNKNOWN\r\n\x16\x03", None, b"\x16\x03");
        let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        v2.extend_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2, 0x13, 0x88, 1, 0xbb]);
        v2.extend_from_slice(b"rest");
        check(&v2, Some("192.0.2.1:5000"), b"rest");
    }

    #[test]
    fn every_prefix_is_incomplete() {
        let v1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 443\r\n";
        let v2 = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0";
        for header in [v1.as_slice(), v2] {
            for end in 1..header.len() {
                assert_eq!(parse(&header[..end]), Ok(None), "at {end}");
            }
            assert!(parse(header).unwrap().is_some());
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        assert_eq!(parse(b"GET / HTTP/1.1\r\n"), Err(Refusal::ProxyHeader));
        assert_eq!(parse(b"\x16\x03\x01\x02\x00"), Err(Refusal::ProxyHeader));
    }
}
