// SPDX-License-Identifier: GPL-2.0-or-later
//! The capability lists in configuration space, written once when a function is made.

use virtio_modern_spec::bytes::{put_u16, put_u32};
use virtio_modern_spec::common;
use virtio_modern_spec::sriov;
use virtio_pci_spec::modern::{cap, cfg_type};
use virtio_pci_spec::pci::{self, express, header, msix, power};

use crate::bars::{
    BarLayout, COMMON_OFFSET, ISR_LEN, ISR_OFFSET, MODERN_BAR, MSIX_BAR, NOTIFY_OFFSET,
};
use crate::config::VFS_ON_OWN_BUS;

/// Configuration space of a PCI Express function.
pub const CONFIG_SPACE_LEN: usize = 4096;
const EXPRESS_LEN: u8 = 0x3c;
const EXPRESS_VERSION: u16 = 2;
const POWER_VERSION: u16 = 3;
/// Link 1 lane wide at 2.5 GT/s, as every virtual function shows.
const LINK: u32 = 0x11;
/// 4 KiB up to 4 MiB pages, as the SR-IOV capability codes them.
const PAGE_SIZES: u32 = 0x553;

/// Bytes of a configuration space and which bits of them the driver may write.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
    pub(crate) mask: Vec<u8>,
    next_free: usize,
    /// Where the "next" pointer of the last capability is.
    link: usize,
    last_extended: Option<usize>,
}

/// Where the capabilities with behaviour ended up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CapOffsets {
    pub(crate) express: usize,
    pub(crate) msix: usize,
    pub(crate) pci_cfg: usize,
    pub(crate) sriov: Option<usize>,
    pub(crate) power: Option<usize>,
    /// First and one-past-last byte of the virtio capabilities.
    pub(crate) virtio: (usize, usize),
}

impl Image {
    pub(crate) fn new() -> Self {
        Image {
            bytes: vec![0; CONFIG_SPACE_LEN],
            mask: vec![0; CONFIG_SPACE_LEN],
            next_free: 0x40,
            link: header::CAPABILITY_LIST,
            last_extended: None,
        }
    }

    pub(crate) fn set8(&mut self, at: usize, value: u8) {
        if let Some(b) = self.bytes.get_mut(at) {
            *b = value;
        }
    }

    pub(crate) fn set16(&mut self, at: usize, value: u16) {
        let _fits = put_u16(&mut self.bytes, at, value);
    }

    pub(crate) fn set32(&mut self, at: usize, value: u32) {
        let _fits = put_u32(&mut self.bytes, at, value);
    }

    pub(crate) fn writable16(&mut self, at: usize, bits: u16) {
        let _fits = put_u16(&mut self.mask, at, bits);
    }

    pub(crate) fn writable32(&mut self, at: usize, bits: u32) {
        let _fits = put_u32(&mut self.mask, at, bits);
    }

    /// A 32-bit memory BAR register of `size` bytes (a power of two); 0: hardwired to 0.
    pub(crate) fn memory_bar(&mut self, at: usize, size: u64) {
        if let Ok(size) = u32::try_from(size) {
            if size != 0 {
                self.writable32(at, !(size - 1));
            }
        }
    }

    /// Appends a capability of `len` bytes; gives its offset.
    fn add(&mut self, id: u8, len: u8) -> usize {
        let at = self.next_free;
        self.next_free += usize::from(len).next_multiple_of(4);
        self.set8(self.link, at as u8);
        self.link = at + 1;
        self.set8(at, id);
        at
    }

    fn add_extended(&mut self, at: usize, id: u16, version: u16) {
        self.set16(at, id);
        self.set16(at + 2, version);
        if let Some(previous) = self.last_extended {
            let v = self.bytes.get(previous + 2).copied().unwrap_or(0);
            self.set16(previous + 2, u16::from(v & 0xf) | (at as u16) << 4);
        }
        self.last_extended = Some(at);
    }

    fn add_virtio(&mut self, kind: u8, bar: u8, offset: u64, length: u64) -> usize {
        let len = match kind {
            cfg_type::NOTIFY | cfg_type::PCI => cap::LEN_EXTENDED,
            _ => cap::LEN,
        };
        let at = self.add(pci::CAP_ID_VENDOR, len);
        self.set8(at + cap::CAP_LEN, len);
        self.set8(at + cap::CFG_TYPE, kind);
        self.set8(at + cap::BAR, bar);
        // BARs of the model are far below 4 GiB.
        self.set32(at + cap::OFFSET, offset as u32);
        self.set32(at + cap::LENGTH, length as u32);
        at
    }

    fn add_express(&mut self) -> usize {
        let at = self.add(pci::CAP_ID_EXPRESS, EXPRESS_LEN);
        // Device type 0: PCI Express endpoint.
        self.set16(at + express::FLAGS, EXPRESS_VERSION);
        // Role-based error reporting, function level reset.
        self.set32(at + express::DEVCAP, 1 << 15 | express::DEVCAP_FLR);
        self.writable16(at + express::DEVCTL, 0x7fff);
        self.set32(at + 0xc, LINK);
        self.set16(at + 0x12, LINK as u16);
        at
    }

