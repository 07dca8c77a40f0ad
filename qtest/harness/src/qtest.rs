// SPDX-License-Identifier: GPL-2.0-or-later
//! The qtest protocol: guest memory and I/O ports from outside the guest.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::net::UnixStream;

use anyhow::{bail, Context, Result};

use crate::lines::Lines;
use crate::PATIENCE;

/// A conversation with QEMU's qtest server.
#[derive(Debug)]
pub struct Qtest {
    lines: RefCell<Lines>,
    irqs: RefCell<BTreeMap<u32, Irq>>,
}

/// An input of an intercepted interrupt controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Irq {
    /// Raised now.
    pub level: bool,
    /// Times it was raised.
    pub raised: u64,
    /// Times it was lowered.
    pub lowered: u64,
}

impl Qtest {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Qtest {
            lines: RefCell::new(Lines::new(stream)),
            irqs: RefCell::default(),
        }
    }

    fn ask(&self, command: &str) -> Result<Option<String>> {
        let mut lines = self.lines.borrow_mut();
        lines.send(command)?;
        loop {
            let line = lines
                .receive(PATIENCE)
                .with_context(|| format!("no answer to qtest command \"{}\"", head(command)))?;
            let mut words = line.split_whitespace();
            match words.next() {
                Some("IRQ") => self.irq_changed(words.next(), words.next()),
                Some("OK") => return Ok(words.next().map(str::to_owned)),
                _ => bail!("qtest command \"{}\" gave \"{line}\"", head(command)),
            }
        }
    }

    fn irq_changed(&self, what: Option<&str>, number: Option<&str>) {
        let Some(number) = number.and_then(|n| n.parse().ok()) else {
            return;
        };
        let mut irqs = self.irqs.borrow_mut();
        let irq = irqs.entry(number).or_default();
        match what {
            Some("raise") => {
                irq.level = true;
                irq.raised += 1;
            }
            Some("lower") => {
                irq.level = false;
                irq.lowered += 1;
            }
            _ => {}
        }
    }

    /// From now on the inputs of an interrupt controller (a QOM path, or its last part) are seen
    /// here, and no more by the controller. One per QEMU.
    ///
    /// # Errors
    /// If there is no such object.
    pub fn intercept_irqs(&self, path: &str) -> Result<()> {
        self.ask(&format!("irq_intercept_in {path}"))?;
        Ok(())
    }

    /// The intercepted inputs that have ever changed, as they are now.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn irqs(&self) -> Result<BTreeMap<u32, Irq>> {
        // Changes come before the answer to a command that follows them.
        self.port_read(0x80, 1)?;
        Ok(self.irqs.borrow().clone())
    }

    fn value(&self, command: &str) -> Result<u64> {
        let answer = self.ask(command)?;
        let word = answer.context("qtest gave no value")?;
        let digits = word.strip_prefix("0x").unwrap_or(&word);
        Ok(u64::from_str_radix(digits, 16)?)
    }

    /// Reads an I/O port with 1, 2 or 4 bytes.
    ///
    /// # Errors
    /// If QEMU is gone or `width` is none of these.
    pub fn port_read(&self, port: u16, width: u8) -> Result<u32> {
        let letter = letter(width)?;
        Ok(u32::try_from(
            self.value(&format!("in{letter} {port:#x}"))?,
        )?)
    }

    /// Writes an I/O port with 1, 2 or 4 bytes.
    ///
    /// # Errors
    /// If QEMU is gone or `width` is none of these.
    pub fn port_write(&self, port: u16, width: u8, value: u32) -> Result<()> {
        let letter = letter(width)?;
        self.ask(&format!("out{letter} {port:#x} {value:#x}"))?;
        Ok(())
    }

    /// Reads 1, 2 or 4 bytes at a guest physical address.
    ///
    /// # Errors
    /// If QEMU is gone or `width` is none of these.
    pub fn read(&self, address: u64, width: u8) -> Result<u32> {
        let letter = letter(width)?;
        Ok(u32::try_from(
            self.value(&format!("read{letter} {address:#x}"))?,
        )?)
    }

    /// Writes 1, 2 or 4 bytes at a guest physical address.
    ///
    /// # Errors
    /// If QEMU is gone or `width` is none of these.
    pub fn write(&self, address: u64, width: u8, value: u32) -> Result<()> {
        let letter = letter(width)?;
        self.ask(&format!("write{letter} {address:#x} {value:#x}"))?;
        Ok(())
    }

    /// Copies guest memory out.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn memory(&self, address: u64, len: usize) -> Result<Vec<u8>> {
        if len == 0 {
            return Ok(Vec::new());
        }
        let answer = self.ask(&format!("read {address:#x} {len:#x}"))?;
        let word = answer.context("qtest gave no bytes")?;
        let digits = word.strip_prefix("0x").unwrap_or(&word).as_bytes();
        let bytes: Option<Vec<u8>> = digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect();
        bytes
            .filter(|b| b.len() == len)
            .context("qtest gave other bytes than asked for")
    }

    /// Copies bytes into guest memory.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn set_memory(&self, address: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut command = format!("write {address:#x} {:#x} 0x", bytes.len());
        for b in bytes {
            let _ = write!(command, "{b:02x}");
        }
        self.ask(&command)?;
        Ok(())
    }
}

fn letter(width: u8) -> Result<char> {
    match width {
        1 => Ok('b'),
        2 => Ok('w'),
        4 => Ok('l'),
        _ => bail!("width {width}"),
    }
}

fn head(command: &str) -> &str {
    command.get(..60).unwrap_or(command)
}
