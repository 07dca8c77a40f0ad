// SPDX-License-Identifier: GPL-2.0-or-later
//! A machine under TCG (L1) whose PCIe bus has simulated PFs with their VFs behind an emulated Intel
//! IOMMU. Debian's kernel in it uses them as it uses hardware; the helper and QEMU with KVM run in it, and
//! in that QEMU a guest (L2).
//!
//! The functions of a card are served by one simulator; QEMU's `x-vfio-user-sriov-pf` and
//! `x-vfio-user-sriov-vf` put them on the bus. What is tested is in `scenarios`, a file for each matter;
//! `machine` is the machine, `boot` waits for L2, `l2` has what most scenarios with an L2 ask of it.
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
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn the_page_has_every_scenario() {
        let page = include_str!("../../../docs/dev/testing.md");
        test_machine::scenario::check(ALL, page).unwrap();
    }

    /// Shell functions by directory of scripts, and the words of each script but for comments.
    fn script_words(dir: &str) -> (BTreeSet<String>, BTreeSet<String>) {
        let (mut functions, mut words) = (BTreeSet::new(), BTreeSet::new());
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(dir);
        for entry in std::fs::read_dir(dir.join("guest")).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            for line in text.lines().filter(|line| !line.trim().starts_with('#')) {
                if let Some((name, _)) = line.split_once("() {") {
                    functions.insert(name.to_owned());
                }
                let parts = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                words.extend(parts.map(str::to_owned));
            }
        }
        (functions, words)
    }

    #[test]
    fn scripts_ask_only_for_what_every_guest_of_theirs_has() {
        let [machine, guest, nested] = ["machine", "guest-tests", "nested"].map(script_words);
        for (below, above) in [(&machine, &guest), (&machine, &nested), (&guest, &nested)] {
            let asked: Vec<&String> = above
                .0
                .iter()
                .filter(|name| below.1.contains(*name) && !below.0.contains(*name))
                .filter(|name| !machine.0.contains(*name))
                .collect();
            assert!(asked.is_empty(), "defined above: {asked:?}");
        }
    }
}
