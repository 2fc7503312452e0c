//! Reads one ClientHello (RFC 8446 4.1.2, RFC 5246 7.4.1.2) before any crypto is spent on it.
//!
//! [`parse`] is pure: it looks at the bytes a client has sent so far and says what they are. It
//! takes from the hello what decides about the connection's further way - the server name, whether
//! HTTP/2 is offered, whether a resumption is, which kind of signature - and judges nothing else: the TLS library reads the
//! same bytes again and has the last word. [`glance`] is the thin I/O around it for a hello that is
//! there as a whole, as nearly all are: it leaves the bytes in the kernel, so that one that is turned
//! away needs no memory. [`read`] waits for the others, and gives the bytes back with the answer, so
//! that the handshake can begin with them.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;

use super::Socket;
use crate::names::Hostname;
use crate::refusal::Refusal;

/// The most that is read for one hello: four TLS records' worth would be absurd, but a hello with
/// post-quantum key shares and a large ticket may exceed one. RFC 8446 5.1: a record carries 2^14.
pub const HELLO_BYTES_MAX: usize = 2 * (16_384 + RECORD_HEADER);

/// What most hellos fit in: one with X25519MLKEM768 has about 1,700 bytes, a ticket some hundred.
const HELLO_BYTES_USUAL: usize = 2_048;

const RECORD_HEADER: usize = 5;
/// Of a method in front of its blank. RFC 9112 3 asks for no bound; the longest registered one has
/// 17 bytes.
const METHOD_BYTES_MAX: usize = 32;

const CONTENT_HANDSHAKE: u8 = 22;
const HANDSHAKE_CLIENT_HELLO: u8 = 1;

const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_SIGNATURE_ALGORITHMS: u16 = 13;
const EXTENSION_ALPN: u16 = 16;
const EXTENSION_SESSION_TICKET: u16 = 35;
const EXTENSION_PRE_SHARED_KEY: u16 = 41;

/// What the edge wants to know of a ClientHello.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ClientHello {
    /// The SNI, where there is a valid one (RFC 6066 3).
    pub server_name: Option<Hostname>,
    /// ALPN offers `h2` (RFC 7301).
    pub offers_h2: bool,
    /// A ticket or a pre-shared key is offered: the handshake is likely to be cheap.
    pub offers_resumption: bool,
    /// A signature scheme of elliptic curves is offered (RFC 8446 4.2.3): ECDSA, or EdDSA.
    pub offers_ecdsa: bool,
}

/// What a client's first bytes are.
#[derive(Debug, Eq, PartialEq)]
pub enum FirstBytes {
    /// The beginning of a ClientHello; more must come.
    Incomplete,
    /// A whole ClientHello.
    Hello(ClientHello),
    /// An HTTP/1 request without TLS.
    PlainHttp,
    /// Neither.
    Malformed,
}

/// Says what a client's first bytes are. Linear in their number.
pub fn parse(bytes: &[u8]) -> FirstBytes {
    let Some(&content) = bytes.first() else { return FirstBytes::Incomplete };
    if content != CONTENT_HANDSHAKE {
        return plain_http(bytes);
    }
    match handshake_message(bytes) {
        Ok(Some(body)) => read_body(&body).map_or(FirstBytes::Malformed, FirstBytes::Hello),
        Ok(None) => FirstBytes::Incomplete,
        Err(Malformed) => FirstBytes::Malformed,
    }
}

/// A registered method is upper-case letters and `-` with a blank behind; TLS content types are 20
/// to 24. Other protocols that speak first (`SSH-2.0-`) are no reason for an answer.
fn plain_http(bytes: &[u8]) -> FirstBytes {
    let method = bytes.iter().take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-');
    let length = method.count();
    if bytes[0] == b'-' || length == 0 || length > METHOD_BYTES_MAX {
        return FirstBytes::Malformed;
    }
    match bytes.get(length) {
        Some(b' ') => FirstBytes::PlainHttp,
        Some(_) => FirstBytes::Malformed,
        None => FirstBytes::Incomplete,
    }
}

/// Looks at what a client has sent, and leaves it to be read: `None` where more must come, or where
/// there is more than a look takes in. One system call, no allocation but the server name's.
///
/// # Errors
/// `ClientGone` where the client closed or reset first.
pub fn glance(socket: &mut Socket) -> Result<Option<FirstBytes>, Refusal> {
    let mut bytes = [0; HELLO_BYTES_USUAL];
    match socket.peek(&mut bytes) {
        Ok(0) => Err(Refusal::ClientGone),
        Ok(count) => match parse(&bytes[..count]) {
            FirstBytes::Incomplete => Ok(None),
            whole => Ok(Some(whole)),
        },
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
        Err(_) => Err(Refusal::ClientGone),
    }
}

