// SPDX-License-Identifier: GPL-2.0-or-later
//! The entropy device behind the model: a legacy driver of VF 1.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use virtio_pci_spec::legacy::Register;

use super::*;
use crate::testing::{DriverRing, LegacyVf};

/// Gives 1, 2, 3, ... so that a test can tell which bytes came from where; can be made to fail.
struct Counting {
    next: u8,
    dry: Arc<AtomicBool>,
}

impl Source for Counting {
    fn fill(&mut self, buf: &mut [u8]) -> io::Result<()> {
        if self.dry.load(Ordering::Relaxed) {
            return Err(io::Error::other("dry"));
        }
        for byte in buf {
            *byte = self.next;
            self.next = self.next.wrapping_add(1);
        }
        Ok(())
    }
}

fn start(bytes_per_second: u64) -> (LegacyVf, DriverRing, Arc<AtomicBool>) {
    let dry = Arc::new(AtomicBool::new(false));
    let settings = RngSettings {
        bytes_per_second,
        ..RngSettings::default()
    };
    let config = ModelConfig::new(DeviceType::Entropy, 1);
    let model = model(config, &settings, &mut |function| {
        Ok(Box::new(Counting {
            next: 1,
            dry: match function {
                FunctionId::Pf => Arc::default(),
                FunctionId::Vf(_) => Arc::clone(&dry),
            },
        }))
    })
    .unwrap();
    let mut vf = LegacyVf::start(model, 1);
    vf.negotiate(0);
    let ring = vf.queue(0);
    vf.driver_ok();
    (vf, ring, dry)
}

// Covers: RNG-01
#[test]
fn there_are_no_features_and_no_configuration() {
    let (mut vf, _, _) = start(0);
    assert_eq!(vf.offered() & 0xff_ffff, 0);
    vf.set(Register::QueueSelect, 0);
    assert_eq!(vf.get(Register::QueueSize), 8);
    vf.set(Register::QueueSelect, 1);
    assert_eq!(vf.get(Register::QueueSize), 0);
    for (offset, len) in [(0, 1), (0, 4), (4, 2), (255, 1)] {
        let read = vf.admin.config_read(&mut vf.model, 1, offset, len);
        assert_eq!(read.status().0, 22, "read of {len} at {offset}");
        let write = vf
            .admin
            .config_write(&mut vf.model, 1, offset, &[0; 4][..len]);
        assert_eq!(write.status().0, 22, "write of {len} at {offset}");
    }
}

// Covers: RNG-02
#[test]
fn every_buffer_is_filled_and_counted() {
    let (mut vf, mut ring, _) = start(0);
    let mut total = 0;
    for sizes in [&[1][..], &[64], &[3, 5, 7], &[0x2_0000]] {
        let room = vf.writable(sizes);
        ring.add(&room);
        vf.kick(0);
        let (_, used) = ring.poll().unwrap();
        let want: usize = sizes.iter().sum();
        assert_eq!(used as usize, want.min(65536));
        let got = vf.bytes(&room);
        for (i, byte) in got.iter().take(used as usize).enumerate() {
            assert_eq!(*byte, (total + i as u64 + 1) as u8);
        }
        // What the used length does not cover was not touched.
        assert!(got.iter().skip(used as usize).all(|b| *b == 0xaa));
        total += u64::from(used);
    }
    assert_eq!((vf.number("bytes"), vf.number("buffers")), (total, 4));
}

// Covers: RNG-02
#[test]
fn wrong_buffers_come_back_and_are_noted() {
    let (mut vf, mut ring, _) = start(0);
    let only_readable = vf.readable(&[&[1, 2, 3]]);
    ring.add(&only_readable);
    let mut both = vf.readable(&[&[9]]);
    let room = vf.writable(&[4]);
    both.extend(&room);
    ring.add(&both);
    vf.kick(0);
    assert_eq!(ring.poll().unwrap().1, 0);
    assert_eq!(ring.poll().unwrap().1, 4);
    assert_eq!(vf.bytes(&room), [1, 2, 3, 4]);
    let counters = vf.model.counters();
    assert_eq!(counters.violation("rng_empty_buffer"), 1);
    assert_eq!(counters.violation("rng_readable_buffer"), 2);
}