    fn add_msix(&mut self, vectors: u16) -> usize {
        let at = self.add(pci::CAP_ID_MSIX, msix::LEN as u8);
        self.set16(at + msix::CONTROL, vectors.saturating_sub(1));
        self.writable16(
            at + msix::CONTROL,
            msix::CONTROL_ENABLE | msix::CONTROL_MASK_ALL,
        );
        self.set32(at + msix::TABLE, u32::from(MSIX_BAR));
        let pba = crate::msix::pba_offset(vectors) as u32;
        self.set32(at + msix::PBA, pba | u32::from(MSIX_BAR));
        at
    }

    /// All conventional capabilities.
    pub(crate) fn add_all(
        &mut self,
        vectors: u16,
        bars: &BarLayout,
        multiplier: u32,
        bogus: bool,
    ) -> CapOffsets {
        self.set16(header::STATUS, pci::STATUS_CAP_LIST);
        let start = self.next_free;
        if bogus {
            // A reserved type, and a BAR number that no function has; both far too long.
            self.add_virtio(0x77, MODERN_BAR, 0, 16 << 20);
            self.add_virtio(cfg_type::COMMON, 6, 0x10, 16 << 20);
        }
        self.add_virtio(cfg_type::COMMON, MODERN_BAR, COMMON_OFFSET, common::LEN);
        let notify = self.add_virtio(cfg_type::NOTIFY, MODERN_BAR, NOTIFY_OFFSET, bars.notify_len);
        self.set32(notify + cap::NOTIFY_MULTIPLIER, multiplier);
        self.add_virtio(cfg_type::ISR, MODERN_BAR, ISR_OFFSET, ISR_LEN);
        if bars.device_len != 0 {
            self.add_virtio(
                cfg_type::DEVICE,
                MODERN_BAR,
                bars.device_offset,
                bars.device_len,
            );
        }
        let pci_cfg = self.add_virtio(cfg_type::PCI, 0, 0, 0);
        let end = self.next_free;
        if let Some(m) = self.mask.get_mut(pci_cfg + cap::BAR) {
            *m = 0xff;
        }
        self.writable32(pci_cfg + cap::OFFSET, u32::MAX);
        self.writable32(pci_cfg + cap::LENGTH, u32::MAX);
        let msix = self.add_msix(vectors);
        let express = self.add_express();
        CapOffsets {
            express,
            msix,
            pci_cfg,
            sriov: None,
            power: None,
            virtio: (start, end),
        }
    }

    /// A power management capability without D1, D2 and PME.
    pub(crate) fn add_power(&mut self, soft_reset: bool) -> usize {
        let at = self.add(pci::CAP_ID_POWER, power::LEN as u8);
        self.set16(at + power::CAPABILITIES, POWER_VERSION);
        if !soft_reset {
            self.set16(at + power::CONTROL, power::CONTROL_NO_SOFT_RESET);
        }
        self.writable16(at + power::CONTROL, power::CONTROL_STATE_MASK);
        at
    }

    /// The Device Serial Number capability, always first.
    pub(crate) fn add_serial(&mut self, serial: u64) {
        let at = pci::EXT_CAP_START;
        self.add_extended(at, pci::EXT_CAP_ID_DSN, 1);
        self.set32(at + 4, serial as u32);
        self.set32(at + 8, (serial >> 32) as u32);
    }

    /// The SR-IOV capability for VFs with these BARs.
    pub(crate) fn add_sriov(&mut self, total: u16, vf_device: u16, vf_bars: &BarLayout) -> usize {
        let at = pci::EXT_CAP_START + 0x40;
        self.add_extended(at, pci::EXT_CAP_ID_SRIOV, 1);
        self.set16(at + sriov::INITIAL_VFS, total);
        self.set16(at + sriov::TOTAL_VFS, total);
        self.writable16(at + sriov::NUM_VFS, u16::MAX);
        // Without ARI a bus of its own has eight functions; those behind it have 256 each.
        let first = if total > VFS_ON_OWN_BUS { 256 } else { 1 };
        self.set16(at + sriov::VF_OFFSET, first);
        self.set16(at + sriov::VF_STRIDE, 1);
        self.set16(at + sriov::VF_DEVICE_ID, vf_device);
        self.set32(at + sriov::SUPPORTED_PAGE_SIZE, PAGE_SIZES);
        self.set32(at + sriov::SYSTEM_PAGE_SIZE, 1);
        self.writable32(at + sriov::SYSTEM_PAGE_SIZE, PAGE_SIZES);
        self.writable16(
            at + sriov::CONTROL,
            sriov::CONTROL_VF_ENABLE | sriov::CONTROL_VF_MSE | sriov::CONTROL_ARI,
        );
        for (i, size) in vf_bars.sizes.iter().enumerate() {
            self.memory_bar(at + sriov::VF_BAR0 + 4 * i, *size);
        }
        at
    }

    /// VF Enable and NumVFs of a capability that a front end shows at `at`: storage that is in no
    /// list, for what the front end passes on.
    pub(crate) fn add_unlisted_sriov(&mut self, at: usize) -> usize {
        self.writable16(at + sriov::NUM_VFS, u16::MAX);
        self.writable16(
            at + sriov::CONTROL,
            sriov::CONTROL_VF_ENABLE | sriov::CONTROL_VF_MSE,
        );
        at
    }
}
