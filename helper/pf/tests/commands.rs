// SPDX-License-Identifier: GPL-2.0-or-later
//! Commands while the device keeps the rules, and the answers it may give.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::*;
use test_kit::patience::OwnTime;
use virtio_pf::{LegacyOp, OpError, PfConfig, PfState, RetryPolicy, Space, SubmitError};

fn read(offset: u8, len: u8) -> LegacyOp {
    LegacyOp::read(Space::Common, offset, len)
}

fn write(offset: u8, value: u64, len: u8) -> LegacyOp {
    LegacyOp::write(Space::Common, offset, value.to_le_bytes(), len)
}

/// Submits one operation for VF 1 and gives its end.
fn one(pf: &mut virtio_pf::Pf, op: LegacyOp) -> Result<[u8; 8], OpError> {
    pf.submit(1, op, 99, Instant::now()).unwrap();
    let done = complete(pf, 1);
    assert_eq!((done[0].member, done[0].token), (1, 99));
    done[0].result.clone()
}

// Covers: LEG-11, AVQ-09, AVQ-04, ADM-02, GRP-05
#[test]
fn registers_are_read_and_written_with_exact_sizes() {
    let (mut pf, hold) = start(TestPf::new());
    hold.device().seen.clear();
    assert_eq!(one(&mut pf, write(4, 0x0403_0201, 4)), Ok([0; 8]));
    assert_eq!(one(&mut pf, read(4, 4)), Ok([1, 2, 3, 4, 0, 0, 0, 0]));
    assert_eq!(one(&mut pf, read(6, 2)), Ok([3, 4, 0, 0, 0, 0, 0, 0]));
    let mac = LegacyOp::write(Space::Device, 0, [9, 8, 7, 6, 5, 4, 0xff, 0xff], 6);
    assert_eq!(one(&mut pf, mac), Ok([0; 8]));
    assert_eq!(
        one(&mut pf, LegacyOp::read(Space::Device, 0, 6)),
        Ok([9, 8, 7, 6, 5, 4, 0, 0])
    );
    assert_eq!(hold.device().vf_config[0][..8], [9, 8, 7, 6, 5, 4, 0, 0]);
    let seen = hold.device().seen.clone();
    let sizes: Vec<_> = seen
        .iter()
        .map(|s| (s.opcode, s.readable.len(), s.writable))
        .collect();
    assert_eq!(
        sizes,
        [
            (2, 36, 8),
            (3, 25, 12),
            (3, 25, 10),
            (4, 38, 8),
            (5, 25, 14)
        ]
    );
    for s in &seen {
        assert_eq!((s.group, s.member), (1, 1));
        assert_eq!(s.readable[4..16], [0; 12], "reserved");
        let end = s.readable.len().min(32);
        assert_eq!(s.readable[25..end], [0; 7][..end - 25], "reserved");
    }
    // Every VF has registers of its own.
    for vf in 1..=VFS {
        pf.submit(vf, write(14, vf.into(), 2), 0, Instant::now())
            .unwrap();
    }
    complete(&mut pf, 4);
    for vf in 0..usize::from(VFS) {
        assert_eq!(hold.device().vf_header[vf][14], vf as u8 + 1);
    }
    assert_eq!(hold.device().breaches, [""; 0]);
    let c = pf.counters();
    assert_eq!((c.commands[&2], c.commands[&3]), (5, 2));
    assert_eq!(c.statuses[&0], 11);
}

// Covers: GRP-05, LEG-12
#[test]
fn what_cannot_be_is_refused_before_it_reaches_the_device() {
    let (mut pf, hold) = start(TestPf::new());
    hold.device().seen.clear();
    let now = Instant::now();
    for member in [0, VFS + 1, 0xffff] {
        let e = pf.submit(member, read(0, 4), 0, now);
        let num_vfs = VFS;
        assert_eq!(e, Err(SubmitError::NoSuchVf { member, num_vfs }));
        assert!(pf.notify(member, 0, now).is_err());
    }
    for op in [
        read(2, 4),
        read(12, 4),
        read(18, 2),
        read(24, 1),
        read(0, 0),
    ] {
        let e = pf.submit(1, op, 0, now);
        assert!(matches!(e, Err(SubmitError::NotOneField { .. })), "{op:?}");
    }
    let e = pf.submit(1, LegacyOp::read(Space::Device, 4, 4), 0, now);
    assert!(matches!(e, Err(SubmitError::NotOneField { .. })));
    assert!(pf.poll(now).is_empty());
    assert!(hold.device().seen.is_empty());
}

