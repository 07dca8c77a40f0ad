// SPDX-License-Identifier: GPL-2.0-or-later
//! The VFs of a PF, through sysfs: enabled, given to vfio-pci, disabled.

use std::time::Duration;

use super::sysfs::Device;
use crate::error::HostError;

impl Device {
    /// Says why `wanted` VFs could not be enabled by vfio-pci, before anything is touched. A PF that
    /// is not on vfio-pci is looked at as if it were.
    ///
    /// # Errors
    /// The reason.
    pub fn check_vfs(&self, wanted: u16) -> Result<(), HostError> {
        let total = self.total_vfs()?;
        if wanted > total {
            return Err(HostError::TooManyVfs { wanted, total });
        }
        // Drivers built on vfio-pci have rules of their own.
        let variant = self.is_on_vfio() && self.driver().as_deref() != Some("vfio-pci");
        if !variant && self.sriov_allowed() == Some(false) {
            return Err(HostError::SriovOff);
        }
        Ok(())
    }

    /// Has vfio-pci drive those VFs that no driver has; the others are left to theirs. Returns these,
    /// with their drivers.
    ///
    /// # Errors
    /// If one cannot be given to vfio-pci.
    pub fn settle_vfs(&self, deadline: Duration) -> Result<Vec<String>, HostError> {
        let mut others = Vec::new();
        for (number, address) in self.vfs() {
            let vf = self.host().device(address)?;
            match vf.driver() {
                None => vf.bind_to_vfio(deadline)?,
                Some(driver) if !vf.is_on_vfio() => {
                    others.push(format!("VF {number} ({address}, driver {driver})"));
                }
                Some(_) => {}
            }
        }
        Ok(others)
    }
}

/// Enables `n` VFs and has vfio-pci drive them all.
pub(super) fn enable(pf: &Device, n: u16, deadline: Duration) -> Result<(), HostError> {
    pf.check_vfs(n)?;
    let existing = pf.num_vfs()?.ok_or(HostError::NotAPf)?;
    if existing > 0 {
        return Err(HostError::VfsEnabled {
            function: pf.address().to_string(),
            existing,
            wanted: n,
            users: pf.vf_users(),
        });
    }
    pf.set_num_vfs(n, deadline)?;
    claim(pf, deadline)
}

/// Has vfio-pci drive the VFs that were just enabled. Newer kernels do so by themselves.
pub(super) fn claim(pf: &Device, deadline: Duration) -> Result<(), HostError> {
    let group = pf.group()?;
    for (number, address) in pf.vfs() {
        let vf = pf.host().device(address)?;
        vf.bind_to_vfio(deadline)?;
        if vf.group().is_ok_and(|g| g == group) {
            tracing::warn!(
                vf = number,
                %address,
                group,
                "VF and PF share an IOMMU group (no ACS above them): the kernel lets nobody else \
                 open the VF while this helper has the PF"
            );
        }
    }
    Ok(())
}

/// Disables all VFs. Refused while somebody has one open: the kernel would wait for him.
pub(super) fn disable(pf: &Device, deadline: Duration) -> Result<(), HostError> {
    let users = pf.vf_users();
    if !users.is_empty() {
        return Err(HostError::VfsInUse { users });
    }
    pf.set_num_vfs(0, deadline)
}
