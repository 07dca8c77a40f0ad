// SPDX-License-Identifier: GPL-2.0-or-later
//! The man page, made from the command line's own description.

use std::fmt::Write as _;

use clap::{Command, CommandFactory};
use man_page::roff::{bold, roman};
use man_page::{Page, Roff};

use legacy_vf_tool::args::Args;
use legacy_vf_tool::exit;

const SYNOPSIS: [&str; 3] = [
    "virtio-legacy-vf list [--dir DIR] [--json]",
    "virtio-legacy-vf show --socket PATH [--vf N] [--json]",
    "virtio-legacy-vf stats --socket PATH [--vf N] [--json | --watch [TIME] [--count N]]",
];

const FILES: [(&str, &str); 2] = [
    (
        "/run/qemu-virtio-admin/",
        "By custom the directory of the helpers' sockets.",
    ),
    (
        "/run/qemu-virtio-admin/ADDRESS.sock",
        "The socket of the helper of the PF at this PCI address.",
    ),
];

const EXAMPLES: [(&str, &str); 3] = [
    ("Which helpers are there?", "virtio-legacy-vf list"),
    (
        "Who uses VF 3?",
        "virtio-legacy-vf show --socket /run/qemu-virtio-admin/0000:03:00.0.sock --vf 3",
    ),
    (
        "What is going on, every second:",
        "virtio-legacy-vf stats --socket /run/qemu-virtio-admin/0000:03:00.0.sock --watch",
    ),
];

fn subcommand(roff: &mut Roff, command: &Command) {
    roff.control("SS", [command.get_name()]);
    let about = command.get_about().map(ToString::to_string);
    roff.text([roman(about.unwrap_or_default())]);
    for arg in command.get_arguments() {
        let Some(long) = arg.get_long().filter(|l| *l != "help") else {
            continue;
        };
        let value = arg
            .get_value_names()
            .filter(|_| arg.get_action().takes_values())
            .and_then(<[_]>::first)
            .map(|v| format!(" {v}"));
        roff.control("TP", []);
        roff.text([bold(format!("--{long}")), roman(value.unwrap_or_default())]);
        let mut help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let defaults: Vec<_> = arg
            .get_default_values()
            .iter()
            .filter(|_| arg.get_action().takes_values())
            .map(|v| v.to_string_lossy())
            .collect();
        if !defaults.is_empty() {
            let _infallible = write!(help, " [default: {}]", defaults.join(" "));
        }
        roff.text([roman(help)]);
    }
}

/// The page in roff.
pub(crate) fn page() -> Vec<u8> {
    let mut command = Args::command();
    command.build();
    let subcommands: Vec<Command> = command
        .get_subcommands()
        .filter(|c| c.get_name() != "help")
        .cloned()
        .collect();
    let mut page = Page::new(command, &SYNOPSIS);
    page.section("COMMANDS", |_| {});
    for c in &subcommands {
        page.part(|r| subcommand(r, c));
    }
    page.list(
        "EXIT STATUS",
        exit::ALL.map(|(code, text)| (code.to_string(), text)),
    );
    page.list("FILES", FILES);
    page.examples(&EXAMPLES);
    page.see_also(
        "qemu-virtio-admin-helper",
        "docs/system/virtio-legacy-vf.md",
    )
}
