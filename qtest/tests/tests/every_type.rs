// SPDX-License-Identifier: GPL-2.0-or-later
//! The same for each of the seven types: a request works with the pin and with messages, changes of
//! the configuration interrupt where the type has any, and after each reset everything is as new.

use anyhow::{Context, Result};
use qtest_harness::driver::{Buffer, Queue};
use qtest_harness::{DeviceKind, Machine, Stack, PATIENCE};
use qtest_tests::intx::Guest;
use qtest_tests::{counter, wait_for};
use serde_json::{json, Value};

/// A type with a request that every driver of it could make.
struct Type {
    kind: DeviceKind,
    /// Features to accept: no more than changes of the configuration need.
    features: u32,
    /// Queues to set up.
    queues: u16,
    /// The one with the request.
    queue: u16,
    request: fn() -> Vec<Buffer>,
    /// Whether this is an answer to it.
    answered: fn(&[u8]) -> bool,
    /// A command of the simulator that changes the configuration.
    change: Option<fn(u64) -> Value>,
}

const TYPES: [Type; 7] = [
    Type {
        kind: DeviceKind::Net,
        features: 1 << 16,
        queues: 2,
        queue: 1,
        request: || vec![Buffer::Out(vec![0; 10]), Buffer::Out(vec![0xff; 60])],
        answered: <[u8]>::is_empty,
        change: Some(|n| json!({"cmd": "link", "vf": 1, "up": n % 2 == 1})),
    },
    Type {
        kind: DeviceKind::Block,
        features: 0,
        queues: 1,
        queue: 0,
        request: || vec![Buffer::Out(vec![0; 16]), Buffer::In(512), Buffer::In(1)],
        answered: |bytes| bytes.len() == 513 && bytes.last() == Some(&0),
        change: Some(|n| json!({"cmd": "resize", "vf": 1, "sectors": 1000 + n})),
    },
    Type {
        kind: DeviceKind::Console,
        features: 1,
        queues: 2,
        queue: 1,
        request: || vec![Buffer::Out(b"hello".to_vec())],
        answered: <[u8]>::is_empty,
        change: Some(|n| json!({"cmd": "screen", "vf": 1, "cols": 80 + n, "rows": 25})),
    },
    Type {
        kind: DeviceKind::Rng,
        features: 0,
        queues: 1,
        queue: 0,
        request: || vec![Buffer::In(32)],
        answered: |bytes| bytes.len() == 32 && bytes.iter().any(|b| *b != 0),
        change: None,
    },
    Type {
        kind: DeviceKind::Balloon,
        features: 0,
        queues: 2,
        queue: 0,
        // Page 1024 is in the guest's memory; given a second time it is a driver's mistake, but
        // that is not what is looked at here.
        request: || vec![Buffer::Out(1024u32.to_le_bytes().to_vec())],
        answered: <[u8]>::is_empty,
        change: Some(|n| json!({"cmd": "balloon", "vf": 1, "pages": 10 + n})),
    },
    Type {
        kind: DeviceKind::Scsi,
        features: 0,
        queues: 3,
        queue: 2,
        // TEST UNIT READY of target 0, LUN 0, and room for the response with its sense data.
        request: || {
            let mut header = vec![1, 0, 0x40, 0, 0, 0, 0, 0];
            header.resize(51, 0);
            vec![Buffer::Out(header), Buffer::In(108)]
        },
        // The response, behind residual and status, is OK.
        answered: |bytes| bytes.len() >= 12 && bytes.get(11) == Some(&0),
        change: None,
    },
    Type {
        kind: DeviceKind::P9,
        features: 0,
        queues: 1,
        queue: 0,
        // Tversion of 9P2000.L.
        request: || {
            let mut message = vec![21, 0, 0, 0, 100, 0xff, 0xff, 0, 0x20, 0, 0, 8, 0];
            message.extend(b"9P2000.L");
            vec![Buffer::Out(message), Buffer::In(64)]
        },
        answered: |bytes| bytes.get(4) == Some(&101) && bytes.ends_with(b"9P2000.L"),
        change: None,
    },
];

impl Type {
    /// A driver that is ready, with the queue for requests; vector 0 is the configuration's and
    /// vector 1 that of the queues where there are vectors.
    fn ready(&self, g: &mut Guest) -> Result<Queue> {
        let d = g.driver.clone();
        let q = &g.qemu.qtest;
        assert_eq!(d.begin(q, self.features)?, self.features);
        if d.msix {
            d.write(q, 20, 2, 0)?;
        }
        let mut wanted = None;
        for index in 0..self.queues {
            let queue = d.queue(q, &mut g.qemu.memory, index, 1)?;
            if index == self.queue {
                wanted = Some(queue);
            }
        }
        d.set_status(q, 7)?;
        wanted.context("no such queue")
    }

    fn start(&self, g: &mut Guest, queue: &mut Queue) -> Result<()> {
        let q = &g.qemu.qtest;
        let buffers = (self.request)();
        g.driver.add(q, &mut g.qemu.memory, queue, &buffers)?;
        g.driver.kick(q, queue)
    }

