// SPDX-License-Identifier: GPL-2.0-or-later OR Apache-2.0 OR MIT
//! A device as the admin commands show it, and a driver loop for the window.

#![allow(unreachable_pub)]

use legacy_window::{
    decode, Command, CommandKind, Completion, Decoded, Effects, FailKind, Outcome, Settled, Space,
    Step, Window,
};
use virtio_pci_spec::DeviceType;

/// Registers of a fake VF. Its select and vector rules are those of real devices: an absent queue
/// ignores addresses, a vector behind the table becomes 0xffff, a status of 0 resets.
#[derive(Clone, Debug)]
pub struct Device {
    pub features: u32,
    pub driver_features: u32,
    pub sizes: Vec<u16>,
    pub address: Vec<u32>,
    pub vector: Vec<u16>,
    pub config_vector: u16,
    pub select: u16,
    pub status: u8,
    pub isr: u8,
    pub config: Vec<u8>,
    pub table: u16,
    /// A queue address of 0 resets the device, as in QEMU.
    pub zero_address_resets: bool,
    /// Status reads after a reset that still show this, until it is used up.
    pub slow_reset: u8,
    pub log: Vec<(Space, u8, u8, Option<u64>)>,
    pub notified: Vec<u16>,
}

impl Device {
    pub fn new(sizes: &[u16], config: Vec<u8>) -> Self {
        Device {
            features: 0x7901_8aef,
            driver_features: 0,
            sizes: sizes.to_vec(),
            address: vec![0; sizes.len()],
            vector: vec![0xffff; sizes.len()],
            config_vector: 0xffff,
            select: 0,
            status: 0,
            isr: 0,
            config,
            table: 4,
            zero_address_resets: false,
            slow_reset: 0,
            log: Vec::new(),
            notified: Vec::new(),
        }
    }

    pub fn reset(&mut self) {
        self.driver_features = 0;
        self.address.fill(0);
        self.vector.fill(0xffff);
        self.config_vector = 0xffff;
        self.select = 0;
        self.status = 0;
        self.isr = 0;
    }

    fn queue(&self) -> Option<usize> {
        let q = usize::from(self.select);
        (q < self.sizes.len()).then_some(q)
    }

    fn read(&mut self, offset: u8) -> u64 {
        match offset {
            0 => self.features.into(),
            4 => self.driver_features.into(),
            8 => self.queue().map_or(0, |q| self.address[q]).into(),
            12 => self.queue().map_or(0, |q| self.sizes[q]).into(),
            14 => self.select.into(),
            18 if self.status == 0 && self.slow_reset > 0 => {
                self.slow_reset -= 1;
                4
            }
            18 => self.status.into(),
            19 => std::mem::take(&mut self.isr).into(),
            20 => self.config_vector.into(),
            22 => self.queue().map_or(0xffff, |q| self.vector[q]).into(),
            _ => unreachable!("read of offset {offset}"),
        }
    }

    fn write(&mut self, offset: u8, v: u64) {
        let mapped = |v: u64| match v as u16 {
            v if v < self.table => v,
            _ => 0xffff,
        };
        match offset {
            4 => self.driver_features = v as u32 & self.features,
            8 if v == 0 && self.zero_address_resets => self.reset(),
            8 => {
                if let Some(q) = self.queue() {
                    self.address[q] = v as u32;
                }
            }
            14 => self.select = v as u16,
            18 if v as u8 == 0 => self.reset(),
            18 => self.status = v as u8,
            20 => self.config_vector = mapped(v),
            22 => {
                let v = mapped(v);
                if let Some(q) = self.queue() {
                    self.vector[q] = v;
                }
            }
            _ => unreachable!("write of offset {offset}"),
        }
    }

    /// Carries out one command; panics if it is not inside one field.
    pub fn command(&mut self, c: Command, msix: bool) -> Outcome {
        let value = match c.kind {
            CommandKind::Read => None,
            CommandKind::Write(d) => {
                assert!(d[usize::from(c.len)..].iter().all(|b| *b == 0), "{c:?}");
                Some(u64::from_le_bytes(d))
            }
        };
        self.log.push((c.space, c.offset, c.len, value));
        match c.space {
            Space::Common => {
                let size = match c.offset {
                    0 | 4 | 8 => 4,
                    12 | 14 => 2,
                    20 | 22 if msix => 2,
                    18 | 19 => 1,
                    o => panic!("no field at {o} (MSI-X {msix})"),
                };
                assert_eq!(c.len, size, "whole fields: {c:?}");
                match value {
                    None => Outcome::Data(self.read(c.offset).to_le_bytes()),
                    Some(v) => {
                        self.write(c.offset, v);
                        Outcome::Written
                    }
                }
            }
            Space::Device => {
                let range = usize::from(c.offset)..usize::from(c.offset) + usize::from(c.len);
                let bytes = self
                    .config
                    .get_mut(range)
                    .expect("inside the configuration");
                match c.kind {
                    CommandKind::Read => {
                        // Rubbish behind the data must not reach the guest.
                        let mut d = [0xee; 8];
                        d[..bytes.len()].copy_from_slice(bytes);
                        Outcome::Data(d)
                    }
                    CommandKind::Write(d) => {
                        let n = bytes.len();
                        bytes.copy_from_slice(&d[..n]);
                        Outcome::Written
                    }
                }
            }
        }
    }

