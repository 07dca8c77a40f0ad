// SPDX-License-Identifier: GPL-2.0-or-later
//! QEMU's configure: the options, and what its result must have.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{bail, Context, Result};

use super::tools::Tools;
use test_kit::run::Cmd;
use test_kit::steps::Step;

/// A small QEMU: the x86 system emulator, KVM and TCG, user networking, and what VFIO
/// needs.
pub(crate) const OPTIONS: &[&str] = &[
    "--target-list=x86_64-softmmu",
    "--enable-rust",
    "--without-default-features",
    "--enable-slirp",
    "--enable-kvm",
    "--enable-tcg",
    "--enable-vhost-net",
    "--enable-vhost-user",
    "--enable-fdt=system",
    "--disable-debug-info",
    "--disable-docs",
    "--disable-werror",
    "--disable-install-blobs",
];

/// Devices the overlay's parents come from, and its own.
const NEEDED: [&str; 3] = [
    "CONFIG_VFIO_PCI",
    "CONFIG_VFIO_USER",
    "CONFIG_VIRTIO_LEGACY_VF",
];
/// Written when configure has finished and its result was found good.
const MARK: &str = ".virtio-legacy-vf-configured";

/// Configures a build directory unless that was done with the same options.
///
/// # Errors
/// When configure fails or its result lacks what the overlay needs.
pub(crate) fn configure(step: &Step, source: &Path, build: &Path, tools: &Tools) -> Result<()> {
    let command = Cmd::new(source.join("configure"))
        .arg(format!("--python={}", tools.python.display()))
        .args(OPTIONS)
        .dir(build)
        .env("PATH", tools.path())
        .hint("configure names what it misses; meson's part of the story is in meson-logs/meson-log.txt of the build directory");
    let mark = build.join(MARK);
    let line = command.line();
    if fs::read_to_string(&mark).is_ok_and(|old| old == line) {
        step.note("as before");
        return Ok(());
    }
    if build.exists() {
        fs::remove_dir_all(build).with_context(|| format!("cannot remove {}", build.display()))?;
    }
    fs::create_dir_all(build)?;
    command.run(step)?;
    let config = build.join("x86_64-softmmu-config-devices.mak");
    let text = fs::read_to_string(&config)
        .with_context(|| format!("configure gave no {}", config.display()))?;
    let missing = missing_symbols(&text);
    if !missing.is_empty() {
        bail!(
            "QEMU was configured without {}\n  way out: see {} for what switched it off",
            missing.join(", "),
            step.log().display()
        );
    }
    fs::write(&mark, line)?;
    Ok(())
}

/// Needed symbols that a Kconfig result does not switch on.
fn missing_symbols(config: &str) -> Vec<&'static str> {
    let on: BTreeSet<&str> = config
        .lines()
        .filter_map(|line| line.trim().strip_suffix("=y"))
        .collect();
    NEEDED
        .into_iter()
        .filter(|symbol| !on.contains(symbol))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_symbol_that_is_on_counts() {
        assert_eq!(
            missing_symbols(&NEEDED.map(|symbol| format!("{symbol}=y\n")).concat()),
            Vec::<&str>::new()
        );
        assert_eq!(
            missing_symbols("# CONFIG_VFIO_PCI=y\nCONFIG_VFIO_USER_X=y\nCONFIG_VFIO_USER=n\n"),
            NEEDED
        );
    }
}
