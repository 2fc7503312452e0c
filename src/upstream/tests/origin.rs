//! A scripted HTTP/1 origin: it accepts, and a script says what to do with each connection.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::endpoint;
use crate::sites::{Address, EndpointSpec, Protocol};

/// A running origin.
pub struct Origin {
    pub address: SocketAddr,
    accepted: Rc<Cell<usize>>,
}

/// One accepted connection.
pub struct Peer {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Origin {
    /// Starts an origin; `script` gets each connection with its number, from 0.
    pub async fn start<F>(script: F) -> Origin
    where
        F: AsyncFn(usize, Peer) + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Origin::on(listener, script)
    }

    pub fn on<F: AsyncFn(usize, Peer) + 'static>(listener: TcpListener, script: F) -> Origin {
        let address = listener.local_addr().unwrap();
        let (accepted, counter) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let origin = Origin { address, accepted: counter.clone() };
        let script = Rc::new(script);
        tokio::task::spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let at = accepted.replace(accepted.get() + 1);
                counter.set(accepted.get());
                let script = script.clone();
                let peer = Peer { stream, unread: Vec::new() };
                tokio::task::spawn_local(async move { script(at, peer).await });
            }
        });
        origin
    }

    /// An origin that answers every request with the same bytes.
    pub async fn answering(answer: &'static str) -> Origin {
        Origin::start(async move |_, mut peer: Peer| {
            while peer.head().await.is_some() {
                peer.write(answer).await;
            }
        })
        .await
    }

    pub fn endpoint(&self) -> EndpointSpec {
        let url = format!("http://{}", self.address);
        endpoint(url, Address::Ip(self.address), Protocol::Http1)
    }

    pub fn accepted(&self) -> usize {
        self.accepted.get()
    }
}

impl Peer {
    /// The next request head; `None` once the client has closed.
    pub async fn head(&mut self) -> Option<String> {
        self.up_to("\r\n\r\n").await
    }

    /// Everything up to and with `end`; `None` once the client has closed.
    pub async fn up_to(&mut self, end: &str) -> Option<String> {
        loop {
            let found = self.unread.windows(end.len()).position(|window| window == end.as_bytes());
            if let Some(at) = found {
                let text = self.unread.drain(..at + end.len()).collect();
                return Some(String::from_utf8(text).unwrap());
            }
            if !self.read().await {
                return None;
            }
        }
    }

    async fn read(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.unread).await, Ok(1..))
    }

    pub async fn write(&mut self, text: &str) {
        // A client that has gone is what some tests are about.
        let _ = self.stream.write_all(text.as_bytes()).await;
    }

    /// Waits until the client closes.
    pub async fn closed(&mut self) {
        while self.read().await {}
    }

    /// Closes with a reset.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }
}
