// SPDX-License-Identifier: GPL-2.0-or-later
//! PCI functions as sysfs shows them. The roots of sysfs, /dev and /proc can be elsewhere, for
//! tests.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::attribute::{errno, link_name, number, read, shown, write, written};
use crate::address::PciAddress;
use crate::error::HostError;
use crate::function::VfBar;

/// VFs that a PF can have.
const MAX_VFS: usize = 65_536;
/// Processes that are looked at to find who has a file open.
const MAX_PROCESSES: usize = 16_384;
/// Users of VFs that are named.
const MAX_USERS: usize = 8;
/// Time for the kernel to give a function to a driver after it was asked to.
const PROBE: Duration = Duration::from_secs(2);
const PROBE_LOOK: Duration = Duration::from_millis(5);
/// Lines of `resource` that are the BARs.
const BARS: usize = 6;
/// Flag of a resource: memory.
const RESOURCE_MEMORY: u64 = 0x200;

/// Where the kernel shows its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// sysfs.
    pub sysfs: PathBuf,
    /// Device files.
    pub dev: PathBuf,
    /// Processes, only to name who has a file open.
    pub proc: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Host {
            sysfs: "/sys".into(),
            dev: "/dev".into(),
            proc: "/proc".into(),
        }
    }
}

/// One PCI function.
#[derive(Clone, Debug)]
pub struct Device {
    host: Host,
    address: PciAddress,
    dir: PathBuf,
}

impl Host {
    /// The function at `address`.
    ///
    /// # Errors
    /// [`HostError::NoFunction`].
    pub fn device(&self, address: PciAddress) -> Result<Device, HostError> {
        let dir = self.sysfs.join("bus/pci/devices").join(address.to_string());
        if !dir.is_dir() {
            return Err(HostError::NoFunction);
        }
        Ok(Device {
            host: self.clone(),
            address,
            dir,
        })
    }

    /// The PCI function that a VFIO character device stands for.
    pub fn function_of_cdev(&self, major: u32, minor: u32) -> Option<PciAddress> {
        let link = self.sysfs.join(format!("dev/char/{major}:{minor}"));
        let target = fs::read_link(link).ok()?;
        // <function>/vfio-dev/vfio<N>
        let class = target.parent()?;
        if class.file_name()? != "vfio-dev" {
            return None;
        }
        PciAddress::parse(class.parent()?.file_name()?.to_str()?)
    }

    /// Which other process has `path` open, as far as this process may see.
    pub fn holder(&self, path: &Path) -> Option<String> {
        for entry in fs::read_dir(&self.proc).ok()?.take(MAX_PROCESSES) {
            let Ok(entry) = entry else { continue };
            let name = entry.file_name();
            let number = name.to_str().and_then(|n| n.parse::<u32>().ok());
            let Some(pid) = number.filter(|pid| *pid != std::process::id()) else {
                continue;
            };
            let Ok(fds) = fs::read_dir(entry.path().join("fd")) else {
                continue;
            };
            let open = fds
                .flatten()
                .any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == path));
            if open {
                let command = read(&entry.path().join("comm")).ok().flatten();
                let command: String = command
                    .unwrap_or_default()
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(32)
                    .collect();
                return Some(format!("pid {pid} ({command})"));
            }
        }
        None
    }
}

impl Device {
    /// Its address.
    pub fn address(&self) -> PciAddress {
        self.address
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where it is shown.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The name of its driver.
    pub fn driver(&self) -> Option<String> {
        link_name(&self.dir.join("driver"))
    }

    /// Whether its driver is vfio-pci or one of those built on it.
    pub fn is_on_vfio(&self) -> bool {
        self.driver().is_some_and(|name| name.contains("vfio")) || self.cdev_name().is_some()
    }

    /// The number of its IOMMU group.
    ///
    /// # Errors
    /// [`HostError::NoGroup`].
    pub fn group(&self) -> Result<String, HostError> {
        link_name(&self.dir.join("iommu_group")).ok_or(HostError::NoGroup)
    }

    /// The other functions of its group that keep it from being used, with their drivers.
    pub fn group_others(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.dir.join("iommu_group/devices")) else {
            return Vec::new();
        };
        let mut others: Vec<String> = entries
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .filter(|name| *name != self.address.to_string())
            .filter_map(|name| {
                let driver = link_name(
                    &self
                        .host
                        .sysfs
                        .join("bus/pci/devices")
                        .join(&name)
                        .join("driver"),
                )?;
                // Bridges may keep their driver.
                (!driver.contains("vfio") && driver != "pcieport" && driver != "pci-stub")
                    .then(|| format!("{name} (driver {driver})"))
            })
            .collect();
        others.sort();
        others
    }

