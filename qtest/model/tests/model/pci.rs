// SPDX-License-Identifier: GPL-2.0-or-later
//! Configuration space: identity, BARs, capability lists (PCI, LEG-13).

use virtio_pci_spec::pci::{self, header};
use virtio_pci_spec::DeviceType;
use virtio_pf_model::testing::{echo_model, Driver};
use virtio_pf_model::{FunctionId, ModelConfig, CONFIG_SPACE_LEN};

use crate::{config, memory, ready, vf};

// Covers: PCI-01, PCI-05, LEG-13, PCI-10
#[test]
fn identity_of_every_type() {
    for t in DeviceType::ALL {
        let (mut m, _c) = ready(ModelConfig::new(t, 1), 1);
        for f in [FunctionId::Pf, vf(1)] {
            let d = Driver::new(&mut m, f, &memory());
            assert_eq!(d.config(&mut m, 0, 2), 0x1af4);
            assert_eq!(d.config(&mut m, 2, 2), u64::from(t.modern_pci_id()));
            assert!(d.config(&mut m, header::REVISION_ID as u16, 1) >= 1);
            assert!(d.config(&mut m, header::SUBSYSTEM_ID as u16, 2) >= 0x40);
            let class = d.config(&mut m, header::CLASS_DEVICE as u16, 2);
            assert_eq!(class, u64::from(virtio_modern_spec::class::pci_class(t)));
            assert_eq!(d.config(&mut m, header::HEADER_TYPE as u16, 1) & 0x7f, 0);
            assert_eq!(d.config(&mut m, header::BAR0 as u16, 4), 0, "no BAR0");
            assert_eq!(d.config(&mut m, header::ROM_ADDRESS as u16, 4), 0);
        }
    }
}

// Covers: PCI-09, SRV-02
#[test]
fn bars_size_and_keep_their_address() {
    let (mut m, _c) = ready(config(3), 3);
    for f in [FunctionId::Pf, vf(3)] {
        let d = Driver::new(&mut m, f, &memory());
        for bar in 0..6u8 {
            let at = header::BAR0 as u16 + 4 * u16::from(bar);
            m.config_write(f, at, &[0xff; 4]);
            let mask = d.config(&mut m, at, 4) as u32;
            let size = m.bar_size(f, bar);
            if size == 0 {
                assert_eq!(mask, 0);
                continue;
            }
            assert!(size.is_power_of_two() && size >= 0x1000);
            assert_eq!(u64::from(!mask) + 1, size);
            m.config_write(f, at, &0xfe00_0000u32.to_le_bytes());
            assert_eq!(d.config(&mut m, at, 4), 0xfe00_0000);
        }
        assert_eq!(m.bar_size(f, 0), 0);
        assert_eq!(m.bar_size(f, 6), 0);
        assert!(m.bar_size(f, 4) >= 0x1000, "a notification area of its own");
    }
}

// Covers: PCI-09
#[test]
fn lists_are_complete_and_do_not_overlap() {
    for bogus in [false, true] {
        let mut cfg = config(2);
        cfg.knobs.bogus_capabilities = bogus;
        cfg.serial = 0x1122_3344_5566_7788;
        let (mut m, _c) = ready(cfg, 2);
        let mut serials = Vec::new();
        for f in [FunctionId::Pf, vf(1), vf(2)] {
            let d = Driver::new(&mut m, f, &memory());
            assert_ne!(d.config(&mut m, 6, 2) & u64::from(pci::STATUS_CAP_LIST), 0);
            let mut spans = Vec::new();
            let mut at = d.config(&mut m, 0x34, 1) as u16;
            let mut ids = Vec::new();
            while at != 0 {
                let id = d.config(&mut m, at, 1) as u8;
                let len = match id {
                    pci::CAP_ID_VENDOR => d.config(&mut m, at + 2, 1) as u16,
                    pci::CAP_ID_MSIX => 12,
                    pci::CAP_ID_EXPRESS => 0x3c,
                    other => panic!("capability {other:#x}"),
                };
                spans.push((at, at + len));
                ids.push(id);
                at = d.config(&mut m, at + 1, 1) as u16;
            }
            spans.sort_unstable();
            assert!(spans.windows(2).all(|w| w[0].1 <= w[1].0), "{spans:x?}");
            assert!(spans[0].0 >= 0x40 && spans.last().unwrap().1 <= 0x100);
            assert!(ids.contains(&pci::CAP_ID_MSIX));
            let e = d.capability(&mut m, pci::CAP_ID_EXPRESS, None);
            assert_eq!(d.config(&mut m, e + 2, 2) >> 4 & 0xf, 0, "endpoint");
            let devcap = d.config(&mut m, e + 4, 4) as u32;
            assert_ne!(devcap & pci::express::DEVCAP_FLR, 0);
            serials.push(d.config(&mut m, 0x104, 8));
        }
        assert_eq!(serials, [0x1122_3344_5566_7788; 3]);
    }
}

// Covers: PCI-09
#[test]
fn table_and_pending_bits_are_inside_their_bar() {
    for vectors in [1, 2, 3, 64, 65, 0x800] {
        let mut cfg = config(1);
        cfg.knobs.msix_vectors = Some(vectors);
        let mut m = echo_model(cfg).unwrap();
        let d = Driver::new(&mut m, FunctionId::Pf, &memory());
        let at = d.capability(&mut m, pci::CAP_ID_MSIX, None);
        assert_eq!(d.config(&mut m, at + 2, 2), u64::from(vectors) - 1);
        let (table, pba) = (d.config(&mut m, at + 4, 4), d.config(&mut m, at + 8, 4));
        assert_eq!((table & 7, pba & 7), (1, 1));
        assert!((table & !7) + 16 * u64::from(vectors) <= pba & !7);
        let end = (pba & !7) + u64::from(vectors).div_ceil(64) * 8;
        assert!(end <= m.bar_size(FunctionId::Pf, 1));
    }
}

// Covers: PCI-05
#[test]
fn shapes_for_the_devices_refusals() {
    let mut cfg = config(1);
    cfg.knobs.vf_bar0 = true;
    cfg.knobs.vf_device_id = Some(0x1059);
    let (mut m, mut c) = ready(cfg, 1);
    let d = Driver::new(&mut m, vf(1), &memory());
    assert_eq!(m.bar_size(vf(1), 0), 0x1000);
    assert_eq!(m.bar_size(FunctionId::Pf, 0), 0);
    assert_eq!(d.config(&mut m, 2, 2), 0x1059);
    assert_eq!(c.pf.config(&mut m, 2, 2), 0x1042);
    assert_eq!(
        c.pf.sriov(&mut m, virtio_modern_spec::sriov::VF_DEVICE_ID),
        0x1059
    );
    assert!(c.common_read(&mut m, 1, 18, 1).ok());
}

// Covers: PCI-09
#[test]
fn accesses_at_the_edges_of_configuration_space() {
    let mut m = echo_model(config(1)).unwrap();
    let mut all = vec![0; CONFIG_SPACE_LEN + 16];
    m.config_read(FunctionId::Pf, 0, &mut all);
    assert!(all[CONFIG_SPACE_LEN..].iter().all(|b| *b == 0xff));
    let before = all.clone();
    m.config_write(FunctionId::Pf, 0xffc, &[0x55; 8]);
    m.config_write(FunctionId::Pf, u16::MAX, &[0x55; 8]);
    m.config_write(FunctionId::Pf, 7, &[]);
    m.config_read(FunctionId::Pf, 0, &mut all);
    assert_eq!(all, before);
    m.config_read(FunctionId::Pf, u16::MAX, &mut []);
}
