//! Site servers that do what a script says.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::{ServerConnection, StreamOwned};

use super::PATIENCE;
use super::authority::Authority;
use super::wire::{Message, Wire};

/// One connection from the edge.
pub type Connection = Wire<TcpStream>;

/// A site server. Dropped, it ends with all its connections.
pub struct Origin {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    stopped: AtomicBool,
    accepted: AtomicUsize,
    ended: AtomicUsize,
    open: Mutex<Vec<TcpStream>>,
}

impl Origin {
    /// Runs `script` for every connection, each on a thread of its own.
    pub fn scripted(script: impl Fn(Connection) + Send + Sync + 'static) -> Origin {
        Origin::at(([127, 0, 0, 1], 0).into(), script)
    }

    /// The same at a known address.
    pub fn at(address: SocketAddr, script: impl Fn(Connection) + Send + Sync + 'static) -> Origin {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let (here, script) = (state.clone(), Arc::new(script));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if here.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                here.open.lock().unwrap().push(stream.try_clone().unwrap());
                here.accepted.fetch_add(1, Ordering::SeqCst);
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.set_nodelay(true).unwrap();
                let (script, here) = (script.clone(), here.clone());
                thread::spawn(move || {
                    script(Wire::new(stream.try_clone().unwrap()));
                    let _ = stream.shutdown(Shutdown::Both);
                    here.ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Origin { address, state }
    }

    /// Answers each request with the bytes that `answer` makes of it, on kept connections.
    pub fn answering<B: AsRef<[u8]>>(
        answer: impl Fn(&Message) -> B + Send + Sync + 'static,
    ) -> Origin {
        Origin::scripted(move |connection| serve(connection, &answer))
    }

    /// Answers each request with the same bytes.
    pub fn saying(answer: &'static str) -> Origin {
        Origin::answering(move |_| answer)
    }

    /// The same over TLS, as `localhost`; see [`Origin::tls_url`].
    pub fn encrypted<B: AsRef<[u8]>>(
        authority: &Authority,
        answer: impl Fn(&Message) -> B + Send + Sync + 'static,
    ) -> Origin {
        let config = Arc::new(authority.server("localhost", "http/1.1"));
        Origin::scripted(move |connection| {
            let session = ServerConnection::new(config.clone()).unwrap();
            serve(Wire::new(StreamOwned::new(session, connection.stream)), &answer);
        })
    }

    /// Answers with the request as it came: its head, and its body behind it.
    pub fn echo() -> Origin {
        Origin::answering(echo)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For `upstreams`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The same for one that speaks TLS.
    pub fn tls_url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Connections whose script is over.
    pub fn ended(&self) -> usize {
        self.state.ended.load(Ordering::SeqCst)
    }

    /// Ends it: nobody listens at the address any more.
    pub fn stop(&self) {
        if self.state.stopped.swap(true, Ordering::SeqCst) {
            return;
        }
        let _ = TcpStream::connect(self.address); // Wakes the accept loop.
        for stream in self.state.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Answers requests until the edge closes.
pub fn serve<S: Read + Write, B: AsRef<[u8]>>(
    mut connection: Wire<S>,
    answer: &impl Fn(&Message) -> B,
) {
    while let Some(request) = connection.request() {
        if connection.try_send(answer(&request)).is_err() {
            return;
        }
    }
}

/// A 200 with that body.
pub fn ok(body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut bytes =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// See [`Origin::echo`].
pub fn echo(request: &Message) -> Vec<u8> {
    let mut body = format!("{}\n", request.start).into_bytes();
    for (name, value) in &request.fields {
        body.extend_from_slice(format!("{name}: {value}\n").as_bytes());
    }
    body.push(b'\n');
    body.extend_from_slice(&request.body);
    for (name, value) in &request.trailers {
        body.extend_from_slice(format!("\ntrailer {name}: {value}").as_bytes());
    }
    ok(body)
}

/// An address at which nobody listens.
pub fn nobody() -> io::Result<SocketAddr> {
    TcpListener::bind(("127.0.0.1", 0))?.local_addr()
}
