// SPDX-License-Identifier: GPL-2.0-or-later
//! A guest without MSI-X, whose interrupt line is watched where it ends: at the IOAPIC.

use anyhow::{bail, Context, Result};
use qtest_harness::driver::{Buffer, Queue};
use qtest_harness::qtest::Irq;
use qtest_harness::{LegacyDriver, Machine, PciDevice, Qemu, Stack, PATIENCE};
use serde_json::Value;
use virtio_pci_spec::pci::{header, COMMAND_INTX_DISABLE, STATUS_INTERRUPT};

use crate::wait_for;

/// A machine with one function that has a pin.
pub struct Guest {
    /// The machine.
    pub qemu: Qemu,
    /// The function.
    pub device: PciDevice,
    /// Its driver.
    pub driver: LegacyDriver,
    /// The input of the IOAPIC that the pin ends at, once it has been raised.
    line: Option<u32>,
}

impl Guest {
    /// A machine with VF 1.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(stack: &Stack, machine: Machine) -> Result<Self> {
        Self::start_with(stack, machine, &stack.device(1))
    }

    /// A machine with a device in the usual slot.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_with(stack: &Stack, machine: Machine, device: &Value) -> Result<Self> {
        let (qemu, device) = stack.mapped_with(machine, device)?;
        let q = &qemu.qtest;
        if machine == Machine::Pc {
            // Firmware's part: the four PCI interrupts of the PIIX3 go to these inputs.
            let bridge = PciDevice::find(q, 1)?;
            for (i, input) in [10, 11, 10, 11].into_iter().enumerate() {
                bridge.write(q, 0x60 + i, 1, input)?;
            }
        }
        q.intercept_irqs("ioapic")?;
        let driver = LegacyDriver::new(&device)?;
        Ok(Guest {
            qemu,
            device,
            driver,
            line: None,
        })
    }

    /// The line at the IOAPIC. It is the only one that ever changes.
    ///
    /// # Errors
    /// If QEMU is gone, or several lines have changed.
    pub fn line(&mut self) -> Result<Irq> {
        let irqs = self.qemu.qtest.irqs()?;
        // Timer and clock have inputs below 10 of their own.
        let mut used = irqs.into_iter().filter(|(n, _)| *n >= 10);
        let (line, other) = (used.next(), used.next());
        if let Some(other) = other {
            bail!("{line:?} and {other:?} have both changed");
        }
        let Some((number, irq)) = line else {
            return Ok(Irq::default());
        };
        if *self.line.get_or_insert(number) != number {
            bail!("the pin has moved from {:?} to {number}", self.line);
        }
        Ok(irq)
    }

    /// Waits until the line has this level.
    ///
    /// # Errors
    /// If it does not in time.
    pub fn wait_level(&mut self, level: bool) -> Result<Irq> {
        wait_for("interrupt line", PATIENCE, || {
            let irq = self.line()?;
            Ok((irq.level == level).then_some(irq))
        })
    }

    /// The ISR, which reading clears.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn isr(&self) -> Result<u32> {
        self.driver.read(&self.qemu.qtest, 19, 1)
    }

    /// Interrupt Status in the PCI status register.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn pending(&self) -> Result<bool> {
        let status = self.device.read(&self.qemu.qtest, header::STATUS, 2)?;
        Ok(status & u32::from(STATUS_INTERRUPT) != 0)
    }

    /// Sets or clears INTx Disable.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn disable_intx(&self, off: bool) -> Result<()> {
        let q = &self.qemu.qtest;
        let command = self.device.read(q, header::COMMAND, 2)?;
        let bit = u32::from(COMMAND_INTX_DISABLE);
        let command = if off { command | bit } else { command & !bit };
        self.device.write(q, header::COMMAND, 2, command)
    }

    /// A disk driver that is ready, with its queue.
    ///
    /// # Errors
    /// If the device does not play along.
    pub fn disk(&mut self) -> Result<Queue> {
        let q = &self.qemu.qtest;
        self.driver.begin(q, 0)?;
        let queue = self.driver.queue(q, &mut self.qemu.memory, 0, 0)?;
        self.driver.set_status(q, 7)?;
        Ok(queue)
    }

    /// Starts reading a sector.
    ///
    /// # Errors
    /// If memory is used up.
    pub fn start_read(&mut self, queue: &mut Queue) -> Result<()> {
        let q = &self.qemu.qtest;
        let memory = &mut self.qemu.memory;
        let buffers = [Buffer::Out(vec![0; 16]), Buffer::In(512), Buffer::In(1)];
        self.driver.add(q, memory, queue, &buffers)?;
        self.driver.kick(q, queue)
    }

    /// The sector that was read.
    ///
    /// # Errors
    /// If it does not come, or with an error.
    pub fn finish_read(&mut self, queue: &mut Queue) -> Result<()> {
        let bytes = self.driver.wait_used(&self.qemu.qtest, queue, PATIENCE)?;
        match bytes.last().context("no status")? {
            0 => Ok(()),
            status => bail!("status {status}"),
        }
    }

    /// Reads a sector as an interrupt handler would: waits for the line, reads the ISR, looks at the
    /// queue. Gives the ISR.
    ///
    /// # Errors
    /// If a part of it does not happen.
    pub fn read_by_interrupt(&mut self, queue: &mut Queue) -> Result<u32> {
        self.start_read(queue)?;
        self.wait_level(true)?;
        let isr = self.isr()?;
        self.finish_read(queue)?;
        Ok(isr)
    }
}
