// SPDX-License-Identifier: GPL-2.0-or-later
//! The VF token, kept in a file beside the socket. The kernel goes on asking for it after the PF was
//! closed, and gives a PF whose VFs are in use only to who knows it.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{bail, Context};
use pci_transport::{PciAddress, VfToken};
use rustix::fs::OFlags;

/// Longer than a token and its line end.
const MAX_LEN: u64 = 64;

fn path(dir: &Path, pf: PciAddress) -> PathBuf {
    dir.join(format!("{pf}.token"))
}

/// The token to use: the one asked for, else the one that was kept, else a new one.
///
/// # Errors
/// If the file is there and cannot be used.
pub(crate) fn choose(
    dir: &Path,
    pf: PciAddress,
    asked: Option<VfToken>,
) -> anyhow::Result<VfToken> {
    if let Some(token) = asked {
        return Ok(token);
    }
    let path = path(dir, pf);
    match read(&path) {
        Ok(Some(token)) => Ok(token),
        Ok(None) => new(),
        Err(e) => Err(e.context(format!(
            "The kept VF token {0} cannot be used; remove it (rm {0}) or give the token with \
             --vf-token",
            path.display()
        ))),
    }
}

fn read(path: &Path) -> anyhow::Result<Option<VfToken>> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK).bits() as i32)
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let meta = file.metadata()?;
    let me = rustix::process::geteuid().as_raw();
    if !meta.is_file() || meta.uid() != me || meta.mode() & 0o077 != 0 {
        bail!("it must be a file of uid {me} that nobody else can read (mode 0600)");
    }
    let mut text = String::new();
    file.take(MAX_LEN).read_to_string(&mut text)?;
    Ok(Some(text.trim().parse()?))
}

fn new() -> anyhow::Result<VfToken> {
    let mut bytes = [0; 16];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => done += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => bail!("No random numbers for a VF token: {e}"),
        }
    }
    // Version 4, variant 1, as UUIDs of random numbers are marked.
    let [.., version, _, variant, _, _, _, _, _, _, _] = &mut bytes;
    *version = *version & 0x0f | 0x40;
    *variant = *variant & 0x3f | 0x80;
    Ok(VfToken(bytes))
}

/// Keeps the token for the next start.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn keep(dir: &Path, pf: PciAddress, token: &VfToken) -> anyhow::Result<()> {
    let path = path(dir, pf);
    if matches!(read(&path), Ok(Some(kept)) if kept == *token) {
        return Ok(());
    }
    // Renamed when it is whole: a half token would lock the next start out.
    let part = path.with_extension("token.part");
    let write = || -> std::io::Result<()> {
        match fs::remove_file(&part) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&part)?;
        writeln!(file, "{token}")?;
        fs::rename(&part, &path)
    };
    write().with_context(|| format!("Cannot keep the VF token in {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const TOKEN: &str = "14d63f20-8445-11ea-8900-1f9ce7d5650d";

    fn pf() -> PciAddress {
        PciAddress::parse("0000:03:00.0").unwrap()
    }

    #[test]
    fn a_token_is_made_once_and_kept_for_this_user_alone() {
        let dir = tempfile::tempdir().unwrap();
        let token = choose(dir.path(), pf(), None).unwrap();
        assert_ne!(token, choose(dir.path(), pf(), None).unwrap(), "random");
        assert_eq!(token.to_string().as_bytes()[14], b'4');
        keep(dir.path(), pf(), &token).unwrap();
        let file = dir.path().join("0000:03:00.0.token");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{token}\n"));
        assert_eq!(choose(dir.path(), pf(), None).unwrap(), token);
        // Another one that was asked for, and was good.
        let asked: VfToken = TOKEN.parse().unwrap();
        assert_eq!(choose(dir.path(), pf(), Some(asked)).unwrap(), asked);
        keep(dir.path(), pf(), &asked).unwrap();
        assert_eq!(choose(dir.path(), pf(), None).unwrap(), asked);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_others_could_have_made_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("0000:03:00.0.token");
        let refused = |what: &str| {
            let e = format!("{:#}", choose(dir.path(), pf(), None).unwrap_err());
            assert!(e.contains(what) && e.contains("--vf-token"), "{e}");
        };
        fs::write(&file, TOKEN).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        refused("mode 0600");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(choose(dir.path(), pf(), None).unwrap().to_string(), TOKEN);
        fs::write(&file, &TOKEN[1..]).unwrap();
        refused("not a UUID");
        fs::write(&file, "x".repeat(1 << 20)).unwrap();
        refused("not a UUID");
        let other = dir.path().join("other");
        fs::rename(&file, &other).unwrap();
        std::os::unix::fs::symlink(&other, &file).unwrap();
        refused("symbolic links");
    }
}
