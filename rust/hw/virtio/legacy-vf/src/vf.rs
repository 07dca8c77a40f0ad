// SPDX-License-Identifier: GPL-2.0-or-later

//! Which VF the user means, and which helper serves it.

use std::{
    fs,
    os::{fd::AsRawFd, linux::fs::MetadataExt},
    path::{Path, PathBuf},
};

use vfio::VfioPciBase;

use crate::sysfs::{HostVf, Sysfs};

/// Where the helpers of PFs listen unless told otherwise.
const HELPER_DIR: &str = "/run/qemu-virtio-admin";

/// Which parent a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `vfio-pci`: a VF of the host.
    Host,
    /// `vfio-user-pci`: a VF that another process emulates.
    User,
}

/// A VF, and the helper that serves it.
pub struct Vf {
    /// The helper's socket.
    pub helper: PathBuf,
    /// Number of the VF at its PF, from 1.
    pub member: u16,
    /// The VF, if it is one of the host.
    pub host: Option<HostVf>,
}

impl Vf {
    /// How messages name the VF.
    pub fn name(&self) -> String {
        match &self.host {
            Some(vf) => format!("VF {} (VF {} of {})", vf.address, vf.member, vf.pf),
            None => format!("VF {}", self.member),
        }
    }
}

/// Finds both. The user may have named the helper's socket, and the VF by its number, which is 0 if
/// not. The error says what is wrong, for a message that names the device.
pub fn find(
    kind: Kind,
    device: &VfioPciBase,
    helper: Option<&str>,
    member: u16,
) -> Result<Vf, String> {
    if kind == Kind::Host {
        return of_host(host_vf(device)?, helper, member);
    }
    let helper = helper.ok_or(
        "helper= is not set; give the path of the socket on which qemu-virtio-admin-helper serves \
         the PF of this VF",
    )?;
    if member == 0 {
        return Err(
            "vf= is not set; give the number of the VF at its PF, from 1 \
             (`virtio-legacy-vf list` shows them)"
                .to_owned(),
        );
    }
    Ok(Vf {
        helper: helper.into(),
        member,
        host: None,
    })
}

fn of_host(vf: HostVf, helper: Option<&str>, member: u16) -> Result<Vf, String> {
    if member != 0 && member != vf.member {
        return Err(format!(
            "vf={member} does not fit {}, which is VF {} of {}; leave vf= out",
            vf.address, vf.member, vf.pf
        ));
    }
    vf.check_driver()?;
    let helper = match helper {
        Some(path) => path.into(),
        None => Path::new(HELPER_DIR).join(format!("{}.sock", vf.pf)),
    };
    Ok(Vf {
        helper,
        member: vf.member,
        host: Some(vf),
    })
}

/// The VF of `fd=`, `sysfsdev=` or `host=`, in the order in which VFIO looks at them.
fn host_vf(vfio: &VfioPciBase) -> Result<HostVf, String> {
    let sysfs = Sysfs("/sys".into());
    let file = vfio
        .device_file()
        .map_err(|e| format!("the file given with fd= cannot be used: {e}"))?;
    if let Some(file) = file {
        let fd = file.as_raw_fd();
        let fdinfo = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
        let device = fs::metadata(format!("/proc/self/fd/{fd}")).map(|m| m.st_rdev());
        sysfs.by_file(&fdinfo, device.ok().filter(|d| *d != 0).map(numbers))
    } else if let Some(path) = vfio.sysfs_path() {
        sysfs.by_path(&path)
    } else if let Some(address) = vfio.host_address() {
        sysfs.by_address(&address)
    } else {
        Err(
            "no VF is given; use host=ADDRESS with the PCI address of a VF \
             (`virtio-legacy-vf list` shows them)"
                .to_owned(),
        )
    }
}

/// Major and minor number of a device, as Linux packs them.
const fn numbers(device: u64) -> (u32, u32) {
    let major = (device >> 8 & 0xfff) | (device >> 32 & 0xffff_f000);
    let minor = (device & 0xff) | (device >> 12 & 0xffff_ff00);
    (major as u32, minor as u32)
}
