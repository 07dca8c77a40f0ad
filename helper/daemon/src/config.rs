// SPDX-License-Identifier: GPL-2.0-or-later
//! What the command line means, checked.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use helper_cli::{parse_time, RUN_DIR};
use helper_confine::calls::Unlisted;
use helper_confine::user::{User as ServeAs, UserError};
use helper_server::listener::SocketOptions;
use helper_server::{HubConfig, Policy};
use nix::unistd::{Group, User};
use pci_transport::{vfio, PciAddress, VfToken};
use virtio_pf::{AccessPlatform, ExistingVfs, PfConfig, RetryPolicy};

use crate::args::{Existing, Interface, LogFormat, PfArgs, SeccompMode, ServeArgs};
use crate::exit::{self, Failure};

/// How to log.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Which lines: a level, or levels per part.
    pub filter: String,
    /// How they look.
    pub format: LogFormat,
}

/// Where the PF is.
#[derive(Clone, Debug)]
pub enum PfSource {
    /// Behind a vfio-user socket.
    VfioUser(PathBuf),
    /// A function of this host.
    Vfio(HostPf),
}

impl fmt::Display for PfSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PfSource::VfioUser(path) => path.display().fmt(f),
            PfSource::Vfio(pf) => pf.address.fmt(f),
        }
    }
}

/// A PF of this host.
#[derive(Clone, Debug)]
pub struct HostPf {
    /// Its address.
    pub address: PciAddress,
    /// Take it from its driver.
    pub bind: bool,
    /// The VF token that was asked for.
    pub token: Option<VfToken>,
    /// The kernel's interface.
    pub interface: vfio::Interface,
    /// VFs that were asked for.
    pub vfs: Option<u16>,
}

/// The user to serve as, if there is such a user.
pub const DEFAULT_USER: &str = "qemu-virtio-admin";

/// What is given up before serving.
#[derive(Clone, Debug)]
pub struct PrivilegeConfig {
    /// Another user to become.
    pub user: Option<ServeAs>,
    /// How system calls are filtered, if at all.
    pub seccomp: Option<Unlisted>,
}

/// Everything that serving needs.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Where the PF is.
    pub source: PfSource,
    /// How to drive it.
    pub pf: PfConfig,
    /// The socket to serve on.
    pub socket: SocketOptions,
    /// Rules and limits.
    pub hub: HubConfig,
    /// Longest busy wait for answers.
    pub spin: Duration,
    /// Privileges.
    pub privileges: PrivilegeConfig,
    /// The log.
    pub log: LogConfig,
}

/// A value that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// An option that must be given.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// Not a time.
    #[error("{option} {value}: not a time; give a number and us, ms, s or min, as in 500ms")]
    NotATime {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
    },
    /// A time outside its range.
    #[error("{option} {value}: must be {range}")]
    TimeRange {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is possible.
        range: &'static str,
    },
    /// Not a mode.
    #[error("--socket-mode {0}: not an octal mode such as 0660")]
    NotAMode(String),
    /// A mode that lets everybody in, or nobody.
    #[error(
        "--socket-mode {0}: the owner must have, and others must not have, access; use 0660 or 0600"
    )]
    BadMode(String),
    /// No such user.
    #[error("{option} {value}: no such user")]
    NoSuchUser {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
    },
    /// Not a user to serve as.
    #[error("--user {value}: {why}")]
    NotAUser {
        /// Its value.
        value: String,
        /// Why.
        why: UserError,
    },
    /// Only root can become somebody else.
    #[error("--user {0}: only root can serve as another user")]
    NotRoot(String),
    /// No such group.
    #[error("{option} {value}: no such group")]
    NoSuchGroup {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
    },
    /// What the PF driver says about its part.
    #[error("{0}")]
    Pf(String),
    /// Both sockets are the same.
    #[error("--socket and --pf-socket are the same file, {0}")]
    SameSocket(String),
}

