// SPDX-License-Identifier: GPL-2.0-or-later

//! What the host says about a VF: its PF, its number there, and who drives it.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

/// The tree that the kernel shows at `/sys`.
#[derive(Clone, Debug)]
pub struct Sysfs {
    root: PathBuf,
}

/// A VF of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostVf {
    /// Its PCI address.
    pub address: String,
    /// The PCI address of its PF.
    pub pf: String,
    /// Its number at the PF, from 1.
    pub member: u16,
    /// The driver it is bound to.
    pub driver: Option<String>,
    /// Whether that driver offers it through VFIO.
    pub is_vfio: bool,
    /// Its IOMMU group, if the host has an IOMMU for it.
    pub group: Option<String>,
}

/// Why a VF was not found. The text says what to do about it.
#[derive(Debug)]
pub enum HostError {
    /// There is no such PCI function.
    NoDevice(String),
    /// The file or path is something else.
    NotPci(PathBuf),
    /// It is not a VF. With the number of VFs that it can have.
    NotVf(String, u16),
    /// The PF has no link to the VF: VFs are being removed.
    NoNumber(String, String),
    /// It is a VF of `.1`, bound to `.2`.
    NotVfio(String, String, Option<String>),
    /// The kernel does not tell what the file is.
    UnknownFile,
    /// Something could not be read.
    Io(PathBuf, io::Error),
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice(address) => write!(
                f,
                "the host has no PCI function {address}; `qemu-virtio-admin-helper list` shows the \
                 VFs, which are there as long as the helper of their PF has enabled them"
            ),
            Self::NotPci(path) => write!(
                f,
                "{} is not a PCI function; give a VF with host=ADDRESS",
                path.display()
            ),
            Self::NotVf(address, 0) => write!(
                f,
                "{address} is not a virtual function (it has no physfn in sysfs); give the address \
                 of a VF, or use vfio-pci for this device"
            ),
            Self::NotVf(address, total) => write!(
                f,
                "{address} is a physical function, not one of its up to {total} VFs; start \
                 `qemu-virtio-admin-helper --pf {address} --vfs N` and give the address of a VF \
                 ({})",
                virtfn(address)
            ),
            Self::NoNumber(address, pf) => write!(
                f,
                "PF {pf} has no link to its VF {address} ({}); its VFs are being removed or \
                 created, try again",
                virtfn(pf)
            ),
            Self::NotVfio(address, pf, driver) => {
                match driver {
                    Some(driver) => write!(f, "{address} is bound to the driver {driver}")?,
                    None => write!(f, "{address} is bound to no driver")?,
                }
                write!(
                    f,
                    ", not to vfio-pci; the helper of PF {pf} binds the VFs that it enables, or do \
                     it with: echo vfio-pci > /sys/bus/pci/devices/{address}/driver_override; "
                )?;
                if driver.is_some() {
                    write!(
                        f,
                        "echo {address} > /sys/bus/pci/devices/{address}/driver/unbind; "
                    )?;
                }
                write!(f, "echo {address} > /sys/bus/pci/drivers_probe")
            }
            Self::UnknownFile => f.write_str(
                "the file given with fd= is not a VFIO device, or this kernel does not tell which; \
                 use host=ADDRESS instead",
            ),
            Self::Io(path, error) => write!(f, "cannot read {}: {error}", path.display()),
        }
    }
}

fn virtfn(pf: &str) -> String {
    format!("ls -l /sys/bus/pci/devices/{pf}/virtfn*")
}

/// Whether this is a PCI address as sysfs writes it, `dddd:bb:dd.f`.
fn is_address(name: &str) -> bool {
    let hex = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_hexdigit());
    let parts: Vec<_> = name.split([':', '.']).collect();
    matches!(parts.as_slice(), [domain, bus, device, function]
        if (4..=8).contains(&domain.len())
            && (bus.len(), device.len(), function.len()) == (2, 2, 1)
            && parts.iter().all(|p| hex(p)))
}

/// The last component, if the path leads to a PCI function.
fn address_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    is_address(name).then(|| name.to_owned())
}

/// The file's text, without the end of the line.
fn text(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim_end().to_owned())
}

impl Default for Sysfs {
    fn default() -> Self {
        Self::at("/sys")
    }
}

impl Sysfs {
    /// The tree at `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The VF with this PCI address.
    pub fn by_address(&self, address: &str) -> Result<HostVf, HostError> {
        if !is_address(address) {
            return Err(HostError::NotPci(address.into()));
        }
        self.by_dir(&self.root.join("bus/pci/devices").join(address))
    }

    /// The VF whose directory in sysfs is `path`, or a link to it.
    pub fn by_path(&self, path: &str) -> Result<HostVf, HostError> {
        // In a test the tree is elsewhere.
        let inside = path.strip_prefix("/sys/").unwrap_or(path);
        self.by_dir(&self.root.join(inside))
    }

