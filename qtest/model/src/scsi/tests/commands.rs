// SPDX-License-Identifier: GPL-2.0-or-later
//! SCSI commands and their requests.

use virtio_modern_spec::features::{bit, INDIRECT_DESC};

use super::*;

// Covers: SCS-01, SCS-02, LEG-06
#[test]
fn sizes_are_written_at_any_width_and_come_back_with_a_reset() {
    let (mut vf, _) = Host::unset(&ScsiSettings::default(), None);
    assert_eq!((vf.config(20, 4), vf.config(24, 4)), (96, 32));
    vf.set_config(20, &18u32.to_le_bytes());
    vf.set_config(24, &16u16.to_le_bytes());
    assert_eq!((vf.config(20, 4), vf.config(24, 4)), (18, 16));
    vf.set_config(25, &[1]);
    assert_eq!(vf.config(24, 2), 0x110);
    // The others are what they are.
    for (offset, len) in [
        (0, 4),
        (4, 4),
        (8, 4),
        (12, 4),
        (16, 4),
        (28, 2),
        (30, 2),
        (32, 4),
    ] {
        let before = vf.config(offset, len);
        vf.set_config(offset, &vec![0xff; len]);
        assert_eq!(vf.config(offset, len), before, "offset {offset}");
    }
    vf.set_status(0);
    assert_eq!((vf.config(20, 4), vf.config(24, 4)), (96, 32));
    vf.set_config(20, &[1]);
    vf.model.reset_function(FunctionId::Vf(1));
}

// Covers: SCS-02
#[test]
fn requests_have_the_lengths_that_were_written() {
    let mut host = Host::new();
    assert_eq!(host.write(7, &pattern(512, 3)).good(), b"");
    for (cdb_size, sense_size) in [(10, 96), (16, 18), (260, 300), (10, 8), (10, 0)] {
        host.vf.set_config(24, &(cdb_size as u32).to_le_bytes());
        host.vf.set_config(20, &(sense_size as u32).to_le_bytes());
        (host.cdb_size, host.sense_size) = (cdb_size, sense_size);
        assert_eq!(host.read(7, 1).good(), pattern(512, 3));
        // Sense data is cut to what fits.
        let reply = host.read(SECTORS as u32, 1);
        assert_eq!(reply.status, CHECK_CONDITION);
        let len = sense_size.min(18);
        assert_eq!(reply.sense_len as usize, len);
        assert_eq!(reply.sense[..len], Sense::LBA_OUT_OF_RANGE.fixed()[..len]);
        assert!(reply.sense[len..].iter().all(|b| *b == 0));
    }
    // A command that does not fit is not guessed at.
    host.vf.set_config(24, &6u32.to_le_bytes());
    host.cdb_size = 6;
    let reply = host.get(&ten(0x28, 7, 1)[..6], 512);
    assert_eq!((reply.response, reply.residual), (response::FAILURE, 512));
    assert_eq!(host.vf.violations("scsi_command_cut_off"), 1);
    // Sizes beyond all measure are not obeyed.
    host.vf.set_config(24, &261u32.to_le_bytes());
    let reply = host.plain(&[0; 6]);
    assert_eq!((reply.response, reply.used), (response::FAILURE, 12));
    assert_eq!(host.vf.violations("scsi_sizes"), 1);
}

// Covers: SCS-03, SCS-04, VRG-07, VRG-10
#[test]
fn requests_are_served_however_they_are_cut() {
    let mut host = Host::new();
    for cut in [1, 8, 18, 19, 20, 29, 50, 51, 52, 100, 562] {
        let data = pattern(512, cut as u8);
        let mut whole = host.header(LUN0, &ten(0x2a, 3, 1));
        whole.extend(&data);
        let (a, b) = whole.split_at(cut);
        let mut pieces = host.vf.readable(&[a, b]);
        pieces.extend(host.vf.writable(&[108]));
        host.requests.add(&pieces);
        host.vf.kick(2);
        assert_eq!(host.requests.poll().unwrap().1, 108, "cut at {cut}");
        for room in [
            &[108, 512][..],
            &[620],
            &[12, 96, 512],
            &[1, 619],
            &[109, 511],
        ] {
            let header = host.header(LUN0, &ten(0x28, 3, 1));
            let mut pieces = host.vf.readable(&[&header]);
            let writable = host.vf.writable(room);
            pieces.extend(&writable);
            host.requests.add(&pieces);
            host.vf.kick(2);
            let (_, used) = host.requests.poll().unwrap();
            let reply = Reply::of(used, &host.vf.bytes(&writable), 96);
            assert_eq!(reply.good(), data);
            assert_eq!((reply.used, reply.residual), (620, 0));
        }
    }
}

