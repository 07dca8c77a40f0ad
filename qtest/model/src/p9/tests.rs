// SPDX-License-Identifier: GPL-2.0-or-later
//! The 9P transport behind the model: a legacy driver of VF 1.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use proptest::prelude::*;
use virtio_modern_spec::features::bit;

use super::*;
use crate::testing::{DriverRing, LegacyVf};

/// Longest message.
const MAX: usize = 256;

/// Answers with the message itself, its type made a reply's; type 99 breaks a rule.
struct Mirror {
    sessions: Arc<AtomicU64>,
}

impl Responder for Mirror {
    fn max_message(&self) -> usize {
        MAX
    }

    fn answer(
        &mut self,
        message: &[u8],
        room: usize,
        reply: &mut Vec<u8>,
    ) -> Result<(), &'static str> {
        assert!(message.len() <= MAX);
        assert!(reply.is_empty());
        if message.get(4) == Some(&99) {
            return Err("p9_test");
        }
        reply.extend(message.iter().take(room));
        if let Some(kind) = reply.get_mut(4) {
            *kind = kind.wrapping_add(1);
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
    }

    fn numbers(&self) -> Vec<(&'static str, u64)> {
        vec![("sessions", self.sessions.load(Ordering::Relaxed))]
    }
}

struct Share {
    vf: LegacyVf,
    ring: DriverRing,
    sessions: Arc<AtomicU64>,
}

impl Share {
    fn new(tag: &str) -> Self {
        let sessions = Arc::new(AtomicU64::new(0));
        let settings = P9Settings {
            tag: tag.into(),
            ..P9Settings::default()
        };
        let model = model(
            ModelConfig::new(DeviceType::P9, 1),
            &settings,
            &mut |function| {
                let counted = match function {
                    FunctionId::Pf => Arc::default(),
                    FunctionId::Vf(_) => Arc::clone(&sessions),
                };
                Ok(Box::new(Mirror { sessions: counted }))
            },
        )
        .unwrap();
        let mut vf = LegacyVf::start(model, 1);
        vf.negotiate(1);
        let ring = vf.queue(0);
        vf.driver_ok();
        Share { vf, ring, sessions }
    }

