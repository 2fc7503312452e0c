//! How long a hundred thousand certificates take to load, to reload, and what they weigh.
//!
//! `cargo bench --bench certs -- [--count N] [--directory DIR]` generates DIR where it is missing
//! and measures in a process of its own, so that the generator's memory is not counted. Results go
//! to standard output; `docs/certificates.md` quotes them.

#![allow(missing_docs, clippy::unwrap_used, reason = "a measurement stops at the first surprise")]

mod generate;
mod measure;

use std::path::PathBuf;
use std::process::{Command, exit};

/// As in the program itself: what is measured is its memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut count = 100_000;
    let mut directory = None;
    let mut only_measure = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--count" => count = arguments.next().unwrap().parse().unwrap(),
            "--directory" => directory = arguments.next().map(PathBuf::from),
            "--measure" => only_measure = true,
            // What cargo says to every benchmark.
            "--bench" => {}
            other => {
                eprintln!("unknown argument {other}; expected --count N or --directory DIR");
                exit(2);
            }
        }
    }
    let directory =
        directory.unwrap_or_else(|| std::env::temp_dir().join(format!("sluss-certs-{count}")));
    if only_measure {
        measure::all(&directory);
        return;
    }
    generate::folder(&directory, count);
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.arg("--measure").arg("--directory").arg(&directory);
    exit(child.status().unwrap().code().unwrap_or(1));
}
