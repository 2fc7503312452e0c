//! Four bad nights, each as data: what the demo's configuration has beside the usual, and what
//! happens when.
//!
//! Each starts the real cause - a flood, a program's malformed heads, a server that falls silent,
//! one that goes away - on loopback, for less than a minute, and takes it away again. What the edge
//! makes of it is the edge's own doing.

use std::time::Duration;

/// What goes wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Incident {
    /// A flood of new connections: first the handshake queue is full, then the kernel's
    Queues,
    /// A site's program sends malformed headers from one moment to the next
    Headers,
    /// A site's server accepts requests and answers none
    Silence,
    /// A site's server goes away and comes back, soon and then late
    Failover,
}

/// The site that the flood asks for, and whose server goes away.
pub const BLOG: usize = 0;
const SHOP: usize = 1;
/// The site whose program sends malformed heads.
pub const LEGACY: usize = 2;

/// What a flood's clients do once they are connected, before they fall silent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Flood {
    /// There is none.
    None,
    /// Say hello for the blog, and never finish the handshake.
    Hellos,
    /// Nothing at all.
    Silence,
}

/// What an act begins or ends.
#[derive(Clone, Copy, Debug)]
pub enum Turn {
    /// All goes on as it is.
    Nothing,
    /// The clients of the flood.
    Flood(Flood),
    /// Whether that site's server is in its trouble.
    Trouble(usize, bool),
}

/// One act of an incident.
#[derive(Clone, Copy, Debug)]
pub struct Act {
    /// What is told.
    pub says: &'static str,
    /// What happens.
    pub turn: Turn,
    /// Until the next act, in seconds.
    pub seconds: u64,
}

impl Act {
    /// How long it lasts.
    pub fn lasts(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// What the configuration has beside the usual, by section and by site.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keys {
    /// In `[listen]`.
    pub listen: &'static str,
    /// In `[runtime]`.
    pub runtime: &'static str,
    /// More sections.
    pub sections: &'static str,
    /// In each site's file.
    pub sites: [&'static str; 3],
}

const fn act(seconds: u64, turn: Turn, says: &'static str) -> Act {
    Act { says, turn, seconds }
}

const CALM: Act = act(4, Turn::Nothing, "all is well: visitors come to blog, shop and legacy");

const QUEUES: [Act; 4] = [
    CALM,
    act(
        8,
        Turn::Flood(Flood::Hellos),
        "the cause: 300 connections a second say hello for the blog and fall silent; the handshake \
         queue has 32 places",
    ),
    act(
        8,
        Turn::Flood(Flood::Silence),
        "the cause changes: they say nothing at all; all 200 places for connections are taken, so \
         new ones wait in the kernel, which holds 64",
    ),
    act(0, Turn::Flood(Flood::None), "the cause is gone: the flood has ended"),
];

const HEADERS: [Act; 3] = [
    CALM,
    act(
        8,
        Turn::Trouble(LEGACY, true),
        "the cause: legacy's program sends headers as such programs do; they are repaired and \
         reported, and `headers.shadow = \"reject\"` tells what a strict server would refuse",
    ),
    act(0, Turn::Trouble(LEGACY, false), "the cause is gone: legacy's program was mended"),
];

const SILENCE: [Act; 3] = [
    CALM,
    act(
        16,
        Turn::Trouble(SHOP, true),
        "the cause: shop's server accepts requests and answers none; after 8 the others wait",
    ),
    act(0, Turn::Trouble(SHOP, false), "the cause is gone: shop's server answers again"),
];

const FAILOVER: [Act; 5] = [
    CALM,
    act(
        5,
        Turn::Trouble(BLOG, true),
        "the cause: blog's server has gone; requests are held until it is back",
    ),
    act(14, Turn::Trouble(BLOG, false), "blog's server is back: those who waited are answered"),
    act(
        16,
        Turn::Trouble(BLOG, true),
        "it has gone again, for longer than a request waits (10 s): then the maintenance page",
    ),
    act(0, Turn::Trouble(BLOG, false), "the cause is gone: blog's server is back"),
];

impl Incident {
    /// What happens, in order.
    pub fn acts(self) -> &'static [Act] {
        match self {
            Incident::Queues => &QUEUES,
            Incident::Headers => &HEADERS,
            Incident::Silence => &SILENCE,
            Incident::Failover => &FAILOVER,
        }
    }

    /// What its configuration has beside the usual: bounds so small that a laptop reaches them.
    pub fn keys(self) -> Keys {
        match self {
            Incident::Queues => Keys {
                listen: "backlog = 64\n",
                runtime: "max_connections = 200\n",
                sections: "[queues]\nhandshake_depth = 32\nhandshake_concurrency = 16\n\n",
                ..Keys::default()
            },
            Incident::Headers => {
                Keys { sections: "[headers]\nshadow = \"reject\"\n\n", ..Keys::default() }
            }
            Incident::Silence => {
                Keys { sites: ["", "limits = { in_flight = 8 }\n", ""], ..Keys::default() }
            }
            Incident::Failover => {
                Keys { sites: ["maintenance = \"../blog.html\"\n", "", ""], ..Keys::default() }
            }
        }
    }
}
