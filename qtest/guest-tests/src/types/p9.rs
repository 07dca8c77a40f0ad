// SPDX-License-Identifier: GPL-2.0-or-later
//! 9P: files both ways between guest and host by digest, many files, renames, removals.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{symlink, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{ensure, Context, Result};

use super::place::{Place, LONG, SHORT};
use test_kit::digest;

const TAG: &str = "host-share";
pub(crate) const OPTIONS: &[&str] = &["--tag", TAG];
const MIB: usize = 32;
const FILES: usize = 200;
const REBINDS: u64 = 5;

fn digest_of(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(digest::of_bytes(&bytes))
}

fn names(dir: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        names.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

pub(crate) fn work(place: &mut Place<'_>) -> Result<String> {
    // The simulator's own directory for it.
    let share = place.dir()?.join("share");
    let mount = place.guest(&format!("p9_mount {TAG}"), SHORT)?;
    ensure!(mount.get("tag")? == TAG, "tag: {}", mount.text());
    let (wrote, read) = (place.number("bytes_written")?, place.number("bytes_read")?);

    let out = place.guest(&format!("p9_write from-guest {MIB}"), LONG)?;
    let (sent, arrived) = (
        out.get("written_sha256")?,
        &digest_of(&share.join("from-guest"))?,
    );
    ensure!(
        sent == arrived,
        "the guest wrote {sent}, the host has {arrived}"
    );
    let data: Vec<u8> = (0..MIB << 20)
        .map(|n| (n ^ (n >> 8) ^ (n >> 17)) as u8)
        .collect();
    fs::write(share.join("from-host"), &data)?;
    let back = place.guest("p9_read from-host", LONG)?;
    let (sent, arrived) = (&digest::of_bytes(&data), back.get("read_sha256")?);
    ensure!(
        sent == arrived,
        "the host wrote {sent}, the guest has {arrived}"
    );
    ensure!(back.number("read_bytes")? == data.len() as u64);
    let all = (MIB << 20) as u64;
    let (wrote, read) = (
        place.number("bytes_written")? - wrote,
        place.number("bytes_read")? - read,
    );
    ensure!(
        wrote == all && read == all,
        "the simulator counted {wrote} bytes out and {read} in, not {all}"
    );

    many(place, &share)?;
    rest(place, &share)?;
    place.guest("p9_umount", SHORT)?;
    let fids = place.number("fids")?;
    ensure!(fids == 0, "{fids} files are still open after unmounting");
    // The driver lets go of the function and takes it again.
    let rebound = place.guest(&format!("rebind 9p {REBINDS}"), LONG)?;
    ensure!(rebound.number("rebinds")? == REBINDS, "{}", rebound.text());
    place.guest(&format!("p9_mount {TAG}"), SHORT)?;
    let again = place.guest("p9_read from-guest", LONG)?;
    ensure!(
        again.get("read_sha256")? == out.get("written_sha256")?,
        "digests differ after {REBINDS} rebinds"
    );
    place.guest("p9_umount", SHORT)?;
    Ok(format!(
        "{MIB} MiB out {} ms, in {} ms, {FILES} files listed, renamed, half of them removed, \
         {REBINDS} rebinds",
        out.get("write_ms")?,
        back.get("read_ms")?
    ))
}

fn many(place: &mut Place<'_>, share: &Path) -> Result<()> {
    let many = place.guest(&format!("p9_many {FILES}"), LONG)?;
    for (key, want) in [
        ("created", FILES),
        ("left", 0),
        ("moved", FILES),
        ("right", FILES),
        ("kept", FILES / 2),
    ] {
        let value = many.number(key)?;
        ensure!(value == want as u64, "{key} is {value}, not {want}");
    }
    let mut listed: Vec<String> = (1..=FILES).map(|n| format!("file-{n}")).collect();
    listed.sort();
    let listed = digest::of_bytes((listed.join("\n") + "\n").as_bytes());
    ensure!(
        many.get("names")? == listed,
        "the guest listed other names than it made"
    );
    let kept: BTreeSet<String> = (1..=FILES)
        .step_by(2)
        .map(|n| format!("name-{n}"))
        .collect();
    ensure!(
        names(&share.join("moved"))? == kept,
        "other files are left than the guest left"
    );
    let one = fs::read_to_string(share.join("moved/name-77"))?;
    ensure!(one == "content of 77\n", "name-77 has {one:?}");
    Ok(())
}

fn rest(place: &mut Place<'_>, share: &Path) -> Result<()> {
    let outside = share.parent().context("the share has no parent")?;
    symlink(outside, share.join("out"))?;
    let rest = place.guest("p9_rest", SHORT)?;
    for (key, want) in [
        ("mode", "640"),
        ("mtime", "981173106"),
        ("links", "2"),
        ("soft", "rest"),
        ("soft_content", "one,two,"),
        ("cut", "one"),
        ("free", "1"),
        ("out", &outside.display().to_string()),
    ] {
        let value = rest.get(key)?;
        ensure!(value == want, "{key} is {value}, not {want}");
    }
    ensure!(rest.get("error").is_err(), "{}", rest.text());
    let meta = fs::metadata(share.join("rest"))?;
    ensure!(
        (meta.permissions().mode() & 0o7777, meta.mtime()) == (0o640, 981_173_106),
        "the host has other attributes than the guest set: {meta:?}"
    );
    ensure!(fs::read(share.join("rest"))? == b"one\n");
    let expected = ["from-guest", "from-host", "moved", "out", "rest"];
    ensure!(
        names(share)?.into_iter().eq(expected),
        "{:?}",
        names(share)?
    );
    Ok(())
}
