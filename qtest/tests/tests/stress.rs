// SPDX-License-Identifier: GPL-2.0-or-later
//! A guest's CPU hammers the registers while the machine does to the device whatever a machine can.
//! The order of events is the same every time; how they meet the CPU's accesses is not.

use std::collections::BTreeMap;

use anyhow::{ensure, Context, Result};
use qtest_harness::stack::{DEVICE_ID, SLOT};
use qtest_harness::{DeviceKind, Stack, PATIENCE};
use qtest_tests::random::Random;
use qtest_tests::running::Running;
use qtest_tests::{counter, property, wait_link};
use serde_json::json;
use virtio_pci_spec::pci::{
    header, msix, CAP_ID_EXPRESS, CAP_ID_MSIX, COMMAND_IO, COMMAND_MASTER, COMMAND_MEMORY,
};

/// Times that the machine is stopped.
const STOPS: u32 = 3000;

/// Events in [`registers_are_used_while_everything_happens_to_the_device`].
const EVENTS: u32 = 400;

/// With a helper that lives, whoever waits for the CPU waits for the reply: no access is given up.
#[test]
fn thousands_of_stops_lose_no_access() -> Result<()> {
    let stack = Stack::start(DeviceKind::Block, 1)?;
    let mut g = Running::start(&stack, &stack.device(1))?;
    g.drive()?;
    let list = g.reads()?;
    g.run(&list)?;
    for _ in 0..STOPS {
        g.vcpu.moves(&g.qemu.qtest, 1)?;
        g.qemu.qmp.command("stop", json!({}))?;
        g.qemu.qmp.command("cont", json!({}))?;
    }
    g.vcpu.rest(&g.qemu.qtest)?;
    let counts = g.vcpu.all_right(&g.qemu.qtest)?;
    assert_eq!(counts.ones, 0, "{counts:?}");
    assert!(counts.ended >= STOPS, "{counts:?}");
    let all = ["lost-reads", "lost-writes", "command-failures", "given-up"];
    for name in all.into_iter().chain(["timeouts", "losses", "rejected"]) {
        assert_eq!(counter(&mut g.qemu.qmp, name)?, 0, "{name}");
    }
    g.works()
}

/// What happens to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    MsixSwitch,
    IoOff,
    Move,
    FunctionReset,
    Unplug,
    SystemReset,
    HelperRestart,
    NewTask,
}

/// Each so many times in all these together.
const WEIGHTS: [(Event, u32); 8] = [
    (Event::MsixSwitch, 8),
    (Event::IoOff, 6),
    (Event::Move, 6),
    (Event::FunctionReset, 6),
    (Event::Unplug, 3),
    (Event::SystemReset, 2),
    (Event::HelperRestart, 1),
    (Event::NewTask, 8),
];

struct Stress {
    stack: Stack,
    g: Running,
    random: Random,
    /// Page number of a ring for the CPU's driver.
    pfn: u32,
    msix: usize,
    express: usize,
    happened: BTreeMap<Event, u32>,
}

impl Stress {
    fn new(seed: u64) -> Result<Self> {
        let stack = Stack::start(DeviceKind::Block, 1)?;
        let mut g = Running::start(&stack, &stack.device(1))?;
        let capabilities = g.device.capabilities(&g.qemu.qtest)?;
        let find = |id| {
            let found = capabilities.iter().find(|c| c.0 == id);
            found
                .map(|c| c.1)
                .with_context(|| format!("no capability {id:#x}"))
        };
        let (msix, express) = (find(CAP_ID_MSIX)?, find(CAP_ID_EXPRESS)?);
        let pfn = u32::try_from(g.qemu.memory.take(1 << 20, 4096)? / 4096)?;
        Ok(Stress {
            stack,
            g,
            random: Random::new(seed),
            pfn,
            msix,
            express,
            happened: BTreeMap::new(),
        })
    }

    /// Another task for the CPU: reads, doorbells, the ISR, or all that a driver does.
    fn task(&mut self) -> Result<()> {
        let all = self.g.set_up(self.pfn)?;
        let task = match self.random.below(5) {
            0 => all.get(1..2),
            1 => all.get(12..13),
            2 => all.get(13..),
            _ => all.get(..),
        };
        self.g.run(task.context("no task")?)
    }

    fn event(&mut self) -> Result<()> {
        let total = WEIGHTS.iter().map(|w| w.1).sum();
        let mut at = self.random.below(total);
        let mut events = WEIGHTS.iter();
        let event = loop {
            let (event, weight) = events.next().context("no event")?;
            if at < *weight {
                break *event;
            }
            at -= weight;
        };
        *self.happened.entry(event).or_default() += 1;
        // Something that the CPU does is between any two events.
        self.g.vcpu.moves(&self.g.qemu.qtest, 1)?;
        self.apply(event).with_context(|| {
            let log = self.g.qemu.process.log();
            format!("{event:?}, after {:?}; QEMU:\n{log}", self.happened)
        })
    }

