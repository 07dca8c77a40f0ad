// SPDX-License-Identifier: GPL-2.0-or-later
//! What can be missing on the host, each with what mends it.

use std::time::Duration;

use rustix::io::Errno;
use thiserror::Error;

fn in_use(users: &[String]) -> String {
    match users {
        [] => String::new(),
        users => format!(" (in use: {})", users.join(", ")),
    }
}

/// Why the host does not give a function, or its VFs. The text names the missing piece and, where
/// there is one, the command that mends it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostError {
    /// No function with this address.
    #[error("there is no such PCI function; list the virtio ones: lspci -D -d 1af4:")]
    NoFunction,
    /// Another driver has it, or none.
    #[error(
        "it is driven by {}, not by vfio-pci; start with --bind to take it from there (its \
         interfaces or disks on the host vanish)",
        .driver.as_deref().unwrap_or("no driver")
    )]
    NotOnVfio {
        /// Its driver.
        driver: Option<String>,
    },
    /// The driver is not in the kernel.
    #[error("the vfio-pci driver is not loaded: modprobe vfio-pci enable_sriov=1")]
    NoVfioDriver,
    /// The kernel did not give it to vfio-pci.
    #[error(
        "{function} was given to vfio-pci, but is driven by {}; the kernel log says why: dmesg",
        .driver.as_deref().unwrap_or("no driver")
    )]
    NotBound {
        /// The function.
        function: String,
        /// Its driver now.
        driver: Option<String>,
    },
    /// It has VFs under another driver, which would take them away while they are in use.
    #[error(
        "its driver {driver} has {vfs} VFs enabled; disable them first: echo 0 > \
         /sys/bus/pci/devices/{function}/sriov_numvfs"
    )]
    VfsOfOtherDriver {
        /// The PF.
        function: String,
        /// Its driver.
        driver: String,
        /// Enabled VFs.
        vfs: u16,
    },
    /// Not behind an IOMMU.
    #[error(
        "it is in no IOMMU group, so the host's IOMMU is off: enable VT-d or AMD-Vi in the \
         firmware and boot with intel_iommu=on (AMD needs no option)"
    )]
    NoGroup,
    /// VFIO itself is not there.
    #[error(
        "{path} is missing: modprobe vfio-pci vfio_iommu_type1 (and check that /dev is udev's)"
    )]
    NoVfio {
        /// The file.
        path: String,
    },
    /// The container lacks the IOMMU back end.
    #[error("VFIO has no type-1 IOMMU: modprobe vfio_iommu_type1")]
    NoType1,
    /// Others in the group are in use.
    #[error(
        "its IOMMU group {group} is not usable: {} must be given to vfio-pci as well, or to no \
         driver",
        .others.join(", ")
    )]
    NotViable {
        /// The group.
        group: String,
        /// Other functions, with their drivers.
        others: Vec<String>,
    },
    /// The kernel refuses for want of rights.
    #[error(
        "no permission for {path}: run as root, or give the file to this user (uid {uid}): chown \
         {uid} {path}"
    )]
    NoPermission {
        /// The file.
        path: String,
        /// This process's user.
        uid: u32,
    },
    /// A setting of a function may be changed by root only.
    #[error("no permission to write {path}: run as root")]
    NotRoot {
        /// The file.
        path: String,
    },
    /// No interrupt remapping.
    #[error(
        "the host cannot remap interrupts, which VFIO insists on; enable it in the firmware \
         (x2APIC), or accept the risk: echo Y > \
         /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"
    )]
    NoInterruptRemapping,
    /// Somebody else has it open.
    #[error("{path} is in use by {holder}; stop that first")]
    Busy {
        /// The file.
        path: String,
        /// Who has it open, as far as that can be seen.
        holder: String,
    },
    /// VFs are open under a token that is not ours.
    #[error(
        "its VFs are in use under another VF token; start with --vf-token and the token they were \
         opened with, or stop their users"
    )]
    TokenNeeded,
    /// vfio-pci may not enable VFs.
    #[error(
        "vfio-pci is not allowed to enable VFs: echo Y > \
         /sys/module/vfio_pci/parameters/enable_sriov (to keep it: options vfio-pci \
         enable_sriov=1 in /etc/modprobe.d/)"
    )]
    SriovOff,
    /// The kernel's vfio-pci cannot enable VFs at all.
    #[error("this kernel's vfio-pci cannot enable VFs; Linux 5.7 or newer is needed")]
    SriovUnknown,
    /// Not a PF.
    #[error("it is no PF: it has no SR-IOV capability, or the kernel has no SR-IOV")]
    NotAPf,
    /// More than there are.
    #[error("{wanted} VFs are wanted and it has {total}; start with --vfs {total} or less")]
    TooManyVfs {
        /// VFs asked for.
        wanted: u16,
        /// sriov_totalvfs.
        total: u16,
    },
    /// VFs are enabled.
    #[error(
        "{existing} VFs are enabled already and {wanted} are wanted{}; keep them with \
         --existing-vfs adopt, or disable them: echo 0 > \
         /sys/bus/pci/devices/{function}/sriov_numvfs",
        in_use(.users)
    )]
    VfsEnabled {
        /// The PF.
        function: String,
        /// VFs enabled.
        existing: u16,
        /// VFs asked for.
        wanted: u16,
        /// VFs in use and their users, as far as that can be seen.
        users: Vec<String>,
    },
    /// VFs are enabled and cannot be disabled without taking them away from somebody, for whom the
    /// kernel would wait.
    #[error(
        "VFs are in use, so their number cannot be changed: {}; stop these first",
        .users.join(", ")
    )]
    VfsInUse {
        /// VFs and their users.
        users: Vec<String>,
    },
    /// The platform has no room for the VFs.
    #[error(
        "the kernel found no room for {wanted} VFs ({errno}): try fewer, enable SR-IOV and \"above \
         4G decoding\" in the firmware, or boot with pci=realloc; dmesg says more"
    )]
    NoRoom {
        /// VFs asked for.
        wanted: u16,
        /// What the kernel said.
        errno: Errno,
    },
    /// Something took far too long in the kernel.
    #[error("{what} has not ended after {after:?}; the kernel waits for something: dmesg")]
    Stuck {
        /// What was done.
        what: String,
        /// For how long it was waited for.
        after: Duration,
    },
    /// DMA memory was refused for its size.
    #[error("the kernel may not lock {bytes} bytes of memory for it; raise the limit: ulimit -l, or LimitMEMLOCK= in its unit")]
    MemLock {
        /// Bytes.
        bytes: usize,
    },
    /// A file of sysfs or /dev.
    #[error("{what} {path}: {errno}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// A file of sysfs says something else than it should.
    #[error("{path} says {text:?}, which is not understood")]
    Odd {
        /// The file.
        path: String,
        /// The beginning of its text.
        text: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const PF: &str = "0000:03:00.0";

    #[test]
    fn every_error_says_what_to_do() {
        let path = || "/dev/vfio/7".to_owned();
        let function = || PF.to_owned();
        for (error, cure) in [
            (HostError::NoFunction, "lspci"),
            (HostError::NotOnVfio { driver: None }, "--bind"),
            (HostError::NoVfioDriver, "modprobe"),
            (HostError::NoGroup, "intel_iommu=on"),
            (HostError::NoVfio { path: path() }, "modprobe"),
            (HostError::NoType1, "modprobe"),
            (
                HostError::NotViable {
                    group: "7".into(),
                    others: vec!["0000:03:00.1 (driver ixgbe)".into()],
                },
                "0000:03:00.1 (driver ixgbe) must be given to vfio-pci",
            ),
            (
                HostError::NoPermission {
                    path: path(),
                    uid: 64055,
                },
                "chown 64055 /dev/vfio/7",
            ),
            (HostError::NotRoot { path: path() }, "run as root"),
            (HostError::NoInterruptRemapping, "allow_unsafe_interrupts"),
            (
                HostError::Busy {
                    path: path(),
                    holder: "pid 5 (qemu)".into(),
                },
                "in use by pid 5 (qemu); stop that first",
            ),
            (HostError::TokenNeeded, "--vf-token"),
            (HostError::SriovOff, "echo Y >"),
            (HostError::SriovUnknown, "5.7"),
            (
                HostError::TooManyVfs {
                    wanted: 9,
                    total: 4,
                },
                "--vfs 4 or less",
            ),
            (
                HostError::VfsEnabled {
                    function: function(),
                    existing: 2,
                    wanted: 3,
                    users: vec!["VF 1 (0000:03:00.1) by pid 5 (qemu)".into()],
                },
                "(in use: VF 1 (0000:03:00.1) by pid 5 (qemu)); keep them with --existing-vfs adopt",
            ),
            (
                HostError::NoRoom {
                    wanted: 4,
                    errno: Errno::NOMEM,
                },
                "pci=realloc",
            ),
            (HostError::MemLock { bytes: 4096 }, "ulimit -l"),
        ] {
            let text = error.to_string();
            assert!(text.contains(cure), "{text}");
        }
    }
}
