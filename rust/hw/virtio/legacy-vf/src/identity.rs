// SPDX-License-Identifier: GPL-2.0-or-later

//! What the VF's own configuration space says, and what the guest is shown instead.

use virtio_pci_spec::{
    bytes::{get_u16, get_u32, get_u8},
    config,
    ids::{DeviceType, VENDOR},
    legacy::bar0_size,
    modern::{cap, cfg_type},
    pci::{express, header, CAP_ID_EXPRESS, CAP_ID_VENDOR, EXT_CAP_ID_DSN, EXT_CAP_START},
};

/// Bytes that the legacy interface can address behind the header: its commands carry an 8-bit
/// offset.
const MAX_CONFIG_LEN: u16 = 256;

/// A virtio vendor capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioCap {
    /// Where it starts in the configuration space.
    pub at: u8,
    /// Its length there.
    pub len: u8,
    /// Which structure it locates.
    pub cfg_type: u8,
    /// BAR of the structure.
    pub bar: u8,
    /// Offset of the structure in the BAR.
    pub offset: u32,
    /// Bytes of the structure.
    pub length: u32,
}

/// A VF as its configuration space describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its type, one that has a transitional form.
    pub device: DeviceType,
    /// Bytes of device configuration that the legacy interface shows.
    pub config_len: u16,
    /// Device Serial Number, 0 if there is none.
    pub serial: u64,
    /// The virtio capabilities in the order of the list.
    pub caps: Vec<VirtioCap>,
    /// Start of the PCI Express capability.
    pub express: Option<u8>,
}

impl Identity {
    /// Reads the VF's configuration space as the hardware has it, 256 or 4096 bytes.
    ///
    /// The error says what is wrong with the VF, for a message that names it.
    pub fn read(space: &[u8]) -> Result<Self, String> {
        let vendor = get_u16(space, header::VENDOR_ID).unwrap_or(0xffff);
        let pci_id = get_u16(space, header::DEVICE_ID).unwrap_or(0xffff);
        if vendor != VENDOR {
            return Err(format!(
                "PCI ID {vendor:04x}:{pci_id:04x} is not a virtio device (vendor {VENDOR:04x})"
            ));
        }
        let device = DeviceType::from_pci_id(pci_id).ok_or_else(|| {
            let names: Vec<_> = DeviceType::ALL.iter().map(|t| t.name()).collect();
            format!(
                "PCI ID {vendor:04x}:{pci_id:04x} is a virtio device type without a transitional \
                 form; the types that legacy drivers know are {}",
                names.join(", ")
            )
        })?;
        let (caps, express) = capabilities(space);
        let full = config::full_len(device).min(MAX_CONFIG_LEN);
        let shown = caps.iter().find(|c| c.cfg_type == cfg_type::DEVICE);
        let config_len = match shown {
            // Hardware may round the length up to a page: no more than the type defines.
            Some(c) => u16::try_from(c.length).unwrap_or(u16::MAX).min(full),
            None if full == 0 => 0,
            None => {
                return Err(format!(
                    "the {} function has no device configuration capability, so the length of \
                     its legacy registers is not known",
                    device.name()
                ))
            }
        };
        Ok(Self {
            device,
            config_len,
            serial: serial_number(space),
            caps,
            express,
        })
    }

    /// Bytes of I/O BAR0.
    pub fn bar0_size(&self) -> u32 {
        bar0_size(u32::from(self.config_len))
    }
}

/// Walks the capability list; a list that loops or leaves the space ends there.
fn capabilities(space: &[u8]) -> (Vec<VirtioCap>, Option<u8>) {
    let mut caps = Vec::new();
    let mut express = None;
    let mut at = get_u8(space, header::CAPABILITY_LIST).unwrap_or(0) & !3;
    for _ in 0..48 {
        if at < 0x40 {
            break;
        }
        let start = usize::from(at);
        match get_u8(space, start) {
            Some(CAP_ID_EXPRESS) => express = express.or(Some(at)),
            Some(CAP_ID_VENDOR) => caps.extend(virtio_cap(space, at)),
            _ => {}
        }
        at = get_u8(space, start + 1).unwrap_or(0) & !3;
    }
    (caps, express)
}

fn virtio_cap(space: &[u8], at: u8) -> Option<VirtioCap> {
    let start = usize::from(at);
    let len = get_u8(space, start + cap::CAP_LEN)?;
    Some(VirtioCap {
        at,
        len: len.max(cap::LEN).min(u8::MAX - at),
        cfg_type: get_u8(space, start + cap::CFG_TYPE)?,
        bar: get_u8(space, start + cap::BAR)?,
        offset: get_u32(space, start + cap::OFFSET)?,
        length: get_u32(space, start + cap::LENGTH)?,
    })
}

/// The Device Serial Number extended capability, 0 if there is none.
fn serial_number(space: &[u8]) -> u64 {
    let mut at = EXT_CAP_START;
    for _ in 0..(4096 - EXT_CAP_START) / 8 {
        let Some(head) = get_u32(space, at) else {
            return 0;
        };
        if head & 0xffff == u32::from(EXT_CAP_ID_DSN) {
            let low = get_u32(space, at + 4).unwrap_or(0);
            let high = get_u32(space, at + 8).unwrap_or(0);
            return u64::from(high) << 32 | u64::from(low);
        }
        at = (head >> 20) as usize & !3;
        if at < EXT_CAP_START {
            return 0;
        }
    }
    0
}

/// Whether a configuration write of `len` bytes starts a function level reset.
pub fn starts_flr(express_cap: u8, address: u32, value: u32, len: u8) -> bool {
    let control = u32::from(express_cap) + express::DEVCTL as u32;
    let high = control + 1;
    if address > high || address + u32::from(len) <= high {
        return false;
    }
    let byte = (value >> (8 * (high - address))) as u8;
    byte & (express::DEVCTL_FLR >> 8) as u8 != 0
}
