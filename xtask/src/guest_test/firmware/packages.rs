// SPDX-License-Identifier: GPL-2.0-or-later
//! Debian packages with firmware, boot loaders and the tools that make disk images.

use anyhow::Result;

use crate::project::Project;
use crate::steps::Steps;
use crate::unpacked::{download_packages, Unpacked};

/// The firmware, GRUB for both kinds of it, and what GRUB's tools need besides the C library.
pub(super) const FIRMWARE: &[&str] = &[
    "grub-common",
    "grub-efi-amd64-bin",
    "grub-pc-bin",
    "ipxe-qemu",
    "libdevmapper1.02.1",
    "liblzma5",
    "libpcre2-8-0",
    "libselinux1",
    "libudev1",
    "mtools",
    "ovmf",
    "u-boot-qemu",
];

/// Gives the packages, from the cache if they are there.
///
/// # Errors
/// When apt has no such packages or they cannot be unpacked.
pub(super) fn ensure(
    project: &Project,
    steps: &mut Steps,
    title: &str,
    packages: &[&str],
) -> Result<Unpacked> {
    Unpacked::cached(project, steps, title, "packages", packages, |step, dir| {
        download_packages(step, &dir.join("debs"), packages.len(), || {
            Ok(packages.iter().map(|name| (*name).to_owned()).collect())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_has_no_doubles() {
        assert!(FIRMWARE.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
