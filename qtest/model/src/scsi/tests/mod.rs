// SPDX-License-Identifier: GPL-2.0-or-later
//! The SCSI host behind the model: a legacy driver of VF 1.

mod commands;
mod control;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use proptest::prelude::*;

use super::request::{encode_lun, response};
use super::sense::{CHECK_CONDITION, GOOD};
use super::*;
use crate::disk::probe::Probe;
use crate::disk::{RamDisk, SECTOR};
use crate::testing::{DriverRing, LegacyVf};

const SECTORS: u64 = 256;
const LUN0: [u8; 8] = [1, 0, 0x40, 0, 0, 0, 0, 0];

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
        let (mut disks, flushes) = Probe::disks(SECTORS, bad);
        let config = ModelConfig::new(DeviceType::Scsi, 1);
        let model = model(config, settings, &mut disks).unwrap();
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
        let due = self.vf.model.next_deadline().expect("it has to be woken");
        self.vf.model.tick(due);
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

/// The features with which a driver is told of events.
fn change() -> u32 {
    1 << config::feature::CHANGE | 1 << config::feature::HOTPLUG
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
