// SPDX-License-Identifier: GPL-2.0-or-later
//! The simulated PF as a process: a vfio-user server in front of the model of the hardware.

pub mod args;
pub mod console_sockets;
pub mod control;
pub mod descriptors;
pub mod device;
pub mod dma;
pub mod event_log;
pub mod event_loop;
pub mod hardware;
pub mod listener;
pub mod man;
pub mod server;
mod sys;
pub mod uplink;
