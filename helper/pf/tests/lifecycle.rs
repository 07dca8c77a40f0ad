// SPDX-License-Identifier: GPL-2.0-or-later
//! VFs that exist already, the end of a driver, and a start that fails at any point.

#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use pci_transport::testing::{Access, ScriptedDevice, ScriptedFunction};
use pci_transport::Width;
use virtio_modern_spec::sriov;
use virtio_pf::{ExistingVfs, LegacyOp, Pf, PfConfig, Space};

// Covers: FEA-06, GRP-05
#[test]
fn vfs_that_exist_already_are_kept_or_refused() {
    let with = |n| {
        let mut d = TestPf::new();
        d.set_vfs(n);
        d
    };
    let policy = |existing_vfs| PfConfig {
        existing_vfs,
        ..config()
    };
    let sriov_writes = |hold: &Hold| {
        hold.accesses()
            .iter()
            .filter(|a| {
                matches!(a, Access::ConfigWrite { offset, .. }
                    if usize::from(*offset) >= SRIOV)
            })
            .count()
    };
    let (pf, hold) = start(with(VFS));
    assert!(pf.info().vfs_kept);
    assert_eq!(sriov_writes(&hold), 0, "live VFs are not touched");

    let (error, hold) = refuse(with(2), policy(ExistingVfs::RequireSame));
    let text = error.to_string();
    assert!(
        text.contains("2 VFs are enabled already and 4 are wanted"),
        "{text}"
    );
    assert_eq!(hold.device().vfs_enabled(), 2);
    assert!(
        hold.device().status_writes.is_empty(),
        "refused before the reset"
    );

    let (pf, hold) = start_with(with(9), policy(ExistingVfs::Adopt));
    assert_eq!((pf.info().num_vfs, sriov_writes(&hold)), (9, 0));
    assert!(pf.vf(9).is_some());

    let (pf, hold) = start_with(with(9), policy(ExistingVfs::Replace));
    assert_eq!((pf.info().num_vfs, pf.info().vfs_kept), (4, false));
    assert_eq!(hold.device().vfs_enabled(), 4);

    let many = PfConfig {
        vfs: 65,
        ..config()
    };
    let (error, hold) = refuse(TestPf::new(), many);
    assert!(
        error
            .to_string()
            .contains("65 VFs are wanted and it has 64"),
        "{error}"
    );
    assert!(hold.device().status_writes.is_empty());

    let mut d = TestPf::new();
    d.config[SRIOV] = 0x11;
    let (error, _hold) = refuse(d, config());
    assert!(
        error.to_string().contains("no SR-IOV capability"),
        "{error}"
    );
}

// Covers: VRG-11
#[test]
fn shutdown_resets_waits_and_only_then_releases() {
    let mut d = TestPf::new();
    d.reset_reads = 5;
    let (mut pf, hold) = start(d);
    let before = hold.dma_stats();
    assert!(before.live > 0);
    let now = std::time::Instant::now();
    hold.device().hook = Box::new(|_| Action::Hold);
    for token in 0..3 {
        pf.submit(2, LegacyOp::read(Space::Common, 0, 4), token, now)
            .unwrap();
    }
    pf.poll(now);
    hold.clear();
    let (done, result) = pf.shutdown();
    result.unwrap();
    let tokens: Vec<_> = done.iter().map(|c| c.token).collect();
    assert_eq!(tokens, [0, 1, 2]);
    assert!(done
        .iter()
        .all(|c| c.result == Err(virtio_pf::OpError::Shutdown)));
    assert_eq!((hold.dma_stats().live, hold.dma_stats().leaked), (0, 0));
    let a = hold.accesses();
    assert!(matches!(
        a[0],
        Access::BarWrite {
            offset: 20,
            value: 0,
            ..
        }
    ));
    assert_eq!(a.last(), Some(&Access::DisableIrqs));
    assert_eq!(a.len(), 1 + 6 + 1);
    assert_eq!(hold.device().vfs_enabled(), VFS, "VFs go on");
    assert!(pf.next_deadline().is_none());
    let refused = pf.submit(1, LegacyOp::read(Space::Common, 0, 4), 9, now);
    assert_eq!(refused, Err(virtio_pf::SubmitError::Shutdown));
    assert!(pf.shutdown().1.is_ok(), "twice");

    // A device that does not finish keeps its memory.
    let (mut pf, hold) = start_with(TestPf::new(), impatient());
    hold.device().reset_reads = u32::MAX;
    let (_done, result) = pf.shutdown();
    assert!(result.unwrap_err().to_string().contains("reset not done"));
    let live = hold.dma_stats().live;
    drop(pf);
    assert_eq!(hold.dma_stats().leaked, live);
}

