// SPDX-License-Identifier: GPL-2.0-or-later
//! Carrying out one admin command: checks in the order of the specification, then the command.

use virtio_modern_spec::admin::legacy::{NOTIFY_RESULT_LEN, OFFSET, WRITE_HEADER_LEN};
use virtio_modern_spec::admin::{group, opcode, qualifier, status, Reply, Request, REPLY_LEN};
use virtio_modern_spec::bytes::le_value;
use virtio_pci_spec::bytes::get_u8;

use super::list::{self, Lists};
use super::notify_info;
use crate::config::{ModelConfig, NotifyLayout};
use crate::effect::FunctionId;
use crate::function::Function;
use crate::legacy::NotOneField;
use crate::shared::Shared;
use crate::violation::Violation;

/// Longest access that can lie in one field: the tag of a 9P device.
const MAX_ACCESS: u64 = 256;

/// A command as it was taken from the queue. Bytes the driver did not give count as 0.
#[derive(Clone, Copy)]
pub(crate) struct Command<'a> {
    pub(crate) header: Request,
    /// The readable part, as far as any command can use it.
    pub(crate) bytes: &'a [u8],
    pub(crate) readable: u64,
    pub(crate) writable: u64,
}

/// A register access, opcodes 2 to 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) offset: u8,
    pub(crate) len: u64,
    pub(crate) write: bool,
    pub(crate) common: bool,
}

impl Command<'_> {
    /// The register access this is, if it is one.
    pub(crate) fn access(&self) -> Option<Access> {
        let (write, common) = match self.header.opcode {
            opcode::LEGACY_COMMON_CFG_WRITE => (true, true),
            opcode::LEGACY_COMMON_CFG_READ => (false, true),
            opcode::LEGACY_DEV_CFG_WRITE => (true, false),
            opcode::LEGACY_DEV_CFG_READ => (false, false),
            _ => return None,
        };
        let len = if write {
            self.readable.saturating_sub(WRITE_HEADER_LEN as u64)
        } else {
            self.writable.saturating_sub(REPLY_LEN as u64)
        };
        Some(Access {
            offset: get_u8(self.bytes, OFFSET).unwrap_or(0),
            len,
            write,
            common,
        })
    }

    fn data(&self, from: usize) -> &[u8] {
        self.bytes.get(from..).unwrap_or(&[])
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) reply: Reply,
    /// The bytes that a register access moved.
    pub(crate) data: Option<u64>,
    /// The reply is to be held back until this time: the command started something slow.
    pub(crate) not_before: Option<u64>,
}

impl Outcome {
    pub(crate) fn of(reply: Reply) -> Self {
        Outcome {
            reply,
            data: None,
            not_before: None,
        }
    }
}

/// What commands work on.
pub(crate) struct Group<'a> {
    pub(crate) config: &'a ModelConfig,
    pub(crate) lists: &'a mut Lists,
    pub(crate) vfs: &'a mut [Function],
    /// VFs 1 to this number are members.
    pub(crate) live: u16,
}