/// Reads from `stream` until its first bytes are a whole ClientHello. The bytes come back also
/// where they are plain HTTP, so that it can be answered.
///
/// *Cancel safety*: none; what was read is lost with the future, and so is the connection.
///
/// # Errors
/// `HelloMalformed` where they are none; `ClientGone` where the client closed or reset first.
pub async fn read<S>(stream: &mut S) -> Result<(FirstBytes, Bytes), Refusal>
where
    S: tokio::io::AsyncRead + Unpin,
{
    let mut bytes = BytesMut::with_capacity(HELLO_BYTES_USUAL);
    loop {
        let count = stream.read_buf(&mut bytes).await.map_err(|_| Refusal::ClientGone)?;
        if count == 0 {
            return Err(Refusal::ClientGone);
        }
        match parse(&bytes) {
            FirstBytes::Incomplete if bytes.len() < HELLO_BYTES_MAX => bytes.reserve(1_024),
            FirstBytes::Incomplete | FirstBytes::Malformed => return Err(Refusal::HelloMalformed),
            complete @ (FirstBytes::Hello(_) | FirstBytes::PlainHttp) => {
                return Ok((complete, bytes.freeze()));
            }
        }
    }
}

#[derive(Debug)]
struct Malformed;

/// The body of the first handshake message, joined over records where it is split
/// (RFC 8446 5.1); `None` while it is incomplete.
fn handshake_message(mut records: &[u8]) -> Result<Option<Cow<'_, [u8]>>, Malformed> {
    let mut joined: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    loop {
        if let [kind, high, middle, low, rest @ ..] = &*joined {
            if *kind != HANDSHAKE_CLIENT_HELLO {
                return Err(Malformed);
            }
            let length = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
            if length > HELLO_BYTES_MAX {
                return Err(Malformed);
            }
            if rest.len() >= length {
                return Ok(Some(match joined {
                    Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[4..4 + length]),
                    Cow::Owned(bytes) => Cow::Owned(bytes[4..4 + length].to_vec()),
                }));
            }
        }
        let [content, major, _minor, high, low, rest @ ..] = records else {
            let plausible = records.first().is_none_or(|&c| c == CONTENT_HANDSHAKE)
                && records.get(1).is_none_or(|&v| v == 3);
            return if plausible { Ok(None) } else { Err(Malformed) };
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if *content != CONTENT_HANDSHAKE || *major != 3 || length == 0 || length > 16_384 {
            return Err(Malformed);
        }
        let fragment = &rest[..length.min(rest.len())];
        if joined.is_empty() {
            joined = Cow::Borrowed(fragment);
        } else {
            joined.to_mut().extend_from_slice(fragment);
        }
        if fragment.len() < length {
            // A fragment cut short can still show that this is no ClientHello.
            let plausible = joined.first().is_none_or(|&kind| kind == HANDSHAKE_CLIENT_HELLO);
            return if plausible { Ok(None) } else { Err(Malformed) };
        }
        records = &rest[length..];
    }
}

/// A cursor over the length-prefixed vectors of TLS (RFC 8446 3.4).
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}

fn read_body(body: &[u8]) -> Option<ClientHello> {
    let mut cursor = Cursor(body);
    let mut hello = ClientHello::default();
    cursor.take(2 + 32)?; // legacy_version, random
    cursor.vector8()?; // legacy_session_id
    cursor.vector16()?; // cipher_suites
    cursor.vector8()?; // legacy_compression_methods
    if cursor.0.is_empty() {
        return Some(hello); // A hello without extensions is valid in TLS 1.2.
    }
    let mut extensions = Cursor(cursor.vector16()?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let data = extensions.vector16()?;
        match kind {
            EXTENSION_SERVER_NAME => hello.server_name = server_name(data)?,
            EXTENSION_ALPN => hello.offers_h2 = offers_h2(data)?,
            EXTENSION_SIGNATURE_ALGORITHMS => hello.offers_ecdsa = offers_ecdsa(data)?,
            // An empty ticket only asks for one (RFC 5077 3.2).
            EXTENSION_SESSION_TICKET => hello.offers_resumption |= !data.is_empty(),
            EXTENSION_PRE_SHARED_KEY => hello.offers_resumption = true,
            _ => {}
        }
    }
    Some(hello)
}

/// The first host_name of the list; `None` inside where it is no host name (rustls ignores IP
/// literals in SNI alike, RFC 6066 3).
fn server_name(data: &[u8]) -> Option<Option<Hostname>> {
    let mut list = Cursor(Cursor(data).vector16()?);
    while !list.0.is_empty() {
        let kind = list.u8()?;
        let name = list.vector16()?;
        if kind == 0 {
            let text = std::str::from_utf8(name).ok();
            return Some(text.and_then(|text| Hostname::parse(text).ok()));
        }
    }
    Some(None)
}

