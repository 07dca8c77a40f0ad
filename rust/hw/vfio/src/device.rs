// SPDX-License-Identifier: GPL-2.0-or-later

//! `VFIOPCIDevice` and its two concrete types.

use std::{
    ffi::{c_char, CStr},
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use common::Opaque;
use hwcore::DeviceState;
use pci::PciDevice;
use qom::prelude::*;
use system::MemoryRegion;

use crate::bindings;

/// Region number of the configuration space.
pub const CONFIG_REGION: u8 = bindings::VFIO_PCI_CONFIG_REGION_INDEX as u8;

macro_rules! wrapper {
    ($(#[$doc:meta])* $name:ident, $c:ident, $type_name:literal, $($parent:ty),*) => {
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(common::Wrapper)]
        pub struct $name(Opaque<bindings::$c>);

        // SAFETY: the wrapper only hands out raw pointers; methods that dereference one state
        // which lock they need and assert it, or read what does not change after realize.
        unsafe impl Send for $name {}
        // SAFETY: as above.
        unsafe impl Sync for $name {}

        // SAFETY: name and class struct are those of QEMU's TypeInfo, and the C struct starts with
        // its parent.
        unsafe impl ObjectType for $name {
            type Class = pci::bindings::PCIDeviceClass;
            const TYPE_NAME: &'static CStr = $type_name;
        }

        qom_isa!($name: $($parent),*);
    };
}

wrapper!(
    /// What both VFIO PCI devices share (abstract in QEMU).
    VfioPciBase, VFIOPCIDevice, c"vfio-pci-device", PciDevice, DeviceState, Object
);
wrapper!(
    /// A device of the host, through the kernel's VFIO.
    VfioPci, VFIOPCIDevice, c"vfio-pci", VfioPciBase, PciDevice, DeviceState, Object
);
wrapper!(
    /// A device emulated by another process, through the vfio-user protocol.
    VfioUserPci, VFIOUserPCIDevice, c"vfio-user-pci", VfioPciBase, PciDevice, DeviceState, Object
);

/// What a subclass may do with its VFIO device, between a successful realize of the parent and the
/// end of the device, unless stated otherwise.
impl VfioPciBase {
    /// How VFIO calls the device in messages: PCI address or socket path.
    pub fn vfio_name(&self) -> String {
        assert!(bql::is_locked());
        let vdev = self.0.as_mut_ptr();
        // SAFETY: the device is alive and the lock is held; the name is NULL or NUL-terminated.
        let name = unsafe { text((*vdev).vbasedev.name) };
        name.unwrap_or_else(|| "unnamed".to_owned())
    }

    /// Reads exactly `buf.len()` bytes (at most a page) of a region. Any thread, with or without
    /// the big QEMU lock; blocks as long as the kernel or the vfio-user server takes, which QEMU
    /// bounds by `x-msg-timeout` for the latter.
    pub fn region_read(&self, region: u8, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let (len, offset) = request(buf.len(), offset)?;
        let (device, read) = self.operation(|ops| ops.region_read)?;
        // SAFETY: both implementations lock what they share, and write at most `len` bytes to
        // `buf`.
        let got = unsafe { read(device, region, offset, len, buf.as_mut_ptr().cast()) };
        result(got, len)
    }

    /// Writes exactly `data.len()` bytes (at most a page) of a region. A posted write may return
    /// before it is done; later accesses of the same device still come after it. Threads and
    /// blocking as for [`region_read`](Self::region_read), except that a posted write does not
    /// wait for an answer.
    pub fn region_write(
        &self,
        region: u8,
        offset: u64,
        data: &[u8],
        posted: bool,
    ) -> io::Result<()> {
        let (len, offset) = request(data.len(), offset)?;
        let (device, write) = self.operation(|ops| ops.region_write)?;
        let data = data.as_ptr().cast_mut().cast();
        // SAFETY: as in region_read(); the data is only read, whatever the C prototype says.
        let done = unsafe { write(device, region, offset, len, data, posted) };
        result(done, len)
    }

    /// One of the operations that the two kinds of devices carry out each in its own way, and what
    /// to call it with.
    pub(crate) fn operation<F>(
        &self,
        which: impl FnOnce(&bindings::VFIODeviceIOOps) -> Option<F>,
    ) -> io::Result<(*mut bindings::VFIODevice, F)> {
        let vdev = self.0.as_mut_ptr();
        // SAFETY: io_ops is set before the parent's realize succeeds and never changes.
        let (device, ops) = unsafe {
            let device = &raw mut (*vdev).vbasedev;
            (device, (*device).io_ops.as_ref())
        };
        let operation = ops.and_then(which).ok_or(io::ErrorKind::Unsupported)?;
        Ok((device, operation))
    }

    /// Bytes of the device's configuration space that VFIO gives access to.
    pub fn config_region_size(&self) -> usize {
        let vdev = self.0.as_mut_ptr();
        // SAFETY: the device is alive, and the size does not change after the parent's realize.
        unsafe { (*vdev).config_size as usize }
    }

    /// Bytes of a BAR (0 to 5) of the VFIO device itself; 0 if it has none.
    pub fn bar_size(&self, bar: u8) -> u64 {
        let vdev = self.0.as_mut_ptr();
        // SAFETY: the device is alive, and BAR sizes do not change after the parent's realize.
        let bars = unsafe { &(*vdev).bars };
        bars.get(usize::from(bar))
            .map_or(0, |b| b.region.size as u64)
    }

    /// Whether a reset of the device through VFIO really resets the function.
    pub fn reset_works(&self) -> bool {
        let vdev = self.0.as_mut_ptr();
        // SAFETY: the device is alive, and the flag does not change after the parent's realize.
        unsafe { (*vdev).vbasedev.reset_works }
    }

    /// Makes QEMU answer the masked bits of a configuration byte from its own image instead of
    /// asking the device, with this value, not writable by the guest unless in `writable`. Writes
    /// still reach the device as well. Needs the big QEMU lock.
    pub fn emulate_config_byte(&self, offset: usize, value: u8, mask: u8, writable: u8) {
        assert!(bql::is_locked());
        let mut old = [0u8];
        let pci = self.upcast::<PciDevice>();
        pci.config_image(offset, &mut old);
        pci.set_config_byte(offset, (old[0] & !mask) | (value & mask), writable);
        self.emulate_config_bits(offset, mask);
    }

    /// Makes QEMU answer the masked bits of a configuration byte from its own image. Needs the
    /// big QEMU lock.
    pub fn emulate_config_bits(&self, offset: usize, mask: u8) {
        assert!(bql::is_locked());
        let vdev = self.0.as_mut_ptr();
        // SAFETY: the device is alive and the lock is held; the array has config_size bytes once
        // it exists.
        unsafe {
            let bits = (*vdev).emulated_config_bits;
            if !bits.is_null() && offset < (*vdev).config_size as usize {
                *bits.add(offset) |= mask;
            }
        }
    }

    /// Tells VFIO which IDs the guest sees, so that a ROM is adjusted to them. Needs the big QEMU
    /// lock.
    pub fn set_shown_ids(&self, device: u16, subsystem_vendor: u16, subsystem: u16) {
        assert!(bql::is_locked());
        let vdev = self.0.as_mut_ptr();
        // SAFETY: the device is alive and the lock is held.
        unsafe {
            (*vdev).device_id = u32::from(device);
            (*vdev).sub_vendor_id = u32::from(subsystem_vendor);
            (*vdev).sub_device_id = u32::from(subsystem);
        }
    }

    /// The PCI address the user asked for with `host=`, as in /sys/bus/pci/devices; known before
    /// realize. Needs the big QEMU lock.
    pub fn host_address(&self) -> Option<String> {
        assert!(bql::is_locked());
        let vdev = self.0.as_mut_ptr();
        // SAFETY: the device is alive and the lock is held.
        let host = unsafe { (*vdev).host };
        let parts = [host.domain, host.bus, host.slot, host.function];
        if parts.contains(&u32::MAX) {
            return None;
        }
        Some(format!(
            "{:04x}:{:02x}:{:02x}.{:x}",
            host.domain, host.bus, host.slot, host.function
        ))
    }

    /// The path the user gave with `sysfsdev=`, or the one that the parent made of `host=`. Needs
    /// the big QEMU lock.
    pub fn sysfs_path(&self) -> Option<String> {
        assert!(bql::is_locked());
        let vdev = self.0.as_mut_ptr();
        // SAFETY: the device is alive and the lock is held; the path is NULL or NUL-terminated.
        unsafe { text((*vdev).vbasedev.sysfsdev) }
    }

    /// A copy of the device file: what the user gave with `fd=`, or what the parent's realize
    /// opened. `None` if there is none, as with vfio-user. Needs the big QEMU lock.
    pub fn device_file(&self) -> io::Result<Option<OwnedFd>> {
        assert!(bql::is_locked());
        let vdev = self.0.as_mut_ptr();
        // SAFETY: the device is alive and the lock is held.
        let fd = unsafe { (*vdev).vbasedev.fd };
        if fd < 0 {
            return Ok(None);
        }
        // SAFETY: VFIO keeps the file open while the device lives, so also during this call.
        unsafe { BorrowedFd::borrow_raw(fd) }
            .try_clone_to_owned()
            .map(Some)
    }

    /// Whether a VF token is set, by `vf-token=` or [`set_vf_token`](Self::set_vf_token). Needs
    /// the big QEMU lock.
    pub fn has_vf_token(&self) -> bool {
        assert!(bql::is_locked());
        let vdev = self.0.as_mut_ptr();
        // SAFETY: the device is alive and the lock is held; every bit pattern is a UUID.
        unsafe { (*vdev).vf_token.__bindgen_anon_1.data != [0; 16] }
    }

    /// Sets the token with which the parent's realize opens the VF; all zeroes for none. In the
    /// byte order of a UUID's text. Needs the big QEMU lock.
    pub fn set_vf_token(&self, uuid: [u8; 16]) {
        assert!(bql::is_locked());
        let vdev = self.0.as_mut_ptr();
        // SAFETY: the device is alive and the lock is held.
        unsafe { (*vdev).vf_token.__bindgen_anon_1.data = uuid }
    }

    /// Puts `region` over part of a BAR, above the device's registers and its MSI-X table. Needs the
    /// big QEMU lock.
    ///
    /// # Safety
    ///
    /// The region is part of this device and covers nothing yet; it is taken off with
    /// [`uncover_bar`](Self::uncover_bar) before the parent's exit.
    pub unsafe fn cover_bar(&self, bar: u8, offset: u64, region: &MemoryRegion) -> bool {
        assert!(bql::is_locked());
        let Some(container) = self.bar_container(bar) else {
            return false;
        };
        // SAFETY: see above; both regions are alive and the lock is held.
        unsafe {
            pci::bindings::memory_region_add_subregion_overlap(
                container,
                offset,
                region.as_mut_ptr(),
                2,
            );
        }
        true
    }

    /// Takes `region` off the BAR again. Needs the big QEMU lock.
    ///
    /// # Safety
    ///
    /// [`cover_bar`](Self::cover_bar) has put it there.
    pub unsafe fn uncover_bar(&self, bar: u8, region: &MemoryRegion) {
        assert!(bql::is_locked());
        if let Some(container) = self.bar_container(bar) {
            // SAFETY: see above; both regions are alive and the lock is held.
            unsafe {
                pci::bindings::memory_region_del_subregion(container, region.as_mut_ptr());
            }
        }
    }

    fn bar_container(&self, bar: u8) -> Option<*mut system::bindings::MemoryRegion> {
        let vdev = self.0.as_mut_ptr();
        // SAFETY: the device is alive; the pointers do not change between the parent's realize and
        // the device's end.
        let bars = unsafe { &(*vdev).bars };
        let mr = bars.get(usize::from(bar))?.mr;
        (!mr.is_null()).then_some(mr)
    }
}

/// # Safety
///
/// `text` is NULL or NUL-terminated.
unsafe fn text(text: *const c_char) -> Option<String> {
    // SAFETY: see above.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text).to_string_lossy().into_owned() })
}

/// Checks what the C side takes as 32-bit length and signed offset.
fn request(len: usize, offset: u64) -> io::Result<(u32, bindings::off_t)> {
    let too_big = || io::Error::from(io::ErrorKind::InvalidInput);
    let page = u32::try_from(len).ok().filter(|len| *len <= 4096);
    let offset = offset.try_into().map_err(|_| too_big())?;
    Ok((page.ok_or_else(too_big)?, offset))
}

/// Turns "bytes done or -errno" into a result; fewer bytes than asked for are an error.
fn result(done: i32, len: u32) -> io::Result<()> {
    match u32::try_from(done) {
        Err(_) => Err(io::Error::from_raw_os_error(done.saturating_neg())),
        Ok(done) if done == len => Ok(()),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
