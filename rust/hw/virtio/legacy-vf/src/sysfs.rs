// SPDX-License-Identifier: GPL-2.0-or-later

//! What the host says about a VF: its PF, its number there, and who drives it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The tree that the kernel shows at `/sys`; in a test elsewhere.
pub struct Sysfs(pub PathBuf);

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

/// Why it cannot be used, and what to do about it.
type Result<T> = std::result::Result<T, String>;

fn not_pci(path: &Path) -> String {
    format!(
        "{} is not a PCI function; give a VF with host=ADDRESS",
        path.display()
    )
}

fn not_vf(own: &Path, address: &str) -> String {
    // The number of VFs that it can have, if it is a PF.
    match text(&own.join("sriov_totalvfs")).and_then(|t| t.parse().ok()) {
        None | Some(0u16) => format!(
            "{address} is not a virtual function (it has no physfn in sysfs); give the address of \
             a VF, or use vfio-pci for this device"
        ),
        Some(total) => format!(
            "{address} is a physical function, not one of its up to {total} VFs; start \
             `qemu-virtio-admin-helper --pf {address} --vfs N` and give the address of a VF ({})",
            virtfn(address)
        ),
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

impl Sysfs {
    /// The VF with this PCI address.
    pub fn by_address(&self, address: &str) -> Result<HostVf> {
        if !is_address(address) {
            return Err(not_pci(address.as_ref()));
        }
        self.by_dir(&self.0.join("bus/pci/devices").join(address))
    }

    /// The VF whose directory in sysfs is `path`, or a link to it.
    pub fn by_path(&self, path: &str) -> Result<HostVf> {
        // In a test the tree is elsewhere.
        let inside = path.strip_prefix("/sys/").unwrap_or(path);
        self.by_dir(&self.0.join(inside))
    }

    /// The VF behind a VFIO device file: from the text of its `/proc/self/fdinfo/N`, or, if that
    /// does not say it, from the device number of the file.
    pub fn by_file(&self, fdinfo: &str, device: Option<(u32, u32)>) -> Result<HostVf> {
        let path = fdinfo
            .lines()
            .find_map(|line| line.strip_prefix("vfio-device-syspath:"));
        if let Some(path) = path {
            return self.by_path(path.trim());
        }
        // .../0000:03:00.2/vfio-dev/vfio0
        let class = device.and_then(|(major, minor)| {
            fs::canonicalize(self.0.join(format!("dev/char/{major}:{minor}"))).ok()
        });
        let parent = class.as_deref().and_then(Path::parent);
        let function = parent.filter(|p| p.ends_with("vfio-dev"));
        self.by_dir(function.and_then(Path::parent).ok_or(
            "the file given with fd= is not a VFIO device, or this kernel does not tell which; use \
             host=ADDRESS instead",
        )?)
    }

    fn by_dir(&self, path: &Path) -> Result<HostVf> {
        let own = follow(path)?.ok_or_else(|| {
            let name = address_of(path).unwrap_or_else(|| path.display().to_string());
            format!(
                "the host has no PCI function {name}; `virtio-legacy-vf list` shows the \
                 VFs, which are there as long as the helper of their PF has enabled them"
            )
        })?;
        let address = address_of(&own).ok_or_else(|| not_pci(path))?;
        let pf_dir = follow(&own.join("physfn"))?.ok_or_else(|| not_vf(&own, &address))?;
        let pf = address_of(&pf_dir).ok_or_else(|| not_pci(&pf_dir))?;
        let member = number(&pf_dir, &own)?.ok_or_else(|| {
            format!(
                "PF {pf} has no link to its VF {address} ({}); its VFs are being removed or \
                 created, try again",
                virtfn(&pf)
            )
        })?;
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

/// Where a path leads, if it exists.
fn follow(path: &Path) -> Result<Option<PathBuf>> {
    match fs::canonicalize(path) {
        Ok(target) => Ok(Some(target)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(format!("cannot read {}: {e}", path.display())),
    }
}

/// The name of what a link leads to.
fn link_name(link: &Path) -> Option<String> {
    let target = fs::canonicalize(link).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// Which of the PF's VFs the directory is, from 1. Follows the links one by one: a QEMU under a
/// security module may look at them, but often not list directories of sysfs.
fn number(pf: &Path, vf: &Path) -> Result<Option<u16>> {
    for index in 0..u16::MAX {
        match follow(&pf.join(format!("virtfn{index}")))? {
            Some(target) if target == vf => return Ok(Some(index + 1)),
            Some(_) => {}
            None => break,
        }
    }
    Ok(None)
}

impl HostVf {
    /// An error unless the VF can be opened through VFIO.
    pub fn check_driver(&self) -> Result<()> {
        if self.is_vfio {
            return Ok(());
        }
        let (address, pf) = (&self.address, &self.pf);
        let (bound, unbind) = match &self.driver {
            Some(driver) => (
                format!("the driver {driver}"),
                format!("echo {address} > /sys/bus/pci/devices/{address}/driver/unbind; "),
            ),
            None => ("no driver".to_owned(), String::new()),
        };
        Err(format!(
            "{address} is bound to {bound}, not to vfio-pci; the helper of PF {pf} binds the VFs \
             that it enables, or do it with: echo vfio-pci > \
             /sys/bus/pci/devices/{address}/driver_override; {unbind}echo {address} > \
             /sys/bus/pci/drivers_probe"
        ))
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
            Sysfs(self.0.clone())
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
            assert!(error.contains("not a VFIO device"), "{error}");
        }
    }

    #[test]
    fn what_is_not_a_vf_is_named_with_a_way_out() {
        let tree = Tree::new("not");
        let refused = |address: &str| tree.sysfs().by_address(address).unwrap_err();
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
        let text = check("0000:03:00.1").unwrap_err();
        assert!(text.contains("no driver"), "{text}");
        assert!(!text.contains("unbind"), "{text}");
        tree.bind("0000:03:00.1", "virtio-pci");
        let text = check("0000:03:00.1").unwrap_err();
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
