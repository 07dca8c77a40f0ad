// SPDX-License-Identifier: GPL-2.0-or-later
//! Every register and every byte of the device configuration, at every width and offset, with and
//! without MSI-X, through QEMU, helper and simulator.

use anyhow::{Context, Result};
use qtest_harness::{DeviceKind, LegacyDriver, Machine, PciDevice, Qemu, Qtest, Stack};
use qtest_tests::access::{ones, Model};
use qtest_tests::{commands, modern};

/// Everything that can be read, with natural widths; leaves the selection as it was.
fn check(q: &Qtest, driver: &LegacyDriver, m: &Model, msix: bool, what: &str) -> Result<()> {
    let select = u32::from(m.select);
    assert_eq!(driver.read(q, 14, 2)?, select, "{what}: queue_select");
    assert_eq!(driver.read(q, 0, 4)?, m.features, "{what}: device features");
    assert_eq!(
        driver.read(q, 4, 4)?,
        m.driver_features,
        "{what}: driver features"
    );
    assert_eq!(
        driver.read(q, 18, 1)?,
        u32::from(m.status),
        "{what}: status"
    );
    if msix {
        assert_eq!(
            driver.read(q, 20, 2)?,
            u32::from(m.config_vector),
            "{what}: config vector"
        );
    }
    for (index, size) in m.sizes.iter().enumerate() {
        driver.write(q, 14, 2, u32::try_from(index)?)?;
        assert_eq!(
            driver.read(q, 12, 2)?,
            u32::from(*size),
            "{what}: size of {index}"
        );
        let address = m.addresses.get(index).copied().context("queue")?;
        assert_eq!(driver.read(q, 8, 4)?, address, "{what}: address of {index}");
        if msix {
            let vector = m.vectors.get(index).copied().context("queue")?;
            assert_eq!(
                driver.read(q, 22, 2)?,
                u32::from(vector),
                "{what}: vector of {index}"
            );
        }
    }
    driver.write(q, 14, 2, select)?;
    Ok(())
}

struct Setup {
    stack: Stack,
    qemu: Qemu,
    device: PciDevice,
    driver: LegacyDriver,
    table: u16,
}

fn setup(kind: DeviceKind) -> Result<Setup> {
    let stack = Stack::start(kind, 1)?;
    let (qemu, device) = stack.mapped(Machine::Pc)?;
    let driver = LegacyDriver::new(&device)?;
    let table = device.msix(&qemu.qtest)?.vectors;
    Ok(Setup {
        stack,
        qemu,
        device,
        driver,
        table,
    })
}

fn reads(kind: DeviceKind) -> Result<()> {
    let mut s = setup(kind)?;
    let q = &s.qemu.qtest;
    let size = u16::try_from(s.device.bar(0)?.size)?;
    let msix = s.device.msix(q)?;
    for on in [false, true, false, true] {
        msix.enable(q, &s.device, on)?;
        s.driver.msix = on;
        let mut m = Model::of(q, &s.device, &s.driver, s.table)?;
        // Values that differ from byte to byte.
        for (offset, width, value) in [(4, 4, 0xffff_ffff), (18, 1, 3), (14, 2, 1), (8, 4, 0x0102)]
        {
            s.driver.write(q, offset, width, value)?;
            m.write(offset, width, value, on);
        }
        if on {
            for (offset, value) in [(20, 0), (22, 1)] {
                s.driver.write(q, offset, 2, value)?;
                m.write(offset, 2, value, on);
            }
        }
        for width in [1u8, 2, 4] {
            for offset in 0..=size - u16::from(width) {
                let got = s.driver.read(q, offset, width)?;
                let want = m.read(offset, width, on);
                assert_eq!(
                    got, want,
                    "{kind:?}, MSI-X {on}, read of {width} at {offset}"
                );
            }
        }
        check(q, &s.driver, &m, on, "after reading everything")?;
    }
    Ok(())
}

// Covers: LIO-01, LIO-02, LIO-03, LIO-04, LIO-10
#[test]
fn every_width_at_every_offset_net() -> Result<()> {
    reads(DeviceKind::Net)
}

