// SPDX-License-Identifier: GPL-2.0-or-later
//! The block device behind the model: a legacy driver of VF 1.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use proptest::prelude::*;
use virtio_pci_spec::features::bit;

use super::*;
use crate::blk::backend::RamDisk;
use crate::blk::probe::Probe;
use crate::testing::{AdminClient, Buffer, Driver, DriverRing, LegacyVf, TestMemory};

const SECTORS: u64 = 256;
const OK: u8 = request::STATUS_OK;
const IOERR: u8 = request::STATUS_IOERR;
const UNSUPP: u8 = request::STATUS_UNSUPP;

fn features(bits: &[u32]) -> u32 {
    bits.iter().fold(0, |all, n| all | bit(*n) as u32)
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    let mut h = kind.to_le_bytes().to_vec();
    h.extend([0; 4]);
    h.extend(sector.to_le_bytes());
    h
}

struct Disk {
    vf: LegacyVf,
    ring: DriverRing,
    flushes: Arc<AtomicU64>,
}

impl Disk {
    fn unset(settings: &BlkSettings, bad: Option<u64>) -> (LegacyVf, Arc<AtomicU64>) {
        let flushes = Arc::new(AtomicU64::new(0));
        let model = model(
            ModelConfig::new(DeviceType::Block, 1),
            settings,
            &mut |function| {
                // The PF has a disk of its own.
                let counted = match function {
                    FunctionId::Pf => Arc::default(),
                    FunctionId::Vf(_) => Arc::clone(&flushes),
                };
                Ok(Box::new(Probe {
                    disk: RamDisk::new(SECTORS * SECTOR),
                    flushes: counted,
                    bad,
                }))
            },
        )
        .unwrap();
        (LegacyVf::start(model, 1), flushes)
    }

    fn with(settings: &BlkSettings, accepted: u32, bad: Option<u64>) -> Self {
        let (mut vf, flushes) = Self::unset(settings, bad);
        vf.negotiate(accepted);
        let ring = vf.queue(0);
        vf.driver_ok();
        Self { vf, ring, flushes }
    }

    fn new(accepted: u32) -> Self {
        Self::with(&BlkSettings::default(), accepted, None)
    }

    /// One request; gives the used length, the data and the status.
    fn request(&mut self, readable: &[&[u8]], writable: &[usize]) -> (u32, Vec<u8>, u8) {
        let mut pieces = self.vf.readable(readable);
        let room = self.vf.writable(writable);
        pieces.extend(&room);
        self.ring.add(&pieces);
        self.vf.kick(0);
        let (_, used) = self.ring.poll().expect("every request ends");
        let mut data = self.vf.bytes(&room);
        let status = data.pop().expect("there is a status byte");
        (used, data, status)
    }

    fn read(&mut self, sector: u64, len: usize) -> (Vec<u8>, u8) {
        let (_, data, status) = self.request(&[&header(0, sector)], &[len, 1]);
        (data, status)
    }

    fn write(&mut self, sector: u64, data: &[u8]) -> u8 {
        self.request(&[&header(1, sector), data], &[1]).2
    }

    fn simple(&mut self, kind: u32) -> u8 {
        self.request(&[&header(kind, 0)], &[1]).2
    }

    fn writeback(&mut self) -> u64 {
        self.vf.config(32, 1)
    }

    fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i / 7) as u8 ^ seed).collect()
}

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

// Covers: BLK-03, BLK-08, VRG-07, VRG-09, VRG-10
#[test]
fn reads_and_writes_in_every_layout() {
    let mut disk = Disk::new(0);
    let data = pattern(1536, 0x5a);
    // As old drivers cut it: header, data, status.
    let (used, _, status) = disk.request(&[&header(1, 3), &data], &[1]);
    assert_eq!((used, status), (1, OK));
    let (used, read, status) = disk.request(&[&header(0, 3)], &[1536, 1]);
    assert_eq!((used, status), (1537, OK));
    assert_eq!(read, data);
    // Header and data in one, and cut everywhere around the border.
    for cut in [1, 8, 15, 16, 17, 100, 528, 1551] {
        let data = pattern(1536, cut as u8);
        let whole = [header(1, 40), data.clone()].concat();
        let (a, b) = whole.split_at(cut);
        assert_eq!(disk.request(&[a, b], &[1]).2, OK, "cut at {cut}");
        assert_eq!(disk.read(40, 1536), (data, OK));
    }
    // Data and status in one piece, or in many.
    for writable in [
        &[1537][..],
        &[1, 1536],
        &[1535, 2],
        &[512, 512, 512, 1],
        &[700, 800, 37],
    ] {
        let (used, read, status) = disk.request(&[&header(0, 3)], writable);
        assert_eq!((used, status), (1537, OK), "{writable:?}");
        assert_eq!(read, data);
    }
    let counters = disk.vf.model.function_counters(FunctionId::Vf(1)).unwrap();
    assert_eq!(counters.sectors_written, 3 + 8 * 3);
    assert_eq!(counters.sectors_read, 3 + 8 * 3 + 5 * 3);
}