impl From<ConfigError> for Failure {
    fn from(e: ConfigError) -> Self {
        Failure::new(exit::USAGE, e)
    }
}

fn time(option: &'static str, value: &str) -> Result<Duration, ConfigError> {
    parse_time(value).ok_or_else(|| ConfigError::NotATime {
        option,
        value: value.to_owned(),
    })
}

/// A time that something must have: neither nothing nor for ever.
fn deadline(option: &'static str, value: &str) -> Result<Duration, ConfigError> {
    let t = time(option, value)?;
    if t < Duration::from_millis(1) || t > Duration::from_secs(600) {
        return Err(ConfigError::TimeRange {
            option,
            value: value.to_owned(),
            range: "1ms to 10min",
        });
    }
    Ok(t)
}

/// A time that may be nothing.
fn pause(
    option: &'static str,
    value: &str,
    max: Duration,
    range: &'static str,
) -> Result<Duration, ConfigError> {
    let t = time(option, value)?;
    if t > max {
        return Err(ConfigError::TimeRange {
            option,
            value: value.to_owned(),
            range,
        });
    }
    Ok(t)
}

fn user(option: &'static str, value: &str) -> Result<u32, ConfigError> {
    if let Ok(uid) = value.parse() {
        return Ok(uid);
    }
    match User::from_name(value) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        _ => Err(ConfigError::NoSuchUser {
            option,
            value: value.to_owned(),
        }),
    }
}

fn group(option: &'static str, value: &str) -> Result<u32, ConfigError> {
    if let Ok(gid) = value.parse() {
        return Ok(gid);
    }
    match Group::from_name(value) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        _ => Err(ConfigError::NoSuchGroup {
            option,
            value: value.to_owned(),
        }),
    }
}

/// The user to become, if it is another one.
fn serve_as(asked: Option<&str>) -> Result<Option<ServeAs>, ConfigError> {
    let root = rustix::process::geteuid().is_root();
    let user = match asked {
        Some(value) => Some(value.parse::<ServeAs>().map_err(|why| {
            let value = value.to_owned();
            ConfigError::NotAUser { value, why }
        })?),
        None if root => ServeAs::named(DEFAULT_USER),
        None => None,
    };
    let Some(user) = user.filter(|user| !user.is_current()) else {
        return Ok(None);
    };
    match root {
        true => Ok(Some(user)),
        false => Err(ConfigError::NotRoot(user.name)),
    }
}

fn mode(value: &str) -> Result<u32, ConfigError> {
    let mode = u32::from_str_radix(value, 8)
        .ok()
        .filter(|m| *m <= 0o777)
        .ok_or_else(|| ConfigError::NotAMode(value.to_owned()))?;
    if mode & 0o007 != 0 || mode & 0o600 != 0o600 {
        return Err(ConfigError::BadMode(value.to_owned()));
    }
    Ok(mode)
}

impl PfSource {
    /// What the command line says.
    ///
    /// # Errors
    /// If it names no PF.
    pub fn of(args: &PfArgs) -> Result<Self, ConfigError> {
        match (args.pf, &args.pf_socket) {
            (Some(address), _) => Ok(PfSource::Vfio(HostPf {
                address,
                bind: args.bind,
                token: args.vf_token,
                interface: match args.vfio_interface {
                    Interface::Auto => vfio::Interface::Auto,
                    Interface::Group => vfio::Interface::Group,
                    Interface::Iommufd => vfio::Interface::Iommufd,
                },
                vfs: args.vfs,
            })),
            (None, Some(path)) => Ok(PfSource::VfioUser(path.clone())),
            (None, None) => Err(ConfigError::Missing("--pf or --pf-socket")),
        }
    }

    /// Where QEMU looks for the socket.
    pub fn default_socket(&self) -> Option<PathBuf> {
        match self {
            PfSource::VfioUser(_) => None,
            PfSource::Vfio(pf) => Some(Path::new(RUN_DIR).join(format!("{}.sock", pf.address))),
        }
    }
}

