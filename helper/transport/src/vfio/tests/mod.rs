// SPDX-License-Identifier: GPL-2.0-or-later
//! The host's state as a directory tree, with a thread for what the kernel does about writes.

mod opening;
mod sysfs;
mod vfs;

use std::fs::{create_dir_all, read_to_string, remove_file, write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Device, Host, HostError, Options, VfioFunction};
use crate::error::{Cause, Error};
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
