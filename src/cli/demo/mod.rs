//! `sluss demo`: a whole edge to try, on loopback, from nothing.
//!
//! Makes a local authority and certificates, three site servers in this process, a configuration
//! as an operator would write it - and then runs the edge on that configuration like `sluss run`
//! does. Nothing of the edge knows that it is a demo.
//!
//! With `--incident` one of four bad nights happens in front of it, see [`incident`].

mod authority;
mod incident;
mod origins;
mod story;
mod visitors;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::client;
use crate::server::{self, Ready};
use incident::{Incident, Keys};
use origins::Origin;
use story::Stage;
use visitors::Visitors;

/// Where the authority and the certificates go, and where the configuration does.
const CERTIFICATES: &str = "certs/demo";
const FOLDER: &str = "run/demo";

/// What visitors of the blog get while its server is away for long.
const MAINTENANCE: &str = "<!doctype html><meta charset=utf-8><title>blog</title><h1>Back soon</h1>\
    <p>The blog's server is away. Nothing is lost; please come again in a moment.\n";

/// The demo's sites, and what each shows.
const SITES: [(&str, &str); 3] = [
    ("blog", "a plain site"),
    ("shop", "a slow one: /slow takes a second, /checkout/ goes first, /export/ goes last"),
    ("legacy", "one that sends malformed headers; sluss repairs and reports them"),
];

/// `sluss demo`
#[derive(clap::Args, Debug)]
pub struct Demo {
    /// Where browsers connect
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8443")]
    https: SocketAddr,
    /// Plain HTTP, redirected to --https
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    http: SocketAddr,
    /// Dashboard, metrics and API
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9180")]
    admin: SocketAddr,
    /// Lets this go wrong, for less than a minute, and tells what the edge makes of it
    #[arg(long, value_name = "INCIDENT")]
    incident: Option<Incident>,
}

