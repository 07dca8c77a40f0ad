// SPDX-License-Identifier: GPL-2.0-or-later

//! Notifications that never leave the kernel: KVM matches the guest's write and signals an eventfd,
//! which VFIO turns into a store to the device.

use std::{
    ffi::c_int,
    io,
    mem::{self, ManuallyDrop},
};

use pci::memory;
use system::MemoryRegion;

use crate::{bindings, VfioPciBase};

/// Bytes of a notification.
const WIDTH: u32 = 2;

impl VfioPciBase {
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
/// with [`remove_all`](Self::remove_all); dropping it instead leaves it in force for ever, with its
/// memory.
#[must_use]
pub struct KernelDoorbell {
    /// QEMU's memory code keeps its address until `remove_all`.
    notifier: ManuallyDrop<Box<bindings::EventNotifier>>,
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
        let mut notifier = ManuallyDrop::new(Box::<bindings::EventNotifier>::default());
        // SAFETY: the notifier is a plain struct for the callee to fill.
        let made = unsafe { bindings::event_notifier_init(&mut **notifier, 0) };
        if made < 0 {
            return Err(io::Error::from_raw_os_error(made.saturating_neg()));
        }
        // SAFETY: the notifier was just made.
        let fd = unsafe { bindings::event_notifier_get_fd(&**notifier) };
        if let Err(e) = device.vfio_ioeventfd(bar, offset, value, fd) {
            // SAFETY: as above; nobody uses it.
            unsafe {
                bindings::event_notifier_cleanup(&mut **notifier);
            }
            drop(ManuallyDrop::into_inner(notifier));
            return Err(e);
        }
        // SAFETY: the region is alive and the lock is held; the notifier stays where it is until
        // remove_all() has taken it back.
        unsafe {
            bindings::memory_region_add_eventfd(
                region.as_mut_ptr(),
                port,
                WIDTH,
                true,
                value.into(),
                &mut **notifier,
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

    /// Undoes [`new`](Self::new) of all of these, with the same device and region, before the
    /// parent's exit; in one change of the machine's memory. Needs the big QEMU lock.
    ///
    /// # Safety
    ///
    /// No transaction of QEMU's memory code is open: the notifiers end when this returns, and an open
    /// transaction would still look at them.
    pub unsafe fn remove_all(doorbells: Vec<Self>, device: &VfioPciBase, region: &MemoryRegion) {
        assert!(bql::is_locked());
        let mut doorbells = doorbells;
        memory::transaction(|| {
            for doorbell in &mut doorbells {
                // SAFETY: the region is alive, the lock is held, and the values are those of new().
                unsafe {
                    bindings::memory_region_del_eventfd(
                        region.as_mut_ptr(),
                        doorbell.port,
                        WIDTH,
                        true,
                        doorbell.value.into(),
                        &mut **doorbell.notifier,
                    );
                }
            }
        });
        for mut doorbell in doorbells {
            // The kernel would do it at the end of the device file.
            let (bar, offset, value) = (doorbell.bar, doorbell.offset, doorbell.value);
            let _gone_already = device.vfio_ioeventfd(bar, offset, value, -1);
            // SAFETY: the change above is in force, so neither QEMU nor the kernel uses the notifier
            // any more.
            unsafe {
                bindings::event_notifier_cleanup(&mut **doorbell.notifier);
            }
            drop(ManuallyDrop::into_inner(doorbell.notifier));
        }
    }
}
