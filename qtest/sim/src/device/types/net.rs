// SPDX-License-Identifier: GPL-2.0-or-later
//! Network cards on one switch.

use super::size::parse_size;
use clap::ValueEnum;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use virtio_pf_model::net::config::NetSettings;
use virtio_pf_model::net::NetDevice;
use virtio_pf_model::switch::Switch;
use virtio_pf_model::{
    ConfigError, DeviceControl, FrameSwitch, FunctionId, Model, ModelConfig, Port, VirtioDevice,
};

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnOff {
    /// On.
    On,
    /// Off.
    Off,
}

/// Options of the type.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Network")]
pub struct NetArgs {
    /// Net: queue pairs of each function.
    #[arg(long, value_name = "N")]
    pub queue_pairs: Option<u16>,
    /// Net: MTU.
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<u16>,
    /// Net: MAC address of the PF; VF n has it plus n.
    #[arg(long, value_name = "MAC", value_parser = parse_mac)]
    pub mac: Option<[u8; 6]>,
    /// Net: the built-in host 10.0.77.1 on the uplink (ARP, ping, TCP services).
    #[arg(long, value_enum)]
    pub peer: Option<OnOff>,
    /// Net: the built-in host also gives addresses (DHCP) and files of this directory (TFTP, HTTP),
    /// so that guests can boot from it. DHCP names boot.ipxe to iPXE, boot.efi to UEFI, boot.0 to
    /// others, if there is such a file.
    #[arg(long, value_name = "DIR")]
    pub boot_dir: Option<PathBuf>,
    /// Net: tap interface of this host as the uplink, in place of the built-in peer.
    #[arg(long, value_name = "IF")]
    pub tap: Option<String>,
    /// Net: write every frame that passes the switch to this file.
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Net: size limit of the capture file.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub pcap_limit: Option<u64>,
}

impl NetArgs {
    pub(super) fn given(&self) -> Option<&'static str> {
        let given = [
            (self.queue_pairs.is_some(), "--queue-pairs"),
            (self.mtu.is_some(), "--mtu"),
            (self.mac.is_some(), "--mac"),
            (self.peer == Some(OnOff::On), "--peer"),
            (self.boot_dir.is_some(), "--boot-dir"),
            (self.tap.is_some(), "--tap"),
            (self.pcap.is_some(), "--pcap"),
        ];
        given.iter().find(|(g, _)| *g).map(|(_, name)| *name)
    }

    /// What the options say of each function; `queue_size` is that of all types, if given.
    pub(super) fn settings(&self, queue_size: Option<u16>) -> NetSettings {
        let mut settings = NetSettings::default();
        settings.mac = self.mac.unwrap_or(settings.mac);
        settings.mtu = self.mtu.unwrap_or(settings.mtu);
        settings.max_queue_pairs = self.queue_pairs.unwrap_or(settings.max_queue_pairs);
        settings.queue_size = queue_size.unwrap_or(settings.queue_size);
        settings
    }
}

/// Parses a MAC address.
fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let wrong = || format!("{text:?} is not a MAC address such as 52:54:00:77:01:00");
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|p| p.len() == 2).ok_or_else(wrong)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
    }
    match parts.next() {
        None => Ok(mac),
        Some(_) => Err(wrong()),
    }
}

/// Frames waiting for the capture file; `None` when nothing is captured.
pub(in crate::device) type Captured = Option<Arc<Mutex<Vec<Vec<u8>>>>>;

/// A switch that keeps a copy of what passes.
struct CapturingSwitch {
    inner: Switch,
    captured: Captured,
}

impl FrameSwitch for CapturingSwitch {
    fn forward(&mut self, from: Port, frame: &[u8], to: &mut Vec<Port>) {
        if let Some(captured) = &self.captured {
            let mut frames = captured.lock().unwrap_or_else(PoisonError::into_inner);
            frames.push(frame.to_vec());
        }
        self.inner.forward(from, frame, to);
    }

    fn port_reset(&mut self, port: Port) {
        self.inner.port_reset(port);
    }
}

/// The device, and the copies of what passes its switch.
pub(super) fn build(
    config: ModelConfig,
    settings: &NetSettings,
    capture: bool,
) -> Result<(Model, Captured), ConfigError> {
    let captured: Captured = capture.then(Arc::default);
    let bad = |why| ConfigError::Device("net", why);
    settings.check().map_err(bad)?;
    let switch = Switch::new();
    let connected = switch.clone();
    let mut make = |f: FunctionId| -> Result<Box<dyn VirtioDevice>, ConfigError> {
        let mac = settings.mac_of(f);
        let device = NetDevice::new(settings.clone(), mac).map_err(bad)?;
        connected.connect(f, device.station());
        Ok(Box::new(device))
    };
    let switch = CapturingSwitch {
        inner: switch,
        captured: captured.clone(),
    };
    let model = Model::with_devices(config, &mut make, Box::new(switch))?;
    Ok((model, captured))
}

pub(super) fn control(command: &str, args: &Value) -> Option<Result<DeviceControl, String>> {
    (command == "link").then(|| {
        let up = args.get("up").and_then(Value::as_bool);
        let up = up.ok_or("\"up\" is not true or false")?;
        Ok(DeviceControl::Link { up })
    })
}
