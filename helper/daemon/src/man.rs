// SPDX-License-Identifier: GPL-2.0-or-later
//! The man page, made from the command line's own description.

use std::fmt::Write as _;

use clap::{Command, CommandFactory};
use clap_mangen::roff::{bold, roman, Roff};
use clap_mangen::Man;

use crate::args::Args;
use crate::exit;

const SYNOPSIS: [&str; 5] = [
    "qemu-virtio-admin-helper [OPTION]... --pf ADDRESS [--vfs N] [--bind]",
    "qemu-virtio-admin-helper [OPTION]... --pf-socket PATH --vfs N --socket PATH",
    "qemu-virtio-admin-helper list [--dir DIR] [--json]",
    "qemu-virtio-admin-helper show --socket PATH [--vf N] [--json]",
    "qemu-virtio-admin-helper stats --socket PATH [--vf N] [--json | --watch [TIME] [--count N]]",
];

const DESCRIPTION: &str = "\
SR-IOV virtual functions cannot have an I/O BAR, so a guest with only a legacy (0.9.5) virtio \
driver cannot use a virtio VF by itself. The owner of the VF, its PF, can act for it: group \
administration commands on the PF's admin queue read and write the legacy registers of a VF. This \
program drives the PF and executes these commands for the QEMU devices virtio-legacy-vf and \
virtio-legacy-vf-user, which show the VF to the guest as a transitional device. The data path does \
not pass through it.";

const VFIO: &str = "\
With --pf the program opens the PF through the kernel's VFIO. The PF must be on the vfio-pci driver; \
--bind puts it there. VFs are enabled after the PF works, through its sriov_numvfs, for which \
vfio-pci must have been loaded with enable_sriov=1, and are given to vfio-pci. The kernel then lets \
only those open a VF who know the VF token. A client gets the token over the socket, opens the VF, \
and shows that it holds it by sending the open file along; no list of users is needed. Older \
kernels, 6.1 for instance, do not say of which function such a file is (those with iommufd do for \
files of /dev/vfio/devices); there, --allow-unproven-uid lets users in without. What the host needs, \
and what to do about each error, is in docs/system/host.md.";

const SIGNALS: &str = "\
SIGTERM, SIGINT and SIGHUP end the program: it removes its socket, tells its clients, lets \
accesses in flight end (--drain-timeout), resets the PF and gives its memory back. VFs stay \
enabled and go on working; guests lose only their register accesses until a helper serves again. \
A second signal does not wait for accesses. With --pf, the kernel resets the PF when its last file is \
closed, which ends its VFs' state on most hardware. So the files are left with the service manager if \
there is one with a store for them, as the systemd unit has; the next start takes them over and VFs \
go on.";

const PRIVILEGES: &str = "\
To make the socket and to reach the PF, the program needs the permissions of files and directories, \
no more; to give the socket to another owner it must be root. With --pf these are /dev/vfio/* or \
/dev/iommu and /dev/vfio/devices/*; to bind the PF and to enable VFs it must be root as well, as it \
writes to sysfs. Before it serves it gives up all capabilities and can gain none (no_new_privs).";

const PROTOCOL: &str = "\
The socket is of type SOCK_SEQPACKET. Its messages are described in \
docs/interop/legacy-vf-helper.md.";

const FILES: [(&str, &str); 4] = [
    (
        "/run/qemu-virtio-admin/",
        "By custom the directory of the sockets. With --pf and without --socket it is created.",
    ),
    (
        "/run/qemu-virtio-admin/ADDRESS.sock",
        "With --pf, the socket unless --socket names another.",
    ),
    (
        "ADDRESS.token",
        "With --pf, beside the socket: the VF token, for the next start. Readable by the helper's \
         user alone.",
    ),
    (
        "SOCKET.lock",
        "Beside the socket while a helper serves there, so that there is only one.",
    ),
];

const EXAMPLES: [(&str, &str); 5] = [
    (
        "Serve 8 VFs of a PF of this host, for QEMUs of group kvm:",
        "qemu-virtio-admin-helper --pf 0000:03:00.0 --vfs 8 --bind --socket-group kvm\n\
         qemu-system-x86_64 ... -device virtio-legacy-vf,host=0000:03:00.2",
    ),
    (
        "Serve 4 VFs of a PF that is emulated by another process, for a QEMU of group kvm:",
        "qemu-virtio-admin-helper --pf-socket /tmp/sim/pf.sock --vfs 4 \\\n    --socket \
         /run/qemu-virtio-admin/sim.sock --socket-group kvm --allow-gid kvm",
    ),
    ("Which helpers are there?", "qemu-virtio-admin-helper list"),
    (
        "Who uses VF 3?",
        "qemu-virtio-admin-helper show --socket /run/qemu-virtio-admin/sim.sock --vf 3",
    ),
    (
        "What is going on, every second:",
        "qemu-virtio-admin-helper stats --socket /run/qemu-virtio-admin/sim.sock --watch",
    ),
];

