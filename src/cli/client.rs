//! How a command talks to the running edge: one request over its admin listener.
//!
//! The edge is found through the configuration's state folder, also where port 0 was asked for, or
//! named with `--admin`. The token, where the edge wants one, is read from the file that the
//! configuration names, or from `--token-file`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::{TcpStream, UnixStream};

use super::ConfigFile;
use crate::config::{self, AdminAddress};

/// For connecting and for the whole answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// For a reload: the edge itself gives up after 120 s.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(130);

/// 100,000 certificates with their hosts are some 60 MB.
const ANSWER_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Which edge is meant.
#[derive(Args, Clone, Debug)]
pub(super) struct EdgeArguments {
    #[command(flatten)]
    config: ConfigFile,
    /// The edge's admin address instead of the one in the state folder: ADDRESS:PORT or unix:PATH
    #[arg(long, value_name = "ADDR", value_parser = admin_address)]
    admin: Option<AdminAddress>,
    /// File with the admin token [default: the configuration's listen.admin_token_file]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// A running edge.
pub(super) struct Edge {
    address: AdminAddress,
    token: Option<String>,
    runtime: tokio::runtime::Runtime,
}

impl EdgeArguments {
    /// Whether it is named by its address, not by its configuration.
    pub(super) fn is_named(&self) -> bool {
        self.admin.is_some()
    }

    /// Where the running edge of the main file leaves what commands need.
    pub(super) fn state_folder(&self) -> Result<PathBuf> {
        Ok(config::state_folder(&self.config.existing()?))
    }

    /// Finds the edge; whether it answers shows at the first question.
    pub(super) fn find(&self) -> Result<Edge> {
        let file = self.config.path();
        let address = match &self.admin {
            Some(address) => address.clone(),
            None => config::state::find(&self.state_folder()?)?.admin,
        };
        let token = match self.token_file.clone().or_else(|| configured_token_file(&file)) {
            Some(path) => {
                let token = std::fs::read_to_string(&path);
                Some(token.with_context(|| format!("cannot read the token {}", path.display()))?)
            }
            None => None,
        };
        Ok(Edge { token: token.map(|token| token.trim().to_owned()), ..Edge::at(address)? })
    }
}

fn admin_address(text: &str) -> Result<AdminAddress, &'static str> {
    AdminAddress::parse(text).ok_or("expected ADDRESS:PORT or unix:PATH")
}

/// `listen.admin_token_file` of a file that need not be valid otherwise.
fn configured_token_file(file: &Path) -> Option<PathBuf> {
    let table: toml::Table = std::fs::read_to_string(file).ok()?.parse().ok()?;
    let path = table.get("listen")?.get("admin_token_file")?.as_str()?;
    if path.is_empty() {
        return None;
    }
    Some(file.parent().unwrap_or(Path::new(".")).join(path))
}

impl Edge {
    /// The edge whose admin listener is there and asks for no token.
    pub(super) fn at(address: AdminAddress) -> Result<Edge> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Edge { address, token: None, runtime })
    }

    /// The answer to GET, as JSON.
    pub(super) fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let body = self.get(path)?;
        let what = || format!("the edge at {} gave an answer that cannot be read", self.address);
        serde_json::from_slice(&body).with_context(what)
    }

    /// Lets the edge reload, and gives its report; a refused one is an answer too.
    pub(super) fn reload<T: DeserializeOwned>(&self) -> Result<T> {
        let body = self.talk(Method::POST, "/api/reload", RELOAD_TIMEOUT)?;
        let what = || format!("the edge at {} gave an answer that cannot be read", self.address);
        serde_json::from_slice(&body).with_context(what)
    }

    /// The answer to GET.
    pub(super) fn get(&self, path: &str) -> Result<Bytes> {
        self.talk(Method::GET, path, TIMEOUT)
    }

    fn talk(&self, method: Method, path: &str, timeout: Duration) -> Result<Bytes> {
        let answer = self.runtime.block_on(async {
            let asked = tokio::time::timeout(timeout, self.ask(method, path)).await;
            asked.map_err(|_| anyhow!("no answer"))?
        });
        answer.with_context(|| format!("cannot ask the edge at {}", self.address))
    }

    async fn ask(&self, method: Method, path: &str) -> Result<Bytes> {
        match &self.address {
            AdminAddress::Tcp(address) => {
                self.converse(TokioIo::new(TcpStream::connect(address).await?), method, path).await
            }
            AdminAddress::Unix(socket) => {
                self.converse(TokioIo::new(UnixStream::connect(socket).await?), method, path).await
            }
        }
    }

    async fn converse<I>(&self, io: I, method: Method, path: &str) -> Result<Bytes>
    where
        I: hyper::rt::Read + hyper::rt::Write + Unpin,
    {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        let host = match &self.address {
            AdminAddress::Tcp(address) => address.to_string(),
            AdminAddress::Unix(_) => "localhost".to_owned(),
        };
        let mut request = http::Request::builder().method(&method).uri(path);
        if method == Method::POST {
            // What a browser says of the dashboard's own requests; see `admin::security`.
            request = request.header(ORIGIN, format!("http://{host}"));
        }
        request = request.header(HOST, host);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Empty::<Bytes>::new())?;
        let answer = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| anyhow!(error))?.to_bytes();
            let is_refused_reload = method == Method::POST && status == StatusCode::CONFLICT;
            if !status.is_success() && !is_refused_reload {
                let text = String::from_utf8_lossy(&body);
                bail!("it answered {status}: {}", text.trim());
            }
            Ok(body)
        };
        tokio::select! {
            biased;
            answer = answer => answer,
            closed = connection => {
                closed?;
                bail!("it closed the connection")
            }
        }
    }
}
