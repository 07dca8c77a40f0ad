// SPDX-License-Identifier: GPL-2.0-or-later
//! QEMU's build by ninja, and how to know that its result is current.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{bail, Context, Result};
use serde::{Deserialize, Serialize};

use super::overlay::write_atomically;
use super::tools::Tools;
use test_kit::run::Cmd;
use test_kit::steps::Step;

/// The program that is built.
const PROGRAM: &str = "qemu-system-x86_64";
/// Says what the program was built from.
const RECORD: &str = "built.json";

/// What a finished build was made from, and its result's identity.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Built {
    inputs: String,
    len: u64,
    modified_ns: u128,
}

/// Path of the program in a build directory.
pub(crate) fn program(build: &Path) -> PathBuf {
    build.join(PROGRAM)
}

/// Builds the program and checks that it starts (and has the overlay's device where that is
/// asked for). `way_out` is what else can be done when ninja fails.
///
/// # Errors
/// When ninja fails, or the program does not know `device`.
pub(crate) fn build(
    step: &Step,
    build: &Path,
    tools: &Tools,
    device: Option<&str>,
    way_out: &str,
) -> Result<()> {
    Cmd::new("ninja")
        .arg("-C")
        .arg(build)
        .arg(PROGRAM)
        .env("PATH", tools.path())
        .hint(format!(
            "the first line with `error` above is the cause; {way_out}"
        ))
        .run(step)?;
    let help = Cmd::new(program(build))
        .args(["-device", "help"])
        .output(step)?;
    if let Some(device) = device {
        if !knows(&help, device) {
            bail!(
                "the new {PROGRAM} does not know the device {device}\n  way out: rust/qemu-series \
                 must add the overlay's directories to QEMU's meson.build and Kconfig files"
            );
        }
    }
    Ok(())
}

/// Whether QEMU's list of devices has one.
pub(crate) fn knows(help: &str, device: &str) -> bool {
    help.contains(&format!("name \"{device}\""))
}

/// Records that the program in `build` was made from inputs with this digest.
///
/// # Errors
/// When the program is missing or the record cannot be written.
pub(crate) fn record(dir: &Path, build: &Path, inputs: &str) -> Result<()> {
    let built = identify(&program(build), inputs)?;
    write_atomically(
        &dir.join(RECORD),
        serde_json::to_string_pretty(&built)?.as_bytes(),
    )
}

/// Nothing if the program is current, otherwise why it is not.
pub(crate) fn stale(dir: &Path, build: &Path, inputs: &str) -> Option<String> {
    let program = program(build);
    let Ok(found) = identify(&program, inputs) else {
        return Some(format!("{} does not exist", program.display()));
    };
    let built = fs::read_to_string(dir.join(RECORD))
        .ok()
        .and_then(|text| serde_json::from_str::<Built>(&text).ok());
    match built {
        None => Some("its build did not finish".to_owned()),
        Some(built) if built.inputs != found.inputs => {
            Some("something below rust/ changed since it was built".to_owned())
        }
        Some(built) if built != found => {
            Some(format!("{} was changed after its build", program.display()))
        }
        Some(_) => None,
    }
}

fn identify(program: &Path, inputs: &str) -> Result<Built> {
    let metadata = fs::metadata(program).with_context(|| format!("no {}", program.display()))?;
    Ok(Built {
        inputs: inputs.to_owned(),
        len: metadata.len(),
        modified_ns: metadata.modified()?.duration_since(UNIX_EPOCH)?.as_nanos(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_current_until_something_changes() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let why = |overlay: &str| stale(dir, dir, overlay).unwrap_or_default();
        assert!(why("a").contains("does not exist"));
        fs::write(program(dir), "binary").unwrap();
        assert!(why("a").contains("did not finish"));
        record(dir, dir, "a").unwrap();
        assert_eq!(stale(dir, dir, "a"), None);
        assert!(why("b").contains("changed since"));
        fs::write(program(dir), "binary, relinked").unwrap();
        assert!(why("a").contains("changed after its build"));
    }
}
