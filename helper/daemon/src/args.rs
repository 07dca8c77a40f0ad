// SPDX-License-Identifier: GPL-2.0-or-later
//! The command line, and nothing else: no meaning is given to values here. Help texts are also
//! those of the man page.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use pci_transport::{PciAddress, VfToken};

/// Legacy register access to virtio VFs through their PF
///
/// Drives one virtio PF in user space and executes accesses to the legacy registers of its VFs
/// with group administration commands, for QEMU's virtio-legacy-vf devices. One process serves one
/// PF, on one Unix socket; virtio-legacy-vf(1) asks it what it does.
#[derive(Clone, Debug, Parser)]
#[command(name = "qemu-virtio-admin-helper", version, max_term_width = 100)]
pub struct Args {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One readable line each, with time and level
    Text,
    /// To systemd's journal with a field for each figure (VLVF_PF, VLVF_VF, VLVF_PID, VLVF_UID, VLVF_CODE and
    /// more); without a journal, lines with syslog's level prefix
    Journal,
    /// One JSON object per line
    Json,
}

/// What to do about VFs that are enabled already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Existing {
    /// Keep them if there are as many as --vfs asks for, otherwise refuse to start
    Same,
    /// Keep them, however many
    Adopt,
    /// Disable them and start anew; guests that use them lose their device
    Replace,
}

/// What happens at a system call that serving does not need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SeccompMode {
    /// The process is killed (SIGSYS); a service manager starts it again
    Kill,
    /// The kernel logs it and carries it out, to find out what is missing in the list
    Log,
    /// System calls are not filtered
    Off,
}

/// VFIO's interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Interface {
    /// iommufd if the kernel has it and the PF has a device file of its own, otherwise the group
    Auto,
    /// /dev/vfio/GROUP and /dev/vfio/vfio
    Group,
    /// /dev/vfio/devices/vfioN and /dev/iommu
    Iommufd,
}

/// Options of serving.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeArgs {
    /// The PF, and its VFs.
    #[command(flatten)]
    pub pf: PfArgs,
    /// Admin commands.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// The socket.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Privileges.
    #[command(flatten)]
    pub privileges: PrivilegeArgs,
    /// The log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// The PF, and its VFs.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "PF")]
pub struct PfArgs {
    /// PCI address of the PF, which is driven through the kernel's VFIO
    #[arg(long, value_name = "ADDRESS", required_unless_present = "pf_socket")]
    pub pf: Option<PciAddress>,
    /// vfio-user socket of the PF, if another process emulates it
    #[arg(
        long,
        value_name = "PATH",
        required_unless_present = "pf",
        conflicts_with = "pf"
    )]
    pub pf_socket: Option<PathBuf>,
    /// VFs to enable, at least 1
    ///
    /// With --pf it can be left out: VFs that are enabled are kept, otherwise all are enabled.
    #[arg(
        long, value_name = "N", required_unless_present = "pf",
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub vfs: Option<u16>,
    /// Take the PF from the driver that has it and give it to vfio-pci
    ///
    /// What the host uses it for, as a network interface, goes away.
    #[arg(long, conflicts_with = "pf_socket")]
    pub bind: bool,
    /// Token that openers of the VFs must show to the kernel
    ///
    /// By default one is made up at the first start and kept beside the socket, as VFs that are in
    /// use can only be taken over with the token they were opened with. Clients are told it.
    #[arg(long, value_name = "UUID", conflicts_with = "pf_socket")]
    pub vf_token: Option<VfToken>,
    /// Which of the kernel's interfaces to use
    #[arg(
        long,
        value_name = "WHICH",
        default_value = "auto",
        conflicts_with = "pf_socket"
    )]
    pub vfio_interface: Interface,
    /// What to do about VFs that are enabled already, as after a restart of this helper
    #[arg(long, value_name = "HOW", default_value = "same")]
    pub existing_vfs: Existing,
    /// Work with a device that lacks the feature ACCESS_PLATFORM although it is behind an IOMMU
    #[arg(long)]
    pub allow_no_access_platform: bool,
}

