// SPDX-License-Identifier: GPL-2.0-or-later
//! Looks at a file that a client sent as proof, without trusting it: nothing here waits for a file
//! system, and what is read is bounded.
//!
//! A function opened through its group is an anonymous file, whose device the kernel names in
//! fdinfo. One opened through its own character device is known by its device number.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use pci_transport::vfio::{is_in_use, Device, FdinfoError};
use rustix::fs::{fcntl_getfl, statx, AtFlags, FileType, OFlags, StatxFlags};

use crate::proof::{member_of, PciAddress, ProofError};

/// What the kernel calls a function that was opened through its group.
const ANONYMOUS: &str = "anon_inode:[vfio-device]";

/// Finds out which of a PF's VFs a file stands for.
#[derive(Clone, Debug)]
pub struct DeviceFiles {
    pf: Device,
    /// Links to what this process's files are.
    own: PathBuf,
}

fn unreadable(e: impl std::fmt::Display) -> ProofError {
    ProofError::Unreadable(e.to_string())
}

impl DeviceFiles {
    /// For the VFs of `pf`.
    pub fn new(pf: Device) -> Self {
        let own = pf.host().proc.join("self/fd");
        DeviceFiles { pf, own }
    }

    /// The member id of the VF that `file` stands for; `named` is the one in the request, 0 for
    /// none.
    ///
    /// # Errors
    /// Why it is not one of the PF's VFs, or not the named one.
    pub fn member(&self, file: &File, named: u16) -> Result<u16, ProofError> {
        let device = self.device(file)?;
        let pf = self.pf.address().to_string();
        let number = self.pf.vf_number(device).map_err(unreadable)?;
        member_of(device, &pf, number, named)
    }

