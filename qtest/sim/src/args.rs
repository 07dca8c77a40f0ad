// SPDX-License-Identifier: GPL-2.0-or-later
//! The command line, and its way to checked options.

use crate::device::config::{parse_events, set_knob, DeviceOptions};
use crate::device::types::net::OnOff;
use crate::device::types::{CommonArgs, Kind, TypeArgs};
use crate::event_log;
use crate::event_loop::Options;
use crate::server::session::SessionOptions;
use crate::uplink::pcap;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;
use virtio_pf_model::{EventMask, FaultRule, Leniency, ModelConfig, NotifyLayout, SrIovCapability};

/// Simulates a virtio PF with an administration virtqueue and its SR-IOV VFs, each as a vfio-user
/// device on a Unix socket of its own.
#[derive(Debug, Parser)]
#[command(
    name = "virtio-pf-sim",
    version,
    args_conflicts_with_subcommands = true
)]
#[command(subcommand_negates_reqs = true)]
pub struct Cli {
    /// Something else than running the simulator.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of the simulator.
    #[command(flatten)]
    pub run: Option<RunArgs>,
    /// Options of the device types. Beside the others, not among them: clap cannot tell whether an
    /// optional group is there if the group has groups.
    #[command(flatten)]
    pub types: TypeArgs,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send one command to a running simulator and print its reply.
    ///
    /// The command is a name with name=value pairs, or a JSON object. Examples: counters;
    /// link vf=1 up=false; fault-add rule='{"opcode":2,"do":"drop"}'; events since=100; quit.
    Ctl {
        /// Directory of the running simulator.
        #[arg(long)]
        dir: PathBuf,
        /// The command.
        #[arg(required = true)]
        words: Vec<String>,
    },
}

/// Options of the simulator.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Directory for the sockets: pf.sock, vf1.sock ..., ctl.sock. Created if missing.
    #[arg(long)]
    pub dir: PathBuf,
    /// Type of the VFs, and of the PF itself.
    #[arg(long = "type", value_enum)]
    pub kind: Kind,
    /// Number of VFs (TotalVFs), up to 2048.
    #[arg(long, default_value_t = 1)]
    pub vfs: u16,
    /// VFs that live from the start. Without it VFs appear when the PF's driver enables them.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub vfs_at_start: u16,
    /// Number of admin queues of the PF, 1 to 4. The knob of that name has other numbers.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=4))]
    pub admin_queues: u16,
    /// Leave the SR-IOV capability to whoever presents the functions on a bus: it is at 0x800 of
    /// the PF, and configuration writes there still enable VFs.
    #[arg(long)]
    pub no_sriov_capability: bool,
    /// What LEGACY_NOTIFY_INFO answers.
    #[arg(long, value_name = "LAYOUT", default_value = "member",
          value_parser = parse_layout)]
    pub notify: NotifyLayout,
    /// Be softer than the specification in one point; may be given several times.
    #[arg(long, value_name = "NAME")]
    pub lenient: Vec<String>,
    /// Change one property of the device; may be given several times. "help" lists the names.
    #[arg(long, value_name = "NAME=VALUE")]
    pub knob: Vec<String>,
    /// MSI-X vectors of each function. Default: one per queue and one for the configuration.
    #[arg(long, value_name = "N")]
    pub vectors: Option<u16>,
    /// PCIe Device Serial Number that PF and VFs show, in hex.
    #[arg(long, value_name = "HEX", value_parser = parse_hex)]
    pub serial: Option<u64>,
    /// Fault rule in JSON; may be given several times.
    #[arg(long, value_name = "RULE")]
    pub fault: Vec<String>,

    /// Entries of each device queue.
    #[arg(long, value_name = "N")]
    pub queue_size: Option<u16>,
    /// Write what happens to this file, one JSON record per line.
    #[arg(long, value_name = "FILE")]
    pub event_log: Option<PathBuf>,
    /// Most records written to the event log.
    #[arg(long, value_name = "N", default_value_t = event_log::DEFAULT_LIMIT)]
    pub event_limit: u64,
    /// What is recorded: all, none, or a list of commands, doorbells, interrupts, violations,
    /// state. Default: all with --event-log, else without doorbells and interrupts.
    #[arg(long, value_name = "LIST", value_parser = parse_events)]
    pub events: Option<EventMask>,
    /// Look for work this many microseconds after the last before sleeping: a device does not have to
    /// be woken by the operating system. Takes a processor meanwhile.
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0,
          value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub busy_poll: u32,
    /// Map memory files that their owner could shrink. Such a client can then crash the
    /// simulator.
    #[arg(long)]
    pub map_unsealed: bool,
    /// Offer REGION_WRITE_MULTI to clients.
    #[arg(long)]
    pub write_multiple: bool,
    /// What to log to standard error: error, warn, info, debug, or a filter of tracing's.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
}

