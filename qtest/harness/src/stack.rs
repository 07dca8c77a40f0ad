// SPDX-License-Identifier: GPL-2.0-or-later
//! Simulator, helper and what a QEMU needs to use them.

use std::path::Path;

use anyhow::Result;
use serde_json::{json, Value};
use tempfile::TempDir;

use crate::helper::Helper;
use crate::pci::PciDevice;
use crate::qemu::{Machine, Qemu, QemuBuilder};
use crate::sim::{DeviceKind, Simulator, SimulatorBuilder};

/// The QOM id that [`Stack::device`] gives.
pub const DEVICE_ID: &str = "vf";
/// The slot that [`Stack::device`] gives.
pub const SLOT: u8 = 4;

/// A simulated PF and its helper.
#[derive(Debug)]
pub struct Stack {
    // Dropped in this order: the helper before the PF it drives, the directory last.
    /// The helper.
    pub helper: Helper,
    /// The simulator.
    pub sim: Simulator,
    dir: TempDir,
}

impl Stack {
    /// A PF with `vfs` VFs, and its helper.
    ///
    /// # Errors
    /// If one of them does not start.
    pub fn start(kind: DeviceKind, vfs: u16) -> Result<Self> {
        Self::start_with(&SimulatorBuilder::new(kind, vfs), vfs, &[])
    }

    /// The same with more options.
    ///
    /// # Errors
    /// If one of them does not start.
    pub fn start_with(sim: &SimulatorBuilder, vfs: u16, helper: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("vlvf-").tempdir()?;
        let sim = sim.spawn(dir.path())?;
        let helper = Helper::spawn(dir.path(), "helper", &sim.pf_socket(), vfs, helper)?;
        Ok(Stack { helper, sim, dir })
    }

    /// Where sockets and logs are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The device for a VF.
    pub fn device(&self, vf: u16) -> Value {
        json!({
            "driver": "virtio-legacy-vf-user",
            "id": DEVICE_ID,
            "addr": format!("{SLOT:#x}"),
            "socket": {"type": "unix", "path": self.sim.vf_socket(vf)},
            "helper": self.helper.socket(),
            "vf": vf,
        })
    }

    /// A QEMU with VF 1 in its slot.
    ///
    /// # Errors
    /// If it does not start.
    pub fn qemu(&self, machine: Machine) -> Result<Qemu> {
        self.qemu_with(machine, &self.device(1))
    }

    /// A QEMU with a device.
    ///
    /// # Errors
    /// If it does not start.
    pub fn qemu_with(&self, machine: Machine, device: &Value) -> Result<Qemu> {
        QemuBuilder::new(machine).device(device).spawn(self.dir())
    }

    /// A QEMU with VF 1, its BARs placed.
    ///
    /// # Errors
    /// If it does not start.
    pub fn mapped(&self, machine: Machine) -> Result<(Qemu, PciDevice)> {
        self.mapped_with(machine, &self.device(1))
    }

    /// The same with a device in the same slot.
    ///
    /// # Errors
    /// If it does not start.
    pub fn mapped_with(&self, machine: Machine, device: &Value) -> Result<(Qemu, PciDevice)> {
        let qemu = self.qemu_with(machine, device)?;
        let mut device = PciDevice::find(&qemu.qtest, SLOT)?;
        device.map(&qemu.qtest)?;
        Ok((qemu, device))
    }
}
