// SPDX-License-Identifier: GPL-2.0-or-later
//! Memory balloon: the guest's memory falls and rises by the pages that are asked for.

use anyhow::{ensure, Result};
use serde_json::json;

use super::place::{Place, LONG, SHORT};

/// 128 MiB, then half of it, then nothing.
const STEPS: [u64; 3] = [32768, 16384, 0];
/// A page of the balloon in KiB.
const PAGE_KIB: u64 = 4;

/// Total and free memory in KiB.
fn memory(place: &mut Place<'_>) -> Result<(u64, u64)> {
    let answer = place.guest("memory", SHORT)?;
    Ok((answer.number("MemTotal")?, answer.number("MemFree")?))
}

pub(crate) fn work(place: &mut Place<'_>) -> Result<String> {
    let (total, free) = memory(place)?;
    let mut lowest_free = free;
    for pages in STEPS {
        place.control(&json!({ "cmd": "balloon", "vf": 1, "pages": pages }))?;
        // What the driver says, and what went through the queues page by page.
        place.wait_number("actual", pages, LONG)?;
        let inside = place.number("pages")?;
        ensure!(
            inside == pages,
            "{inside} pages are in the balloon, not {pages}"
        );
        let (now, free_now) = memory(place)?;
        ensure!(
            now + pages * PAGE_KIB == total,
            "with {pages} pages in the balloon the guest has {now} KiB of {total}"
        );
        lowest_free = lowest_free.min(free_now);
    }
    // Free memory moves by itself too, but not by this much.
    let most = STEPS.into_iter().max().unwrap_or(0) * PAGE_KIB;
    ensure!(
        free.saturating_sub(lowest_free) > most * 9 / 10,
        "free memory went from {free} to {lowest_free} KiB only"
    );
    let moved = STEPS.into_iter().max().unwrap_or(0);
    let (inflated, deflated) = (place.number("inflated")?, place.number("deflated")?);
    ensure!(
        inflated == moved && deflated == moved,
        "{inflated} pages went in and {deflated} came out, not {moved}"
    );
    place.control(&json!({ "cmd": "balloon-stats", "vf": 1 }))?;
    place.wait_number("stats_updates", 1, SHORT)?;
    let told = place.number("stat_total_memory")?;
    ensure!(
        told == total * 1024,
        "the guest tells {told} bytes of memory, but has {total} KiB"
    );
    Ok(format!(
        "{moved} pages in and out, guest {total} to {} KiB and back",
        total - most
    ))
}
