// SPDX-License-Identifier: GPL-2.0-or-later
//! Faults of the admin queues as data: which commands, which of them, and what happens instead.
//!
//! A rule is a JSON object, for instance
//! `{"opcode": "LEGACY_COMMON_CFG_READ", "member": 1, "offset": 18, "first": 2,
//! "do": {"status": {"status": 11, "qualifier": 7}}}`, or `{"admin_queue": 1, "do": "stuck"}`.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_modern_spec::admin::opcode;

/// An opcode by number or by the specification's name (without its prefix).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OpcodeName {
    /// Number.
    Number(u16),
    /// Name.
    Name(String),
}

/// What happens to a command that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is not carried out and ends with this status.
    Status {
        /// Status.
        status: u16,
        /// Qualifier.
        #[serde(default)]
        qualifier: u16,
    },
    /// It is carried out at once, but its completion comes this much later. Commands behind it do
    /// not wait.
    Delay {
        /// Milliseconds.
        ms: u64,
    },
    /// It is not carried out and never completes; its buffer stays with the device until a reset.
    Drop,
    /// It is carried out, but only this many bytes of the reply are written and reported.
    ShortReply {
        /// Bytes.
        len: u32,
    },
    /// It is carried out and the reply is written, but the used ring reports this length.
    UsedLength {
        /// Bytes.
        len: u32,
    },
    /// Its queue stops before it, until the rule is gone or queue or PF are reset.
    Stuck,
    /// The PF goes to DEVICE_NEEDS_RESET; the command never completes.
    NeedsReset,
}

/// A fault: conditions (all of those that are given must hold) and an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// Only commands on this admin queue, counted from 0: the queue at admin_queue_index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_queue: Option<u16>,
    /// Only this opcode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opcode: Option<OpcodeName>,
    /// Only this group type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_type: Option<u16>,
    /// Only this member id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<u64>,
    /// Only this register offset (opcodes 2 to 5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u8>,
    /// Only the first so many commands that match so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// Only from this match on, counted from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// Only up to this match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
    /// Only every so many matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    /// What to do.
    #[serde(rename = "do")]
    pub action: Action,
}

impl FaultRule {
    /// A rule for every command.
    pub fn always(action: Action) -> Self {
        FaultRule {
            admin_queue: None,
            opcode: None,
            group_type: None,
            member: None,
            offset: None,
            first: None,
            from: None,
            to: None,
            every: None,
            action,
        }
    }

    /// A rule for one opcode.
    pub fn on(opcode: u16, action: Action) -> Self {
        FaultRule {
            opcode: Some(OpcodeName::Number(opcode)),
            ..Self::always(action)
        }
    }
}

/// Why a rule was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FaultError {
    /// No such opcode name.
    #[error(
        "unknown opcode {0:?}: use the specification's name without VIRTIO_ADMIN_CMD_, or a number"
    )]
    UnknownOpcode(String),
    /// No such admin queue.
    #[error("there is no admin queue {0}: the device has {1}, counted from 0")]
    NoSuchQueue(u16, u16),
    /// Counting every 0th match.
    #[error("\"every\" must be at least 1")]
    EveryZero,
    /// Too many rules.
    #[error("more than {0} fault rules")]
    TooMany(usize),
}

/// What a rule looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject {
    /// Counted from 0.
    pub(crate) admin_queue: u16,
    pub(crate) opcode: u16,
    pub(crate) group_type: u16,
    pub(crate) member: u64,
    pub(crate) offset: Option<u8>,
}

#[derive(Clone, Debug)]
struct Entry {
    id: u32,
    opcode: Option<u16>,
    rule: FaultRule,
    matches: u64,
    hits: u64,
}

/// A rule with what it did so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FaultState {
    /// Number of the rule.
    pub id: u32,
    /// The rule.
    pub rule: FaultRule,
    /// Commands its conditions (but for the counts) matched.
    pub matches: u64,
    /// Commands it changed.
    pub hits: u64,
}

const MAX_RULES: usize = 256;

/// The rules in force. The first one that applies decides.
#[derive(Clone, Debug, Default)]
pub struct FaultSet {
    admin_queues: u16,
    entries: Vec<Entry>,
    next_id: u32,
    changed: bool,
}

impl FaultSet {
    /// No rules, for a device with so many admin queues.
    pub fn new(admin_queues: u16) -> Self {
        FaultSet {
            admin_queues,
            ..FaultSet::default()
        }
    }

    /// Adds a rule behind the others; gives its number.
    ///
    /// # Errors
    /// The rule makes no sense.
    pub fn add(&mut self, rule: FaultRule) -> Result<u32, FaultError> {
        if rule.every == Some(0) {
            return Err(FaultError::EveryZero);
        }
        if let Some(queue) = rule.admin_queue.filter(|q| *q >= self.admin_queues) {
            return Err(FaultError::NoSuchQueue(queue, self.admin_queues));
        }
        if self.entries.len() >= MAX_RULES {
            return Err(FaultError::TooMany(MAX_RULES));
        }
        let opcode = match &rule.opcode {
            None => None,
            Some(OpcodeName::Number(n)) => Some(*n),
            Some(OpcodeName::Name(name)) => Some(
                (0..=opcode::DEV_MODE_SET)
                    .find(|o| opcode::name(*o) == name)
                    .ok_or_else(|| FaultError::UnknownOpcode(name.clone()))?,
            ),
        };
        let id = self.next_id;
        self.next_id += 1;
        self.changed = true;
        self.entries.push(Entry {
            id,
            opcode,
            rule,
            matches: 0,
            hits: 0,
        });
        Ok(id)
    }