    /// One buffer; the used length and the writable part.
    fn request(&mut self, readable: &[&[u8]], writable: &[usize]) -> (u32, Vec<u8>) {
        let mut pieces = self.vf.readable(readable);
        let room = self.vf.writable(writable);
        pieces.extend(&room);
        self.ring.add(&pieces);
        self.vf.kick(0);
        let (_, used) = self.ring.poll().expect("every request ends");
        (used, self.vf.bytes(&room))
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut m = (body.len() as u32 + 7).to_le_bytes().to_vec();
    m.extend([kind, 0x34, 0x12]);
    m.extend(body);
    m
}

// Covers: P9-01
#[test]
fn the_configuration_is_the_mount_tag() {
    let mut share = Share::new("host share");
    assert_eq!(share.vf.config(0, 2), 10);
    let tag: Vec<u8> = (0..10).map(|i| share.vf.config(2 + i, 1) as u8).collect();
    assert_eq!(tag, b"host share");
    // Any part of the tag is one field.
    assert_eq!(
        share.vf.config(2, 4),
        u64::from(u32::from_le_bytes(*b"host"))
    );
    assert_eq!(share.vf.config(3, 2), u64::from(u16::from_le_bytes(*b"os")));
    assert_ne!(share.vf.offered() as u64 & bit(0), 0);
    // Nothing of it can be written.
    share.vf.set_config(0, &[1, 0]);
    share.vf.set_config(2, b"x");
    assert_eq!(share.vf.config(0, 2), 10);
    assert_eq!(share.vf.config(2, 1), u64::from(b'h'));
}

// Covers: P9-02
#[test]
fn tags_end_where_an_admin_command_no_longer_reaches() {
    let longest = "t".repeat(253) + "z";
    let mut share = Share::new(&longest);
    assert_eq!(share.vf.config(0, 2), 254);
    assert_eq!(share.vf.config(255, 1), u64::from(b'z'));
    for bad in ["", "a\0b", &"t".repeat(255)] {
        let settings = P9Settings {
            tag: (*bad).into(),
            ..P9Settings::default()
        };
        let error = settings.check().unwrap_err();
        assert!(error.contains("254"), "{error}");
    }
    let settings = P9Settings {
        queue_size: 100,
        ..P9Settings::default()
    };
    assert!(settings.check().unwrap_err().contains("queue size"));
}

// Covers: P9-01, VRG-10
#[test]
fn messages_go_there_and_back_however_they_are_cut() {
    let mut share = Share::new("t");
    let m = message(100, b"hello, how are you");
    let mut reply = m.clone();
    reply[4] = 101;
    for cut in 1..m.len() {
        let (a, b) = m.split_at(cut);
        let (used, got) = share.request(&[a, b], &[cut, 200]);
        assert_eq!(used as usize, m.len());
        assert_eq!(got[..m.len()], reply);
        assert!(
            got[m.len()..].iter().all(|b| *b == 0xaa),
            "nothing behind it"
        );
    }
    // Bytes behind the message are not part of it; the reply is cut to the room.
    let (used, got) = share.request(&[&m, &[1; 50]], &[200]);
    assert_eq!((used as usize, &got[..m.len()]), (m.len(), &reply[..]));
    let (used, got) = share.request(&[&m], &[9]);
    assert_eq!((used, got.as_slice()), (9, &reply[..9]));
    assert_eq!(share.request(&[&m], &[]).0, 0);
    assert_eq!(share.vf.violations("p9_message_size"), 0);
}

#[test]
fn broken_messages_are_completed_and_counted() {
    let mut share = Share::new("t");
    let m = message(100, b"x");
    let mut long = m.clone();
    long[0] += 1;
    let mut huge = m.clone();
    huge[..4].copy_from_slice(&(MAX as u32 + 1).to_le_bytes());
    let huge_and_there = [huge.clone(), vec![0; MAX]].concat();
    let mut endless = m.clone();
    endless[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    for (n, bad) in [&m[..3], &long, &huge, &huge_and_there, &endless]
        .into_iter()
        .enumerate()
    {
        assert_eq!(share.request(&[bad], &[100]).0, 0);
        assert_eq!(share.vf.violations("p9_message_size"), n as u64 + 1);
    }
    assert_eq!(share.request(&[], &[100]).0, 0);
    assert_eq!(share.vf.violations("p9_message_size"), 6);
    // The responder's own rules are counted under their names.
    assert_eq!(share.request(&[&message(99, b"")], &[100]).0, 0);
    assert_eq!(share.vf.violations("p9_test"), 1);
    assert_eq!(share.request(&[&m], &[100]).0, 8);
    let counters = share.vf.model.function_counters(FunctionId::Vf(1)).unwrap();
    assert_eq!((counters.requests, counters.request_errors), (8, 7));
    assert_eq!(counters.needs_reset, 0);
}

// Covers: INI-07
#[test]
fn a_reset_ends_the_session() {
    let mut share = Share::new("t");
    let before = share.sessions.load(Ordering::Relaxed);
    share.vf.set_status(0);
    assert_eq!(share.sessions.load(Ordering::Relaxed), before + 1);
    share.vf.model.reset_function(FunctionId::Vf(1));
    assert_eq!(share.sessions.load(Ordering::Relaxed), before + 2);
    let numbers = share.vf.model.device_numbers(FunctionId::Vf(1));
    assert_eq!(numbers, [("sessions", before + 2)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a driver sends, every buffer comes back and the device goes on.
    #[test]
    fn any_buffer_comes_back(
        buffers in prop::collection::vec(
            (
                prop_oneof![0..300u32, any::<u32>()],
                prop::collection::vec(any::<u8>(), 0..300),
                prop::collection::vec(0..200usize, 0..3),
            ),
            1..40,
        ),
    ) {
        let mut share = Share::new("t");
        for (size, data, writable) in buffers {
            let whole = [&size.to_le_bytes()[..], &data].concat();
            let writable: Vec<usize> = writable.into_iter().filter(|n| *n > 0).collect();
            let (used, room) = share.request(&[&whole], &writable);
            prop_assert!(used as usize <= room.len());
        }
        let m = message(100, b"x");
        prop_assert_eq!(share.request(&[&m], &[100]).0, 8);
        let counters = share.vf.model.function_counters(FunctionId::Vf(1)).unwrap();
        prop_assert_eq!((counters.needs_reset, counters.dma_forbidden), (0, 0));
    }
}
