// SPDX-License-Identifier: GPL-2.0-or-later

//! Notifications of a device driven through the kernel: a store to its mapped registers, and an
//! eventfd that the kernel turns into the store.

use std::{
    ffi::c_int,
    io, mem,
    sync::atomic::{fence, Ordering},
};

use system::MemoryRegion;

use crate::{bindings, VfioPciBase};

/// Bytes of a notification.
const WIDTH: u32 = 2;

impl VfioPciBase {
    /// Parts of a BAR (0 to 5) that QEMU has mapped, as offset and length in bytes. They do not
    /// change between the parent's realize and the device's end.
    pub fn mapped_parts(&self, bar: u8) -> Vec<(u64, u64)> {
        self.mmaps(bar)
            .iter()
            .filter(|m| !m.mmap.is_null())
            .filter_map(|m| Some((u64::try_from(m.offset).ok()?, m.size as u64)))
            .collect()
    }

    /// Stores `value`, little-endian, at an even `offset` of a BAR's mapping. False: nothing is
    /// mapped there, and nothing was done. Any thread, from the parent's realize to its exit.
    ///
    /// The kernel takes the pages away while the function does not answer, and a store then waits,
    /// or, if the function sleeps (D3), is an error that ends the program: the caller must not get
    /// here before the function is awake.
    pub fn store_u16(&self, bar: u8, offset: u64, value: u16) -> bool {
        let Some(end) = offset.checked_add(WIDTH.into()) else {
            return false;
        };
        for part in self.mmaps(bar) {
            let Ok(start) = u64::try_from(part.offset) else {
                continue;
            };
            if offset < start || end - start > part.size as u64 || part.mmap.is_null() {
                continue;
            }
            let Ok(distance) = usize::try_from(offset - start) else {
                continue;
            };
            let target = part.mmap.cast::<u8>().wrapping_add(distance).cast::<u16>();
            if !target.is_aligned() {
                continue;
            }
            // What the guest has written must be there before the device hears of it.
            fence(Ordering::SeqCst);
            // SAFETY: the two bytes are inside a mapping that VFIO made for reading and writing
            // and that lives as long as the device, which `self` is; they are aligned. Nothing in
            // this program holds a reference to device memory.
            unsafe {
                target.write_volatile(value.to_le());
            }
            return true;
        }
        false
    }

    fn mmaps(&self, bar: u8) -> &[bindings::VFIOMmap] {
        let vdev = self.as_mut_ptr();
        // SAFETY: the device is alive; the array is made in the parent's realize and freed when
        // the device is finalized, and nobody changes its entries in between. Before realize it
        // has no entry.
        unsafe {
            let Some(bar) = (*vdev).bars.get(usize::from(bar)) else {
                return &[];
            };
            if bar.region.mmaps.is_null() {
                return &[];
            }
            std::slice::from_raw_parts(bar.region.mmaps, bar.region.nr_mmaps as usize)
        }
    }

    /// Whether [`KernelDoorbell`] may be tried: KVM runs the guest, the device is the kernel's, and
    /// the user did not forbid it (`x-no-kvm-ioeventfd`, `x-no-vfio-ioeventfd`).
    pub fn kernel_doorbells_allowed(&self) -> bool {
        let vdev = self.as_mut_ptr();
        // SAFETY: the device is alive; properties do not change after realize, and neither does
        // the accelerator.
        unsafe {
            bindings::kvm_allowed
                && !(*vdev).no_kvm_ioeventfd
                && !(*vdev).no_vfio_ioeventfd
                && (*vdev).vbasedev.fd >= 0
                && (*vdev).vbasedev.proxy.is_null()
        }
    }

