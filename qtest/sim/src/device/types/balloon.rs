// SPDX-License-Identifier: GPL-2.0-or-later
//! Memory balloons. They count pages; nothing of the host's memory changes hands.

use serde_json::Value;
use virtio_pf_model::balloon::{self, config::BalloonSettings};
use virtio_pf_model::{ConfigError, DeviceControl, Model, ModelConfig};

/// Options of the type.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Memory balloon")]
pub struct BalloonArgs {
    /// Balloon: pages of 4096 bytes that drivers are asked for from the start.
    #[arg(long, value_name = "N")]
    pub balloon_pages: Option<u32>,
    /// Balloon: offer no statistics queue.
    #[arg(long)]
    pub balloon_no_stats: bool,
    /// Balloon: offer that the driver takes pages back by itself when it runs out of memory.
    #[arg(long)]
    pub balloon_deflate_on_oom: bool,
}

impl BalloonArgs {
    pub(super) fn given(&self) -> Option<&'static str> {
        let given = [
            (self.balloon_pages.is_some(), "--balloon-pages"),
            (self.balloon_no_stats, "--balloon-no-stats"),
            (self.balloon_deflate_on_oom, "--balloon-deflate-on-oom"),
        ];
        given.iter().find(|(g, _)| *g).map(|(_, name)| *name)
    }

    /// What the options say of each function; `queue_size` is that of all types, if given.
    pub(super) fn settings(&self, queue_size: Option<u16>) -> BalloonSettings {
        let default = BalloonSettings::default();
        BalloonSettings {
            queue_size: queue_size.unwrap_or(default.queue_size),
            pages: self.balloon_pages.unwrap_or(default.pages),
            stats: !self.balloon_no_stats,
            deflate_on_oom: self.balloon_deflate_on_oom,
            ..default
        }
    }
}

pub(super) fn build(config: ModelConfig, settings: &BalloonSettings) -> Result<Model, ConfigError> {
    balloon::model(config, settings)
}

pub(super) fn control(command: &str, args: &Value) -> Option<Result<DeviceControl, String>> {
    match command {
        "balloon" => {
            let pages = args.get("pages").and_then(Value::as_u64);
            let pages = pages.and_then(|n| u32::try_from(n).ok());
            let pages = pages.ok_or("\"pages\" is not a number of pages of 4096 bytes");
            Some(match pages {
                Ok(pages) => Ok(DeviceControl::Balloon { pages }),
                Err(why) => Err(why.to_owned()),
            })
        }
        "balloon-stats" => Some(Ok(DeviceControl::BalloonStats)),
        _ => None,
    }
}
