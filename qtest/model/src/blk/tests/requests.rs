// SPDX-License-Identifier: GPL-2.0-or-later
//! Requests of every type, good and bad.

use super::*;

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
    let mut disk = Disk::new(features(&[virtio_modern_spec::features::INDIRECT_DESC]));
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
