// SPDX-License-Identifier: GPL-2.0-or-later
//! How a PF is to be driven.

use std::time::Duration;

/// What to do about VFs that are enabled already when the driver starts, as after a restart of
/// this process: they may belong to running guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ExistingVfs {
    /// Keep them if their number is the one asked for, otherwise refuse to start.
    #[default]
    RequireSame,
    /// Keep them, whatever their number.
    Adopt,
    /// Disable them and enable the number asked for. Guests that use them lose their device.
    Replace,
}

/// What to do about a device that does not offer ACCESS_PLATFORM while its addresses go through
/// an IOMMU: it might use them as physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AccessPlatform {
    /// Refuse to start.
    #[default]
    Require,
    /// Warn and go on.
    Override,
}

/// Retries of a command that the device answered with EAGAIN, or with a qualifier that makes a
/// retry sensible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Retries after the first attempt.
    pub max: u32,
    /// Wait before the first retry; doubled each time.
    pub first_delay: Duration,
    /// Longest wait before a retry.
    pub max_delay: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            max: 16,
            first_delay: Duration::from_micros(100),
            max_delay: Duration::from_millis(50),
        }
    }
}

/// Trial commands of a VF that does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrialPolicy {
    /// Wait after the second command in a row that was not answered; doubled after each further one.
    pub first_delay: Duration,
    /// Longest wait between two trials.
    pub max_delay: Duration,
}

impl TrialPolicy {
    /// Wait before the next trial after so many that failed. One lost command is none: what comes
    /// behind it is sent at once.
    pub(crate) fn delay(&self, retries: u32) -> Duration {
        let Some(doubled) = retries.checked_sub(1) else {
            return Duration::ZERO;
        };
        self.first_delay
            .saturating_mul(1 << doubled.min(16))
            .min(self.max_delay)
    }
}

impl Default for TrialPolicy {
    fn default() -> Self {
        TrialPolicy {
            first_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(60),
        }
    }
}

/// Recovery from a device that failed or stopped answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryPolicy {
    /// Resets in a row, with no command completed in between, before the PF is given up.
    pub max_attempts: u32,
    /// Wait between a failed attempt and the next one; doubled each time.
    pub delay: Duration,
}

impl Default for RecoveryPolicy {
    fn default() -> Self {
        RecoveryPolicy {
            max_attempts: 4,
            delay: Duration::from_millis(100),
        }
    }
}

/// Configuration of [`Pf`](crate::Pf).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PfConfig {
    /// VFs to enable, at least 1.
    pub vfs: u16,
    /// About VFs that exist already.
    pub existing_vfs: ExistingVfs,
    /// Longest time from [`submit`](crate::Pf::submit) to completion, waiting and retries
    /// included.
    pub command_timeout: Duration,
    /// Longest time that a reset may take until device_status reads 0.
    pub reset_timeout: Duration,
    /// Longest time for everything that [`start`](crate::Pf::start) does.
    pub start_timeout: Duration,
    /// Retries of one command.
    pub retry: RetryPolicy,
    /// VFs that do not answer.
    pub trial: TrialPolicy,
    /// Recovery of the PF.
    pub recovery: RecoveryPolicy,
    /// Largest admin queue to set up, in descriptors; a power of two from 4 on. Two descriptors
    /// make a command in flight.
    pub queue_size: u16,
    /// Operations that may wait behind the one in flight, per VF.
    pub vf_queue: usize,
    /// About devices without ACCESS_PLATFORM.
    pub access_platform: AccessPlatform,
    /// Use interrupts if the function has vectors; otherwise the owner polls.
    pub interrupts: bool,
}

impl Default for PfConfig {
    fn default() -> Self {
        PfConfig {
            vfs: 1,
            existing_vfs: ExistingVfs::default(),
            command_timeout: Duration::from_secs(2),
            reset_timeout: Duration::from_secs(5),
            start_timeout: Duration::from_secs(20),
            retry: RetryPolicy::default(),
            trial: TrialPolicy::default(),
            recovery: RecoveryPolicy::default(),
            queue_size: 256,
            vf_queue: 32,
            access_platform: AccessPlatform::default(),
            interrupts: true,
        }
    }
}

impl PfConfig {
    /// Says what is wrong with the values, if anything.
    pub fn check(&self) -> Result<(), String> {
        if self.vfs == 0 {
            return Err("the number of VFs must be at least 1".into());
        }
        if !self.queue_size.is_power_of_two() || !(4..=32768).contains(&self.queue_size) {
            return Err(format!(
                "queue size {} is not a power of two from 4 to 32768",
                self.queue_size
            ));
        }
        if self.vf_queue == 0 {
            return Err("at least one operation per VF must be allowed".into());
        }
        for (name, value) in [
            ("command timeout", self.command_timeout),
            ("reset timeout", self.reset_timeout),
            ("start timeout", self.start_timeout),
        ] {
            if value.is_zero() || value > Duration::from_secs(3600) {
                return Err(format!("{name} {value:?} is not between 0 and an hour"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_cannot_work_are_named() {
        type Change = fn(&mut PfConfig);
        let cases: [(Change, &str); 8] = [
            (|c| c.vfs = 0, "number of VFs"),
            (|c| c.queue_size = 2, "queue size 2"),
            (|c| c.queue_size = 100, "queue size 100"),
            (|c| c.queue_size = 0, "queue size 0"),
            (|c| c.vf_queue = 0, "one operation per VF"),
            (|c| c.command_timeout = Duration::ZERO, "command timeout"),
            (|c| c.reset_timeout = Duration::MAX, "reset timeout"),
            (|c| c.start_timeout = Duration::ZERO, "start timeout"),
        ];
        assert_eq!(PfConfig::default().check(), Ok(()));
        for (change, text) in cases {
            let mut config = PfConfig::default();
            change(&mut config);
            let why = config.check().unwrap_err();
            assert!(why.contains(text), "{why}");
        }
    }

    #[test]
    fn the_periods_grow_up_to_a_limit() {
        let policy = TrialPolicy {
            first_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(10),
        };
        let delays = [0, 1, 2, 3, 4, 5, 100, u32::MAX].map(|n| policy.delay(n).as_secs());
        assert_eq!(delays, [0, 1, 2, 4, 8, 10, 10, 10]);
    }
}
