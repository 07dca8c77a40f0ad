// SPDX-License-Identifier: GPL-2.0-or-later
//! SCSI hosts, each with one disk in a file or in memory.

use super::blk;
use super::size::parse_size;
use serde_json::Value;
use std::path::{Path, PathBuf};
use virtio_pf_model::disk::Backend;
use virtio_pf_model::scsi::{self, config::ScsiSettings};
use virtio_pf_model::{ConfigError, DeviceControl, FunctionId, Model, ModelConfig};

/// Options of the type.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "SCSI")]
pub struct ScsiArgs {
    /// Scsi: file behind VF 1; VF n uses FILE.vfn if that exists, and memory if not.
    #[arg(long, value_name = "FILE")]
    pub scsi_file: Option<PathBuf>,
    /// Scsi: size of disks in memory. Default: 64M.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub scsi_ram: Option<u64>,
    /// Scsi: the disks are write protected.
    #[arg(long)]
    pub scsi_read_only: bool,
    /// Scsi: request queues.
    #[arg(long, value_name = "N")]
    pub scsi_queues: Option<u16>,
    /// Scsi: logical block size.
    #[arg(long, value_name = "BYTES")]
    pub scsi_block_size: Option<u32>,
}

/// Bytes of a disk in memory if nothing else is said.
const DEFAULT_RAM: u64 = 64 << 20;

impl ScsiArgs {
    pub(super) fn given(&self) -> Option<&'static str> {
        let given = [
            (self.scsi_file.is_some(), "--scsi-file"),
            (self.scsi_ram.is_some(), "--scsi-ram"),
            (self.scsi_read_only, "--scsi-read-only"),
            (self.scsi_queues.is_some(), "--scsi-queues"),
            (self.scsi_block_size.is_some(), "--scsi-block-size"),
        ];
        given.iter().find(|(g, _)| *g).map(|(_, name)| *name)
    }

    /// What the options say of each function; `queue_size` is that of all types, if given.
    pub(super) fn settings(&self, queue_size: Option<u16>) -> ScsiSettings {
        let mut settings = ScsiSettings::default();
        settings.num_queues = self.scsi_queues.unwrap_or(settings.num_queues);
        settings.queue_size = queue_size.unwrap_or(settings.queue_size);
        settings.block_size = self.scsi_block_size.unwrap_or(settings.block_size);
        settings.read_only = self.scsi_read_only;
        settings
    }

    /// Bytes of disks in memory.
    pub(super) fn ram(&self) -> u64 {
        self.scsi_ram.unwrap_or(DEFAULT_RAM)
    }
}

pub(super) fn build(
    config: ModelConfig,
    settings: &ScsiSettings,
    file: Option<&Path>,
    ram: u64,
) -> Result<Model, ConfigError> {
    let mut open = |f: FunctionId| -> std::io::Result<Box<dyn Backend>> {
        blk::store(file, ram, settings.read_only, f)
    };
    scsi::model(config, settings, &mut open)
}

/// `resize` is a disk's of any type.
pub(super) fn control(command: &str, args: &Value) -> Option<Result<DeviceControl, String>> {
    let flag = |name: &str| {
        let value = args.get(name).and_then(Value::as_bool);
        value.ok_or_else(|| format!("{name:?} is not true or false"))
    };
    match command {
        "stall" => Some(flag("on").map(|on| DeviceControl::Stall { on })),
        "plug" => Some(flag("present").map(|present| DeviceControl::Plug { present })),
        _ => None,
    }
}
