//! Arguments in, exit code out.

use std::process::ExitCode;

/// Returns memory to the system after a peak and keeps threads apart; glibc's does neither well.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sluss::cli::run()
}
