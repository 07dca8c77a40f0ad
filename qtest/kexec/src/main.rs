// SPDX-License-Identifier: GPL-2.0-or-later
//! Loads another kernel and starts it, in the test guest. Debian's kexec wants libraries of Xen.

mod sys;

use std::fs::File;
use std::io;
use std::process::ExitCode;

const USAGE: &str = "\
usage: vlvf-kexec load KERNEL INITRD COMMAND-LINE    for the next `start`
       vlvf-kexec crash KERNEL INITRD COMMAND-LINE   for a panic of this kernel
       vlvf-kexec start                              at once, without shutting anything down";

fn run(words: &[&str]) -> io::Result<bool> {
    match *words {
        [how @ ("load" | "crash"), kernel, initrd, line] => {
            sys::load(
                &File::open(kernel)?,
                &File::open(initrd)?,
                line,
                how == "crash",
            )?;
        }
        ["start"] => sys::start()?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("vlvf-kexec: {error}");
            ExitCode::FAILURE
        }
    }
}
