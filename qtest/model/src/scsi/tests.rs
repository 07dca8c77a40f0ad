// SPDX-License-Identifier: GPL-2.0-or-later
//! The SCSI host behind the model: a legacy driver of VF 1.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use proptest::prelude::*;
use virtio_pci_spec::features::{bit, INDIRECT_DESC};

use super::request::{encode_lun, response};
use super::sense::{CHECK_CONDITION, GOOD};
use super::*;
use crate::blk::backend::RamDisk;
use crate::testing::{DriverRing, LegacyVf};

const SECTORS: u64 = 256;
const LUN0: [u8; 8] = [1, 0, 0x40, 0, 0, 0, 0, 0];

/// A store that counts flushes and has a bad sector.
struct Probe {
    disk: RamDisk,
    flushes: Arc<AtomicU64>,
    bad: Option<u64>,
}

impl Probe {
    fn check(&self, offset: u64, len: usize) -> io::Result<()> {
        match self.bad {
            Some(bad) if offset / SECTOR <= bad && bad * SECTOR < offset + len as u64 => {
                Err(io::Error::other("bad sector"))
            }
            _ => Ok(()),
        }
    }
}

impl Backend for Probe {
    fn len(&self) -> u64 {
        self.disk.len()
    }
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.check(offset, buf.len())?;
        self.disk.read(offset, buf)
    }
    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check(offset, data.len())?;
        self.disk.write(offset, data)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.discard(offset, len)
    }
    fn zero(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.zero(offset, len)
    }
    fn resize(&mut self, len: u64) -> io::Result<()> {
        self.disk.resize(len)
    }
}

/// What came back for a request.
#[derive(Debug, PartialEq, Eq)]
struct Reply {
    used: u32,
    sense_len: u32,
    residual: u32,
    status: u8,
    response: u8,
    sense: Vec<u8>,
    data: Vec<u8>,
}

impl Reply {
    fn of(used: u32, bytes: &[u8], sense_size: usize) -> Self {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(bytes[8..10], [0, 0], "status qualifier");
        Reply {
            used,
            sense_len: word(0),
            residual: word(4),
            status: bytes[10],
            response: bytes[11],
            sense: bytes[12..12 + sense_size].to_vec(),
            data: bytes[12 + sense_size..].to_vec(),
        }
    }

    /// Sense key, code and qualifier of a CHECK CONDITION.
    fn check(&self) -> Sense {
        assert_eq!(
            (self.response, self.status),
            (response::OK, CHECK_CONDITION)
        );
        assert_eq!((self.sense_len, self.sense[0]), (18, 0x70));
        assert_eq!(self.sense[7], 10, "additional length");
        Sense {
            key: self.sense[2],
            asc: self.sense[12],
            ascq: self.sense[13],
        }
    }

    fn good(&self) -> &[u8] {
        assert_eq!(
            (self.response, self.status),
            (response::OK, GOOD),
            "{self:?}"
        );
        assert_eq!(self.sense_len, 0);
        &self.data
    }
}

struct Host {
    vf: LegacyVf,
    control: DriverRing,
    events: DriverRing,
    requests: DriverRing,
    flushes: Arc<AtomicU64>,
    cdb_size: usize,
    sense_size: usize,
    next_id: u64,
}