    fn vfio_ioeventfd(&self, bar: u8, offset: u64, value: u16, fd: c_int) -> io::Result<()> {
        let vdev = self.as_mut_ptr();
        // SAFETY: the device is alive, and what is read does not change after the parent's
        // realize.
        let (device, base) = unsafe {
            let bars = &(*vdev).bars;
            let Some(bar) = bars.get(usize::from(bar)) else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            ((*vdev).vbasedev.fd, bar.region.fd_offset as u64)
        };
        let request = bindings::vfio_device_ioeventfd {
            argsz: mem::size_of::<bindings::vfio_device_ioeventfd>() as u32,
            flags: WIDTH,
            offset: base + offset,
            data: value.into(),
            fd,
            ..Default::default()
        };
        let number = libc::c_ulong::from(bindings::RUST_VFIO_DEVICE_IOEVENTFD);
        // SAFETY: the kernel reads `request`, which says its own size, and nothing else.
        if unsafe { libc::ioctl(device, number, &request) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// A guest's write that KVM turns into a store to the device, without leaving the kernel. Ends
/// with [`remove`](Self::remove); dropping it instead leaves it in force for ever.
#[must_use]
pub struct KernelDoorbell {
    /// QEMU's memory code keeps its address.
    notifier: Box<bindings::EventNotifier>,
    port: u64,
    value: u16,
    bar: u8,
    offset: u64,
}

// SAFETY: nothing in it belongs to a thread; it is only used with the big QEMU lock held.
unsafe impl Send for KernelDoorbell {}

impl KernelDoorbell {
    /// From now on a guest's two-byte write of `value` to `port`, an offset in `region`, is a store
    /// of `value` to `offset` of the device's BAR. Needs the big QEMU lock and
    /// [`VfioPciBase::kernel_doorbells_allowed`]. Fails where the kernel cannot do it; nothing has
    /// changed then.
    pub fn new(
        device: &VfioPciBase,
        region: &MemoryRegion,
        port: u64,
        value: u16,
        bar: u8,
        offset: u64,
    ) -> io::Result<Self> {
        assert!(bql::is_locked());
        let mut notifier = Box::<bindings::EventNotifier>::default();
        // SAFETY: the notifier is a plain struct for the callee to fill.
        let made = unsafe { bindings::event_notifier_init(&mut *notifier, 0) };
        if made < 0 {
            return Err(io::Error::from_raw_os_error(made.saturating_neg()));
        }
        // SAFETY: the notifier was just made.
        let fd = unsafe { bindings::event_notifier_get_fd(&*notifier) };
        if let Err(e) = device.vfio_ioeventfd(bar, offset, value, fd) {
            // SAFETY: as above; nobody uses it.
            unsafe {
                bindings::event_notifier_cleanup(&mut *notifier);
            }
            return Err(e);
        }
        // SAFETY: the region is alive and the lock is held; the notifier stays where it is until
        // remove() has taken it back.
        unsafe {
            bindings::memory_region_add_eventfd(
                region.as_mut_ptr(),
                port,
                WIDTH,
                true,
                value.into(),
                &mut *notifier,
            );
        }
        Ok(Self {
            notifier,
            port,
            value,
            bar,
            offset,
        })
    }

    /// The value that is stored.
    pub const fn value(&self) -> u16 {
        self.value
    }

    /// Undoes [`new`](Self::new), with the same device and region, before the parent's exit. Needs
    /// the big QEMU lock.
    pub fn remove(mut self, device: &VfioPciBase, region: &MemoryRegion) {
        assert!(bql::is_locked());
        // SAFETY: the region is alive, the lock is held, and the values are those of new().
        unsafe {
            bindings::memory_region_del_eventfd(
                region.as_mut_ptr(),
                self.port,
                WIDTH,
                true,
                self.value.into(),
                &mut *self.notifier,
            );
        }
        // The kernel would do it at the end of the device file.
        let _gone_already = device.vfio_ioeventfd(self.bar, self.offset, self.value, -1);
        // SAFETY: neither QEMU nor the kernel uses the notifier any more.
        unsafe {
            bindings::event_notifier_cleanup(&mut *self.notifier);
        }
    }
}
