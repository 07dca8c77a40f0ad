// SPDX-License-Identifier: GPL-2.0-or-later
//! What a driver needs of a PCI function, whoever provides it.
//!
//! The trait is cut so that both transports fit behind it. vfio-user: messages on a socket. The
//! kernel's VFIO (group and container, or cdev and iommufd): `pread`/`pwrite` on region offsets for
//! configuration space and BARs, `VFIO_DEVICE_SET_IRQS` with the eventfds of
//! [`PciFunction::enable_irqs`], one `MAP_DMA` of the pool behind [`PciFunction::dma_alloc`],
//! `VFIO_DEVICE_IOEVENTFD` for [`PciFunction::doorbell`], sysfs for the SR-IOV calls, and the
//! request and error interrupts as [`FunctionEvent`]s.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use crate::dma::{DmaPool, DmaRegion, PoolStats};
use crate::error::{Cause, Error};
use crate::irq::IrqEvent;

/// Whether a register write may still be under way when the call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posted {
    /// It may; an error shows up later, as the end of the function. For doorbells.
    Yes,
    /// The write took effect, or the error is returned.
    No,
}

/// Width of a register access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// One byte.
    B1,
    /// Two bytes.
    B2,
    /// Four bytes.
    B4,
}

impl Width {
    /// Bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Width::B1 => 1,
            Width::B2 => 2,
            Width::B4 => 4,
        }
    }
}

/// An implemented BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarInfo {
    /// Bytes.
    pub size: u64,
}

impl BarInfo {
    /// A BAR of `size` bytes, 0 if it is not implemented.
    pub(crate) fn of(size: u64) -> Result<Self, Cause> {
        match size {
            0 => Err(Cause::NoSuchBar),
            size => Ok(BarInfo { size }),
        }
    }

    /// Whether a register of this width may be accessed at `offset` of a BAR of `size` bytes: the
    /// BAR is there, and the register inside and aligned.
    pub(crate) fn check(size: u64, offset: u64, width: Width) -> Result<(), Cause> {
        let BarInfo { size } = BarInfo::of(size)?;
        let len = width.bytes() as u64;
        let inside = offset.checked_add(len).is_some_and(|end| end <= size);
        if !inside {
            return Err(Cause::OutOfRange { size });
        }
        if offset % len != 0 {
            return Err(Cause::Unaligned);
        }
        Ok(())
    }
}

/// Whether `len` bytes at `offset` are inside a configuration space of `size` bytes.
pub(crate) fn check_config(size: u64, offset: u16, len: usize) -> Result<(), Cause> {
    if u64::from(offset) + len as u64 > size {
        return Err(Cause::OutOfRange { size });
    }
    Ok(())
}

/// Whether the vectors 0 to `n` - 1 are some of `vectors`, and at least one.
pub(crate) fn check_vectors(vectors: u32, n: u32) -> Result<(), Cause> {
    if n == 0 || n > vectors {
        let size = u64::from(vectors);
        return Err(Cause::OutOfRange { size });
    }
    Ok(())
}

/// What the addresses that a device is given mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DmaAddressing {
    /// The IOMMU translates them: a device that insists on physical addresses cannot work.
    Iommu,
    /// Whoever performs the DMA was told what they mean; nothing is required of the device.
    Mapped,
}

/// The state of the SR-IOV capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SriovStatus {
    /// VFs that can be enabled (the smaller of InitialVFs and TotalVFs).
    pub total_vfs: u16,
    /// NumVFs.
    pub num_vfs: u16,
    /// VF Enable.
    pub enabled: bool,
    /// VF Memory Space Enable.
    pub memory_enabled: bool,
    /// Device ID of the VFs.
    pub vf_device_id: u16,
}

impl SriovStatus {
    /// VFs that exist now.
    pub fn live_vfs(&self) -> u16 {
        if self.enabled {
            self.num_vfs
        } else {
            0
        }
    }
}

/// What is known of a BAR of the VFs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VfBar {
    /// Not implemented, or the upper half of a 64-bit BAR.
    Absent,
    /// Implemented; its size in bytes.
    Size(u64),
    /// Cannot be told now: registers of VF BARs may be sized only while VF Enable is clear.
    Unknown,
}

/// Something that happened to the function outside of any call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionEvent {
    /// The host wants the function back (kernel VFIO: device request interrupt).
    RemovalRequested,
    /// The bus reported an error (kernel VFIO: error interrupt).
    BusError,
    /// The value of a register that was asked for with [`PciFunction::bar_read_later`].
    Register(u32),
}

/// A write that somebody else performs each time an eventfd is signalled.
#[derive(Debug)]
pub struct Doorbell {
    event: IrqEvent,
}

impl Doorbell {
    /// A doorbell behind `event`.
    pub fn new(event: IrqEvent) -> Self {
        Doorbell { event }
    }

