// SPDX-License-Identifier: GPL-2.0-or-later
//! The whole driver against the simulated PF, over its socket. The simulator was written
//! separately, keeps the rules, and counts every breach of them by the driver.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::sim::Sim;
use common::{complete, open};
use pci_transport::vfio_user::VfioUserFunction;
use pci_transport::Deadlines;
use serde_json::json;
use test_kit::patience::OwnTime;
use virtio_pf::{
    ExistingVfs, LegacyOp, Notified, NotifyKind, OpError, Pf, PfConfig, PfEvent, PfState, Space,
    SubmitError, TrialPolicy,
};

fn quick() -> TrialPolicy {
    TrialPolicy {
        first_delay: Duration::from_millis(20),
        max_delay: Duration::from_millis(200),
    }
}

fn config(vfs: u16) -> PfConfig {
    PfConfig {
        vfs,
        command_timeout: Duration::from_secs(10),
        ..PfConfig::default()
    }
}

/// For commands that are to time out.
fn hasty(vfs: u16) -> PfConfig {
    PfConfig {
        command_timeout: Duration::from_secs(1),
        trial: quick(),
        ..config(vfs)
    }
}

/// Performs one operation, sleeping on the driver's descriptors in between as a daemon does.
fn one(pf: &mut Pf, member: u16, op: LegacyOp) -> Result<[u8; 8], OpError> {
    pf.submit(member, op, 1, Instant::now()).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let mut done = pf.poll(Instant::now());
        if let Some(c) = done.pop() {
            assert!(done.is_empty() && c.member == member);
            return c.result;
        }
        let now = Instant::now();
        assert!(now < until, "{:?}", pf.state());
        let pause = pf
            .next_deadline()
            .map_or(Duration::from_millis(50), |t| {
                t.saturating_duration_since(now)
            })
            .min(Duration::from_micros(200));
        std::thread::sleep(pause);
    }
}