fn render(out: &mut Vec<u8>, part: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) {
    // Writing to memory does not fail.
    let _infallible = part(out);
}

fn section(out: &mut Vec<u8>, title: &str, fill: impl FnOnce(&mut Roff)) {
    let mut roff = Roff::default();
    roff.control("SH", [title]);
    fill(&mut roff);
    render(out, |out| roff.to_writer(out));
}

fn subcommand(out: &mut Vec<u8>, command: &Command) {
    let mut roff = Roff::default();
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
    render(out, |out| roff.to_writer(out));
}

/// Groups of options as subsections of OPTIONS, not as sections of their own.
fn subsections(options: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(options);
    let mut out = String::new();
    for line in text.lines() {
        match line.strip_prefix(".SH ") {
            Some(title) if title != "OPTIONS" => {
                out.push_str(".SS ");
                out.push_str(title);
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out.into_bytes()
}

/// The page in roff.
pub fn page() -> Vec<u8> {
    let mut command = Args::command();
    command.build();
    let subcommands: Vec<Command> = command
        .get_subcommands()
        .filter(|c| c.get_name() != "help")
        .cloned()
        .collect();
    let man = Man::new(command)
        .section("1")
        .manual("QEMU virtio legacy VF")
        .date("");
    let mut out = Vec::new();
    render(&mut out, |out| man.render_title(out));
    render(&mut out, |out| man.render_name_section(out));
    section(&mut out, "SYNOPSIS", |r| {
        for line in SYNOPSIS {
            let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
            r.control("PP", []);
            r.text([bold(name), roman(format!(" {rest}"))]);
        }
    });
    render(&mut out, |out| man.render_description_section(out));
    section(&mut out, "BACKGROUND", |r| {
        r.text([roman(DESCRIPTION)]);
    });
    section(&mut out, "PFS OF THE HOST", |r| {
        r.text([roman(VFIO)]);
    });
    let mut options = Vec::new();
    render(&mut options, |out| man.render_options_section(out));
    out.extend(subsections(&options));
    section(&mut out, "SUBCOMMANDS", |r| {
        r.text([roman(
            "They ask a serving helper and need permission to connect to its socket, no more.",
        )]);
    });
    for c in &subcommands {
        subcommand(&mut out, c);
    }
    section(&mut out, "PRIVILEGES", |r| {
        r.text([roman(PRIVILEGES)]);
    });
    section(&mut out, "SIGNALS", |r| {
        r.text([roman(SIGNALS)]);
    });
    section(&mut out, "EXIT STATUS", |r| {
        for (code, text) in exit::ALL {
            r.control("TP", []);
            r.text([bold(code.to_string())]);
            r.text([roman(text)]);
        }
    });
    section(&mut out, "ENVIRONMENT", |r| {
        r.control("TP", []);
        r.text([bold(
            "NOTIFY_SOCKET, WATCHDOG_USEC, JOURNAL_STREAM, LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES",
        )]);
        r.text([roman(
            "Set by systemd: readiness, state and liveness are told, log lines carry the journal's \
             priorities, and the PF's files are kept over a restart.",
        )]);
    });
    section(&mut out, "FILES", |r| {
        for (name, text) in FILES {
            r.control("TP", []);
            r.text([bold(name)]);
            r.text([roman(text)]);
        }
    });
    section(&mut out, "PROTOCOL", |r| {
        r.text([roman(PROTOCOL)]);
    });
    section(&mut out, "EXAMPLES", |r| {
        for (text, line) in EXAMPLES {
            r.control("PP", []);
            r.text([roman(text)]);
            r.control("PP", []);
            r.control("nf", []);
            for l in line.lines() {
                r.text([roman(l)]);
            }
            r.control("fi", []);
        }
    });
    section(&mut out, "SEE ALSO", |r| {
        r.text([
            bold("qemu-system-x86_64"),
            roman("(1), docs/system/virtio-legacy-vf.md, docs/system/host.md"),
        ]);
    });
    out
}
