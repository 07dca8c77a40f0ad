// SPDX-License-Identifier: GPL-2.0-or-later
//! Consoles whose ports are Unix stream sockets beside those of the functions: VF 1's port 0 is
//! `vf1.console`, its port 1 `vf1.port1`.

use crate::console_sockets::ConsoleSockets;
use crate::hardware::Function;
use serde_json::Value;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use virtio_pf_model::console::backend::{Backend, Nobody};
use virtio_pf_model::console::{self, config::ConsoleSettings};
use virtio_pf_model::{ConfigError, DeviceControl, FunctionId, Model, ModelConfig};

/// Options of the type.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Console")]
pub struct ConsoleArgs {
    /// Console: ports of each function besides the console itself.
    #[arg(long, value_name = "N")]
    pub console_ports: Option<u16>,
}

impl ConsoleArgs {
    pub(super) fn given(&self) -> Option<&'static str> {
        self.console_ports.map(|_| "--console-ports")
    }

    /// What the options say of each function; `queue_size` is that of all types, if given.
    pub(super) fn settings(&self, queue_size: Option<u16>) -> ConsoleSettings {
        let default = ConsoleSettings::default();
        ConsoleSettings {
            queue_size: queue_size.unwrap_or(default.queue_size),
            extra_ports: self.console_ports.unwrap_or(default.extra_ports),
            ..default
        }
    }
}

/// Name of the socket of a port.
fn socket_name(function: Function, port: u16) -> String {
    match port {
        0 => format!("{function}.console"),
        n => format!("{function}.port{n}"),
    }
}

/// The device, and a descriptor for each function that is readable when its sockets want attention.
/// Each function takes two descriptors, each port one and each client one.
/// File descriptors of a function: what it waits with, twice, and each port's sockets.
pub(super) fn descriptors(settings: &ConsoleSettings) -> u64 {
    2 + 2 * u64::from(settings.ports())
}

pub(super) fn build(
    config: ModelConfig,
    settings: &ConsoleSettings,
    dir: &Path,
) -> Result<(Model, Vec<(FunctionId, OwnedFd)>), ConfigError> {
    let mut wakers = Vec::new();
    let mut connect = |f: FunctionId| -> io::Result<Box<dyn Backend>> {
        // The PF is not for guests.
        if f == FunctionId::Pf {
            return Ok(Box::new(Nobody::default()));
        }
        let paths = (0..settings.ports()).map(|n| dir.join(socket_name(f.into(), n)));
        let sockets = ConsoleSockets::listen(paths).map_err(io::Error::other)?;
        wakers.push((f, sockets.waker()?));
        Ok(Box::new(sockets))
    };
    let model = console::model(config, settings, &mut connect)?;
    Ok((model, wakers))
}

pub(super) fn control(command: &str, args: &Value) -> Option<Result<DeviceControl, String>> {
    (command == "screen").then(|| {
        let number = |name: &str| {
            let n = args.get(name).and_then(Value::as_u64);
            n.and_then(|n| u16::try_from(n).ok())
                .ok_or_else(|| format!("{name:?} is not a number below 65536"))
        };
        let (cols, rows) = (number("cols")?, number("rows")?);
        Ok(DeviceControl::Screen { cols, rows })
    })
}
