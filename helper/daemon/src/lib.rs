// SPDX-License-Identifier: GPL-2.0-or-later
//! `qemu-virtio-admin-helper`: the privileged process that drives one virtio PF in user space and
//! executes legacy register accesses of its VFs for QEMU. This library is the whole program, so
//! that its tests, which make its man page as well, use the same code.
//!
//! [`args`] (the command line) -> [`config`] (what it means, validated) -> [`serve`].

#![forbid(unsafe_code)]

pub mod args;
mod backend;
pub mod config;
pub mod exit;
mod fdstore;
mod logging;
mod notify;
mod privileges;
pub mod serve;
mod token;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::Parser;

use args::Args;
use exit::Failure;

/// The program.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(e) => {
            // Help and version are no errors.
            let code = match e.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => exit::OK,
                _ => exit::USAGE,
            };
            let _closed = e.print();
            if let Some(question) = std::env::args().nth(1).filter(|word| asks(word)) {
                eprintln!(
                    "\nWhat a helper does is told by another program: virtio-legacy-vf {question}"
                );
            }
            return ExitCode::from(code);
        }
    };
    match run(args) {
        Ok(()) => ExitCode::from(exit::OK),
        Err(failure) => {
            eprintln!("qemu-virtio-admin-helper: {failure}");
            ExitCode::from(failure.code)
        }
    }
}

/// Whether somebody takes this program for the one that asks helpers.
fn asks(word: &str) -> bool {
    ["list", "show", "stats"].contains(&word)
}

fn run(args: Args) -> Result<(), Failure> {
    let config = config::ServeConfig::try_from(args.serve)?;
    logging::init(&config.log, &config.source.to_string())?;
    serve::serve(&config)
}
