//! `[listen]`: addresses, and networks that are believed.

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::walk::{Table, Value};
use super::{AdminAddress, Listen};
use crate::plain_file;

/// The shortest token: sixteen random bytes in base64 are 22 characters, a typed word is less.
const TOKEN_BYTES_MIN: usize = 16;

/// The longest: a file with more is some other file.
const TOKEN_BYTES_MAX: usize = 1_024;

/// The same, with room for blanks around it.
const TOKEN_FILE_BYTES_MAX: u64 = 4_096;

const OWN_ADDRESS: &str = "give each listener its own address or port; [::] is dual stack";

/// Reads the section.
pub fn read(table: &Table<'_>) -> Listen {
    let mut taken = Taken::default();
    let https = addresses(table, "https", "[::]:443", &mut taken);
    let http = addresses(table, "http", "[::]:80", &mut taken);
    if https.is_empty() {
        let items = table.value("https").and_then(|value| Some((value.items("")?, value)));
        if let Some((_, value)) = items.filter(|(items, _)| items.is_empty()) {
            value.wrong("at least one address, as [\"[::]:443\"]", "");
        }
    }
    let admin_token_file = token_file(table);
    let admin = admin(table, admin_token_file.is_some(), &mut taken);
    Listen {
        https,
        http,
        admin,
        admin_token_file,
        backlog: 4096,
        proxy_protocol_from: networks(table, "proxy_protocol_from"),
        trusted_proxies: networks(table, "trusted_proxies"),
    }
}

/// The addresses listened on so far, and the key that said so.
#[derive(Default)]
struct Taken(HashMap<SocketAddr, &'static str>);

impl Taken {
    /// Says where `address` is taken already. Port 0 is a new port each time.
    fn take(&mut self, key: &'static str, address: SocketAddr) -> Result<(), String> {
        if address.port() == 0 {
            return Ok(());
        }
        let dual_stack = |ip: IpAddr| ip.is_unspecified() && ip.is_ipv6();
        let clash = self.0.iter().find(|(other, _)| {
            let either = dual_stack(other.ip()) || dual_stack(address.ip());
            let both = other.ip().is_unspecified() && address.ip().is_unspecified();
            other.port() == address.port() && (other.ip() == address.ip() || either && both)
        });
        if let Some((other, by)) = clash {
            return Err(format!("found {address}, but listen.{by} has {other} already"));
        }
        self.0.insert(address, key);
        Ok(())
    }
}

fn addresses(
    table: &Table<'_>,
    key: &'static str,
    default: &str,
    taken: &mut Taken,
) -> Vec<SocketAddr> {
    let expected = "a list of addresses, as [\"[::]:443\", \"192.0.2.1:443\"]";
    let items = table.value(key).and_then(|value| value.items(expected));
    let Some(items) = items else {
        let default: Vec<SocketAddr> = default.parse().into_iter().collect();
        for address in &default {
            if let Err(what) = taken.take(key, *address) {
                table.problem(key, what, OWN_ADDRESS);
            }
        }
        return default;
    };
    let mut found = Vec::new();
    for item in &items {
        if let Some(address) = item.parse("ADDRESS:PORT, as \"[::]:443\"", socket_address) {
            if let Err(what) = taken.take(key, address) {
                item.problem(what, OWN_ADDRESS);
            }
            found.push(address);
        }
    }
    found
}

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        if text.parse::<IpAddr>().is_ok() {
            return "the port is missing, and IPv6 needs brackets".to_string();
        }
        if text.parse::<u16>().is_ok() || text.starts_with(':') || text.starts_with('*') {
            return "the address is missing; all addresses are [::]".to_string();
        }
        let host = text
            .rsplit_once(':')
            .and_then(|(host, port)| port.bytes().all(|b| b.is_ascii_digit()).then_some(host));
        if host.is_some_and(|host| format!("{host}:1").parse::<SocketAddr>().is_ok()) {
            return "the port is no number up to 65535".to_string();
        }
        "names are not looked up here".to_string()
    })
}

fn admin(table: &Table<'_>, token: bool, taken: &mut Taken) -> AdminAddress {
    let default = AdminAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 9180)));
    let Some(value) = table.value("admin") else {
        return default;
    };
    let expected = "ADDRESS:PORT or unix:PATH";
    let Some(text) = value.string(expected) else {
        return default;
    };
    if let Some(path) = text.strip_prefix("unix:") {
        if path.is_empty() {
            value.wrong(expected, "the socket's path is missing");
        }
        return AdminAddress::Unix(table.relative(path));
    }
    let Some(address) = value.parse(expected, socket_address) else {
        return default;
    };
    if let Err(what) = taken.take("admin", address) {
        value.problem(what, OWN_ADDRESS);
    }
    if !address.ip().is_loopback() && !token {
        let what = format!("found {text:?}, which others can reach, without admin_token_file");
        value.problem(what, "set listen.admin_token_file, or use 127.0.0.1 or unix:PATH");
    }
    AdminAddress::Tcp(address)
}

/// Reads the admin token from its file; blanks around it do not count.
///
/// # Errors
/// Where the file cannot be read, or holds anything but one word of 16 to 1,024 bytes.
pub fn admin_token(path: &Path) -> io::Result<String> {
    let text = plain_file::read(path, TOKEN_FILE_BYTES_MAX)?;
    let token = str::from_utf8(&text).unwrap_or_default().trim();
    let within = (TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len());
    if !within || token.chars().any(char::is_whitespace) {
        let what = format!(
            "a token is one word of {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} bytes, and it has none"
        );
        return Err(io::Error::new(ErrorKind::InvalidData, what));
    }
    Ok(token.to_owned())
}

/// The token's file must have a token, and nobody else should read it.
fn token_file(table: &Table<'_>) -> Option<PathBuf> {
    let (value, written) = table.text("admin_token_file")?;
    let path = table.relative(written);
    match admin_token(&path) {
        Err(error) => {
            let what = format!("{} cannot be used: {error}", path.display());
            value.problem(what, "write a token into it: openssl rand -hex 32");
        }
        Ok(_) => {
            let mode = fs::metadata(&path).map_or(0, |found| found.permissions().mode());
            if mode & 0o077 != 0 {
                let what = format!("{} can be read by others", path.display());
                value.warning(what, "chmod 600 it");
            }
        }
    }
    Some(path)
}

fn networks(table: &Table<'_>, key: &'static str) -> Vec<IpNet> {
    let expected = "a list of networks, as [\"10.0.0.0/8\", \"2001:db8::1\"]";
    let items = table.value(key).and_then(|value| value.items(expected));
    let read = |item: &Value<'_>| item.parse("a network or an address, as \"10.0.0.0/8\"", network);
    items.into_iter().flatten().filter_map(|item| read(&item)).collect()
}

fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(ip));
    }
    let network: IpNet = text.parse().map_err(|_| "it is no network".to_string())?;
    if network.addr() != network.network() {
        return Err(format!("it has bits after the prefix; the network is {}", network.trunc()));
    }
    Ok(network)
}
