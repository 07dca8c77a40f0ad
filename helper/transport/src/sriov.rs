// SPDX-License-Identifier: GPL-2.0-or-later
//! SR-IOV through the capability in configuration space, for transports where nobody else owns it.

use std::cell::Cell;
use std::sync::Arc;

use virtio_modern_spec::sriov;
use virtio_pci_spec::bytes::{get_u16, get_u32};
use virtio_pci_spec::pci;

use crate::capability::ConfigImage;
use crate::error::{Cause, Error, Place};
use crate::function::{PciFunction, SriovStatus, VfBar};

/// Bit 0 of a BAR register: I/O space.
const BAR_IO: u32 = 1;
/// Bits 2..1 of a memory BAR register: 64 bits wide.
const BAR_TYPE_MASK: u32 = 6;
const BAR_TYPE_64: u32 = 4;
/// 4 KiB in Supported and System Page Size.
const PAGE_SIZE_4K: u32 = 1;

/// The SR-IOV capability of a function, driven through its configuration space.
#[derive(Clone, Debug, Default)]
pub struct ConfigSriov {
    /// Sizes found while VF Enable was clear; they cannot change.
    bars: Cell<Option<[VfBar; 6]>>,
}

struct Registers<'a> {
    function: &'a dyn PciFunction,
    base: u16,
    image: Vec<u8>,
}

impl<'a> Registers<'a> {
    fn find(function: &'a dyn PciFunction) -> Result<Self, Error> {
        let image = ConfigImage::read(function)?;
        let base = image
            .extended(pci::EXT_CAP_ID_SRIOV)
            .filter(|base| image.tail(*base).len() >= sriov::LEN)
            .ok_or_else(|| error(function, Cause::NoCapability("SR-IOV")))?;
        let image = image.tail(base).iter().copied().take(sriov::LEN).collect();
        Ok(Registers {
            function,
            base,
            image,
        })
    }

    fn at(&self, offset: usize) -> u16 {
        self.base + offset as u16
    }

    fn u16(&self, offset: usize) -> u16 {
        get_u16(&self.image, offset).unwrap_or(0)
    }

    fn read_u16(&self, offset: usize) -> Result<u16, Error> {
        let mut b = [0; 2];
        self.function.config_read(self.at(offset), &mut b)?;
        Ok(u16::from_le_bytes(b))
    }

    fn read_u32(&self, offset: usize) -> Result<u32, Error> {
        let mut b = [0; 4];
        self.function.config_read(self.at(offset), &mut b)?;
        Ok(u32::from_le_bytes(b))
    }

    fn write_u16(&self, offset: usize, value: u16) -> Result<(), Error> {
        self.function
            .config_write(self.at(offset), &value.to_le_bytes())
    }

    fn write_u32(&self, offset: usize, value: u32) -> Result<(), Error> {
        self.function
            .config_write(self.at(offset), &value.to_le_bytes())
    }

    fn enabled(&self) -> Result<bool, Error> {
        Ok(self.read_u16(sriov::CONTROL)? & sriov::CONTROL_VF_ENABLE != 0)
    }
}

fn error(function: &dyn PciFunction, cause: Cause) -> Error {
    Error::new(Arc::<str>::from(function.id()), Place::Sriov, cause)
}

impl ConfigSriov {
    /// Nothing known yet.
    pub fn new() -> Self {
        ConfigSriov::default()
    }

    /// Reads the capability.
    pub fn status(&self, function: &dyn PciFunction) -> Result<SriovStatus, Error> {
        let r = Registers::find(function)?;
        let control = r.u16(sriov::CONTROL);
        Ok(SriovStatus {
            total_vfs: r.u16(sriov::TOTAL_VFS).min(r.u16(sriov::INITIAL_VFS)),
            num_vfs: r.u16(sriov::NUM_VFS),
            enabled: control & sriov::CONTROL_VF_ENABLE != 0,
            memory_enabled: control & sriov::CONTROL_VF_MSE != 0,
            vf_device_id: r.u16(sriov::VF_DEVICE_ID),
        })
    }