#[test]
fn the_disk_says_what_it_is() {
    let mut host = Host::new();
    let inquiry = |evpd: u8, page: u8, len: u8| [0x12, evpd, page, 0, len, 0];
    let reply = host.get(&inquiry(0, 0, 255), 255);
    let d = reply.good();
    assert_eq!(reply.residual, 255 - 36);
    assert_eq!(reply.used, 108 + 36);
    assert_eq!((d[0], d[2], d[3] & 15, d[4]), (0, 6, 2, 31));
    assert_eq!(&d[8..36], b"VLVF    SIMULATED DISK  0001");
    // Cut to the allocation length.
    let reply = host.get(&inquiry(0, 0, 5), 255);
    assert_eq!((reply.used, reply.residual), (108 + 5, 250));
    assert_eq!(reply.data[5..], [0xaa; 250]);
    let vital = |host: &mut Host, page| {
        let reply = host.get(&inquiry(1, page, 255), 255);
        let d = reply.good();
        assert_eq!((d[0], d[1]), (0, page));
        let len = usize::from(u16::from_be_bytes([d[2], d[3]]));
        assert_eq!(reply.used as usize, 108 + 4 + len);
        d[4..4 + len].to_vec()
    };
    let pages = vital(&mut host, 0);
    assert_eq!(pages, [0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2]);
    for page in pages {
        vital(&mut host, page);
    }
    assert_eq!(vital(&mut host, 0x80), b"vlvf-scsi-vf1");
    let names = vital(&mut host, 0x83);
    assert_eq!(&names[..4], [2, 1, 0, 21]);
    assert_eq!(&names[4..25], b"VLVF    vlvf-scsi-vf1");
    assert_eq!((&names[25..29], names[29] >> 4), (&[1u8, 3, 0, 8][..], 3));
    let limits = vital(&mut host, 0xb0);
    assert_eq!(limits.len(), 60);
    assert_eq!(limits[16..20], pages::MAX_UNMAP_BLOCKS.to_be_bytes());
    assert_eq!(limits[4..8], 0xffffu32.to_be_bytes());
    // More than that is refused, by those that would have to look at it all.
    host.set(&DeviceControl::Resize { sectors: 1 << 40 });
    host.plain(&[0; 6]).check();
    let verify = host.plain(&sixteen(0x8f, 0, 0xffff));
    assert_eq!(verify.good(), b"");
    let verify = host.plain(&sixteen(0x8f, 0, 0x1_0000));
    assert_eq!(verify.check(), Sense::INVALID_FIELD);
    assert_eq!(host.plain(&sixteen(0x91, 0, u32::MAX)).good(), b"");
    for (evpd, page) in [(1, 0x81), (0, 0x80), (2, 0), (3, 0)] {
        let reply = host.get(&inquiry(evpd, page, 255), 255);
        assert_eq!(reply.check(), Sense::INVALID_FIELD, "{evpd} {page:#x}");
        assert_eq!(reply.residual, 255);
    }
    let settings = ScsiSettings::default();
    assert_ne!(
        settings.serial_of(FunctionId::Pf),
        settings.serial_of(FunctionId::Vf(1))
    );
}

