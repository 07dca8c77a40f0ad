// SPDX-License-Identifier: GPL-2.0-or-later
//! The block device behind the model: a legacy driver of VF 1.

mod requests;
mod settings;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use proptest::prelude::*;
use virtio_modern_spec::features::bit;

use super::*;
use crate::disk::probe::Probe;
use crate::disk::{RamDisk, CHUNK};
use crate::testing::{Buffer, DriverRing, LegacyVf};

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
        let (mut disks, flushes) = Probe::disks(SECTORS, bad);
        let config = ModelConfig::new(DeviceType::Block, 1);
        let model = model(config, settings, &mut disks).unwrap();
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