    /// The BARs of the VFs. Their sizes are found by writing ones, which is only allowed while VF
    /// Enable is clear: ask before enabling VFs, the answer is kept.
    pub fn vf_bars(&self, function: &dyn PciFunction) -> Result<[VfBar; 6], Error> {
        if let Some(bars) = self.bars.get() {
            return Ok(bars);
        }
        let r = Registers::find(function)?;
        if r.enabled()? {
            // A base address of 0 in a 32-bit non-prefetchable BAR looks like no BAR at all, so
            // nothing at all can be said.
            return Ok([VfBar::Unknown; 6]);
        }
        let mut bars = [VfBar::Absent; 6];
        let mut i = 0;
        while let Some(bar) = bars.get_mut(i) {
            let at = sriov::VF_BAR0 + 4 * i;
            let (size, wide) = size_bar(&r, at, i)?;
            if size != 0 {
                *bar = VfBar::Size(size);
            }
            i += if wide { 2 } else { 1 };
        }
        self.bars.set(Some(bars));
        Ok(bars)
    }

    /// Enables `n` VFs with their memory space.
    pub fn enable(&self, function: &dyn PciFunction, n: u16) -> Result<(), Error> {
        let r = Registers::find(function)?;
        let total = r.u16(sriov::TOTAL_VFS).min(r.u16(sriov::INITIAL_VFS));
        if r.enabled()? {
            return Err(error(
                function,
                Cause::State(format!("{} VFs are enabled already", r.u16(sriov::NUM_VFS))),
            ));
        }
        if n == 0 || n > total {
            return Err(error(
                function,
                Cause::State(format!("{n} VFs wanted, the function has 1 to {total}")),
            ));
        }
        // Now is the last chance to learn the sizes.
        self.vf_bars(function)?;
        if get_u32(&r.image, sriov::SUPPORTED_PAGE_SIZE).unwrap_or(0) & PAGE_SIZE_4K != 0 {
            r.write_u32(sriov::SYSTEM_PAGE_SIZE, PAGE_SIZE_4K)?;
        }
        r.write_u16(sriov::NUM_VFS, n)?;
        let took = r.read_u16(sriov::NUM_VFS)?;
        if took != n {
            return Err(error(
                function,
                Cause::Misbehaved(format!("NumVFs reads {took} after {n} was written")),
            ));
        }
        let control = r.read_u16(sriov::CONTROL)?;
        let on = sriov::CONTROL_VF_ENABLE | sriov::CONTROL_VF_MSE;
        r.write_u16(sriov::CONTROL, control | on)?;
        let now = r.read_u16(sriov::CONTROL)?;
        if now & on != on {
            return Err(error(
                function,
                Cause::Misbehaved(format!("VF Enable and VF MSE do not stay set ({now:#x})")),
            ));
        }
        Ok(())
    }

    /// Disables all VFs.
    pub fn disable(&self, function: &dyn PciFunction) -> Result<(), Error> {
        let r = Registers::find(function)?;
        let control = r.read_u16(sriov::CONTROL)?;
        r.write_u16(
            sriov::CONTROL,
            control & !(sriov::CONTROL_VF_ENABLE | sriov::CONTROL_VF_MSE),
        )?;
        if r.enabled()? {
            return Err(error(
                function,
                Cause::Misbehaved("VF Enable stays set".into()),
            ));
        }
        r.write_u16(sriov::NUM_VFS, 0)
    }
}

/// Size in bytes (0: not implemented) of the VF BAR at `at`, and whether it takes two registers.
fn size_bar(r: &Registers<'_>, at: usize, index: usize) -> Result<(u64, bool), Error> {
    let low = r.read_u32(at)?;
    if low & BAR_IO != 0 {
        // VFs have no I/O space; a function that says otherwise is not to be trusted with it.
        return Ok((0, false));
    }
    let wide = low & BAR_TYPE_MASK == BAR_TYPE_64 && index < 5;
    r.write_u32(at, u32::MAX)?;
    let low_mask = r.read_u32(at)?;
    r.write_u32(at, low)?;
    let mut mask = u64::from(low_mask & !0xf) | 0xffff_ffff_0000_0000;
    if wide {
        let high = r.read_u32(at + 4)?;
        r.write_u32(at + 4, u32::MAX)?;
        let high_mask = r.read_u32(at + 4)?;
        r.write_u32(at + 4, high)?;
        mask = u64::from(high_mask) << 32 | u64::from(low_mask & !0xf);
    } else if low_mask & !0xf == 0 {
        mask = 0;
    }
    let size = mask & mask.wrapping_neg();
    Ok((size, wide))
}
