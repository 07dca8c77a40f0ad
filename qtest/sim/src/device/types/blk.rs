// SPDX-License-Identifier: GPL-2.0-or-later
//! Disks in files or in memory.

use super::size::parse_size;
use crate::hardware::Function;
use serde_json::Value;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use virtio_pf_model::blk;
use virtio_pf_model::blk::config::BlkSettings;
use virtio_pf_model::disk::{Backend, FileDisk, RamDisk, SECTOR};
use virtio_pf_model::{ConfigError, DeviceControl, FunctionId, Model, ModelConfig};

/// Options of the type.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Disks")]
pub struct BlkArgs {
    /// Blk: file behind VF 1; VF n uses FILE.vfn if that exists, and memory if not.
    #[arg(long, value_name = "FILE")]
    pub blk_file: Option<PathBuf>,
    /// Blk: size of disks in memory.
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = parse_size)]
    pub blk_ram: u64,
    /// Blk: refuse writes.
    #[arg(long)]
    pub read_only: bool,
    /// Blk: request queues.
    #[arg(long, value_name = "N")]
    pub blk_queues: Option<u16>,
    /// Blk: logical block size.
    #[arg(long, value_name = "BYTES")]
    pub block_size: Option<u32>,
}

impl BlkArgs {
    pub(super) fn given(&self) -> Option<&'static str> {
        let given = [
            (self.blk_file.is_some(), "--blk-file"),
            (self.read_only, "--read-only"),
            (self.blk_queues.is_some(), "--blk-queues"),
            (self.block_size.is_some(), "--block-size"),
        ];
        given.iter().find(|(g, _)| *g).map(|(_, name)| *name)
    }

    /// What the options say of each function; `queue_size` is that of all types, if given.
    pub(super) fn settings(&self, queue_size: Option<u16>) -> BlkSettings {
        let mut settings = BlkSettings::default();
        settings.num_queues = self.blk_queues.unwrap_or(settings.num_queues);
        settings.queue_size = queue_size.unwrap_or(settings.queue_size);
        settings.block_size = self.block_size.unwrap_or(settings.block_size);
        settings.read_only = self.read_only;
        settings
    }
}

/// The disk of a function: a file, or memory of `ram` bytes.
pub(super) fn store(
    file: Option<&Path>,
    ram: u64,
    read_only: bool,
    f: FunctionId,
) -> std::io::Result<Box<dyn Backend>> {
    let Some(path) = file else {
        return Ok(Box::new(RamDisk::new(ram)));
    };
    // One file per function: VF 1 has the file itself, the others one beside it.
    let path = match f {
        FunctionId::Vf(1) => path.to_owned(),
        other => {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{}", Function::from(other)));
            name.into()
        }
    };
    if !path.exists() && f != FunctionId::Vf(1) {
        return Ok(Box::new(RamDisk::new(ram)));
    }
    let mut how = OpenOptions::new();
    let file = how
        .read(true)
        .write(!read_only)
        .open(&path)
        .map_err(|e| std::io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
    Ok(Box::new(FileDisk::new(file)?))
}

pub(super) fn build(
    config: ModelConfig,
    settings: &BlkSettings,
    file: Option<&Path>,
    ram: u64,
) -> Result<Model, ConfigError> {
    let mut open = |f: FunctionId| store(file, ram, settings.read_only, f);
    blk::model(config, settings, &mut open)
}

pub(super) fn control(command: &str, args: &Value) -> Option<Result<DeviceControl, String>> {
    (command == "resize").then(|| {
        let number = |name| args.get(name).and_then(Value::as_u64);
        let sectors = number("sectors").or_else(|| Some(number("bytes")? / SECTOR));
        let sectors = sectors.ok_or("neither \"sectors\" nor \"bytes\" is a number")?;
        Ok(DeviceControl::Resize { sectors })
    })
}