impl Group<'_> {
    /// The checks that come before everything else, in their order: group type, opcode, member.
    fn check(&self, cmd: &Request, shared: &mut Shared) -> Result<(), Reply> {
        let lists_only = matches!(cmd.opcode, opcode::LIST_QUERY | opcode::LIST_USE);
        let group_exists = match cmd.group_type {
            group::SELF => true,
            group::SRIOV => self.live > 0 || (self.config.leniency.list && lists_only),
            _ => false,
        };
        if !group_exists {
            return Err(Reply::invalid(qualifier::INVALID_GROUP));
        }
        if !self.lists.legal(cmd.group_type, cmd.opcode) {
            if !list::offered(self.config, cmd.group_type).contains(cmd.opcode) {
                let opcode = cmd.opcode;
                shared.violation(FunctionId::Pf, Violation::OpcodeNotOffered { opcode });
            }
            return Err(Reply::invalid(qualifier::INVALID_OPCODE));
        }
        let uses_member = !lists_only;
        if uses_member && (cmd.member == 0 || cmd.member > u64::from(self.live)) {
            return Err(Reply::invalid(qualifier::INVALID_MEMBER));
        }
        Ok(())
    }

    /// Carries out `cmd`; the result (without status and qualifier) is appended to `out`.
    pub(crate) fn execute(
        &mut self,
        cmd: &Command<'_>,
        out: &mut Vec<u8>,
        shared: &mut Shared,
    ) -> Outcome {
        if let Err(reply) = self.check(&cmd.header, shared) {
            return Outcome::of(reply);
        }
        match cmd.header.opcode {
            opcode::LIST_QUERY => {
                list::query(self.config, cmd.header.group_type, out);
                Outcome::of(Reply::OK)
            }
            opcode::LIST_USE => {
                let data = cmd.data(virtio_modern_spec::admin::REQUEST_LEN);
                let (reply, surplus) =
                    self.lists
                        .use_list(self.config, cmd.header.group_type, data);
                if let Some(opcode) = surplus {
                    shared.violation(FunctionId::Pf, Violation::OpcodeNotOffered { opcode });
                }
                Outcome::of(reply)
            }
            opcode::LEGACY_NOTIFY_INFO => {
                let member = cmd.header.member as u16;
                for e in notify_info::entries(self.config.layout, member) {
                    out.extend_from_slice(&e.encode());
                }
                Outcome::of(Reply::OK)
            }
            _ => match cmd.access() {
                Some(access) => self.access(cmd, access, out, shared),
                // Offered by a knob, but nothing is behind it.
                None => Outcome::of(Reply::invalid(qualifier::INVALID_OPCODE)),
            },
        }
    }

    fn access(
        &mut self,
        cmd: &Command<'_>,
        a: Access,
        out: &mut Vec<u8>,
        shared: &mut Shared,
    ) -> Outcome {
        let member = cmd.header.member;
        let index = usize::try_from(member.saturating_sub(1)).unwrap_or(usize::MAX);
        let Some(vf) = self.vfs.get_mut(index) else {
            return Outcome::of(Reply::invalid(qualifier::INVALID_MEMBER));
        };
        if vf.core.virtio.resetting_until.is_some() {
            return Outcome::of(Reply {
                status: status::EAGAIN,
                qualifier: qualifier::TRYAGAIN,
            });
        }
        let done = if a.len > MAX_ACCESS {
            Err(NotOneField)
        } else if a.write {
            write(vf, self.config.layout, cmd, a, shared)
        } else {
            let start = out.len();
            out.resize(start + a.len as usize, 0);
            let buf = out.split_at_mut(start).1;
            let done = if a.common {
                vf.legacy_read(a.offset, buf, shared)
            } else {
                vf.legacy_config_read(a.offset, buf)
            };
            done.map(|()| le_value(buf))
        };
        match done {
            Ok(data) => Outcome {
                reply: Reply::OK,
                data: Some(data),
                not_before: vf.core.virtio.resetting_until,
            },
            Err(NotOneField) => {
                shared.violation(
                    vf.core.id,
                    Violation::CrossesFields {
                        opcode: cmd.header.opcode,
                        offset: a.offset,
                        len: a.len,
                    },
                );
                Outcome::of(Reply::invalid(qualifier::INVALID_FIELD))
            }
        }
    }
}

fn write(
    vf: &mut Function,
    layout: NotifyLayout,
    cmd: &Command<'_>,
    a: Access,
    shared: &mut Shared,
) -> Result<u64, NotOneField> {
    let mut buf = [0u8; MAX_ACCESS as usize];
    let data = buf.split_at_mut(a.len as usize).0;
    for (to, from) in data.iter_mut().zip(cmd.data(WRITE_HEADER_LEN)) {
        *to = *from;
    }
    if a.common {
        vf.legacy_write(a.offset, data, shared)?;
        if a.offset == 16 && (layout.has_member() || layout.has_owner()) {
            let queue = le_value(data) as u16;
            shared.violation(vf.core.id, Violation::NotifyByCommand { queue });
        }
    } else {
        vf.legacy_config_write(a.offset, data, shared)?;
    }
    Ok(le_value(data))
}

/// Bytes of the result that a command is defined to have, for filling up with zeros when it
/// failed.
pub(crate) fn result_len(cmd: &Command<'_>) -> usize {
    match cmd.header.opcode {
        opcode::LIST_QUERY => 8,
        opcode::LEGACY_NOTIFY_INFO => NOTIFY_RESULT_LEN,
        opcode::LEGACY_COMMON_CFG_READ | opcode::LEGACY_DEV_CFG_READ => {
            cmd.access().map_or(0, |a| a.len.min(MAX_ACCESS) as usize)
        }
        _ => 0,
    }
}