// Covers: ADM-15, ADM-17, ADM-18
#[test]
fn only_offered_commands_that_are_used_are_asked_for() {
    for (listed, want) in [
        (0x7f, 0x7f),
        (0x3f, 0x3f),
        (1 << 40 | 0x7f, 0x7f),
        (u64::MAX, 0x7f),
        (0x3_ffff, 0x7f),
        (0x3_ffbf, 0x3f),
    ] {
        let mut d = TestPf::new();
        d.listed = listed;
        let (mut pf, hold) = start(d);
        assert_eq!(hold.device().in_use, Some(want), "{listed:#x}");
        assert_eq!(want & 3, 3);
        assert_eq!(pf.info().commands.0, want);
        assert_eq!(pf.info().commands_offered.0, listed);
        open(&mut pf, 1);
        open(&mut pf, 1);
        let info = hold.device().seen.iter().filter(|s| s.opcode == 6).count();
        assert_eq!(info, usize::from(listed & 0x40 != 0));
        assert!(one(&mut pf, read(0, 4)).is_ok());
    }
    // Without the register commands there is nothing to do.
    for listed in [0x3, 0x43, 0x1f] {
        let mut d = TestPf::new();
        d.listed = listed;
        let (error, _hold) = refuse(d, config());
        assert!(
            error.to_string().contains("legacy register commands"),
            "{error}"
        );
    }
}

#[test]
fn a_list_that_is_refused_is_not_tried_twice() {
    let mut d = TestPf::new();
    d.hook = Box::new(|seen| match seen.opcode {
        1 => Action::Refuse(22, 3),
        _ => Action::Normal,
    });
    let (error, hold) = refuse(d, config());
    let text = error.to_string();
    assert!(
        text.contains("LIST_USE") && text.contains("Q_INVALID_FIELD"),
        "{text}"
    );
    assert_eq!(hold.device().seen.len(), 2);
}

// Covers: ADM-16
#[test]
fn list_use_waits_for_everything_else() {
    let (mut pf, hold) = start(TestPf::new());
    let now = Instant::now();
    for vf in 1..=VFS {
        for token in 0..4 {
            pf.submit(vf, read(0, 4), token, now).unwrap();
        }
    }
    hold.device().hook = Box::new(|_| Action::Hold);
    pf.poll(now);
    assert_eq!(hold.device().held.len(), usize::from(VFS));
    // A recovery with all VFs busy.
    hold.device().hook = Box::new(|_| Action::Normal);
    hold.device().fail();
    let done = complete(&mut pf, 16);
    assert_eq!(done.iter().filter(|c| c.result.is_ok()).count(), 12);
    for s in &hold.device().seen {
        assert!(s.opcode != 1 || s.held == 0, "{s:?}");
    }
    let seen = hold.device().seen.clone();
    let lists = seen.iter().filter(|s| s.opcode <= 1);
    assert_eq!(lists.map(|s| s.opcode).collect::<Vec<_>>(), [0, 1, 0, 1]);
}

// Covers: GRP-07
#[test]
fn a_group_that_is_not_there_yet_is_waited_for() {
    let mut d = TestPf::new();
    d.group_ready = false;
    let mut left = 5;
    d.hook = Box::new(move |seen| {
        if seen.opcode == 0 && left > 0 {
            left -= 1;
            return Action::Refuse(22, 4);
        }
        if seen.opcode == 0 {
            return Action::Raw([reply(0, 0), 0x7fu64.to_le_bytes().to_vec()].concat(), 16);
        }
        match seen.opcode {
            1 => Action::Raw(reply(0, 0), 8),
            _ => Action::Refuse(22, 5),
        }
    });
    let (mut pf, hold) = start(d);
    let queries = hold.device().seen.iter().filter(|s| s.opcode == 0).count();
    assert_eq!(queries, 6);
    // No notification address either, which is no reason to fail.
    assert_eq!(open(&mut pf, 1).notify, None);
    assert!(!pf.vf(1).unwrap().asked, "so it is asked for again");
    assert!(pf.open(1, 1, Instant::now()).unwrap());

    let mut d = TestPf::new();
    d.group_ready = false;
    let quick = PfConfig {
        command_timeout: Duration::from_millis(200),
        ..config()
    };
    let begun = OwnTime::start();
    let (error, _hold) = refuse(d, quick);
    let text = error.to_string();
    assert!(
        text.contains("LIST_QUERY for the SR-IOV group failed"),
        "{text}"
    );
    assert!(text.contains("Q_INVALID_GROUP"), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(2));
}