    /// Removes one rule; `false` if there is none with this number.
    pub fn remove(&mut self, id: u32) -> bool {
        let before = self.entries.len();
        self.entries.retain(|e| e.id != id);
        self.changed = true;
        self.entries.len() != before
    }

    /// Removes all rules.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.changed = true;
    }

    /// All rules with their counts.
    pub fn list(&self) -> Vec<FaultState> {
        self.entries
            .iter()
            .map(|e| FaultState {
                id: e.id,
                rule: e.rule.clone(),
                matches: e.matches,
                hits: e.hits,
            })
            .collect()
    }

    /// Rules changed since the last call.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub(crate) fn changed(&self) -> bool {
        self.changed
    }

    /// What is to happen to a command.
    pub(crate) fn decide(&mut self, s: Subject) -> Option<(u32, Action)> {
        for e in &mut self.entries {
            let r = &e.rule;
            let applies = r.admin_queue.is_none_or(|q| q == s.admin_queue)
                && e.opcode.is_none_or(|o| o == s.opcode)
                && r.group_type.is_none_or(|g| g == s.group_type)
                && r.member.is_none_or(|m| m == s.member)
                && r.offset.is_none_or(|o| Some(o) == s.offset);
            if !applies {
                continue;
            }
            e.matches += 1;
            let n = e.matches;
            let counted = r.first.is_none_or(|f| n <= f)
                && r.from.is_none_or(|f| n >= f)
                && r.to.is_none_or(|t| n <= t)
                && r.every.is_none_or(|k| n % k.max(1) == 0);
            if counted {
                e.hits += 1;
                return Some((e.id, r.action));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(opcode: u16, member: u64, offset: Option<u8>) -> Subject {
        Subject {
            admin_queue: 0,
            opcode,
            group_type: 1,
            member,
            offset,
        }
    }

    #[test]
    fn rules_are_json_and_count_their_matches() {
        let text = r#"{"opcode":"LEGACY_COMMON_CFG_READ","member":2,"offset":18,"from":2,"to":3,
            "do":{"status":{"status":11,"qualifier":7}}}"#;
        let rule: FaultRule = serde_json::from_str(text).unwrap();
        let back = serde_json::to_string(&rule).unwrap();
        assert_eq!(serde_json::from_str::<FaultRule>(&back).unwrap(), rule);
        let mut set = FaultSet::default();
        set.add(rule).unwrap();
        let hit = |set: &mut FaultSet| set.decide(subject(3, 2, Some(18))).is_some();
        assert!(set.decide(subject(3, 1, Some(18))).is_none());
        assert!(set.decide(subject(3, 2, Some(19))).is_none());
        assert!(set.decide(subject(2, 2, Some(18))).is_none());
        let hits: Vec<bool> = (0..4).map(|_| hit(&mut set)).collect();
        assert_eq!(hits, [false, true, true, false]);
        let l = set.list();
        assert_eq!((l[0].matches, l[0].hits), (4, 2));
    }

    #[test]
    fn a_rule_may_name_its_queue() {
        let rule = serde_json::from_str(r#"{"admin_queue":1,"do":"stuck"}"#).unwrap();
        let mut set = FaultSet::new(2);
        set.add(rule).unwrap();
        let on = |admin_queue| Subject {
            admin_queue,
            ..subject(3, 1, None)
        };
        assert_eq!(set.decide(on(0)), None);
        assert_eq!(set.decide(on(1)), Some((0, Action::Stuck)));
    }

    #[test]
    fn every_and_first() {
        let mut set = FaultSet::default();
        let mut third = FaultRule::on(6, Action::Drop);
        third.every = Some(3);
        let mut start = FaultRule::on(6, Action::Stuck);
        start.first = Some(1);
        set.add(start).unwrap();
        let id = set.add(third).unwrap();
        let got: Vec<_> = (0..7)
            .map(|_| set.decide(subject(6, 1, None)).map(|(_, a)| a))
            .collect();
        let (s, d) = (Some(Action::Stuck), Some(Action::Drop));
        assert_eq!(got, [s, None, None, d, None, None, d]);
        assert!(set.remove(id) && !set.remove(id));
        set.clear();
        assert!(set.list().is_empty());
    }

    #[test]
    fn senseless_rules_are_refused() {
        let mut set = FaultSet::default();
        let mut r = FaultRule::always(Action::Drop);
        r.every = Some(0);
        assert_eq!(set.add(r.clone()), Err(FaultError::EveryZero));
        r.every = None;
        r.opcode = Some(OpcodeName::Name("FOO".into()));
        assert!(matches!(set.add(r), Err(FaultError::UnknownOpcode(_))));
        assert!(serde_json::from_str::<FaultRule>(r#"{"opcod":1,"do":"drop"}"#).is_err());
        assert!(serde_json::from_str::<FaultRule>(r#"{"do":"explode"}"#).is_err());
        let mut r = FaultRule::always(Action::Drop);
        r.admin_queue = Some(2);
        let refused = FaultSet::new(2).add(r.clone());
        assert_eq!(refused, Err(FaultError::NoSuchQueue(2, 2)));
        assert_eq!(FaultSet::new(3).add(r), Ok(0));
        let plain: FaultRule = serde_json::from_str(r#"{"do":"drop"}"#).unwrap();
        assert_eq!(plain, FaultRule::always(Action::Drop));
    }
}