// Covers: LIO-01, LIO-02, LIO-03, LIO-04, LIO-10
#[test]
fn every_width_at_every_offset_blk() -> Result<()> {
    reads(DeviceKind::Block)
}

// Covers: LIO-01, LIO-02, LIO-03, LIO-04, LIO-10
#[test]
fn every_width_at_every_offset_console() -> Result<()> {
    reads(DeviceKind::Console)
}

// Covers: LIO-01, LIO-02, LIO-03, LIO-04, LIO-10
#[test]
fn every_width_at_every_offset_rng() -> Result<()> {
    reads(DeviceKind::Rng)
}

// Covers: LIO-01, LIO-02, LIO-03, LIO-04, LIO-10
#[test]
fn every_width_at_every_offset_balloon() -> Result<()> {
    reads(DeviceKind::Balloon)
}

// Covers: LIO-01, LIO-02, LIO-03, LIO-04, LIO-10
#[test]
fn every_width_at_every_offset_scsi() -> Result<()> {
    reads(DeviceKind::Scsi)
}

// Covers: LIO-01, LIO-02, LIO-03, LIO-04, LIO-10
#[test]
fn every_width_at_every_offset_9p() -> Result<()> {
    reads(DeviceKind::P9)
}

fn writes(kind: DeviceKind) -> Result<()> {
    let mut s = setup(kind)?;
    let q = &s.qemu.qtest;
    let size = u16::try_from(s.device.bar(0)?.size)?;
    let msix = s.device.msix(q)?;
    for on in [false, true] {
        msix.enable(q, &s.device, on)?;
        s.driver.msix = on;
        let mut m = Model::of(q, &s.device, &s.driver, s.table)?;
        let header = if on { 24 } else { 20 };
        for value in [0x0203_0801u32, 0x0101_0101, 0] {
            for width in [1u8, 2, 4] {
                // The device configuration has a test of its own.
                for offset in 0..=header - u16::from(width) {
                    s.driver.write(q, 18, 1, 3)?;
                    m.write(18, 1, 3, on);
                    s.driver.write(q, offset, width, value)?;
                    m.write(offset, width, value & ones(width), on);
                    let what = format!("{kind:?}, MSI-X {on}, {value:#x}/{width} at {offset}");
                    check(q, &s.driver, &m, on, &what)?;
                }
            }
        }
        // Writes behind the configuration do nothing.
        let end = header + u16::try_from(m.config.len())?;
        let before = commands(&mut s.stack.sim)?;
        for offset in end..size {
            s.driver.write(q, offset, 1, 0xff)?;
        }
        assert_eq!(commands(&mut s.stack.sim)?, before);
        check(q, &s.driver, &m, on, "writes behind the configuration")?;
    }
    Ok(())
}

// Covers: LIO-05, LIO-06, LIO-07, LIO-08
#[test]
fn every_write_acts_on_its_field_only_net() -> Result<()> {
    writes(DeviceKind::Net)
}

// Covers: LIO-05, LIO-06, LIO-07, LIO-08
#[test]
fn every_write_acts_on_its_field_only_blk() -> Result<()> {
    writes(DeviceKind::Block)
}

// Covers: LIO-05, LIO-06, LIO-07, LIO-08
#[test]
fn every_write_acts_on_its_field_only_console() -> Result<()> {
    writes(DeviceKind::Console)
}

// Covers: LIO-05, LIO-06, LIO-07, LIO-08
#[test]
fn every_write_acts_on_its_field_only_rng() -> Result<()> {
    writes(DeviceKind::Rng)
}

// Covers: LIO-05, LIO-06, LIO-07, LIO-08
#[test]
fn every_write_acts_on_its_field_only_balloon() -> Result<()> {
    writes(DeviceKind::Balloon)
}

// Covers: LIO-05, LIO-06, LIO-07, LIO-08
#[test]
fn every_write_acts_on_its_field_only_scsi() -> Result<()> {
    writes(DeviceKind::Scsi)
}

// Covers: LIO-05, LIO-06, LIO-07, LIO-08
#[test]
fn every_write_acts_on_its_field_only_9p() -> Result<()> {
    writes(DeviceKind::P9)
}

