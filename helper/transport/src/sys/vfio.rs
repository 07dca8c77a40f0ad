// SPDX-License-Identifier: GPL-2.0-or-later
//! The kernel's VFIO and iommufd calls, each as a safe function on descriptors.
//!
//! A descriptor of the wrong kind is harmless: the kernel answers ENOTTY. Every struct passed is
//! owned by the function, alive during the call, and says its true size in `argsz` or `size`,
//! beyond which the kernel neither reads nor writes.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use vfio_bindings::bindings::vfio as v;

use super::SharedMapping;

/// `_IO(';', 100 + n)`: VFIO's requests encode no size.
const fn request(n: u64) -> u64 {
    0x3b << 8 | (100 + n)
}

const GET_API_VERSION: u64 = request(0);
const CHECK_EXTENSION: u64 = request(1);
const SET_IOMMU: u64 = request(2);
const GROUP_GET_STATUS: u64 = request(3);
const GROUP_SET_CONTAINER: u64 = request(4);
const GROUP_GET_DEVICE_FD: u64 = request(6);
const DEVICE_GET_INFO: u64 = request(7);
const DEVICE_GET_REGION_INFO: u64 = request(8);
const DEVICE_GET_IRQ_INFO: u64 = request(9);
const DEVICE_SET_IRQS: u64 = request(10);
const DEVICE_RESET: u64 = request(11);
const IOMMU_MAP_DMA: u64 = request(13);
const DEVICE_IOEVENTFD: u64 = request(16);
const DEVICE_FEATURE: u64 = request(17);
const DEVICE_BIND_IOMMUFD: u64 = request(18);
const DEVICE_ATTACH_IOMMUFD_PT: u64 = request(19);
/// `_IO(';', 0x80 + n)`.
const IOAS_ALLOC: u64 = 0x3b << 8 | 0x81;
const IOAS_MAP: u64 = 0x3b << 8 | 0x85;

/// Those that are made of an open function, and not to open one.
pub(crate) const OF_OPEN_DEVICE: [u64; 6] = [
    DEVICE_GET_INFO,
    DEVICE_GET_REGION_INFO,
    DEVICE_GET_IRQ_INFO,
    DEVICE_SET_IRQS,
    DEVICE_RESET,
    DEVICE_IOEVENTFD,
];

const IOAS_MAP_FIXED_IOVA: u32 = 1;
const IOAS_MAP_WRITEABLE: u32 = 2;
const IOAS_MAP_READABLE: u32 = 4;

/// Bytes of a region description with its capabilities that are looked at.
const MAX_REGION_INFO: usize = 4096;
/// Mappable parts of a region that are looked at.
const MAX_AREAS: usize = 16;

#[repr(C)]
#[derive(Default)]
struct IoasAlloc {
    size: u32,
    flags: u32,
    out_ioas_id: u32,
}

#[repr(C)]
#[derive(Default)]
struct IoasMap {
    size: u32,
    flags: u32,
    ioas_id: u32,
    reserved: u32,
    user_va: u64,
    length: u64,
    iova: u64,
}

#[repr(C)]
struct TokenFeature {
    argsz: u32,
    flags: u32,
    uuid: [u8; 16],
}

#[repr(C)]
struct AttachPt {
    argsz: u32,
    flags: u32,
    pt_id: u32,
}

fn size_of32<T>() -> u32 {
    size_of::<T>() as u32
}

fn last(result: i32) -> Result<i32, Errno> {
    if result < 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    Ok(result)
}

