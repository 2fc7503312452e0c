//! `sluss demo`: a whole edge to try, on loopback, from nothing.
//!
//! Makes a local authority and certificates, three site servers in this process, a configuration
//! as an operator would write it - and then runs the edge on that configuration like `sluss run`
//! does. Nothing of the edge knows that it is a demo.

mod authority;
mod origins;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::server;

/// Where the authority and the certificates go, and where the configuration does.
const CERTIFICATES: &str = "certs/demo";
const FOLDER: &str = "run/demo";

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
}

/// Runs the demo until Ctrl-C.
pub fn run(demo: &Demo) -> ExitCode {
    match prepare(demo) {
        Ok(config) => server::run(&config, server::Greeting::Text(instructions(demo))),
        Err(error) => {
            eprintln!("sluss demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes everything and starts the site servers; returns the main file's path.
fn prepare(demo: &Demo) -> Result<PathBuf, String> {
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
    let hosts: Vec<String> = SITES.iter().map(|(name, _)| format!("{name}.localhost")).collect();
    authority::make(&certificates, &hosts)
        .map_err(|error| format!("certificates under {CERTIFICATES}: {error}"))?;
    let origins = origins::start().map_err(told("the site servers do not start"))?;
    write_configuration(demo, &folder, &certificates, origins)
        .map_err(told("the demo's configuration cannot be written"))?;
    Ok(folder.join("sluss.toml"))
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
    origins: [SocketAddr; 3],
) -> io::Result<()> {
    let sites = folder.join("sites");
    fs::create_dir_all(&sites)?;
    let main = format!(
        "# Written by `sluss demo`; a copy of it is a good beginning for your own.\n\
         [listen]\nhttps = [\"{}\"]\nhttp = [\"{}\"]\nadmin = \"{}\"\n\n\
         [runtime]\nstate = \"state\"\nshutdown_grace = \"5s\"\n\n\
         [certificates]\ndirectory = {:?}\n",
        demo.https,
        demo.http,
        demo.admin,
        certificates.join("sites"),
    );
    fs::write(folder.join("sluss.toml"), main)?;
    for ((name, _), origin) in SITES.iter().zip(origins) {
        let priority = match *name {
            "shop" => {
                "priority = [\n  { path = \"/checkout/*\", class = \"critical\" },\n  \
                 { path = \"/export/*\", class = \"bulk\" },\n]\n"
            }
            _ => "",
        };
        let text = format!(
            "hosts = [\"{name}.localhost\"]\nupstreams = [\"http://{origin}\"]\n{priority}"
        );
        fs::write(sites.join(format!("{name}.toml")), text)?;
    }
    Ok(())
}

/// What to try, with the ports that are really served.
fn instructions(demo: &Demo) -> Box<dyn FnOnce(&server::Ready) -> String> {
    let folder = PathBuf::from(FOLDER);
    let _ = demo;
    Box::new(move |ready| {
        let port = ready.https.first().map_or(0, SocketAddr::port);
        let curl = |name: &str, rest: &str, path: &str| {
            format!(
                "  curl --cacert {CERTIFICATES}/ca.pem {rest}\
                 --resolve {name}.localhost:{port}:127.0.0.1 https://{name}.localhost:{port}{path}\n"
            )
        };
        let mut text = String::from("\nThe edge serves three sites:\n");
        for (name, what) in SITES {
            text += &format!("  https://{name}.localhost:{port}/  {what}\n");
        }
        text += "\nTry, in another terminal:\n";
        text += &curl("blog", "", "/");
        text += &curl("shop", "--http1.1 -i ", "/slow");
        text += &curl("legacy", "-i ", "/");
        text += &format!(
            "  sluss findings -c {0}/sluss.toml\n  sluss status -c {0}/sluss.toml\n  \
             sluss reload -c {0}/sluss.toml\n\n\
             Dashboard: http://{1}/\n\
             Browser: open https://blog.localhost:{port}/ after importing {CERTIFICATES}/ca.pem \
             as an authority (or accept the warning).\n\
             The configuration is in {0}; change it and reload. Ctrl-C ends the demo.\n",
            folder.display(),
            ready.admin,
        );
        text
    })
}
