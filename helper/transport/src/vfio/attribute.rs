// SPDX-License-Identifier: GPL-2.0-or-later
//! Reading and writing the small files of sysfs.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use rustix::io::Errno;

use crate::error::HostError;

/// Longest attribute that is read.
const MAX_ATTRIBUTE: u64 = 8192;

pub(super) fn errno(e: &std::io::Error) -> Errno {
    Errno::from_io_error(e).unwrap_or(Errno::IO)
}

pub(super) fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The last component of a link's target.
pub(super) fn link_name(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

/// An attribute's text; `None` if it does not exist.
pub(super) fn read(path: &Path) -> Result<Option<String>, HostError> {
    let fail = |e: &std::io::Error| HostError::Io {
        what: "cannot read",
        path: shown(path),
        errno: errno(e),
    };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fail(&e)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_ATTRIBUTE)
        .read_to_end(&mut bytes)
        .map_err(|e| fail(&e))?;
    Ok(Some(String::from_utf8_lossy(&bytes).trim().to_owned()))
}

/// A number in an attribute, decimal or with 0x; `None` if it does not exist.
pub(super) fn number(path: &Path, radix: u32) -> Result<Option<u64>, HostError> {
    let Some(text) = read(path)? else {
        return Ok(None);
    };
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(hex) => (hex, 16),
        None => (text.as_str(), radix),
    };
    match u64::from_str_radix(digits, radix) {
        Ok(n) => Ok(Some(n)),
        Err(_) => Err(HostError::Odd {
            path: shown(path),
            text: text.chars().take(64).collect(),
        }),
    }
}

/// Writes an attribute in one write. The kernel may wait in it for drivers and their users, so this
/// waits for `deadline` only; the write itself then stays behind in a thread.
pub(super) fn write(
    path: &Path,
    text: &str,
    deadline: Duration,
) -> Result<Result<(), Errno>, HostError> {
    let (tell, told) = mpsc::channel();
    let (own_path, own_text) = (path.to_owned(), text.to_owned());
    let spawned = std::thread::Builder::new()
        .name("sysfs".into())
        .spawn(move || {
            let done = OpenOptions::new()
                .write(true)
                .open(&own_path)
                .and_then(|mut file| file.write_all(own_text.as_bytes()));
            let _nobody_waits = tell.send(done.map_err(|e| errno(&e)));
        });
    if let Err(e) = spawned {
        return Ok(Err(errno(&e)));
    }
    told.recv_timeout(deadline).map_err(|_| HostError::Stuck {
        what: format!("writing {text} to {}", shown(path)),
        after: deadline,
    })
}

pub(super) fn written(path: &Path, text: &str, deadline: Duration) -> Result<(), HostError> {
    match write(path, text, deadline)? {
        Ok(()) => Ok(()),
        Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => {
            Err(HostError::NotRoot { path: shown(path) })
        }
        Err(errno) => Err(HostError::Io {
            what: "cannot write",
            path: shown(path),
            errno,
        }),
    }
}
