// SPDX-License-Identifier: GPL-2.0-or-later
//! The PF refuses a write of the driver's set-up. The registers then tell what every driver looks at:
//! no queue has a size, no vector is taken, until the device is reset.

use anyhow::{Context, Result};
use qtest_harness::driver::Queue;
use qtest_harness::{DeviceKind, LegacyDriver, Machine, Msix, PciDevice, Qemu, Stack};
use qtest_tests::{counter, property};
use serde_json::{json, Value};

const KINDS: [DeviceKind; 7] = [
    DeviceKind::Net,
    DeviceKind::Block,
    DeviceKind::Console,
    DeviceKind::Rng,
    DeviceKind::Balloon,
    DeviceKind::Scsi,
    DeviceKind::P9,
];
/// EINVAL, and a qualifier to be found again.
const STATUS: u16 = 22;
const QUALIFIER: u16 = 5;
const NO_VECTOR: u32 = 0xffff;

/// A register of the set-up, and a write to it that a driver makes.
type Step = (u16, u8, u32);
const STEPS: [Step; 6] = [
    (4, 4, 0),
    (8, 4, 0x200),
    (14, 2, 1),
    (18, 1, 3),
    (20, 2, 0),
    (22, 2, 1),
];

struct Guest {
    qemu: Qemu,
    device: PciDevice,
    driver: LegacyDriver,
}

impl Guest {
    /// A driver that has got as far as DRIVER, with MSI-X if asked for.
    fn start(stack: &Stack, msix: bool) -> Result<(Self, Option<Msix>)> {
        let (mut qemu, device) = stack.mapped(Machine::Pc)?;
        let mut driver = LegacyDriver::new(&device)?;
        let vectors = if msix {
            Some(driver.use_msix(&qemu.qtest, &device, &mut qemu.memory)?)
        } else {
            None
        };
        let guest = Guest {
            qemu,
            device,
            driver,
        };
        guest.driver.set_status(&guest.qemu.qtest, 0)?;
        guest.driver.set_status(&guest.qemu.qtest, 1)?;
        guest.driver.set_status(&guest.qemu.qtest, 3)?;
        Ok((guest, vectors))
    }

    fn write(&self, (offset, width, value): Step) -> Result<()> {
        (self.driver).write(&self.qemu.qtest, offset, width, value)
    }

    fn read(&self, offset: u16, width: u8) -> Result<u32> {
        self.driver.read(&self.qemu.qtest, offset, width)
    }

    /// Sizes of the first queues, each as a driver looks for it.
    fn sizes(&self) -> Result<Vec<u32>> {
        (0..3)
            .map(|queue| {
                self.write((14, 2, queue))?;
                self.read(12, 2)
            })
            .collect()
    }

    /// A driver's probe cannot go wrong without seeing it.
    fn probe_fails(&self, what: &str) -> Result<()> {
        assert_eq!(self.sizes()?, [0; 3], "{what}: sizes of the queues");
        if self.driver.msix {
            for offset in [20, 22] {
                self.write((offset, 2, 0))?;
                assert_eq!(self.read(offset, 2)?, NO_VECTOR, "{what}: vector");
            }
        }
        // Neither a later write nor the status makes it good.
        self.write((4, 4, 0))?;
        self.write((18, 1, 7))?;
        assert_eq!(self.sizes()?, [0; 3], "{what}: sizes after DRIVER_OK");
        self.write((18, 1, 0x83))?;
        assert_eq!(self.sizes()?, [0; 3], "{what}: sizes after FAILED");
        Ok(())
    }

    /// The first queue of a new driver.
    fn set_up(&mut self, what: &str) -> Result<Queue> {
        let q = &self.qemu.qtest;
        self.driver.begin(q, 0)?;
        let queue = (self.driver)
            .queue(q, &mut self.qemu.memory, 0, 0)
            .with_context(|| what.to_owned())?;
        self.driver.set_status(q, 7)?;
        assert_eq!(self.driver.status(q)?, 7, "{what}");
        Ok(queue)
    }
}

fn rule(offset: u16, once: bool) -> Value {
    let mut rule = json!({
        "opcode": "LEGACY_COMMON_CFG_WRITE",
        "member": 1,
        "offset": offset,
        "do": {"status": {"status": STATUS, "qualifier": QUALIFIER}},
    });
    if once {
        rule["first"] = json!(1);
    }
    rule
}

/// How many commands the rule has refused.
fn hits(stack: &mut Stack) -> Result<u64> {
    let list = stack.sim.control(&json!({"cmd": "fault-list"}))?;
    let hits = list.pointer("/rules/0/hits").and_then(Value::as_u64);
    hits.with_context(|| format!("no rule in {list}"))
}

