// SPDX-License-Identifier: GPL-2.0-or-later

//! At most one log line per second for what a guest or a peer can cause.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

const INTERVAL: Duration = Duration::from_secs(1);

/// Counts lines and lets one through per second.
///
/// When the last one was let through, and how many were not since.
#[derive(Debug, Default)]
pub struct RateLimit(Mutex<(Option<Instant>, u64)>);

impl RateLimit {
    /// Whether a line may be written now; if so, how many were left out since the last one.
    pub fn allow(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = |last| now.saturating_duration_since(last);
        if state.0.is_some_and(|last| since(last) < INTERVAL) {
            state.1 = state.1.saturating_add(1);
            return None;
        }
        state.0 = Some(now);
        Some(std::mem::take(&mut state.1))
    }

    /// Passes `text` to `report` if a line may be written now.
    pub fn report(&self, report: fn(&str), text: fmt::Arguments<'_>) {
        match self.allow(Instant::now()) {
            None => {}
            Some(0) => report(&text.to_string()),
            Some(more) => report(&format!("{text} ({more} more messages were left out)")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_second_and_the_rest_is_counted() {
        let limit = RateLimit::default();
        let start = Instant::now();
        assert_eq!(limit.allow(start), Some(0));
        for ms in [0, 1, 500, 999] {
            assert_eq!(limit.allow(start + Duration::from_millis(ms)), None);
        }
        assert_eq!(limit.allow(start + Duration::from_millis(1000)), Some(4));
        assert_eq!(limit.allow(start + Duration::from_millis(1001)), None);
        assert_eq!(limit.allow(start + Duration::from_millis(2500)), Some(1));
    }
}
