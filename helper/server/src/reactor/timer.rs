// SPDX-License-Identifier: GPL-2.0-or-later
//! The loop's clock: a timerfd among what epoll waits for, since epoll's own limit counts whole
//! milliseconds and the device answers in microseconds.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::time::{
    timerfd_create, timerfd_settime, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags,
    Timespec,
};

/// Longest time that is waited for at once.
const LONGEST: Duration = Duration::from_secs(3600);

/// Becomes readable at a deadline.
#[derive(Debug)]
pub(super) struct Timer {
    fd: OwnedFd,
    armed: Option<Instant>,
}

impl Timer {
    /// One that waits for nothing.
    pub(super) fn new() -> Result<Self, Errno> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Timer { fd, armed: None })
    }

    /// Fires at `deadline`. One that is set for an earlier time stays so: to be woken once too often
    /// costs less than to set it anew for each request.
    pub(super) fn set(&mut self, deadline: Instant, now: Instant) -> Result<(), Errno> {
        if self.armed.is_some_and(|armed| armed <= deadline) {
            return Ok(());
        }
        // Zero would mean never.
        let left = deadline.saturating_duration_since(now);
        let left = left.clamp(Duration::from_nanos(1), LONGEST);
        let spec = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            },
        };
        timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &spec)?;
        self.armed = Some(deadline);
        Ok(())
    }

    /// It has fired.
    pub(super) fn take(&mut self) {
        let mut count = [0; 8];
        let _none = rustix::io::read(&self.fd, &mut count);
        self.armed = None;
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{poll, PollFd, PollFlags};

    fn wait(timer: &Timer) {
        let mut fds = [PollFd::new(timer, PollFlags::IN)];
        assert_eq!(poll(&mut fds, None), Ok(1));
    }

    #[test]
    fn it_fires_at_its_time_and_not_a_millisecond_later() {
        let mut timer = Timer::new().unwrap();
        let after = Duration::from_micros(100);
        // A busy machine makes many a wait long, but not all.
        let last_resort = Instant::now() + Duration::from_secs(60);
        loop {
            let begun = Instant::now();
            timer.set(begun + after, begun).unwrap();
            wait(&timer);
            timer.take();
            let took = begun.elapsed();
            assert!(took >= after, "{took:?}");
            if took < Duration::from_millis(1) {
                return;
            }
            assert!(begun < last_resort);
        }
    }

    #[test]
    fn only_an_earlier_deadline_sets_it_anew() {
        let mut timer = Timer::new().unwrap();
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        timer.set(at(20), now).unwrap();
        timer.set(at(30), now).unwrap();
        assert_eq!(timer.armed, Some(at(20)));
        timer.set(at(10), now).unwrap();
        assert_eq!(timer.armed, Some(at(10)));
        wait(&timer);
        timer.take();
        // Over already: at once.
        timer.set(now, at(10)).unwrap();
        wait(&timer);
    }
}
