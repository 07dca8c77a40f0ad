// SPDX-License-Identifier: GPL-2.0-or-later
//! The few calls of the kernel's VFIO (group and container, or device file and iommufd) that the probe
//! needs.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{read_dir, read_link, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt as _;

/// Numbers of the ioctls: type ';', base 100, no size encoded.
mod request {
    const BASE: u64 = 0x3b << 8 | 100;
    pub(super) const SET_IOMMU: u64 = BASE + 2;
    pub(super) const GROUP_GET_STATUS: u64 = BASE + 3;
    pub(super) const GROUP_SET_CONTAINER: u64 = BASE + 4;
    pub(super) const GROUP_GET_DEVICE_FD: u64 = BASE + 6;
    pub(super) const DEVICE_GET_REGION_INFO: u64 = BASE + 8;
    pub(super) const DEVICE_SET_IRQS: u64 = BASE + 10;
    pub(super) const DEVICE_RESET: u64 = BASE + 11;
    pub(super) const DEVICE_FEATURE: u64 = BASE + 17;
    pub(super) const DEVICE_BIND_IOMMUFD: u64 = BASE + 18;
}

const TYPE1V2_IOMMU: u64 = 3;
const GROUP_VIABLE: u32 = 1;
const BIND_TOKEN: u32 = 1;
const FEATURE_SET: u32 = 1 << 17;
const IRQ_DATA_EVENTFD: u32 = 1 << 2;
const IRQ_DATA_NONE: u32 = 1;
const IRQ_ACTION_TRIGGER: u32 = 1 << 5;
const MSIX_INDEX: u32 = 2;
/// Region number of the configuration space.
pub(crate) const CONFIG: u32 = 7;

#[repr(C)]
struct GroupStatus {
    argsz: u32,
    flags: u32,
}

#[repr(C)]
struct RegionInfo {
    argsz: u32,
    flags: u32,
    index: u32,
    cap_offset: u32,
    size: u64,
    offset: u64,
}

#[repr(C)]
struct VfToken {
    argsz: u32,
    flags: u32,
    uuid: [u8; 16],
}

#[repr(C)]
struct BindIommufd {
    argsz: u32,
    flags: u32,
    iommufd: i32,
    out_devid: u32,
    token: u64,
}

#[repr(C)]
struct SetIrqs {
    argsz: u32,
    flags: u32,
    index: u32,
    start: u32,
    count: u32,
    fds: [i32; 2],
}

/// An open function, with the files that keep it usable.
pub(crate) struct Device {
    file: File,
    _others: Vec<File>,
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn named<T>(what: &str, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|e| io::Error::new(e.kind(), format!("{what}: {e}")))
}

fn open(path: &str) -> io::Result<File> {
    named(path, OpenOptions::new().read(true).write(true).open(path))
}

/// An ioctl whose argument is a number or a descriptor's address.
fn call<T>(file: &File, number: u64, argument: *mut T) -> io::Result<i32> {
    // SAFETY: the callers in this file pass the struct that belongs to the request, alive during
    // the call and with its true size in `argsz`, which the kernel does not write beyond.
    check(unsafe { libc::ioctl(file.as_raw_fd(), number, argument) })
}

/// An ioctl whose argument is a plain number.
fn call_number(file: &File, number: u64, argument: u64) -> io::Result<i32> {
    // SAFETY: these requests take the number itself; no memory is involved.
    check(unsafe { libc::ioctl(file.as_raw_fd(), number, argument) })
}

fn size<T>() -> u32 {
    std::mem::size_of::<T>() as u32
}

impl Device {
    /// Opens the function at `address`. `token` is the VF token to show, if any.
    pub(crate) fn open(address: &str, token: Option<&str>) -> io::Result<Self> {
        let link = format!("/sys/bus/pci/devices/{address}/iommu_group");
        let target = named(&link, read_link(&link))?;
        let number = target
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or(io::ErrorKind::InvalidData)?;
        let container = open("/dev/vfio/vfio")?;
        let group = open(&format!("/dev/vfio/{number}"))?;
        let mut status = GroupStatus {
            argsz: size::<GroupStatus>(),
            flags: 0,
        };
        named(
            "group status",
            call(&group, request::GROUP_GET_STATUS, &raw mut status),
        )?;
        if status.flags & GROUP_VIABLE == 0 {
            return Err(io::Error::other(format!("group {number} is not viable")));
        }
        let mut fd = container.as_raw_fd();
        named(
            "set container",
            call(&group, request::GROUP_SET_CONTAINER, &raw mut fd),
        )?;
        named(
            "set IOMMU",
            call_number(&container, request::SET_IOMMU, TYPE1V2_IOMMU),
        )?;
        let mut text = address.to_owned();
        if let Some(token) = token {
            text = format!("{address} vf_token={token}");
        }
        let text = CString::new(text)?;
        let fd = named(
            "get device",
            call(
                &group,
                request::GROUP_GET_DEVICE_FD,
                text.as_ptr().cast_mut(),
            ),
        )?;
        // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
        let file = unsafe { File::from_raw_fd(fd) };
        Ok(Self {
            file,
            _others: vec![group, container],
        })
    }

