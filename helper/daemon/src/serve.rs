// SPDX-License-Identifier: GPL-2.0-or-later
//! Serving: the socket, the PF, the loop, the end.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use helper_server::listener::Listener;
use helper_server::reactor::Notice;
use helper_server::{AccessBackend, Ended, Hub, PfBackend, Reactor, ReactorConfig};
use pci_transport::vfio_user::{Deadlines, VfioUserFunction};
use virtio_pf::Pf;

use crate::config::ServeConfig;
use crate::exit::{self, Failure};
use crate::{notify, privileges};

/// Becomes readable at SIGTERM or SIGINT.
fn stop_signal() -> std::io::Result<OwnedFd> {
    let (read, write) = UnixStream::pair()?;
    for signal in [
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGHUP,
    ] {
        signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
    }
    Ok(read.into())
}

/// A number that tells this session with the PF from earlier ones.
fn session_number() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as u64);
    since ^ u64::from(std::process::id()) << 48
}

/// Each client is an open file; allow as many as the administrator permits.
fn raise_file_limit() {
    use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(e) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!("Limit of open files not raised: {e}");
    }
}

fn connect_pf(config: &ServeConfig) -> anyhow::Result<PfBackend> {
    let usual = Deadlines::default();
    let deadlines = Deadlines {
        connect: config.pf.start_timeout,
        request: usual.request.min(config.pf.start_timeout),
    };
    let function = VfioUserFunction::connect(&config.pf_socket, deadlines)
        .with_context(|| format!("PF {}", config.pf_socket.display()))?;
    let pf = Pf::start(Box::new(function), config.pf.clone())?;
    Ok(PfBackend::new(
        pf,
        "vfio-user",
        config.pf.command_timeout,
        session_number(),
    ))
}

/// Serves until a signal comes or the PF fails.
///
/// # Errors
/// [`Failure`] with the exit code.
pub fn serve(config: &ServeConfig) -> Result<(), Failure> {
    let stop = stop_signal().map_err(|e| Failure::new(exit::RUNTIME, e))?;
    raise_file_limit();
    // Before the PF is touched: another helper may be using it.
    let listener = Listener::bind(&config.socket).map_err(|e| Failure::new(exit::SOCKET, e))?;
    let backend = connect_pf(config).map_err(|e| Failure::new(exit::PF, e))?;
    privileges::drop_all();
    let info = backend.info();
    tracing::info!(
        pf = info.id,
        virtio_id = info.virtio_id,
        vfs = info.num_vfs,
        serial = format!("{:016x}", info.serial),
        commands = format!("{:#x}", info.commands),
        socket = %listener.path().display(),
        "Serving"
    );
    let status = format!("Serving {} VFs of {}", info.num_vfs, info.id);
    run(config, backend, listener, stop, &status)
}

fn run(
    config: &ServeConfig,
    backend: PfBackend,
    listener: Listener,
    stop: OwnedFd,
    status: &str,
) -> Result<(), Failure> {
    let reactor_config = ReactorConfig {
        tick: notify::interval(),
        ..ReactorConfig::default()
    };
    let hub = Hub::new(backend, config.hub.clone());
    let reactor = Reactor::new(hub, listener, stop, reactor_config)
        .map_err(|e| Failure::new(exit::RUNTIME, e))?;
    notify::ready(status);
    println!("ready");
    let _closed = std::io::stdout().flush();
    let ended = reactor.run(|n| match n {
        Notice::Tick { connections, open } => {
            notify::alive(&format!("{status}; {open} open, {connections} connections"));
        }
        Notice::Stopping => {
            tracing::info!("Stopping");
            notify::stopping();
        }
    });
    match ended {
        Ended::Stopped => {
            tracing::info!("Stopped");
            Ok(())
        }
        Ended::PfFailed(why) => Err(Failure::text(exit::PF, format!("PF failed: {why}"))),
        Ended::Broken(why) => Err(Failure::text(exit::RUNTIME, why)),
    }
}