    fn device(&self, file: &File) -> Result<PciAddress, ProofError> {
        let fd = file.as_raw_fd().to_string();
        let link = std::fs::read_link(self.own.join(&fd)).map_err(unreadable)?;
        let link = link.to_string_lossy();
        let flags = fcntl_getfl(file).map_err(unreadable)?;
        if flags.contains(OFlags::PATH) || !flags.contains(OFlags::RDWR) {
            return Err(ProofError::NoAccess);
        }
        if link == ANONYMOUS {
            let told = self.pf.host().function_of_file(file.as_fd());
            return told.map_err(|e| match e {
                FdinfoError::NoDevice => ProofError::Untold,
                FdinfoError::NotPci(what) => ProofError::NotPci(what),
                FdinfoError::Unreadable(e) => ProofError::Unreadable(e),
            });
        }
        let other = || ProofError::NotVfio(link.chars().take(80).collect());
        // Not to be answered by a file system, which may be the client's own and never answer.
        let at = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat = statx(file, "", at, StatxFlags::TYPE).map_err(unreadable)?;
        if FileType::from_raw_mode(u32::from(stat.stx_mode)) != FileType::CharacterDevice {
            return Err(other());
        }
        let device = self
            .pf
            .host()
            .function_of_cdev(stat.stx_rdev_major, stat.stx_rdev_minor)
            .ok_or_else(other)?;
        // Opening the file is allowed to several; only one of them has the function.
        if !is_in_use(file.as_fd()) {
            return Err(ProofError::NotBound(device));
        }
        Ok(device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pci_transport::vfio::{Host, MAX_FDINFO};
    use std::fs::{create_dir_all, write, OpenOptions};
    use std::os::unix::fs::{symlink, OpenOptionsExt};
    use std::path::Path;

    const PF: &str = "0000:01:00.0";

    /// A PF with two VFs in a sysfs of its own, and a /proc that says of every file of this process
    /// what the test wants.
    struct Fake {
        dir: tempfile::TempDir,
        files: DeviceFiles,
    }

    fn fake() -> Fake {
        let dir = tempfile::tempdir().unwrap();
        let sysfs = dir.path().join("sys");
        let devices = sysfs.join("bus/pci/devices");
        create_dir_all(devices.join(PF)).unwrap();
        for (n, vf) in ["0000:01:00.1", "0000:01:00.2"].into_iter().enumerate() {
            symlink(
                Path::new("..").join(vf),
                devices.join(PF).join(format!("virtfn{n}")),
            )
            .unwrap();
        }
        for (name, text) in [("sriov_offset", "1\n"), ("sriov_stride", "1\n")] {
            write(devices.join(PF).join(name), text).unwrap();
        }
        create_dir_all(sysfs.join("dev/char")).unwrap();
        let host = Host {
            sysfs,
            dev: "/dev".into(),
            proc: dir.path().join("proc"),
        };
        for sub in ["fd", "fdinfo"] {
            create_dir_all(host.proc.join("self").join(sub)).unwrap();
        }
        let pf = host.device(PciAddress::parse(PF).unwrap()).unwrap();
        let files = DeviceFiles::new(pf);
        Fake { dir, files }
    }

    impl Fake {
        /// What the kernel would show for a file.
        fn tell(&self, file: &File, link: &str, info: &str) {
            let own = self.dir.path().join("proc/self");
            let fd = file.as_raw_fd().to_string();
            symlink(link, own.join("fd").join(&fd)).unwrap();
            write(own.join("fdinfo").join(&fd), info).unwrap();
        }
    }

    fn null() -> File {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")
            .unwrap()
    }

    #[test]
    fn a_function_opened_through_its_group_is_known_by_its_fdinfo() {
        let line = |function: &str| {
            format!("pos:\t0\nvfio-device-syspath: /sys/devices/pci0000:00/{function}\n")
        };
        for (info, named, expected) in [
            (line("0000:01:00.2"), 0, Ok(2)),
            (line("0000:01:00.2"), 2, Ok(2)),
            (
                line("0000:01:00.2"),
                1,
                Err("the file is that of VF 2, not of VF 1"),
            ),
            (
                line("0000:02:00.1"),
                1,
                Err("the file is that of 0000:02:00.1, which is not a VF of 0000:01:00.0"),
            ),
            (line("platform"), 1, Err("is not a PCI function")),
            (
                "pos:\t0\n".into(),
                1,
                Err("does not tell of which function"),
            ),
            // Beyond what is looked at.
            (
                format!("{}{}", "x: 1\n".repeat(MAX_FDINFO), line("0000:01:00.2")),
                2,
                Err("does not tell of which function"),
            ),
        ] {
            let f = fake();
            let file = null();
            f.tell(&file, ANONYMOUS, &info);
            match (f.files.member(&file, named), expected) {
                (Ok(got), Ok(want)) => assert_eq!(got, want),
                (Err(e), Err(text)) => assert!(e.to_string().contains(text), "{e}"),
                (got, want) => panic!("{got:?} instead of {want:?}"),
            }
        }
    }

    #[test]
    fn a_proof_does_not_list_the_vfs_of_the_pf() {
        use rustix::fs::inotify::{add_watch, init, CreateFlags, ReadFlags, Reader, WatchFlags};
        let f = fake();
        let file = null();
        let info = "vfio-device-syspath: /sys/devices/pci0000:00/0000:01:00.2\n";
        f.tell(&file, ANONYMOUS, info);
        let watch = init(CreateFlags::NONBLOCK).unwrap();
        add_watch(&watch, f.files.pf.dir(), WatchFlags::OPEN).unwrap();
        assert_eq!(f.files.member(&file, 2), Ok(2));
        let mut buf = [std::mem::MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(&watch, &mut buf);
        let mut opened = 0;
        while let Ok(event) = events.next() {
            assert!(!event.events().contains(ReadFlags::ISDIR), "{event:?}");
            opened += 1;
        }
        assert_eq!(opened, 2, "where the VFs lie");
    }

    #[test]
    fn other_files_prove_nothing() {
        let f = fake();
        let file = null();
        // Its text is the client's: a name in another mount namespace, or a line that a driver
        // shows.
        f.tell(
            &file,
            "/dev/null",
            "vfio-device-syspath: /sys/devices/pci0000:00/0000:01:00.2\n",
        );
        let text = f.files.member(&file, 2).unwrap_err().to_string();
        assert_eq!(text, "the file is not a VFIO device file but /dev/null");

        let file = File::open("/proc/self/maps").unwrap();
        f.tell(&file, "/proc/1/maps", "");
        assert_eq!(f.files.member(&file, 2), Err(ProofError::NoAccess));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::PATH.bits() as i32)
            .open("/dev/null")
            .unwrap();
        f.tell(&file, ANONYMOUS, "");
        assert_eq!(f.files.member(&file, 2), Err(ProofError::NoAccess));
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(socket));
        f.tell(&file, "socket:[1]", "");
        let text = f.files.member(&file, 2).unwrap_err().to_string();
        assert_eq!(text, "the file is not a VFIO device file but socket:[1]");
        // A file that the kernel tells nothing about.
        assert!(matches!(
            f.files.member(&null(), 2),
            Err(ProofError::Unreadable(_))
        ));
    }

    #[test]
    fn a_character_device_is_known_by_its_number_and_must_be_in_use() {
        let f = fake();
        let file = null();
        f.tell(&file, "/dev/vfio/devices/vfio3", "");
        // /dev/null is 1:3.
        symlink(
            "../../devices/pci0000:00/0000:01:00.2/vfio-dev/vfio3",
            f.dir.path().join("sys/dev/char/1:3"),
        )
        .unwrap();
        let address = PciAddress::parse("0000:01:00.2").unwrap();
        assert_eq!(f.files.member(&file, 2), Err(ProofError::NotBound(address)));
    }
}
