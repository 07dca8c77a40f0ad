// SPDX-License-Identifier: GPL-2.0-or-later
//! SR-IOV through configuration space: order of the writes, sizes of the VFs' BARs.

use pci_transport::testing::{Access, ScriptedDevice, ScriptedFunction};
use pci_transport::{Cause, DeviceView, IrqEvent, PciFunction, VfBar, Width};
use virtio_modern_spec::sriov;
use virtio_pci_spec::pci;

const BASE: usize = 0x140;

/// A function with nothing but an SR-IOV capability.
struct Pf {
    config: Vec<u8>,
    /// Writable bits of the capability's bytes.
    mask: Vec<u8>,
    stubborn: bool,
    bar_writes_while_enabled: u32,
}

impl Pf {
    fn new(with_cap: bool) -> Self {
        let mut config = vec![0; 4096];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x100, &(0x1400_0000u32 | 3).to_le_bytes());
        if with_cap {
            put(BASE, &u32::from(pci::EXT_CAP_ID_SRIOV).to_le_bytes());
        }
        put(BASE + sriov::INITIAL_VFS, &[8, 0]);
        put(BASE + sriov::TOTAL_VFS, &[8, 0]);
        put(BASE + sriov::VF_DEVICE_ID, &[0x41, 0x10]);
        put(BASE + sriov::SUPPORTED_PAGE_SIZE, &[0x53, 5, 0, 0]);
        // BAR1: 32 bits, 4 KiB. BAR2: 64 bits prefetchable, 16 KiB. BAR4: 64 bits, 8 GiB.
        put(BASE + sriov::VF_BAR0 + 8, &[0xc]);
        put(BASE + sriov::VF_BAR0 + 16, &[4]);
        let mut mask = vec![0; sriov::LEN];
        let mut may = |at: usize, bytes: &[u8]| mask[at..at + bytes.len()].copy_from_slice(bytes);
        may(sriov::CONTROL, &[0x19, 0]);
        may(sriov::NUM_VFS, &[0xff, 0xff]);
        may(sriov::SYSTEM_PAGE_SIZE, &[0xff; 4]);
        may(sriov::VF_BAR0 + 4, &0xffff_f000u32.to_le_bytes());
        may(sriov::VF_BAR0 + 8, &0xffff_c000u32.to_le_bytes());
        may(sriov::VF_BAR0 + 12, &[0xff; 4]);
        may(sriov::VF_BAR0 + 20, &0xffff_fffeu32.to_le_bytes());
        Pf {
            config,
            mask,
            stubborn: false,
            bar_writes_while_enabled: 0,
        }
    }

    fn enabled(&self) -> bool {
        self.config[BASE + sriov::CONTROL] & 1 != 0
    }
}

impl ScriptedDevice for Pf {
    fn config_read(&mut self, offset: u16, buf: &mut [u8]) {
        let at = usize::from(offset);
        buf.copy_from_slice(&self.config[at..at + buf.len()]);
    }
    fn config_write(&mut self, offset: u16, data: &[u8]) {
        let at = usize::from(offset);
        let bars = BASE + sriov::VF_BAR0..BASE + sriov::VF_BAR0 + 24;
        if self.enabled() && bars.contains(&at) {
            self.bar_writes_while_enabled += 1;
        }
        for (i, byte) in data.iter().enumerate() {
            let Some(mask) = (at + i).checked_sub(BASE).and_then(|r| self.mask.get(r)) else {
                continue;
            };
            if self.stubborn && at + i == BASE + sriov::CONTROL {
                continue;
            }
            let old = self.config[at + i];
            self.config[at + i] = (old & !mask) | (byte & mask);
        }
    }
    fn bar_size(&self, _bar: u8) -> u64 {
        0
    }
    fn bar_read(&mut self, _bar: u8, _offset: u64, _width: Width) -> u32 {
        u32::MAX
    }
    fn bar_write(&mut self, _bar: u8, _offset: u64, _width: Width, _value: u32) {}
    fn attach(&mut self, _memory: DeviceView) {}
    fn set_irqs(&mut self, _irqs: Vec<IrqEvent>) {}
    fn reset(&mut self) {}
}

const BARS: [VfBar; 6] = [
    VfBar::Absent,
    VfBar::Size(0x1000),
    VfBar::Size(0x4000),
    VfBar::Absent,
    VfBar::Size(8 << 30),
    VfBar::Absent,
];