/// A request whose argument is a struct.
///
/// # Safety
/// `argument` is valid for reads and writes of what the kernel accesses for `number`.
unsafe fn call<T>(fd: BorrowedFd<'_>, number: u64, argument: *mut T) -> Result<i32, Errno> {
    loop {
        // SAFETY: the caller's promise; the descriptor is open for the borrow's life.
        match last(unsafe { libc::ioctl(fd.as_raw_fd(), number as libc::Ioctl, argument) }) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// A request whose argument is a number.
fn call_number(fd: BorrowedFd<'_>, number: u64, argument: u64) -> Result<i32, Errno> {
    // SAFETY: the requests made with this take the number itself (or nothing); for any other kind
    // of file the kernel refuses them as unknown, as the numbers belong to VFIO.
    unsafe { call(fd, number, argument as usize as *mut u8) }
}

/// Version of the container interface.
pub(crate) fn api_version(container: BorrowedFd<'_>) -> Result<i32, Errno> {
    call_number(container, GET_API_VERSION, 0)
}

/// Whether the container knows the type-1 IOMMU of version 2.
pub(crate) fn has_type1v2(container: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(call_number(container, CHECK_EXTENSION, v::VFIO_TYPE1v2_IOMMU.into())? == 1)
}

/// Makes the container's groups use the type-1 IOMMU.
pub(crate) fn set_type1v2(container: BorrowedFd<'_>) -> Result<(), Errno> {
    call_number(container, SET_IOMMU, v::VFIO_TYPE1v2_IOMMU.into()).map(drop)
}

/// Whether all devices of a group are free for VFIO.
pub(crate) fn group_is_viable(group: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut status = v::vfio_group_status {
        argsz: size_of32::<v::vfio_group_status>(),
        flags: 0,
    };
    // SAFETY: the struct of this request.
    unsafe { call(group, GROUP_GET_STATUS, &raw mut status) }?;
    Ok(status.flags & v::VFIO_GROUP_FLAGS_VIABLE != 0)
}

/// Puts a group into a container.
pub(crate) fn set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut fd = container.as_raw_fd();
    // SAFETY: this request reads one int.
    unsafe { call(group, GROUP_SET_CONTAINER, &raw mut fd) }.map(drop)
}

/// Opens a device of a group. `name` is its address, and its VF token where one is shown.
pub(crate) fn device_fd(group: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    // SAFETY: this request reads a string that ends in 0 and writes nothing.
    let fd = unsafe { call(group, GROUP_GET_DEVICE_FD, name.as_ptr().cast_mut()) }?;
    // SAFETY: the kernel made this descriptor for this call (close-on-exec); nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets the devices of a container use `memory` at `iova`. The kernel pins the pages, so they stay
/// what they are even when `memory` is unmapped later.
pub(crate) fn map_dma(
    container: BorrowedFd<'_>,
    memory: &SharedMapping,
    iova: u64,
) -> Result<(), Errno> {
    let mut map = v::vfio_iommu_type1_dma_map {
        argsz: size_of32::<v::vfio_iommu_type1_dma_map>(),
        flags: v::VFIO_DMA_MAP_FLAG_READ | v::VFIO_DMA_MAP_FLAG_WRITE,
        vaddr: memory.address(),
        iova,
        size: memory.len() as u64,
    };
    // SAFETY: the struct of this request; `vaddr` and `size` are a live mapping that this process
    // accesses only by atomics, as memory that a device shares must be.
    unsafe { call(container, IOMMU_MAP_DMA, &raw mut map) }.map(drop)
}

/// Makes a device file usable with an iommufd. `token` is shown to kernels that ask for it here;
/// older ones do not know the flag and refuse it with EINVAL.
pub(crate) fn bind_iommufd(
    device: BorrowedFd<'_>,
    iommufd: BorrowedFd<'_>,
    token: Option<&[u8; 16]>,
) -> Result<(), Errno> {
    let full = size_of32::<v::vfio_device_bind_iommufd>();
    let mut bind = v::vfio_device_bind_iommufd {
        // Without a token, the struct as it was before there was one.
        argsz: if token.is_some() { full } else { 16 },
        flags: token.map_or(0, |_| v::VFIO_DEVICE_BIND_FLAG_TOKEN),
        iommufd: iommufd.as_raw_fd(),
        out_devid: 0,
        token_uuid_ptr: token.map_or(0, |t| t.as_ptr() as u64),
    };
    // SAFETY: the struct of this request; the pointer in it is to 16 bytes that live as long as
    // `token`, which the kernel reads.
    unsafe { call(device, DEVICE_BIND_IOMMUFD, &raw mut bind) }.map(drop)
}

/// Makes an I/O address space.
pub(crate) fn ioas_alloc(iommufd: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut alloc = IoasAlloc {
        size: size_of32::<IoasAlloc>(),
        ..IoasAlloc::default()
    };
    // SAFETY: the struct of this request.
    unsafe { call(iommufd, IOAS_ALLOC, &raw mut alloc) }?;
    Ok(alloc.out_ioas_id)
}

/// Lets a device use an I/O address space.
pub(crate) fn attach_ioas(device: BorrowedFd<'_>, ioas: u32) -> Result<(), Errno> {
    let mut attach = AttachPt {
        argsz: size_of32::<AttachPt>(),
        flags: 0,
        pt_id: ioas,
    };
    // SAFETY: the struct of this request.
    unsafe { call(device, DEVICE_ATTACH_IOMMUFD_PT, &raw mut attach) }.map(drop)
}

/// Like [`map_dma`], for an I/O address space.
pub(crate) fn ioas_map(
    iommufd: BorrowedFd<'_>,
    ioas: u32,
    memory: &SharedMapping,
    iova: u64,
) -> Result<(), Errno> {
    let mut map = IoasMap {
        size: size_of32::<IoasMap>(),
        flags: IOAS_MAP_FIXED_IOVA | IOAS_MAP_WRITEABLE | IOAS_MAP_READABLE,
        ioas_id: ioas,
        reserved: 0,
        user_va: memory.address(),
        length: memory.len() as u64,
        iova,
    };
    // SAFETY: as in `map_dma`.
    unsafe { call(iommufd, IOAS_MAP, &raw mut map) }.map(drop)
}

/// What a device is.
pub(crate) struct DeviceInfo {
    /// A PCI function.
    pub(crate) pci: bool,
    /// It can be reset.
    pub(crate) reset: bool,
    pub(crate) regions: u32,
    pub(crate) irqs: u32,
}

/// What a device is.
pub(crate) fn device_info(device: BorrowedFd<'_>) -> Result<DeviceInfo, Errno> {
    let mut info = v::vfio_device_info {
        argsz: size_of32::<v::vfio_device_info>(),
        ..Default::default()
    };
    // SAFETY: the struct of this request.
    unsafe { call(device, DEVICE_GET_INFO, &raw mut info) }?;
    Ok(DeviceInfo {
        pci: info.flags & v::VFIO_DEVICE_FLAGS_PCI != 0,
        reset: info.flags & v::VFIO_DEVICE_FLAGS_RESET != 0,
        regions: info.num_regions,
        irqs: info.num_irqs,
    })
}

/// A region of a device file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Region {
    /// Bytes; 0: there is none.
    pub(crate) size: u64,
    /// Where it starts in the file.
    pub(crate) offset: u64,
    /// The parts that can be mapped: offset in the region, and bytes.
    pub(crate) areas: Vec<(u64, u64)>,
}

/// Describes a region.
pub(crate) fn region(device: BorrowedFd<'_>, index: u32) -> Result<Region, Errno> {
    // Words, so that the struct in front is aligned.
    let mut buf = vec![0u64; MAX_REGION_INFO / 8];
    let head = buf.as_mut_ptr().cast::<v::vfio_region_info>();
    let info = v::vfio_region_info {
        argsz: MAX_REGION_INFO as u32,
        index,
        ..Default::default()
    };
    // SAFETY: the buffer is larger than the struct, aligned for it, and nothing else refers to it.
    unsafe { head.write(info) };
    // SAFETY: the kernel writes at most `argsz` bytes, which are the buffer.
    unsafe { call(device, DEVICE_GET_REGION_INFO, head) }?;
    // SAFETY: as for the write; all bit patterns are valid.
    let info = unsafe { head.read() };
    let bytes: Vec<u8> = buf.iter().flat_map(|w| w.to_ne_bytes()).collect();
    Ok(describe(&info, &bytes))
}

fn describe(info: &v::vfio_region_info, bytes: &[u8]) -> Region {
    let mut region = Region {
        size: info.size,
        offset: info.offset,
        areas: Vec::new(),
    };
    let access = v::VFIO_REGION_INFO_FLAG_READ | v::VFIO_REGION_INFO_FLAG_WRITE;
    if info.flags & v::VFIO_REGION_INFO_FLAG_MMAP == 0 || info.flags & access != access {
        return region;
    }
    let sparse = (info.flags & v::VFIO_REGION_INFO_FLAG_CAPS != 0)
        .then(|| sparse_areas(bytes, info.cap_offset))
        .flatten();
    region.areas = sparse.unwrap_or_else(|| vec![(0, info.size)]);
    region
        .areas
        .retain(|(at, len)| *len > 0 && at.checked_add(*len).is_some_and(|end| end <= info.size));
    region
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let b = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(b.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    let b = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_ne_bytes(b.try_into().ok()?))
}

/// The areas of a sparse mapping capability; `None` if there is none, which means everything.
fn sparse_areas(bytes: &[u8], first: u32) -> Option<Vec<(u64, u64)>> {
    let mut at = first as usize;
    // More capabilities than fit would be a loop.
    for _ in 0..bytes.len() / 8 {
        if at == 0 {
            return None;
        }
        let id = word(bytes, at)? & 0xffff;
        if id == v::VFIO_REGION_INFO_CAP_SPARSE_MMAP {
            let count = (word(bytes, at + 8)? as usize).min(MAX_AREAS);
            return Some(
                (0..count)
                    .map_while(|i| {
                        let entry = at + 16 + 16 * i;
                        Some((long(bytes, entry)?, long(bytes, entry + 8)?))
                    })
                    .collect(),
            );
        }
        at = word(bytes, at + 4)? as usize;
    }
    None
}

/// Interrupts of a kind that a device has, if they can be eventfds.
pub(crate) fn irq_count(device: BorrowedFd<'_>, index: u32) -> Result<u32, Errno> {
    let mut info = v::vfio_irq_info {
        argsz: size_of32::<v::vfio_irq_info>(),
        index,
        ..Default::default()
    };
    // SAFETY: the struct of this request.
    unsafe { call(device, DEVICE_GET_IRQ_INFO, &raw mut info) }?;
    let usable = info.flags & v::VFIO_IRQ_INFO_EVENTFD != 0;
    Ok(if usable { info.count } else { 0 })
}

/// Routes interrupts 0 and up of a kind to eventfds; with none, turns the kind off.
pub(crate) fn set_irqs(
    device: BorrowedFd<'_>,
    index: u32,
    events: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let data = if events.is_empty() {
        v::VFIO_IRQ_SET_DATA_NONE
    } else {
        v::VFIO_IRQ_SET_DATA_EVENTFD
    };
    let argsz = 20 + 4 * events.len() as u32;
    let mut words = vec![
        argsz,
        data | v::VFIO_IRQ_SET_ACTION_TRIGGER,
        index,
        0,
        events.len() as u32,
    ];
    words.extend(events.iter().map(|fd| fd.as_raw_fd() as u32));
    // SAFETY: the struct of this request is these five words and one int per eventfd; `argsz` is
    // the length of the vector.
    unsafe { call(device, DEVICE_SET_IRQS, words.as_mut_ptr()) }.map(drop)
}

/// Resets the function.
pub(crate) fn reset(device: BorrowedFd<'_>) -> Result<(), Errno> {
    call_number(device, DEVICE_RESET, 0).map(drop)
}

/// Sets the token that openers of the VFs of this PF must show.
pub(crate) fn set_vf_token(device: BorrowedFd<'_>, token: &[u8; 16]) -> Result<(), Errno> {
    let mut feature = TokenFeature {
        argsz: size_of32::<TokenFeature>(),
        flags: v::VFIO_DEVICE_FEATURE_SET | v::VFIO_DEVICE_FEATURE_PCI_VF_TOKEN,
        uuid: *token,
    };
    // SAFETY: the struct of this request: its header and the token.
    unsafe { call(device, DEVICE_FEATURE, &raw mut feature) }.map(drop)
}

/// Has the kernel write `value` (`bytes` wide) at `offset` of the device file whenever `event` is
/// signalled; with `None`, no longer.
pub(crate) fn ioeventfd(
    device: BorrowedFd<'_>,
    offset: u64,
    bytes: usize,
    value: u64,
    event: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let mut set = v::vfio_device_ioeventfd {
        argsz: size_of32::<v::vfio_device_ioeventfd>(),
        // One flag per width, and its number is the width.
        flags: bytes as u32 & v::VFIO_DEVICE_IOEVENTFD_SIZE_MASK,
        offset,
        data: value,
        fd: event.map_or(-1, |fd| fd.as_raw_fd()),
        reserved: 0,
    };
    // SAFETY: the struct of this request.
    unsafe { call(device, DEVICE_IOEVENTFD, &raw mut set) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn info(flags: u32, cap_offset: u32) -> v::vfio_region_info {
        v::vfio_region_info {
            flags,
            cap_offset,
            size: 0x4000,
            offset: 1 << 40,
            ..Default::default()
        }
    }

    const MAPPABLE: u32 = v::VFIO_REGION_INFO_FLAG_READ
        | v::VFIO_REGION_INFO_FLAG_WRITE
        | v::VFIO_REGION_INFO_FLAG_MMAP;

    #[test]
    fn regions_say_what_can_be_mapped() {
        assert_eq!(describe(&info(MAPPABLE, 0), &[]).areas, [(0, 0x4000)]);
        let read_only = v::VFIO_REGION_INFO_FLAG_READ | v::VFIO_REGION_INFO_FLAG_MMAP;
        assert!(describe(&info(read_only, 0), &[]).areas.is_empty());
        assert!(describe(&info(0, 0), &[]).areas.is_empty());

        // MSIX_MAPPABLE (3), then a sparse list of three areas, one of them outside.
        let mut bytes = vec![0u8; 256];
        bytes[32..40].copy_from_slice(&[3, 0, 1, 0, 48, 0, 0, 0]);
        bytes[48..64].copy_from_slice(&[1, 0, 1, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        for (i, (at, len)) in [(0u64, 0x1000u64), (0x2000, 0x2000), (0x3000, u64::MAX)]
            .into_iter()
            .enumerate()
        {
            bytes[64 + 16 * i..72 + 16 * i].copy_from_slice(&at.to_ne_bytes());
            bytes[72 + 16 * i..80 + 16 * i].copy_from_slice(&len.to_ne_bytes());
        }
        let flags = MAPPABLE | v::VFIO_REGION_INFO_FLAG_CAPS;
        let region = describe(&info(flags, 32), &bytes);
        assert_eq!(region.areas, [(0, 0x1000), (0x2000, 0x2000)]);
        // A list that leads into itself, and one that leaves the buffer.
        bytes[36] = 32;
        assert_eq!(describe(&info(flags, 32), &bytes).areas, [(0, 0x4000)]);
        assert_eq!(describe(&info(flags, 4000), &bytes).areas, [(0, 0x4000)]);
    }

    #[test]
    fn calls_on_other_files_are_refused() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let fd = file.as_fd();
        assert_eq!(api_version(fd).unwrap_err(), Errno::NOTTY);
        assert_eq!(region(fd, 0).unwrap_err(), Errno::NOTTY);
        assert_eq!(set_irqs(fd, 2, &[fd]).unwrap_err(), Errno::NOTTY);
        assert_eq!(device_fd(fd, c"0000:00:00.0").unwrap_err(), Errno::NOTTY);
        assert_eq!(
            bind_iommufd(fd, fd, Some(&[0; 16])).unwrap_err(),
            Errno::NOTTY
        );
        assert_eq!(ioas_alloc(fd).unwrap_err(), Errno::NOTTY);
    }
}