// Covers: ADM-19, ADM-21
#[test]
fn unknown_statuses_count_as_invalid_and_keep_their_numbers() {
    for (status, qualifier, effective) in [
        (5, 0x99, 22),
        (17, 0, 22),
        (0xffff, 0xffff, 22),
        (22, 3, 22),
        (16, 0, 16),
        (12, 0, 12),
        (6, 1, 6),
        (28, 1, 28),
    ] {
        let (mut pf, hold) = start(TestPf::new());
        hold.device().seen.clear();
        hold.device().hook = Box::new(move |_| Action::Refuse(status, qualifier));
        let error = one(&mut pf, read(18, 1)).unwrap_err();
        assert_eq!(error, OpError::Device { status, qualifier });
        assert_eq!(error.effective_status(), effective);
        assert_eq!(
            hold.device().seen.len(),
            1,
            "no retry of {status}/{qualifier}"
        );
        assert_eq!(pf.counters().statuses[&status], 1);
        assert_eq!(pf.state(), &PfState::Running);
    }
}

// Covers: ADM-20
#[test]
fn transient_failures_are_repeated_a_bounded_number_of_times() {
    for (status, qualifier) in [(11, 0), (11, 7), (12, 6), (22, 7)] {
        let patient = PfConfig {
            command_timeout: Duration::from_secs(60),
            ..config()
        };
        let (mut pf, hold) = start_with(TestPf::new(), patient);
        hold.device().seen.clear();
        let mut left = 3;
        hold.device().hook = Box::new(move |_| {
            if left == 0 {
                return Action::Normal;
            }
            left -= 1;
            Action::Refuse(status, qualifier)
        });
        assert!(one(&mut pf, write(18, 1, 1)).is_ok());
        assert_eq!(hold.device().seen.len(), 4);
        assert_eq!(pf.counters().retries, 3);

        hold.device().seen.clear();
        hold.device().hook = Box::new(move |_| Action::Refuse(status, qualifier));
        let error = one(&mut pf, write(18, 1, 1)).unwrap_err();
        assert_eq!(error, OpError::Device { status, qualifier });
        let attempts = hold.device().seen.len() as u32;
        assert_eq!(attempts, 1 + RetryPolicy::default().max);
        assert_eq!(pf.state(), &PfState::Running);
    }
}

// Covers: ADM-20
#[test]
fn other_vfs_do_not_wait_for_a_retry_and_the_same_vf_does() {
    let (mut pf, hold) = start(TestPf::new());
    hold.device().hook = Box::new(|seen| match seen.member {
        1 => Action::Refuse(11, 0),
        _ => Action::Normal,
    });
    let now = Instant::now();
    pf.submit(1, read(0, 4), 10, now).unwrap();
    pf.submit(1, read(4, 4), 11, now).unwrap();
    pf.submit(2, read(0, 4), 20, now).unwrap();
    let done = pf.poll(now);
    assert_eq!(done.len(), 1);
    assert_eq!(done[0].token, 20);
    hold.device().hook = Box::new(|_| Action::Normal);
    let tokens: Vec<_> = complete(&mut pf, 2).iter().map(|c| c.token).collect();
    assert_eq!(tokens, [10, 11]);
}

// Covers: AVQ-10
#[test]
fn short_answers_are_errors_and_show_no_old_bytes() {
    let full = || [reply(0, 0), vec![0xaa; 8]].concat();
    // (used length, is a read, error)
    let cases = [
        (12, true, None),
        (11, true, Some(11)),
        (10, true, Some(10)),
        (8, true, Some(8)),
        (4, true, Some(4)),
        (3, true, Some(3)),
        (0, true, Some(0)),
        (8, false, None),
        (4, false, Some(4)),
        (0, false, Some(0)),
    ];
    for (used, is_read, short) in cases {
        let (mut pf, hold) = start(TestPf::new());
        hold.device().vf_header[0].fill(0x77);
        let op = if is_read { read(0, 4) } else { write(4, 1, 4) };
        // Fill every slot's memory with an earlier answer first.
        for _ in 0..64 {
            assert!(one(&mut pf, read(0, 4)).is_ok());
        }
        hold.device().hook = Box::new(move |_| Action::Raw(full(), used));
        let want = if is_read { 12 } else { 8 };
        match (one(&mut pf, op), short) {
            (Ok(data), None) if is_read => assert_eq!(data[..4], [0xaa; 4]),
            (Ok(data), None) => assert_eq!(data, [0; 8]),
            (Err(OpError::ShortReply { got, want: w }), Some(s)) => {
                assert_eq!((got, w), (s, want));
                assert_eq!(pf.counters().short_replies, 1);
            }
            (other, _) => unreachable!("{used} {is_read}: {other:?}"),
        }
        // A list shorter than its word: what is missing counts as zero.
        let mut d = TestPf::new();
        d.hook = Box::new(|seen| match seen.opcode {
            0 => Action::Raw([reply(0, 0), vec![0x7f, 0xff]].concat(), 9),
            _ => Action::Normal,
        });
        let (pf, _hold) = start(d);
        assert_eq!(pf.info().commands_offered.0, 0x7f);
    }
}