// Covers: LIO-05
#[test]
fn features_are_read_only_on_one_side_and_masked_on_the_other() -> Result<()> {
    let s = setup(DeviceKind::Net)?;
    let (q, d) = (&s.qemu.qtest, &s.driver);
    let offered = d.read(q, 0, 4)?;
    assert_ne!(offered & 1 << 5, 0, "MAC");
    assert_ne!(offered & 1 << 27, 0, "ANY_LAYOUT");
    d.write(q, 0, 4, 0)?;
    assert_eq!(d.read(q, 0, 4)?, offered);
    for mask in [0, 1 << 5, offered] {
        d.write(q, 4, 4, mask)?;
        assert_eq!(d.read(q, 4, 4)?, mask);
    }
    Ok(())
}

// Covers: LIO-06
#[test]
fn each_queue_keeps_its_own_address() -> Result<()> {
    let s = setup(DeviceKind::Net)?;
    let (q, d) = (&s.qemu.qtest, &s.driver);
    for (index, pfn) in [(0u32, 0x100u32), (1, 0x200)] {
        d.write(q, 14, 2, index)?;
        let size = d.read(q, 12, 2)?;
        assert!(size.is_power_of_two());
        d.write(q, 12, 2, 1)?;
        assert_eq!(d.read(q, 12, 2)?, size, "the size is read-only");
        d.write(q, 8, 4, pfn)?;
    }
    for (index, pfn) in [(1u32, 0x200u32), (0, 0x100), (1, 0x200)] {
        d.write(q, 14, 2, index)?;
        assert_eq!(d.read(q, 8, 4)?, pfn);
    }
    // A queue that does not exist.
    d.write(q, 14, 2, 999)?;
    assert_eq!(
        (d.read(q, 14, 2)?, d.read(q, 12, 2)?, d.read(q, 8, 4)?),
        (999, 0, 0)
    );
    d.write(q, 8, 4, 0x300)?;
    assert_eq!(d.read(q, 8, 4)?, 0);
    d.write(q, 14, 2, 1)?;
    assert_eq!(d.read(q, 8, 4)?, 0x200);
    Ok(())
}

// Covers: LIO-08, IRQ-06
#[test]
fn writing_zero_to_the_status_resets() -> Result<()> {
    let mut s = setup(DeviceKind::Net)?;
    let q = &s.qemu.qtest;
    s.device.msix(q)?.enable(q, &s.device, true)?;
    s.driver.msix = true;
    let d = &s.driver;
    for status in [1u8, 3, 7] {
        d.set_status(q, status)?;
        assert_eq!(d.status(q)?, status);
    }
    d.write(q, 4, 4, 1 << 5)?;
    d.write(q, 20, 2, 0)?;
    d.write(q, 14, 2, 1)?;
    d.write(q, 8, 4, 0x123)?;
    d.write(q, 22, 2, 1)?;
    assert_eq!((d.read(q, 20, 2)?, d.read(q, 22, 2)?), (0, 1));
    d.set_status(q, 0)?;
    assert_eq!(d.status(q)?, 0);
    assert_eq!(d.read(q, 4, 4)?, 0);
    assert_eq!(d.read(q, 20, 2)?, 0xffff);
    for index in 0..2 {
        d.write(q, 14, 2, index)?;
        assert_eq!((d.read(q, 8, 4)?, d.read(q, 22, 2)?), (0, 0xffff));
    }
    Ok(())
}

// Covers: LIO-04, INI-16
#[test]
fn network_configuration_beyond_the_mac_can_be_read() -> Result<()> {
    let s = setup(DeviceKind::Net)?;
    let (q, d) = (&s.qemu.qtest, &s.driver);
    let config = modern::device_config(q, &s.device)?;
    let short = |at: usize| {
        u32::from(u16::from_le_bytes([
            config.get(at).copied().unwrap_or(0),
            config.get(at + 1).copied().unwrap_or(0),
        ]))
    };
    let mac: Vec<u32> = (0..6).map(|i| d.config(q, i, 1)).collect::<Result<_>>()?;
    assert_eq!(mac, [0x52, 0x54, 0x00, 0x77, 0x01, 0x01]);
    assert_eq!(d.config(q, 6, 2)?, 1, "link up");
    let pairs = d.config(q, 8, 2)?;
    assert_eq!(pairs, short(8), "max_virtqueue_pairs");
    assert!((1..=0x8000).contains(&pairs));
    let mtu = d.config(q, 10, 2)?;
    assert_eq!(mtu, short(10), "mtu");
    assert!(mtu >= 68, "mtu {mtu}");
    assert_eq!(d.config(q, 8, 4)?, pairs | mtu << 16);
    Ok(())
}

