// SPDX-License-Identifier: GPL-2.0-or-later
//! Runs QEMU, the simulated PF and the helper as processes and talks to them: the qtest protocol,
//! QMP, PCI configuration cycles, the simulator's control socket, the helper's socket, and a small
//! legacy driver on top.
//!
//! Every process lives in a temporary directory with its sockets and logs and is killed when its
//! value is dropped. Every wait has a deadline. A missing program is an error with a way out,
//! never a skipped test.

#![forbid(unsafe_code)]

pub mod artifacts;
pub mod boot;
pub mod driver;
pub mod fake_helper;
pub mod helper;
pub mod lines;
mod machine_code;
pub mod memory;
pub mod pci;
pub mod process;
pub mod qemu;
pub mod qmp;
pub mod qtest;
pub mod sim;
pub mod stack;
pub mod vcpu;

pub use driver::LegacyDriver;
pub use helper::{decode_reply, Helper, HelperClient};
pub use memory::GuestMemory;
pub use pci::{Msix, PciDevice};
pub use process::{allow_files, Process};
pub use qemu::{Machine, Qemu, QemuBuilder};
pub use qmp::Qmp;
pub use qtest::Qtest;
pub use sim::{DeviceKind, Simulator, SimulatorBuilder};
pub use stack::Stack;
pub use vcpu::{Step, Vcpu};

use std::time::Duration;

/// Longest wait for a program to start or answer; far above what any needs on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(20);
