// SPDX-License-Identifier: GPL-2.0-or-later
//! The device types that can be simulated: each has its options on the command line, its way to a
//! [`Model`], and its commands on the control socket.
//!
//! A new type is a module here (its `clap` arguments with `given` and `settings`, a `build`, and
//! `control` if it has commands), which knows nothing of this file; a variant of [`Kind`] and of [`TypeOptions`], and a line in each
//! of the functions below.

pub mod balloon;
pub mod blk;
pub mod console;
pub mod net;
pub mod p9;
pub mod rng;
pub mod scsi;
mod size;

use crate::descriptors;
use clap::ValueEnum;
use serde_json::Value;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use virtio_pci_spec::DeviceType;
use virtio_pf_model::{ConfigError, DeviceControl, FunctionId, Model, ModelConfig};

/// Device types that can be simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Network cards on one switch.
    Net,
    /// Disks.
    Blk,
    /// Consoles.
    Console,
    /// Entropy sources.
    Rng,
    /// Memory balloons.
    Balloon,
    /// SCSI hosts with a disk.
    Scsi,
    /// 9P transports to a directory.
    #[value(name = "9p")]
    P9,
}

impl Kind {
    /// The type as the specification has it; its name is also that on the command line.
    pub fn device_type(self) -> DeviceType {
        match self {
            Self::Net => DeviceType::Net,
            Self::Blk => DeviceType::Block,
            Self::Console => DeviceType::Console,
            Self::Rng => DeviceType::Entropy,
            Self::Balloon => DeviceType::Balloon,
            Self::Scsi => DeviceType::Scsi,
            Self::P9 => DeviceType::P9,
        }
    }
}

/// Options on the command line that belong to one type.
#[derive(clap::Args, Clone, Debug)]
pub struct TypeArgs {
    /// Network cards.
    #[command(flatten)]
    pub net: net::NetArgs,
    /// Disks.
    #[command(flatten)]
    pub blk: blk::BlkArgs,
    /// Consoles.
    #[command(flatten)]
    pub console: console::ConsoleArgs,
    /// Entropy sources.
    #[command(flatten)]
    pub rng: rng::RngArgs,
    /// Memory balloons.
    #[command(flatten)]
    pub balloon: balloon::BalloonArgs,
    /// SCSI hosts.
    #[command(flatten)]
    pub scsi: scsi::ScsiArgs,
    /// 9P transports.
    #[command(flatten)]
    pub p9: p9::P9Args,
}

/// What the options of a type may depend on.
#[derive(Clone, Debug)]
pub struct CommonArgs {
    /// Entries of each device queue, if given.
    pub queue_size: Option<u16>,
    /// Directory of the simulator's sockets.
    pub dir: PathBuf,
}

impl TypeArgs {
    /// An option that was given but belongs to another type.
    pub fn misplaced(&self, kind: Kind) -> Option<&'static str> {
        let given = [
            (Kind::Net, self.net.given()),
            (Kind::Blk, self.blk.given()),
            (Kind::Console, self.console.given()),
            (Kind::Rng, self.rng.given()),
            (Kind::Balloon, self.balloon.given()),
            (Kind::Scsi, self.scsi.given()),
            (Kind::P9, self.p9.given()),
        ];
        given
            .into_iter()
            .filter(|(of, _)| *of != kind)
            .find_map(|(_, name)| name)
    }

    /// The options of one type.
    pub fn options(&self, kind: Kind, common: &CommonArgs) -> TypeOptions {
        let queue_size = common.queue_size;
        match kind {
            Kind::Net => TypeOptions::Net {
                settings: self.net.settings(queue_size),
                capture: self.net.pcap.is_some(),
            },
            Kind::Blk => TypeOptions::Blk {
                settings: self.blk.settings(queue_size),
                file: self.blk.blk_file.clone(),
                ram: self.blk.blk_ram,
            },
            Kind::Console => TypeOptions::Console {
                settings: self.console.settings(queue_size),
                dir: common.dir.clone(),
            },
            Kind::Rng => TypeOptions::Rng {
                settings: self.rng.settings(queue_size),
            },
            Kind::Balloon => TypeOptions::Balloon {
                settings: self.balloon.settings(queue_size),
            },
            Kind::Scsi => TypeOptions::Scsi {
                settings: self.scsi.settings(queue_size),
                file: self.scsi.scsi_file.clone(),
                ram: self.scsi.ram(),
            },
            Kind::P9 => TypeOptions::P9 {
                settings: self.p9.settings(queue_size),
                share: self.p9.share.clone(),
                own: common.dir.join(p9::OWN_DIRECTORY),
                read_only: self.p9.share_read_only,
            },
        }
    }
}

