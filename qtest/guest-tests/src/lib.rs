// SPDX-License-Identifier: GPL-2.0-or-later
//! Debian's kernel, and firmware, on VFs of the simulated PF, with QEMU's device and the helper in
//! between. What is tested is in `scenarios`, a file for each matter; the others are what they have
//! in common: `booted`, [`types`] for the work that a guest does on each device type, `firmware` for
//! machines that boot by themselves. [`demo`] shows what the device is for.

mod bench;
mod booted;
pub mod demo;
mod firmware;
mod run;
mod scenarios;
pub mod types;

pub use self::bench::{bench, scripts};
pub use self::booted::check_driver;
pub use self::firmware::Kit;
pub use self::run::{kit, run, Run};
pub use self::scenarios::ALL;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_scenario() {
        let page = include_str!("../../../docs/dev/guest-tests.md");
        test_machine::scenario::check(ALL, page).unwrap();
    }
}
