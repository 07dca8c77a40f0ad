// SPDX-License-Identifier: GPL-2.0-or-later
//! Debian packages with firmware, boot loaders and the tools that make disk images.

use anyhow::Result;

use test_kit::project::Project;
use test_kit::steps::Steps;
use test_kit::unpacked::{download_packages, Unpacked};

/// The firmware, GRUB for both kinds of it, and what GRUB's tools need besides the C library.
pub(crate) const FIRMWARE: &[&str] = &[
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

/// `dpdk-testpmd` with the libraries it is linked with and the drivers it loads.
pub(crate) const DPDK: &[&str] = &[
    "dpdk-dev",
    "ibverbs-providers",
    "libbsd0",
    "libc6",
    "libcap2",
    "libdbus-1-3",
    "libelf1",
    "libfdt1",
    "libgcc-s1",
    "libgcrypt20",
    "libgpg-error0",
    "libibverbs1",
    "libjansson4",
    "liblz4-1",
    "liblzma5",
    "libmd0",
    "libnl-3-200",
    "libnl-route-3-200",
    "libnuma1",
    "libpcap0.8",
    "librte-bitratestats23",
    "librte-bpf23",
    "librte-bus-auxiliary23",
    "librte-bus-dpaa23",
    "librte-bus-pci23",
    "librte-bus-vdev23",
    "librte-cmdline23",
    "librte-common-dpaax23",
    "librte-common-iavf23",
    "librte-common-mlx5-23",
    "librte-crypto-scheduler23",
    "librte-cryptodev23",
    "librte-eal23",
    "librte-ethdev23",
    "librte-eventdev23",
    "librte-gro23",
    "librte-gso23",
    "librte-hash23",
    "librte-ip-frag23",
    "librte-kvargs23",
    "librte-latencystats23",
    "librte-mbuf23",
    "librte-mempool-dpaa23",
    "librte-mempool-ring23",
    "librte-mempool23",
    "librte-meter23",
    "librte-metrics23",
    "librte-net-bnxt23",
    "librte-net-bond23",
    "librte-net-dpaa23",
    "librte-net-i40e23",
    "librte-net-ice23",
    "librte-net-ixgbe23",
    "librte-net-mlx5-23",
    "librte-net-virtio23",
    "librte-net23",
    "librte-pcapng23",
    "librte-pci23",
    "librte-pdump23",
    "librte-rcu23",
    "librte-reorder23",
    "librte-ring23",
    "librte-sched23",
    "librte-security23",
    "librte-telemetry23",
    "librte-timer23",
    "libsystemd0",
    "libzstd1",
    "zlib1g",
];

/// Gives the packages, from the cache if they are there.
///
/// # Errors
/// When apt has no such packages or they cannot be unpacked.
pub(crate) fn ensure(
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
    fn the_lists_are_sorted_and_have_no_doubles() {
        for list in [FIRMWARE, DPDK] {
            assert!(list.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