fn offers_h2(data: &[u8]) -> Option<bool> {
    let mut list = Cursor(Cursor(data).vector16()?);
    let mut found = false;
    while !list.0.is_empty() {
        found |= list.vector8()? == b"h2";
    }
    Some(found)
}

fn offers_ecdsa(data: &[u8]) -> Option<bool> {
    let schemes = Cursor(data).vector16()?.chunks_exact(2);
    let is_whole = schemes.remainder().is_empty();
    let mut schemes = schemes.map(|scheme| u16::from_be_bytes([scheme[0], scheme[1]]));
    // P-256, P-384, P-521; Ed25519, Ed448.
    let found = schemes.any(|scheme| matches!(scheme, 0x0403 | 0x0503 | 0x0603 | 0x0807 | 0x0808));
    is_whole.then_some(found)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// What a real client library sends.
    fn real_hello(host: &'static str, protocols: &[&[u8]]) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
        let name = host.try_into().unwrap();
        let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).unwrap();
        bytes
    }

    fn hello(bytes: &[u8]) -> ClientHello {
        match parse(bytes) {
            FirstBytes::Hello(hello) => hello,
            other => panic!("no hello but {other:?}"),
        }
    }

    #[test]
    fn a_real_hello_is_read() {
        let read = hello(&real_hello("Blog.Example", &[b"h2", b"http/1.1"]));
        assert_eq!(read.server_name.unwrap().as_str(), "blog.example");
        assert!(read.offers_h2);
        assert!(!read.offers_resumption);
        assert!(read.offers_ecdsa);
        assert!(!hello(&real_hello("blog.example", &[b"http/1.1"])).offers_h2);
    }

    #[test]
    fn every_prefix_of_a_hello_is_incomplete() {
        let bytes = real_hello("blog.example", &[b"h2"]);
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end]), FirstBytes::Incomplete, "at {end}");
        }
    }

    #[test]
    fn a_hello_split_over_records_is_joined() {
        let bytes = real_hello("blog.example", &[b"h2"]);
        let message = &bytes[RECORD_HEADER..];
        let mut split = Vec::new();
        for piece in message.chunks(100) {
            split.extend_from_slice(&[22, 3, 1]);
            split.extend_from_slice(&(piece.len() as u16).to_be_bytes());
            split.extend_from_slice(piece);
        }
        assert_eq!(hello(&split), hello(&bytes));
    }

    #[test]
    fn signature_schemes_are_read_to_their_end() {
        assert_eq!(offers_ecdsa(&[0, 4, 8, 4, 4, 3]), Some(true));
        assert_eq!(offers_ecdsa(&[0, 6, 8, 4, 4, 1, 2, 1]), Some(false), "RSA alone");
        assert_eq!(offers_ecdsa(&[0, 2, 8, 7]), Some(true));
        assert_eq!(offers_ecdsa(&[0, 0]), Some(false));
        assert_eq!(offers_ecdsa(&[0, 3, 8, 4, 4]), None, "half a scheme");
        assert_eq!(offers_ecdsa(&[0, 4, 8, 4]), None, "cut short");
    }

    #[test]
    fn what_is_no_hello_is_told_apart() {
        assert_eq!(parse(b"GET / HTTP/1.1\r\n"), FirstBytes::PlainHttp);
        assert_eq!(parse(b"VERSION-CONTROL / HTTP/1.1\r\n"), FirstBytes::PlainHttp);
        assert_eq!(parse(b"GET"), FirstBytes::Incomplete);
        assert_eq!(parse(&[b'A'; METHOD_BYTES_MAX]), FirstBytes::Incomplete);
        assert_eq!(parse(&[b'A'; METHOD_BYTES_MAX + 1]), FirstBytes::Malformed);
        assert_eq!(parse(b"SSH-2.0-OpenSSH_9.2\r\n"), FirstBytes::Malformed);
        assert_eq!(parse(b"-GET / HTTP/1.1\r\n"), FirstBytes::Malformed);
        assert_eq!(parse(b"get / HTTP/1.1\r\n"), FirstBytes::Malformed);
        assert_eq!(parse(b"\x00\x01"), FirstBytes::Malformed);
        assert_eq!(parse(b"\x16\x02"), FirstBytes::Malformed);
        assert_eq!(parse(b"\x16\x03\x01\x00\x00"), FirstBytes::Malformed);
        assert_eq!(parse(b"\x16\x03\x01\x00\x05\x02"), FirstBytes::Malformed);
        assert_eq!(parse(b"\x16\x03\x01\xff\xff"), FirstBytes::Malformed);
    }

    #[test]
    fn mutated_hellos_never_panic() {
        let bytes = real_hello("blog.example", &[b"h2"]);
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut mutated = bytes.clone();
                mutated[at] = value;
                parse(&mutated);
            }
        }
    }
}
