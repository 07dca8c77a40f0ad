// SPDX-License-Identifier: GPL-2.0-or-later
//! PCI functions of the guest, as firmware and drivers see them.

use anyhow::{bail, Context, Result};
use virtio_pci_spec::pci::{
    header as cfg, msix, CAP_ID_MSIX, COMMAND_IO, COMMAND_MASTER, COMMAND_MEMORY,
};

use crate::memory::GuestMemory;
use crate::qtest::Qtest;

const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;

/// Where BARs are put.
const IO_BASE: u32 = 0xc000;
const MEMORY_BASE: u32 = 0xe000_0000;
/// Room for each function: BARs of up to this many bytes.
const IO_STEP: u32 = 0x200;
const MEMORY_STEP: u32 = 0x40_0000;

/// A BAR after [`PciDevice::map`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// I/O ports instead of memory.
    pub io: bool,
    /// Bytes.
    pub size: u32,
    /// First port or address.
    pub base: u32,
}

/// A function on bus 0 (or on the bus behind a root port, if that was numbered).
#[derive(Clone, Debug)]
pub struct PciDevice {
    bus: u8,
    slot: u8,
    bars: [Option<Bar>; 6],
}

impl PciDevice {
    /// The function 0 in a slot of bus 0.
    ///
    /// # Errors
    /// If nobody answers there.
    pub fn find(qtest: &Qtest, slot: u8) -> Result<Self> {
        Self::find_on(qtest, 0, slot)
    }

    /// The function 0 in a slot of a bus.
    ///
    /// # Errors
    /// If nobody answers there.
    pub fn find_on(qtest: &Qtest, bus: u8, slot: u8) -> Result<Self> {
        let device = PciDevice {
            bus,
            slot,
            bars: [None; 6],
        };
        if device.read(qtest, cfg::VENDOR_ID, 2)? == 0xffff {
            bail!("no PCI function in slot {slot} of bus {bus}");
        }
        Ok(device)
    }

    fn select(&self, qtest: &Qtest, offset: usize) -> Result<u16> {
        let offset = u32::try_from(offset)?;
        let address =
            0x8000_0000 | u32::from(self.bus) << 16 | u32::from(self.slot) << 11 | (offset & 0xfc);
        qtest.port_write(ADDRESS_PORT, 4, address)?;
        Ok(DATA_PORT + u16::try_from(offset & 3)?)
    }

    /// Reads configuration space.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn read(&self, qtest: &Qtest, offset: usize, width: u8) -> Result<u32> {
        let port = self.select(qtest, offset)?;
        qtest.port_read(port, width)
    }

    /// Writes configuration space.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn write(&self, qtest: &Qtest, offset: usize, width: u8, value: u32) -> Result<()> {
        let port = self.select(qtest, offset)?;
        qtest.port_write(port, width, value)
    }

    /// What a BAR reads as after all-ones were written; its old value is put back.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn size_bar(&self, qtest: &Qtest, bar: u8) -> Result<u32> {
        let at = cfg::BAR0 + 4 * usize::from(bar);
        let old = self.read(qtest, at, 4)?;
        self.write(qtest, at, 4, u32::MAX)?;
        let mask = self.read(qtest, at, 4)?;
        self.write(qtest, at, 4, old)?;
        Ok(mask)
    }

    /// Places all BARs and enables I/O, memory and bus mastering, as firmware does.
    ///
    /// # Errors
    /// If a BAR is larger than its place.
    pub fn map(&mut self, qtest: &Qtest) -> Result<()> {
        let mut io = IO_BASE + u32::from(self.slot) * IO_STEP;
        let mut memory = MEMORY_BASE + u32::from(self.slot) * MEMORY_STEP;
        let end = memory + MEMORY_STEP;
        let mut skip = false;
        for bar in 0..6u8 {
            if std::mem::take(&mut skip) {
                continue;
            }
            let at = cfg::BAR0 + 4 * usize::from(bar);
            let mask = self.size_bar(qtest, bar)?;
            let found = if mask == 0 {
                continue;
            } else if mask & 1 != 0 {
                let size = (!(mask & !3)).wrapping_add(1) & 0xffff;
                let base = io.next_multiple_of(size.max(1));
                io = base + size;
                Bar {
                    io: true,
                    size,
                    base,
                }
            } else {
                let size = (!(mask & !15)).wrapping_add(1);
                let base = memory.next_multiple_of(size.max(1));
                memory = base
                    .checked_add(size)
                    .filter(|m| *m <= end)
                    .with_context(|| format!("BAR {bar} of slot {} has {size} bytes", self.slot))?;
                if mask & 6 == 4 {
                    self.write(qtest, at + 4, 4, 0)?;
                    skip = true;
                }
                Bar {
                    io: false,
                    size,
                    base,
                }
            };
            self.write(qtest, at, 4, found.base)?;
            if let Some(slot) = self.bars.get_mut(usize::from(bar)) {
                *slot = Some(found);
            }
        }
        self.set_command(qtest, COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER)
    }

    /// Writes the command register.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn set_command(&self, qtest: &Qtest, command: u16) -> Result<()> {
        self.write(qtest, cfg::COMMAND, 2, command.into())
    }

    /// A BAR after [`PciDevice::map`].
    ///
    /// # Errors
    /// If the function has no such BAR.
    pub fn bar(&self, bar: u8) -> Result<Bar> {
        self.bars
            .get(usize::from(bar))
            .copied()
            .flatten()
            .with_context(|| format!("no BAR {bar}"))
    }

    /// First port of BAR0.
    ///
    /// # Errors
    /// If BAR0 is not I/O.
    pub fn io(&self) -> Result<u16> {
        let bar = self.bar(0)?;
        if !bar.io {
            bail!("BAR 0 is memory");
        }
        Ok(u16::try_from(bar.base)?)
    }

    /// All capabilities as (id, offset).
    ///
    /// # Errors
    /// If the list has a loop.
    pub fn capabilities(&self, qtest: &Qtest) -> Result<Vec<(u8, usize)>> {
        let mut out = Vec::new();
        let mut at = self.read(qtest, cfg::CAPABILITY_LIST, 1)? as usize & 0xfc;
        while at != 0 {
            if out.len() > 48 {
                bail!("the capability list has a loop");
            }
            out.push((u8::try_from(self.read(qtest, at, 1)?)?, at));
            at = self.read(qtest, at + 1, 1)? as usize & 0xfc;
        }
        Ok(out)
    }

    /// The MSI-X capability.
    ///
    /// # Errors
    /// If there is none.
    pub fn msix(&self, qtest: &Qtest) -> Result<Msix> {
        let (_, cap) = self
            .capabilities(qtest)?
            .into_iter()
            .find(|c| c.0 == CAP_ID_MSIX)
            .context("no MSI-X capability")?;
        let control = self.read(qtest, cap + msix::CONTROL, 2)?;
        let table = self.read(qtest, cap + msix::TABLE, 4)?;
        let bar = self.bar(u8::try_from(table & 7)?)?;
        Ok(Msix {
            cap,
            vectors: u16::try_from(control & u32::from(msix::CONTROL_SIZE_MASK))? + 1,
            table: u64::from(bar.base) + u64::from(table & !7),
            messages: None,
        })
    }
}

