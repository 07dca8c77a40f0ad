// SPDX-License-Identifier: GPL-2.0-or-later
//! The man page, made from the command line's own description.

use clap::CommandFactory;
use man_page::Page;

use qemu_virtio_admin_helper::args::Args;
use qemu_virtio_admin_helper::exit;

const SYNOPSIS: [&str; 2] = [
    "qemu-virtio-admin-helper [OPTION]... --pf ADDRESS [--vfs N] [--bind]",
    "qemu-virtio-admin-helper [OPTION]... --pf-socket PATH --vfs N --socket PATH",
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
no more; to give the socket to another owner or to serve as another user it must be root. With --pf these are /dev/vfio/* or \
/dev/iommu and /dev/vfio/devices/*; to bind the PF and to enable VFs it must be root as well, as it \
writes to sysfs. Before it serves, and started as root, it becomes another user (--user). It gives up \
all capabilities and can gain none, cannot be traced, opens files only for reading and only below \
/proc and /sys (where the kernel has Landlock), and makes only system calls that serving needs \
(--seccomp).";

const PROTOCOL: &str = "\
The socket is of type SOCK_SEQPACKET. Its messages are described in \
docs/interop/legacy-vf-helper.md.";

const ENVIRONMENT: (&str, &str) = (
    "NOTIFY_SOCKET, WATCHDOG_USEC, JOURNAL_STREAM, LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES",
    "Set by systemd: readiness, state and liveness are told, log lines go to the \
     journal, and the PF's files are kept over a restart.",
);

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

const EXAMPLES: [(&str, &str); 2] = [
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
];

/// The page in roff.
pub(crate) fn page() -> Vec<u8> {
    let mut command = Args::command();
    command.build();
    let mut page = Page::new(command, &SYNOPSIS);
    page.text("BACKGROUND", DESCRIPTION);
    page.text("PFS OF THE HOST", VFIO);
    page.options_with_subsections();
    page.text("PRIVILEGES", PRIVILEGES);
    page.text("SIGNALS", SIGNALS);
    page.list(
        "EXIT STATUS",
        exit::ALL.map(|(code, text)| (code.to_string(), text)),
    );
    page.list("ENVIRONMENT", [ENVIRONMENT]);
    page.list("FILES", FILES);
    page.text("PROTOCOL", PROTOCOL);
    page.examples(&EXAMPLES);
    page.see_also(
        "qemu-system-x86_64",
        "docs/system/virtio-legacy-vf.md, docs/system/host.md",
    )
}