    /// Performs the write.
    pub fn ring(&self) -> Result<(), Error> {
        self.event.signal()
    }
}

/// A PCI function under the control of this process.
///
/// Every call ends within the deadlines that the function was opened with. After a fatal error
/// ([`Error::is_fatal`]) every further call fails at once, for ever. Reads never leave stale bytes:
/// a buffer is filled, or zeroed and an error returned.
pub trait PciFunction: Send {
    /// PCI address or socket path, for messages.
    fn id(&self) -> &str;

    /// Bytes of configuration space: 256 or 4096.
    fn config_size(&self) -> Result<u16, Error>;
    /// Reads configuration space.
    fn config_read(&self, offset: u16, buf: &mut [u8]) -> Result<(), Error>;
    /// Writes configuration space.
    fn config_write(&self, offset: u16, data: &[u8]) -> Result<(), Error>;

    /// The BAR (0 to 5); [`Cause::NoSuchBar`] if it is not implemented or the upper half of a 64-bit
    /// one.
    fn bar(&self, bar: u8) -> Result<BarInfo, Error>;
    /// Reads a little-endian register at an aligned offset, in one access of that width.
    fn bar_read(&self, bar: u8, offset: u64, width: Width) -> Result<u32, Error>;
    /// Reads a register like [`PciFunction::bar_read`], but never waits for it: with `None`, the value
    /// comes later, as [`FunctionEvent::Register`] from [`PciFunction::service`]. One such read is under
    /// way at a time, and whoever asks meanwhile gets that one. The caller decides for how long.
    fn bar_read_later(&self, bar: u8, offset: u64, width: Width) -> Result<Option<u32>, Error> {
        self.bar_read(bar, offset, width).map(Some)
    }
    /// From now on no call waits beyond `until`, with `None` for as long as the function was opened
    /// with. A peer that is too slow then is lost, as it is after the usual time.
    fn hurry(&self, until: Option<Instant>) {
        let _unused = until;
    }
    /// Writes a little-endian register at an aligned offset, in one access of that width.
    fn bar_write(
        &self,
        bar: u8,
        offset: u64,
        width: Width,
        value: u32,
        posted: Posted,
    ) -> Result<(), Error>;
    /// An eventfd that has the effect of the given posted write; `None` where there is no such
    /// service. The caller then uses [`PciFunction::bar_write`].
    fn doorbell(
        &mut self,
        bar: u8,
        offset: u64,
        width: Width,
        value: u32,
    ) -> Result<Option<Doorbell>, Error> {
        let _unused = (bar, offset, width, value);
        Ok(None)
    }

    /// MSI-X vectors of the function (0 to 2048).
    fn irq_count(&self) -> Result<u32, Error>;
    /// Routes vectors 0 to `n` - 1 to new eventfds and enables MSI-X. Vectors enabled before are
    /// replaced.
    fn enable_irqs(&mut self, n: u32) -> Result<Vec<IrqEvent>, Error>;
    /// Disables MSI-X.
    fn disable_irqs(&mut self) -> Result<(), Error>;

    /// The memory that the device can reach.
    fn dma_pool(&self) -> &DmaPool;
    /// A zeroed region of it, which the device has at [`DmaRegion::iova`].
    fn dma_alloc(&mut self, len: usize) -> Result<DmaRegion, Error> {
        self.dma_pool().alloc(len)
    }
    /// State of the memory behind [`PciFunction::dma_alloc`].
    fn dma_stats(&self) -> PoolStats {
        self.dma_pool().stats()
    }
    /// What the device must be able to do with IOVAs.
    fn dma_addressing(&self) -> DmaAddressing;

    /// Resets the function as a whole (FLR or its like). On a PF this ends all its VFs.
    fn function_reset(&mut self) -> Result<(), Error>;

    /// State of SR-IOV; [`Cause::NoCapability`] if the function is not a PF.
    fn sriov_status(&self) -> Result<SriovStatus, Error>;
    /// The BARs of the VFs.
    fn vf_bars(&mut self) -> Result<[VfBar; 6], Error>;
    /// Enables exactly `n` VFs; an error if VFs are enabled already.
    fn enable_vfs(&mut self, n: u16) -> Result<(), Error>;
    /// Disables all VFs.
    fn disable_vfs(&mut self) -> Result<(), Error>;
    /// Sets the token that openers of a VF must show. `false` where there is no such thing.
    fn set_vf_token(&mut self, token: &[u8; 16]) -> Result<bool, Error> {
        let _unused = token;
        Ok(false)
    }

    /// File descriptors that become readable when [`PciFunction::service`] has something to do.
    fn event_fds(&self) -> Vec<BorrowedFd<'_>>;
    /// Handles what one of [`PciFunction::event_fds`] announced: the end of the peer is an error,
    /// everything else an event.
    fn service(&mut self) -> Result<Vec<FunctionEvent>, Error>;
}
