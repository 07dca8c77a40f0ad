// SPDX-License-Identifier: GPL-2.0-or-later
//! Serving: the socket, the PF, the loop, the end.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use helper_server::listener::Listener;
use helper_server::reactor::Notice;
use helper_server::{AccessBackend, Ended, Hub, PfBackend, Reactor, ReactorConfig};

use crate::config::ServeConfig;
use crate::exit::{self, Failure};
use crate::{backend, fdstore, notify, privileges};

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

/// Serves until a signal comes, the PF fails or the host wants it back.
///
/// # Errors
/// [`Failure`] with the exit code.
pub fn serve(config: &ServeConfig) -> Result<(), Failure> {
    let inherited = fdstore::take();
    let stop = stop_signal().map_err(|e| Failure::new(exit::RUNTIME, e))?;
    raise_file_limit();
    let user = config.privileges.user.as_ref();
    backend::make_run_dir(&config.socket.path, user).map_err(|e| Failure::new(exit::SOCKET, e))?;
    privileges::check_directory(config)?;
    privileges::join_socket_group(config);
    // Before the PF is touched: another helper may be using it.
    let listener = Listener::bind(&config.socket).map_err(|e| Failure::new(exit::SOCKET, e))?;
    let (backend, kept) =
        backend::start(config, inherited).map_err(|e| Failure::new(exit::PF, e))?;
    let info = backend.info();
    tracing::info!(
        pf = %info.id,
        virtio_id = info.vf_virtio_id(),
        vfs = info.num_vfs,
        serial = format!("{:016x}", info.serial),
        commands = format!("{:#x}", info.commands.0),
        socket = %listener.path().display(),
        "Serving"
    );
    let status = format!("Serving {} VFs of {}", info.num_vfs, info.id);
    let ended = run(config, backend, listener, stop, &status);
    if matches!(&ended, Err(failure) if failure.code == exit::RETURNED) {
        // The host waits until nobody has the PF open.
        kept.forget();
    }
    ended
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
        spin: config.spin,
    };
    let hub = Hub::new(backend, config.hub.clone());
    let reactor = Reactor::new(hub, listener, stop, reactor_config)
        .map_err(|e| Failure::new(exit::RUNTIME, e))?;
    privileges::drop_all(config)?;
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
        Ended::Returned => Err(Failure::text(
            exit::RETURNED,
            "the host wanted the PF back and has it",
        )),
        Ended::PfFailed(why) => Err(Failure::text(exit::PF, format!("PF failed: {why}"))),
        Ended::Broken(why) => Err(Failure::text(exit::RUNTIME, why)),
    }
}
