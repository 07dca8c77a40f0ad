// SPDX-License-Identifier: GPL-2.0-or-later
//! The driver side, for tests and benchmarks: memory, rings, register helpers, an admin queue
//! client and a device type without a purpose of its own.

mod admin;
mod device;
mod driver;
mod legacy;
mod memory;
mod ring;

pub use admin::{AdminClient, Done};
pub use device::EchoDevice;
pub use driver::{Driver, MODERN_FEATURES};
pub use legacy::LegacyVf;
pub use memory::{TestMemory, Touch};
pub use ring::{Buffer, DriverRing, RingPlace};

use crate::{ConfigError, FunctionId, Model, ModelConfig, NoSwitch, VirtioDevice};

/// A model whose functions are all [`EchoDevice`]s.
///
/// # Errors
/// As [`Model::with_devices`].
pub fn echo_model(config: ModelConfig) -> Result<Model, ConfigError> {
    let kind = config.vf_type;
    let mut make = |_: FunctionId| -> Result<Box<dyn VirtioDevice>, ConfigError> {
        Ok(Box::new(EchoDevice::new(kind)))
    };
    Model::with_devices(config, &mut make, Box::new(NoSwitch))
}
