//! Those who come to the demo's sites during an incident: steady visitors, and the flood.
//!
//! A visitor comes to each site ten times a second, whether the last one was answered or not. Four
//! of five use a connection that is open already, as browsers do; the fifth is new. All bounds are
//! small: [`WAITING_MAX`] visitors of a site at one time, [`FLOOD_HOLD`] for each silent client.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};

use super::incident::{BLOG, Flood};
use crate::load::answer::Body;
use crate::load::connect::{self, Clock, Route, Stream};
use crate::load::h1;
use crate::load::outcome::Times;
use crate::load::sources::Sources;
use crate::load::trust::{Group, Offer, Sessions, Trust, Versions, client_config};

/// From one visitor of a site to the next.
const EVERY: Duration = Duration::from_millis(100);

/// How many of a site's visitors use the open connections before a new one comes.
const KNOWN: u32 = 4;

/// What a visitor bears.
const PATIENCE: Duration = Duration::from_secs(20);

/// Visitors of one site at one time; who comes then finds the page in another tab.
const WAITING_MAX: u32 = 200;

/// From one client of the flood to the next: some 300 a second.
const FLOOD_EVERY: Duration = Duration::from_micros(3_333);

/// How long a client of the flood stays.
const FLOOD_HOLD: Duration = Duration::from_secs(4);

/// What visitors of one site have met since it was last asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Those who came.
    pub came: u32,
    /// Those who got their page.
    pub answered: u32,
    /// Those who were told to come back: 503 and its like.
    pub refused: u32,
    /// Those who got nothing: reset, or out of patience.
    pub lost: u32,
    /// Those who wait now.
    pub waiting: u32,
    /// The longest that one waited for a page.
    pub slowest: Duration,
}

/// The visitors; they stop coming when this is dropped.
pub struct Visitors {
    tallies: Arc<[Mutex<Tally>]>,
    flood: watch::Sender<Flood>,
}

impl Visitors {
    /// Sends visitors to `hosts` at the address; they believe the authority's certificates.
    ///
    /// # Errors
    /// A sentence on what could not be had.
    pub fn start(
        address: SocketAddr,
        hosts: &[String],
        authority: PathBuf,
    ) -> Result<Visitors, String> {
        let offer = Offer {
            versions: Versions::Both,
            group: Group::X25519,
            alpn: vec![b"http/1.1".to_vec()],
            sessions: Sessions::Forget,
        };
        let tls = client_config(&Trust::Authorities(authority), &offer);
        let tls = tls.map_err(|error| error.to_string())?;
        let name = |host: &String| ServerName::try_from(host.clone());
        let server_names: Result<Vec<_>, _> = hosts.iter().map(name).collect();
        let server_names = server_names.map_err(|error| error.to_string())?;
        let sources = Sources::new(1);
        let route = Route { address, tls: Some(tls), server_names, receive_buffer: None, sources };
        let tallies: Arc<[Mutex<Tally>]> = hosts.iter().map(|_| Mutex::default()).collect();
        let (flood, flooding) = watch::channel(Flood::None);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let (counted, hosts) = (tallies.clone(), hosts.to_vec());
        let come =
            move || LocalSet::new().block_on(&runtime, come(route, hosts, counted, flooding));
        let thread = std::thread::Builder::new().name("demo-visitors".into()).spawn(come);
        thread.map_err(|error| error.to_string())?;
        Ok(Visitors { tallies, flood })
    }

    /// Lets a flood begin, or end.
    pub fn flood(&self, flood: Flood) {
        self.flood.send_replace(flood);
    }

    /// What each site's visitors have met since this was last asked.
    pub fn tallies(&self) -> Vec<Tally> {
        let take = |tally: &Mutex<Tally>| {
            let mut tally = lock(tally);
            let waiting = tally.waiting;
            std::mem::replace(&mut *tally, Tally { waiting, ..Tally::default() })
        };
        self.tallies.iter().map(take).collect()
    }
}

/// Connections that one site's visitors keep; the others leave when they have been answered.
const OPEN_MAX: usize = 8;

/// One site's visitors.
struct Site {
    route: Rc<Route>,
    /// Its place in the route.
    at: usize,
    request: Vec<u8>,
    open: RefCell<Vec<Stream>>,
    tallies: Arc<[Mutex<Tally>]>,
}