    /// Opens the function at `address` by its own file, and binds it to an iommufd. `token` is the VF
    /// token to show, if any.
    pub(crate) fn open_cdev(address: &str, token: Option<&str>) -> io::Result<Self> {
        let token = token.map(parse_uuid).transpose()?;
        let dir = format!("/sys/bus/pci/devices/{address}/vfio-dev");
        let entry = named(&dir, read_dir(&dir))?.next();
        let name = entry.ok_or(io::ErrorKind::NotFound)??.file_name();
        let file = open(&format!("/dev/vfio/devices/{}", name.to_string_lossy()))?;
        let iommufd = open("/dev/iommu")?;
        let mut bind = BindIommufd {
            argsz: size::<BindIommufd>(),
            flags: token.map_or(0, |_| BIND_TOKEN),
            iommufd: iommufd.as_raw_fd(),
            out_devid: 0,
            // Read during the call, which `token` outlives.
            token: token.as_ref().map_or(0, |uuid| uuid.as_ptr() as u64),
        };
        named(
            "bind",
            call(&file, request::DEVICE_BIND_IOMMUFD, &raw mut bind),
        )?;
        Ok(Self {
            file,
            _others: vec![iommufd],
        })
    }

    /// The device file.
    pub(crate) fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.file)
    }

    /// Offset in the device file, and size, of a region.
    fn region(&self, index: u32) -> io::Result<(u64, u64)> {
        let mut info = RegionInfo {
            argsz: size::<RegionInfo>(),
            flags: 0,
            index,
            cap_offset: 0,
            size: 0,
            offset: 0,
        };
        call(&self.file, request::DEVICE_GET_REGION_INFO, &raw mut info)?;
        Ok((info.offset, info.size))
    }

    /// Bytes in a region; 0: there is none.
    pub(crate) fn region_size(&self, index: u32) -> io::Result<u64> {
        Ok(self.region(index)?.1)
    }

    /// Reads from a region.
    pub(crate) fn read(&self, index: u32, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, self.region(index)?.0 + offset)
    }

    /// Writes to a region.
    pub(crate) fn write(&self, index: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, self.region(index)?.0 + offset)
    }

    /// Makes `uuid` the token that VFs of this PF must show.
    pub(crate) fn set_vf_token(&self, uuid: &str) -> io::Result<()> {
        let mut token = VfToken {
            argsz: size::<VfToken>(),
            flags: FEATURE_SET,
            uuid: parse_uuid(uuid)?,
        };
        call(&self.file, request::DEVICE_FEATURE, &raw mut token)?;
        Ok(())
    }

    /// Function level reset.
    pub(crate) fn reset(&self) -> io::Result<()> {
        call_number(&self.file, request::DEVICE_RESET, 0)?;
        Ok(())
    }

    /// Switches two MSI-X vectors on, with eventfds, and off again.
    pub(crate) fn cycle_msix(&self) -> io::Result<()> {
        let eventfd = || -> io::Result<File> {
            // SAFETY: plain numbers in, a new descriptor of ours out.
            let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) })?;
            // SAFETY: the descriptor was just made and nobody else owns it.
            Ok(unsafe { File::from_raw_fd(fd) })
        };
        let fds = [eventfd()?, eventfd()?];
        let mut irqs = SetIrqs {
            argsz: size::<SetIrqs>(),
            flags: IRQ_DATA_EVENTFD | IRQ_ACTION_TRIGGER,
            index: MSIX_INDEX,
            start: 0,
            count: 2,
            fds: [fds[0].as_raw_fd(), fds[1].as_raw_fd()],
        };
        call(&self.file, request::DEVICE_SET_IRQS, &raw mut irqs)?;
        irqs.flags = IRQ_DATA_NONE | IRQ_ACTION_TRIGGER;
        irqs.count = 0;
        call(&self.file, request::DEVICE_SET_IRQS, &raw mut irqs)?;
        Ok(())
    }
}

/// The bytes of a UUID in the order of its text.
fn parse_uuid(text: &str) -> io::Result<[u8; 16]> {
    let wrong = || io::Error::other(format!("{text} is not a UUID"));
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    if digits.len() != 32 {
        return Err(wrong());
    }
    u128::from_str_radix(&digits, 16)
        .map(u128::to_be_bytes)
        .map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_keeps_the_order_of_its_text() {
        let bytes = parse_uuid("00112233-4455-6677-8899-aabbccddeeff").unwrap();
        assert_eq!(bytes[..3], [0, 0x11, 0x22]);
        assert_eq!(bytes[15], 0xff);
        for text in ["", "00112233", "0g112233-4455-6677-8899-aabbccddeeff"] {
            assert!(parse_uuid(text).is_err(), "{text}");
        }
    }
}
