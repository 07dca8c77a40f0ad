// SPDX-License-Identifier: GPL-2.0-or-later
//! What the service manager is told. Without one, nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;

fn tell(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(false, states) {
        tracing::debug!("Service manager not reached: {e}");
    }
}

/// Serving.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Alive, and what it is doing.
pub(crate) fn alive(status: &str) {
    tell(&[NotifyState::Watchdog, NotifyState::Status(status)]);
}

/// Going away.
pub(crate) fn stopping() {
    tell(&[
        NotifyState::Stopping,
        NotifyState::Status("Finishing accesses in flight"),
    ]);
}

/// How often [`alive`] must be called; half of what the service manager allows.
pub(crate) fn interval() -> Option<Duration> {
    let mut usec = 0;
    if sd_notify::watchdog_enabled(false, &mut usec) {
        return Some(Duration::from_micros(usec / 2).max(Duration::from_millis(10)));
    }
    std::env::var_os("NOTIFY_SOCKET").map(|_| Duration::from_secs(10))
}
