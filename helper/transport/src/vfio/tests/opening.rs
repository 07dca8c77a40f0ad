// SPDX-License-Identifier: GPL-2.0-or-later
//! A function taken from its driver and opened, or taken over from an earlier process.

use std::fs::{create_dir_all, read_to_string, remove_file, write};
use std::time::Duration;

use super::super::{HostError, Options, VfioFunction};
use super::{address, host_error, Fake, DEADLINE, PF};
use crate::error::Cause;

#[test]
fn what_is_missing_is_named_in_the_order_in_which_it_is_mended() {
    let f = Fake::new();
    let text = f.open(false).to_string();
    assert!(text.starts_with(&format!("{PF}: ")), "{text}");
    assert!(
        text.contains("driven by virtio-pci, not by vfio-pci"),
        "{text}"
    );
    assert!(text.contains("--bind"), "{text}");
    let e = f.open(true);
    assert_eq!(host_error(&e), &HostError::NoVfioDriver);
    assert!(e.to_string().contains("modprobe vfio-pci"), "{e}");

    f.load_vfio("Y");
    f.set_driver("vfio-pci");
    let e = f.open(false);
    assert!(
        e.to_string().contains("vfio/vfio is missing: modprobe"),
        "{e}"
    );
    // Something that is not VFIO's.
    write(f.host.dev.join("vfio/vfio"), "").unwrap();
    let e = f.open(false);
    assert!(matches!(host_error(&e), HostError::NoVfio { .. }), "{e}");

    remove_file(f.of(PF).join("iommu_group")).unwrap();
    let e = f.open(false);
    assert_eq!(host_error(&e), &HostError::NoGroup);
    assert!(e.to_string().contains("intel_iommu=on"), "{e}");

    let options = Options {
        host: f.host.clone(),
        ..Options::default()
    };
    let e = VfioFunction::open(address("0000:04:00.0"), &options).unwrap_err();
    assert_eq!(host_error(&e), &HostError::NoFunction);
    assert!(!e.is_fatal());
}

#[test]
fn without_an_iommu_the_driver_is_left_alone() {
    let mut f = Fake::new();
    f.load_vfio("Y");
    f.start_kernel();
    remove_file(f.of(PF).join("iommu_group")).unwrap();
    assert_eq!(host_error(&f.open(true)), &HostError::NoGroup);
    assert_eq!(f.device().driver().as_deref(), Some("virtio-pci"));
}

#[test]
fn a_function_is_taken_from_its_driver_only_when_that_is_safe() {
    let mut f = Fake::new();
    f.load_vfio("Y");
    write(f.of(PF).join("sriov_numvfs"), "2\n").unwrap();
    let e = f.device().bind_to_vfio(DEADLINE).unwrap_err();
    let text = e.to_string();
    assert!(text.contains("virtio-pci has 2 VFs enabled"), "{text}");
    assert!(
        text.contains(&format!("echo 0 > /sys/bus/pci/devices/{PF}/sriov_numvfs")),
        "{text}"
    );
    assert_eq!(f.device().driver().as_deref(), Some("virtio-pci"));

    write(f.of(PF).join("sriov_numvfs"), "0\n").unwrap();
    f.start_kernel();
    f.device().bind_to_vfio(DEADLINE).unwrap();
    assert_eq!(f.device().driver().as_deref(), Some("vfio-pci"));
    let chosen = read_to_string(f.of(PF).join("driver_override")).unwrap();
    assert!(chosen.starts_with("vfio-pci"), "{chosen}");
    // And again, with nothing to do.
    f.device().bind_to_vfio(DEADLINE).unwrap();
}

#[test]
fn a_kernel_that_does_not_bind_is_reported() {
    let f = Fake::new();
    f.load_vfio("Y");
    let e = f
        .device()
        .bind_to_vfio(Duration::from_millis(30))
        .unwrap_err();
    assert_eq!(
        e,
        HostError::NotBound {
            function: PF.into(),
            driver: Some("virtio-pci".into())
        }
    );
}

#[test]
fn kept_files_are_taken_over_whole_or_not_at_all() {
    let f = Fake::new();
    let null = || std::os::fd::OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let options = Options {
        host: f.host.clone(),
        ..Options::default()
    };
    let adopt = |names: &[&str]| {
        let kept = names.iter().map(|n| ((*n).to_owned(), null())).collect();
        let e = VfioFunction::adopt(address(PF), kept, &options).unwrap_err();
        e.cause().clone()
    };
    for names in [
        &[][..],
        &["device", "container", "group"],
        &["device", "container", "memory-1000"],
        &["container", "group", "memory-1000"],
        &["device", "container", "group", "memory-x"],
        &["device", "iommufd-x", "memory-1000"],
        &["device", "container", "group", "iommufd-1", "memory-1000"],
    ] {
        assert_eq!(
            adopt(names),
            Cause::State("files were kept, but not all".into()),
            "{names:?}"
        );
    }
    // Complete, but the memory is none.
    for names in [
        &["device", "container", "group", "memory-1000"][..],
        &["memory-1000", "device", "iommufd-7", "other"],
    ] {
        let cause = adopt(names);
        assert!(
            matches!(
                cause,
                Cause::Os {
                    call: "F_GET_SEALS",
                    ..
                }
            ),
            "{cause:?}"
        );
    }
    // Complete, but of another function.
    let own = f.host.proc.join("self/fdinfo");
    create_dir_all(&own).unwrap();
    for fd in 0..200 {
        let line = "pos:\t0\nvfio-device-syspath: /sys/devices/x/0000:05:00.0\n";
        write(own.join(fd.to_string()), line).unwrap();
    }
    let cause = adopt(&["device", "container", "group", "memory-1000"]);
    assert_eq!(
        cause,
        Cause::State("the files that were kept are those of 0000:05:00.0".into())
    );
    std::fs::remove_dir_all(own).unwrap();
    // Complete with memory, but not VFIO's.
    let pool = crate::DmaPool::new("x".into(), 4096, 0x1000).unwrap();
    let memory = pool.fd().try_clone_to_owned().unwrap();
    let mut kept: Vec<_> = ["device", "container", "group"]
        .map(|n| (n.to_owned(), null()))
        .into();
    kept.push(("memory-1000".to_owned(), memory));
    let e = VfioFunction::adopt(address(PF), kept, &options).unwrap_err();
    assert!(
        e.to_string().contains("mapping memory for the device"),
        "{e}"
    );
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    /// Whoever keeps the files can name them as it likes.
    #[test]
    fn files_kept_under_any_names_are_an_error(
        names in proptest::collection::vec(
            "(device|container|group|iommufd-|memory-)?[0-9a-fx:.-]{0,20}|\\PC{0,30}",
            0..8,
        )
    ) {
        let f = Fake::new();
        let options = Options {
            host: f.host.clone(),
            ..Options::default()
        };
        let null = || std::os::fd::OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let kept = names.iter().map(|name| (name.clone(), null())).collect();
        let e = VfioFunction::adopt(address(PF), kept, &options).unwrap_err();
        proptest::prop_assert!(e.to_string().len() < 600, "{e}");
    }
}