impl Host {
    fn unset(settings: &ScsiSettings, bad: Option<u64>) -> (LegacyVf, Arc<AtomicU64>) {
        let flushes = Arc::new(AtomicU64::new(0));
        let model = model(
            ModelConfig::new(DeviceType::Scsi, 1),
            settings,
            &mut |function| {
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

    fn with(settings: &ScsiSettings, accepted: u32, bad: Option<u64>) -> Self {
        let (mut vf, flushes) = Self::unset(settings, bad);
        vf.negotiate(accepted);
        let (control, events, requests) = (vf.queue(0), vf.queue(1), vf.queue(2));
        vf.driver_ok();
        Host {
            vf,
            control,
            events,
            requests,
            flushes,
            cdb_size: 32,
            sense_size: 96,
            next_id: 1,
        }
    }

    /// Ready for commands: the unit attention of power-on is over.
    fn new() -> Self {
        Self::ready(&ScsiSettings::default(), 0, None)
    }

    fn ready(settings: &ScsiSettings, accepted: u32, bad: Option<u64>) -> Self {
        let mut host = Self::with(settings, accepted, bad);
        assert_eq!(host.plain(&[0; 6]).check(), Sense::POWER_ON);
        host
    }

    fn header(&mut self, lun: [u8; 8], cdb: &[u8]) -> Vec<u8> {
        let mut h = lun.to_vec();
        h.extend(self.next_id.to_le_bytes());
        self.next_id += 1;
        h.extend([0; 3]);
        h.extend(cdb);
        h.resize(19 + self.cdb_size, 0);
        h
    }

    fn send(&mut self, lun: [u8; 8], cdb: &[u8], out: &[u8], room: usize) -> Option<Reply> {
        let header = self.header(lun, cdb);
        let mut pieces = self.vf.readable(&[&header]);
        if !out.is_empty() {
            pieces.extend(self.vf.readable(&[out]));
        }
        let mut writable = self.vf.writable(&[12 + self.sense_size]);
        if room > 0 {
            writable.extend(self.vf.writable(&[room]));
        }
        pieces.extend(&writable);
        self.requests.add(&pieces);
        self.vf.kick(2);
        let (_, used) = self.requests.poll()?;
        Some(Reply::of(used, &self.vf.bytes(&writable), self.sense_size))
    }

    fn to(&mut self, lun: [u8; 8], cdb: &[u8], out: &[u8], room: usize) -> Reply {
        self.send(lun, cdb, out, room).expect("every request ends")
    }

    fn plain(&mut self, cdb: &[u8]) -> Reply {
        self.to(LUN0, cdb, &[], 0)
    }

    fn get(&mut self, cdb: &[u8], room: usize) -> Reply {
        self.to(LUN0, cdb, &[], room)
    }

    fn read(&mut self, lba: u32, blocks: u16) -> Reply {
        let cdb = ten(0x28, lba, blocks);
        self.get(&cdb, usize::from(blocks) * 512)
    }

    fn write(&mut self, lba: u32, data: &[u8]) -> Reply {
        let cdb = ten(0x2a, lba, (data.len() / 512) as u16);
        self.to(LUN0, &cdb, data, 0)
    }

    /// A control request; the bytes written to the driver.
    fn ask(&mut self, readable: &[u8], room: usize) -> Vec<u8> {
        let mut pieces = self.vf.readable(&[readable]);
        let writable = self.vf.writable(&[room]);
        pieces.extend(&writable);
        self.control.add(&pieces);
        self.vf.kick(0);
        let (_, used) = self.control.poll().expect("every request ends");
        let mut bytes = self.vf.bytes(&writable);
        bytes.truncate(used as usize);
        bytes
    }

    fn manage(&mut self, function: u32, lun: [u8; 8], id: u64) -> u8 {
        let mut r = 0u32.to_le_bytes().to_vec();
        r.extend(function.to_le_bytes());
        r.extend(lun);
        r.extend(id.to_le_bytes());
        let reply = self.ask(&r, 1);
        assert_eq!(reply.len(), 1);
        reply[0]
    }

    fn set(&mut self, control: &DeviceControl) {
        self.vf.model.control(FunctionId::Vf(1), control).unwrap();
        self.vf.model.tick(0);
    }

    /// Gives the device a buffer for an event.
    fn event_buffer(&mut self, len: usize) -> crate::testing::Buffer {
        let room = self.vf.writable(&[len]);
        self.events.add(&room);
        self.vf.kick(1);
        room[0]
    }

    fn event(&mut self, buffer: crate::testing::Buffer) -> Option<Vec<u8>> {
        let (_, used) = self.events.poll()?;
        let mut bytes = self.vf.bytes(&[buffer]);
        bytes.truncate(used as usize);
        Some(bytes)
    }

    fn violations(&self, rule: &str) -> u64 {
        self.vf.model.counters().violation(rule)
    }

    fn number(&self, name: &str) -> u64 {
        let all = self.vf.model.device_numbers(FunctionId::Vf(1));
        all.iter().find(|(n, _)| *n == name).unwrap().1
    }
}

fn ten(op: u8, lba: u32, blocks: u16) -> Vec<u8> {
    let mut cdb = vec![op, 0];
    cdb.extend(lba.to_be_bytes());
    cdb.push(0);
    cdb.extend(blocks.to_be_bytes());
    cdb.push(0);
    cdb
}

fn sixteen(op: u8, lba: u64, blocks: u32) -> Vec<u8> {
    let mut cdb = vec![op, 0];
    cdb.extend(lba.to_be_bytes());
    cdb.extend(blocks.to_be_bytes());
    cdb.extend([0; 2]);
    cdb
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ seed)
        .collect()
}

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
    assert_eq!(host.violations("scsi_command_cut_off"), 1);
    // Sizes beyond all measure are not obeyed.
    host.vf.set_config(24, &261u32.to_le_bytes());
    let reply = host.plain(&[0; 6]);
    assert_eq!((reply.response, reply.used), (response::FAILURE, 12));
    assert_eq!(host.violations("scsi_sizes"), 1);
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
    assert_eq!(host.number("overruns"), 6);
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
fn unit_attentions_come_once_and_let_three_commands_pass() {
    let mut host = Host::with(&ScsiSettings::default(), 0, None);
    host.get(&[0x12, 0, 0, 0, 36, 0], 36).good();
    let luns = host.get(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], 16);
    assert_eq!(
        luns.good(),
        [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(host.read(0, 1).check(), Sense::POWER_ON);
    assert_eq!(host.read(0, 1).good(), [0; 512]);
    // REQUEST SENSE takes them as data.
    assert_eq!(host.manage(5, LUN0, 0), response::OK);
    assert_eq!(host.manage(4, LUN0, 0), response::OK);
    let sense = host.get(&[3, 0, 0, 0, 18, 0], 18);
    assert_eq!(sense.good(), Sense::UNIT_RESET.fixed());
    let sense = host.get(&[3, 1, 0, 0, 8, 0], 8);
    assert_eq!(sense.good(), Sense::NEXUS_LOSS.descriptor());
    let sense = host.get(&[3, 0, 0, 0, 18, 0], 18);
    assert_eq!(sense.good(), Sense::NONE.fixed());
    assert_eq!(host.plain(&[0; 6]).good(), b"");
    assert_eq!(host.plain(&[0xff; 16]).check(), Sense::INVALID_OPCODE);
    assert_eq!(host.number("check_conditions"), 2);
}

#[test]
fn other_units_and_targets() {
    let mut host = Host::new();
    let inquiry = [0x12, 0, 0, 0, 36, 0];
    let luns = |select: u8| [0xa0, 0, select, 0, 0, 0, 0, 0, 0, 32, 0, 0];
    // Another LUN of the target: asked what it is, it is nothing.
    let other = encode_lun(1);
    assert_eq!(host.to(other, &inquiry, &[], 36).good()[0], 0x7f);
    assert_eq!(host.to(other, &[0; 6], &[], 0).check(), Sense::NO_UNIT);
    assert_eq!(
        host.to(other, &ten(0x28, 0, 1), &[], 512).check(),
        Sense::NO_UNIT
    );
    assert_eq!(host.to(other, &luns(0), &[], 32).good()[3], 8);
    let sense = host.to(other, &[3, 0, 0, 0, 18, 0], &[], 18);
    assert_eq!(sense.good(), Sense::NO_UNIT.fixed());
    // The well-known one.
    let known = [1, 0, 0xc1, 1, 0, 0, 0, 0];
    assert_eq!(host.to(known, &inquiry, &[], 36).good()[0], 0x1e);
    let list = host.to(known, &luns(2), &[], 32);
    assert_eq!((list.good()[3], &list.data[16..18]), (16, &[0xc1u8, 1][..]));
    assert_eq!(
        host.to(known, &luns(3), &[], 32).check(),
        Sense::INVALID_FIELD
    );
    assert_eq!(
        host.to(known, &ten(0x28, 0, 1), &[], 512).check(),
        Sense::INVALID_OPCODE
    );
    // No such target, no such address.
    for (n, lun) in [
        [1, 1, 0x40, 0, 0, 0, 0, 0],
        [1, 255, 0x40, 0, 0, 0, 0, 0],
        [0, 0, 0x40, 0, 0, 0, 0, 0],
        [1, 0, 0x40, 0, 1, 0, 0, 0],
    ]
    .into_iter()
    .enumerate()
    {
        let reply = host.to(lun, &inquiry, &[], 36);
        assert_eq!((reply.response, reply.residual), (response::BAD_TARGET, 36));
        assert_eq!(reply.used, 108);
        assert_eq!(host.number("bad_targets"), n as u64 + 1);
    }
    assert_eq!(host.violations("scsi_lun"), 2);
    for (lun, code) in [
        (LUN0, response::OK),
        (other, response::INCORRECT_LUN),
        ([1, 1, 0x40, 0, 0, 0, 0, 0], response::BAD_TARGET),
        ([0; 8], response::BAD_TARGET),
    ] {
        assert_eq!(host.manage(7, lun, 0), code);
        let mut query = 1u32.to_le_bytes().to_vec();
        query.extend(lun);
        query.extend([0xff; 4]);
        assert_eq!(host.ask(&query, 5), vec![0, 0, 0, 0, code]);
    }
}

#[test]
fn tasks_of_a_disk_that_does_not_answer() {
    let mut host = Host::new();
    host.set(&DeviceControl::Stall { on: true });
    let mut ids = Vec::new();
    for lba in 0..3 {
        ids.push(host.next_id);
        assert_eq!(host.send(LUN0, &ten(0x28, lba, 1), &[], 512), None);
    }
    assert_eq!(host.number("held"), 3);
    assert_eq!(host.manage(6, LUN0, ids[1]), response::FUNCTION_SUCCEEDED);
    assert_eq!(host.manage(6, LUN0, 0xdead), response::OK);
    assert_eq!(host.manage(7, LUN0, 0), response::FUNCTION_SUCCEEDED);
    assert_eq!(host.manage(2, LUN0, 0), response::FUNCTION_REJECTED);
    assert_eq!(host.manage(99, LUN0, 0), response::FUNCTION_REJECTED);
    // One is aborted: it comes back, and before the function does.
    assert_eq!(host.manage(0, LUN0, ids[1]), response::OK);
    let (head, used) = host.requests.poll().expect("it is back");
    // Two descriptors of the first request ever, three of the first read.
    assert_eq!((head, used), (2 + 3, 108));
    assert_eq!(
        host.manage(6, LUN0, ids[1]),
        response::OK,
        "no longer there"
    );
    assert_eq!(host.manage(0, LUN0, ids[1]), response::OK);
    assert!(host.requests.poll().is_none());
    // The disk goes on: the others are answered, in order.
    host.set(&DeviceControl::Stall { on: false });
    assert_eq!(host.requests.poll().map(|u| u.1), Some(108 + 512));
    assert_eq!(host.requests.poll().map(|u| u.1), Some(108 + 512));
    assert!(host.requests.poll().is_none());
    assert_eq!(host.manage(7, LUN0, 0), response::OK);
    // A reset of the unit ends all of them, each with its own response.
    host.set(&DeviceControl::Stall { on: true });
    let header = host.header(LUN0, &[0; 6]);
    let mut pieces = host.vf.readable(&[&header]);
    let writable = host.vf.writable(&[108]);
    pieces.extend(&writable);
    host.requests.add(&pieces);
    host.vf.kick(2);
    assert!(host.requests.poll().is_none());
    assert_eq!(host.manage(5, LUN0, 0), response::OK);
    let (_, used) = host.requests.poll().unwrap();
    let reply = Reply::of(used, &host.vf.bytes(&writable), 96);
    assert_eq!(reply.response, response::RESET);
    host.set(&DeviceControl::Stall { on: false });
    assert_eq!(host.plain(&[0; 6]).check(), Sense::UNIT_RESET);
    assert_eq!(host.number("aborted"), 2);
}

// Covers: INI-07
#[test]
fn a_device_reset_forgets_tasks() {
    let mut host = Host::new();
    host.set(&DeviceControl::Stall { on: true });
    assert_eq!(host.send(LUN0, &ten(0x28, 0, 1), &[], 512), None);
    host.vf.set_status(0);
    host.set(&DeviceControl::Stall { on: false });
    assert!(host.requests.poll().is_none());
    assert_eq!(host.number("held"), 0);
    let c = host.vf.model.function_counters(FunctionId::Vf(1)).unwrap();
    assert_eq!((c.dma_forbidden, c.needs_reset), (0, 0));
    // The unit says that it was off.
    host.vf.negotiate(0);
    host.requests = host.vf.queue(2);
    host.vf.driver_ok();
    assert_eq!(host.plain(&[0; 6]).check(), Sense::POWER_ON);
}

fn change() -> u32 {
    1 << config::feature::CHANGE | 1 << config::feature::HOTPLUG
}

// Covers: SCS-01
#[test]
fn a_resize_is_told_to_a_driver_that_wants_to_know() {
    let mut host = Host::ready(&ScsiSettings::default(), change(), None);
    let buffer = host.event_buffer(16);
    assert_eq!(host.event(buffer), None, "nothing to tell yet");
    host.set(&DeviceControl::Resize { sectors: 1000 });
    let event = host.event(buffer).unwrap();
    assert_eq!(
        event,
        [3, 0, 0, 0, 1, 0, 0x40, 0, 0, 0, 0, 0, 0x2a, 9, 0, 0]
    );
    assert_eq!(host.plain(&[0; 6]).check(), Sense::CAPACITY_CHANGED);
    assert_eq!(
        host.get(&ten(0x25, 0, 0), 8).good()[..4],
        999u32.to_be_bytes()
    );
    // No buffer: the event is lost, and the next buffer says so.
    host.set(&DeviceControl::Resize { sectors: 2000 });
    assert_eq!(
        (host.number("events"), host.number("events_missed")),
        (1, 1)
    );
    let buffer = host.event_buffer(16);
    assert_eq!(host.event(buffer).unwrap()[..4], [0, 0, 0, 0x80]);
    let buffer = host.event_buffer(16);
    assert_eq!(host.event(buffer), None, "said once");
    // A buffer that is too short gets what fits.
    let _first = buffer;
    host.set(&DeviceControl::Resize { sectors: 3000 });
    host.events.poll().unwrap();
    let short = host.event_buffer(10);
    host.set(&DeviceControl::Resize { sectors: 4000 });
    assert_eq!(host.event(short).unwrap().len(), 10);
    assert_eq!(host.violations("scsi_event_room"), 1);
    let too_big = DeviceControl::Resize { sectors: u64::MAX };
    let refused = host.vf.model.control(FunctionId::Vf(1), &too_big);
    assert!(refused.unwrap_err().to_string().contains("sectors"));
    // A driver that does not know events gets none.
    let mut host = Host::ready(&ScsiSettings::default(), 0, None);
    let buffer = host.event_buffer(16);
    host.set(&DeviceControl::Resize { sectors: 1000 });
    assert_eq!(host.event(buffer), None);
    assert_eq!(host.plain(&[0; 6]).check(), Sense::CAPACITY_CHANGED);
}

#[test]
fn a_disk_is_taken_away_and_put_back() {
    let mut host = Host::ready(&ScsiSettings::default(), change(), None);
    host.write(0, &[7; 512]).good();
    for present in [false, true] {
        let buffer = host.event_buffer(16);
        host.set(&DeviceControl::Plug { present });
        let event = host.event(buffer).unwrap();
        assert_eq!((event[0], event[12]), (1, if present { 1 } else { 2 }));
        let reply = host.read(0, 1);
        match present {
            false => {
                assert_eq!(reply.response, response::BAD_TARGET);
                assert_eq!(host.manage(5, LUN0, 0), response::BAD_TARGET);
            }
            true => assert_eq!(reply.check(), Sense::POWER_ON),
        }
    }
    assert_eq!(host.read(0, 1).check(), Sense::LUNS_CHANGED);
    assert_eq!(host.read(0, 1).good(), [7; 512]);
    let again = DeviceControl::Plug { present: true };
    assert!(host.vf.model.control(FunctionId::Vf(1), &again).is_err());
    let link = DeviceControl::Link { up: true };
    assert!(host.vf.model.control(FunctionId::Vf(1), &link).is_err());
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
    assert_eq!(host.violations("scsi_request_cut_off"), 1);
    assert_eq!(host.violations("scsi_response_room"), 3);
    assert_eq!(host.violations("scsi_both_directions"), 1);
    // Control requests.
    assert_eq!(host.ask(&[0; 23], 1), vec![response::FAILURE]);
    assert_eq!(host.ask(&[3, 0, 0, 0], 1), vec![response::FAILURE]);
    assert_eq!(host.ask(&[0; 24], 0), b"");
    assert_eq!(host.violations("scsi_control_cut_off"), 1);
    assert_eq!(host.violations("scsi_control_type"), 1);
    assert_eq!(host.violations("scsi_control_room"), 1);
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a driver asks for, every request ends and the device goes on.
    #[test]
    fn any_request_ends(
        requests in prop::collection::vec(
            (
                prop_oneof![4 => Just(LUN0), 1 => any::<[u8; 8]>()],
                prop_oneof![
                    prop::sample::select(vec![0u8, 3, 8, 0xa, 0x12, 0x1a, 0x25, 0x28, 0x2a, 0x2f, 0x35, 0x42, 0x5a, 0x88, 0x8a, 0x9e, 0xa0]),
                    any::<u8>(),
                ],
                prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..31),
                0..1500usize,
                any::<bool>(),
            ),
            1..30,
        ),
        control in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..30), 0..8usize), 0..10),
        sizes in (0..300u32, 0..300u32),
    ) {
        let mut host = Host::with(&ScsiSettings::default(), change(), None);
        host.vf.set_config(24, &sizes.0.to_le_bytes());
        for (lun, op, rest, len, out) in requests {
            let cdb = [&[op][..], &rest].concat();
            let mut header = host.header(lun, &cdb);
            header.truncate(19 + 32);
            let mut pieces = host.vf.readable(&[&header]);
            if out && len > 0 {
                pieces.extend(host.vf.readable(&[&vec![3; len]]));
            }
            let room = host.vf.writable(&[if out { 108 } else { 108 + len }]);
            pieces.extend(&room);
            host.requests.add(&pieces);
            host.vf.kick(2);
            let (_, used) = host.requests.poll().expect("every request ends");
            prop_assert!(used <= room[0].len);
        }
        for (kind, rest, room) in control {
            let mut pieces = host.vf.readable(&[&[&[kind % 4, 0, 0, 0][..], &rest].concat()]);
            pieces.extend(host.vf.writable(&[room.max(1)]));
            host.control.add(&pieces);
            host.vf.kick(0);
            let (_, used) = host.control.poll().expect("every request ends");
            prop_assert!(used as usize <= room.max(1));
        }
        host.vf.set_config(24, &32u32.to_le_bytes());
        host.vf.set_config(20, &96u32.to_le_bytes());
        while host.plain(&[0; 6]).status == CHECK_CONDITION {}
        let c = host.vf.model.function_counters(FunctionId::Vf(1)).unwrap();
        prop_assert_eq!((c.needs_reset, c.dma_forbidden), (0, 0));
    }
}