    /// The name of its character device, where the kernel has those.
    pub fn cdev_name(&self) -> Option<String> {
        fs::read_dir(self.dir.join("vfio-dev"))
            .ok()?
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .find(|name| name.starts_with("vfio"))
    }

    /// Gives the function to vfio-pci, whoever has it.
    ///
    /// # Errors
    /// If there is no vfio-pci, or the function does not end up there.
    pub fn bind_to_vfio(&self, deadline: Duration) -> Result<(), HostError> {
        let driver = self.driver();
        if self.is_on_vfio() {
            return Ok(());
        }
        let bus = self.host.sysfs.join("bus/pci");
        if !bus.join("drivers/vfio-pci").is_dir() {
            return Err(HostError::NoVfioDriver);
        }
        if let (Some(driver), Ok(Some(vfs))) = (&driver, self.num_vfs()) {
            if vfs > 0 {
                return Err(HostError::VfsOfOtherDriver {
                    function: self.address.to_string(),
                    driver: driver.clone(),
                    vfs,
                });
            }
        }
        let address = self.address.to_string();
        written(&self.dir.join("driver_override"), "vfio-pci", deadline)?;
        if let Some(driver) = driver {
            tracing::info!(
                function = address,
                driver,
                "taking the function from its driver"
            );
            written(&self.dir.join("driver/unbind"), &address, deadline)?;
        }
        written(&bus.join("drivers_probe"), &address, deadline)?;
        // Probing need not be over when the write returns.
        let end = Instant::now() + deadline.min(PROBE);
        while !self.is_on_vfio() {
            if Instant::now() >= end {
                return Err(HostError::NotBound {
                    function: address,
                    driver: self.driver(),
                });
            }
            std::thread::sleep(PROBE_LOOK);
        }
        Ok(())
    }

    /// Enabled VFs; `None` if it is not a PF.
    ///
    /// # Errors
    /// If sysfs cannot be read.
    pub fn num_vfs(&self) -> Result<Option<u16>, HostError> {
        let n = number(&self.dir.join("sriov_numvfs"), 10)?;
        Ok(n.map(|n| u16::try_from(n).unwrap_or(u16::MAX)))
    }

    /// VFs that it can have.
    ///
    /// # Errors
    /// [`HostError::NotAPf`], or if sysfs cannot be read.
    pub fn total_vfs(&self) -> Result<u16, HostError> {
        let n = number(&self.dir.join("sriov_totalvfs"), 10)?.ok_or(HostError::NotAPf)?;
        Ok(u16::try_from(n).unwrap_or(u16::MAX))
    }

    /// PCI device ID of its VFs, where sysfs tells it.
    ///
    /// # Errors
    /// If sysfs cannot be read.
    pub fn vf_device_id(&self) -> Result<Option<u16>, HostError> {
        let n = number(&self.dir.join("sriov_vf_device"), 16)?;
        Ok(n.and_then(|n| u16::try_from(n).ok()))
    }

    /// Whether vfio-pci may enable VFs; `None` if that cannot be seen.
    pub fn sriov_allowed(&self) -> Option<bool> {
        let parameter = "module/vfio_pci/parameters/enable_sriov";
        let text = read(&self.host.sysfs.join(parameter)).ok().flatten()?;
        Some(text.starts_with(['Y', 'y', '1']))
    }