    /// The same access without a window: straight to the registers, as the rules of the header and
    /// of the configuration say, one command per element.
    pub fn direct(
        &mut self,
        offset: u32,
        size: u8,
        write: Option<u64>,
        msix: bool,
        fields: &[(u16, u8, bool)],
    ) -> u64 {
        let ones = u64::MAX >> (64 - 8 * u32::from(size));
        let write = write.map(|v| v & ones);
        let header = if msix { 24 } else { 20 };
        if offset < header {
            let starts = [0, 4, 8, 12, 14, 16, 18, 19, 20, 22];
            if !starts.contains(&offset) {
                return if write.is_some() { 0 } else { ones };
            }
            return match (offset, write) {
                (16, Some(v)) => {
                    self.notified.push(v as u16);
                    0
                }
                (16, None) => ones,
                (0 | 12 | 19, Some(_)) => 0,
                (_, Some(v)) => {
                    self.write(offset as u8, v);
                    0
                }
                (_, None) => self.read(offset as u8) & ones,
            };
        }
        let mut out = 0;
        for i in 0..u32::from(size) {
            let at = (offset - header + i) as usize;
            let Some(byte) = self.config.get_mut(at) else {
                continue;
            };
            match write {
                None => out |= u64::from(*byte) << (8 * i),
                Some(v) => {
                    let writable = fields
                        .iter()
                        .find(|(o, len, _)| {
                            at >= usize::from(*o) && at < usize::from(*o) + usize::from(*len)
                        })
                        .is_none_or(|f| f.2);
                    if writable {
                        *byte = (v >> (8 * i)) as u8;
                    }
                }
            }
        }
        out
    }
}

/// Runs an access to its end against `device`; `fail` may replace the outcome of a command.
pub fn run(
    window: &mut Window,
    device: &mut Device,
    mut step: Step,
    msix: bool,
    fail: &mut dyn FnMut(&Command) -> Option<FailKind>,
) -> Completion {
    for _ in 0..16 {
        step = match step {
            Step::Done(done) => return done,
            Step::Command(c) => {
                let outcome = match fail(&c) {
                    Some(kind) => Outcome::Failed(kind),
                    None => device.command(c, msix),
                };
                window.resume(outcome)
            }
        };
    }
    panic!("the access does not end");
}

/// A window with its device, for tests that only care about values.
#[derive(Clone, Debug)]
pub struct Machine {
    pub window: Window,
    pub device: Device,
    pub msix: bool,
    /// Accesses that went through the window.
    pub accesses: usize,
}

/// The device configuration of [`net_machine`]: no two bytes are the same.
pub fn net_config() -> Vec<u8> {
    (0..28).map(|i| i * 3 + 1).collect()
}

/// A network device with MSI-X on.
pub fn net_machine() -> Machine {
    let device = Device::new(&[256, 128, 64], net_config());
    Machine {
        msix: true,
        ..Machine::new(DeviceType::Net, device)
    }
}

impl Machine {
    /// With MSI-X off.
    pub fn new(device_type: DeviceType, device: Device) -> Self {
        Machine {
            window: Window::new(device_type, device.config.len() as u16),
            device,
            msix: false,
            accesses: 0,
        }
    }

    pub fn read(&mut self, offset: u32, size: u8) -> u64 {
        self.read_full(offset, size).value
    }

    pub fn read_full(&mut self, offset: u32, size: u8) -> Completion {
        self.failing(offset, size, None, &mut |_| None)
    }

    /// Notifications do not pass through the window.
    pub fn write(&mut self, offset: u32, size: u8, value: u64) -> Completion {
        if let Decoded::Notify { queue } = decode(offset, size, Some(value)) {
            self.device.notified.push(queue);
            return Completion {
                value: 0,
                effects: Effects::default(),
            };
        }
        self.failing(offset, size, Some(value), &mut |_| None)
    }

    /// An access through the window; `fail` may replace the outcome of a command.
    pub fn failing(
        &mut self,
        offset: u32,
        size: u8,
        write: Option<u64>,
        fail: &mut dyn FnMut(&Command) -> Option<FailKind>,
    ) -> Completion {
        self.accesses += 1;
        let step = self.window.begin(offset, size, write, self.msix);
        run(&mut self.window, &mut self.device, step, self.msix, fail)
    }

    /// Writes the vectors behind the guest's back; the VF's MSI-X is on then, whatever the guest's is.
    pub fn settle(&mut self, fail: &mut dyn FnMut(&Command) -> Option<FailKind>) -> Settled {
        let mut step = self.window.begin_settle();
        // Five queues, of which two do not exist: select, write, read, write the other one, read,
        // and the queue's size; the configuration; and once what the guest has selected.
        for _ in 0..36 {
            step = match step {
                Step::Done(done) => {
                    assert_eq!(done.value, 0);
                    return self.window.take_settled();
                }
                Step::Command(c) => {
                    let outcome = match fail(&c) {
                        Some(kind) => Outcome::Failed(kind),
                        None => self.device.command(c, true),
                    };
                    self.window.resume(outcome)
                }
            };
        }
        panic!("vectors without end")
    }

    /// The commands since the last call, as (common, offset, length, value written).
    pub fn commands(&mut self) -> Vec<(bool, u8, u8, Option<u64>)> {
        self.device
            .log
            .drain(..)
            .map(|(s, o, l, v)| (s == Space::Common, o, l, v))
            .collect()
    }
}
