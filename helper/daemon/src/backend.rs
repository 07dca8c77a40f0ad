// SPDX-License-Identifier: GPL-2.0-or-later
//! How the PF becomes a backend.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use helper_cli::RUN_DIR;
use helper_confine::user::User;
use helper_server::device_files::DeviceFiles;
use helper_server::PfBackend;
use pci_transport::vfio::{self, HostError, VfioFunction};
use pci_transport::vfio_user::{Deadlines, VfioUserFunction};
use rustix::fs::{fchown, fstat, open, Mode, OFlags, Uid};
use virtio_pf::{ExistingVfs, Pf, PfConfig};

use crate::config::{HostPf, PfSource, ServeConfig};
use crate::{fdstore, token};

/// Makes the usual directory of the sockets, if that is where the socket goes, and gives it to the
/// user as whom helpers serve.
///
/// # Errors
/// If it cannot be made or given.
pub(crate) fn make_run_dir(socket: &Path, user: Option<&User>) -> anyhow::Result<()> {
    if socket.parent() != Some(Path::new(RUN_DIR)) {
        return Ok(());
    }
    if !Path::new(RUN_DIR).is_dir() {
        create_run_dir()?;
    }
    match user {
        Some(user) => {
            give_run_dir(user).with_context(|| format!("Cannot give {RUN_DIR} to {user}"))
        }
        None => Ok(()),
    }
}

/// Only from root, so that one helper does not take it from another one's user.
fn give_run_dir(user: &User) -> std::io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let dir = open(RUN_DIR, flags, Mode::empty())?;
    if fstat(&dir)?.st_uid == 0 {
        fchown(&dir, Some(Uid::from_raw(user.uid)), None)?;
    }
    Ok(())
}

fn create_run_dir() -> anyhow::Result<()> {
    let made = std::fs::create_dir(RUN_DIR).and_then(|()| {
        // Whatever the mask: QEMU must reach the socket.
        std::fs::set_permissions(RUN_DIR, std::fs::Permissions::from_mode(0o755))
    });
    match made {
        // By the helper of another PF, just now.
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made.with_context(|| {
            format!(
                "Cannot make the directory {RUN_DIR}; as root: mkdir -m 0755 {RUN_DIR}, or give \
                 another place with --socket"
            )
        }),
    }
}

/// A number that tells this session with the PF from earlier ones.
fn session_number() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as u64);
    since ^ u64::from(std::process::id()) << 48
}

/// The PF's files with the service manager.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Their names.
    files: Vec<String>,
    /// They were there already.
    adopted: bool,
}

impl Kept {
    /// Has the service manager close them.
    pub(crate) fn forget(&self) {
        fdstore::forget(&self.files);
    }
}

/// Brings the PF up. `inherited` are its files, if an earlier process left any.
///
/// # Errors
/// With a text that names what is missing and what mends it. The service manager has nothing of the
/// PF then.
pub(crate) fn start(
    config: &ServeConfig,
    inherited: Vec<(String, OwnedFd)>,
) -> anyhow::Result<(PfBackend, Kept)> {
    match &config.source {
        PfSource::VfioUser(path) => {
            start_vfio_user(path, &config.pf).map(|pf| (pf, Kept::default()))
        }
        PfSource::Vfio(pf) => {
            let dir = config.socket.path.parent().unwrap_or(Path::new("."));
            let mut kept = Kept::default();
            match start_vfio(pf, dir, &config.pf, inherited, &mut kept) {
                Ok(backend) => Ok((backend, kept)),
                Err(e) => {
                    kept.forget();
                    Err(e)
                }
            }
        }
    }
}

fn start_vfio_user(path: &Path, config: &PfConfig) -> anyhow::Result<PfBackend> {
    let usual = Deadlines::default();
    let deadlines = Deadlines {
        connect: config.start_timeout,
        request: usual.request.min(config.start_timeout),
    };
    let function = VfioUserFunction::connect(path, deadlines)
        .with_context(|| format!("PF {}", path.display()))?;
    let pf = Pf::start(Box::new(function), config.clone())?;
    Ok(PfBackend::on_vfio_user(pf, session_number()))
}

/// Decides how many VFs there are to be, and refuses what cannot work before the PF is touched.
fn plan_vfs(pf: &vfio::Device, asked: Option<u16>, config: &mut PfConfig) -> Result<(), HostError> {
    let live = pf.num_vfs()?.ok_or(HostError::NotAPf)?;
    config.vfs = match asked {
        Some(n) => n,
        None if live > 0 => live,
        None => pf.total_vfs()?.max(1),
    };
    let wanted = config.vfs;
    if asked.is_none() && config.existing_vfs == ExistingVfs::RequireSame {
        config.existing_vfs = ExistingVfs::Adopt;
    }
    match config.existing_vfs {
        _ if live == 0 => pf.check_vfs(wanted),
        ExistingVfs::RequireSame if live != wanted => Err(HostError::VfsEnabled {
            function: pf.address().to_string(),
            existing: live,
            wanted,
            users: pf.vf_users(),
        }),
        ExistingVfs::Replace if live != wanted => {
            pf.check_vfs(wanted)?;
            match pf.vf_users() {
                users if users.is_empty() => Ok(()),
                users => Err(HostError::VfsInUse { users }),
            }
        }
        _ => Ok(()),
    }
}

fn start_vfio(
    host_pf: &HostPf,
    dir: &Path,
    config: &PfConfig,
    kept: Vec<(String, OwnedFd)>,
    started: &mut Kept,
) -> anyhow::Result<PfBackend> {
    started.adopted = !kept.is_empty();
    started.files = kept.iter().map(|(name, _)| name.clone()).collect();
    let name = || format!("PF {}", host_pf.address);
    let token = token::choose(dir, host_pf.address, host_pf.token)?;
    let options = vfio::Options {
        bind: host_pf.bind,
        interface: host_pf.interface,
        token: Some(token),
        deadlines: vfio::Deadlines {
            kernel: config.start_timeout,
        },
        ..vfio::Options::default()
    };
    let mut config = config.clone();
    let device = options.host.device(host_pf.address).with_context(name)?;
    // What is wrong with its driver is said first.
    if host_pf.bind || device.is_on_vfio() {
        plan_vfs(&device, host_pf.vfs, &mut config).with_context(name)?;
    }
    let function = match kept.is_empty() {
        true => VfioFunction::open(host_pf.address, &options)?,
        false => VfioFunction::adopt(host_pf.address, kept, &options).context(
            "The PF's files that were kept cannot be used; the next start opens it anew",
        )?,
    };
    // Only now: one that the kernel refused must not replace the one in force.
    token::keep(dir, host_pf.address, &token)?;
    tracing::info!(
        pf = %host_pf.address,
        interface = function.interface(),
        kept = started.adopted,
        "PF opened through VFIO"
    );
    started.files = function
        .keepers()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    if !started.adopted {
        fdstore::keep(&function);
    }
    let pf = Pf::start(Box::new(function), config)?;
    let others = device
        .settle_vfs(options.deadlines.kernel)
        .with_context(name)?;
    if !others.is_empty() {
        tracing::warn!(
            "Not on vfio-pci, so QEMU cannot have them: {}",
            others.join(", ")
        );
    }
    let files = DeviceFiles::new(device);
    Ok(PfBackend::on_vfio(pf, session_number(), token.0, files))
}