    fn apply(&mut self, event: Event) -> Result<()> {
        let (q, device) = (&self.g.qemu.qtest, &self.g.device);
        match event {
            Event::MsixSwitch => {
                let enable = msix::CONTROL_ENABLE;
                let states = [0, enable, enable | msix::CONTROL_MASK_ALL];
                let state = states[self.random.below(3) as usize];
                device.write(q, self.msix + msix::CONTROL, 2, state.into())
            }
            Event::IoOff => {
                device.set_command(q, COMMAND_MEMORY | COMMAND_MASTER)?;
                device.set_command(q, COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER)
            }
            Event::Move => {
                let here = device.bar(0)?.base;
                device.write(q, header::BAR0, 4, here + 0x1000)?;
                device.write(q, header::BAR0, 4, here)
            }
            Event::FunctionReset => {
                let at = self.express + 8;
                let control = device.read(q, at, 2)?;
                device.write(q, at, 2, control | 0x8000)?;
                self.g.map_again()
            }
            Event::Unplug => {
                // The counters go with the device.
                self.nobody_was_alarmed()?;
                self.g.unplug(DEVICE_ID, SLOT)?;
                self.g.plug(&self.stack.device(1))
            }
            Event::SystemReset => {
                self.g.qemu.qmp.system_reset()?;
                self.g.map_again()
            }
            Event::HelperRestart => {
                self.stack.helper.process.kill()?;
                self.g.vcpu.moves(q, 1)?;
                self.stack.helper.restart()
            }
            Event::NewTask => self.task(),
        }
    }

    /// The VF gives vectors all the time, so nobody says that it does not.
    fn nobody_was_alarmed(&mut self) -> Result<()> {
        let unmapped = counter(&mut self.g.qemu.qmp, "intx-unmapped")?;
        let log = self.g.qemu.process.log();
        ensure!(
            unmapped == 0 && !log.contains("gives no interrupt vector"),
            "intx-unmapped is {unmapped} after {:?}; QEMU:\n{log}",
            self.happened
        );
        Ok(())
    }
}

// Covers: LIO-08, IRQ-06, LEG-14
#[test]
fn registers_are_used_while_everything_happens_to_the_device() -> Result<()> {
    let mut s = Stress::new(0x51_7e_57_5e_ed)?;
    s.task()?;
    for _ in 0..EVENTS {
        s.event()?;
    }
    for (event, _) in WEIGHTS {
        assert!(s.happened.contains_key(&event), "{event:?} never happened");
    }
    s.g.vcpu.rest(&s.g.qemu.qtest)?;
    assert!(s.g.qemu.process.is_running()?, "{}", s.g.qemu.process.log());
    wait_link(&mut s.g.qemu.qmp, "connected", PATIENCE)?;
    s.nobody_was_alarmed()?;
    // As any driver does that comes after others.
    let q = &s.g.qemu.qtest;
    s.g.device.write(q, s.msix + msix::CONTROL, 2, 0)?;
    s.g.map_again()?;
    s.g.drive()?;
    let list = s.g.reads()?;
    s.g.run(&list)?;
    s.g.vcpu.moves(&s.g.qemu.qtest, 200)?;
    s.g.vcpu.rest(&s.g.qemu.qtest)?;
    let counts = s.g.vcpu.all_right(&s.g.qemu.qtest)?;
    assert_eq!(counts.ones, 0, "{counts:?}");
    s.g.works()?;
    let qmp = &mut s.g.qemu.qmp;
    assert_eq!(property(qmp, "link-state")?, "connected");
    assert_eq!(property(qmp, "state-lost")?, false);
    assert_eq!(property(qmp, "link-error")?, "");
    assert_ne!(counter(qmp, "intx-vectors")?, 0);
    for name in ["timeouts", "given-up", "rejected", "notify-failures"] {
        assert_eq!(counter(qmp, name)?, 0, "{name}");
    }
    s.nobody_was_alarmed()
}

/// The known worst: function level resets beside a driver that sets up the device again and again.
// Covers: IRQ-06
#[test]
fn function_level_resets_beside_a_set_up_raise_no_alarm() -> Result<()> {
    let mut s = Stress::new(1)?;
    let all = s.g.set_up(s.pfn)?;
    s.g.run(&all)?;
    for _ in 0..150 {
        s.g.vcpu.moves(&s.g.qemu.qtest, 1 + s.random.below(28))?;
        s.apply(Event::FunctionReset)?;
    }
    s.g.vcpu.rest(&s.g.qemu.qtest)?;
    s.nobody_was_alarmed()?;
    // Whoever resets a function knows that it is reset.
    let log = s.g.qemu.process.log();
    assert!(!log.contains("warning:"), "{log}");
    // No vector was written to a VF whose MSI-X was off already.
    assert_eq!(counter(&mut s.g.qemu.qmp, "command-failures")?, 0);
    s.g.drive()
}
