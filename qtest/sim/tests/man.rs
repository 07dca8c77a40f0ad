// SPDX-License-Identifier: GPL-2.0-or-later
//! The man page in the tree is the one that the program describes.

#![allow(clippy::unwrap_used)]

use clap::CommandFactory;
use std::path::Path;

/// `VLVF_UPDATE_DOCS=1 cargo test -p virtio_pf_sim --test man` writes the page anew.
#[test]
fn the_man_page_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/tools/virtio-pf-sim.1");
    let page = virtio_pf_sim::man::page();
    if std::env::var_os("VLVF_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    assert!(
        std::fs::read(&path).unwrap() == page,
        "docs/tools/virtio-pf-sim.1 is not what the argument parser says; write it anew: \
         VLVF_UPDATE_DOCS=1 cargo test -p virtio_pf_sim --test man"
    );
}

#[test]
fn the_man_page_has_every_option() {
    let page = String::from_utf8(virtio_pf_sim::man::page()).unwrap();
    let plain = page.replace("\\-", "-");
    let command = virtio_pf_sim::args::Cli::command();
    let mut checked = 0;
    for arg in command.get_arguments() {
        let long = arg.get_long().unwrap();
        assert!(plain.contains(&format!("--{long}")), "{long}");
        checked += 1;
    }
    assert!(checked > 30, "{checked}");
}
