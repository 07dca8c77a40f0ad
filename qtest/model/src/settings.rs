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
