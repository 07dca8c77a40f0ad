// SPDX-License-Identifier: GPL-2.0-or-later
//! Long random sequences of accesses, MSI-X switches and resets: the guest sees what the rules say,
//! whatever the window remembers and the helper does.

use anyhow::{Context, Result};
use qtest_harness::{DeviceKind, LegacyDriver, Machine, Stack};
use qtest_tests::access::{ones, Model};
use qtest_tests::random::Random;
use qtest_tests::{counter, wait_link};

fn sequence(kind: DeviceKind, seed: u64, writable: usize, restart: bool, intx: bool) -> Result<()> {
    let mut stack = Stack::start(kind, 1)?;
    let mut vf = stack.device(1);
    vf["intx"] = if intx { "on" } else { "off" }.into();
    let (mut qemu, device) = stack.mapped_with(Machine::Pc, &vf)?;
    let q = &qemu.qtest;
    let mut d = LegacyDriver::new(&device)?;
    let msix = device.msix(q)?;
    let size = device.bar(0)?.size;
    let mut m = Model::of(q, &device, &d, msix.vectors)?;
    m.writable = writable;
    let mut random = Random::new(seed);
    let starts = [0u32, 4, 8, 12, 14, 16, 18, 19, 20, 22, 24];
    let mut history = Vec::new();
    for step in 0..3000 {
        let on = d.msix;
        let width = [1u8, 2, 4][random.below(3) as usize];
        let offset = match random.below(3) {
            0 => random.below(size),
            _ => starts[random.below(11) as usize],
        };
        let offset = u16::try_from(offset.min(size - u32::from(width)))?;
        // The disk's writeback byte follows the features, with rules of its own.
        let writeback = if on { 24 + 32 } else { 20 + 32 };
        if kind == DeviceKind::Block && (offset..offset + 4).contains(&writeback) {
            continue;
        }
        match random.below(40) {
            0 => {
                let next = !on;
                msix.enable(q, &device, next)?;
                d.msix = next;
                history.push(format!("MSI-X {next}"));
            }
            1 => {
                d.set_status(q, 0)?;
                m.reset();
                // Legacy says nothing about the selection after a reset, so select.
                d.write(q, 14, 2, 1)?;
                m.select = 1;
                history.push("reset".to_owned());
            }
            n if n < 20 => {
                let mut got = d.read(q, offset, width)?;
                if intx && !on && offset == 19 {
                    // Vectors that change hands under a queue interrupt once more than needed.
                    assert_eq!(got & 0xff & !3, 0);
                    got &= !3;
                }
                let want = m.read(offset, width, on);
                let tail = history.len().saturating_sub(25);
                assert_eq!(
                    got,
                    want,
                    "seed {seed:#x}, step {step}: {width} bytes at {offset}, MSI-X {on}, after {:#?}",
                    history.get(tail..).context("history")?
                );
            }
            _ => {
                let value = match random.below(4) {
                    0 => random.below(4),
                    1 => 0xffff_ffff,
                    2 => 0,
                    _ => random.below(0x7fff_ffff),
                };
                let before = m.clone();
                m.write(offset, width, value & ones(width), on);
                // DEVICE_NEEDS_RESET is the device's to set.
                m.status &= !64;
                let reset = before.status != 0 && m.status == 0;
                // Keep clear of what has no defined outcome: rings at random addresses being
                // kicked, and the selection after a reset.
                let kicked = m.kicks.len() != before.kicks.len();
                if kicked || reset || m.status == 0 && offset <= 18 && offset + 4 > 18 {
                    m = before;
                    continue;
                }
                d.write(q, offset, width, value)?;
                history.push(format!("write {width} bytes {value:#x} at {offset}"));
            }
        }
        if restart && step % 1000 == 999 {
            stack.helper.process.kill()?;
            wait_link(&mut qemu.qmp, "lost", qtest_harness::PATIENCE)?;
            stack.helper.restart()?;
            wait_link(&mut qemu.qmp, "connected", qtest_harness::PATIENCE)?;
            history.push("helper restarted".to_owned());
        }
    }
    assert_eq!(counter(&mut qemu.qmp, "command-failures")?, 0);
    Ok(())
}

/// Vectors are written behind the guest's back whenever queues come and go and MSI-X is switched, and
/// no register that the guest sees shows it.
// Covers: LIO-01, LIO-02, LIO-06, LIO-08, IRQ-06
#[test]
fn network_card_with_intx() -> Result<()> {
    for seed in [0x9e37_79b9_7f4a_7c15, 0x0123_4567_89ab_cdef] {
        sequence(DeviceKind::Net, seed, 6, false, true)?;
    }
    sequence(DeviceKind::Net, 0x1234_5678_9abc_def1, 6, true, true)
}

// Covers: LIO-01, LIO-02, LIO-04, LIO-05, LIO-06, LIO-08
#[test]
fn network_card() -> Result<()> {
    sequence(DeviceKind::Net, 0x9e37_79b9_7f4a_7c15, 6, false, false)
}

// Covers: LIO-01, LIO-02, LIO-04, LIO-05, LIO-06, LIO-08
#[test]
fn disk() -> Result<()> {
    sequence(DeviceKind::Block, 0x2545_f491_4f6c_dd1d, 0, false, false)
}

#[test]
fn network_card_whose_helper_is_killed_now_and_then() -> Result<()> {
    sequence(DeviceKind::Net, 0x1234_5678_9abc_def1, 6, true, false)
}
