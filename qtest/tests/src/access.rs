// SPDX-License-Identifier: GPL-2.0-or-later
//! The rules of the register window, once more and plainly, to predict what an access does.

use anyhow::Result;
use qtest_harness::{LegacyDriver, PciDevice, Qtest};

use crate::modern;

/// What QEMU hands to the device for one guest access: it cuts an access at the alignment of its
/// address before the device sees it.
pub fn pieces(offset: u16, width: u8) -> Vec<(u16, u8)> {
    let mut out = Vec::new();
    let (mut at, mut left) = (offset, u16::from(width));
    while left > 0 {
        let align = if at == 0 {
            4
        } else {
            1 << at.trailing_zeros().min(2)
        };
        let mut len = align.min(left);
        while !len.is_power_of_two() {
            len -= 1;
        }
        out.push((at, u8::try_from(len).unwrap_or(1)));
        at += len;
        left -= len;
    }
    out
}

/// All-ones of a width in bytes.
pub fn ones(width: u8) -> u32 {
    match width {
        1 => 0xff,
        2 => 0xffff,
        _ => u32::MAX,
    }
}

/// Registers as a guest should see them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Device features.
    pub features: u32,
    /// Driver features.
    pub driver_features: u32,
    /// Queue addresses.
    pub addresses: Vec<u32>,
    /// Queue sizes.
    pub sizes: Vec<u16>,
    /// Queue vectors.
    pub vectors: Vec<u16>,
    /// Selected queue.
    pub select: u16,
    /// Device status.
    pub status: u8,
    /// Configuration vector.
    pub config_vector: u16,
    /// Vectors that exist.
    pub table: u16,
    /// Device configuration.
    pub config: Vec<u8>,
    /// What it is after a reset.
    pub initial: Vec<u8>,
    /// First bytes of it that the driver may write.
    pub writable: usize,
    /// Notifications.
    pub kicks: Vec<u16>,
}

impl Model {
    /// Resets the device and reads all of it, register by register. MSI-X is as `driver` knows it,
    /// with `table` vectors; nothing of the configuration may be written.
    ///
    /// # Errors
    /// If QEMU is gone or the device has not the structures that it should.
    pub fn of(q: &Qtest, device: &PciDevice, driver: &LegacyDriver, table: u16) -> Result<Self> {
        driver.set_status(q, 0)?;
        let mut sizes = Vec::new();
        for index in 0..64u32 {
            driver.write(q, 14, 2, index)?;
            match driver.read(q, 12, 2)? {
                0 => break,
                size => sizes.push(u16::try_from(size)?),
            }
        }
        driver.write(q, 14, 2, 0)?;
        let config = modern::device_config(q, device)?;
        Ok(Model {
            features: driver.read(q, 0, 4)?,
            driver_features: 0,
            addresses: vec![0; sizes.len()],
            vectors: vec![0xffff; sizes.len()],
            sizes,
            select: 0,
            status: 0,
            config_vector: 0xffff,
            table,
            initial: config.clone(),
            config,
            writable: 0,
            kicks: Vec::new(),
        })
    }

    fn queue(&self) -> Option<usize> {
        let q = usize::from(self.select);
        (q < self.sizes.len()).then_some(q)
    }

    fn register(&self, offset: u16) -> Option<u32> {
        let q = self.queue();
        let at = |v: &[u32]| q.and_then(|q| v.get(q).copied());
        let short = |v: &[u16]| q.and_then(|q| v.get(q).copied());
        Some(match offset {
            0 => self.features,
            4 => self.driver_features,
            8 => at(&self.addresses).unwrap_or(0),
            12 => short(&self.sizes).unwrap_or(0).into(),
            14 => self.select.into(),
            16 => u32::MAX,
            18 => self.status.into(),
            19 => 0,
            20 => self.config_vector.into(),
            22 => short(&self.vectors).unwrap_or(0xffff).into(),
            _ => return None,
        })
    }

    fn read_piece(&self, offset: u16, width: u8, msix: bool) -> u32 {
        let header = if msix { 24 } else { 20 };
        if offset < header {
            return self.register(offset).unwrap_or(u32::MAX) & ones(width);
        }
        (0..u16::from(width)).fold(0, |value, i| {
            let byte = self.config.get(usize::from(offset - header + i));
            value | u32::from(byte.copied().unwrap_or(0)) << (8 * i)
        })
    }

    /// What a guest's read gives.
    pub fn read(&self, offset: u16, width: u8, msix: bool) -> u32 {
        pieces(offset, width)
            .into_iter()
            .fold(0, |value, (at, len)| {
                value | self.read_piece(at, len, msix) << (8 * (at - offset))
            })
    }

    /// What a guest's write does.
    pub fn write(&mut self, offset: u16, width: u8, value: u32, msix: bool) {
        for (at, len) in pieces(offset, width) {
            let part = (value >> (8 * (at - offset))) & ones(len);
            self.write_piece(at, len, part, msix);
        }
    }

    fn write_piece(&mut self, offset: u16, width: u8, value: u32, msix: bool) {
        let header = if msix { 24 } else { 20 };
        let q = self.queue();
        let short = (value & 0xffff) as u16;
        let vector = if short < self.table { short } else { 0xffff };
        match offset {
            _ if offset >= header => {
                for i in 0..u16::from(width) {
                    let at = usize::from(offset - header + i);
                    if at < self.writable {
                        if let Some(b) = self.config.get_mut(at) {
                            *b = (value >> (8 * i)) as u8;
                        }
                    }
                }
            }
            4 => self.driver_features = value & self.features,
            8 if value == 0 => self.reset(),
            8 => {
                if let Some(a) = q.and_then(|q| self.addresses.get_mut(q)) {
                    *a = value;
                }
            }
            14 => self.select = short,
            16 => self.kicks.push(short),
            18 if value & 0xff == 0 => self.reset(),
            18 => self.status = (value & 0xff) as u8,
            20 => self.config_vector = vector,
            22 => {
                if let Some(v) = q.and_then(|q| self.vectors.get_mut(q)) {
                    *v = vector;
                }
            }
            _ => {}
        }
    }

    /// What a driver reset does.
    pub fn reset(&mut self) {
        self.driver_features = 0;
        self.addresses.fill(0);
        self.vectors.fill(0xffff);
        self.config_vector = 0xffff;
        self.select = 0;
        self.status = 0;
        self.config.clone_from(&self.initial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_are_cut_at_their_alignment() {
        assert_eq!(pieces(0, 4), [(0, 4)]);
        assert_eq!(pieces(14, 4), [(14, 2), (16, 2)]);
        assert_eq!(pieces(18, 4), [(18, 2), (20, 2)]);
        assert_eq!(pieces(17, 4), [(17, 1), (18, 2), (20, 1)]);
        assert_eq!(pieces(19, 2), [(19, 1), (20, 1)]);
        assert_eq!(pieces(16, 4), [(16, 4)]);
    }
}
