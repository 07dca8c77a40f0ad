// SPDX-License-Identifier: GPL-2.0-or-later
//! The man page in the tree is the one that the program describes.
#![allow(clippy::unwrap_used)]

mod page;

use std::path::Path;

/// `UPDATE=1 cargo test -p legacy_vf_tool --test man` writes the page anew.
#[test]
fn the_man_page_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/tools/virtio-legacy-vf.1");
    let page = page::page();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let committed = std::fs::read(&path).unwrap();
    assert!(
        committed == page,
        "docs/tools/virtio-legacy-vf.1 is not what the argument parser says; write it \
         anew: UPDATE=1 cargo test -p legacy_vf_tool --test man"
    );
}

#[test]
fn the_man_page_has_every_option_and_exit_code() {
    use clap::CommandFactory;
    let page = String::from_utf8(page::page()).unwrap();
    let plain = page.replace("\\-", "-");
    let command = legacy_vf_tool::args::Args::command();
    let mut checked = 0;
    for c in std::iter::once(&command).chain(command.get_subcommands()) {
        for arg in c.get_arguments() {
            let long = arg.get_long().unwrap();
            assert!(plain.contains(&format!("--{long}")), "{long}");
            checked += 1;
        }
    }
    assert!(checked >= 10, "{checked}");
    for (code, text) in legacy_vf_tool::exit::ALL {
        let first = text.split_whitespace().next().unwrap();
        assert!(
            plain.contains(&format!("\\fB{code}\\fR\n{first}")),
            "{code}"
        );
    }
    for title in [
        "NAME",
        "SYNOPSIS",
        "COMMANDS",
        "EXIT STATUS",
        "FILES",
        "EXAMPLES",
    ] {
        assert!(
            plain.contains(&format!(".SH {title}")) || plain.contains(&format!(".SH \"{title}\"")),
            "{title}"
        );
    }
}