#[test]
fn a_limited_source_makes_drivers_wait_but_not_for_ever() {
    let (mut vf, mut ring, _) = start(1000);
    let mut given = Vec::new();
    let rooms: Vec<_> = (0..4).map(|_| vf.writable(&[64])).collect();
    for room in &rooms {
        ring.add(room);
    }
    let mut now = 1;
    vf.model.tick(now);
    vf.kick(0);
    // A tenth of a second's worth is there at once, so one buffer of 64 and no second one.
    while let Some((_, used)) = ring.poll() {
        given.push((now, used));
    }
    assert_eq!(given, [(1, 64)]);
    for _ in 0..1000 {
        // Notifications while it waits must not pile up timers.
        vf.kick(0);
    }
    let mut ticks = 0;
    while given.len() < 4 {
        now = vf.model.next_deadline().expect("it wakes itself");
        vf.model.tick(now);
        ticks += 1;
        while let Some((_, used)) = ring.poll() {
            given.push((now, used));
        }
        assert!(ticks < 20, "{given:?}");
    }
    // 256 bytes with 100 saved up take 156 ms.
    assert!((150_000_000..170_000_000).contains(&now), "{now}");
    assert_eq!(vf.number("bytes"), 256);
}

#[test]
fn a_driver_that_wants_very_much_does_not_keep_the_others_waiting() {
    let settings = RngSettings {
        queue_size: 64,
        ..RngSettings::default()
    };
    let config = ModelConfig::new(DeviceType::Entropy, 1);
    let model = model(config, &settings, &mut |_| {
        Ok(Box::new(Counting {
            next: 1,
            dry: Arc::default(),
        }))
    });
    let mut vf = LegacyVf::start(model.unwrap(), 1);
    vf.negotiate(0);
    let mut ring = vf.queue(0);
    vf.driver_ok();
    let room = vf.writable(&[65536]);
    for _ in 0..40 {
        ring.add(&room);
    }
    vf.kick(0);
    for served in [16, 32, 40] {
        assert_eq!(ring.used_idx(), served);
        if let Some(now) = vf.model.next_deadline() {
            vf.model.tick(now);
        }
    }
    assert_eq!(vf.number("bytes"), 40 * 65536);
}

#[test]
fn a_change_of_the_limit_counts_at_once() {
    let (mut vf, mut ring, _) = start(1);
    let room = vf.writable(&[64]);
    ring.add(&room);
    ring.add(&room);
    vf.kick(0);
    // One byte a second: each buffer is as small as that.
    assert_eq!(ring.poll().unwrap().1, 1);
    assert_eq!(ring.poll(), None);
    let faster = DeviceControl::Rate {
        bytes_per_second: 0,
    };
    vf.model.control(FunctionId::Vf(1), &faster).unwrap();
    vf.model.tick(10);
    assert_eq!(ring.poll().unwrap().1, 64);
    let wrong = vf
        .model
        .control(FunctionId::Vf(1), &DeviceControl::Link { up: true });
    assert_eq!(wrong, Err(ControlError::NotSupported("rng")));
}

#[test]
fn a_source_without_bytes_is_asked_again() {
    let (mut vf, mut ring, dry) = start(0);
    dry.store(true, Ordering::Relaxed);
    ring.add(&vf.writable(&[16]));
    vf.kick(0);
    assert_eq!(ring.poll(), None);
    assert_eq!(vf.number("source_errors"), 1);
    dry.store(false, Ordering::Relaxed);
    let due = vf.model.next_deadline().unwrap();
    vf.model.tick(due);
    assert_eq!(ring.poll().unwrap().1, 16);
}

#[test]
fn a_reset_while_a_buffer_waits_leaves_it_alone() {
    let (mut vf, mut ring, _) = start(10);
    let room = vf.writable(&[8]);
    for _ in 0..2 {
        ring.add(&room);
    }
    vf.kick(0);
    assert_eq!(ring.poll().unwrap().1, 1);
    vf.set_status(0);
    vf.model.tick(u64::MAX / 2);
    assert_eq!(ring.poll(), None);
    let counters = vf.model.function_counters(FunctionId::Vf(1)).unwrap();
    assert_eq!((counters.dma_forbidden, counters.needs_reset), (0, 0));
}

#[test]
fn allowances_add_up() {
    let mut a = Allowance::new(3, 0);
    assert_eq!(a.take(100, 0), Ok(1));
    // A third of a second for each byte, whatever the pattern of questions.
    let mut given = 0;
    for ms in 1..=10_000u64 {
        if a.take(100, ms * 1_000_000).is_ok() {
            given += 1;
        }
    }
    assert!((29..=30).contains(&given), "{given}");
    let mut idle = Allowance::new(1000, 0);
    assert_eq!(idle.take(64, 0), Ok(64));
    // Nothing beyond a tenth of a second is saved up.
    assert_eq!(idle.take(1 << 20, 3600 * SECOND_NS), Ok(100));
    assert!(idle.take(1 << 20, 3600 * SECOND_NS).is_err());
}
