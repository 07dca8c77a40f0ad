// SPDX-License-Identifier: GPL-2.0-or-later
//! Clippy over the crates that only build inside QEMU.
//!
//! Meson's `clippy` target checks every Rust crate of QEMU's build with QEMU's own list of lints. Only
//! what it says about the crates below `rust/hw` that are ours counts here: a newer clippy than QEMU's
//! authors had finds things in theirs, and the pure crates are checked by cargo with this workspace's
//! list (the two lists contradict each other about `pub(crate)`).

use std::path::Path;

use anyhow::{bail, Result};

use super::overlay::Overlay;
use super::tools::Tools;
use test_kit::run::Cmd;
use test_kit::steps::Step;

/// Where the crates are that cargo cannot check.
const INSIDE_ONLY: &str = "rust/hw/";
/// Lints of this workspace that QEMU's list does not have.
const OWN_LINTS: [&str; 6] = [
    "clippy::undocumented_unsafe_blocks",
    "clippy::unwrap_used",
    "clippy::expect_used",
    "clippy::panic",
    "clippy::todo",
    "clippy::unimplemented",
];
/// What bindgen wrote is not for people to improve.
const GENERATED: &str = ".inc.rs";

/// Runs clippy in a built directory.
///
/// # Errors
/// When it has anything to say about a crate of the overlay, or does not run.
pub(crate) fn clippy(
    step: &Step,
    source: &Path,
    build: &Path,
    tools: &Tools,
    overlay: &Overlay,
) -> Result<()> {
    let mut crates = overlay.crates();
    crates.retain(|dir| dir.starts_with(INSIDE_ONLY));
    // The sources that meson copies are not below QEMU's clippy.toml.
    let command = Cmd::new("ninja")
        .arg("-C")
        .arg(build)
        .arg("clippy")
        .env("PATH", tools.path())
        .env("CLIPPY_CONF_DIR", source)
        // The way cargo hands lints to clippy's driver.
        .env("CLIPPY_ARGS", own_lints());
    let status = command.status(step)?;
    let log = std::fs::read(step.log())?;
    let log = String::from_utf8_lossy(&log);
    let ours = findings(&log, &crates);
    if !ours.is_empty() {
        bail!(
            "clippy finds {} things in the crates built inside QEMU:\n{}\n  all of it: {}",
            ours.len(),
            ours.join("\n"),
            step.log().display()
        );
    }
    // It fails for QEMU's own crates too, but then it has checked something.
    if !status.success() && !log.contains("clippy-driver") {
        bail!("clippy did not run\n  all of it: {}", step.log().display());
    }
    step.note(format!("{} crates of ours", crates.len()));
    Ok(())
}

/// The diagnostics whose place is in one of the given crate directories.
fn findings(log: &str, crates: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let mut message = None;
    for line in log.lines() {
        if line.starts_with("warning") || line.starts_with("error") {
            message = Some(line);
        } else if let Some(place) = line.trim_start().strip_prefix("--> ") {
            if let Some(message) = message.take() {
                if let Some(place) = crates.iter().find_map(|dir| in_crate(place, dir)) {
                    found.push(format!("{message} ({place})"));
                }
            }
        }
    }
    found
}

fn own_lints() -> String {
    const SEPARATOR: &str = "__CLIPPY_HACKERY__";
    OWN_LINTS
        .map(|lint| format!("-W{SEPARATOR}{lint}{SEPARATOR}"))
        .concat()
}

/// A place in the crate with this directory, as a path in our tree.
fn in_crate(place: &str, dir: &str) -> Option<String> {
    let (_, inside) = place.split_once(&format!("/{dir}/"))?;
    if inside.contains(GENERATED) {
        return None;
    }
    // Meson compiles crates with generated sources from a copy of `src`.
    Some(match inside.split_once("/structured/") {
        Some((_, file)) => format!("{dir}/src/{file}"),
        None => format!("{dir}/{inside}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_crates_count_and_only_the_first_place_of_a_message() {
        let crates = ["rust/hw/pci".to_owned(), "rust/legacy-window".to_owned()];
        let log = "warning: a\n   --> /b/rust/hw/core/libhw.rlib.p/structured/qdev.rs:4:1\n\
            error[E0001]: b\n   --> /b/rust/hw/pci/libpci.rlib.p/structured/lib.rs:7:2\n    |\n\
            note: c\n   --> /s/rust/legacy-window/src/lib.rs:1:1\n\
            warning: d\n --> ../source/rust/legacy-window/src/lib.rs:3:3\n\
            warning: e\n --> /b/rust/hw/pci/libpci.rlib.p/structured/bindings.inc.rs:9:9\n\
            warning: 2 warnings emitted\n";
        assert_eq!(
            findings(log, &crates),
            [
                "error[E0001]: b (rust/hw/pci/src/lib.rs:7:2)",
                "warning: d (rust/legacy-window/src/lib.rs:3:3)",
            ]
        );
    }
}
