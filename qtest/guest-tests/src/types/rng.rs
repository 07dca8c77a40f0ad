// SPDX-License-Identifier: GPL-2.0-or-later
//! Entropy: what the guest reads from /dev/hwrng is what the simulator gave.

use anyhow::{ensure, Result};

use super::place::{Place, LONG};

/// Bytes read in each of the guest's two turns.
const BYTES: u64 = 64 << 10;
/// Bytes that Linux's core and its driver may have asked for and not used yet.
const AHEAD: u64 = 2 * 64;

pub(crate) fn work(place: &mut Place<'_>) -> Result<String> {
    // What the kernel read at its start; the guest stops that before it reads.
    let before = place.number("bytes")?;
    let answer = place.guest(&format!("rng {BYTES}"), LONG)?;
    let rng = answer.get("rng")?;
    ensure!(rng.starts_with("virtio_rng"), "the kernel reads from {rng}");
    let read = answer.number("rng_bytes")?;
    ensure!(read == 2 * BYTES, "{read} bytes, not {}", 2 * BYTES);
    let given = place.number("bytes")? - before;
    ensure!(
        (read..=read + KERNEL_SHARE).contains(&given),
        "the guest read {read} bytes, the simulator gave {given}"
    );
    let (first, second) = (
        answer.get("rng_first_sha256")?,
        answer.get("rng_second_sha256")?,
    );
    ensure!(first.len() == 64 && first != second, "two reads are alike");
    let failures = answer.number("fips_failures")?;
    // One block in some thousand of good random bits fails.
    ensure!(failures <= 1, "{failures} of 16 blocks are not random");
    Ok(format!(
        "{read} bytes read of {given} given, {failures} of 16 blocks failed FIPS 140-2"
    ))
}

/// What the kernel may read on its own account before it is told not to.
const KERNEL_SHARE: u64 = AHEAD + 4096;
