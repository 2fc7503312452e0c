//! An edge that runs already: `--target`.
//!
//! What it is on is told by its address: on the loopback address it is this machine, and the edge of
//! the configuration's state folder. Of any other machine only the rates are known.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::measure::Subject;
use crate::certs::KeyKind;
use crate::config::machine::key_type;
use crate::config::{self, state};
use crate::load::target::{Scheme, Target, Url};
use crate::load::trust::{self, Group, Offer, Sessions, Trust, Versions};
use crate::sizing::KeyType;

/// For the one handshake that tells the key type.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which edge to measure where it is none of our own.
#[derive(Args, Debug)]
pub struct Running {
    /// Measure this edge, which runs already: a small page of a host for each key type in use, so
    /// that it may be repeated. Nothing is proven then
    #[arg(long, value_name = "URL", requires = "out")]
    target: Vec<String>,
    /// Connect here, whatever host the target names
    #[arg(long, value_name = "HOST:PORT", requires = "target")]
    connect: Option<String>,
    /// Repeats the name of a target that is not loopback: a load test of another's is an attack
    #[arg(long, value_name = "NAME", requires = "target")]
    i_own_this_host: Option<String>,
    /// Serving threads of the target [default: those that the configuration gives it here]
    #[arg(long, value_name = "COUNT", requires = "target")]
    threads: Option<usize>,
}

impl Running {
    /// Whether one was named.
    pub fn is_named(&self) -> bool {
        !self.target.is_empty()
    }

    /// Finds it, and asks it for its key types.
    pub fn find(&self, main: &Path, threads: usize) -> Result<Subject> {
        let mut pages = Vec::new();
        let mut found: Option<SocketAddr> = None;
        for text in &self.target {
            let (key, target) = self.look(text).with_context(|| format!("--target {text}"))?;
            if found.is_some_and(|address| address != target.address) {
                bail!("--target {text}: one edge is measured, and this is at another address");
            }
            if pages.iter().any(|(known, _)| *known == key) {
                bail!("--target {text}: a host with {key} is named already");
            }
            found = Some(target.address);
            pages.push((key, target.url));
        }
        pages.sort_by_key(|(key, _)| *key);
        let address = found.context("no --target is named")?;
        let here = is_here(address);
        let running = here.then(|| state::find(&config::state_folder(main)).ok()).flatten();
        let threads = self.threads.unwrap_or(threads).max(1);
        let process = running.map(|edge| edge.pid);
        Ok(Subject { address, process, admin: None, threads, silent: None, pages })
    }

    fn look(&self, text: &str) -> Result<(KeyType, Target)> {
        let url = Url::parse(text)?;
        if url.scheme != Scheme::Https {
            bail!("handshakes are measured: expected https://");
        }
        let target = Target::find(url, self.connect.as_deref(), self.i_own_this_host.as_deref())?;
        let shown = leaf(&target).context("the handshake that would tell its key type failed")?;
        Ok((key_of(&shown)?, target))
    }
}

/// Whether an address is this machine's own.
pub fn is_here(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// The certificate that the host shows, from one handshake.
fn leaf(target: &Target) -> Result<Vec<u8>> {
    let offer = Offer {
        versions: Versions::Both,
        group: Group::X25519,
        alpn: vec![b"http/1.1".to_vec()],
        sessions: Sessions::Forget,
    };
    let config: Arc<ClientConfig> = trust::client_config(&Trust::Nobody, &offer)?;
    let bare = target.url.host.as_str().trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(bare.to_owned())?;
    let mut stream = TcpStream::connect_timeout(&target.address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut connection = ClientConnection::new(config, name)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    let shown = connection.peer_certificates().and_then(<[_]>::first);
    Ok(shown.context("it shows no certificate")?.to_vec())
}

fn key_of(leaf: &[u8]) -> Result<KeyType> {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf)
        .map_err(|error| anyhow!("its certificate cannot be read: {error}"))?;
    let kind = KeyKind::of(certificate.public_key());
    Ok(key_type(kind.context("its certificate has a key of a kind that is not known")?))
}
