// SPDX-License-Identifier: GPL-2.0-or-later
//! `virtio-legacy-vf`: asks serving helpers, as their administrator. It has no privileges and is no
//! part of the helper, which has them. This library is the whole program, so that its tests, which
//! make its man page as well, use the same code.

#![forbid(unsafe_code)]

pub mod args;
mod ask;
pub mod exit;
mod openmetrics;
mod stats;
mod table;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::Parser;
use helper_cli::exit::{OK, USAGE};
use helper_cli::Failure;

use args::{Args, Command};

/// The program.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(e) => {
            // Help and version are no errors.
            let code = match e.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => OK,
                _ => USAGE,
            };
            let _closed = e.print();
            return ExitCode::from(code);
        }
    };
    match run(&args.command) {
        Ok(()) => ExitCode::from(OK),
        Err(failure) => {
            eprintln!("virtio-legacy-vf: {failure}");
            ExitCode::from(failure.code)
        }
    }
}

fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::List(args) => ask::list(args),
        Command::Show(args) => ask::show(args),
        Command::Stats(args) if args.openmetrics => openmetrics::stats(&args.ask),
        Command::Stats(args) => stats::stats(args),
    }
}
