// SPDX-License-Identifier: GPL-2.0-or-later
//! The configuration space of one function: 4096 bytes, a mask of writable bits, and what the
//! written bits mean. Functions of one kind share what nobody has written to.

use std::sync::Arc;

use virtio_modern_spec::bytes::put_u16;
use virtio_modern_spec::sriov;
use virtio_pci_spec::bytes::{get_u16, get_u32};
use virtio_pci_spec::ids;
use virtio_pci_spec::modern::cap;
use virtio_pci_spec::pci::{self, express, header, msix, power};
use virtio_pci_spec::DeviceType;

use crate::bars::BarLayout;
use crate::capabilities::{CapOffsets, Image, CONFIG_SPACE_LEN};
use crate::config::FRONT_END_SRIOV;

/// Revision ID of PF and VFs: a non-transitional device has 1 or more.
pub const REVISION: u8 = 1;

/// What a write may have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    pub(crate) command: bool,
    pub(crate) msix: bool,
    pub(crate) function_reset: bool,
    pub(crate) window_data: bool,
    pub(crate) sriov: bool,
    /// The function has left D3hot.
    pub(crate) woken: bool,
    /// A write into virtio capabilities other than the access window, at this offset.
    pub(crate) virtio_capability: Option<u16>,
}

/// The access window of the PCI configuration access capability, as the driver set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) bar: u8,
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

/// What a configuration space is made from.
pub(crate) struct Identity {
    pub(crate) device_type: DeviceType,
    pub(crate) device_id: u16,
    pub(crate) serial: u64,
    pub(crate) vectors: u16,
    pub(crate) multiplier: u32,
    pub(crate) bogus: bool,
    pub(crate) interrupt_pin: bool,
    pub(crate) power: Option<Power>,
}

/// What leaving D3hot means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Power {
    pub(crate) soft_reset: bool,
}

/// The SR-IOV capability of a PF.
pub(crate) enum SriovNeeds<'a> {
    /// The PF shows it.
    Own {
        total: u16,
        vf_device: u16,
        vf_bars: &'a BarLayout,
    },
    /// A front end does, and passes on what is written there.
    FrontEnd,
}

/// What a configuration space is after a reset, and what of it can be written.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    initial: Vec<u8>,
    mask: Vec<u8>,
    caps: CapOffsets,
}

#[derive(Debug)]
pub(crate) struct ConfigSpace {
    layout: Arc<Layout>,
    /// Its own bytes from the first write after a reset on.
    written: Option<Box<[u8]>>,
}

impl ConfigSpace {
    pub(crate) fn new(id: &Identity, bars: &BarLayout, sriov: Option<&SriovNeeds<'_>>) -> Self {
        let mut i = Image::new();
        i.set16(header::VENDOR_ID, ids::VENDOR);
        i.set16(header::DEVICE_ID, id.device_id);
        i.set8(header::REVISION_ID, REVISION);
        i.set16(
            header::CLASS_DEVICE,
            virtio_modern_spec::class::pci_class(id.device_type),
        );
        i.set16(header::SUBSYSTEM_VENDOR_ID, ids::VENDOR);
        i.set16(header::SUBSYSTEM_ID, id.device_type.modern_pci_id());
        i.set8(header::INTERRUPT_PIN, u8::from(id.interrupt_pin));
        i.writable16(
            header::COMMAND,
            pci::COMMAND_MEMORY | pci::COMMAND_MASTER | pci::COMMAND_INTX_DISABLE | 0x140,
        );
        // Cache line size and interrupt line: storage without effect.
        i.writable16(0x0c, 0xff);
        i.writable16(header::INTERRUPT_LINE, 0xff);
        for (n, size) in bars.sizes.iter().enumerate() {
            i.memory_bar(header::BAR0 + 4 * n, *size);
        }
        let mut caps = i.add_all(id.vectors, bars, id.multiplier, id.bogus);
        caps.power = id.power.map(|p| i.add_power(p.soft_reset));
        i.add_serial(id.serial);
        caps.sriov = sriov.map(|needs| match needs {
            SriovNeeds::Own {
                total,
                vf_device,
                vf_bars,
            } => i.add_sriov(*total, *vf_device, vf_bars),
            SriovNeeds::FrontEnd => i.add_unlisted_sriov(FRONT_END_SRIOV.into()),
        });
        ConfigSpace {
            layout: Arc::new(Layout {
                initial: i.bytes,
                mask: i.mask,
                caps,
            }),
            written: None,
        }
    }

