// SPDX-License-Identifier: GPL-2.0-or-later
//! The start: polls until the PF runs, or why it does not.

use std::time::{Duration, Instant};

use pci_transport::PciFunction;

use crate::config::PfConfig;
use crate::error::PfError;
use crate::pf::Pf;
use crate::types::PfState;

impl Pf {
    /// Brings the PF up, enables the VFs, agrees on the commands and asks for the notification
    /// addresses. Blocks, at most for [`PfConfig::start_timeout`]. On failure the device is left
    /// reset, or with FAILED set.
    pub fn start(function: Box<dyn PciFunction>, config: PfConfig) -> Result<Pf, PfError> {
        config.check().map_err(PfError::Config)?;
        let mut pf = Pf::new(function, config)?;
        pf.check_vfs()?;
        let begun = Instant::now();
        let started = pf.run_until_started(begun);
        match started {
            Ok(()) => Ok(pf),
            Err(error) => {
                tracing::error!(function = %pf.id, %error, "start failed");
                let (_nothing, stopped) = pf.shutdown();
                if let Err(error) = stopped {
                    tracing::warn!(function = %pf.id, %error, "not reset after a failed start");
                }
                Err(error)
            }
        }
    }

    fn run_until_started(&mut self, begun: Instant) -> Result<(), PfError> {
        let end = begun + self.config.start_timeout;
        loop {
            let now = Instant::now();
            self.poll(now);
            if let Some(error) = self.failure.take() {
                return Err(error);
            }
            match &self.state {
                PfState::Running => return Ok(()),
                PfState::Failed(cause) => {
                    return Err(PfError::Unsuitable {
                        function: self.id.clone(),
                        why: cause.to_string(),
                    })
                }
                _ => {}
            }
            if now >= end {
                return Err(PfError::TimedOut {
                    function: self.id.clone(),
                    what: "start",
                    after: self.config.start_timeout,
                });
            }
            let until = self.next_deadline().map_or(end, |t| t.min(end));
            self.sleep(until.saturating_duration_since(Instant::now()))?;
        }
    }

    /// Sleeps until an interrupt or for `time`, but never so long that a lost interrupt would
    /// matter.
    fn sleep(&self, time: Duration) -> Result<(), PfError> {
        let time = time.min(Duration::from_millis(10));
        match self.vectors.of_queue(0).and_then(|i| self.irqs.get(i)) {
            Some(irq) => {
                irq.wait(time)?;
            }
            None => std::thread::sleep(time.min(Duration::from_millis(1))),
        }
        Ok(())
    }
}
