// SPDX-License-Identifier: GPL-2.0-or-later
//! A legacy driver of one VF: every register access is a command on the PF's admin queue.

use std::sync::Arc;

use virtio_modern_spec::bytes::le_value;
use virtio_pci_spec::legacy::{field_of, Register};
use virtio_pci_spec::status;

use super::admin::AdminClient;
use super::driver::Driver;
use super::memory::TestMemory;
use super::ring::{Buffer, DriverRing};
use crate::effect::FunctionId;
use crate::model::Model;

/// Where the memory of the PF's driver and of the VF's begins.
const PF_BASE: u64 = 0x10_0000;
const VF_BASE: u64 = 0x4000_0000;

/// A running device with its PF's driver and a legacy driver of one of its VFs.
pub struct LegacyVf {
    /// The device.
    pub model: Model,
    /// The PF's driver.
    pub admin: AdminClient,
    /// Memory of the VF's driver.
    pub memory: Arc<TestMemory>,
    /// Number of the VF.
    pub vf: u16,
}

impl LegacyVf {
    /// Starts the PF, enables all VFs and resets VF `vf`.
    pub fn start(mut model: Model, vf: u16) -> Self {
        let vfs = model.config().total_vfs;
        let admin = AdminClient::ready(&mut model, &TestMemory::new(PF_BASE, 1 << 20), vfs);
        let memory = TestMemory::new(VF_BASE, 16 << 20);
        Driver::new(&mut model, FunctionId::Vf(vf), &memory);
        let mut this = Self {
            model,
            admin,
            memory,
            vf,
        };
        this.set_status(0);
        this
    }

    /// Reads a register of the header.
    pub fn get(&mut self, register: Register) -> u64 {
        let field = field_of(register);
        self.admin
            .get(&mut self.model, self.vf, field.offset, field.size.into())
    }

    /// Writes a register of the header.
    pub fn set(&mut self, register: Register, value: u64) {
        let field = field_of(register);
        self.admin.set(
            &mut self.model,
            self.vf,
            field.offset,
            field.size.into(),
            value,
        );
    }

    /// Reads a field of the device configuration.
    ///
    /// # Panics
    /// The command fails.
    pub fn config(&mut self, offset: u8, len: usize) -> u64 {
        let done = self
            .admin
            .config_read(&mut self.model, self.vf, offset, len);
        assert!(done.ok(), "config read at {offset}: {:?}", done.status());
        le_value(done.result())
    }

    /// Writes a field of the device configuration.
    ///
    /// # Panics
    /// The command fails.
    pub fn set_config(&mut self, offset: u8, data: &[u8]) {
        let done = self
            .admin
            .config_write(&mut self.model, self.vf, offset, data);
        assert!(done.ok(), "config write at {offset}: {:?}", done.status());
    }

    /// Features the device offers.
    pub fn offered(&mut self) -> u32 {
        self.get(Register::DeviceFeatures) as u32
    }

    /// Accepts features.
    pub fn accept(&mut self, features: u32) {
        self.set(Register::DriverFeatures, features.into());
    }

    /// Writes device status.
    pub fn set_status(&mut self, value: u8) {
        self.set(Register::DeviceStatus, value.into());
    }

    /// ACKNOWLEDGE, DRIVER, features: everything up to the queues.
    pub fn negotiate(&mut self, features: u32) {
        self.set_status(0);
        self.set_status(status::ACKNOWLEDGE);
        self.set_status(status::ACKNOWLEDGE | status::DRIVER);
        self.accept(features);
    }

    /// DRIVER_OK.
    pub fn driver_ok(&mut self) {
        self.set_status(status::ACKNOWLEDGE | status::DRIVER | status::DRIVER_OK);
    }

    /// Sets a queue up.
    pub fn queue(&mut self, index: u16) -> DriverRing {
        self.set(Register::QueueSelect, index.into());
        let size = self.get(Register::QueueSize) as u16;
        let ring = DriverRing::legacy(&self.memory, size);
        self.set(Register::QueueAddress, ring.pfn().into());
        ring
    }

    /// Notifies a queue.
    pub fn kick(&mut self, index: u16) {
        self.set(Register::QueueNotify, index.into());
    }

    /// Reads and thereby clears the ISR.
    pub fn isr(&mut self) -> u8 {
        self.get(Register::IsrStatus) as u8
    }

    /// What the VF's device type counts under a name.
    ///
    /// # Panics
    /// It counts nothing of this name.
    pub fn number(&self, name: &str) -> u64 {
        let all = self.model.device_numbers(FunctionId::Vf(self.vf));
        let found = all.iter().find(|(n, _)| *n == name);
        assert!(found.is_some(), "no number {name}");
        found.map_or(0, |(_, n)| *n)
    }

    /// How often a rule was broken.
    pub fn violations(&self, rule: &str) -> u64 {
        self.model.counters().violation(rule)
    }

    /// Puts pieces of bytes into memory of their own, readable by the device.
    pub fn readable(&self, pieces: &[&[u8]]) -> Vec<Buffer> {
        pieces
            .iter()
            .map(|bytes| {
                let addr = self.memory.alloc(bytes.len() as u64, 1);
                self.memory.put(addr, bytes);
                Buffer::readable(addr, bytes.len() as u32)
            })
            .collect()
    }

    /// Pieces of memory that the device may write, filled with 0xaa.
    pub fn writable(&self, lens: &[usize]) -> Vec<Buffer> {
        lens.iter()
            .map(|len| {
                let addr = self.memory.alloc(*len as u64, 1);
                self.memory.put(addr, &vec![0xaa; *len]);
                Buffer::writable(addr, *len as u32)
            })
            .collect()
    }

    /// The bytes of some pieces, one after the other.
    pub fn bytes(&self, pieces: &[Buffer]) -> Vec<u8> {
        pieces
            .iter()
            .flat_map(|p| self.memory.get(p.addr, p.len as usize))
            .collect()
    }
}