/// MSI-X of a function, with its messages going to guest memory where they can be seen.
#[derive(Clone, Debug)]
pub struct Msix {
    cap: usize,
    /// Entries of the table.
    pub vectors: u16,
    table: u64,
    messages: Option<u64>,
}

impl Msix {
    /// The data that vector `v` writes.
    pub const fn data(v: u16) -> u32 {
        0xbeef_0000 | v as u32
    }

    /// Points every entry at its own word of guest memory and unmasks it.
    ///
    /// # Errors
    /// If QEMU is gone or memory used up.
    pub fn program(&mut self, qtest: &Qtest, memory: &mut GuestMemory) -> Result<()> {
        let at = memory.take(u64::from(self.vectors) * 4, 64)?;
        for v in 0..self.vectors {
            let entry = self.table + u64::from(v) * msix::ENTRY_LEN as u64;
            let word = u32::try_from(at)? + u32::from(v) * 4;
            qtest.write(word.into(), 4, 0)?;
            qtest.write(entry, 4, word)?;
            qtest.write(entry + 4, 4, 0)?;
            qtest.write(entry + 8, 4, Self::data(v))?;
            qtest.write(entry + 12, 4, 0)?;
        }
        self.messages = Some(at);
        Ok(())
    }

    /// Masks or unmasks one vector in the table.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn mask(&self, qtest: &Qtest, v: u16, on: bool) -> Result<()> {
        let entry = self.table + u64::from(v) * msix::ENTRY_LEN as u64;
        qtest.write(entry + 12, 4, on.into())
    }

    /// Sets or clears the Enable bit.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn enable(&self, qtest: &Qtest, device: &PciDevice, on: bool) -> Result<()> {
        let at = self.cap + msix::CONTROL;
        let old = device.read(qtest, at, 2)?;
        let bit = u32::from(msix::CONTROL_ENABLE);
        device.write(qtest, at, 2, if on { old | bit } else { old & !bit })
    }

    /// The Enable bit.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn is_enabled(&self, qtest: &Qtest, device: &PciDevice) -> Result<bool> {
        let control = device.read(qtest, self.cap + msix::CONTROL, 2)?;
        Ok(control & u32::from(msix::CONTROL_ENABLE) != 0)
    }

    /// Sets or clears the Function Mask bit.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn mask_all(&self, qtest: &Qtest, device: &PciDevice, on: bool) -> Result<()> {
        let at = self.cap + msix::CONTROL;
        let old = device.read(qtest, at, 2)?;
        let bit = u32::from(msix::CONTROL_MASK_ALL);
        device.write(qtest, at, 2, if on { old | bit } else { old & !bit })
    }

    /// Whether vector `v` has fired since it was last asked; clears it.
    ///
    /// # Errors
    /// If QEMU is gone or the table was not programmed.
    pub fn fired(&self, qtest: &Qtest, v: u16) -> Result<bool> {
        let word = self.messages.context("MSI-X table not programmed")? + u64::from(v) * 4;
        let data = qtest.read(word, 4)?;
        if data == 0 {
            return Ok(false);
        }
        if data != Self::data(v) {
            bail!("vector {v} wrote {data:#x}");
        }
        qtest.write(word, 4, 0)?;
        Ok(true)
    }
}
