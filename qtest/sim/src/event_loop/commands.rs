// SPDX-License-Identifier: GPL-2.0-or-later
//! The commands of the control socket that concern the front end.

use super::simulator::Simulator;
use serde_json::{json, Value};

/// Records in one reply unless asked otherwise.
const DEFAULT_EVENTS: u64 = 1000;
const MAX_EVENTS: u64 = 10_000;

impl Simulator {
    /// Carries out one line of the control socket.
    pub(super) fn control(&mut self, line: &[u8]) -> Value {
        let result = match serde_json::from_slice::<Value>(line) {
            Ok(Value::Object(request)) => match request.get("cmd").and_then(Value::as_str) {
                Some(cmd) => {
                    let cmd = cmd.to_owned();
                    self.command(&cmd, &Value::Object(request))
                }
                None => Err("the object has no string member \"cmd\"".to_owned()),
            },
            Ok(_) => Err("the line is not a JSON object".to_owned()),
            Err(e) => Err(format!("the line is not JSON: {e}")),
        };
        match result {
            Ok(Value::Object(mut map)) => {
                map.insert("ok".to_owned(), true.into());
                Value::Object(map)
            }
            Ok(other) => json!({ "ok": true, "value": other }),
            Err(text) => json!({ "ok": false, "error": text }),
        }
    }

    fn command(&mut self, cmd: &str, args: &Value) -> Result<Value, String> {
        let number = |name: &str, default: u64| match args.get(name) {
            None => Ok(default),
            Some(v) => v
                .as_u64()
                .ok_or_else(|| format!("{name} is not a non-negative number")),
        };
        match cmd {
            "ping" => Ok(json!({})),
            "status" => Ok(self.status()),
            "counters" => {
                let hardware = self.hardware_control("counters", args)?;
                let front = self.front_counters();
                Ok(json!({ "front": front, "hardware": hardware }))
            }
            "events" => {
                let since = number("since", 0)?;
                let max = number("max", DEFAULT_EVENTS)?.min(MAX_EVENTS);
                let (events, next) = self.events_since(since, max as usize);
                Ok(json!({ "events": events, "next": next }))
            }
            "disconnect" => {
                let f = self.function_index(args)?;
                match self.cut_off(f) {
                    true => Ok(json!({})),
                    false => Err("that function has no client".to_owned()),
                }
            }
            "raise-error" => {
                let f = self.function_index(args)?;
                match self.raise_error(f) {
                    true => Ok(json!({})),
                    false => Err("no client listens to that function's error interrupt".to_owned()),
                }
            }
            "quit" => {
                self.quit();
                Ok(json!({}))
            }
            other => self.hardware_control(other, args),
        }
    }

    /// `{"function": "pf"}`, `{"function": "vf3"}` or `{"vf": 3}`.
    fn function_index(&self, args: &Value) -> Result<usize, String> {
        let by_name = args.get("function").and_then(Value::as_str);
        let index = match (by_name, args.get("vf").and_then(Value::as_u64)) {
            (Some("pf"), _) => Some(0),
            (Some(name), _) => name.strip_prefix("vf").and_then(|n| n.parse().ok()),
            (None, Some(n)) => usize::try_from(n).ok(),
            (None, None) => None,
        };
        let index =
            index.ok_or("name the function: \"function\": \"pf\" or \"vf1\", or \"vf\": 1")?;
        match index <= usize::from(self.total_vfs()) {
            true => Ok(index),
            false => Err(format!("there is no VF {index}")),
        }
    }
}
