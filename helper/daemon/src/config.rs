// SPDX-License-Identifier: GPL-2.0-or-later
//! What the command line means, checked.

use std::time::Duration;

use helper_server::listener::SocketOptions;
use helper_server::{HubConfig, Policy};
use nix::unistd::{Group, User};
use virtio_pf::{AccessPlatform, ExistingVfs, PfConfig, RetryPolicy};

use crate::args::{Existing, LogFormat, ServeArgs};
use crate::exit::{self, Failure};
use crate::source::PfSource;

/// How to log.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Which lines, in tracing-subscriber's filter language.
    pub filter: String,
    /// How they look.
    pub format: LogFormat,
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

/// A number and a unit.
pub fn parse_time(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    match unit {
        "us" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "min" => number.checked_mul(60).map(Duration::from_secs),
        _ => None,
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

impl TryFrom<ServeArgs> for ServeConfig {
    type Error = ConfigError;

    fn try_from(args: ServeArgs) -> Result<Self, ConfigError> {
        let source = PfSource::of(&args)?;
        let default = source.default_socket();
        let path = args
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
                PfSource::VfioUser(_) => args.vfs.ok_or(ConfigError::Missing("--vfs"))?,
                PfSource::Vfio(_) => args.vfs.unwrap_or(1),
            },
            existing_vfs: match args.existing_vfs {
                Existing::Same => ExistingVfs::RequireSame,
                Existing::Adopt => ExistingVfs::Adopt,
                Existing::Replace => ExistingVfs::Replace,
            },
            access_platform: if args.allow_no_access_platform {
                AccessPlatform::Override
            } else {
                AccessPlatform::Require
            },
            command_timeout: deadline("--command-timeout", &args.command_timeout)?,
            reset_timeout: deadline("--reset-timeout", &args.reset_timeout)?,
            start_timeout: deadline("--start-timeout", &args.start_timeout)?,
            retry: RetryPolicy {
                max: args.retry,
                first_delay: pause("--retry-delay", &args.retry_delay, second, "at most 1s")?,
                max_delay: pause(
                    "--retry-max-delay",
                    &args.retry_max_delay,
                    10 * second,
                    "at most 10s",
                )?,
            },
            queue_size: args.queue_size,
            max_spin: pause(
                "--spin",
                &args.spin,
                Duration::from_millis(10),
                "at most 10ms",
            )?,
            ..PfConfig::default()
        };
        pf.check().map_err(ConfigError::Pf)?;
        let mut policy = Policy::own_user();
        for value in &args.allow_uid {
            policy.uids.push(user("--allow-uid", value)?);
        }
        for value in &args.allow_gid {
            policy.gids.push(group("--allow-gid", value)?);
        }
        for value in &args.allow_unproven_uid {
            policy
                .unproven_uids
                .push(user("--allow-unproven-uid", value)?);
        }
        let owner = args.socket_owner.as_deref();
        let owning_group = args.socket_group.as_deref();
        Ok(ServeConfig {
            source,
            pf,
            socket: SocketOptions {
                path,
                mode: mode(&args.socket_mode)?,
                owner: owner.map(|v| user("--socket-owner", v)).transpose()?,
                group: owning_group
                    .map(|v| group("--socket-group", v))
                    .transpose()?,
            },
            hub: HubConfig {
                policy,
                max_unopened: usize::from(args.max_connections),
                write_timeout: deadline("--client-timeout", &args.client_timeout)?,
                drain_timeout: deadline("--drain-timeout", &args.drain_timeout)?,
                ..HubConfig::default()
            },
            log: LogConfig {
                filter: args.log,
                // systemd says on which stream it connects a service to the journal.
                format: args.log_format.unwrap_or_else(|| {
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
mod tests {
    use super::*;
    use clap::Parser;

    fn config(extra: &[&str]) -> Result<ServeConfig, String> {
        let base = [
            "helper",
            "--pf-socket",
            "/a",
            "--vfs",
            "4",
            "--socket",
            "/b",
        ];
        let args = crate::args::Args::try_parse_from(base.iter().chain(extra))
            .map_err(|e| e.to_string())?;
        ServeConfig::try_from(args.serve).map_err(|e| e.to_string())
    }

    #[test]
    fn the_argument_parser_is_consistent() {
        use clap::CommandFactory;
        crate::args::Args::command().debug_assert();
    }

    #[test]
    fn times() {
        let ms = Duration::from_millis;
        assert_eq!(parse_time("250us"), Some(Duration::from_micros(250)));
        assert_eq!(parse_time("5ms"), Some(ms(5)));
        assert_eq!(parse_time("2s"), Some(ms(2000)));
        assert_eq!(parse_time("3min"), Some(ms(180_000)));
        for bad in [
            "",
            "5",
            "s",
            "-1s",
            "1.5s",
            " 1s",
            "1 s",
            "1h",
            "99999999999999999999s",
            "18446744073709551615min",
        ] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let c = config(&[]).unwrap();
        assert_eq!(c.pf.vfs, 4);
        assert_eq!(c.pf.command_timeout, Duration::from_secs(2));
        assert_eq!(c.pf.retry, RetryPolicy::default());
        assert_eq!(c.pf.existing_vfs, ExistingVfs::RequireSame);
        assert_eq!(c.socket.mode, 0o660);
        assert_eq!((c.socket.owner, c.socket.group), (None, None));
        assert_eq!(c.hub.policy, Policy::own_user());
        assert_eq!(c.hub.max_unopened, 64);
    }

    #[test]
    fn a_pf_of_the_host_needs_no_more_than_its_address() {
        let of = |extra: &[&str]| {
            let args = ["helper", "--pf", "03:00.0"];
            let args = crate::args::Args::try_parse_from(args.iter().chain(extra)).unwrap();
            ServeConfig::try_from(args.serve).unwrap()
        };
        let c = of(&[]);
        let PfSource::Vfio(pf) = &c.source else {
            panic!("{:?}", c.source)
        };
        assert_eq!(pf.address.to_string(), "0000:03:00.0");
        assert_eq!((pf.bind, pf.token, pf.vfs), (false, None, None));
        assert_eq!(
            c.socket.path.to_str(),
            Some("/run/qemu-virtio-admin/0000:03:00.0.sock")
        );
        assert!(c.hub.policy.unproven_uids.is_empty());
        let token = "14d63f20-8445-11ea-8900-1f9ce7d5650d";
        let c = of(&[
            "--vfs",
            "8",
            "--bind",
            "--vf-token",
            token,
            "--vfio-interface",
            "group",
            "--socket",
            "/b",
            "--allow-unproven-uid",
            "64055",
        ]);
        let PfSource::Vfio(pf) = &c.source else {
            panic!("{:?}", c.source)
        };
        assert_eq!((pf.bind, pf.vfs, c.pf.vfs), (true, Some(8), 8));
        assert_eq!(pf.token.unwrap().to_string(), token);
        assert_eq!(pf.interface, pci_transport::vfio::Interface::Group);
        assert_eq!(c.socket.path.to_str(), Some("/b"));
        assert_eq!(c.hub.policy.unproven_uids, [64055]);
    }

    #[test]
    fn values_are_taken_over() {
        let c = config(&[
            "--allow-uid",
            "root",
            "--allow-uid",
            "64055",
            "--allow-gid",
            "107",
            "--socket-owner",
            "root",
            "--socket-group",
            "0",
            "--socket-mode",
            "600",
            "--command-timeout",
            "500ms",
            "--retry",
            "3",
            "--spin",
            "0us",
            "--existing-vfs",
            "adopt",
        ])
        .unwrap();
        assert!(c.hub.policy.uids.contains(&64055));
        assert_eq!(c.hub.policy.gids, [107]);
        assert_eq!((c.socket.owner, c.socket.group), (Some(0), Some(0)));
        assert_eq!(c.socket.mode, 0o600);
        assert_eq!(c.pf.command_timeout, Duration::from_millis(500));
        assert_eq!(c.pf.retry.max, 3);
        assert_eq!(c.pf.max_spin, Duration::ZERO);
        assert_eq!(c.pf.existing_vfs, ExistingVfs::Adopt);
    }

    #[test]
    fn each_wrong_value_is_named() {
        for (args, text) in [
            (
                &["--socket-mode", "0666"][..],
                "--socket-mode 0666: the owner must have",
            ),
            (
                &["--socket-mode", "0060"],
                "--socket-mode 0060: the owner must have",
            ),
            (
                &["--socket-mode", "rw"],
                "--socket-mode rw: not an octal mode",
            ),
            (
                &["--socket-mode", "10660"],
                "--socket-mode 10660: not an octal mode",
            ),
            (
                &["--command-timeout", "2"],
                "--command-timeout 2: not a time",
            ),
            (
                &["--command-timeout", "0s"],
                "--command-timeout 0s: must be 1ms to 10min",
            ),
            (
                &["--client-timeout", "11min"],
                "--client-timeout 11min: must be 1ms to 10min",
            ),
            (
                &["--retry-delay", "2s"],
                "--retry-delay 2s: must be at most 1s",
            ),
            (&["--spin", "1s"], "--spin 1s: must be at most 10ms"),
            (
                &["--queue-size", "100"],
                "queue size 100 is not a power of two",
            ),
            (
                &["--allow-uid", "no-such-user"],
                "--allow-uid no-such-user: no such user",
            ),
            (
                &["--socket-owner", "no-such-user"],
                "--socket-owner no-such-user: no such user",
            ),
            (
                &["--socket-group", "no-such"],
                "--socket-group no-such: no such group",
            ),
            (&["--allow-gid", "-5"], "unexpected argument"),
        ] {
            let got = config(args).unwrap_err();
            assert!(got.contains(text), "{args:?}: {got}");
        }
    }
}
