// SPDX-License-Identifier: GPL-2.0-or-later
//! The control queue: task management and asynchronous notification.

use super::request::{decode_control, response, Address, Control, Function, TMF_LEN};
use super::sense::Sense;
use super::task::Tasks;
use crate::device::DeviceCtx;
use crate::queue::{Chain, RingFault};

impl Tasks {
    /// Serves one control request.
    pub(super) fn control_request(
        &mut self,
        chain: Chain,
        ctx: &mut DeviceCtx<'_>,
    ) -> Result<(), RingFault> {
        ctx.counters().requests += 1;
        let mut bytes = [0; TMF_LEN];
        let got = ctx.read(&chain, 0, &mut bytes)?;
        let bytes = bytes.get(..got).unwrap_or_default();
        let used = match decode_control(bytes) {
            Some(Control::TaskManagement {
                function,
                address,
                id,
            }) => {
                self.counts.task_management += 1;
                let response = self.task_management(function, address, id, ctx)?;
                ctx.write(&chain, 0, &[response])?
            }
            Some(Control::Notification { address }) => {
                // A disk has none of the events that can be asked for.
                let [a, b, c, d] = 0u32.to_le_bytes();
                let response = match self.located(address) {
                    Ok(()) => response::OK,
                    Err(code) => code,
                };
                ctx.write(&chain, 0, &[a, b, c, d, response])?
            }
            Some(Control::Unknown(kind)) => {
                ctx.violation("scsi_control_type", kind.into());
                ctx.counters().request_errors += 1;
                ctx.write(&chain, 0, &[response::FAILURE])?
            }
            None => {
                ctx.violation("scsi_control_cut_off", got as u64);
                ctx.counters().request_errors += 1;
                ctx.write(&chain, 0, &[response::FAILURE])?
            }
        };
        if used == 0 {
            ctx.violation("scsi_control_room", 0);
        }
        ctx.complete(chain, u32::try_from(used).unwrap_or(u32::MAX))
    }

    /// Whether the address is that of the logical unit; if not, the response that says so.
    fn located(&self, address: Address) -> Result<(), u8> {
        match address {
            Address::Unit { target: 0, lun: 0 } if self.unit.present => Ok(()),
            Address::Unit { target: 0, .. } if self.unit.present => Err(response::INCORRECT_LUN),
            _ => Err(response::BAD_TARGET),
        }
    }

    fn task_management(
        &mut self,
        function: Option<Function>,
        address: Address,
        id: u64,
        ctx: &mut DeviceCtx<'_>,
    ) -> Result<u8, RingFault> {
        let Some(function) = function else {
            return Ok(response::FUNCTION_REJECTED);
        };
        let nexus = function == Function::NexusReset;
        match self.located(address) {
            Ok(()) => {}
            // A nexus has no LUN.
            Err(response::INCORRECT_LUN) if nexus => {}
            Err(code) => return Ok(code),
        }
        Ok(match function {
            Function::AbortTask => {
                self.abort(|task| task == id, response::ABORTED, ctx)?;
                response::OK
            }
            Function::AbortTaskSet => {
                self.abort(|_| true, response::ABORTED, ctx)?;
                response::OK
            }
            Function::UnitReset | Function::NexusReset => {
                self.abort(|_| true, response::RESET, ctx)?;
                self.unit.attend(match nexus {
                    true => Sense::NEXUS_LOSS,
                    false => Sense::UNIT_RESET,
                });
                response::OK
            }
            Function::QueryTask if self.is_unanswered(id) => response::FUNCTION_SUCCEEDED,
            Function::QueryTaskSet if self.unanswered() != 0 => response::FUNCTION_SUCCEEDED,
            Function::QueryTask | Function::QueryTaskSet => response::OK,
        })
    }
}