// Covers: INI-12
#[test]
fn an_old_driver_reads_before_driver_ok() {
    let (mut vf, flushes) = Disk::unset(&BlkSettings::default(), None);
    vf.set_status(3);
    let ring = vf.queue(0);
    let mut disk = Disk { vf, ring, flushes };
    assert_eq!(disk.read(0, 512), (vec![0; 512], OK));
}

// Covers: BLK-04
#[test]
fn types_of_old_drivers() {
    let mut disk = Disk::new(features(&[blk::BARRIER]));
    assert_eq!(disk.simple(4), OK);
    assert_eq!(disk.simple(5), OK);
    assert_eq!(
        disk.flushes(),
        1 + 2,
        "DRIVER_OK without FLUSH, and two requests"
    );
    let data = pattern(512, 1);
    let (_, _, status) = disk.request(&[&header(0x8000_0001, 9), &data], &[1]);
    assert_eq!(status, OK);
    assert_eq!(disk.read(9, 512).0, data);
    // SCSI commands with all their parts.
    let (_, _, status) = disk.request(&[&header(2, 0), &[0; 6]], &[96, 16, 1]);
    assert_eq!(status, UNSUPP);
    for kind in [3, 6, 7, 9, 10, 14, 0x7fff_ffff] {
        assert_eq!(disk.simple(kind), UNSUPP, "type {kind}");
    }
    // Without BARRIER bit 31 makes an unknown type.
    let mut disk = Disk::new(0);
    assert_eq!(disk.simple(0x8000_0004), UNSUPP);
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
fn requests_outside_of_the_disk_fail_alone() {
    let mut disk = Disk::new(0);
    for (sector, len) in [
        (SECTORS, 512),
        (SECTORS - 1, 1024),
        (u64::MAX, 512),
        (u64::MAX / 512, 512),
        (0, 511),
        (0, 513),
    ] {
        assert_eq!(disk.read(sector, len).1, IOERR, "read {len} at {sector}");
        assert_eq!(
            disk.write(sector, &vec![1; len]),
            IOERR,
            "write {len} at {sector}"
        );
    }
    assert_eq!(disk.read(SECTORS - 1, 512), (vec![0; 512], OK));
    // Headers that are cut off, and a request without room for its status.
    assert_eq!(disk.request(&[&header(0, 0)[..15]], &[512, 1]).2, IOERR);
    assert_eq!(disk.request(&[], &[513]).2, IOERR);
    let pieces = disk.vf.readable(&[&header(1, 0), &[0; 512]]);
    disk.ring.add(&pieces);
    disk.vf.kick(0);
    assert_eq!(disk.ring.poll().map(|(_, used)| used), Some(0));
    assert_eq!(disk.read(0, 512).1, OK);
}

// Covers: VRG-07
#[test]
fn a_failing_store_fails_the_request_and_counts_only_what_was_written() {
    // Beyond the first piece that is moved at once.
    let bad = (CHUNK as u64 / SECTOR) + 1;
    let mut disk = Disk::with(&BlkSettings::default(), 0, Some(bad));
    let grow = DeviceControl::Resize { sectors: 4 * bad };
    disk.vf.model.control(FunctionId::Vf(1), &grow).unwrap();
    let len = CHUNK + 4096;
    let (used, data, status) = disk.request(&[&header(0, 0)], &[len, 1]);
    assert_eq!((used as usize, status), (CHUNK, IOERR));
    assert_eq!(data[..CHUNK], vec![0; CHUNK]);
    assert_eq!(data[CHUNK], 0xaa);
    assert_eq!(disk.write(bad, &[1; 512]), IOERR);
    assert_eq!(disk.write(bad + 1, &[1; 512]), OK);
}

#[test]
fn a_read_only_disk_is_not_written() {
    let settings = BlkSettings {
        read_only: true,
        ..BlkSettings::default()
    };
    let mut disk = Disk::with(&settings, features(&[blk::RO]), None);
    assert_eq!(disk.write(0, &[1; 512]), IOERR);
    assert_eq!(disk.read(0, 512), (vec![0; 512], OK));
    assert_eq!(disk.request(&[&header(11, 0), &[0; 16]], &[1]).2, UNSUPP);
    assert_eq!(disk.simple(4), OK);
}

#[test]
fn the_serial_number_fits_any_buffer() {
    let settings = BlkSettings {
        serial: "0123456789abcdefghijXYZ".into(),
        ..BlkSettings::default()
    };
    let mut disk = Disk::with(&settings, 0, None);
    let (used, data, status) = disk.request(&[&header(8, 0)], &[20, 1]);
    assert_eq!((used, status), (21, OK));
    assert_eq!(data, b"0123456789abcdefghij");
    let (used, data, _) = disk.request(&[&header(8, 0)], &[5, 1]);
    assert_eq!((used, data.as_slice()), (6, &b"01234"[..]));
    let (used, data, status) = disk.request(&[&header(8, 0)], &[30, 1]);
    assert_eq!((used, status), (20, OK), "only what was written counts");
    assert_eq!(data[20..], [0xaa; 10]);
}

fn segment(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut s = sector.to_le_bytes().to_vec();
    s.extend(sectors.to_le_bytes());
    s.extend(flags.to_le_bytes());
    s
}

#[test]
fn discard_and_write_zeroes() {
    let mut disk = Disk::new(features(&[blk::DISCARD, blk::WRITE_ZEROES]));
    let full = vec![0xff; 16 * 512];
    for (kind, flags) in [(11, 0), (13, 0), (13, 1)] {
        assert_eq!(disk.write(0, &full), OK);
        let two = [segment(1, 2, flags), segment(8, 1, flags)].concat();
        assert_eq!(disk.request(&[&header(kind, 0), &two], &[1]).2, OK);
        let data = disk.read(0, 16 * 512).0;
        for sector in 0..16 {
            let gone = [1, 2, 8].contains(&sector);
            let expected = if gone { 0 } else { 0xff };
            assert!(
                data[sector * 512..][..512].iter().all(|b| *b == expected),
                "{sector}"
            );
        }
    }
    // One wrong segment: nothing happens, not even to the right one.
    assert_eq!(disk.write(0, &full), OK);
    let good = segment(0, 1, 0);
    for (kind, bad, status) in [
        (11, segment(SECTORS, 1, 0), IOERR),
        (11, segment(0, MAX_ERASE_SECTORS + 1, 0), IOERR),
        (11, segment(u64::MAX, 1, 0), IOERR),
        (11, segment(0, 1, 1), UNSUPP),
        (13, segment(0, 1, 2), UNSUPP),
        (13, vec![0; 15], IOERR),
        (13, [0; 16].repeat(MAX_ERASE_SEGMENTS as usize), IOERR),
    ] {
        let both = [good.clone(), bad].concat();
        assert_eq!(disk.request(&[&header(kind, 0), &both], &[1]).2, status);
    }
    assert_eq!(disk.request(&[&header(13, 0)], &[1]).2, IOERR, "no segment");
    assert_eq!(disk.read(0, 16 * 512).0, full);
    // On a disk that is large enough the length of a segment is limited all the same.
    let grow = DeviceControl::Resize {
        sectors: 2 * u64::from(MAX_ERASE_SECTORS),
    };
    disk.vf.model.control(FunctionId::Vf(1), &grow).unwrap();
    for (sectors, status) in [(MAX_ERASE_SECTORS, OK), (MAX_ERASE_SECTORS + 1, IOERR)] {
        let one = segment(512, sectors, 0);
        assert_eq!(disk.request(&[&header(11, 0), &one], &[1]).2, status);
    }
}

#[test]
fn a_long_transfer_through_an_indirect_table() {
    let mut disk = Disk::new(features(&[virtio_pci_spec::features::INDIRECT_DESC]));
    let grow = DeviceControl::Resize { sectors: 4096 };
    disk.vf.model.control(FunctionId::Vf(1), &grow).unwrap();
    let data = pattern(1 << 20, 3);
    let parts: Vec<&[u8]> = data.chunks(65536).collect();
    let mut pieces = disk.vf.readable(&[&header(1, 7)]);
    pieces.extend(disk.vf.readable(&parts));
    let status = disk.vf.writable(&[1]);
    pieces.extend(&status);
    disk.ring.add_indirect(&pieces);
    disk.vf.kick(0);
    assert_eq!(disk.ring.poll().map(|(_, used)| used), Some(1));
    assert_eq!(disk.vf.bytes(&status), [OK]);
    let mut pieces = disk.vf.readable(&[&header(0, 7)]);
    let room: Vec<Buffer> = disk.vf.writable(&[100_000, 900_000, 48_576, 1]);
    pieces.extend(&room);
    disk.ring.add_indirect(&pieces);
    disk.vf.kick(0);
    assert_eq!(disk.ring.poll().map(|(_, used)| used), Some((1 << 20) + 1));
    let mut back = disk.vf.bytes(&room);
    assert_eq!(back.pop(), Some(OK));
    assert!(back == data);
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a driver asks for, every request ends and the device goes on.
    #[test]
    fn any_request_ends(
        requests in prop::collection::vec(
            (
                prop_oneof![0..16u32, any::<u32>()],
                prop_oneof![0..SECTORS + 2, any::<u64>()],
                prop::collection::vec(any::<u8>(), 0..1100),
                prop::collection::vec(1..1500usize, 1..4),
                0..20usize,
            ),
            1..30,
        ),
        accepted in any::<u32>(),
    ) {
        let offered = BlkSettings::default().features(true) as u32;
        let mut disk = Disk::new(accepted & offered);
        for (kind, sector, data, writable, cut) in requests {
            let whole = [header(kind, sector), data].concat();
            let (a, b) = whole.split_at(cut.clamp(1, whole.len() - 1));
            let (used, bytes, status) = disk.request(&[a, b], &writable);
            prop_assert!(status <= UNSUPP);
            prop_assert!(used as usize <= bytes.len() + 1);
        }
        let counters = disk.vf.model.function_counters(FunctionId::Vf(1)).unwrap();
        prop_assert_eq!((counters.needs_reset, counters.dma_forbidden), (0, 0));
        prop_assert_eq!(disk.read(0, 512).1, OK);
    }
}
