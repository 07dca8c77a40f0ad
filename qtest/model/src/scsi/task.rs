// SPDX-License-Identifier: GPL-2.0-or-later
//! Requests: from the queue through a command on the disk to a response.

use super::cdb::{self, Command};
use super::config::Written;
use super::request::{
    decode_header, response, Address, Header, Response, HEADER_LEN, RESPONSE_LEN,
};
use super::sense::{Sense, CHECK_CONDITION, GOOD};
use super::unit::{self, Unit};
use crate::device::DeviceCtx;
use crate::disk::{chunk, SECTOR};
use crate::queue::{Chain, RingFault};

/// Longest parameter list that is read.
const MAX_PARAMETERS: u64 = 4096;
/// Requests of a stalled disk that are taken from the queues; the rest stays there.
const MAX_HELD: usize = 1024;

/// A request with its lengths.
#[derive(Debug)]
struct Held {
    chain: Chain,
    header: Header,
    cdb: Vec<u8>,
    /// Bytes of sense data in the response.
    sense_size: usize,
    /// Where the driver's data begins, and how much there is.
    out_at: u64,
    out_len: u64,
    /// Where data for the driver goes, and how much fits.
    in_at: u64,
    in_len: u64,
}

impl Held {
    /// Bytes of the data buffer, whichever way it goes.
    fn data_len(&self) -> u64 {
        self.out_len.max(self.in_len)
    }

    fn residual(&self, moved: u64) -> u32 {
        u32::try_from(self.data_len().saturating_sub(moved)).unwrap_or(u32::MAX)
    }
}

/// How a command ended: bytes moved, and sense data if it is not GOOD.
struct Ended {
    moved: u64,
    sense: Option<Sense>,
}

impl Ended {
    fn good(moved: u64) -> Self {
        Self { moved, sense: None }
    }
}

impl From<Sense> for Ended {
    fn from(sense: Sense) -> Self {
        Self {
            moved: 0,
            sense: Some(sense),
        }
    }
}

/// What is counted of requests; a reset does not set it back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) check_conditions: u64,
    pub(super) bad_targets: u64,
    pub(super) overruns: u64,
    pub(super) aborted: u64,
    pub(super) task_management: u64,
}

/// The disk and the requests for it.
pub(super) struct Tasks {
    pub(super) unit: Unit,
    /// The disk does not answer.
    pub(super) stalled: bool,
    /// Requests it has not answered.
    held: Vec<Held>,
    pub(super) counts: Counts,
    scratch: Vec<u8>,
}

impl Tasks {
    pub(super) fn new(unit: Unit) -> Self {
        Self {
            unit,
            stalled: false,
            held: Vec::new(),
            counts: Counts::default(),
            scratch: Vec::new(),
        }
    }

    /// As after power-on.
    pub(super) fn reset(&mut self) {
        self.unit.power_on();
        // Their buffers belong to queues of before.
        self.held.clear();
    }

    /// The requests of a queue are gone.
    pub(super) fn queue_reset(&mut self, queue: u16) {
        self.held.retain(|held| held.chain.queue() != queue);
    }

    /// Requests that a stalled disk has not answered.
    pub(super) fn unanswered(&self) -> usize {
        self.held.len()
    }

    /// Whether a request with this id is among them.
    pub(super) fn is_unanswered(&self, id: u64) -> bool {
        self.held.iter().any(|held| held.header.id == id)
    }

    /// Serves a request queue, whose requests have the lengths that the driver wrote.
    pub(super) fn serve(
        &mut self,
        queue: u16,
        written: &Written,
        ctx: &mut DeviceCtx<'_>,
    ) -> Result<(), RingFault> {
        while self.held.len() < MAX_HELD {
            let Some(chain) = ctx.pop(queue)? else {
                break;
            };
            ctx.counters().requests += 1;
            match take(&chain, written, ctx)? {
                Ok((header, lengths)) => {
                    let held = hold(chain, header, lengths, ctx)?;
                    match self.stalled {
                        true => self.held.push(held),
                        false => self.carry_out(held, ctx)?,
                    }
                }
                Err((rule, value)) => {
                    ctx.violation(rule, value);
                    ctx.counters().request_errors += 1;
                    // As much of a response as there is room for: its place does not depend on
                    // what is wrong.
                    let bytes = Response::failed(response::FAILURE, 0).encode();
                    let used = match chain.writable_len() >= RESPONSE_LEN as u64 {
                        true => ctx.write(&chain, 0, &bytes)?,
                        false => 0,
                    };
                    ctx.complete(chain, used as u32)?;
                }
            }
        }
        Ok(())
    }