    /// Takes the initial bytes of `other`, if they are the same.
    pub(crate) fn share(&mut self, other: &Self) {
        if self.layout == other.layout {
            self.layout = Arc::clone(&other.layout);
        }
    }

    fn caps(&self) -> &CapOffsets {
        &self.layout.caps
    }

    /// Bytes that are this function's alone.
    pub(crate) fn private_bytes(&self) -> usize {
        self.written.as_deref().map_or(0, <[u8]>::len)
    }

    fn bytes(&self) -> &[u8] {
        self.written.as_deref().unwrap_or(&self.layout.initial)
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.written
            .get_or_insert_with(|| self.layout.initial.as_slice().into())
    }

    /// Function level reset: every writable bit back to its initial value.
    pub(crate) fn reset(&mut self) {
        self.written = None;
    }

    /// As [`reset`](Self::reset), but the SR-IOV capability keeps its state.
    pub(crate) fn reset_keeping_vfs(&mut self) {
        let kept = self
            .caps()
            .sriov
            .and_then(|at| self.bytes().get(at..at + sriov::LEN).map(<[u8]>::to_vec));
        self.reset();
        if let (Some(at), Some(kept)) = (self.caps().sriov, kept) {
            if let Some(dst) = self.bytes_mut().get_mut(at..at + sriov::LEN) {
                dst.copy_from_slice(&kept);
            }
        }
    }

    fn word(&self, at: usize) -> u16 {
        get_u16(self.bytes(), at).unwrap_or(0)
    }

    fn dword(&self, at: usize) -> u32 {
        get_u32(self.bytes(), at).unwrap_or(0)
    }

    fn command(&self) -> u16 {
        self.word(header::COMMAND)
    }

    pub(crate) fn bus_master(&self) -> bool {
        self.command() & pci::COMMAND_MASTER != 0 && self.is_awake()
    }

    /// In D0, or without power management.
    pub(crate) fn is_awake(&self) -> bool {
        self.power_state() == 0
    }

    fn power_state(&self) -> u16 {
        self.caps().power.map_or(0, |at| {
            self.word(at + power::CONTROL) & power::CONTROL_STATE_MASK
        })
    }

    /// Leaving D3hot resets the function.
    pub(crate) fn soft_reset(&self) -> bool {
        self.caps()
            .power
            .is_some_and(|at| self.word(at + power::CONTROL) & power::CONTROL_NO_SOFT_RESET == 0)
    }

    pub(crate) fn memory_space(&self) -> bool {
        self.command() & pci::COMMAND_MEMORY != 0
    }

    pub(crate) fn intx_disabled(&self) -> bool {
        self.command() & pci::COMMAND_INTX_DISABLE != 0
    }

    /// Interrupt Status of the PCI Status register.
    pub(crate) fn set_interrupt_status(&mut self, pending: bool) {
        let before = self.word(header::STATUS);
        let bit = if pending { pci::STATUS_INTERRUPT } else { 0 };
        let now = before & !pci::STATUS_INTERRUPT | bit;
        if now != before {
            let _fits = put_u16(self.bytes_mut(), header::STATUS, now);
        }
    }

    /// MSI-X Enable and Function Mask.
    pub(crate) fn msix_control(&self) -> (bool, bool) {
        let c = self.word(self.caps().msix + msix::CONTROL);
        (
            c & msix::CONTROL_ENABLE != 0,
            c & msix::CONTROL_MASK_ALL != 0,
        )
    }

