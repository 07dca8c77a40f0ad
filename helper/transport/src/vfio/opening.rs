// SPDX-License-Identifier: GPL-2.0-or-later
//! Opening a function: through its group and a container, or through its own device file and an
//! iommufd, whichever the kernel has.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

use super::sysfs::Device;
use crate::address::VfToken;
use crate::dma::DmaPool;
use crate::error::{Cause, Error, HostError, Place};
use crate::sys::vfio;

/// Places for DMA memory in the device's address space, tried in this order: a platform may keep
/// some for itself. Above the legacy holes of PCs, below 4 GiB where there is room, as devices may
/// have narrow address registers.
const IOVAS: [u64; 4] = [0x1000_0000, 0x4000_0000, 0x1_0000_0000, 0x10_0000_0000];

/// Which of the kernel's interfaces to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Interface {
    /// A device file of the function's own and iommufd if the kernel has both, otherwise the group.
    #[default]
    Auto,
    /// Group and container.
    Group,
    /// The function's device file and iommufd.
    Iommufd,
}

/// What keeps the function's addresses translated.
#[derive(Debug)]
pub(super) enum Iommu {
    Group { container: OwnedFd, group: OwnedFd },
    Iommufd { iommufd: OwnedFd, ioas: u32 },
}

/// An open function.
#[derive(Debug)]
pub(super) struct Files {
    // Dropped in this order: the function before what translates its addresses.
    pub(super) device: OwnedFd,
    pub(super) iommu: Iommu,
}

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Opens a device file; says what is wrong with it.
fn open(path: &Path, device: &Device) -> Result<OwnedFd, HostError> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(rustix::fs::OFlags::CLOEXEC.bits() as i32)
        .open(path);
    let error = match opened {
        Ok(file) => return Ok(file.into()),
        Err(e) => Errno::from_io_error(&e).unwrap_or(Errno::IO),
    };
    Err(refused("cannot open", path, error, device))
}

/// What it means that the kernel refused something about `path`.
fn refused(what: &'static str, path: &Path, errno: Errno, device: &Device) -> HostError {
    match errno {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => HostError::NoVfio { path: shown(path) },
        Errno::ACCESS | Errno::PERM => HostError::NoPermission {
            path: shown(path),
            uid: uid(),
        },
        Errno::BUSY => HostError::Busy {
            path: shown(path),
            holder: device.holder(),
        },
        errno => HostError::Io {
            what,
            path: shown(path),
            errno,
        },
    }
}

/// Opens a function that is on vfio-pci.
pub(super) fn open_function(
    device: &Device,
    interface: Interface,
    token: Option<&VfToken>,
) -> Result<Files, HostError> {
    // Without an IOMMU there is no group, whichever interface is used.
    device.group()?;
    let iommu = device.host().dev.join("iommu");
    let cdev = device.cdev_path().filter(|path| path.exists());
    match (interface, cdev) {
        (Interface::Group, _) | (Interface::Auto, None) => by_group(device, token),
        (Interface::Auto, Some(_)) if !iommu.exists() => by_group(device, token),
        (Interface::Auto | Interface::Iommufd, Some(cdev)) => by_cdev(device, &cdev, &iommu, token),
        (Interface::Iommufd, None) => Err(HostError::NoVfio {
            path: shown(&device.host().dev.join("vfio/devices/vfio<N>")),
        }),
    }
}

