// SPDX-License-Identifier: GPL-2.0-or-later
//! A guest whose CPU runs and uses the register window by itself, while the test does something else
//! to the machine.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use qtest_harness::driver::{Buffer, Queue};
use qtest_harness::qemu::QemuBuilder;
use qtest_harness::stack::{DEVICE_ID, SLOT};
use qtest_harness::vcpu::{program, Counts};
use qtest_harness::{LegacyDriver, Machine, PciDevice, Qemu, Stack, Step, Vcpu, PATIENCE};
use serde_json::{json, Value};
use test_kit::patience::OwnTime;

use crate::{counter, wait_for};

/// What does not wait for a helper is done within this much own time; any deadline is far above.
pub const PROMPT: Duration = Duration::from_secs(10);

/// Registers of ACPI PCI hot plug on the i440FX machine.
const EJECT: u16 = 0xae08;
const SELECT_BUS: u16 = 0xae10;

/// Does something that must not wait for a helper.
///
/// # Errors
/// If it fails, or takes long.
pub fn promptly<T>(what: &str, f: impl FnOnce() -> Result<T>) -> Result<T> {
    let begin = OwnTime::start();
    let out = f().with_context(|| format!("{what} beside a hung helper"))?;
    let took = begin.elapsed();
    ensure!(took < PROMPT, "{what} took {took:?} beside a hung helper");
    Ok(out)
}

/// A guest with a disk, and with a CPU that runs.
#[derive(Debug)]
pub struct Running {
    /// The machine.
    pub qemu: Qemu,
    /// The function.
    pub device: PciDevice,
    /// What the test itself does at the function.
    pub driver: LegacyDriver,
    /// Its queue.
    pub queue: Option<Queue>,
    /// The CPU.
    pub vcpu: Vcpu,
}

