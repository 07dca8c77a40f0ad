// SPDX-License-Identifier: GPL-2.0-or-later

//! What the VF's own configuration space says, and what writes to it do.

use virtio_pci_spec::{
    bytes::{get_u16, get_u32, get_u64, get_u8},
    config,
    ids::{DeviceType, VENDOR},
    modern::{cap, cfg_type},
    pci::{
        af, express, header, msix, power, CAP_ID_AF, CAP_ID_EXPRESS, CAP_ID_MSIX, CAP_ID_POWER,
        CAP_ID_VENDOR, EXT_CAP_ID_DSN, EXT_CAP_START,
    },
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
pub struct Function {
    /// Its type, one that has a transitional form.
    pub device: DeviceType,
    /// Bytes of device configuration that the legacy interface shows.
    pub config_len: u16,
    /// Device Serial Number, 0 if there is none.
    pub serial: u64,
    /// The virtio capabilities in the order of the list.
    pub caps: Vec<VirtioCap>,
    /// Where a function level reset is started, byte and bit: in the PCI Express and in the Advanced
    /// Features capability.
    pub flr: Vec<(u32, u8)>,
    /// Start of the power management capability.
    pub power: Option<u8>,
    /// Start of the MSI-X capability.
    pub msix: Option<u8>,
}

impl Function {
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
        let list = walk(space);
        let of_kind = |id| {
            let found = list.iter().map(|(at, _)| *at);
            found.filter(move |at| get_u8(space, usize::from(*at)) == Some(id))
        };
        // For a capability that says so in one byte, the byte and the bit that start a reset.
        let resets = |id, (byte, bit): (usize, u8), control: (usize, u8)| {
            let mut found = of_kind(id).map(usize::from);
            let at = found.find(|at| get_u8(space, at + byte).is_some_and(|b| b & bit != 0));
            at.map(|at| ((at + control.0) as u32, control.1))
        };
        let express = resets(
            CAP_ID_EXPRESS,
            (express::DEVCAP + 3, (express::DEVCAP_FLR >> 24) as u8),
            (express::DEVCTL + 1, (express::DEVCTL_FLR >> 8) as u8),
        );
        let af = resets(
            CAP_ID_AF,
            (af::CAPABILITIES, af::CAPABILITIES_FLR),
            (af::CONTROL, af::CONTROL_FLR),
        );
        let caps: Vec<_> = of_kind(CAP_ID_VENDOR)
            .filter_map(|at| virtio_cap(space, at))
            .collect();
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
            flr: express.into_iter().chain(af).collect(),
            power: of_kind(CAP_ID_POWER).next(),
            msix: of_kind(CAP_ID_MSIX).next(),
        })
    }
}

/// The capabilities of `space` in the order of the list: where each is, and where the byte is that
/// points to it. A list that loops or leaves the space ends there.
pub fn walk(space: &[u8]) -> Vec<(u8, u8)> {
    let mut found = Vec::new();
    let mut link = header::CAPABILITY_LIST as u8;
    while found.len() < 48 {
        let at = get_u8(space, link.into()).unwrap_or(0) & !3;
        if at < 0x40 {
            break;
        }
        found.push((at, link));
        link = at + 1;
    }
    found
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
            return get_u64(space, at + 4).unwrap_or(0);
        }
        at = (head >> 20) as usize & !3;
        if at < EXT_CAP_START {
            return 0;
        }
    }
    0
}

/// Where the power management capability has its control and status register.
pub const fn power_control(power_cap: u8) -> u32 {
    power_cap as u32 + power::CONTROL as u32
}

/// Whether the value of that register means that the function sleeps.
pub const fn sleeps(control: u32) -> bool {
    control & power::CONTROL_STATE_MASK as u32 != 0
}

/// The byte that a configuration write of `len` bytes stores at `at`, if it covers it.
pub fn byte_written(at: u32, address: u32, value: u32, len: u8) -> Option<u8> {
    let byte = at.checked_sub(address).filter(|b| *b < u32::from(len))?;
    Some((value.checked_shr(8 * byte)? & 0xff) as u8)
}

impl Function {
    /// Whether a configuration write starts a function level reset.
    pub fn starts_flr(&self, address: u32, value: u32, len: u8) -> bool {
        self.flr.iter().any(|(at, bit)| {
            byte_written(*at, address, value, len).is_some_and(|written| written & bit != 0)
        })
    }