/// Admin commands: how long they may take, and how they are repeated.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Admin commands")]
pub struct AdminArgs {
    /// Longest time one register access may take, retries included; clients get an error then
    ///
    /// Times are a number with a unit: us, ms, s or min.
    #[arg(long, value_name = "TIME", default_value = "2s")]
    pub command_timeout: String,
    /// Longest time a reset of the PF may take
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub reset_timeout: String,
    /// Longest time the initialisation of the PF may take
    #[arg(long, value_name = "TIME", default_value = "20s")]
    pub start_timeout: String,
    /// Retries of a command that the device asks to repeat (EAGAIN)
    #[arg(
        long, value_name = "N", default_value_t = 16,
        value_parser = clap::value_parser!(u32).range(..=1000)
    )]
    pub retry: u32,
    /// Wait before the first retry; doubled each time
    #[arg(long, value_name = "TIME", default_value = "100us")]
    pub retry_delay: String,
    /// Longest wait before a retry
    #[arg(long, value_name = "TIME", default_value = "50ms")]
    pub retry_max_delay: String,
    /// Largest admin queue to use, in descriptors (two per command in flight); a power of two
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub queue_size: u16,
    /// Longest busy wait for a completion before sleeping; 0us never waits busily
    #[arg(long, value_name = "TIME", default_value = "50us")]
    pub spin: String,
}

/// Privileges, while it serves.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Privileges")]
pub struct PrivilegeArgs {
    /// User to serve as, once everything is open; names or numbers
    ///
    /// By default, if started as root, qemu-virtio-admin if there is such a user; otherwise the user
    /// that started it, as with --user root. The socket's directory must be writable for that user,
    /// so that the socket can be removed at the end.
    #[arg(long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// What happens at a system call that serving does not need
    #[arg(long, value_name = "HOW", default_value = "kill")]
    pub seccomp: SeccompMode,
}

/// The socket, and who may use it.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Socket")]
pub struct SocketArgs {
    /// Socket to serve on, by custom in /run/qemu-virtio-admin; its directory must exist
    ///
    /// With --pf it can be left out: it is /run/qemu-virtio-admin/ADDRESS.sock then, where QEMU
    /// looks for it, and the directory is made.
    #[arg(long, value_name = "PATH", required_unless_present = "pf")]
    pub socket: Option<PathBuf>,
    /// Mode of the socket, octal; never open to everyone
    #[arg(long, value_name = "MODE", default_value = "0660")]
    pub socket_mode: String,
    /// Owner of the socket, name or number
    #[arg(long, value_name = "USER")]
    pub socket_owner: Option<String>,
    /// Group of the socket, name or number
    #[arg(long, value_name = "GROUP")]
    pub socket_group: Option<String>,
    /// User that may open VFs, besides root and the user that started the helper; may be repeated
    #[arg(long, value_name = "USER")]
    pub allow_uid: Vec<String>,
    /// Group (the effective one of a client) that may open VFs; may be repeated
    #[arg(long, value_name = "GROUP")]
    pub allow_gid: Vec<String>,
    /// User that may open VFs without showing their VFIO device files; may be repeated
    ///
    /// For kernels that cannot tell the function of such a file. Such a user can open any VF of the
    /// PF, whoever has it.
    #[arg(long, value_name = "USER", conflicts_with = "pf_socket")]
    pub allow_unproven_uid: Vec<String>,
    /// Connections that own no VF, as those of questions; each VF has one more
    #[arg(
        long, value_name = "N", default_value_t = 64,
        value_parser = clap::value_parser!(u16).range(1..=4096)
    )]
    pub max_connections: u16,
    /// Time a client has to read a reply before it is disconnected
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub client_timeout: String,
    /// Time for accesses in flight to end when the helper is stopped
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub drain_timeout: String,
}

/// The log.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Log")]
pub struct LogArgs {
    /// What to log: error, warn, info, debug or trace, also per part as in info,virtio_pf=debug
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// How log lines look; by default journal under systemd, otherwise text
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}