impl TryFrom<ServeArgs> for ServeConfig {
    type Error = ConfigError;

    fn try_from(args: ServeArgs) -> Result<Self, ConfigError> {
        let ServeArgs {
            pf,
            admin,
            socket,
            privileges,
            log,
        } = args;
        let source = PfSource::of(&pf)?;
        let default = source.default_socket();
        let path = socket
            .socket
            .or(default)
            .ok_or(ConfigError::Missing("--socket"))?;
        if matches!(&source, PfSource::VfioUser(pf_socket) if *pf_socket == path) {
            return Err(ConfigError::SameSocket(path.display().to_string()));
        }
        let second = Duration::from_secs(1);
        let pf = PfConfig {
            // With a PF of the host, its state decides.
            vfs: match source {
                PfSource::VfioUser(_) => pf.vfs.ok_or(ConfigError::Missing("--vfs"))?,
                PfSource::Vfio(_) => pf.vfs.unwrap_or(1),
            },
            existing_vfs: match pf.existing_vfs {
                Existing::Same => ExistingVfs::RequireSame,
                Existing::Adopt => ExistingVfs::Adopt,
                Existing::Replace => ExistingVfs::Replace,
            },
            access_platform: if pf.allow_no_access_platform {
                AccessPlatform::Override
            } else {
                AccessPlatform::Require
            },
            command_timeout: deadline("--command-timeout", &admin.command_timeout)?,
            reset_timeout: deadline("--reset-timeout", &admin.reset_timeout)?,
            start_timeout: deadline("--start-timeout", &admin.start_timeout)?,
            retry: RetryPolicy {
                max: admin.retry,
                first_delay: pause("--retry-delay", &admin.retry_delay, second, "at most 1s")?,
                max_delay: pause(
                    "--retry-max-delay",
                    &admin.retry_max_delay,
                    10 * second,
                    "at most 10s",
                )?,
            },
            queue_size: admin.queue_size,
            ..PfConfig::default()
        };
        pf.check().map_err(ConfigError::Pf)?;
        let mut policy = Policy::own_user();
        for value in &socket.allow_uid {
            policy.uids.push(user("--allow-uid", value)?);
        }
        for value in &socket.allow_gid {
            policy.gids.push(group("--allow-gid", value)?);
        }
        for value in &socket.allow_unproven_uid {
            policy
                .unproven_uids
                .push(user("--allow-unproven-uid", value)?);
        }
        let owner = socket.socket_owner.as_deref();
        let owning_group = socket.socket_group.as_deref();
        Ok(ServeConfig {
            source,
            pf,
            socket: SocketOptions {
                path,
                mode: mode(&socket.socket_mode)?,
                owner: owner.map(|v| user("--socket-owner", v)).transpose()?,
                group: owning_group
                    .map(|v| group("--socket-group", v))
                    .transpose()?,
            },
            spin: pause(
                "--spin",
                &admin.spin,
                Duration::from_millis(10),
                "at most 10ms",
            )?,
            hub: HubConfig {
                policy,
                max_unopened: usize::from(socket.max_connections),
                write_timeout: deadline("--client-timeout", &socket.client_timeout)?,
                drain_timeout: deadline("--drain-timeout", &socket.drain_timeout)?,
                ..HubConfig::default()
            },
            privileges: PrivilegeConfig {
                user: serve_as(privileges.user.as_deref())?,
                seccomp: match privileges.seccomp {
                    SeccompMode::Kill => Some(Unlisted::Kill),
                    SeccompMode::Log => Some(Unlisted::Log),
                    SeccompMode::Off => None,
                },
            },
            log: LogConfig {
                filter: log.log,
                // systemd says on which stream it connects a service to the journal.
                format: log.log_format.unwrap_or_else(|| {
                    match std::env::var_os("JOURNAL_STREAM") {
                        Some(_) => LogFormat::Journal,
                        None => LogFormat::Text,
                    }
                }),
            },
        })
    }
}

#[cfg(test)]
mod tests;