    /// Whether a configuration write wakes a function up whose power control reads `control`, and
    /// the function is as new then.
    pub fn wakes_as_new(&self, control: u32, address: u32, value: u32, len: u8) -> bool {
        sleeps(control)
            && control & u32::from(power::CONTROL_NO_SOFT_RESET) == 0
            && self
                .power
                .and_then(|cap| byte_written(power_control(cap), address, value, len))
                .is_some_and(|byte| !sleeps(byte.into()))
    }

    /// What a configuration write says about MSI-X Enable, if it covers the bit.
    pub fn sets_msix(&self, address: u32, value: u32, len: u8) -> Option<bool> {
        let high = u32::from(self.msix?) + msix::CONTROL as u32 + 1;
        let byte = byte_written(high, address, value, len)?;
        Some(byte & (msix::CONTROL_ENABLE >> 8) as u8 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A net VF with an Express and an MSI-X capability and four virtio capabilities.
    fn net_vf() -> Vec<u8> {
        let mut space = vec![0; 4096];
        space[0..4].copy_from_slice(&[0xf4, 0x1a, 0x41, 0x10]);
        space[0x34] = 0x40;
        space[0x40..0x42].copy_from_slice(&[CAP_ID_EXPRESS, 0x80]);
        space[0x44..0x48].copy_from_slice(&express::DEVCAP_FLR.to_le_bytes());
        space[0x80..0x82].copy_from_slice(&[0x11, 0x90]);
        for (i, cfg_type) in [1, 2, 3, 4].into_iter().enumerate() {
            let at = 0x90 + 0x14 * i;
            let next = if i == 3 { 0 } else { at as u8 + 0x14 };
            space[at..at + 5].copy_from_slice(&[CAP_ID_VENDOR, next, 16, cfg_type, 2]);
            space[at + 8..at + 12].copy_from_slice(&(0x1000 * i as u32).to_le_bytes());
            space[at + 12..at + 16].copy_from_slice(&28u32.to_le_bytes());
        }
        space[0x100..0x104].copy_from_slice(&0x1200_0001u32.to_le_bytes());
        space[0x120..0x124].copy_from_slice(&0x0001_0003u32.to_le_bytes());
        space[0x124..0x12c].copy_from_slice(&0x1122_3344_5566_7788u64.to_le_bytes());
        space
    }

    // Covers: PCI-02, LIO-10
    #[test]
    fn a_net_vf_is_understood() {
        let id = Function::read(&net_vf()).unwrap();
        assert_eq!(id.device, DeviceType::Net);
        assert_eq!(id.config_len, 28);
        assert_eq!(id.serial, 0x1122_3344_5566_7788);
        assert_eq!((id.flr, id.power), (vec![(0x49, 0x80)], None));
        let found: Vec<_> = id
            .caps
            .iter()
            .map(|c| (c.at, c.cfg_type, c.offset))
            .collect();
        assert_eq!(
            found,
            [
                (0x90, 1, 0),
                (0xa4, 2, 0x1000),
                (0xb8, 3, 0x2000),
                (0xcc, 4, 0x3000)
            ]
        );
    }

    #[test]
    fn a_length_rounded_up_by_hardware_does_not_grow_bar0() {
        let mut space = net_vf();
        space[0xcc + 12..0xcc + 16].copy_from_slice(&4096u32.to_le_bytes());
        assert_eq!(Function::read(&space).unwrap().config_len, 28);
        space[0xcc + 12..0xcc + 16].copy_from_slice(&12u32.to_le_bytes());
        assert_eq!(Function::read(&space).unwrap().config_len, 12);
    }

    #[test]
    fn other_devices_are_refused_with_their_ids() {
        let mut space = net_vf();
        space[2] = 0x59;
        let why = Function::read(&space).unwrap_err();
        assert!(
            why.contains("1af4:1059") && why.contains("transitional"),
            "{why}"
        );
        space[0] = 0x86;
        assert!(Function::read(&space).unwrap_err().contains("1a86:1059"));
        assert!(Function::read(&[]).unwrap_err().contains("ffff:ffff"));
        let mut space = net_vf();
        space[0x34] = 0;
        assert!(Function::read(&space)
            .unwrap_err()
            .contains("configuration capability"));
    }

    #[test]
    fn lists_that_loop_or_leave_the_space_end() {
        let mut space = net_vf();
        space[0x81] = 0x40; // MSI-X points back to Express
        space[0x120..0x124].copy_from_slice(&0x1000_0042u32.to_le_bytes());
        let _refused = Function::read(&space).unwrap_err();
        space[0x81] = 0xfc; // the capability would end behind the header space
        space[0xfc] = CAP_ID_VENDOR;
        assert_eq!(serial_number(&space), 0);
        assert_eq!(serial_number(&space[..256]), 0);
        for len in 0..300 {
            let _any = Function::read(&net_vf()[..len]);
        }
        for byte in 0..=255u8 {
            let _any = Function::read(&vec![byte; 4096]);
        }
    }

    #[test]
    fn the_power_state_is_found() {
        let mut space = net_vf();
        space[0xcd] = 0xe0; // behind the last virtio capability
        space[0xe0] = CAP_ID_POWER;
        let vf = Function::read(&space).unwrap();
        assert_eq!(vf.power.map(power_control), Some(0xe4));
        assert!(sleeps(3) && sleeps(0x103) && !sleeps(0x100));
        // From D3hot to D0, in every width, and only if that is not a state it keeps.
        for (address, value, len) in [(0xe4, 0x100, 2), (0xe4, 0, 1), (0xe2, 0xffff, 4)] {
            assert!(vf.wakes_as_new(3, address, value, len));
            assert!(!vf.wakes_as_new(0xb, address, value, len), "No_Soft_Reset");
            assert!(!vf.wakes_as_new(0, address, value, len), "it was awake");
        }
        assert!(!vf.wakes_as_new(3, 0xe4, 3, 2));
        assert!(!vf.wakes_as_new(3, 0xe5, 0, 1) && !vf.wakes_as_new(3, 0xe0, 0, 4));
    }

    #[test]
    fn flr_is_recognized_in_every_width() {
        // Device Control is at 0x48; the bit is the highest of byte 0x49.
        let mut vf = Function::read(&net_vf()).unwrap();
        assert!(vf.starts_flr(0x48, 0x8000, 2));
        assert!(vf.starts_flr(0x49, 0x80, 1));
        assert!(vf.starts_flr(0x48, 0xffff_8000, 4));
        assert!(!vf.starts_flr(0x48, 0x7fff, 2));
        assert!(!vf.starts_flr(0x48, 0x80, 1));
        assert!(!vf.starts_flr(0x4a, 0x8000, 2));
        vf.flr = vec![(0x108, 0x80)];
        assert!(!vf.starts_flr(0, u32::MAX, 4));
    }

    #[test]
    fn only_a_function_that_has_flr_is_reset_by_its_bit() {
        let mut space = net_vf();
        space[0x44..0x48].copy_from_slice(&[0; 4]);
        space[0xcd] = 0xe0; // behind the last virtio capability
        space[0xe0..0xe6].copy_from_slice(&[CAP_ID_AF, 0, 6, af::CAPABILITIES_FLR, 0, 0]);
        let vf = Function::read(&space).unwrap();
        assert!(!vf.starts_flr(0x48, 0x8000, 2), "no FLR there");
        assert!(vf.starts_flr(0xe4, 1, 1) && vf.starts_flr(0xe2, 0x1_0000, 4));
        assert!(!vf.starts_flr(0xe4, 2, 1));
        space[0xe3] = 0;
        assert!(!Function::read(&space).unwrap().starts_flr(0xe4, 1, 1));
    }

    // Covers: IRQ-04
    #[test]
    fn msix_enable_is_recognized_in_every_width() {
        let mut vf = Function::read(&net_vf()).unwrap();
        // The control word is at 0x82; Enable is the highest bit of byte 0x83.
        assert_eq!(vf.sets_msix(0x82, 0x8000, 2), Some(true));
        assert_eq!(vf.sets_msix(0x83, 0x80, 1), Some(true));
        assert_eq!(vf.sets_msix(0x80, 0x8000_0000, 4), Some(true));
        assert_eq!(vf.sets_msix(0x82, 0x7fff, 2), Some(false));
        assert_eq!(vf.sets_msix(0x82, 0x80, 1), None);
        assert_eq!(vf.sets_msix(0x84, 0xffff_ffff, 4), None);
        vf.msix = Some(0xff);
        assert_eq!(vf.sets_msix(0, u32::MAX, 4), None);
    }
}
