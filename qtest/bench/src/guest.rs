// SPDX-License-Identifier: GPL-2.0-or-later
//! Register accesses and doorbells of a guest's CPUs, through QEMU, helper and simulated PF. With a
//! second QEMU the two are measured in turns, in one run.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use qtest_harness::qemu::QemuBuilder;
use qtest_harness::stack::{DEVICE_ID, SLOT};
use qtest_harness::vcpu::program;
use qtest_harness::{DeviceKind, LegacyDriver, Machine, PciDevice, Qemu, Stack, Step, Vcpu};

use crate::report::Figure;
use crate::Effort;

/// A guest whose CPUs do nothing but this.
struct Guest {
    qemu: Qemu,
    vcpu: Vcpu,
    task: Vec<Step>,
    /// Property of the device that counts what is done.
    counter: &'static str,
    _stack: Stack,
}

/// What a guest is to do: offset in BAR0, and what is written there; how many CPUs do it.
#[derive(Clone, Copy)]
struct Task {
    name: &'static str,
    offset: u16,
    write: bool,
    cpus: u32,
    counter: &'static str,
}

const TASKS: [Task; 3] = [
    Task {
        name: "guest: register read",
        offset: 18,
        write: false,
        cpus: 1,
        counter: "accesses",
    },
    Task {
        name: "guest: doorbell through QEMU, 1 CPU",
        offset: 16,
        write: true,
        cpus: 1,
        counter: "notifies",
    },
    Task {
        name: "guest: doorbell through QEMU, 4 CPUs",
        offset: 16,
        write: true,
        cpus: 4,
        counter: "notifies",
    },
];

impl Guest {
    fn start(qemu: &Path, task: Task) -> Result<Self> {
        let stack = Stack::start(DeviceKind::Block, 1)?;
        let qemu = QemuBuilder::new(Machine::Pc)
            .program(qemu)
            .run_code(program()?, task.cpus)
            .device(&stack.device(1))
            .spawn(stack.dir())?;
        let mut device = PciDevice::find(&qemu.qtest, SLOT)?;
        device.map(&qemu.qtest)?;
        let driver = LegacyDriver::new(&device)?;
        driver.begin(&qemu.qtest, 0)?;
        let port = device.io()? + task.offset;
        let step = if task.write {
            Step::write(port, 2, 0)
        } else {
            Step::read(port, 1)
        };
        let mut guest = Guest {
            qemu,
            vcpu: Vcpu::default(),
            task: vec![step; 32],
            counter: task.counter,
            _stack: stack,
        };
        guest.vcpu.run(&guest.qemu.qtest, &guest.task)?;
        guest.vcpu.leave(&guest.qemu.qtest, false)?;
        Ok(guest)
    }

    fn count(&mut self) -> Result<u64> {
        let path = format!("/machine/peripheral/{DEVICE_ID}");
        let value = self.qemu.qmp.get(&path, self.counter)?;
        value.as_u64().context("not a number")
    }

    /// Done in a second.
    fn rate(&mut self, window: Duration) -> Result<f64> {
        self.vcpu.leave(&self.qemu.qtest, true)?;
        let (begun, before) = (Instant::now(), self.count()?);
        sleep(window);
        let (took, after) = (begun.elapsed(), self.count()?);
        self.vcpu.leave(&self.qemu.qtest, false)?;
        sleep(Duration::from_millis(5));
        Ok((after - before) as f64 / took.as_secs_f64())
    }
}

/// The figures of a QEMU, beside those of another one if there is one.
///
/// # Errors
/// If one does not start.
pub fn all(qemu: &Path, against: Option<&PathBuf>, effort: Effort) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut alone = None;
    for task in TASKS {
        let mut ours = Guest::start(qemu, task)?;
        let mut other = against.map(|q| Guest::start(q, task)).transpose()?;
        let (mut best, mut best_other) = (0.0, 0.0);
        for _ in 0..effort.rounds * 4 {
            let window = effort.round / 4;
            best = f64::max(best, ours.rate(window)?);
            if let Some(other) = &mut other {
                best_other = f64::max(best_other, other.rate(window)?);
            }
        }
        let figure = Figure::new(task.name, best, "a second");
        let figure = match (&other, alone) {
            (Some(_), _) => {
                let before =
                    Figure::new(format!("{}, --against", task.name), best_other, "a second");
                figures.push(before);
                figure.against("--against", best_other)
            }
            (None, Some(one)) if task.cpus > 1 => figure.against("1 CPU", one),
            (None, _) => figure,
        };
        figures.push(figure);
        if task.write && task.cpus == 1 {
            alone = Some(best);
        }
        if let (Some(one), 2..) = (alone, task.cpus) {
            figures.push(Figure::new(
                "guest: doorbells of 4 CPUs to those of 1",
                best / one,
                "x",
            ));
        }
    }
    Ok(figures)
}