fn by_group(device: &Device, token: Option<&VfToken>) -> Result<Files, HostError> {
    let group_name = device.group()?;
    let container_path = device.host().dev.join("vfio/vfio");
    let path = device.host().dev.join("vfio").join(&group_name);
    let container = open(&container_path, device)?;
    match vfio::api_version(container.as_fd()) {
        Ok(0) => {}
        Ok(_) | Err(_) => {
            return Err(HostError::NoVfio {
                path: shown(&container_path),
            })
        }
    }
    if !vfio::has_type1v2(container.as_fd()).unwrap_or(false) {
        return Err(HostError::NoType1);
    }
    let group = open(&path, device)?;
    let io = |what| {
        let path = path.clone();
        move |errno| refused(what, &path, errno, device)
    };
    if !vfio::group_is_viable(group.as_fd()).map_err(io("cannot ask the state of"))? {
        return Err(HostError::NotViable {
            group: group_name,
            others: device.group_others(),
        });
    }
    vfio::set_container(group.as_fd(), container.as_fd()).map_err(io("no container for"))?;
    match vfio::set_type1v2(container.as_fd()) {
        Ok(()) => {}
        Err(Errno::PERM) => return Err(HostError::NoInterruptRemapping),
        Err(errno) => return Err(io("no IOMMU for")(errno)),
    }
    let address = device.address();
    let name = match token {
        Some(token) => format!("{address} vf_token={token}"),
        None => address.to_string(),
    };
    let name = CString::new(name).map_err(|_| HostError::NoFunction)?;
    match vfio::device_fd(group.as_fd(), &name) {
        Ok(device) => Ok(Files {
            device,
            iommu: Iommu::Group { container, group },
        }),
        Err(Errno::ACCESS) => Err(HostError::TokenNeeded),
        Err(errno) => Err(io("cannot open the function in")(errno)),
    }
}

fn by_cdev(
    device: &Device,
    path: &Path,
    iommu: &Path,
    token: Option<&VfToken>,
) -> Result<Files, HostError> {
    let file = open(path, device)?;
    let iommufd = open(iommu, device)?;
    let io = |what| move |errno| refused(what, path, errno, device);
    let bind = |token| vfio::bind_iommufd(file.as_fd(), iommufd.as_fd(), token);
    // The kernel makes a token that it is shown the one in force while no VF is in use, even if the
    // PF then turns out to be in use itself. So it is shown only if it is asked for.
    let bound = match (bind(None), token) {
        (Err(Errno::ACCESS), Some(token)) => bind(Some(&token.0)),
        (other, _) => other,
    };
    match bound {
        Ok(()) => {}
        // Bound by somebody else.
        Err(Errno::INVAL) if device.other_holder().is_some() => {
            return Err(HostError::Busy {
                path: shown(path),
                holder: device.holder(),
            })
        }
        Err(Errno::ACCESS) => return Err(HostError::TokenNeeded),
        // The IOMMU group has another owner: a driver of another function of the group.
        Err(Errno::PERM) => {
            return Err(match device.group_others() {
                others if others.is_empty() => HostError::NoInterruptRemapping,
                others => HostError::NotViable {
                    group: device.group()?,
                    others,
                },
            })
        }
        Err(errno) => return Err(io("cannot bind")(errno)),
    }
    let ioas = vfio::ioas_alloc(iommufd.as_fd())
        .map_err(|errno| refused("no address space from", iommu, errno, device))?;
    vfio::attach_ioas(file.as_fd(), ioas).map_err(io("no address space for"))?;
    Ok(Files {
        device: file,
        iommu: Iommu::Iommufd { iommufd, ioas },
    })
}

/// Names of the kept files; those of memory and iommufd carry a number.
const DEVICE: &str = "device";
const CONTAINER: &str = "container";
const GROUP: &str = "group";
const IOMMUFD: &str = "iommufd-";
const MEMORY: &str = "memory-";