// Covers: LIO-04, INI-16
#[test]
fn block_capacity_is_little_endian_in_any_parts() -> Result<()> {
    let s = setup(DeviceKind::Block)?;
    let (q, d) = (&s.qemu.qtest, &s.driver);
    let config = modern::device_config(q, &s.device)?;
    let capacity = config
        .iter()
        .take(8)
        .rev()
        .fold(0u64, |v, b| v << 8 | u64::from(*b));
    assert_ne!(capacity, 0);
    let low = u64::from(d.config(q, 0, 4)?);
    let high = u64::from(d.config(q, 4, 4)?);
    assert_eq!(low | high << 32, capacity);
    let mut bytes = 0u64;
    for i in (0..8).rev() {
        bytes = bytes << 8 | u64::from(d.config(q, i, 1)?);
    }
    assert_eq!(bytes, capacity);
    Ok(())
}

// Covers: LIO-04, INI-11
#[test]
fn the_mac_can_be_written_at_any_width_right_after_reset() -> Result<()> {
    let s = setup(DeviceKind::Net)?;
    let (q, d) = (&s.qemu.qtest, &s.driver);
    d.set_status(q, 0)?;
    let base = 20;
    for i in 0..6u16 {
        d.write(q, base + i, 1, 0x10 + u32::from(i))?;
    }
    assert_eq!(d.config(q, 0, 4)?, 0x1312_1110);
    d.write(q, base, 4, 0x2322_2120)?;
    d.write(q, base + 4, 2, 0x2524)?;
    let mac: Vec<u32> = (0..6).map(|i| d.config(q, i, 1)).collect::<Result<_>>()?;
    assert_eq!(mac, [0x20, 0x21, 0x22, 0x23, 0x24, 0x25]);
    // Over the border of mac and status: only the MAC can be written.
    let status = d.config(q, 6, 2)?;
    d.write(q, base + 4, 4, 0xffff_3534)?;
    assert_eq!(d.config(q, 4, 2)?, 0x3534);
    assert_eq!(d.config(q, 6, 2)?, status);
    Ok(())
}

// Covers: LIO-02
#[test]
fn vectors_and_configuration_move_with_msix_enable() -> Result<()> {
    let mut s = setup(DeviceKind::Net)?;
    let q = &s.qemu.qtest;
    let msix = s.device.msix(q)?;
    let mac = s.driver.config(q, 0, 4)?;
    for on in [true, false, true, false] {
        msix.enable(q, &s.device, on)?;
        s.driver.msix = on;
        assert_eq!(s.driver.config(q, 0, 4)?, mac);
        if on {
            s.driver.write(q, 20, 2, 1)?;
            assert_eq!(s.driver.read(q, 20, 2)?, 1);
            assert_eq!(
                s.driver.config(q, 0, 4)?,
                mac,
                "the vector is not in the configuration"
            );
        }
    }
    // The Function Mask bit does not move it.
    msix.enable(q, &s.device, true)?;
    msix.mask_all(q, &s.device, true)?;
    assert_eq!(s.driver.read(q, 24, 4)?, mac);
    Ok(())
}

// Covers: INI-15
#[test]
fn a_changed_configuration_is_seen_at_once() -> Result<()> {
    let mut s = setup(DeviceKind::Net)?;
    for up in [false, true, false] {
        s.stack
            .sim
            .control(&serde_json::json!({"cmd": "link", "vf": 1, "up": up}))?;
        assert_eq!(s.driver.config(&s.qemu.qtest, 6, 2)? & 1, u32::from(up));
    }
    Ok(())
}