/// Runs the demo until Ctrl-C.
pub fn run(demo: &Demo) -> ExitCode {
    match prepare(demo) {
        Ok((config, origins)) => {
            server::run(&config, server::Greeting::Text(greeting(demo, origins)))
        }
        Err(error) => {
            eprintln!("sluss demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes everything and starts the site servers; returns these and the main file's path.
fn prepare(demo: &Demo) -> Result<(PathBuf, [Origin; 3]), String> {
    for (address, option) in
        [(demo.https, "--https"), (demo.http, "--http"), (demo.admin, "--admin")]
    {
        check_free(address, option)?;
    }
    let told = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| format!("{what}: {error}")
    };
    let current = std::env::current_dir().map_err(told("the current folder is not readable"))?;
    let (certificates, folder) = (current.join(CERTIFICATES), current.join(FOLDER));
    authority::make(&certificates, &hosts())
        .map_err(|error| format!("certificates under {CERTIFICATES}: {error}"))?;
    let origins = origins::start().map_err(told("the site servers do not start"))?;
    if demo.incident.is_none() {
        // Without an incident the legacy site is as ever.
        origins[incident::LEGACY].trouble.send_replace(true);
    }
    write_configuration(demo, &folder, &certificates, &origins)
        .map_err(told("the demo's configuration cannot be written"))?;
    Ok((folder.join("sluss.toml"), origins))
}

fn hosts() -> Vec<String> {
    SITES.iter().map(|(name, _)| format!("{name}.localhost")).collect()
}

fn check_free(address: SocketAddr, option: &str) -> Result<(), String> {
    match std::net::TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(format!(
            "{address} is in use by another program; choose another port, as in: \
             sluss demo {option} 127.0.0.1:0"
        )),
        Err(error) => Err(format!("{address} cannot be used ({option}): {error}")),
    }
}

fn write_configuration(
    demo: &Demo,
    folder: &Path,
    certificates: &Path,
    origins: &[Origin; 3],
) -> io::Result<()> {
    let sites = folder.join("sites");
    fs::create_dir_all(&sites)?;
    let Keys { listen, runtime, sections, sites: site_keys } =
        demo.incident.map(Incident::keys).unwrap_or_default();
    // The story has the terminal for itself.
    let log = if demo.incident.is_some() { "[log]\naccess = \"access.log\"\n\n" } else { "" };
    let main = format!(
        "# Written by `sluss demo`; a copy of it is a good beginning for your own.\n\
         [listen]\nhttps = [\"{}\"]\nhttp = [\"{}\"]\nadmin = \"{}\"\n{listen}\n\
         [runtime]\nstate = \"state\"\nshutdown_grace = \"5s\"\n{runtime}\n{sections}{log}\
         [certificates]\ndirectory = {:?}\n",
        demo.https,
        demo.http,
        demo.admin,
        certificates.join("sites"),
    );
    fs::write(folder.join("sluss.toml"), main)?;
    fs::write(folder.join("blog.html"), MAINTENANCE)?;
    for (((name, _), origin), keys) in SITES.iter().zip(origins).zip(site_keys) {
        let priority = match *name {
            "shop" => {
                "priority = [\n  { path = \"/checkout/*\", class = \"critical\" },\n  \
                 { path = \"/export/*\", class = \"bulk\" },\n]\n"
            }
            _ => "",
        };
        let text = format!(
            "hosts = [\"{name}.localhost\"]\nupstreams = [\"http://{}\"]\n{priority}{keys}",
            origin.address
        );
        fs::write(sites.join(format!("{name}.toml")), text)?;
    }
    Ok(())
}

/// What is told once the edge serves; the incident begins then, where one is wanted.
fn greeting(demo: &Demo, origins: [Origin; 3]) -> Box<dyn FnOnce(&Ready) -> String> {
    let incident = demo.incident;
    Box::new(move |ready| {
        let Some(incident) = incident else { return instructions(ready) };
        match begin(incident, origins, ready) {
            Ok(()) => where_to_look(ready),
            Err(why) => format!("sluss demo: the incident does not happen: {why}"),
        }
    })
}

fn begin(incident: Incident, origins: [Origin; 3], ready: &Ready) -> Result<(), String> {
    let https = ready.https.first().ok_or("there is no TLS listener")?;
    let authority = Path::new(CERTIFICATES).join("ca.pem");
    let visitors = Visitors::start(*https, &hosts(), authority)?;
    let edge = client::Edge::at(ready.admin.clone()).map_err(|error| error.to_string())?;
    let stage = Stage { edge, origins, visitors };
    let told = std::thread::Builder::new().name("demo-story".into());
    let told = told.spawn(move || story::play(incident, stage));
    told.map(drop).map_err(|error| error.to_string())
}

/// Where an operator sees what happens.
fn where_to_look(ready: &Ready) -> String {
    let port = port(ready);
    format!(
        "\nWatch it as you like best:\n  \
         Dashboard: http://{1}/\n  \
         {4} top -c {0}/sluss.toml\n  {4} status -c {0}/sluss.toml\n  \
         {4} findings -c {0}/sluss.toml\n  \
         curl -s http://{1}/metrics | grep sluss_alarm\n\
         {2}{3}  tail -f {0}/access.log\n",
        FOLDER,
        ready.admin,
        curl(port, "blog", "-i ", "/"),
        curl(port, "shop", "-i ", "/checkout/"),
        program(),
    )
}

/// What to try, with the ports that are really served.
fn instructions(ready: &Ready) -> String {
    let (port, program) = (port(ready), program());
    let mut text = String::from("\nThe edge serves three sites:\n");
    for (name, what) in SITES {
        text += &format!("  https://{name}.localhost:{port}/  {what}\n");
    }
    text += "\nTry, in another terminal:\n";
    text += &curl(port, "blog", "", "/");
    text += &curl(port, "shop", "--http1.1 -i ", "/slow");
    text += &curl(port, "legacy", "-i ", "/");
    text += &format!(
        "  {program} findings -c {FOLDER}/sluss.toml\n  {program} status -c {FOLDER}/sluss.toml\n  \
         {program} reload -c {FOLDER}/sluss.toml\n\n\
         Dashboard: http://{}/\n\
         Browser: open https://blog.localhost:{port}/ after importing {CERTIFICATES}/ca.pem \
         as an authority (or accept the warning).\n\
         The configuration is in {FOLDER}; change it and reload. Ctrl-C ends the demo.\n\
         See it go wrong: {program} demo --incident queues (or headers, silence, failover).\n",
        ready.admin,
    );
    text
}

/// As it was called: `cargo run` calls it by its path, and it is not on the shell's.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "sluss".to_owned())
}

fn port(ready: &Ready) -> u16 {
    ready.https.first().map_or(0, SocketAddr::port)
}

/// A line that asks a site of the demo.
fn curl(port: u16, name: &str, options: &str, path: &str) -> String {
    format!(
        "  curl --cacert {CERTIFICATES}/ca.pem {options}\
         --resolve {name}.localhost:{port}:127.0.0.1 https://{name}.localhost:{port}{path}\n"
    )
}