// Covers: NTF-07
#[test]
fn bars_are_sized_before_vfs_exist_and_left_as_they_were() {
    let mut f = ScriptedFunction::new(Pf::new(true)).unwrap();
    let script = f.script();
    let addr = BASE + sriov::VF_BAR0 + 4;
    script.device().config[addr..addr + 4].copy_from_slice(&0xfe00_0000u32.to_le_bytes());
    let before = script.device().config.clone();
    assert_eq!(f.vf_bars().unwrap(), BARS);
    assert_eq!(script.device().config, before);
    f.enable_vfs(8).unwrap();
    // Known sizes are kept; nothing is written to the BARs of live VFs.
    assert_eq!(f.vf_bars().unwrap(), BARS);
    assert_eq!(script.device().bar_writes_while_enabled, 0);
}

// Covers: NTF-07
#[test]
fn sizes_are_unknown_when_vfs_exist_already() {
    let mut f = ScriptedFunction::new(Pf::new(true)).unwrap();
    let script = f.script();
    script.device().config[BASE + sriov::CONTROL] = 9;
    script.device().config[BASE + sriov::NUM_VFS] = 4;
    assert_eq!(f.vf_bars().unwrap(), [VfBar::Unknown; 6]);
    assert_eq!(script.device().bar_writes_while_enabled, 0);
    let status = f.sriov_status().unwrap();
    assert_eq!((status.live_vfs(), status.total_vfs), (4, 8));
    assert_eq!(status.vf_device_id, 0x1041);
    let e = f.enable_vfs(4).unwrap_err();
    assert_eq!(e.cause(), &Cause::State("4 VFs are enabled already".into()));
    f.disable_vfs().unwrap();
    assert_eq!(f.sriov_status().unwrap().live_vfs(), 0);
    assert_eq!(f.vf_bars().unwrap(), BARS);
}

// Covers: FEA-06
#[test]
fn numvfs_is_set_before_vf_enable_and_both_are_checked() {
    let mut f = ScriptedFunction::new(Pf::new(true)).unwrap();
    let script = f.script();
    f.enable_vfs(3).unwrap();
    let writes: Vec<_> = script
        .accesses()
        .into_iter()
        .filter_map(|a| match a {
            Access::ConfigWrite { offset, data } => Some((usize::from(offset) - BASE, data)),
            _ => None,
        })
        .filter(|(offset, _)| *offset < sriov::VF_BAR0)
        .collect();
    assert_eq!(
        writes,
        [
            (sriov::SYSTEM_PAGE_SIZE, vec![1, 0, 0, 0]),
            (sriov::NUM_VFS, vec![3, 0]),
            (sriov::CONTROL, vec![9, 0]),
        ]
    );
    assert_eq!(f.sriov_status().unwrap().live_vfs(), 3);

    let mut f = ScriptedFunction::new(Pf::new(true)).unwrap();
    assert!(matches!(
        f.enable_vfs(0).unwrap_err().cause(),
        Cause::State(_)
    ));
    assert!(matches!(
        f.enable_vfs(9).unwrap_err().cause(),
        Cause::State(_)
    ));
    f.script().device().stubborn = true;
    let e = f.enable_vfs(2).unwrap_err();
    assert!(matches!(e.cause(), Cause::Misbehaved(_)), "{e}");

    let f = ScriptedFunction::new(Pf::new(false)).unwrap();
    let e = f.sriov_status().unwrap_err();
    assert_eq!(e.cause(), &Cause::NoCapability("SR-IOV"));
    assert_eq!(e.to_string(), "scripted: SR-IOV: no SR-IOV capability");
}

#[test]
fn a_failing_step_is_named_and_a_fatal_one_is_for_ever() {
    let mut f = ScriptedFunction::new(Pf::new(true)).unwrap();
    let script = f.script();
    f.sriov_status().unwrap();
    let steps = script.accesses().len();
    script.fail_at(steps, Cause::PeerClosed);
    let e = f.enable_vfs(2).unwrap_err();
    assert!(e.is_fatal());
    let e = f.sriov_status().unwrap_err();
    assert_eq!(e.cause(), &Cause::Dead(Box::new(Cause::PeerClosed)));
}