impl Files {
    /// What must stay open for the function to stay as it is, with `pool` in use.
    pub(super) fn keepers<'a>(&'a self, pool: &'a DmaPool) -> Vec<(String, BorrowedFd<'a>)> {
        let mut kept = vec![(DEVICE.to_owned(), self.device.as_fd())];
        match &self.iommu {
            Iommu::Group { container, group } => {
                kept.push((CONTAINER.to_owned(), container.as_fd()));
                kept.push((GROUP.to_owned(), group.as_fd()));
            }
            Iommu::Iommufd { iommufd, ioas } => {
                kept.push((format!("{IOMMUFD}{ioas}"), iommufd.as_fd()));
            }
        }
        kept.push((format!("{MEMORY}{:x}", pool.iova()), pool.fd()));
        kept
    }

    /// The files by their names; also the memory and its address.
    pub(super) fn from_kept(kept: Vec<(String, OwnedFd)>) -> Option<(Self, OwnedFd, u64)> {
        let (mut device, mut container, mut group) = (None, None, None);
        let (mut iommufd, mut memory) = (None, None);
        for (name, fd) in kept {
            match name.as_str() {
                DEVICE => device = Some(fd),
                CONTAINER => container = Some(fd),
                GROUP => group = Some(fd),
                name => {
                    if let Some(ioas) = name.strip_prefix(IOMMUFD) {
                        iommufd = Some((fd, ioas.parse().ok()?));
                    } else if let Some(iova) = name.strip_prefix(MEMORY) {
                        memory = Some((fd, u64::from_str_radix(iova, 16).ok()?));
                    }
                }
            }
        }
        let iommu = match (container, group, iommufd) {
            (Some(container), Some(group), None) => Iommu::Group { container, group },
            (None, None, Some((iommufd, ioas))) => Iommu::Iommufd { iommufd, ioas },
            _ => return None,
        };
        let (memory, iova) = memory?;
        let device = device?;
        Some((Files { device, iommu }, memory, iova))
    }
}

impl Iommu {
    /// For messages.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Iommu::Group { .. } => "group",
            Iommu::Iommufd { .. } => "iommufd",
        }
    }

    fn map(&self, pool: &DmaPool) -> Result<(), Errno> {
        match self {
            Iommu::Group { container, .. } => {
                vfio::map_dma(container.as_fd(), pool.mapping(), pool.iova())
            }
            Iommu::Iommufd { iommufd, ioas } => {
                vfio::ioas_map(iommufd.as_fd(), *ioas, pool.mapping(), pool.iova())
            }
        }
    }

    /// Takes over the memory that the device reaches at `iova` since an earlier process mapped it.
    pub(super) fn adopt_pool(
        &self,
        id: &Arc<str>,
        memory: OwnedFd,
        iova: u64,
    ) -> Result<DmaPool, Error> {
        let pool = DmaPool::adopt(id.clone(), memory, iova)?;
        match self.map(&pool) {
            // Mapped still, as it should be; or else, now.
            Err(Errno::EXIST | Errno::ADDRINUSE) | Ok(()) => Ok(pool),
            Err(errno) => {
                let place = Place::Dma {
                    offset: 0,
                    len: pool.size(),
                };
                let call = "mapping memory for the device";
                Err(Error::new(id.clone(), place, Cause::Os { call, errno }))
            }
        }
    }

    /// Makes a pool of `size` bytes that the device can reach.
    pub(super) fn make_pool(&self, id: &Arc<str>, size: usize) -> Result<DmaPool, Error> {
        let error = |cause| {
            let place = Place::Dma {
                offset: 0,
                len: size,
            };
            Error::new(id.clone(), place, cause)
        };
        let mut last = Errno::INVAL;
        for iova in IOVAS {
            let pool = DmaPool::new(id.clone(), size, iova)?;
            match self.map(&pool) {
                Ok(()) => return Ok(pool),
                Err(Errno::NOMEM) => {
                    let cause = HostError::MemLock { bytes: size };
                    return Err(error(Cause::Host(Box::new(cause))));
                }
                // Not an address that this platform's devices can use.
                Err(errno @ (Errno::INVAL | Errno::EXIST | Errno::RANGE | Errno::ADDRINUSE)) => {
                    last = errno;
                }
                Err(errno) => {
                    let call = "mapping memory for the device";
                    return Err(error(Cause::Os { call, errno }));
                }
            }
        }
        let call = "mapping memory for the device at any of the usual addresses";
        Err(error(Cause::Os { call, errno: last }))
    }
}