#[test]
fn capacity_and_modes() {
    for block_size in [512, 4096] {
        let settings = ScsiSettings {
            block_size,
            read_only: true,
            ..ScsiSettings::default()
        };
        let mut host = Host::ready(&settings, 0, None);
        let last = (SECTORS * 512 / u64::from(block_size) - 1) as u32;
        let d = host.get(&ten(0x25, 0, 0), 8);
        assert_eq!(d.good()[..4], last.to_be_bytes());
        assert_eq!(d.data[4..], block_size.to_be_bytes());
        let mut cdb = sixteen(0x9e, 0, 32);
        cdb[1] = 0x10;
        let d = host.get(&cdb, 32);
        assert_eq!(d.good()[..8], u64::from(last).to_be_bytes());
        assert_eq!(d.data[8..12], block_size.to_be_bytes());
        let exponent = (4096 / block_size).trailing_zeros() as u8;
        assert_eq!(d.data[12..15], [0, exponent, 0x80]);
        cdb[1] = 0x12;
        assert_eq!(host.get(&cdb, 32).check(), Sense::INVALID_FIELD);
        // Mode pages: 6 and 10 bytes, with and without block descriptor.
        let d = host.get(&[0x1a, 0, 0x3f, 0, 255, 0], 255);
        let all = 4 + 8 + 20 + 12;
        assert_eq!(d.used, 108 + all);
        assert_eq!(d.good()[..4], [all as u8 - 1, 0, 0x90, 8]);
        assert_eq!(d.data[8..12], block_size.to_be_bytes());
        assert_eq!(d.data[12..15], [8, 18, 4], "write-back cache");
        assert_eq!(d.data[32..34], [0x0a, 10]);
        let d = host.get(&[0x5a, 8, 0x08, 0, 0, 0, 0, 1, 0, 0], 256);
        assert_eq!(d.good()[..8], [0, 26, 0, 0x90, 0, 0, 0, 0]);
        assert_eq!(d.data[8..11], [8, 18, 4]);
        // Nothing is changeable, nothing is saved.
        let d = host.get(&[0x1a, 8, 0x48, 0, 255, 0], 255);
        assert_eq!(d.good()[4..8], [8, 18, 0, 0]);
        let saved = host.get(&[0x1a, 0, 0xc8, 0, 255, 0], 255);
        assert_eq!(saved.check(), Sense::SAVING_NOT_SUPPORTED);
        for (page, subpage) in [(0x1c, 0), (8, 1), (0x3f, 1)] {
            let d = host.get(&[0x1a, 0, page, subpage, 255, 0], 255);
            assert_eq!(d.check(), Sense::INVALID_FIELD);
        }
    }
}

// Covers: VRG-07, VRG-09
#[test]
fn blocks_are_read_and_written_by_all_commands() {
    let mut host = Host::new();
    let six = |op: u8, lba: u8, n: u8| vec![op, 0, 0, lba, n, 0];
    for (n, (write, read)) in [
        (six(0x0a, 9, 3), six(0x08, 9, 3)),
        (ten(0x2a, 9, 3), ten(0x28, 9, 3)),
        (sixteen(0x8a, 9, 3), sixteen(0x88, 9, 3)),
    ]
    .iter()
    .enumerate()
    {
        let data = pattern(1536, n as u8);
        let reply = host.to(LUN0, write, &data, 0);
        assert_eq!(
            (reply.good(), reply.residual, reply.used),
            (&b""[..], 0, 108)
        );
        let reply = host.get(read, 1536);
        assert_eq!(reply.good(), data);
        assert_eq!((reply.residual, reply.used), (0, 108 + 1536));
    }
    // More room than blocks.
    let reply = host.get(&ten(0x28, 9, 1), 1000);
    assert_eq!(
        (reply.good().len(), reply.residual, reply.used),
        (1000, 488, 108 + 512)
    );
    assert_eq!(reply.data[512..], [0xaa; 488]);
    // No blocks at all, at the very end.
    assert_eq!(host.plain(&ten(0x28, SECTORS as u32, 0)).good(), b"");
    for cdb in [
        ten(0x28, SECTORS as u32, 1),
        ten(0x28, u32::MAX, 1),
        sixteen(0x88, u64::MAX, 1),
        ten(0x2f, SECTORS as u32 - 1, 2),
        ten(0x35, SECTORS as u32 + 1, 0),
    ] {
        assert_eq!(host.get(&cdb, 512).check(), Sense::LBA_OUT_OF_RANGE);
    }
    assert_eq!(host.plain(&ten(0x2f, 0, SECTORS as u16)).good(), b"");
    let flushes = host.flushes.load(Ordering::Relaxed);
    assert_eq!(host.plain(&ten(0x35, 0, 0)).good(), b"");
    assert_eq!(host.plain(&sixteen(0x91, 0, 0)).good(), b"");
    let mut fua = ten(0x2a, 0, 1);
    fua[1] = 8;
    assert_eq!(host.to(LUN0, &fua, &[1; 512], 0).good(), b"");
    assert_eq!(host.flushes.load(Ordering::Relaxed), flushes + 3);
    let c = host.vf.model.function_counters(FunctionId::Vf(1)).unwrap();
    assert_eq!((c.sectors_written, c.sectors_read, c.flushes), (10, 10, 3));
}