async fn come(
    route: Route,
    hosts: Vec<String>,
    tallies: Arc<[Mutex<Tally>]>,
    mut flooding: watch::Receiver<Flood>,
) {
    let route = Rc::new(route);
    for (at, host) in hosts.iter().enumerate() {
        let (route, tallies, open) = (route.clone(), tallies.clone(), RefCell::default());
        spawn_local(visits(Rc::new(Site {
            route,
            at,
            request: h1::request(host, "/"),
            open,
            tallies,
        })));
    }
    spawn_local(flood(route, flooding.clone()));
    // Until the sender is dropped; then the runtime goes, and everybody with it.
    while flooding.changed().await.is_ok() {}
}

async fn visits(site: Rc<Site>) {
    let mut tick = tokio::time::interval(EVERY);
    for number in 0_u32.. {
        tick.tick().await;
        {
            let mut tally = lock(&site.tallies[site.at]);
            if tally.waiting >= WAITING_MAX {
                continue;
            }
            tally.came += 1;
            tally.waiting += 1;
        }
        let site = site.clone();
        let known = number % (KNOWN + 1) != 0;
        spawn_local(async move {
            let begun = Instant::now();
            let status = tokio::time::timeout(PATIENCE, visit(&site, known)).await;
            let mut tally = lock(&site.tallies[site.at]);
            tally.waiting -= 1;
            match status {
                Ok(Some(200..400)) => {
                    tally.answered += 1;
                    tally.slowest = tally.slowest.max(begun.elapsed());
                }
                Ok(Some(_)) => tally.refused += 1,
                Ok(None) | Err(_) => tally.lost += 1,
            }
        });
    }
}

/// The status of the answer, where one came.
async fn visit(site: &Site, known: bool) -> Option<u16> {
    if known {
        // An open connection may have been closed meanwhile: then the next one is tried.
        while let Some(stream) = { site.open.borrow_mut().pop() } {
            if let Some(status) = ask(site, stream).await {
                return Some(status);
            }
        }
    }
    let (clock, mut times) = (Clock(Instant::now()), Times::default());
    let stream = connect::open(&site.route, site.at, clock, &mut times).await.ok()?;
    ask(site, stream).await
}

async fn ask(site: &Site, mut stream: Stream) -> Option<u16> {
    let (clock, mut times) = (Clock(Instant::now()), Times::default());
    let mut buffer = vec![0; h1::READ_BYTES];
    let body = (Body::Count, &mut buffer[..]);
    let answer = h1::exchange(&mut stream, &site.request, body, clock, &mut times).await.ok()?;
    let mut open = site.open.borrow_mut();
    if answer.reusable && open.len() < OPEN_MAX {
        open.push(stream);
    }
    Some(answer.status)
}

async fn flood(route: Rc<Route>, flooding: watch::Receiver<Flood>) {
    let hello: Rc<[u8]> = hello(&route).into();
    let mut tick = tokio::time::interval(FLOOD_EVERY);
    loop {
        tick.tick().await;
        let says: Rc<[u8]> = match *flooding.borrow() {
            Flood::None => continue,
            Flood::Hellos => hello.clone(),
            Flood::Silence => Rc::default(),
        };
        let (address, mut flooding) = (route.address, flooding.clone());
        spawn_local(async move {
            let stay = async {
                let Ok(mut stream) = TcpStream::connect(address).await else { return };
                if stream.write_all(&says).await.is_err() {
                    return;
                }
                let mut sink = tokio::io::sink();
                // One that is turned away does not stay.
                tokio::select! {
                    _ = tokio::io::copy(&mut stream, &mut sink) => {}
                    _ = flooding.wait_for(|flood| *flood == Flood::None) => {}
                }
            };
            let _ = tokio::time::timeout(FLOOD_HOLD, stay).await;
        });
    }
}

/// A ClientHello for the blog.
fn hello(route: &Route) -> Vec<u8> {
    let mut bytes = Vec::new();
    let connection = |tls: &Arc<ClientConfig>| {
        ClientConnection::new(tls.clone(), route.server_names[BLOG].clone()).ok()
    };
    if let Some(mut connection) = route.tls.as_ref().and_then(connection) {
        // A vector takes everything.
        let _ = connection.write_tls(&mut bytes);
    }
    bytes
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}