    /// Carries out the requests that were not answered. The queue of one may be gone.
    pub(super) fn catch_up(&mut self, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        for held in std::mem::take(&mut self.held) {
            match self.carry_out(held, ctx) {
                Ok(()) | Err(RingFault::Stale) => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    /// Ends every held request that `which` names by its id with a response code.
    pub(super) fn abort(
        &mut self,
        which: impl Fn(u64) -> bool,
        code: u8,
        ctx: &mut DeviceCtx<'_>,
    ) -> Result<(), RingFault> {
        let (gone, kept) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|held| which(held.header.id));
        self.held = kept;
        for held in gone {
            self.counts.aborted += 1;
            let response = Response::failed(code, held.residual(0));
            match finish(held, &response, None, 0, ctx) {
                Ok(()) | Err(RingFault::Stale) => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, held: Held, ctx: &mut DeviceCtx<'_>) -> Result<(), RingFault> {
        let address = held.header.address;
        if address == Address::Malformed {
            ctx.violation("scsi_lun", 0);
        }
        if address.target() != Some(0) || !self.unit.present {
            self.counts.bad_targets += 1;
            let response = Response::failed(response::BAD_TARGET, held.residual(0));
            return finish(held, &response, None, 0, ctx);
        }
        let block_size = self.unit.block_size();
        let ended = match cdb::decode(&held.cdb, block_size) {
            Ok(Some(decoded)) => {
                if decoded.data_in > held.in_len || decoded.data_out > held.out_len {
                    self.counts.overruns += 1;
                    let response = Response::failed(response::OVERRUN, 0);
                    return finish(held, &response, None, 0, ctx);
                }
                self.command(&decoded, &held, ctx)?
            }
            Ok(None) => {
                ctx.violation("scsi_command_cut_off", held.cdb.len() as u64);
                ctx.counters().request_errors += 1;
                let response = Response::failed(response::FAILURE, held.residual(0));
                return finish(held, &response, None, 0, ctx);
            }
            Err(sense) => sense.into(),
        };
        if ended.sense.is_some() {
            self.counts.check_conditions += 1;
        }
        let response = Response {
            residual: held.residual(ended.moved),
            status: ended.sense.map_or(GOOD, |_| CHECK_CONDITION),
            response: response::OK,
            // Filled in where the sense data is cut.
            sense_len: 0,
        };
        finish(held, &response, ended.sense, ended.moved, ctx)
    }

    fn command(
        &mut self,
        decoded: &cdb::Decoded,
        held: &Held,
        ctx: &mut DeviceCtx<'_>,
    ) -> Result<Ended, RingFault> {
        let command = &decoded.command;
        let outcome = match held.header.address {
            Address::Unit { lun: 0, .. } => {
                if !unit::ignores_attention(command) {
                    if let Some(sense) = self.unit.attention() {
                        return Ok(sense.into());
                    }
                }
                match *command {
                    Command::Read(blocks) => return self.read(blocks, held, ctx),
                    Command::Write { blocks, fua } => return self.write(blocks, fua, held, ctx),
                    _ => {}
                }
                let len = decoded.data_out.min(MAX_PARAMETERS);
                let mut parameters = vec![0; len as usize];
                ctx.read(&held.chain, held.out_at, &mut parameters)?;
                let before = self.unit.flushes;
                let outcome = self.unit.answer(command, &parameters);
                ctx.counters().flushes += self.unit.flushes - before;
                outcome
            }
            Address::ReportLuns { .. } => unit::well_known(command, self.unit.present),
            _ => unit::absent(command, self.unit.present),
        };
        Ok(match outcome {
            Ok(data) => {
                let len = data.len().min(decoded.data_in as usize);
                let data = data.get(..len).unwrap_or_default();
                let moved = ctx.write(&held.chain, held.in_at, data)? as u64;
                Ended::good(moved + decoded.data_out)
            }
            Err(sense) => sense.into(),
        })
    }

    fn read(
        &mut self,
        blocks: cdb::Blocks,
        held: &Held,
        ctx: &mut DeviceCtx<'_>,
    ) -> Result<Ended, RingFault> {
        let (start, len) = match self.unit.transfer(blocks) {
            Ok(range) => range,
            Err(sense) => return Ok(sense.into()),
        };
        let mut moved = 0;
        while moved < len {
            let part = chunk(&mut self.scratch, len - moved);
            if let Err(sense) = self.unit.read(start + moved, part) {
                let sense = Some(sense);
                return Ok(Ended { moved, sense });
            }
            ctx.write(&held.chain, held.in_at + moved, part)?;
            moved += part.len() as u64;
        }
        ctx.counters().sectors_read += len / SECTOR;
        Ok(Ended::good(len))
    }

    fn write(
        &mut self,
        blocks: cdb::Blocks,
        fua: bool,
        held: &Held,
        ctx: &mut DeviceCtx<'_>,
    ) -> Result<Ended, RingFault> {
        let range = self.unit.transfer(blocks);
        let (start, len) = match self.unit.may_write().and(range) {
            Ok(range) => range,
            Err(sense) => return Ok(sense.into()),
        };
        let mut moved = 0;
        while moved < len {
            let part = chunk(&mut self.scratch, len - moved);
            ctx.read(&held.chain, held.out_at + moved, part)?;
            if let Err(sense) = self.unit.write(start + moved, part) {
                let sense = Some(sense);
                return Ok(Ended { moved, sense });
            }
            moved += part.len() as u64;
        }
        ctx.counters().sectors_written += len / SECTOR;
        if fua {
            ctx.counters().flushes += 1;
            if let Err(sense) = self.unit.flush() {
                let sense = Some(sense);
                return Ok(Ended { moved, sense });
            }
        }
        Ok(Ended::good(len))
    }
}

/// Checks the shape of a request; the error is the rule that the driver broke.
#[allow(clippy::type_complexity)]
fn take(
    chain: &Chain,
    written: &Written,
    ctx: &mut DeviceCtx<'_>,
) -> Result<Result<(Header, (usize, usize)), (&'static str, u64)>, RingFault> {
    let Some((cdb_size, sense_size)) = written.lengths() else {
        let sizes = u64::from(written.cdb_size()) << 32;
        let sizes = sizes | u64::from(written.sense_size());
        return Ok(Err(("scsi_sizes", sizes)));
    };
    let (readable, writable) = (chain.readable_len(), chain.writable_len());
    let out_at = (HEADER_LEN + cdb_size) as u64;
    let in_at = (RESPONSE_LEN + sense_size) as u64;
    if readable < out_at {
        return Ok(Err(("scsi_request_cut_off", readable)));
    }
    if writable < in_at {
        return Ok(Err(("scsi_response_room", writable)));
    }
    if readable > out_at && writable > in_at {
        // INOUT is not offered.
        return Ok(Err(("scsi_both_directions", readable - out_at)));
    }
    let mut bytes = [0; HEADER_LEN];
    ctx.read(chain, 0, &mut bytes)?;
    Ok(match decode_header(&bytes) {
        Some(header) => Ok((header, (cdb_size, sense_size))),
        None => Err(("scsi_request_cut_off", readable)),
    })
}

fn hold(
    chain: Chain,
    header: Header,
    (cdb_size, sense_size): (usize, usize),
    ctx: &mut DeviceCtx<'_>,
) -> Result<Held, RingFault> {
    let mut cdb = vec![0; cdb_size];
    ctx.read(&chain, HEADER_LEN as u64, &mut cdb)?;
    let out_at = (HEADER_LEN + cdb_size) as u64;
    let in_at = (RESPONSE_LEN + sense_size) as u64;
    Ok(Held {
        out_len: chain.readable_len() - out_at,
        in_len: chain.writable_len() - in_at,
        chain,
        header,
        cdb,
        sense_size,
        out_at,
        in_at,
    })
}

/// Writes the response and gives the request back. All of the sense buffer is written, so that the
/// used length has no gap before the data.
fn finish(
    held: Held,
    response: &Response,
    sense: Option<Sense>,
    moved: u64,
    ctx: &mut DeviceCtx<'_>,
) -> Result<(), RingFault> {
    let fixed = sense.map(Sense::fixed);
    let fixed = fixed.as_ref().map_or(&[][..], |f| f.as_slice());
    let len = fixed.len().min(held.sense_size);
    let mut bytes = Response {
        sense_len: len as u32,
        ..*response
    }
    .encode()
    .to_vec();
    bytes.extend(fixed.iter().take(len));
    bytes.resize(RESPONSE_LEN + held.sense_size, 0);
    if response.response != response::OK || response.status != GOOD {
        ctx.counters().request_errors += 1;
    }
    ctx.write(&held.chain, 0, &bytes)?;
    // Data to the driver follows directly.
    let data = moved.min(held.in_len);
    let used = held.in_at + data;
    ctx.complete(held.chain, u32::try_from(used).unwrap_or(u32::MAX))
}
