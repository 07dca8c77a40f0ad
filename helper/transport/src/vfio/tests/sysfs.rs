// SPDX-License-Identifier: GPL-2.0-or-later
//! What the kernel's files say about a function, its group and its users.

use std::fs::{create_dir_all, remove_file, write};
use std::os::unix::fs::symlink;
use std::path::Path;

use super::{address, Fake, PF};
use crate::function::VfBar;

#[test]
fn odd_texts_of_sysfs_are_no_numbers() {
    let f = Fake::new();
    write(f.of(PF).join("sriov_numvfs"), "many\n").unwrap();
    let e = f.device().num_vfs().unwrap_err();
    assert!(e.to_string().contains("says \"many\""), "{e}");
    write(f.of(PF).join("sriov_numvfs"), "99999999999999999999\n").unwrap();
    assert!(f.device().num_vfs().is_err());
    write(f.of(PF).join("sriov_numvfs"), "70000\n").unwrap();
    assert_eq!(f.device().num_vfs(), Ok(Some(u16::MAX)));
    // Links that are none of the kernel's.
    for (name, target) in [
        ("virtfnx", "../0000:03:00.1"),
        ("virtfn7", "../nothing"),
        ("virtfn65535", "../0000:03:00.1"),
    ] {
        symlink(target, f.of(PF).join(name)).unwrap();
    }
    assert!(f.device().vfs().is_empty());
}

#[test]
fn sizes_of_bars_are_those_the_kernel_assigned() {
    let f = Fake::new();
    let lines = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
        0x00000000fe800000 0x00000000fe800fff 0x0000000000040200\n\
        0x0000000000001000 0x000000000000103f 0x0000000000040101\n\
        not a line\n\
        0x0000380000000000 0x0000380000003fff 0x000000000014220c\n\
        0x0000000000000001 0x0000000000000000 0x0000000000000200\n";
    write(f.of(PF).join("resource"), lines).unwrap();
    assert_eq!(
        f.device().bars().unwrap(),
        [
            VfBar::Absent,
            VfBar::Size(0x1000),
            VfBar::Absent,
            VfBar::Unknown,
            VfBar::Size(0x4000),
            VfBar::Absent
        ]
    );
    remove_file(f.of(PF).join("resource")).unwrap();
    assert_eq!(f.device().bars().unwrap(), [VfBar::Unknown; 6]);
}

#[test]
fn others_in_the_group_and_users_of_a_file_are_named() {
    let f = Fake::new();
    f.add("0000:03:00.1", Some("ixgbe"), Some("7"));
    f.add("0000:02:00.0", Some("pcieport"), Some("7"));
    f.add("0000:03:00.3", Some("vfio-pci"), Some("7"));
    f.add("0000:03:00.4", None, Some("7"));
    assert_eq!(f.device().group_others(), ["0000:03:00.1 (driver ixgbe)"]);

    let group = f.host.dev.join("vfio/7");
    assert_eq!(f.device().holder(), "another process");
    for (pid, target) in [
        ("17", Path::new("/dev/null")),
        ("23", &group),
        ("self", &group),
    ] {
        let dir = f.host.proc.join(pid);
        create_dir_all(dir.join("fd")).unwrap();
        write(dir.join("comm"), "qemu\u{1b}-system\n").unwrap();
        symlink(target, dir.join("fd/3")).unwrap();
    }
    assert_eq!(f.device().holder(), "pid 23 (qemu-system)");
    // A group that is not there, or can be opened, is not in use.
    assert_eq!(f.device().vfio_user(), None);
}

#[test]
fn a_character_device_leads_to_its_function() {
    let f = Fake::new();
    let by_number = f.host.sysfs.join("dev/char");
    create_dir_all(&by_number).unwrap();
    for (name, target) in [
        (
            "511:3",
            "../../devices/pci0000:00/0000:03:00.2/vfio-dev/vfio3",
        ),
        ("1:3", "../../devices/virtual/mem/null"),
        ("511:4", "../../devices/platform/x/vfio-dev/vfio4"),
    ] {
        symlink(target, by_number.join(name)).unwrap();
    }
    assert_eq!(
        f.host.function_of_cdev(511, 3),
        Some(address("0000:03:00.2"))
    );
    for (major, minor) in [(1, 3), (511, 4), (511, 5)] {
        assert_eq!(f.host.function_of_cdev(major, minor), None);
    }
    // With device files of their own, functions on any driver count as VFIO's.
    assert!(!f.device().is_on_vfio());
    create_dir_all(f.of(PF).join("vfio-dev/vfio0")).unwrap();
    assert!(f.device().is_on_vfio());
    assert_eq!(
        f.device().cdev_path(),
        Some(f.dir.path().join("dev/vfio/devices/vfio0"))
    );
}

#[test]
fn where_a_vf_lies_says_its_number_and_its_link_whether_it_is_one() {
    let f = Fake::new();
    let pf = f.device();
    let vf = address("0000:04:00.4");
    assert_eq!(pf.vf_number(vf), Ok(None), "no VFs at all");
    // On the bus behind: 03:00.0 + 256 + 2 (n - 1).
    write(f.of(PF).join("sriov_offset"), "256\n").unwrap();
    write(f.of(PF).join("sriov_stride"), "2\n").unwrap();
    assert_eq!(pf.vf_number(vf), Ok(None), "not enabled");
    for n in 0..2048 {
        let id = 0x0400 + 2 * n;
        let name = format!("../0000:{:02x}:{:02x}.{}", id >> 8, (id >> 3) & 31, id & 7);
        symlink(name, f.of(PF).join(format!("virtfn{n}"))).unwrap();
    }
    for (text, number) in [
        ("0000:04:00.0", Some(1)),
        ("0000:04:00.4", Some(3)),
        ("0000:13:1f.6", Some(2048)),
        ("0000:14:00.0", None),
        // Between two, in front, and in another domain.
        ("0000:04:00.1", None),
        ("0000:03:00.4", None),
        ("0000:02:00.4", None),
        ("0001:04:00.4", None),
    ] {
        assert_eq!(pf.vf_number(address(text)), Ok(number), "{text}");
    }
    // One VF need not have a stride.
    write(f.of(PF).join("sriov_stride"), "0\n").unwrap();
    assert_eq!(pf.vf_number(address("0000:04:00.0")), Ok(Some(1)));
    assert_eq!(pf.vf_number(vf), Ok(None));
}