// Covers: AVQ-10
#[test]
fn bytes_that_the_device_only_claims_to_have_written_are_zero() {
    let (mut pf, hold) = start(TestPf::new());
    hold.device().vf_header[0].fill(0x77);
    for _ in 0..64 {
        assert_eq!(one(&mut pf, read(0, 4)).map(|d| d[0]), Ok(0x77));
    }
    hold.device().hook = Box::new(|_| Action::Raw(reply(0, 0), 12));
    for _ in 0..64 {
        assert_eq!(one(&mut pf, read(0, 4)), Ok([0; 8]));
    }
}

// Covers: AVQ-11, LEG-14
#[test]
fn one_command_of_a_vf_at_a_time_many_vfs_at_once() {
    let mut d = TestPf::new();
    d.queue_max = 256;
    let many = PfConfig {
        vfs: 64,
        ..config()
    };
    let (mut pf, hold) = start_with(d, many);
    hold.device().seen.clear();
    hold.device().hook = Box::new(|_| Action::Hold);
    let now = Instant::now();
    for round in 0..3u64 {
        for vf in 1..=64 {
            pf.submit(vf, write(8, round, 4), round, now).unwrap();
        }
    }
    assert!(pf.poll(now).is_empty());
    assert_eq!(hold.device().held.len(), 64, "one of each VF");
    hold.device().hook = Box::new(|_| Action::Normal);
    let mut done = Vec::new();
    while !hold.device().held.is_empty() {
        hold.device().let_go();
        done.extend(pf.poll(now));
    }
    assert_eq!(done.len(), 3 * 64);
    for vf in 1..=64 {
        let of_vf = done.iter().filter(|c| c.member == vf);
        assert_eq!(of_vf.map(|c| c.token).collect::<Vec<_>>(), [0, 1, 2]);
        let seen = hold.device().seen.clone();
        let values = seen.iter().filter(|s| s.member == u64::from(vf));
        let values: Vec<_> = values.map(|s| s.readable[32]).collect();
        assert_eq!(values, [0, 1, 2], "in the order of submission");
    }
}

// Covers: AVQ-11
#[test]
fn a_small_queue_serves_many_vfs_in_turn() {
    let mut d = TestPf::new();
    d.queue_max = 4;
    let many = PfConfig {
        vfs: 10,
        ..config()
    };
    let (mut pf, hold) = start_with(d, many);
    let now = Instant::now();
    for round in 0..5 {
        for vf in 1..=10 {
            pf.submit(vf, read(0, 4), round, now).unwrap();
        }
    }
    let done = complete(&mut pf, 50);
    assert!(done.iter().all(|c| c.result.is_ok()));
    assert_eq!(hold.device().breaches, [""; 0]);
}

#[test]
fn the_queue_of_a_vf_is_bounded() {
    let few = PfConfig {
        vf_queue: 3,
        ..config()
    };
    let (mut pf, hold) = start_with(TestPf::new(), few);
    hold.device().hook = Box::new(|_| Action::Hold);
    let now = Instant::now();
    for token in 0..3 {
        pf.submit(1, read(0, 4), token, now).unwrap();
    }
    let full = SubmitError::QueueFull {
        member: 1,
        waiting: 3,
    };
    assert_eq!(pf.submit(1, read(0, 4), 3, now), Err(full.clone()));
    pf.submit(2, read(0, 4), 4, now).unwrap();
    pf.poll(now);
    pf.submit(1, read(0, 4), 3, now).unwrap();
    assert_eq!(pf.submit(1, read(0, 4), 5, now), Err(full));
    hold.device().hook = Box::new(|_| Action::Normal);
    hold.device().let_go();
    hold.device().let_go();
    let done = complete(&mut pf, 5);
    assert!(done.iter().all(|c| c.result.is_ok()));
}