    /// The VFs: number from 1, and address.
    pub fn vfs(&self) -> Vec<(u16, PciAddress)> {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return Vec::new();
        };
        let mut vfs: Vec<(u16, PciAddress)> = entries
            .flatten()
            .take(MAX_VFS)
            .filter_map(|e| {
                let name = e.file_name();
                let index: u16 = name.to_str()?.strip_prefix("virtfn")?.parse().ok()?;
                let address = PciAddress::parse(&link_name(&e.path())?)?;
                Some((index.checked_add(1)?, address))
            })
            .collect();
        vfs.sort_unstable();
        vfs
    }

    /// The number of the VF at `address`, from 1, if it is one of this PF's. A few look-ups, however
    /// many VFs there are: where it lies says which one it would be ("VF Offset and Stride"), and the
    /// link of that number whether it is.
    ///
    /// # Errors
    /// If sysfs cannot be read.
    pub fn vf_number(&self, address: PciAddress) -> Result<Option<u16>, HostError> {
        let offset = number(&self.dir.join("sriov_offset"), 10)?;
        let stride = number(&self.dir.join("sriov_stride"), 10)?;
        let (Some(offset), Some(stride)) = (offset, stride) else {
            return Ok(None);
        };
        let behind = address.routing_id().checked_sub(self.address.routing_id());
        let Some(behind) = behind.and_then(|n| u64::from(n).checked_sub(offset)) else {
            return Ok(None);
        };
        // With one VF, the stride may be 0.
        let Ok(index) = u16::try_from(behind.checked_div(stride).unwrap_or(0)) else {
            return Ok(None);
        };
        let link = link_name(&self.dir.join(format!("virtfn{index}")));
        let found = link.and_then(|name| PciAddress::parse(&name));
        Ok(match found == Some(address) {
            true => index.checked_add(1),
            false => None,
        })
    }

    /// The PF of this VF.
    pub fn physfn(&self) -> Option<PciAddress> {
        PciAddress::parse(&link_name(&self.dir.join("physfn"))?)
    }

    /// Sizes of this function's BARs, as the kernel assigned them.
    ///
    /// # Errors
    /// If sysfs cannot be read.
    pub fn bars(&self) -> Result<[VfBar; BARS], HostError> {
        let mut bars = [VfBar::Unknown; BARS];
        let Some(text) = read(&self.dir.join("resource"))? else {
            return Ok(bars);
        };
        for (bar, line) in bars.iter_mut().zip(text.lines()) {
            let mut fields = line
                .split_ascii_whitespace()
                .map(|f| u64::from_str_radix(f.strip_prefix("0x").unwrap_or(f), 16).ok());
            let (Some(Some(start)), Some(Some(end)), Some(Some(flags))) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            *bar = match end.checked_sub(start).and_then(|n| n.checked_add(1)) {
                Some(size) if flags & RESOURCE_MEMORY != 0 => VfBar::Size(size),
                _ => VfBar::Absent,
            };
        }
        Ok(bars)
    }

    /// Sets the number of VFs.
    ///
    /// # Errors
    /// What the kernel's answer means.
    pub fn set_num_vfs(&self, n: u16, deadline: Duration) -> Result<(), HostError> {
        let path = self.dir.join("sriov_numvfs");
        match write(&path, &n.to_string(), deadline)? {
            Ok(()) => Ok(()),
            // vfio-pci without enable_sriov; the attribute itself is there.
            Err(Errno::NOENT) if path.exists() => Err(match self.sriov_allowed() {
                None if n > 0 => HostError::SriovUnknown,
                _ => HostError::SriovOff,
            }),
            Err(Errno::NOENT) => Err(HostError::NotAPf),
            Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => {
                Err(HostError::NotRoot { path: shown(&path) })
            }
            Err(Errno::BUSY) => Err(HostError::VfsEnabled {
                function: self.address.to_string(),
                existing: self.num_vfs()?.unwrap_or(0),
                wanted: n,
                users: self.vf_users(),
            }),
            Err(Errno::RANGE) => Err(HostError::TooManyVfs {
                wanted: n,
                total: self.total_vfs()?,
            }),
            Err(errno @ (Errno::NOMEM | Errno::NOSPC | Errno::IO | Errno::NOBUFS)) => {
                Err(HostError::NoRoom { wanted: n, errno })
            }
            Err(errno) => Err(HostError::Io {
                what: "cannot write",
                path: shown(&path),
                errno,
            }),
        }
    }

    /// The device file through which a function on vfio-pci is opened, if it has one.
    pub fn group_path(&self) -> Option<PathBuf> {
        Some(self.host.dev.join("vfio").join(self.group().ok()?))
    }

    /// The function's own device file, where the kernel has those.
    pub fn cdev_path(&self) -> Option<PathBuf> {
        Some(self.host.dev.join("vfio/devices").join(self.cdev_name()?))
    }

    /// Who uses this function through VFIO. A group can be opened once only, so whoever cannot open
    /// it knows.
    pub fn vfio_user(&self) -> Option<String> {
        let group = self.group_path()?;
        let opened = OpenOptions::new().read(true).write(true).open(&group);
        if !opened.is_err_and(|e| errno(&e) == Errno::BUSY) {
            return None;
        }
        Some(self.holder())
    }

    /// The first VFs of this PF that are in use, and their users.
    pub fn vf_users(&self) -> Vec<String> {
        self.vfs()
            .into_iter()
            .filter_map(|(number, address)| {
                let user = self.host.device(address).ok()?.vfio_user()?;
                Some(format!("VF {number} ({address}) by {user}"))
            })
            .take(MAX_USERS)
            .collect()
    }

    /// Which other process has one of this function's device files open, as far as that can be seen.
    pub fn other_holder(&self) -> Option<String> {
        [self.group_path(), self.cdev_path()]
            .into_iter()
            .flatten()
            .find_map(|path| self.host.holder(&path))
    }

    /// The same, for messages.
    pub fn holder(&self) -> String {
        self.other_holder()
            .unwrap_or_else(|| "another process".into())
    }
}
