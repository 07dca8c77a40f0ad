// SPDX-License-Identifier: GPL-2.0-or-later
//! VF Enable, NumVFs and VF MSE of the PF's SR-IOV capability.

use virtio_modern_spec::sriov::{CONTROL_VF_ENABLE, CONTROL_VF_MSE};

use crate::config::SrIovCapability;
use crate::effect::FunctionId;
use crate::model::Model;
use crate::violation::Violation;

impl Model {
    /// The driver wrote to the SR-IOV capability, which had `before` (control, NumVFs).
    pub(crate) fn sriov_written(&mut self, before: (u16, u16)) {
        let Some((control, mut num)) = self.pf.core.config.sriov() else {
            return;
        };
        let was_on = before.0 & CONTROL_VF_ENABLE != 0;
        let on = control & CONTROL_VF_ENABLE != 0;
        if num != before.1 && (was_on || num > self.config.total_vfs) {
            let value = num;
            self.shared
                .violation(FunctionId::Pf, Violation::NumVfs { value });
            num = before.1;
            self.pf.core.config.set_sriov(control, num);
        }
        self.vf_memory = control & CONTROL_VF_MSE != 0;
        if on && !was_on {
            if !self.sriov_negotiated {
                self.shared
                    .violation(FunctionId::Pf, Violation::VfsWithoutSrIov);
            }
            self.bring_up(num);
        } else if was_on && !on {
            self.bring_down();
        }
        self.settle();
    }

    /// For a front end that shows an SR-IOV capability of its own: VFs 1 to `num_vfs` live from
    /// now on, 0 ends them all. Without such a front end this does nothing.
    pub fn set_vf_enable(&mut self, num_vfs: u16) {
        if self.config.sriov != SrIovCapability::FrontEnd {
            return;
        }
        if self.live > 0 {
            self.bring_down();
        }
        let num_vfs = num_vfs.min(self.config.total_vfs);
        let control = match num_vfs {
            0 => 0,
            _ => CONTROL_VF_ENABLE | CONTROL_VF_MSE,
        };
        self.pf.core.config.set_sriov(control, num_vfs);
        if num_vfs > 0 {
            self.bring_up(num_vfs);
            self.vf_memory = true;
        }
        self.settle();
    }

    /// VFs without a driver that enables them; VF Enable shows it.
    pub(crate) fn start_vfs(&mut self, num_vfs: u16) {
        self.pf
            .core
            .config
            .set_sriov(CONTROL_VF_ENABLE | CONTROL_VF_MSE, num_vfs);
        self.vf_memory = true;
        self.bring_up(num_vfs);
        self.settle();
    }
}