#[test]
fn too_little_room_is_an_overrun_and_moves_nothing() {
    let mut host = Host::new();
    host.write(0, &[7; 1024]).good();
    for (cdb, out, room) in [
        (ten(0x28, 0, 2), 0, 1023),
        (ten(0x28, 0, 2), 0, 0),
        (ten(0x28, 0, 2), 1024, 0),
        (ten(0x2a, 0, 2), 1023, 0),
        (ten(0x2a, 0, 2), 0, 1024),
        (vec![0x12, 0, 0, 0, 36, 0], 0, 35),
    ] {
        let reply = host.to(LUN0, &cdb, &vec![9; out], room);
        assert_eq!(reply.response, response::OVERRUN);
        assert_eq!(reply.used, 108);
        assert!(reply.data.iter().all(|b| *b == 0xaa));
    }
    assert_eq!(host.read(0, 2).good(), [7; 1024]);
    assert_eq!(host.vf.number("overruns"), 6);
}

#[test]
fn a_bad_disk_and_a_protected_one() {
    let bad = 600;
    let mut host = Host::ready(&ScsiSettings::default(), 0, Some(bad));
    host.set(&DeviceControl::Resize { sectors: 2000 });
    assert_eq!(host.plain(&[0; 6]).check(), Sense::CAPACITY_CHANGED);
    // What was read before the bad sector is there, and only that is counted.
    let reply = host.read(0, 1000);
    assert_eq!(reply.check(), Sense::READ_ERROR);
    assert_eq!(reply.used, 108 + (256 << 10));
    assert_eq!(reply.residual, 1000 * 512 - (256 << 10));
    // VERIFY looks at the medium too.
    assert_eq!(host.plain(&ten(0x2f, 0, bad as u16)).good(), b"");
    let verify = host.plain(&ten(0x2f, 0, bad as u16 + 1));
    assert_eq!(verify.check(), Sense::READ_ERROR);
    let reply = host.write(bad as u32, &[1; 512]);
    assert_eq!((reply.check(), reply.residual), (Sense::WRITE_ERROR, 512));
    let settings = ScsiSettings {
        read_only: true,
        ..ScsiSettings::default()
    };
    let mut host = Host::ready(&settings, 0, None);
    assert_eq!(host.write(0, &[1; 512]).check(), Sense::WRITE_PROTECTED);
    let unmap = host.to(LUN0, &[0x42, 0, 0, 0, 0, 0, 0, 0, 8, 0], &[0; 8], 0);
    assert_eq!(unmap.check(), Sense::WRITE_PROTECTED);
    assert_eq!(host.read(0, 1).good(), [0; 512]);
}

#[test]
fn unmap_forgets_ranges() {
    let mut host = Host::new();
    let list = |ranges: &[(u64, u32)]| {
        let len = ranges.len() as u16 * 16;
        let mut l = (len + 6).to_be_bytes().to_vec();
        l.extend(len.to_be_bytes());
        l.extend([0; 4]);
        for (lba, count) in ranges {
            l.extend(lba.to_be_bytes());
            l.extend(count.to_be_bytes());
            l.extend([0; 4]);
        }
        l
    };
    let unmap = |host: &mut Host, list: &[u8]| {
        let [high, low] = (list.len() as u16).to_be_bytes();
        host.to(LUN0, &[0x42, 0, 0, 0, 0, 0, 0, high, low, 0], list, 0)
    };
    host.write(0, &[7; 16 * 512]).good();
    assert_eq!(unmap(&mut host, &list(&[(1, 2), (8, 1)])).good(), b"");
    let data = host.read(0, 16);
    for (n, block) in data.good().chunks(512).enumerate() {
        let gone = [1, 2, 8].contains(&n);
        assert!(block.iter().all(|b| (*b == 0) == gone), "block {n}");
    }
    assert_eq!(unmap(&mut host, &[]).good(), b"");
    for (bad, sense) in [
        (list(&[(0, 1), (SECTORS, 1)]), Sense::LBA_OUT_OF_RANGE),
        (list(&[(u64::MAX, 2)]), Sense::LBA_OUT_OF_RANGE),
        (list(&[(0, 1); 17]), Sense::INVALID_PARAMETER),
        (list(&[(0, 1)])[..20].to_vec(), Sense::PARAMETER_LENGTH),
        (vec![0; 3], Sense::PARAMETER_LENGTH),
    ] {
        assert_eq!(unmap(&mut host, &bad).check(), sense);
    }
    assert_eq!(host.read(0, 1).good(), [7; 512], "not even a part");
}

