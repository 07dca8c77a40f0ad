// SPDX-License-Identifier: GPL-2.0-or-later
//! What the kernel says in sysfs and proc, with any bytes in it: whoever can mount something there, or
//! a kernel that says it differently, must not end the helper.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use pci_transport::vfio::Host;
use pci_transport::PciAddress;

use crate::Choices;

/// The function that is looked at.
const ADDRESS: &str = "0000:03:00.0";
const ATTRIBUTES: [&str; 6] = [
    "resource",
    "sriov_numvfs",
    "sriov_totalvfs",
    "sriov_vf_device",
    "sriov_drivers_autoprobe",
    "vendor",
];
const LINKS: [&str; 5] = ["driver", "iommu_group", "physfn", "virtfn0", "virtfn2"];
/// Longest text of an error.
const MAX_TEXT: usize = 600;

fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        // Memory, where there is some: each run writes the files anew.
        let shm = Path::new("/dev/shm");
        let dir = match shm.is_dir() {
            true => tempfile::tempdir_in(shm),
            false => tempfile::tempdir(),
        };
        dir.expect("a directory").keep()
    })
}

/// A text as the kernel writes it, or any bytes.
fn text(choices: &mut Choices<'_>, usual: &str) -> Vec<u8> {
    match choices.u8() {
        0..=0x7f => usual.as_bytes().to_vec(),
        0x80..=0xbf => {
            let mut bytes = usual.as_bytes().to_vec();
            let at = usize::from(choices.u8());
            let value = choices.u8();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            bytes
        }
        _ => {
            let n = usize::from(choices.u8());
            choices.bytes(n)
        }
    }
}

/// A name that a link can have.
fn target(choices: &mut Choices<'_>, usual: &str) -> PathBuf {
    let mut bytes = text(choices, usual);
    bytes.retain(|b| *b != 0);
    match bytes.is_empty() {
        true => ".".into(),
        false => std::ffi::OsString::from_vec(bytes).into(),
    }
}

fn checked<T, E: std::fmt::Display>(result: Result<T, E>) {
    if let Err(e) = result {
        assert!(e.to_string().len() < MAX_TEXT, "{e}");
    }
}

/// One run.
pub fn run(data: &[u8]) {
    let choices = &mut Choices::new(data);
    let host = Host {
        sysfs: root().join("sys"),
        dev: root().join("dev"),
        proc: root().join("proc"),
    };
    let dir = host.sysfs.join("bus/pci/devices").join(ADDRESS);
    fs::create_dir_all(&dir).expect("a directory");
    let resource = "0x00000000fea00000 0x00000000fea03fff 0x0000000000140204\n".repeat(7);
    for name in ATTRIBUTES {
        let usual = match name {
            "resource" => resource.as_str(),
            "sriov_vf_device" => "1041\n",
            "vendor" => "0x1af4\n",
            _ => "4\n",
        };
        fs::write(dir.join(name), text(choices, usual)).expect("a file");
    }
    for name in LINKS {
        let usual = match name {
            "driver" => "../../../../bus/pci/drivers/vfio-pci",
            "iommu_group" => "../../../kernel/iommu_groups/7",
            "physfn" => "../0000:03:00.0",
            _ => "../0000:03:00.2",
        };
        let link = dir.join(name);
        let _none = fs::remove_file(&link);
        // Too long a name, for instance; then there is none.
        let _refused = std::os::unix::fs::symlink(target(choices, usual), link);
    }
    let address = PciAddress::parse(ADDRESS).expect("an address");
    let device = host.device(address).expect("it is there");
    let _driver = (device.driver(), device.is_on_vfio());
    checked(device.group());
    checked(device.num_vfs());
    checked(device.total_vfs());
    checked(device.vf_device_id());
    checked(device.bars());
    checked(device.check_vfs(4));
    let _vfs = (device.vfs(), device.physfn(), device.sriov_allowed());
    let _users = (device.cdev_name(), device.group_others());
    // The file behind a proof.
    let file = fs::File::open("/dev/null").expect("a file");
    let infos = host.proc.join("self/fdinfo");
    fs::create_dir_all(&infos).expect("a directory");
    let usual = "pos:\t0\nvfio-device-syspath: /sys/devices/pci0000:00/0000:03:00.2\n";
    let info = infos.join(file.as_raw_fd().to_string());
    fs::write(info, text(choices, usual)).expect("a file");
    checked(host.function_of_file(file.as_fd()));
}
