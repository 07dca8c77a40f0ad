// SPDX-License-Identifier: GPL-2.0-or-later
//! QMP, QEMU's management protocol.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use serde_json::{json, Value};
use test_kit::patience::Patience;

use crate::lines::Lines;
use crate::PATIENCE;

/// A QMP connection.
#[derive(Debug)]
pub struct Qmp {
    lines: Lines,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Connects and negotiates.
    ///
    /// # Errors
    /// If QEMU does not answer in time.
    pub fn connect(path: &Path) -> Result<Self> {
        let mut lines = Lines::connect(path, PATIENCE)?;
        let greeting = lines.receive(PATIENCE)?;
        if !greeting.contains("QMP") {
            bail!("unexpected QMP greeting {greeting}");
        }
        let mut qmp = Qmp {
            lines,
            events: VecDeque::new(),
        };
        qmp.command("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and gives its result.
    ///
    /// # Errors
    /// If QEMU does not answer in time or answers with an error; the text is QEMU's.
    pub fn command(&mut self, name: &str, arguments: Value) -> Result<Value> {
        let request = json!({"execute": name, "arguments": arguments});
        self.lines.send(&request.to_string())?;
        loop {
            let line = self
                .lines
                .receive(PATIENCE)
                .with_context(|| format!("no answer to QMP command {name}"))?;
            let mut answer: Value = serde_json::from_str(&line)?;
            if answer.get("event").is_some() {
                self.events.push_back(answer);
            } else if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            } else {
                let text = answer
                    .pointer("/error/desc")
                    .and_then(Value::as_str)
                    .unwrap_or(&line);
                bail!("{text}");
            }
        }
    }

    /// Waits for an event with this name whose data `accept` takes.
    ///
    /// # Errors
    /// If it does not come before `limit`.
    pub fn event(
        &mut self,
        name: &str,
        limit: Duration,
        mut accept: impl FnMut(&Value) -> bool,
    ) -> Result<Value> {
        let mut patience = Patience::new(limit);
        loop {
            while let Some(event) = self.events.pop_front() {
                if event.get("event").and_then(Value::as_str) == Some(name)
                    && accept(event.get("data").unwrap_or(&Value::Null))
                {
                    return Ok(event);
                }
            }
            if let Err(spent) = patience.look() {
                bail!("no event {name} {spent}");
            }
            let line = self
                .lines
                .receive(limit)
                .with_context(|| format!("no event {name}"))?;
            let value: Value = serde_json::from_str(&line)?;
            if value.get("event").is_some() {
                self.events.push_back(value);
            }
        }
    }

    /// Reads a QOM property.
    ///
    /// # Errors
    /// If there is no such property.
    pub fn get(&mut self, path: &str, property: &str) -> Result<Value> {
        self.command("qom-get", json!({"path": path, "property": property}))
    }

    /// Runs a monitor command.
    ///
    /// # Errors
    /// If QEMU does not answer.
    pub fn monitor(&mut self, line: &str) -> Result<String> {
        let answer = self.command("human-monitor-command", json!({"command-line": line}))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// Resets the machine and waits until that is done.
    ///
    /// # Errors
    /// If QEMU does not tell so in time.
    pub fn system_reset(&mut self) -> Result<()> {
        self.command("system_reset", json!({}))?;
        self.event("RESET", PATIENCE, |_| true)?;
        Ok(())
    }
}
