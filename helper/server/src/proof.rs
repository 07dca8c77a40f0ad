// SPDX-License-Identifier: GPL-2.0-or-later
//! Which VF a VFIO device file stands for. Pure: [`crate::device_files`] looks at the files.
//!
//! The PF's `virtfn<n>` links give the number of a VF, counted from 0, which is one less than its
//! member id.

pub use pci_transport::PciAddress;

/// Why a file proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// A file belongs to an OPEN with proof.
    #[error("no file was sent as proof")]
    Missing,
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

/// The member id of the VF `device`, whose number among the PF's VFs is `number`, if it is one of
/// them. `named` is the member in the request, 0 for none.
///
/// # Errors
/// [`ProofError::OtherDevice`] or [`ProofError::OtherVf`].
pub fn member_of(
    device: PciAddress,
    pf: &str,
    number: Option<u16>,
    named: u16,
) -> Result<u16, ProofError> {
    let proven = number.ok_or_else(|| ProofError::OtherDevice {
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

    #[test]
    fn a_vf_must_be_the_pf_s_and_the_named_one() {
        let at = |t| PciAddress::parse(t).unwrap();
        let (vf, pf) = (at("0000:01:00.2"), "0000:01:00.0");
        assert_eq!(member_of(vf, pf, Some(2), 0), Ok(2));
        assert_eq!(member_of(vf, pf, Some(2), 2), Ok(2));
        assert_eq!(
            member_of(vf, pf, Some(2), 1),
            Err(ProofError::OtherVf {
                proven: 2,
                named: 1
            })
        );
        assert_eq!(
            member_of(at("0000:02:00.1"), pf, None, 1)
                .unwrap_err()
                .to_string(),
            "the file is that of 0000:02:00.1, which is not a VF of 0000:01:00.0"
        );
    }
}
