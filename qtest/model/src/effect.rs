// SPDX-License-Identifier: GPL-2.0-or-later
//! What the model wants its front end to do, and names of what it consists of.

use serde::{Deserialize, Serialize};

/// A PCI function of the simulated device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FunctionId {
    /// The physical function, owner of the group.
    Pf,
    /// A virtual function by its number, from 1; also its member id.
    Vf(u16),
}

impl std::fmt::Display for FunctionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FunctionId::Pf => f.write_str("PF"),
            FunctionId::Vf(n) => write!(f, "VF {n}"),
        }
    }
}

/// The interface through which an access came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interface {
    /// Legacy registers, reached through admin commands.
    Legacy,
    /// Modern structures in the function's BARs.
    Modern,
}

/// Something for the front end to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send MSI-X message `vector` of a function.
    Interrupt {
        /// Whose message.
        function: FunctionId,
        /// Table entry.
        vector: u16,
    },
    /// The level of a function's INTx line changed (only functions with an interrupt pin).
    IntxLevel {
        /// Whose line.
        function: FunctionId,
        /// Asserted.
        asserted: bool,
    },
    /// An Ethernet frame left the switch on its external port.
    FrameOut(Vec<u8>),
    /// The number of live VFs changed.
    VfsChanged {
        /// VFs 1 to `enabled` live now.
        enabled: u16,
    },
}

/// Ports of the switch between network functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// A function's network device.
    Function(FunctionId),
    /// The built-in peer or tap behind the front end.
    External,
}

/// Decides where a frame goes. The model delivers it.
pub trait FrameSwitch: Send {
    /// Appends to `to` every port that gets `frame`, which came in on `from`. `from` itself and
    /// ports of functions that do not live are left out by the caller if they appear.
    fn forward(&mut self, from: Port, frame: &[u8], to: &mut Vec<Port>);

    /// A function was reset or went away: forget what was learnt about its port.
    fn port_reset(&mut self, port: Port);
}

/// A switch without connections, for device types that send no frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSwitch;

impl FrameSwitch for NoSwitch {
    fn forward(&mut self, _from: Port, _frame: &[u8], _to: &mut Vec<Port>) {}

    fn port_reset(&mut self, _port: Port) {}
}
