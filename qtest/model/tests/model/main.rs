// SPDX-License-Identifier: GPL-2.0-or-later
//! The model against the specification's rows, area by area, through the interfaces a driver has.

// A failing unwrap in a test is a failing test, also in what tests share.
#![allow(clippy::unwrap_used)]

mod admin;
mod admin_queue;
mod admin_queues;
mod backlog;
mod faults;
mod features;
mod init;
mod interrupts;
mod legacy;
mod many_vfs;
mod modern;
mod notify;
mod pci;
mod power;
mod reset;
mod rings;
mod robust;
mod sriov;
mod types;

use std::sync::Arc;

use virtio_pci_spec::DeviceType;
use virtio_pf_model::testing::{echo_model, AdminClient, Driver, TestMemory};
use virtio_pf_model::{Effect, Event, FunctionId, Model, ModelConfig, Violation};

/// No interrupt was sent.
const NONE: [u16; 0] = [];
const BASE: u64 = 0x10_0000;
const MEMORY: usize = 0x8_0000;

fn memory() -> Arc<TestMemory> {
    TestMemory::new(BASE, MEMORY)
}

fn config(vfs: u16) -> ModelConfig {
    ModelConfig::new(DeviceType::Block, vfs)
}

/// A device with `vfs` VFs enabled and an admin queue with the legacy commands in use.
fn ready(config: ModelConfig, vfs: u16) -> (Model, AdminClient) {
    let mut model = echo_model(config).unwrap();
    let client = AdminClient::ready(&mut model, &memory(), vfs);
    (model, client)
}

/// A driver of the PF.
fn pf(m: &mut Model) -> Driver {
    Driver::new(m, FunctionId::Pf, &memory())
}

fn vf(n: u16) -> FunctionId {
    FunctionId::Vf(n)
}

/// Violations recorded and not looked at yet; other records are dropped.
fn violations(model: &mut Model) -> Vec<Violation> {
    model
        .drain_events()
        .filter_map(|r| match r.event {
            Event::Violation(v) => Some(v),
            _ => None,
        })
        .collect()
}

/// Interrupts of `f` that were sent and not looked at yet; other effects are dropped.
fn interrupts(model: &mut Model, f: FunctionId) -> Vec<u16> {
    model
        .drain_effects()
        .filter_map(|e| match e {
            Effect::Interrupt { function, vector } if function == f => Some(vector),
            _ => None,
        })
        .collect()
}
