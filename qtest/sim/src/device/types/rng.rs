// SPDX-License-Identifier: GPL-2.0-or-later
//! Entropy sources: the host kernel's random numbers.

use super::size::parse_size;
use rustix::rand::{getrandom, GetRandomFlags};
use serde_json::Value;
use std::io;
use virtio_pf_model::rng::{self, RngSettings, Source};
use virtio_pf_model::{ConfigError, DeviceControl, FunctionId, Model, ModelConfig};

/// Options of the type.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Entropy")]
pub struct RngArgs {
    /// Rng: bytes that each function gives in a second at most. Default: no limit.
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    pub rng_rate: Option<u64>,
}

impl RngArgs {
    pub(super) fn given(&self) -> Option<&'static str> {
        self.rng_rate.map(|_| "--rng-rate")
    }

    /// What the options say of each function; `queue_size` is that of all types, if given.
    pub(super) fn settings(&self, queue_size: Option<u16>) -> RngSettings {
        let mut settings = RngSettings::default();
        settings.queue_size = queue_size.unwrap_or(settings.queue_size);
        settings.bytes_per_second = self.rng_rate.unwrap_or(settings.bytes_per_second);
        settings
    }
}

/// The kernel of this host.
struct Host;

impl Source for Host {
    fn fill(&mut self, buf: &mut [u8]) -> io::Result<()> {
        let mut rest = buf;
        while !rest.is_empty() {
            // Never waits: early in the boot of a host it says EAGAIN, and the device tries later.
            let n = match getrandom(&mut *rest, GetRandomFlags::NONBLOCK) {
                Ok(n) => n,
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            };
            let now = std::mem::take(&mut rest);
            rest = now.get_mut(n..).unwrap_or_default();
        }
        Ok(())
    }
}

pub(super) fn build(config: ModelConfig, settings: &RngSettings) -> Result<Model, ConfigError> {
    let mut open = |_: FunctionId| -> io::Result<Box<dyn Source>> { Ok(Box::new(Host)) };
    rng::model(config, settings, &mut open)
}

pub(super) fn control(command: &str, args: &Value) -> Option<Result<DeviceControl, String>> {
    (command == "rng").then(|| {
        let rate = args.get("rate").and_then(Value::as_u64);
        let bytes_per_second = rate.ok_or("\"rate\" is not a number of bytes")?;
        Ok(DeviceControl::Rate { bytes_per_second })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_gives_other_bytes_each_time() {
        let (mut a, mut b) = ([0; 4096], [0; 4096]);
        Host.fill(&mut a).unwrap();
        Host.fill(&mut b).unwrap();
        assert_ne!(a, b);
        // Every part of the buffer was reached: 256 zeroes in a row mean that one was not.
        assert!(a.chunks(256).all(|part| part.iter().any(|byte| *byte != 0)));
    }
}