// Covers: INI-02
#[test]
fn a_start_that_fails_at_any_access_is_an_error_and_leaves_nothing_behind() {
    let (_pf, hold) = start(TestPf::new());
    let steps = hold.accesses().len();
    assert!(steps > 50);
    for step in 0..steps {
        for fatal in [false, true] {
            let function = ScriptedFunction::new(TestPf::new()).unwrap();
            let hold = function.script();
            let cause = if fatal {
                pci_transport::Cause::PeerClosed
            } else {
                pci_transport::Cause::Refused(io_error())
            };
            hold.fail_at(step, cause);
            let started = Pf::start(Box::new(function), config());
            match started {
                // Without interrupts it polls.
                Ok(_) => assert!(!fatal && hold.accesses()[step] == Access::EnableIrqs(2)),
                Err(error) => {
                    assert!(error.to_string().contains("scripted"), "{error}");
                    let stats = hold.dma_stats();
                    if fatal {
                        // The device was not seen to be reset.
                        assert_eq!(stats.live, 0);
                    } else {
                        assert_eq!((stats.live, stats.leaked), (0, 0), "step {step}: {error}");
                    }
                }
            }
            assert_eq!(hold.device().breaches, [""; 0], "step {step}");
        }
    }
}

fn io_error() -> pci_transport::Errno {
    pci_transport::Errno::IO
}

#[test]
fn the_device_under_test_notes_breaches() {
    // The tests above rely on it.
    let mut d = TestPf::new();
    d.bar_read(COMMON_BAR, 20, Width::B4);
    d.bar_write(COMMON_BAR, 4, Width::B4, 1);
    d.bar_write(COMMON_BAR, NOTIFY_AT, Width::B2, 1);
    d.set_vfs(0);
    d.config_write((SRIOV + sriov::NUM_VFS) as u16, &[2, 0]);
    d.config_write((SRIOV + sriov::CONTROL) as u16, &[9, 0]);
    assert_eq!(d.breaches.len(), 4, "{:?}", d.breaches);
}

// Covers: GRP-05
#[test]
fn as_many_vfs_as_a_pf_can_have() {
    let mut d = TestPf::new();
    d.set_vfs(u16::MAX);
    d.listed = 0x3f;
    let adopt = PfConfig {
        existing_vfs: ExistingVfs::Adopt,
        ..config()
    };
    let (mut pf, hold) = start_with(d, adopt);
    assert_eq!(pf.info().num_vfs, u16::MAX);
    hold.device().hook = Box::new(|_| Action::Hold);
    let now = std::time::Instant::now();
    let op = LegacyOp::read(Space::Common, 0, 4);
    pf.submit(u16::MAX, op, 1, now).unwrap();
    pf.submit(u16::MAX, op, 2, now).unwrap();
    pf.poll(now);
    let last = hold.device().seen.last().map(|s| s.member);
    assert_eq!(last, Some(u64::from(u16::MAX)));
    let done = pf.poll(now + config().command_timeout);
    assert_eq!(done.len(), 2);
    pf.submit(u16::MAX, op, 3, now).unwrap();
    hold.device().fail();
    pf.poll(now);
    let (done, result) = pf.shutdown();
    result.unwrap();
    assert_eq!(done.len(), 1);
    assert_eq!(done[0].member, u16::MAX);
}