    /// The VF behind a VFIO device file: from the text of its `/proc/self/fdinfo/N`, or, if that
    /// does not say it, from the device number of the file.
    pub fn by_file(&self, fdinfo: &str, device: Option<(u32, u32)>) -> Result<HostVf, HostError> {
        let path = fdinfo
            .lines()
            .find_map(|line| line.strip_prefix("vfio-device-syspath:"));
        if let Some(path) = path {
            return self.by_path(path.trim());
        }
        let (major, minor) = device.ok_or(HostError::UnknownFile)?;
        let class = self.root.join(format!("dev/char/{major}:{minor}"));
        let class = fs::canonicalize(class).map_err(|_| HostError::UnknownFile)?;
        // .../0000:03:00.2/vfio-dev/vfio0
        let parent = class.parent().filter(|p| p.ends_with("vfio-dev"));
        let function = parent
            .and_then(Path::parent)
            .ok_or(HostError::UnknownFile)?;
        self.by_dir(function)
    }

    fn by_dir(&self, path: &Path) -> Result<HostVf, HostError> {
        let own = match fs::canonicalize(path) {
            Ok(own) => own,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let name = address_of(path).unwrap_or_else(|| path.display().to_string());
                return Err(HostError::NoDevice(name));
            }
            Err(e) => return Err(HostError::Io(path.into(), e)),
        };
        let address = address_of(&own).ok_or_else(|| HostError::NotPci(path.into()))?;
        let physfn = own.join("physfn");
        let pf_dir = match fs::canonicalize(&physfn) {
            Ok(dir) => dir,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let total = text(&own.join("sriov_totalvfs")).and_then(|t| t.parse().ok());
                return Err(HostError::NotVf(address, total.unwrap_or(0)));
            }
            Err(e) => return Err(HostError::Io(physfn, e)),
        };
        let pf = address_of(&pf_dir).ok_or_else(|| HostError::NotPci(pf_dir.clone()))?;
        let member = number(&pf_dir, &own)?
            .ok_or_else(|| HostError::NoNumber(address.clone(), pf.clone()))?;
        let driver = link_name(&own.join("driver"));
        // The directory is there for every VFIO driver since Linux 6.1; before, the name tells.
        let is_vfio = own.join("vfio-dev").exists()
            || driver.as_deref().is_some_and(|name| name.contains("vfio"));
        Ok(HostVf {
            address,
            pf,
            member,
            driver,
            is_vfio,
            group: link_name(&own.join("iommu_group")),
        })
    }
}

