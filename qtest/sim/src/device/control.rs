// SPDX-License-Identifier: GPL-2.0-or-later
//! Commands of the control socket that concern the device.
//!
//! | Command | Members | Does |
//! |---|---|---|
//! | `counters` | `vf` (optional) | counts of the device and of each function, or of one |
//! | `fault-add` | `rule` | adds a fault rule, answers its `id` |
//! | `fault-list` | | rules with how often they matched |
//! | `fault-clear` | `id` (optional) | removes one rule or all |
//! | `link` | `vf`, `up` | network link |
//! | `resize` | `vf`, `sectors` or `bytes` | size of a disk |
//! | `screen` | `vf`, `cols`, `rows` | size of a console |
//! | `rng` | `vf`, `rate` | bytes a second of an entropy source; 0: no limit |
//! | `balloon` | `vf`, `pages` | pages of 4096 bytes that the driver is asked for |
//! | `balloon-stats` | `vf` | asks the driver for new memory statistics |
//! | `stall` | `vf`, `on` | a SCSI disk stops answering, or goes on |
//! | `plug` | `vf`, `present` | a SCSI disk is taken away or put back |
//! | `needs-reset` | `vf` (0: the PF), `reason` | the device fails: DEVICE_NEEDS_RESET |
//! | `reset` | `vf` (0: the PF) | function level reset |
//! | `vf-enable` | `num` | live VFs, where the front end shows the SR-IOV capability |
//! | `dump` | `vf` (0: the PF) | configuration space and common configuration in hex |

use super::types;
use serde_json::{json, Map, Value};
use virtio_pf_model::{FaultRule, FunctionId, Model, COMMON_OFFSET, MODERN_BAR};

/// Carries out a command.
pub(super) fn carry_out(model: &mut Model, command: &str, args: &Value) -> Result<Value, String> {
    match command {
        "counters" => {
            let one = ["vf", "function"]
                .iter()
                .any(|name| args.get(name).is_some());
            let one = one.then(|| function(model, args)).transpose()?;
            counters(model, one)
        }
        "fault-add" => {
            let rule = args.get("rule").ok_or("no member \"rule\"")?;
            // From a shell the rule may come as a string that holds JSON.
            let rule = match rule.as_str() {
                Some(text) => serde_json::from_str::<FaultRule>(text),
                None => serde_json::from_value::<FaultRule>(rule.clone()),
            };
            let rule = rule.map_err(|e| format!("the rule makes no sense: {e}"))?;
            let id = model.faults().add(rule).map_err(|e| e.to_string())?;
            Ok(json!({ "id": id }))
        }
        "fault-list" => Ok(json!({ "rules": model.faults().list() })),
        "fault-clear" => match args.get("id") {
            None => {
                model.faults().clear();
                Ok(json!({}))
            }
            Some(id) => {
                let id = id.as_u64().and_then(|n| u32::try_from(n).ok());
                let id = id.ok_or("\"id\" is not a rule's number")?;
                match model.faults().remove(id) {
                    true => Ok(json!({})),
                    false => Err(format!("there is no fault rule {id}")),
                }
            }
        },
        "needs-reset" => {
            let f = function(model, args)?;
            let reason = args.get("reason").and_then(Value::as_str);
            model.break_function(f, reason.unwrap_or("asked for by the control socket"));
            Ok(json!({}))
        }
        "reset" => {
            let f = function(model, args)?;
            model.reset_function(f);
            Ok(json!({}))
        }
        "vf-enable" => {
            let num = args.get("num").and_then(Value::as_u64);
            let num = num.and_then(|n| u16::try_from(n).ok());
            let num = num.ok_or("\"num\" is not a number of VFs")?;
            model.set_vf_enable(num);
            Ok(json!({ "live": model.live_vfs() }))
        }
        "dump" => {
            let f = function(model, args)?;
            Ok(dump(model, f))
        }
        other => match types::control(other, args) {
            Some(control) => {
                let f = function(model, args)?;
                let done = model.control(f, &control?);
                done.map_err(|e| e.to_string())?;
                Ok(json!({}))
            }
            None => Err(format!(
                "unknown command {other:?}; known: ping, status, counters, events, \
                 disconnect, raise-error, quit, fault-add, fault-list, fault-clear, \
                 needs-reset, reset, vf-enable, dump, {}",
                types::COMMANDS
            )),
        },
    }
}

/// `vf` (0: the PF) or `function` ("pf", "vf1").
fn function(model: &Model, args: &Value) -> Result<FunctionId, String> {
    let number = match args.get("function").and_then(Value::as_str) {
        Some("pf") => Some(0),
        Some(name) => name.strip_prefix("vf").and_then(|n| n.parse::<u64>().ok()),
        None => args.get("vf").and_then(Value::as_u64),
    };
    let number = number.ok_or("name the function: \"vf\": 1 (0 is the PF)")?;
    match u16::try_from(number) {
        Ok(0) => Ok(FunctionId::Pf),
        Ok(n) if n <= model.config().total_vfs => Ok(FunctionId::Vf(n)),
        _ => Err(format!("there is no VF {number}")),
    }
}

/// Counts of the device and of `one` function, or of all.
fn counters(model: &Model, one: Option<FunctionId>) -> Result<Value, String> {
    let mut functions = Map::new();
    let vfs = (1..=model.config().total_vfs).map(FunctionId::Vf);
    let all = std::iter::once(FunctionId::Pf).chain(vfs);
    for f in all.filter(|f| one.is_none_or(|one| one == *f)) {
        if let Some(counters) = model.function_counters(f) {
            let name = crate::hardware::Function::from(f).to_string();
            let mut counters = json!(counters);
            let numbers = model.device_numbers(f);
            if let (Some(map), false) = (counters.as_object_mut(), numbers.is_empty()) {
                let numbers: Map<_, _> = numbers
                    .into_iter()
                    .map(|(name, n)| (name.to_owned(), n.into()))
                    .collect();
                map.insert(types::NUMBERS.to_owned(), numbers.into());
            }
            functions.insert(name, counters);
        }
    }
    Ok(json!({
        "device": model.counters(),
        "functions": functions,
        "live_vfs": model.live_vfs(),
    }))
}

/// Registers without side effects: ISR is left out, since reading clears it.
fn dump(model: &mut Model, f: FunctionId) -> Value {
    let mut config = vec![0; 4096];
    model.config_read(f, 0, &mut config);
    let mut common = Map::new();
    if config.get(4).is_some_and(|command| command & 2 != 0) || f != FunctionId::Pf {
        for (name, offset, width) in [
            ("num_queues", 18, 2),
            ("device_status", 20, 1),
            ("config_generation", 21, 1),
            ("queue_select", 22, 2),
        ] {
            let mut value = [0; 8];
            if let Some(buf) = value.get_mut(..width) {
                model.bar_read(f, MODERN_BAR, COMMON_OFFSET + offset, buf);
            }
            common.insert(name.to_owned(), u64::from_le_bytes(value).into());
        }
    }
    // Behind the last byte that is not zero there is nothing to see.
    let used = config.iter().rposition(|b| *b != 0).map_or(0, |n| n + 1);
    let hex: String = config
        .iter()
        .take(used)
        .map(|b| format!("{b:02x}"))
        .collect();
    json!({
        "exists": model.exists(f),
        "msix_enabled": model.msix_enabled(f),
        "common": common,
        "config": hex,
        "counters": model.function_counters(f),
    })
}