#[test]
fn broken_requests_fail_alone_and_are_counted() {
    let mut host = Host::new();
    let header = host.header(LUN0, &[0; 6]);
    let mut request = |readable: &[&[u8]], room: &[usize]| {
        let mut pieces = host.vf.readable(readable);
        let writable = host.vf.writable(room);
        pieces.extend(&writable);
        host.requests.add(&pieces);
        host.vf.kick(2);
        let (_, used) = host.requests.poll().expect("every request ends");
        (used, host.vf.bytes(&writable))
    };
    let (used, bytes) = request(&[&header[..50]], &[108]);
    assert_eq!((used, bytes[11]), (12, response::FAILURE));
    let (used, bytes) = request(&[&header], &[107]);
    assert_eq!((used, bytes[11]), (12, response::FAILURE));
    assert_eq!(request(&[&header], &[11]).0, 0);
    assert_eq!(request(&[&header], &[]).0, 0);
    let (used, bytes) = request(&[&header, &[0; 512]], &[108, 512]);
    assert_eq!((used, bytes[11]), (12, response::FAILURE));
    assert_eq!(host.vf.violations("scsi_request_cut_off"), 1);
    assert_eq!(host.vf.violations("scsi_response_room"), 3);
    assert_eq!(host.vf.violations("scsi_both_directions"), 1);
    // Control requests.
    assert_eq!(host.ask(&[0; 23], 1), vec![response::FAILURE]);
    assert_eq!(host.ask(&[3, 0, 0, 0], 1), vec![response::FAILURE]);
    assert_eq!(host.ask(&[0; 24], 0), b"");
    assert_eq!(host.vf.violations("scsi_control_cut_off"), 1);
    assert_eq!(host.vf.violations("scsi_control_type"), 1);
    assert_eq!(host.vf.violations("scsi_control_room"), 1);
    assert_eq!(host.plain(&[0; 6]).good(), b"");
    let c = host.vf.model.function_counters(FunctionId::Vf(1)).unwrap();
    assert_eq!(c.needs_reset, 0);
}

#[test]
fn a_long_transfer_through_an_indirect_table() {
    let mut host = Host::ready(&ScsiSettings::default(), bit(INDIRECT_DESC) as u32, None);
    host.set(&DeviceControl::Resize { sectors: 4096 });
    host.plain(&[0; 6]).check();
    let data = pattern(1 << 20, 3);
    let header = host.header(LUN0, &ten(0x2a, 7, 2048));
    let mut pieces = host.vf.readable(&[&header]);
    let parts: Vec<&[u8]> = data.chunks(65536).collect();
    pieces.extend(host.vf.readable(&parts));
    pieces.extend(host.vf.writable(&[108]));
    host.requests.add_indirect(&pieces);
    host.vf.kick(2);
    assert_eq!(host.requests.poll().map(|u| u.1), Some(108));
    let reply = host.read(7, 2048);
    assert!(reply.good() == data);
}

#[test]
fn a_modern_driver_has_as_many_request_queues_as_the_configuration_says() {
    use crate::testing::{AdminClient, Buffer, Driver, TestMemory, MODERN_FEATURES};
    let settings = ScsiSettings {
        num_queues: 3,
        ..ScsiSettings::default()
    };
    let mut model = model(
        ModelConfig::new(DeviceType::Scsi, 1),
        &settings,
        &mut |_| Ok(Box::new(RamDisk::new(SECTORS * SECTOR))),
    )
    .unwrap();
    AdminClient::ready(&mut model, &TestMemory::new(0x10_0000, 1 << 20), 1);
    let memory = TestMemory::new(0x4000_0000, 1 << 20);
    let driver = Driver::new(&mut model, FunctionId::Vf(1), &memory);
    assert!(driver.negotiate(&mut model, MODERN_FEATURES));
    let mut rings: Vec<_> = (0..5)
        .map(|q| driver.queue(&mut model, q, 0xffff))
        .collect();
    driver.driver_ok(&mut model);
    for (queue, ring) in rings.iter_mut().enumerate().skip(2) {
        let at = memory.alloc(51 + 108, 16);
        memory.put(at, &LUN0);
        memory.put(at + 8, &[0; 43]);
        ring.add(&[Buffer::readable(at, 51), Buffer::writable(at + 51, 108)]);
        driver.kick(&mut model, queue as u16);
        let used = ring.poll().map(|(_, used)| used);
        assert_eq!(used, Some(108), "queue {queue}");
        // The first finds the unit attention, the others a unit that is ready.
        let status = memory.get(at + 51 + 10, 2);
        let expected = if queue == 2 { CHECK_CONDITION } else { GOOD };
        assert_eq!(status, [expected, response::OK]);
    }
}
