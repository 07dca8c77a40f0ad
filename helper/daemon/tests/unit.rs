// SPDX-License-Identifier: GPL-2.0-or-later
//! The systemd unit says what the program understands.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use clap::Parser;
use qemu_virtio_admin_helper::args::Args;
use qemu_virtio_admin_helper::config::{ServeConfig, DEFAULT_USER};
use qemu_virtio_admin_helper::exit;

const UNIT: &str = include_str!("../qemu-virtio-admin-helper@.service.in");

fn value(key: &str) -> &'static str {
    let mut found = UNIT
        .lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let first = found.next().unwrap();
    assert_eq!(found.next(), None, "{key} twice");
    first
}

/// Its command line, with options as its comment gives them.
fn command() -> Vec<String> {
    let example = UNIT
        .lines()
        .find_map(|line| line.strip_prefix("#   OPTIONS="))
        .unwrap();
    value("ExecStart")
        .replace("@HELPER_DIR@/", "")
        .replace("%i", "0000:03:00.0")
        .replace("$OPTIONS", &example.replace("kvm", "0"))
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_command_line_is_one() {
    let command = command();
    // Started as root whatever User= says.
    assert_eq!(command[0], "!qemu-virtio-admin-helper");
    assert_eq!(value("User"), DEFAULT_USER);
    let accounts = include_str!("../qemu-virtio-admin.conf");
    assert!(accounts
        .lines()
        .any(|line| line.starts_with("u qemu-virtio-admin ")));
    let args = Args::try_parse_from(&command).unwrap();
    let config = ServeConfig::try_from(args.serve).unwrap();
    // Where QEMU looks, and what the unit keeps.
    let socket = config.socket.path.to_str().unwrap().to_owned();
    let directory = format!("/run/{}/", value("RuntimeDirectory"));
    assert_eq!(socket, format!("{directory}0000:03:00.0.sock"));
    assert_eq!(value("RuntimeDirectoryPreserve"), "yes");
    // systemd must not give up before the program does.
    let limit: u64 = value("TimeoutStartSec").parse().unwrap();
    assert!(limit > 3 * config.pf.start_timeout.as_secs());
    assert_eq!(value("Type"), "notify");
}

#[test]
fn it_is_not_started_again_where_that_does_not_help() {
    let codes: Vec<u8> = value("RestartPreventExitStatus")
        .split(' ')
        .map(|c| c.parse().unwrap())
        .collect();
    assert_eq!(codes, [exit::USAGE, exit::RETURNED]);
}

#[test]
fn it_may_reach_vfio_and_write_to_sysfs_and_little_else() {
    let devices: Vec<&str> = UNIT
        .lines()
        .filter_map(|line| line.strip_prefix("DeviceAllow="))
        .collect();
    assert_eq!(
        devices,
        [
            "/dev/vfio/vfio rw",
            "char-vfio rw",
            "/dev/iommu rw",
            "char-vfio-dev rw"
        ]
    );
    assert_eq!(value("DevicePolicy"), "closed");
    assert_eq!(value("ProtectSystem"), "strict");
    assert_eq!(value("NoNewPrivileges"), "yes");
    let kept: usize = value("FileDescriptorStoreMax").parse().unwrap();
    assert!(kept >= 4, "device, container, group, memory");
    // A stale socket that --socket-owner and --socket-group gave away can be asked, and replaced; and
    // what is needed to become another user without capabilities.
    let capabilities: Vec<&str> = value("CapabilityBoundingSet").split(' ').collect();
    assert_eq!(
        capabilities,
        [
            "CAP_DAC_OVERRIDE",
            "CAP_FOWNER",
            "CAP_SETGID",
            "CAP_SETUID",
            "CAP_SETPCAP"
        ]
    );
    // sysfs would be read-only without the second.
    assert_eq!(value("ProtectKernelTunables"), "yes");
    assert_eq!(value("ReadWritePaths"), "/sys/bus/pci /sys/devices");
    assert_eq!(value("PrivateDevices"), "yes");
    assert_eq!(value("BindPaths"), "-/dev/vfio -/dev/iommu");
}

/// What systemd itself says about it, where there is one: 0 is nothing exposed, 10 everything.
#[test]
fn systemd_finds_little_exposed() {
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("helper@.service");
    // Programs that are not there would be complained about.
    let text = UNIT.replace("@HELPER_DIR@/qemu-virtio-admin-helper", "/bin/true");
    std::fs::write(&unit, text).unwrap();
    let verdict = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(&unit)
        .output();
    let Ok(verdict) = verdict else {
        println!("There is no systemd-analyze.");
        return;
    };
    let text = String::from_utf8_lossy(&verdict.stdout).into_owned();
    let Some(line) = text
        .lines()
        .find(|line| line.contains("Overall exposure level"))
    else {
        println!("This systemd-analyze looks at no files: {text}");
        return;
    };
    let words = line.rsplit(": ").next().unwrap();
    let level: f64 = words.split(' ').next().unwrap().parse().unwrap();
    assert!(level < 1.0, "{text}");
}
