//! The command line `gristmill`.

use std::process::ExitCode;

mod cli;

fn main() -> ExitCode {
    cli::main()
}