    pub(crate) fn window(&self) -> Window {
        let at = self.caps().pci_cfg;
        Window {
            bar: self.bytes().get(at + cap::BAR).copied().unwrap_or(0xff),
            offset: self.dword(at + cap::OFFSET),
            length: self.dword(at + cap::LENGTH),
        }
    }

    /// Configuration offset of pci_cfg_data.
    pub(crate) fn window_data_offset(&self) -> usize {
        self.caps().pci_cfg + cap::PCI_CFG_DATA
    }

    /// Whether a read of `len` bytes at `offset` reads pci_cfg_data.
    pub(crate) fn reads_window(&self, offset: usize, len: usize) -> bool {
        let at = self.window_data_offset();
        offset <= at && at < offset.saturating_add(len)
    }

    /// (SR-IOV control, NumVFs), if there is such a capability.
    pub(crate) fn sriov(&self) -> Option<(u16, u16)> {
        let at = self.caps().sriov?;
        Some((
            self.word(at + sriov::CONTROL),
            self.word(at + sriov::NUM_VFS),
        ))
    }

    pub(crate) fn set_sriov(&mut self, control: u16, num_vfs: u16) {
        if let Some(at) = self.caps().sriov {
            let bytes = self.bytes_mut();
            let _fits = put_u16(bytes, at + sriov::CONTROL, control)
                && put_u16(bytes, at + sriov::NUM_VFS, num_vfs);
        }
    }

    /// Copies from `offset`; bytes behind the end read as ones.
    pub(crate) fn read(&self, offset: usize, buf: &mut [u8]) {
        let from = self.bytes().get(offset..).unwrap_or(&[]);
        let n = buf.len().min(from.len());
        let (head, tail) = buf.split_at_mut(n);
        head.copy_from_slice(from.split_at(n).0);
        tail.fill(0xff);
    }

    /// Stores the writable bits of `data`; what lies behind the end is ignored.
    pub(crate) fn write(&mut self, offset: usize, data: &[u8]) -> Touched {
        let slept = self.power_state();
        let layout = Arc::clone(&self.layout);
        let bytes = self.bytes_mut();
        for (i, d) in data.iter().enumerate() {
            let at = offset.saturating_add(i);
            if let (Some(b), Some(m)) = (bytes.get_mut(at), layout.mask.get(at)) {
                *b = (*b & !m) | (d & m);
            }
        }
        if let (Some(at), 1 | 2) = (self.caps().power, self.power_state()) {
            // There is no D1 and no D2: the write has no effect.
            let control = self.word(at + power::CONTROL) & !power::CONTROL_STATE_MASK;
            let _fits = put_u16(self.bytes_mut(), at + power::CONTROL, control | slept);
        }
        let end = offset.saturating_add(data.len()).min(CONFIG_SPACE_LEN);
        let hit = |at: usize, len: usize| offset < at + len && at < end;
        let reset_byte = self.caps().express + express::DEVCTL + 1;
        let flr = (express::DEVCTL_FLR >> 8) as u8;
        let window = self.caps().pci_cfg;
        let (vstart, vend) = self.caps().virtio;
        Touched {
            command: hit(header::COMMAND, 2),
            msix: hit(self.caps().msix + msix::CONTROL, 2),
            function_reset: hit(reset_byte, 1)
                && data
                    .get(reset_byte - offset.min(reset_byte))
                    .is_some_and(|b| b & flr != 0),
            window_data: hit(self.window_data_offset(), 4),
            woken: slept != 0 && self.power_state() == 0,
            sriov: self
                .caps()
                .sriov
                .is_some_and(|at| hit(at + sriov::CONTROL, 2) || hit(at + sriov::NUM_VFS, 2)),
            virtio_capability: (hit(vstart, vend - vstart)
                && !(offset >= window && end <= window + usize::from(cap::LEN_EXTENDED)))
            .then_some(offset as u16),
        }
    }
}