fn parse_layout(text: &str) -> Result<NotifyLayout, String> {
    text.parse()
        .map_err(|e: virtio_pf_model::ConfigError| e.to_string())
}

fn parse_hex(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).map_err(|_| format!("{text:?} is not a 64-bit hex number"))
}

impl RunArgs {
    /// The checked options of device and front end.
    ///
    /// # Errors
    /// Text that names the option and says what is wrong.
    pub fn options(&self, types: &TypeArgs) -> Result<(DeviceOptions, Options), String> {
        let kind = self.kind.device_type();
        if let Some(name) = types.misplaced(self.kind) {
            return Err(format!("{name} makes no sense with --type {}", kind.name()));
        }
        let net = &types.net;
        if net.tap.is_some() && net.peer == Some(OnOff::On) {
            return Err("--tap and --peer on exclude each other: there is one uplink".to_owned());
        }
        if net.boot_dir.is_some() && (net.tap.is_some() || net.peer == Some(OnOff::Off)) {
            return Err(
                "--boot-dir needs the built-in peer: without --tap and --peer off".to_owned(),
            );
        }
        let common = CommonArgs {
            queue_size: self.queue_size,
            dir: self.dir.clone(),
        };
        let device = types.options(self.kind, &common);
        let mut model = ModelConfig::new(kind, self.vfs);
        model.layout = self.notify;
        model.vfs_at_start = self.vfs_at_start;
        if self.no_sriov_capability {
            model.sriov = SrIovCapability::FrontEnd;
        }
        if let Some(serial) = self.serial {
            model.serial = serial;
        }
        for name in &self.lenient {
            // The names may be given with or without their common beginning.
            let full = format!("lenient-{}", name.trim_start_matches("lenient-"));
            model.leniency.enable(&full).map_err(|e| {
                let known: Vec<_> = Leniency::NAMES
                    .iter()
                    .map(|(n, w)| format!("{n} ({w})"))
                    .collect();
                format!("--lenient {name}: {e}\n{}", known.join("\n"))
            })?;
        }
        model.knobs.admin_queues = self.admin_queues;
        model.knobs.msix_vectors = self.vectors;
        for text in &self.knob {
            set_knob(&mut model.knobs, text).map_err(|e| format!("--knob {text}: {e}"))?;
        }
        model.events = self.events.unwrap_or(match self.event_log {
            Some(_) => EventMask::ALL,
            None => EventMask {
                doorbells: false,
                interrupts: false,
                ..EventMask::ALL
            },
        });
        let mut faults = Vec::new();
        for text in &self.fault {
            let rule: FaultRule =
                serde_json::from_str(text).map_err(|e| format!("--fault {text}: {e}"))?;
            faults.push(rule);
        }
        let device = DeviceOptions {
            model,
            device,
            faults,
        };
        let peer = self.kind == Kind::Net && net.tap.is_none() && net.peer != Some(OnOff::Off);
        let front = Options {
            dir: self.dir.clone(),
            session: SessionOptions {
                write_multiple: self.write_multiple,
            },
            busy_poll: Duration::from_micros(self.busy_poll.into()),
            map_unsealed: self.map_unsealed,
            peer,
            boot_dir: net.boot_dir.clone(),
            tap: net.tap.clone(),
            pcap: net
                .pcap
                .clone()
                .map(|path| (path, net.pcap_limit.unwrap_or(pcap::DEFAULT_LIMIT))),
            event_log: self.event_log.clone().map(|path| (path, self.event_limit)),
        };
        Ok((device, front))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::config::TypeOptions;

    fn parse(text: &str) -> Result<(DeviceOptions, Options), String> {
        let words = std::iter::once("virtio-pf-sim").chain(text.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|e| e.to_string())?;
        cli.run.ok_or("no run options")?.options(&cli.types)
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn options_reach_the_device() {
        let (device, front) = parse(
            "--dir /d --type net --vfs 4 --notify owner-first --lenient list --serial 0x12 \
             --knob vf-bar0 --vectors 3 --mac 52:54:00:00:00:10 --pcap f \
             --fault {\"opcode\":2,\"do\":\"drop\"} --busy-poll 50",
        )
        .unwrap();
        assert_eq!((device.model.total_vfs, device.model.serial), (4, 0x12));
        assert_eq!(device.model.layout, NotifyLayout::OwnerFirst);
        assert!(device.model.leniency.list && device.model.knobs.vf_bar0);
        assert_eq!(device.model.knobs.msix_vectors, Some(3));
        assert_eq!(device.faults.len(), 1);
        assert!(matches!(
            device.device,
            TypeOptions::Net { capture: true, .. }
        ));
        assert!(front.peer && front.pcap.is_some());
        assert_eq!(front.busy_poll, Duration::from_micros(50));
        assert_eq!(device.model.knobs.admin_queues, 1);
        let (_, front) = parse("--dir /d --type blk").unwrap();
        assert!(!front.peer);
        let (_, front) = parse("--dir /d --type net --tap t0").unwrap();
        assert!(!front.peer);
    }

    #[test]
    fn the_knob_of_admin_queues_has_what_the_option_has_not() {
        for (text, want) in [
            ("--admin-queues 4", 4),
            ("--admin-queues 2 --knob admin-queue-size=8", 2),
            ("--knob admin-queues=0", 0),
            ("--admin-queues 2 --knob admin-queues=16", 16),
        ] {
            let (device, _) = parse(&format!("--dir /d --type net {text}")).unwrap();
            assert_eq!(device.model.knobs.admin_queues, want, "{text}");
        }
    }

    #[test]
    fn wrong_options_are_named() {
        for (text, want) in [
            ("--type net", "--dir"),
            ("--dir /d --type net --read-only", "--read-only"),
            ("--dir /d --type blk --tap t0", "--tap"),
            ("--dir /d --type net --tap t0 --peer on", "--tap"),
            ("--dir /d --type net --tap t0 --boot-dir b", "--boot-dir"),
            ("--dir /d --type net --peer off --boot-dir b", "--boot-dir"),
            ("--dir /d --type blk --boot-dir b", "--boot-dir"),
            ("--dir /d --type net --notify nonsense", "known:"),
            ("--dir /d --type net --lenient nonsense", "lenient-list"),
            ("--dir /d --type net --knob nonsense", "known:"),
            ("--dir /d --type net --fault {}", "--fault"),
            ("--dir /d --type net --admin-queues 0", "--admin-queues"),
            ("--dir /d --type net --admin-queues 5", "--admin-queues"),
            ("--dir /d --type net --serial xyz", "hex"),
            ("--dir /d --type net --busy-poll 1000001", "--busy-poll"),
            ("--dir /d --type net --mac 1:2", "MAC"),
            ("--dir /d --type blk --blk-ram lots", "size"),
        ] {
            let e = parse(text).unwrap_err();
            assert!(e.contains(want), "{text}: {e}");
        }
    }
}