    fn finish(&self, g: &Guest, queue: &mut Queue) -> Result<()> {
        let bytes = g.driver.wait_used(&g.qemu.qtest, queue, PATIENCE)?;
        assert!((self.answered)(&bytes), "{:?}: {bytes:x?}", self.kind);
        Ok(())
    }

    fn change(&self, stack: &mut Stack, n: u64) -> Result<bool> {
        let Some(change) = self.change else {
            return Ok(false);
        };
        stack.sim.control(&change(n))?;
        Ok(true)
    }
}

// Covers: IRQ-01, IRQ-02, IRQ-03, IRQ-13, LIO-07, LIO-09
#[test]
fn each_type_interrupts_by_the_pin() -> Result<()> {
    for t in &TYPES {
        let mut stack = Stack::start(t.kind, 1)?;
        let mut g = Guest::start(&stack, Machine::Q35)?;
        let mut queue = t.ready(&mut g)?;
        let mut raised = 0;
        for n in 0..4 {
            t.start(&mut g, &mut queue)?;
            g.wait_level(true)?;
            assert_eq!(g.isr()?, 1, "{:?}", t.kind);
            assert!(!g.line()?.level && !g.pending()?);
            t.finish(&g, &mut queue)?;
            raised += 1;
            if t.change(&mut stack, n)? {
                g.wait_level(true)?;
                assert_eq!(g.isr()?, 2, "{:?}", t.kind);
                assert!(!g.line()?.level);
                raised += 1;
            }
            assert_eq!(g.isr()?, 0);
        }
        let irq = g.line()?;
        assert_eq!((irq.raised, irq.lowered), (raised, raised), "{:?}", t.kind);
        assert_eq!(counter(&mut g.qemu.qmp, "command-failures")?, 0);
    }
    Ok(())
}

// Covers: IRQ-04, IRQ-06, LIO-07
#[test]
fn each_type_interrupts_by_messages() -> Result<()> {
    for t in &TYPES {
        let mut stack = Stack::start(t.kind, 1)?;
        let mut g = Guest::start(&stack, Machine::Q35)?;
        let (qemu, driver) = (&mut g.qemu, &mut g.driver);
        let msix = driver.use_msix(&qemu.qtest, &g.device, &mut qemu.memory)?;
        let mut queue = t.ready(&mut g)?;
        for n in 0..2 {
            t.start(&mut g, &mut queue)?;
            t.finish(&g, &mut queue)?;
            wait_for("message of the queue", PATIENCE, || {
                Ok(msix.fired(&g.qemu.qtest, 1)?.then_some(()))
            })?;
            assert!(n > 0 || !msix.fired(&g.qemu.qtest, 0)?, "{:?}", t.kind);
            if t.change(&mut stack, n)? {
                wait_for("message of the configuration", PATIENCE, || {
                    Ok(msix.fired(&g.qemu.qtest, 0)?.then_some(()))
                })?;
            }
        }
        assert_eq!(g.line()?.raised, 0, "{:?}", t.kind);
        assert_eq!(counter(&mut g.qemu.qmp, "command-failures")?, 0);
    }
    Ok(())
}

/// Everything of the header that a driver can change, as it is after a reset.
fn as_new(g: &Guest, t: &Type, what: &str) -> Result<()> {
    let (q, d) = (&g.qemu.qtest, &g.driver);
    let get = |offset, width| d.read(q, offset, width);
    assert_eq!(get(18, 1)?, 0, "{:?}, {what}: status", t.kind);
    assert_eq!(get(4, 4)?, 0, "{:?}, {what}: features", t.kind);
    assert_eq!(get(14, 2)?, 0, "{:?}, {what}: selected queue", t.kind);
    for index in 0..t.queues {
        d.write(q, 14, 2, index.into())?;
        assert_eq!(get(8, 4)?, 0, "{:?}, {what}: address of {index}", t.kind);
    }
    assert_eq!(get(19, 1)?, 0, "{:?}, {what}: ISR", t.kind);
    Ok(())
}

// Covers: LIO-08, INI-07
#[test]
fn each_type_starts_again_after_each_reset() -> Result<()> {
    for t in &TYPES {
        let mut stack = Stack::start(t.kind, 1)?;
        let mut g = Guest::start(&stack, Machine::Q35)?;
        for (what, round) in [("status 0", 0), ("system reset", 1), ("status 0", 2)] {
            let mut queue = t.ready(&mut g)?;
            t.start(&mut g, &mut queue)?;
            t.finish(&g, &mut queue)?;
            // A request is under way, or done and not looked at, when the reset comes.
            t.start(&mut g, &mut queue)?;
            match round {
                1 => {
                    g.qemu.qmp.system_reset()?;
                    g.device.map(&g.qemu.qtest)?;
                }
                _ => g.driver.set_status(&g.qemu.qtest, 0)?,
            }
            as_new(&g, t, what)?;
        }
        let mut queue = t.ready(&mut g)?;
        t.start(&mut g, &mut queue)?;
        t.finish(&g, &mut queue)?;
        let counters = stack.sim.counters()?;
        for name in ["dma_forbidden", "needs_reset"] {
            let path = format!("/hardware/functions/vf1/{name}");
            let number = counters.pointer(&path).and_then(Value::as_u64);
            assert_eq!(number, Some(0), "{:?}: {name}", t.kind);
        }
    }
    Ok(())
}
