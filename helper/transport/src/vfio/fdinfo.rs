// SPDX-License-Identifier: GPL-2.0-or-later
//! The function behind a VFIO device file, as the kernel shows it in `/proc/self/fdinfo/<fd>`:
//!
//! ```text
//! vfio-device-syspath: /sys/devices/pci0000:00/0000:00:03.0/0000:01:00.2
//! ```

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::sysfs::Host;
use crate::address::PciAddress;

/// Longest text that is looked at, in bytes.
pub const MAX_FDINFO: usize = 4096;

const KEY: &str = "vfio-device-syspath:";

/// Why a file names no function.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FdinfoError {
    /// The kernel tells nothing about the file.
    #[error("{0}")]
    Unreadable(String),
    /// No line names a device, or more than one does.
    #[error("the file is not a VFIO device file, or this kernel does not tell its device")]
    NoDevice,
    /// The line does not end in a PCI address.
    #[error("the file's device \"{0}\" is not a PCI function")]
    NotPci(String),
}

impl Host {
    /// The function behind a VFIO device file of this process.
    ///
    /// # Errors
    /// [`FdinfoError`].
    pub fn function_of_file(&self, file: BorrowedFd<'_>) -> Result<PciAddress, FdinfoError> {
        let path = self.proc.join(format!("self/fdinfo/{}", file.as_raw_fd()));
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|info| info.take(MAX_FDINFO as u64).read_to_end(&mut bytes))
            .map_err(|e| FdinfoError::Unreadable(e.to_string()))?;
        parse(&String::from_utf8_lossy(&bytes))
    }
}

fn parse(text: &str) -> Result<PciAddress, FdinfoError> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(KEY));
    let path = lines.next().ok_or(FdinfoError::NoDevice)?.trim();
    // A second line could only mean that this text is not the kernel's.
    if lines.next().is_some() {
        return Err(FdinfoError::NoDevice);
    }
    let last = path.rsplit('/').next().unwrap_or(path);
    let not_pci = || FdinfoError::NotPci(last.chars().take(64).collect());
    if !path.starts_with("/sys/") {
        return Err(not_pci());
    }
    PciAddress::parse(last).ok_or_else(not_pci)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INFO: &str = "pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t1059\n\
        vfio-device-syspath: /sys/devices/pci0000:00/0000:00:03.0/0000:01:00.2\n";

    #[test]
    fn the_kernels_line_names_the_function() {
        let a = parse(INFO).unwrap();
        assert_eq!(a.to_string(), "0000:01:00.2");
        let wide = "vfio-device-syspath: /sys/devices/pci10000:00/10000:e1:1f.7\n";
        assert_eq!(parse(wide).unwrap().to_string(), "10000:e1:1f.7");
    }

    #[test]
    fn other_texts_prove_nothing() {
        assert_eq!(parse(""), Err(FdinfoError::NoDevice));
        assert_eq!(parse("pos:\t0\nflags:\t02\n"), Err(FdinfoError::NoDevice));
        let twice = format!("{INFO}{INFO}");
        assert_eq!(parse(&twice), Err(FdinfoError::NoDevice));
        for bad in [
            "/sys/devices/platform/x",
            "/tmp/0000:01:00.2",
            "/sys/a/0000:01:20.0",
            "/sys/a/0000:01:00.8",
            "/sys/a/+000:01:00.1",
            "/sys/a/000:01:00.1",
            "",
        ] {
            let text = format!("vfio-device-syspath: {bad}\n");
            assert!(matches!(parse(&text), Err(FdinfoError::NotPci(_))), "{bad}");
        }
        // The key must start its line.
        assert!(parse(" vfio-device-syspath: /sys/a/0000:01:00.1").is_err());
    }

    proptest! {
        #[test]
        fn addresses_round_trip(domain in 0u32..=0x000f_ffff, bus: u8, devfn: u8) {
            let a = PciAddress { domain, bus, devfn };
            prop_assert_eq!(PciAddress::parse(&a.to_string()), Some(a));
        }

        #[test]
        fn any_text_is_answered(text in "\\PC{0,200}") {
            let _answer = parse(&text);
            let _answer = parse(&format!("{KEY} /sys/{text}"));
        }
    }
}
