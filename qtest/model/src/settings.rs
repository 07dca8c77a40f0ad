// SPDX-License-Identifier: GPL-2.0-or-later
//! Rules that the settings of several device types have in common.

/// A queue in which requests of several descriptors have room: 4 to 32768 entries.
///
/// # Errors
/// The size and those it may have, with the type's name.
pub(crate) fn check_queue_size(kind: &str, size: u16) -> Result<(), String> {
    if !size.is_power_of_two() || !(4..=32768).contains(&size) {
        return Err(format!(
            "{kind}: queue size {size} is not a power of two from 4 to 32768"
        ));
    }
    Ok(())
}

/// How many queues for requests a disk has: 1 to 256.
///
/// # Errors
/// Their number and those it may be, with the type's name and what it calls them.
pub(crate) fn check_queue_count(kind: &str, queues: &str, count: u16) -> Result<(), String> {
    if !(1..=256).contains(&count) {
        return Err(format!("{kind}: {count} {queues}; 1 to 256 are possible"));
    }
    Ok(())
}

/// A disk's logical block size in bytes.
///
/// # Errors
/// The size and those it may have, with the type's name.
pub(crate) fn check_block_size(kind: &str, size: u32, largest: u32) -> Result<(), String> {
    if !size.is_power_of_two() || !(512..=largest).contains(&size) {
        return Err(format!(
            "{kind}: block size {size} is not a power of two from 512 to {largest}"
        ));
    }
    Ok(())
}
