// SPDX-License-Identifier: GPL-2.0-or-later
//! A machine under TCG (L1) whose PCIe bus has simulated PFs with their VFs behind an emulated Intel
//! IOMMU. Debian's kernel in it uses them as it uses hardware; the helper and QEMU with KVM run in it, and
//! in that QEMU a guest (L2).
//!
//! The functions of a card are served by one simulator; QEMU's `x-vfio-user-sriov-pf` and
//! `x-vfio-user-sriov-vf` put them on the bus. What is tested is in [`scenarios`], a file for each matter;
//! [`machine`] is the machine, [`boot`] waits for L2, [`l2`] has what most scenarios with an L2 ask of it.
//! What L1 can be asked to do is in the scripts of `guest/`, what L2 can in those of the guest tests.

mod boot;
mod image;
mod l2;
mod machine;
pub mod peer;
mod runner;
mod scenarios;
mod setup;
mod workbench;

pub use self::machine::{Card, Nested, Plan};
pub use self::runner::{run, Options, Runner};
pub use self::scenarios::ALL;
pub use self::setup::{Run, Setup};
pub use self::workbench::Workbench;

#[cfg(test)]
mod tests {
    use super::*;
    use test_machine::scenario::{each, table};

    #[test]
    fn the_page_has_every_scenario() {
        let page = include_str!("../../../docs/dev/testing.md");
        assert!(
            page.contains(&table(ALL)),
            "it should have:\n{}",
            table(ALL)
        );
    }

    #[test]
    fn names_are_told_apart() {
        let mut names: Vec<&str> = each(ALL).map(|one| one.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(ALL.iter().all(|kind| !kind.scenarios.is_empty()));
    }
}