/// The same for a VF that did not answer, as soon as it may be tried.
fn again(pf: &mut Pf, member: u16, op: LegacyOp) -> Result<[u8; 8], OpError> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(Instant::now() < until);
        match pf.submit(member, op, 1, Instant::now()) {
            Ok(()) => match complete(pf, 1).pop().unwrap().result {
                Err(OpError::NotResponding) => {}
                result => return result,
            },
            Err(e) => assert!(matches!(e, SubmitError::NotResponding { .. }), "{e}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn read(pf: &mut Pf, member: u16, offset: u8, len: u8) -> u64 {
    let op = LegacyOp::read(Space::Common, offset, len);
    u64::from_le_bytes(one(pf, member, op).unwrap())
}

fn write(pf: &mut Pf, member: u16, offset: u8, value: u64, len: u8) {
    let op = LegacyOp::write(Space::Common, offset, value.to_le_bytes(), len);
    assert_eq!(one(pf, member, op), Ok([0; 8]));
}

// Covers: INI-01, ADM-15, AVQ-01, AVQ-12, FEA-01, FEA-06, MOD-04, MOD-10, MOD-14, LEG-11
#[test]
fn a_pf_comes_up_and_its_vfs_have_legacy_registers() {
    for kind in ["net", "blk"] {
        let sim = Sim::start(&["--type", kind, "--vfs", "4", "--serial", "1122334455667788"]);
        let mut pf = sim.pf(config(4)).unwrap();
        let info = pf.info().clone();
        assert_eq!((info.num_vfs, info.vfs_kept), (4, false));
        assert_eq!(info.serial, 0x1122_3344_5566_7788);
        assert_eq!(info.vf_type.unwrap().name(), kind);
        assert!(info.commands.0 & 0x7f == 0x7f, "{:#x}", info.commands.0);
        assert!(info.vectors > 0);
        for vf in 1..=4 {
            assert!(read(&mut pf, vf, 0, 4) != 0, "features");
            assert_eq!(read(&mut pf, vf, 18, 1), 0, "status");
            assert!(read(&mut pf, vf, 12, 2) > 0, "queue size");
            write(&mut pf, vf, 18, 3, 1);
            write(&mut pf, vf, 8, 0x1000 + u64::from(vf), 4);
        }
        for vf in 1..=4 {
            assert_eq!(read(&mut pf, vf, 18, 1), 3);
            assert_eq!(read(&mut pf, vf, 8, 4), 0x1000 + u64::from(vf));
        }
        // Device configuration.
        let first = one(&mut pf, 2, LegacyOp::read(Space::Device, 0, 6)).unwrap();
        if kind == "net" {
            assert_eq!(
                first,
                [0x52, 0x54, 0, 0x77, 1, 2, 0, 0],
                "MAC address of VF 2"
            );
        } else {
            assert_ne!(first, [0; 8], "capacity");
        }
        assert_eq!(sim.violations(), json!({}));
        assert!(pf.counters().interrupts > 0, "interrupts arrive");
        pf.shutdown().1.unwrap();
        assert_eq!((pf.dma_stats().live, pf.dma_stats().leaked), (0, 0));
        assert_eq!(sim.violations(), json!({}));
    }
}

// Covers: NTF-06, NTF-07, NTF-08
#[test]
fn notification_addresses_in_every_layout() {
    use NotifyKind::{Member, Owner};
    for (layout, want, owner) in [
        ("absent", None, false),
        ("empty", None, false),
        ("owner", Some(Owner), true),
        ("member", Some(Member), false),
        ("member-first", Some(Member), true),
        ("owner-first", Some(Owner), true),
        ("bad-flags", Some(Member), false),
        ("bad-bar6", Some(Member), false),
        ("bad-only", None, false),
    ] {
        let sim = Sim::start(&["--type", "net", "--vfs", "2", "--notify", layout]);
        let mut pf = sim.pf(config(2)).unwrap();
        let vf = open(&mut pf, 2);
        assert_eq!(vf.notify.map(|a| a.kind), want, "{layout}");
        assert!(vf.notify.is_none_or(|a| a.checked), "{layout}");
        assert_eq!(vf.owner_notify.is_some(), owner, "{layout}");
        let how = pf.notify(2, 0, Instant::now()).unwrap();
        let by = if owner {
            Notified::Address
        } else {
            Notified::Command
        };
        assert_eq!(how, by, "{layout}");
        // Behind the notification, on the same queue or the same connection.
        read(&mut pf, 2, 0, 4);
        let seen = sim.counters()["functions"]["vf2"].clone();
        let field = if owner {
            "doorbells_owner"
        } else {
            "doorbells_command"
        };
        assert_eq!(seen[field], 1, "{layout}: {seen}");
        // The address of the member is for whoever has the member.
        let by_command_only = want == Some(Member) && !owner;
        let noted = if by_command_only {
            json!({ "notify_by_command": 1 })
        } else {
            json!({})
        };
        assert_eq!(sim.violations(), noted, "{layout}");
    }
}

// Covers: FEA-06, VRG-11
#[test]
fn vfs_keep_their_state_while_drivers_come_and_go() {
    let sim = Sim::start(&["--type", "net", "--vfs", "3"]);
    let mut pf = sim.pf(config(3)).unwrap();
    write(&mut pf, 2, 18, 3, 1);
    write(&mut pf, 2, 4, 0x20, 4);
    // Cleanly, and as if killed.
    pf.shutdown().1.unwrap();
    drop(pf);
    for _ in 0..3 {
        let mut pf = sim.pf(config(3)).unwrap();
        assert!(pf.info().vfs_kept);
        assert_eq!(read(&mut pf, 2, 18, 1), 3);
        assert_eq!(read(&mut pf, 2, 4, 4), 0x20);
        assert_eq!(read(&mut pf, 1, 18, 1), 0);
        // A member BAR that cannot be sized now is not vouched for.
        assert!(!open(&mut pf, 1).notify.unwrap().checked);
        drop(pf);
    }
    let error = sim.pf(config(2)).err().unwrap().to_string();
    assert!(
        error.contains("3 VFs are enabled already and 2 are wanted"),
        "{error}"
    );
    let adopt = PfConfig {
        existing_vfs: ExistingVfs::Adopt,
        ..config(1)
    };
    assert_eq!(sim.pf(adopt).unwrap().info().num_vfs, 3);
    let replace = PfConfig {
        existing_vfs: ExistingVfs::Replace,
        ..config(2)
    };
    let mut pf = sim.pf(replace).unwrap();
    assert_eq!((pf.info().num_vfs, pf.info().vfs_kept), (2, false));
    assert_eq!(read(&mut pf, 2, 18, 1), 0, "a new VF");
    assert_eq!(sim.violations(), json!({}));
    // One driver at a time; the second disturbs nobody.
    let error = VfioUserFunction::connect(&sim.socket(), Deadlines::default()).unwrap_err();
    assert!(error.to_string().contains("busy"), "{error}");
    assert_eq!(read(&mut pf, 2, 18, 1), 0);
}

// Covers: ADM-20, ADM-19, AVQ-10
#[test]
fn injected_statuses_and_short_replies() {
    let sim = Sim::start(&["--type", "net", "--vfs", "2"]);
    let mut pf = sim.pf(config(2)).unwrap();
    let status = LegacyOp::read(Space::Common, 18, 1);
    for (s, q) in [(11, 0), (11, 7), (12, 6)] {
        let rule = json!({ "first": 3, "do": { "status": { "status": s, "qualifier": q } } });
        sim.fault(rule);
        let retries = pf.counters().retries;
        assert!(one(&mut pf, 1, status).is_ok());
        assert_eq!(pf.counters().retries, retries + 3);
        sim.no_faults();
    }
    for (s, q) in [(22, 3), (16, 1), (28, 0), (6, 1), (5, 0x99), (0xfff0, 9)] {
        sim.fault(json!({ "do": { "status": { "status": s, "qualifier": q } } }));
        let want = OpError::Device {
            status: s,
            qualifier: q,
        };
        assert_eq!(one(&mut pf, 1, status), Err(want));
        sim.no_faults();
    }
    for len in [0, 4, 8] {
        sim.fault(json!({ "do": { "short_reply": { "len": len } } }));
        let want = OpError::ShortReply { got: len, want: 9 };
        assert_eq!(one(&mut pf, 1, status), Err(want));
        sim.no_faults();
    }
    assert_eq!(pf.state(), &PfState::Running);
    assert_eq!(read(&mut pf, 1, 18, 1), 0);
    assert_eq!(pf.counters().recoveries, 0);
    assert_eq!(sim.violations(), json!({}));
}

// Covers: INI-06, VRG-08
#[test]
fn lost_late_and_lying_completions() {
    let sim = Sim::start(&["--type", "net", "--vfs", "4"]);
    let mut pf = sim.pf(hasty(4)).unwrap();
    write(&mut pf, 3, 18, 3, 1);
    let status = LegacyOp::read(Space::Common, 18, 1);
    // Lost: this one ends, everything else goes on, and the VF itself with the next trial.
    sim.fault(json!({ "member": 1, "first": 1, "do": "drop" }));
    assert_eq!(one(&mut pf, 1, status), Err(OpError::TimedOut));
    assert_eq!(again(&mut pf, 1, status), Ok([0; 8]));
    sim.no_faults();
    // Late: after its deadline.
    sim.fault(json!({ "member": 1, "first": 1, "do": "stuck" }));
    let now = Instant::now();
    pf.submit(1, status, 1, now).unwrap();
    pf.poll(now);
    let done = pf.poll(now + hasty(4).command_timeout);
    assert_eq!(done[0].result, Err(OpError::TimedOut));
    sim.no_faults();
    let until = Instant::now() + Duration::from_secs(60);
    while pf.counters().late == 0 {
        assert!(Instant::now() < until);
        pf.poll(now);
    }
    assert_eq!(again(&mut pf, 2, status), Ok([0; 8]));
    assert_eq!((pf.counters().late, pf.counters().recoveries), (1, 0));
    // Stuck: reset and set up again; VF 3 does not notice.
    sim.fault(json!({ "first": 1000, "do": "stuck" }));
    for vf in 1..=4 {
        pf.submit(vf, status, vf.into(), Instant::now()).unwrap();
    }
    let mut done = Vec::new();
    let until = Instant::now() + Duration::from_secs(60);
    while pf.counters().recoveries == 0 || done.len() < 4 {
        done.extend(pf.poll(Instant::now()));
        assert!(Instant::now() < until, "{done:?}");
        std::thread::sleep(Duration::from_millis(1));
        if *pf.state() == PfState::Recovering {
            sim.no_faults();
        }
    }
    assert!(done.iter().all(|c| c.result.is_err()));
    assert_eq!(one(&mut pf, 3, status), Ok([3, 0, 0, 0, 0, 0, 0, 0]));
    // The device gives up.
    sim.fault(json!({ "first": 1, "do": "needs_reset" }));
    let e = one(&mut pf, 1, status).unwrap_err();
    assert!(
        matches!(&e, OpError::PfFailed(why) if why.contains("needs a reset")),
        "{e}"
    );
    assert_eq!(one(&mut pf, 3, status), Ok([3, 0, 0, 0, 0, 0, 0, 0]));
    sim.no_faults();
    // A length that cannot be.
    sim.fault(json!({ "first": 1, "do": { "used_length": { "len": 4096 } } }));
    let e = one(&mut pf, 1, status).unwrap_err();
    assert!(
        matches!(&e, OpError::PfFailed(why) if why.contains("length 4096")),
        "{e}"
    );
    sim.no_faults();
    assert_eq!(one(&mut pf, 3, status), Ok([3, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(pf.counters().recoveries, 3);
    let events: Vec<_> = pf.take_events();
    let resets = events.iter().filter(|e| matches!(e, PfEvent::Reset { .. }));
    assert_eq!(resets.count(), 3);
    assert_eq!(sim.violations(), json!({}));
    pf.shutdown().1.unwrap();
    assert_eq!(pf.dma_stats().leaked, 0);
}

// Covers: AVQ-11, AVQ-03
#[test]
fn sixty_four_vfs_at_once() {
    let sim = Sim::start(&["--type", "net", "--vfs", "64"]);
    let mut pf = sim.pf(config(64)).unwrap();
    let now = Instant::now();
    for round in 0..8u64 {
        for vf in 1..=64u16 {
            let value = u64::from(vf) << 8 | round;
            let op = LegacyOp::write(Space::Common, 8, value.to_le_bytes(), 4);
            pf.submit(vf, op, round, now).unwrap();
        }
    }
    let done = complete(&mut pf, 8 * 64);
    assert!(done.iter().all(|c| c.result.is_ok()), "{done:?}");
    for vf in 1..=64u16 {
        let tokens = done.iter().filter(|c| c.member == vf).map(|c| c.token);
        assert!(tokens.eq(0..8), "in order");
        assert_eq!(read(&mut pf, vf, 8, 4), u64::from(vf) << 8 | 7);
    }
    assert_eq!(sim.violations(), json!({}));
}

// Covers: INI-08, FEA-08, FEA-10, MOD-02, MOD-11, IRQ-07, IRQ-11, AVQ-03, ADM-17, INI-03
#[test]
fn devices_of_every_shape() {
    type Case = (&'static [&'static str], fn(&Pf));
    let cases: [Case; 16] = [
        (&["offer_everything=true"], |pf| {
            assert_eq!(pf.info().features >> 32 & !0b10_1011_0011, 0);
        }),
        (&["bogus_capabilities=true"], |_| {}),
        (&["notify_multiplier=0"], |_| {}),
        (&["notify_multiplier=4096"], |_| {}),
        (&["notif_config_data=48879"], |pf| {
            assert!(pf.info().features & 1 << 39 != 0);
        }),
        (&["notification_data=true"], |_| {}),
        (&["event_idx=true"], |pf| {
            assert!(pf.info().features & 1 << 29 != 0);
        }),
        (&["event_idx=false"], |pf| {
            assert!(pf.info().features & 1 << 29 == 0);
        }),
        (&["admin_queues=4", "admin_queue_gap=3"], |pf| {
            assert_eq!(pf.info().admin_queue_num, 4);
        }),
        (&["admin_queue_size=4"], |pf| {
            assert_eq!(pf.info().admin_queue_size, 4);
        }),
        (&["vector_mapping_fails=true"], |pf| {
            assert_eq!(pf.info().vectors, 0);
        }),
        (&["msix_vectors=1"], |pf| assert_eq!(pf.info().vectors, 1)),
        (&["reset_delay_ns=50000000"], |_| {}),
        (
            &["extra_opcodes=1099511627776", "extra_opcode_words=[0,7]"],
            |pf| {
                assert!(pf.info().commands_offered.contains(40));
                assert!(!pf.info().commands.contains(40));
            },
        ),
        (&["list_use_refuses_full=true"], |pf| {
            assert_eq!(pf.info().commands.0, 0x7f);
        }),
        (&["suppress_kicks=true"], |_| {}),
    ];
    for (knobs, check) in cases {
        let mut args = vec!["--type", "net", "--vfs", "2"];
        for knob in knobs {
            args.extend(["--knob", knob]);
        }
        let sim = Sim::start(&args);
        let mut pf = match sim.pf(config(2)) {
            Ok(pf) => pf,
            Err(e) => unreachable!("{knobs:?}: {e}"),
        };
        check(&pf);
        for vf in [1, 2] {
            write(&mut pf, vf, 18, 3, 1);
            assert_eq!(read(&mut pf, vf, 18, 1), 3, "{knobs:?}");
        }
        pf.shutdown().1.unwrap();
        assert_eq!(sim.violations(), json!({}), "{knobs:?}");
    }
}

#[test]
fn a_simulator_that_stops_is_given_up_after_its_commands_have_ended() {
    let sim = Sim::start(&["--type", "net", "--vfs", "4"]);
    let mut pf = sim.pf(hasty(4)).unwrap();
    sim.signal("STOP");
    let op = LegacyOp::read(Space::Common, 0, 4);
    for member in 1..=4 {
        pf.submit(member, op, 5, Instant::now()).unwrap();
    }
    let done = complete(&mut pf, 4);
    assert!(done.iter().all(|c| c.result == Err(OpError::TimedOut)));
    // They are told before it is known what became of the device.
    assert_eq!(pf.state(), &PfState::Running);
    pf.submit(1, op, 6, Instant::now()).unwrap();
    let done = complete(&mut pf, 1);
    assert!(done[0].result.is_err());
    let last_resort = Instant::now() + Duration::from_secs(60);
    while !matches!(pf.state(), PfState::Failed(_)) {
        assert!(Instant::now() < last_resort);
        pf.poll(Instant::now());
    }
    sim.signal("CONT");
}

#[test]
fn a_simulator_that_goes_on_serves_without_a_reset() {
    let sim = Sim::start(&["--type", "net", "--vfs", "4"]);
    let slow = PfConfig {
        command_timeout: Duration::from_secs(2),
        ..config(4)
    };
    let mut pf = sim.pf(slow).unwrap();
    sim.signal("STOP");
    let op = LegacyOp::read(Space::Common, 0, 4);
    let begun = Instant::now();
    for member in 1..=4 {
        pf.submit(member, op, 5, begun).unwrap();
    }
    let mut done = pf.poll(begun);
    // In the driver's time, its commands are over now.
    done.extend(pf.poll(begun + Duration::from_secs(2)));
    assert_eq!(done.len(), 4);
    assert!(done.iter().all(|c| c.result == Err(OpError::TimedOut)));
    sim.signal("CONT");
    let last_resort = Instant::now() + Duration::from_secs(60);
    while pf.counters().late < 4 {
        assert!(Instant::now() < last_resort, "{:?}", pf.state());
        pf.poll(Instant::now());
    }
    assert_eq!(read(&mut pf, 1, 18, 1), 0);
    assert_eq!(
        (pf.counters().recoveries, pf.state()),
        (0, &PfState::Running)
    );
    assert_eq!(sim.violations(), json!({}));
}

#[test]
fn the_death_of_the_simulator_is_an_error_at_once() {
    let mut sim = Sim::start(&["--type", "net", "--vfs", "2"]);
    let mut pf = sim.pf(config(2)).unwrap();
    sim.fault(json!({ "do": "stuck" }));
    let op = LegacyOp::read(Space::Common, 0, 4);
    pf.submit(1, op, 5, Instant::now()).unwrap();
    pf.poll(Instant::now());
    sim.kill();
    let begun = OwnTime::start();
    let done = loop {
        let done = pf.poll(Instant::now());
        if !done.is_empty() {
            break done;
        }
        assert!(begun.elapsed() < Duration::from_secs(2));
    };
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "before its deadline"
    );
    assert!(matches!(&done[0].result, Err(OpError::PfFailed(why)) if why.contains("pf.sock")));
    assert!(matches!(pf.state(), PfState::Failed(_)));
    assert!(pf.submit(1, op, 6, Instant::now()).is_err());
    assert!(pf.fds().is_empty());
}
