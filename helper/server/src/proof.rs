// SPDX-License-Identifier: GPL-2.0-or-later
//! Which VF a VFIO device file stands for. Pure: [`crate::device_files`] reads the files.
//!
//! The kernel shows the device behind a VFIO device file in `/proc/self/fdinfo/<fd>`:
//!
//! ```text
//! vfio-device-syspath: /sys/devices/pci0000:00/0000:00:03.0/0000:01:00.2
//! ```
//!
//! The last component is the VF; the PF's `virtfn<n>` links give its number, counted from 0, which
//! is one less than its member id.

pub use pci_transport::PciAddress;

/// Longest fdinfo that is looked at, in bytes.
pub const MAX_FDINFO: usize = 4096;

const KEY: &str = "vfio-device-syspath:";

/// Why a file proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Exactly one file belongs to an OPEN with proof.
    #[error("{0} files were sent as proof instead of one")]
    Count(usize),
    /// No line names a device.
    #[error("the file is not a VFIO device file, or this kernel does not tell its device")]
    NoDevice,
    /// Something else than a VFIO device file.
    #[error("the file is not a VFIO device file but {0}")]
    NotVfio(String),
    /// A VFIO device file of which the kernel tells nothing.
    #[error(
        "the file is a VFIO device file, but this kernel does not tell of which function; use a \
         newer one, open the VF through iommufd, or start the helper with --allow-unproven-uid"
    )]
    Untold,
    /// The file was opened without access to the device.
    #[error("the file was not opened for reading and writing, so it shows nothing")]
    NoAccess,
    /// The character device is open, but not in use.
    #[error("the file is that of {0}, but not bound to an iommufd: bind it before it is shown")]
    NotBound(PciAddress),
    /// This process cannot look.
    #[error("the helper cannot look at the file: {0}")]
    Unreadable(String),
    /// The line does not end in a PCI address.
    #[error("the file's device \"{0}\" is not a PCI function")]
    NotPci(String),
    /// The device is not one of the PF's VFs.
    #[error("the file is that of {device}, which is not a VF of {pf}")]
    OtherDevice {
        /// The file's device.
        device: String,
        /// The PF.
        pf: String,
    },
    /// The client named another VF than the file's.
    #[error("the file is that of VF {proven}, not of VF {named}")]
    OtherVf {
        /// The file's VF.
        proven: u16,
        /// The VF in the request.
        named: u16,
    },
}

/// The PCI function behind a VFIO device file, from the text of its fdinfo.
///
/// # Errors
/// [`ProofError::NoDevice`] or [`ProofError::NotPci`].
pub fn device_of_fdinfo(fdinfo: &str) -> Result<PciAddress, ProofError> {
    let mut lines = fdinfo.lines().filter_map(|line| line.strip_prefix(KEY));
    let path = lines.next().ok_or(ProofError::NoDevice)?.trim();
    // A second line could only mean that this text is not the kernel's.
    if lines.next().is_some() {
        return Err(ProofError::NoDevice);
    }
    let last = path.rsplit('/').next().unwrap_or(path);
    let not_pci = || ProofError::NotPci(last.chars().take(64).collect());
    if !path.starts_with("/sys/") {
        return Err(not_pci());
    }
    PciAddress::parse(last).ok_or_else(not_pci)
}

/// The member id of the VF `device`. `vfs` are the PF's VFs: member id and address. `named` is the
/// member in the request, 0 for none.
///
/// # Errors
/// [`ProofError::OtherDevice`] or [`ProofError::OtherVf`].
pub fn member_of(
    device: PciAddress,
    pf: &str,
    vfs: &[(u16, PciAddress)],
    named: u16,
) -> Result<u16, ProofError> {
    let proven = vfs
        .iter()
        .find(|(_, address)| *address == device)
        .map(|(member, _)| *member)
        .ok_or_else(|| ProofError::OtherDevice {
            device: device.to_string(),
            pf: pf.to_owned(),
        })?;
    if named != 0 && named != proven {
        return Err(ProofError::OtherVf { proven, named });
    }
    Ok(proven)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INFO: &str = "pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t1059\n\
        vfio-device-syspath: /sys/devices/pci0000:00/0000:00:03.0/0000:01:00.2\n";

    #[test]
    fn the_kernels_line_names_the_function() {
        let a = device_of_fdinfo(INFO).unwrap();
        assert_eq!(a.to_string(), "0000:01:00.2");
        let wide = "vfio-device-syspath: /sys/devices/pci10000:00/10000:e1:1f.7\n";
        assert_eq!(device_of_fdinfo(wide).unwrap().to_string(), "10000:e1:1f.7");
    }

    #[test]
    fn other_texts_prove_nothing() {
        assert_eq!(device_of_fdinfo(""), Err(ProofError::NoDevice));
        assert_eq!(
            device_of_fdinfo("pos:\t0\nflags:\t02\n"),
            Err(ProofError::NoDevice)
        );
        let twice = format!("{INFO}{INFO}");
        assert_eq!(device_of_fdinfo(&twice), Err(ProofError::NoDevice));
        for bad in [
            "/sys/devices/platform/x",
            "/tmp/0000:01:00.2",
            "/sys/a/0000:01:20.0",
            "/sys/a/0000:01:00.8",
            "/sys/a/+000:01:00.1",
            "/sys/a/000:01:00.1",
            "",
        ] {
            let text = format!("vfio-device-syspath: {bad}\n");
            assert!(
                matches!(device_of_fdinfo(&text), Err(ProofError::NotPci(_))),
                "{bad}"
            );
        }
        // The key must start its line.
        assert!(device_of_fdinfo(" vfio-device-syspath: /sys/a/0000:01:00.1").is_err());
    }

    #[test]
    fn a_vf_is_found_by_its_link_and_must_be_the_named_one() {
        let at = |t| PciAddress::parse(t).unwrap();
        let vfs = [(1, at("0000:01:00.1")), (2, at("0000:01:00.2"))];
        let pf = "0000:01:00.0";
        assert_eq!(member_of(vfs[1].1, pf, &vfs, 0), Ok(2));
        assert_eq!(member_of(vfs[1].1, pf, &vfs, 2), Ok(2));
        assert_eq!(
            member_of(vfs[1].1, pf, &vfs, 1),
            Err(ProofError::OtherVf {
                proven: 2,
                named: 1
            })
        );
        assert_eq!(
            member_of(at("0000:02:00.1"), pf, &vfs, 1)
                .unwrap_err()
                .to_string(),
            "the file is that of 0000:02:00.1, which is not a VF of 0000:01:00.0"
        );
    }

    proptest! {
        #[test]
        fn addresses_round_trip(domain in 0u32..=0x000f_ffff, bus: u8, devfn: u8) {
            let a = PciAddress { domain, bus, devfn };
            prop_assert_eq!(PciAddress::parse(&a.to_string()), Some(a));
        }

        #[test]
        fn any_text_is_answered(text in "\\PC{0,200}") {
            let _answer = device_of_fdinfo(&text);
            let _answer = device_of_fdinfo(&format!("{KEY} /sys/{text}"));
        }
    }
}
