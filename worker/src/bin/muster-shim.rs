//! The shim as a program of its own, for tests; the shipped one is `muster shim`.

use std::{path::Path, process::ExitCode};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    match args.as_slice() {
        [verb, dir] if verb == "shim" => muster_worker::shim::main(Path::new(dir)),
        _ => ExitCode::from(64),
    }
}
