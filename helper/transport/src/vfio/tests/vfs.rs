// SPDX-License-Identifier: GPL-2.0-or-later
//! VFs enabled, given to VFIO, and disabled.

use std::fs::{remove_file, write};
use std::time::Duration;

use super::super::{vfs, HostError};
use super::{address, set_driver, Fake, DEADLINE, PF};

#[test]
fn vfs_are_enabled_and_given_to_vfio() {
    let mut f = Fake::new();
    f.load_vfio("Y");
    f.set_driver("vfio-pci");
    let pf = f.device();
    assert_eq!(
        (pf.num_vfs(), pf.total_vfs(), pf.vf_device_id()),
        (Ok(Some(0)), Ok(4), Ok(Some(0x1041)))
    );
    assert_eq!(
        vfs::enable(&pf, 5, DEADLINE),
        Err(HostError::TooManyVfs {
            wanted: 5,
            total: 4
        })
    );
    // Links of VFs appear before the write returns.
    f.start_kernel();
    write(f.of(PF).join("sriov_numvfs"), "2\n").unwrap();
    while pf.vfs().len() < 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(
        pf.vfs(),
        [(1, address("0000:03:00.1")), (2, address("0000:03:00.2"))]
    );
    vfs::claim(&pf, DEADLINE).unwrap();
    for (_, vf) in pf.vfs() {
        let vf = f.host.device(vf).unwrap();
        assert_eq!(vf.driver().as_deref(), Some("vfio-pci"));
    }
    // VFs that were there before are taken only from nobody.
    for (vf, driver) in [("0000:03:00.1", None), ("0000:03:00.2", Some("virtio-pci"))] {
        remove_file(f.of(vf).join("driver")).unwrap();
        if let Some(driver) = driver {
            set_driver(&f.of(vf), driver);
        }
    }
    assert_eq!(
        pf.settle_vfs(DEADLINE).unwrap(),
        ["VF 2 (0000:03:00.2, driver virtio-pci)"]
    );
    let first = f.host.device(address("0000:03:00.1")).unwrap();
    assert_eq!(first.driver().as_deref(), Some("vfio-pci"));
    let e = vfs::enable(&pf, 3, DEADLINE).unwrap_err();
    assert!(
        e.to_string()
            .starts_with("2 VFs are enabled already and 3 are wanted; keep them with"),
        "{e}"
    );
    vfs::disable(&pf, DEADLINE).unwrap();
    assert_eq!(pf.num_vfs(), Ok(Some(0)));
}

#[test]
fn leave_to_enable_vfs_is_asked_for_before_anything_is_touched() {
    let f = Fake::new();
    f.load_vfio("N");
    let e = vfs::enable(&f.device(), 2, DEADLINE).unwrap_err();
    assert_eq!(e, HostError::SriovOff);
    assert!(
        e.to_string()
            .contains("echo Y > /sys/module/vfio_pci/parameters/enable_sriov"),
        "{e}"
    );
    assert_eq!(f.device().num_vfs(), Ok(Some(0)));
    // A driver built on vfio-pci has rules of its own.
    f.add_driver("virtio_vfio_pci");
    f.set_driver("virtio_vfio_pci");
    assert_eq!(f.device().check_vfs(2), Ok(()));

    remove_file(f.of(PF).join("sriov_totalvfs")).unwrap();
    assert_eq!(f.device().check_vfs(2), Err(HostError::NotAPf));
}

#[test]
fn a_write_that_does_not_end_is_given_up() {
    let f = Fake::new();
    f.load_vfio("Y");
    f.set_driver("vfio-pci");
    let path = f.of(PF).join("sriov_numvfs");
    remove_file(&path).unwrap();
    // Opening it waits for a reader, as the kernel would wait for a user of a VF.
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let e = f
        .device()
        .set_num_vfs(2, Duration::from_millis(50))
        .unwrap_err();
    assert!(matches!(e, HostError::Stuck { .. }), "{e}");
    assert!(
        e.to_string()
            .contains("sriov_numvfs has not ended after 50ms"),
        "{e}"
    );
    // Lets the thread end.
    let _reader = std::fs::File::open(&path);
}
