// SPDX-License-Identifier: GPL-2.0-or-later
//! Where the programs under test are.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{bail, Result};

/// The path in environment variable `variable`, or the program `name` beside the running test.
///
/// # Errors
/// If there is no such file; the text says how to get it.
fn find(variable: &str, name: Option<&str>, how: &str) -> Result<PathBuf> {
    if let Some(path) = env::var_os(variable).filter(|v| !v.is_empty()) {
        let path = PathBuf::from(path);
        if path.is_file() {
            return Ok(path);
        }
        bail!(
            "{variable} names {}, which is not a file; {how}",
            path.display()
        );
    }
    let Some(name) = name else {
        bail!("{variable} is not set; {how}");
    };
    let exe = env::current_exe()?;
    // TARGET/PROFILE/deps/test -> TARGET/PROFILE, then the other profile.
    let profile = exe.parent().and_then(Path::parent);
    let target = profile.and_then(Path::parent);
    let candidates = [
        profile.map(|d| d.join(name)),
        target.map(|d| d.join("release").join(name)),
        target.map(|d| d.join("debug").join(name)),
    ];
    match candidates.iter().flatten().find(|p| p.is_file()) {
        Some(path) => Ok(path.clone()),
        None => bail!(
            "{name} was not found near {}; {how}, or set {variable} to its path",
            exe.display()
        ),
    }
}

/// QEMU with the overlay.
///
/// # Errors
/// If it is not there.
pub fn qemu() -> Result<PathBuf> {
    find(
        "VLVF_QEMU",
        None,
        "run `cargo xtask test`, or build it with `cargo xtask qemu` and set VLVF_QEMU to qemu-system-x86_64",
    )
}

/// The helper.
///
/// # Errors
/// If it is not there.
pub fn helper() -> Result<PathBuf> {
    find(
        "VLVF_HELPER",
        Some("qemu-virtio-admin-helper"),
        "build it with `cargo build -p qemu_virtio_admin_helper`",
    )
}

/// The simulated PF.
///
/// # Errors
/// If it is not there.
pub fn simulator() -> Result<PathBuf> {
    find(
        "VLVF_SIM",
        Some("virtio-pf-sim"),
        "build it with `cargo build -p virtio_pf_sim`",
    )
}