/// The name of what a link leads to.
fn link_name(link: &Path) -> Option<String> {
    let target = fs::canonicalize(link).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// Which of the PF's VFs the directory is, from 1. Follows the links one by one: a QEMU under a
/// security module may look at them, but often not list directories of sysfs.
fn number(pf: &Path, vf: &Path) -> Result<Option<u16>, HostError> {
    for index in 0..u16::MAX {
        let link = pf.join(format!("virtfn{index}"));
        match fs::canonicalize(&link) {
            Ok(target) if target == vf => return Ok(Some(index + 1)),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => break,
            Err(e) => return Err(HostError::Io(link, e)),
        }
    }
    Ok(None)
}

impl HostVf {
    /// An error unless the VF can be opened through VFIO.
    pub fn check_driver(&self) -> Result<(), HostError> {
        if self.is_vfio {
            return Ok(());
        }
        let (address, pf) = (self.address.clone(), self.pf.clone());
        Err(HostError::NotVfio(address, pf, self.driver.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const PF: &str = "0000:03:00.0";

    /// A tree with one PF and its VFs .1, .2 and .10, and another function. Removed at the end.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let root =
                std::env::temp_dir().join(format!("vlvf-sysfs-{}-{name}", std::process::id()));
            let _old = fs::remove_dir_all(&root);
            for dir in ["bus/pci/devices", "bus/pci/drivers/vfio-pci", "dev/char"] {
                fs::create_dir_all(root.join(dir)).unwrap();
            }
            let tree = Self(root);
            tree.function(PF);
            fs::write(tree.dir(PF).join("sriov_totalvfs"), "16\n").unwrap();
            tree.function("0000:04:00.0");
            // The order of the addresses is not that of the numbers.
            for (n, vf) in ["0000:03:00.2", "0000:03:00.1", "0000:03:01.0"]
                .into_iter()
                .enumerate()
            {
                tree.function(vf);
                symlink(format!("../{PF}"), tree.dir(vf).join("physfn")).unwrap();
                symlink(format!("../{vf}"), tree.dir(PF).join(format!("virtfn{n}"))).unwrap();
            }
            tree
        }

        fn dir(&self, address: &str) -> PathBuf {
            self.0.join("devices/pci0000:00/0000:00:04.0").join(address)
        }

        fn function(&self, address: &str) {
            fs::create_dir_all(self.dir(address)).unwrap();
            let link = self.0.join("bus/pci/devices").join(address);
            symlink(
                format!("../../../devices/pci0000:00/0000:00:04.0/{address}"),
                link,
            )
            .unwrap();
        }

        fn bind(&self, address: &str, driver: &str) {
            let drivers = self.0.join("bus/pci/drivers").join(driver);
            fs::create_dir_all(&drivers).unwrap();
            symlink(drivers, self.dir(address).join("driver")).unwrap();
        }

        fn sysfs(&self) -> Sysfs {
            Sysfs::at(&self.0)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn pf_and_number_of_a_vf() {
        let tree = Tree::new("number");
        tree.bind("0000:03:00.1", "vfio-pci");
        let vf = tree.sysfs().by_address("0000:03:00.1").unwrap();
        assert_eq!((vf.pf.as_str(), vf.member), (PF, 2));
        assert_eq!(vf.group, None);
        let group = tree.0.join("kernel/iommu_groups/17");
        fs::create_dir_all(&group).unwrap();
        symlink(group, tree.dir("0000:03:00.1").join("iommu_group")).unwrap();
        let vf = tree.sysfs().by_address("0000:03:00.1").unwrap();
        assert_eq!(vf.group.as_deref(), Some("17"));
        assert_eq!(vf.driver.as_deref(), Some("vfio-pci"));
        vf.check_driver().unwrap();
        let vf = tree.sysfs().by_address("0000:03:00.2").unwrap();
        assert_eq!((vf.member, vf.driver.as_deref()), (1, None));
        let vf = tree.sysfs().by_address("0000:03:01.0").unwrap();
        assert_eq!(vf.member, 3);
    }

    #[test]
    fn by_path_and_by_file() {
        let tree = Tree::new("path");
        let full = "/sys/devices/pci0000:00/0000:00:04.0/0000:03:00.1";
        let link = "/sys/bus/pci/devices/0000:03:00.1";
        let own = tree.dir("0000:03:00.1");
        for path in [full, link, own.to_str().unwrap()] {
            assert_eq!(tree.sysfs().by_path(path).unwrap().member, 2, "{path}");
        }
        let fdinfo = format!("pos:\t0\nflags:\t02\nvfio-device-syspath: {full}\n");
        let vf = tree.sysfs().by_file(&fdinfo, None).unwrap();
        assert_eq!(vf.address, "0000:03:00.1");

        let cdev = own.join("vfio-dev/vfio7");
        fs::create_dir_all(&cdev).unwrap();
        symlink(&cdev, tree.0.join("dev/char/511:7")).unwrap();
        let vf = tree.sysfs().by_file("pos:\t0\n", Some((511, 7))).unwrap();
        assert_eq!((vf.address.as_str(), vf.is_vfio), ("0000:03:00.1", true));

        // A file of another kind, and one of which nothing is known.
        fs::create_dir_all(own.join("misc/x")).unwrap();
        symlink(own.join("misc/x"), tree.0.join("dev/char/10:1")).unwrap();
        for device in [None, Some((10, 1)), Some((1, 3))] {
            let error = tree.sysfs().by_file("pos:\t0\n", device).unwrap_err();
            assert!(matches!(error, HostError::UnknownFile), "{error:?}");
        }
    }

    #[test]
    fn what_is_not_a_vf_is_named_with_a_way_out() {
        let tree = Tree::new("not");
        let refused = |address: &str| tree.sysfs().by_address(address).unwrap_err().to_string();
        let text = refused("0000:03:00.7");
        assert!(text.contains("no PCI function 0000:03:00.7"), "{text}");
        let text = refused("0000:04:00.0");
        assert!(
            text.contains("not a virtual function") && text.contains("vfio-pci"),
            "{text}"
        );
        let text = refused(PF);
        assert!(
            text.contains("physical function") && text.contains("--vfs"),
            "{text}"
        );
        assert!(text.contains("16"), "{text}");
        for bad in [
            "",
            "03:00.1",
            "../../../etc",
            "0000:03:00.1/",
            "0000:03:0g.1",
        ] {
            let text = refused(bad);
            assert!(text.contains("not a PCI function"), "{bad}: {text}");
        }
        fs::remove_file(tree.dir(PF).join("virtfn1")).unwrap();
        let text = refused("0000:03:00.1");
        assert!(text.contains("no link") && text.contains(PF), "{text}");
    }

    #[test]
    fn another_driver_is_named_with_the_commands_that_change_it() {
        let tree = Tree::new("driver");
        let check = |address: &str| tree.sysfs().by_address(address).unwrap().check_driver();
        let text = check("0000:03:00.1").unwrap_err().to_string();
        assert!(text.contains("no driver"), "{text}");
        assert!(!text.contains("unbind"), "{text}");
        tree.bind("0000:03:00.1", "virtio-pci");
        let text = check("0000:03:00.1").unwrap_err().to_string();
        assert!(text.contains("virtio-pci"), "{text}");
        for command in [
            "echo vfio-pci > /sys/bus/pci/devices/0000:03:00.1/driver_override",
            "echo 0000:03:00.1 > /sys/bus/pci/devices/0000:03:00.1/driver/unbind",
            "echo 0000:03:00.1 > /sys/bus/pci/drivers_probe",
        ] {
            assert!(text.contains(command), "{text}");
        }
        tree.bind("0000:03:00.2", "mlx5_vfio_pci");
        check("0000:03:00.2").unwrap();
        fs::create_dir(tree.dir("0000:03:01.0").join("vfio-dev")).unwrap();
        tree.bind("0000:03:01.0", "vendor-driver");
        check("0000:03:01.0").unwrap();
    }
}
