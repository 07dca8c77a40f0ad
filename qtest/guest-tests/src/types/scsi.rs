// SPDX-License-Identifier: GPL-2.0-or-later
//! SCSI: data to the disk and back by digest; a new size and hot unplug by events.

use anyhow::{ensure, Result};
use serde_json::json;

use super::place::{Place, LONG, SHORT};

pub(crate) const OPTIONS: &[&str] = &["--scsi-ram", "96M"];
const SECTORS: u64 = 96 << 11;
const REBINDS: u64 = 5;

fn sectors(place: &Place<'_>) -> Result<(u64, u64)> {
    let vf = place.counters()?;
    Ok((vf.sectors_written, vf.sectors_read))
}

pub(crate) fn work(place: &mut Place<'_>) -> Result<String> {
    let disk = place.guest("scsi_disk", SHORT)?;
    for (key, want) in [
        ("sectors", SECTORS.to_string().as_str()),
        ("block", "512"),
        // One disk behind one host, and none on the other targets Linux looked for.
        ("hosts", "1"),
        ("disks", "1"),
        ("address", "0:0:0:0"),
        ("vendor", "VLVF"),
        ("serial", "vlvf-scsi-vf1"),
        ("cache", "write-back"),
    ] {
        let value = disk.get(key)?;
        ensure!(value == want, "{key} is {value}, not {want}");
    }
    ensure!(disk.number("discard_max")? > 0, "no UNMAP: {}", disk.text());
    let bad = place.number("bad_targets")?;
    ensure!(bad > 0, "Linux looked for no other target");
    let before = sectors(place)?;
    let mib = place.copy_mib();
    let copy = place.guest(&format!("scsi_copy {mib}"), LONG)?;
    let (written, read) = (copy.get("written_sha256")?, copy.get("read_sha256")?);
    ensure!(
        written.len() == 64 && written == read,
        "digests differ: {written} and {read}"
    );
    let after = sectors(place)?;
    let moved = (after.0 - before.0, after.1 - before.1);
    ensure!(
        moved.0 == mib << 11 && moved.1 >= mib << 11,
        "{} sectors were written and {} read, not {}",
        moved.0,
        moved.1,
        mib << 11
    );
    // Events: the driver reads the capacity anew, lets go of the disk, finds it again.
    let size = SECTORS + 2048;
    place.control(&json!({ "cmd": "resize", "vf": 1, "sectors": size }))?;
    place.guest(&format!("scsi_wait_size {size}"), SHORT)?;
    place.control(&json!({ "cmd": "plug", "vf": 1, "present": false }))?;
    place.guest("scsi_wait_gone", SHORT)?;
    place.control(&json!({ "cmd": "plug", "vf": 1, "present": true }))?;
    place.guest(&format!("scsi_wait_size {size}"), SHORT)?;
    let events = place.number("events")?;
    ensure!(events == 3, "{events} events, not 3");
    ensure!(
        place.number("events_missed")? == 0,
        "an event found no buffer"
    );
    let again = place.guest("scsi_copy 1", LONG)?;
    ensure!(
        again.get("written_sha256")? == again.get("read_sha256")?,
        "digests differ after hot plug"
    );
    // The driver lets go of the function and takes it again.
    let rebound = place.guest(&format!("rebind scsi {REBINDS}"), LONG)?;
    ensure!(rebound.number("rebinds")? == REBINDS, "{}", rebound.text());
    let last = place.guest("scsi_copy 1", LONG)?;
    ensure!(
        last.get("written_sha256")? == last.get("read_sha256")?,
        "digests differ after {REBINDS} rebinds"
    );
    Ok(format!(
        "{mib} MiB written {} ms, read {} ms, {events} events, {REBINDS} rebinds",
        copy.get("write_ms")?,
        copy.get("read_ms")?
    ))
}