/// Every register, once and for good, each type.
fn every_register(msix: bool) -> Result<()> {
    for kind in KINDS {
        let mut stack = Stack::start(kind, 1)?;
        let (mut guest, _vectors) = Guest::start(&stack, msix)?;
        let mut failures = counter(&mut guest.qemu.qmp, "setup-failures")?;
        for step in STEPS {
            let offset = step.0;
            if offset >= 20 && !msix {
                // It is configuration there.
                continue;
            }
            for once in [true, false] {
                let what = format!("{kind:?}, msix={msix}, offset {offset}, once={once}");
                guest.write((18, 1, 0))?;
                guest.write((18, 1, 1))?;
                stack.sim.add_fault(&rule(offset, once))?;
                guest.write(step)?;
                // Selecting a queue may wait until it matters.
                if offset == 14 {
                    guest.read(12, 2)?;
                    guest.write((8, 4, 0x200))?;
                }
                assert!(hits(&mut stack)? > 0, "{what}: nothing was refused");
                guest.probe_fails(&what)?;
                let now = counter(&mut guest.qemu.qmp, "setup-failures")?;
                assert!(now > failures, "{what}: {now} failures were counted");
                failures = now;
                stack.sim.clear_faults()?;
                // The PF takes the writes again, and the driver starts with a reset.
                guest.set_up(&what)?;
            }
        }
        assert_eq!(property(&mut guest.qemu.qmp, "link-state")?, "connected");
        let log = guest.qemu.process.log();
        let texts = [
            "VF 1".to_owned(),
            "BAR0 offset 4 ".to_owned(),
            format!("status {STATUS}"),
            format!("qualifier {QUALIFIER}"),
        ];
        let told = log
            .lines()
            .any(|line| texts.iter().all(|text| line.contains(text.as_str())));
        assert!(told, "{kind:?}: {log}");
        // A machine that is reset knows nothing of it any more.
        guest.device.map(&guest.qemu.qtest)?;
    }
    Ok(())
}

// Covers: LEG-03, IRQ-06
#[test]
fn a_refused_write_makes_the_probe_fail_until_a_reset_with_msix() -> Result<()> {
    every_register(true)
}

// Covers: LEG-03
#[test]
fn a_refused_write_makes_the_probe_fail_until_a_reset_with_intx() -> Result<()> {
    every_register(false)
}

/// A refused reset is no set-up: the driver reads the status back, and sees that it is not 0.
// Covers: LEG-03
#[test]
fn a_refused_reset_is_seen_in_the_status() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Net, 1)?;
    let (guest, _) = Guest::start(&stack, false)?;
    stack.sim.add_fault(&rule(18, true))?;
    guest.write((18, 1, 0))?;
    assert_ne!(guest.read(18, 1)?, 0, "it reads as reset, and is not");
    stack.sim.clear_faults()?;
    guest.write((18, 1, 0))?;
    assert_eq!(guest.read(18, 1)?, 0);
    assert_ne!(guest.sizes()?.first(), Some(&0));
    Ok(())
}

/// The reset of the machine ends it, too.
// Covers: LEG-03, LIO-08
#[test]
fn a_reset_of_the_machine_ends_it() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Block, 1)?;
    let (mut guest, _) = Guest::start(&stack, false)?;
    stack.sim.add_fault(&rule(8, true))?;
    guest.write((14, 2, 0))?;
    guest.write((8, 4, 0x200))?;
    assert_eq!(guest.sizes()?, [0; 3]);
    guest.qemu.qmp.system_reset()?;
    guest.device.map(&guest.qemu.qtest)?;
    assert_ne!(guest.sizes()?.first(), Some(&0));
    guest.set_up("after the reset of the machine")?;
    Ok(())
}

/// A device configuration that the PF refuses is no part of the set-up: drivers read it back, or not.
// Covers: LEG-03
#[test]
fn a_refused_write_to_the_configuration_changes_nothing_else() -> Result<()> {
    let mut stack = Stack::start(DeviceKind::Net, 1)?;
    let (mut guest, _) = Guest::start(&stack, false)?;
    let sizes = guest.sizes()?;
    let mut rule = rule(0, false);
    rule["opcode"] = json!("LEGACY_DEV_CFG_WRITE");
    stack.sim.add_fault(&rule)?;
    guest.write((20, 1, 0xee))?;
    assert!(hits(&mut stack)? > 0);
    assert_eq!(guest.sizes()?, sizes);
    assert_eq!(counter(&mut guest.qemu.qmp, "setup-failures")?, 0);
    Ok(())
}