impl Running {
    /// A machine with `config` in the usual slot, its BARs placed, and a CPU without a task.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(stack: &Stack, config: &Value) -> Result<Self> {
        Self::start_with(stack, std::slice::from_ref(config))
    }

    /// The same with more devices; the first is in the usual slot.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_with(stack: &Stack, devices: &[Value]) -> Result<Self> {
        let builder = QemuBuilder::new(Machine::Pc).run_code(program()?, 1);
        let qemu = devices
            .iter()
            .fold(builder, QemuBuilder::device)
            .spawn(stack.dir())?;
        let device = mapped(&qemu, SLOT)?;
        let driver = LegacyDriver::new(&device)?;
        Ok(Running {
            qemu,
            device,
            driver,
            queue: None,
            vcpu: Vcpu::default(),
        })
    }

    /// Places the BARs again, as after a reset.
    ///
    /// # Errors
    /// If the function is gone.
    pub fn map_again(&mut self) -> Result<()> {
        self.device.map(&self.qemu.qtest)
    }

    /// Sets up the disk anew, for the test itself, and reads a sector.
    ///
    /// # Errors
    /// If a part of it does not work.
    pub fn drive(&mut self) -> Result<()> {
        let q = &self.qemu.qtest;
        self.driver.begin(q, u32::MAX)?;
        let queue = self.driver.queue(q, &mut self.qemu.memory, 0, 0)?;
        self.driver.set_status(q, 7)?;
        self.queue = Some(queue);
        self.works()
    }

    /// Reads a sector by the test itself.
    ///
    /// # Errors
    /// If that does not work.
    pub fn works(&mut self) -> Result<()> {
        let queue = self.queue.as_mut().context("no driver")?;
        let memory = &mut self.qemu.memory;
        let sector = Buffer::In(512);
        let (data, status) =
            self.driver
                .block_request(&self.qemu.qtest, memory, queue, 0, 0, &sector)?;
        ensure!(
            (data.len(), status) == (512, 0),
            "{} bytes, {status}",
            data.len()
        );
        Ok(())
    }

    /// A port of BAR0.
    ///
    /// # Errors
    /// If BAR0 is not I/O.
    pub fn port(&self, offset: u16) -> Result<u16> {
        Ok(self.device.io()? + offset)
    }

    /// Reads of registers that the device does not remember, neighbours with values of their own, as
    /// they are now. A reply that comes to the wrong one is seen.
    ///
    /// # Errors
    /// If they cannot be told apart.
    pub fn reads(&self) -> Result<Vec<Step>> {
        let q = &self.qemu.qtest;
        let mut list = Vec::new();
        let mut values = BTreeSet::from([0, 0xff, u32::MAX]);
        // Status, driver features, and of the disk's configuration capacity and number of segments.
        for (offset, width) in [(18, 1), (4, 4), (20, 4), (32, 4)] {
            let port = self.port(offset)?;
            let value = q.port_read(port, width)?;
            ensure!(values.insert(value), "{value:#x} at {offset}");
            list.push(Step::expect(port, width, value));
        }
        Ok(list)
    }

    /// All that a driver does to set up the device and to use it a little, with a ring in `pfn`.
    ///
    /// # Errors
    /// If BAR0 is not I/O.
    pub fn set_up(&self, pfn: u32) -> Result<Vec<Step>> {
        let io = self.device.io()?;
        Ok(vec![
            Step::write(io + 18, 1, 0),
            Step::read(io + 18, 1),
            Step::write(io + 18, 1, 1),
            Step::write(io + 18, 1, 3),
            Step::read(io, 4),
            Step::write(io + 4, 4, 0),
            Step::write(io + 14, 2, 0),
            Step::read(io + 12, 2),
            Step::read(io + 8, 4),
            Step::write(io + 8, 4, pfn),
            Step::write(io + 18, 1, 7),
            Step::read(io + 18, 1),
            Step::write(io + 16, 2, 0),
            Step::read(io + 19, 1),
        ])
    }

    /// Gives the CPU a task.
    ///
    /// # Errors
    /// If it does not begin with it.
    pub fn run(&mut self, list: &[Step]) -> Result<()> {
        self.vcpu.run(&self.qemu.qtest, list)?;
        self.vcpu.moves(&self.qemu.qtest, 1)
    }

    /// Stops the helper with the CPU inside an access.
    ///
    /// # Errors
    /// If the CPU goes on.
    pub fn hang(&self, stack: &mut Stack) -> Result<Counts> {
        stack.helper.process.stop()?;
        self.vcpu.is_inside(&self.qemu.qtest)
    }

    /// What must be as it was when helper and CPU go on: registers are right, nothing was lost but
    /// what somebody was spared the wait for.
    ///
    /// # Errors
    /// If it is not.
    pub fn goes_on(&mut self) -> Result<()> {
        let q = &self.qemu.qtest;
        crate::wait_link(&mut self.qemu.qmp, "connected", PATIENCE)?;
        // The access that waited, and one more, may have been given up; what begins now is not.
        self.vcpu.moves(q, 8)?;
        let before = self.vcpu.all_right(q)?;
        self.vcpu.moves(q, 200)?;
        let after = self.vcpu.all_right(q)?;
        ensure!(after.ones == before.ones, "{before:?}, then {after:?}");
        let qmp = &mut self.qemu.qmp;
        let given_up = counter(qmp, "given-up")?;
        // A machine so slow that the deadline passed has lost the helper.
        let timeouts = counter(qmp, "timeouts")?;
        ensure!(counter(qmp, "losses")? == timeouts, "the helper was lost");
        ensure!(
            timeouts > 0 || u64::from(after.ones) <= given_up,
            "{given_up} given up, but {after:?}"
        );
        self.vcpu.rest(q)
    }

    /// Asks the guest for a device and gives it back as its system would, until it is gone.
    ///
    /// # Errors
    /// If it does not go.
    pub fn unplug(&mut self, id: &str, slot: u8) -> Result<()> {
        let qemu = &mut self.qemu;
        qemu.qmp.command("device_del", json!({ "id": id }))?;
        qemu.qtest.port_write(SELECT_BUS, 4, 0)?;
        qemu.qtest.port_write(EJECT, 4, 1 << slot)?;
        qemu.qmp.event("DEVICE_DELETED", PATIENCE, |data| {
            data.get("device").is_some_and(|d| d == id)
        })?;
        Ok(())
    }

    /// Plugs the device, and places its BARs.
    ///
    /// # Errors
    /// If it is not taken.
    pub fn plug(&mut self, config: &Value) -> Result<()> {
        // QEMU closes the VF a moment after it tells of the end of the device before.
        let mut refusal = String::new();
        let plugged = wait_for("the VF in the machine", PATIENCE, || {
            match self.qemu.qmp.command("device_add", config.clone()) {
                Ok(_) => Ok(Some(())),
                Err(e) => {
                    refusal = e.to_string();
                    Ok(None)
                }
            }
        });
        plugged.with_context(|| format!("{DEVICE_ID}: {refusal}"))?;
        self.map_again()
    }
}

/// A function with its BARs placed.
///
/// # Errors
/// If it is not there.
pub fn mapped(qemu: &Qemu, slot: u8) -> Result<PciDevice> {
    let mut device = PciDevice::find(&qemu.qtest, slot)?;
    device.map(&qemu.qtest)?;
    Ok(device)
}
