// SPDX-License-Identifier: GPL-2.0-or-later
//! The device configuration, the features, and what they say about the cache and the queues.

use super::*;
use crate::testing::{AdminClient, Driver, TestMemory};

// Covers: BLK-01, INI-13
#[test]
fn configuration_through_the_legacy_interface() {
    let settings = BlkSettings {
        num_queues: 4,
        ..BlkSettings::default()
    };
    let (mut vf, _) = Disk::unset(&settings, None);
    assert_eq!(vf.config(0, 4), SECTORS);
    assert_eq!(vf.config(4, 4), 0);
    assert_eq!(vf.config(0, 8), SECTORS);
    assert_eq!(
        vf.config(34, 2),
        4,
        "num_queues before any feature was written"
    );
    assert_eq!(vf.config(33, 1), 0, "unused0");
    assert_eq!(
        vf.config(57, 1) | vf.config(58, 1) | vf.config(59, 1),
        0,
        "unused1"
    );
}

// Covers: BLK-02, BLK-06, BLK-07
#[test]
fn legacy_and_modern_offer_differ_where_they_should() {
    let (mut vf, _) = Disk::unset(&BlkSettings::default(), None);
    let legacy = u64::from(vf.offered());
    let driver = Driver {
        function: FunctionId::Vf(1),
        memory: Arc::clone(&vf.memory),
    };
    let modern = driver.offered(&mut vf.model);
    let type_bits = 0xff_ffff;
    assert_eq!(legacy & !modern & type_bits, bit(blk::BARRIER));
    assert_eq!(modern & !legacy & type_bits, 0);
    for never in [blk::SCSI, blk::ZONED] {
        assert_eq!((legacy | modern) & bit(never), 0);
    }
    for always in [blk::FLUSH, blk::CONFIG_WCE] {
        assert_ne!(legacy & modern & bit(always), 0);
    }
}

// Covers: BLK-05, BLK-07, INI-11
#[test]
fn the_cache_mode_changes_only_when_it_may() {
    let wce = features(&[blk::CONFIG_WCE]);
    let flush = features(&[blk::FLUSH]);
    for (accepted, start, end) in [
        // With CONFIG_WCE the driver's word counts, whatever else it accepts.
        (wce | flush, 0, 0),
        (wce | flush, 1, 1),
        (wce, 1, 1),
        // Without it FLUSH decides, at DRIVER_OK and not before.
        (flush, 0, 1),
        (0, 1, 0),
    ] {
        let (mut vf, flushes) = Disk::unset(&BlkSettings::default(), None);
        vf.set_config(32, &[start as u8]);
        let ring = DriverRing::legacy(&vf.memory, 4);
        let mut disk = Disk { vf, ring, flushes };
        assert_eq!(disk.writeback(), start, "written before any status");
        for status in [1, 3] {
            disk.vf.set_status(status);
            assert_eq!(disk.writeback(), start, "status {status}");
        }
        disk.vf.accept(accepted);
        assert_eq!(disk.writeback(), start, "features {accepted:#x} written");
        disk.vf.set_status(7);
        assert_eq!(disk.writeback(), end, "features {accepted:#x} at DRIVER_OK");
    }
}

// Covers: BLK-07
#[test]
fn a_modern_driver_without_flush_gets_write_through() {
    let (mut vf, _) = Disk::unset(&BlkSettings::default(), None);
    let driver = Driver {
        function: FunctionId::Vf(1),
        memory: Arc::clone(&vf.memory),
    };
    for (accepted, writeback) in [
        (bit(blk::CONFIG_WCE), 0),
        (bit(blk::CONFIG_WCE) | bit(blk::FLUSH), 1),
    ] {
        vf.set_status(0);
        assert!(driver.negotiate(&mut vf.model, crate::testing::MODERN_FEATURES | accepted));
        assert_eq!(vf.config(32, 1), writeback);
    }
}

#[test]
fn write_through_is_permanent_at_once() {
    let mut disk = Disk::new(features(&[blk::FLUSH, blk::CONFIG_WCE]));
    assert_eq!(disk.write(0, &[1; 512]), OK);
    assert_eq!(disk.flushes(), 0);
    disk.vf.set_config(32, &[0]);
    assert_eq!(disk.flushes(), 1, "what was in the cache");
    assert_eq!(disk.write(0, &[2; 512]), OK);
    assert_eq!(disk.flushes(), 2);
}

// Covers: BLK-09, INI-15
#[test]
fn a_resize_is_told_and_every_read_sees_it() {
    let mut disk = Disk::new(0);
    let end = SECTORS;
    assert_eq!(disk.read(end, 512).1, IOERR);
    disk.vf.isr();
    for sectors in [SECTORS * 2, SECTORS / 2, 0x1_0000_0001] {
        let control = DeviceControl::Resize { sectors };
        disk.vf.model.control(FunctionId::Vf(1), &control).unwrap();
        assert_eq!(disk.vf.config(0, 4), sectors & 0xffff_ffff);
        assert_eq!(disk.vf.config(4, 4), sectors >> 32);
        assert_eq!(disk.vf.isr() & 2, 2, "the driver is told");
        assert_eq!(disk.read(sectors - 1, 512).1, OK);
        assert_eq!(disk.read(sectors, 512).1, IOERR);
    }
    let control = DeviceControl::Resize { sectors: u64::MAX };
    assert!(disk.vf.model.control(FunctionId::Vf(1), &control).is_err());
    let link = DeviceControl::Link { up: true };
    assert!(disk.vf.model.control(FunctionId::Vf(1), &link).is_err());
}

#[test]
fn a_modern_driver_has_as_many_queues_as_the_configuration_says() {
    let settings = BlkSettings {
        num_queues: 3,
        ..BlkSettings::default()
    };
    let mut model = model(
        ModelConfig::new(DeviceType::Block, 1),
        &settings,
        &mut |_| Ok(Box::new(RamDisk::new(SECTORS * SECTOR))),
    )
    .unwrap();
    AdminClient::ready(&mut model, &TestMemory::new(0x10_0000, 1 << 20), 1);
    let memory = TestMemory::new(0x4000_0000, 1 << 20);
    let driver = Driver::new(&mut model, FunctionId::Vf(1), &memory);
    let accepted = crate::testing::MODERN_FEATURES | bit(blk::MQ);
    assert!(driver.negotiate(&mut model, accepted));
    let mut rings: Vec<_> = (0..3)
        .map(|q| driver.queue(&mut model, q, 0xffff))
        .collect();
    driver.driver_ok(&mut model);
    for (queue, ring) in rings.iter_mut().enumerate() {
        let at = memory.alloc(16 + 512 + 1, 16);
        memory.put(at, &header(0, 0));
        ring.add(&[Buffer::readable(at, 16), Buffer::writable(at + 16, 513)]);
        driver.kick(&mut model, queue as u16);
        assert_eq!(
            ring.poll().map(|(_, used)| used),
            Some(513),
            "queue {queue}"
        );
    }
}
