// SPDX-License-Identifier: GPL-2.0-or-later
//! The man page, made from the command line's own description.

use crate::args::Cli;
use crate::device::config::knob_names;
use clap::CommandFactory;
use man_page::Page;
use virtio_pf_model::{Leniency, NotifyLayout};

const SYNOPSIS: [&str; 2] = [
    "virtio-pf-sim --dir DIR --type TYPE [--vfs N] [OPTION]...",
    "virtio-pf-sim ctl --dir DIR COMMAND [NAME=VALUE]...",
];

const BACKGROUND: &str = "\
PF and VFs are vfio-user devices, each on a Unix socket in one directory. When all of them listen, \
the program prints \"ready\". It is strict: what the virtio specification makes a mistake of a driver \
fails and is counted under \"violations\". It stands in for hardware behind \
qemu-virtio-admin-helper and the QEMU device virtio-legacy-vf-user, behind QEMU's vfio-user-pci, or, \
on a simulated bus, behind a kernel's own drivers.";

const CONTROL: &str = "\
ctl sends one command to the simulator that runs in DIR, prints its reply and tells by the exit \
status whether it was carried out. A command is a name with NAME=VALUE pairs, or a JSON object. The \
commands are in docs/system/virtio-pf-sim.md; among them counters, events, fault-add, fault-clear, \
link, resize, reset, needs-reset, disconnect and quit.";

const ENDING: &str = "\
SIGTERM, SIGINT and the command quit end the program, and its sockets are removed. The exit status \
is 0 then, 1 if it cannot start or serve or if ctl's command was refused, and 2 if the command line \
is wrong.";

const FILES: [(&str, &str); 4] = [
    ("DIR/pf.sock", "The PF, for one client."),
    (
        "DIR/vf1.sock, DIR/vf2.sock ...",
        "The VFs, for one client each.",
    ),
    ("DIR/ctl.sock", "Commands, one JSON object a line."),
    (
        "DIR/vf1.console, DIR/vf1.port1 ...",
        "With --type console, the other ends of the ports.",
    ),
];

const EXAMPLES: [(&str, &str); 3] = [
    (
        "A network PF with 4 VFs, its helper, and a guest on VF 1:",
        "virtio-pf-sim --dir /tmp/pf --type net --vfs 4\n\
         qemu-virtio-admin-helper --pf-socket /tmp/pf/pf.sock --vfs 4 --socket /tmp/pf/helper.sock\n\
         qemu-system-x86_64 ... -device '{\"driver\":\"virtio-legacy-vf-user\",\"socket\":\
         {\"type\":\"unix\",\"path\":\"/tmp/pf/vf1.sock\"},\"helper\":\"/tmp/pf/helper.sock\",\"vf\":1}'",
    ),
    (
        "From now on every write of a legacy register of VF 1 is lost:",
        "virtio-pf-sim ctl --dir /tmp/pf fault-add rule='{\"opcode\":2,\"member\":1,\"do\":\"drop\"}'",
    ),
    (
        "What was done so far:",
        "virtio-pf-sim ctl --dir /tmp/pf counters",
    ),
];

/// The page in roff.
pub fn page() -> Vec<u8> {
    let mut command = Cli::command();
    command.build();
    let mut page = Page::new(command, &SYNOPSIS);
    page.text("BACKGROUND", BACKGROUND);
    page.options();
    let leniencies = Leniency::NAMES
        .iter()
        .map(|(name, text)| (name.trim_start_matches("lenient-"), *text));
    page.list("LENIENCIES", leniencies);
    page.text(
        "LAYOUTS OF THE NOTIFICATION ADDRESSES",
        NotifyLayout::NAMES.join(", "),
    );
    page.text("KNOBS", knob_names().join(", "));
    page.text("CONTROL", CONTROL);
    page.text("EXIT STATUS", ENDING);
    page.list("FILES", FILES);
    page.examples(&EXAMPLES);
    page.see_also("qemu-virtio-admin-helper", "docs/system/virtio-pf-sim.md")
}