/// Options of a device type.
#[derive(Clone, Debug)]
pub enum TypeOptions {
    /// Network cards.
    Net {
        /// Settings of each function.
        settings: virtio_pf_model::net::config::NetSettings,
        /// Keep copies of all frames for a capture file.
        capture: bool,
    },
    /// Disks.
    Blk {
        /// Settings of each function.
        settings: virtio_pf_model::blk::config::BlkSettings,
        /// File of VF 1; VF n has FILE.vf`n` if that exists.
        file: Option<PathBuf>,
        /// Bytes of disks without a file.
        ram: u64,
    },
    /// Consoles.
    Console {
        /// Settings of each function.
        settings: virtio_pf_model::console::config::ConsoleSettings,
        /// Directory of the ports' sockets.
        dir: PathBuf,
    },
    /// Entropy sources.
    Rng {
        /// Settings of each function.
        settings: virtio_pf_model::rng::RngSettings,
    },
    /// Memory balloons.
    Balloon {
        /// Settings of each function.
        settings: virtio_pf_model::balloon::config::BalloonSettings,
    },
    /// SCSI hosts.
    Scsi {
        /// Settings of each function.
        settings: virtio_pf_model::scsi::config::ScsiSettings,
        /// File of VF 1; VF n has FILE.vf`n` if that exists.
        file: Option<PathBuf>,
        /// Bytes of disks without a file.
        ram: u64,
    },
    /// 9P transports.
    P9 {
        /// Settings of each function.
        settings: virtio_pf_model::p9::P9Settings,
        /// Directory to be shared, if it is not the simulator's own.
        share: Option<PathBuf>,
        /// The simulator's own.
        own: PathBuf,
        /// Nothing in it is changed.
        read_only: bool,
    },
}

impl TypeOptions {
    /// File descriptors that the backend of a VF takes, as far as they do not depend on the limit.
    fn descriptors(&self) -> u64 {
        match self {
            TypeOptions::Console { settings, .. } => console::descriptors(settings),
            TypeOptions::Blk { file: Some(_), .. } | TypeOptions::Scsi { file: Some(_), .. } => 1,
            _ => 0,
        }
    }
}

/// A built device and what the front end has to know of it.
pub(super) struct Built {
    pub(super) model: Model,
    pub(super) captured: net::Captured,
    /// Descriptors that are readable when a function's backend wants attention.
    pub(super) wakers: Vec<(FunctionId, OwnedFd)>,
}

impl From<Model> for Built {
    fn from(model: Model) -> Self {
        Self {
            model,
            captured: None,
            wakers: Vec::new(),
        }
    }
}

/// Builds the device.
///
/// # Errors
/// What is not possible, or what of the host cannot be had.
pub(super) fn build(config: ModelConfig, options: &TypeOptions) -> Result<Built, ConfigError> {
    descriptors::raise(config.total_vfs, options.descriptors())
        .map_err(|e| ConfigError::Device(config.vf_type.name(), e.to_string()))?;
    let model = match options {
        TypeOptions::Net { settings, capture } => {
            let (model, captured) = net::build(config, settings, *capture)?;
            return Ok(Built {
                captured,
                ..Built::from(model)
            });
        }
        TypeOptions::Blk {
            settings,
            file,
            ram,
        } => blk::build(config, settings, file.as_deref(), *ram)?,
        TypeOptions::Console { settings, dir } => {
            let (model, wakers) = console::build(config, settings, dir)?;
            return Ok(Built {
                wakers,
                ..Built::from(model)
            });
        }
        TypeOptions::Rng { settings } => rng::build(config, settings)?,
        TypeOptions::Balloon { settings } => balloon::build(config, settings)?,
        TypeOptions::Scsi {
            settings,
            file,
            ram,
        } => scsi::build(config, settings, file.as_deref(), *ram)?,
        TypeOptions::P9 {
            settings,
            share,
            own,
            read_only,
        } => p9::build(config, settings, share.as_deref(), own, *read_only)?,
    };
    Ok(model.into())
}

/// A command of the control socket that is a change to one function's device; `None` if no type has
/// it.
pub(super) fn control(command: &str, args: &Value) -> Option<Result<DeviceControl, String>> {
    net::control(command, args)
        .or_else(|| blk::control(command, args))
        .or_else(|| console::control(command, args))
        .or_else(|| rng::control(command, args))
        .or_else(|| balloon::control(command, args))
        .or_else(|| scsi::control(command, args))
}

/// Names of the commands that [`control`] knows.
pub(super) const COMMANDS: &str = "link, resize, screen, rng, balloon, balloon-stats, stall, plug";

/// Member of a function's counters that holds what its device type counts.
pub(super) const NUMBERS: &str = "type";
