// SPDX-License-Identifier: GPL-2.0-or-later
//! The host's state as a directory tree, with a thread for what the kernel does about writes.

use std::fs::{create_dir_all, read_to_string, remove_file, write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::{vfs, Device, Host, HostError, Options, VfioFunction};
use crate::error::{Cause, Error};
use crate::function::VfBar;
use crate::PciAddress;

const PF: &str = "0000:03:00.0";
const DEADLINE: Duration = Duration::from_secs(5);

/// A host with the PF, driven by `virtio-pci`, in IOMMU group 7.
struct Fake {
    dir: tempfile::TempDir,
    host: Host,
    kernel: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

fn address(text: &str) -> PciAddress {
    PciAddress::parse(text).unwrap()
}

impl Fake {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = Host {
            sysfs: dir.path().join("sys"),
            dev: dir.path().join("dev"),
            proc: dir.path().join("proc"),
        };
        for sub in [
            "sys/bus/pci/drivers",
            "sys/kernel/iommu_groups",
            "dev/vfio",
            "proc",
        ] {
            create_dir_all(dir.path().join(sub)).unwrap();
        }
        write(host.sysfs.join("bus/pci/drivers_probe"), "").unwrap();
        let fake = Fake {
            dir,
            host,
            kernel: None,
        };
        fake.add(PF, Some("virtio-pci"), Some("7"));
        for (name, text) in [("sriov_totalvfs", "4"), ("sriov_numvfs", "0")] {
            write(fake.of(PF).join(name), format!("{text}\n")).unwrap();
        }
        write(fake.of(PF).join("sriov_vf_device"), "1041\n").unwrap();
        fake
    }

    fn of(&self, function: &str) -> PathBuf {
        self.host.sysfs.join("bus/pci/devices").join(function)
    }

    /// Adds a function.
    fn add(&self, function: &str, driver: Option<&str>, group: Option<&str>) {
        let dir = self.of(function);
        create_dir_all(&dir).unwrap();
        write(dir.join("driver_override"), "(null)\n").unwrap();
        if let Some(driver) = driver {
            self.add_driver(driver);
            symlink(Path::new("../../drivers").join(driver), dir.join("driver")).unwrap();
        }
        if let Some(group) = group {
            let members = self
                .host
                .sysfs
                .join("kernel/iommu_groups")
                .join(group)
                .join("devices");
            create_dir_all(&members).unwrap();
            symlink(&dir, members.join(function)).unwrap();
            let target = Path::new("../../../../kernel/iommu_groups").join(group);
            symlink(target, dir.join("iommu_group")).unwrap();
        }
    }

    fn add_driver(&self, driver: &str) {
        let dir = self.host.sysfs.join("bus/pci/drivers").join(driver);
        create_dir_all(&dir).unwrap();
        write(dir.join("unbind"), "").unwrap();
    }

    /// vfio-pci is loaded, with or without leave to enable VFs.
    fn load_vfio(&self, enable_sriov: &str) {
        self.add_driver("vfio-pci");
        let parameters = self.host.sysfs.join("module/vfio_pci/parameters");
        create_dir_all(&parameters).unwrap();
        write(parameters.join("enable_sriov"), enable_sriov).unwrap();
    }

    fn set_driver(&self, driver: &str) {
        set_driver(&self.of(PF), driver);
    }

    fn device(&self) -> Device {
        self.host.device(address(PF)).unwrap()
    }

    fn open(&self, bind: bool) -> Error {
        let options = Options {
            host: self.host.clone(),
            bind,
            ..Options::default()
        };
        VfioFunction::open(address(PF), &options).unwrap_err()
    }

    /// What the kernel does: unbinds, binds by driver_override, makes VFs.
    fn start_kernel(&mut self) {
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, sysfs) = (stop.clone(), self.host.sysfs.clone());
        let fake = FakeKernel {
            sysfs,
            pf: self.of(PF),
        };
        let thread = std::thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                fake.turn();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        self.kernel = Some((stop, thread));
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.kernel.take() {
            stop.store(true, Ordering::Relaxed);
            thread.join().unwrap();
        }
    }
}

fn set_driver(function: &Path, driver: &str) {
    let _none = remove_file(function.join("driver"));
    symlink(
        Path::new("../../drivers").join(driver),
        function.join("driver"),
    )
    .unwrap();
}

struct FakeKernel {
    sysfs: PathBuf,
    pf: PathBuf,
}

impl FakeKernel {
    fn take(&self, path: &Path) -> Option<String> {
        let text = read_to_string(path).ok()?;
        let text = text.trim().to_owned();
        if text.is_empty() {
            return None;
        }
        write(path, "").unwrap();
        Some(text)
    }

    fn turn(&self) {
        let bus = self.sysfs.join("bus/pci");
        if let Some(function) = self.take(&bus.join("drivers/virtio-pci/unbind")) {
            let link = bus.join("devices").join(&function).join("driver");
            if link.exists() {
                remove_file(link).unwrap();
            }
        }
        if let Some(function) = self.take(&bus.join("drivers_probe")) {
            let dir = bus.join("devices").join(&function);
            let wanted = read_to_string(dir.join("driver_override")).unwrap();
            if wanted.trim_end().starts_with("vfio-pci") && !dir.join("driver").exists() {
                set_driver(&dir, "vfio-pci");
            }
        }
        let n = read_to_string(self.pf.join("sriov_numvfs")).unwrap_or_default();
        let n: usize = n.trim().parse().unwrap_or(0);
        for i in 0..4 {
            let link = self.pf.join(format!("virtfn{i}"));
            let name = format!("0000:03:00.{}", i + 1);
            if i < n && std::fs::symlink_metadata(&link).is_err() {
                let dir = bus.join("devices").join(&name);
                create_dir_all(&dir).unwrap();
                write(dir.join("driver_override"), "").unwrap();
                let _exists = symlink(
                    format!("../../../../kernel/iommu_groups/{}", 8 + i),
                    dir.join("iommu_group"),
                );
                symlink(format!("../{name}"), link).unwrap();
            }
        }
    }
}

fn host_error(e: &Error) -> &HostError {
    match e.cause() {
        Cause::Host(e) => e,
        other => panic!("{other:?}"),
    }
}

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
        vfs::settle(&pf, DEADLINE).unwrap(),
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
    assert_eq!(vfs::check(&f.device(), 2), Ok(()));

    remove_file(f.of(PF).join("sriov_totalvfs")).unwrap();
    assert_eq!(vfs::check(&f.device(), 2), Err(HostError::NotAPf));
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
