// SPDX-License-Identifier: GPL-2.0-or-later
//! What QEMU's monitor and QOM tell about the device.

use std::collections::BTreeMap;

use anyhow::{bail, ensure, Context, Result};
use qtest_harness::stack::DEVICE_ID;
use qtest_harness::Qmp;
use serde_json::{json, Value};

use crate::device_path;

/// What `info qtree` says about the device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Qtree {
    /// The QOM type.
    pub type_name: String,
    /// Properties with their values as they are printed, strings in quotes.
    pub properties: BTreeMap<String, String>,
    /// What the bus adds, line by line: class and IDs, BARs.
    pub bus: Vec<String>,
}

impl Qtree {
    /// A property as it is printed.
    ///
    /// # Errors
    /// If it is not printed.
    pub fn get(&self, name: &str) -> Result<&str> {
        let value = self.properties.get(name);
        Ok(value.with_context(|| format!("no {name} in {self:?}"))?)
    }
}

/// What `info pci` says about the device, line by line and without indentation.
///
/// # Errors
/// If it says nothing.
pub fn info_pci(qmp: &mut Qmp) -> Result<Vec<String>> {
    let text = qmp.monitor("info pci")?;
    let mut lines = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("Bus ") {
            lines.clear();
        }
        lines.push(line.to_owned());
        if line == format!("id \"{DEVICE_ID}\"") {
            return Ok(lines);
        }
    }
    bail!("nothing about {DEVICE_ID} in:\n{text}")
}

/// What `info qtree` says about the device.
///
/// # Errors
/// If it says nothing.
pub fn info_qtree(qmp: &mut Qmp) -> Result<Qtree> {
    let text = qmp.monitor("info qtree")?;
    let end = format!(", id \"{DEVICE_ID}\"");
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut found: Option<(usize, Qtree)> = None;
    for line in text.lines() {
        let trimmed = line.trim();
        let Some((depth, tree)) = &mut found else {
            let name = trimmed
                .strip_prefix("dev: ")
                .and_then(|rest| rest.strip_suffix(&end));
            if let Some(name) = name {
                let tree = Qtree {
                    type_name: name.to_owned(),
                    ..Qtree::default()
                };
                found = Some((indent(line), tree));
            }
            continue;
        };
        if indent(line) <= *depth {
            break;
        }
        match trimmed.split_once(" = ") {
            Some((name, value)) => {
                tree.properties.insert(name.to_owned(), value.to_owned());
            }
            None => tree.bus.push(trimmed.to_owned()),
        }
    }
    let (_, tree) = found.with_context(|| format!("nothing about {DEVICE_ID} in:\n{text}"))?;
    Ok(tree)
}

/// QEMU's own property of vfio-user devices, which can be set only.
const SET_ONLY: &str = "socket";

/// Reads every QOM property of the device; gives name, type and value of each.
///
/// # Errors
/// If one cannot be read, or has a value that is not of its type.
pub fn every_property(qmp: &mut Qmp) -> Result<BTreeMap<String, (String, Value)>> {
    let list = qmp.command("qom-list", json!({"path": device_path()}))?;
    let list = list.as_array().context("no list")?;
    let mut out = BTreeMap::new();
    for entry in list {
        let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
        let (name, kind) = (text("name"), text("type"));
        let read = qmp.get(&device_path(), name);
        if name == SET_ONLY {
            let refused = read
                .err()
                .is_some_and(|e| e.to_string().contains("not readable"));
            ensure!(refused, "{name} can be read");
            continue;
        }
        let value = read.with_context(|| format!("property {name} of type {kind}"))?;
        ensure!(fits(name, kind, &value), "{name} of type {kind} is {value}");
        out.insert(name.to_owned(), (kind.to_owned(), value));
    }
    Ok(out)
}

/// Whether a property of this type can have this value.
fn fits(name: &str, kind: &str, value: &Value) -> bool {
    match kind {
        // QEMU takes a text and gives the number of slot and function.
        "str" if name == "addr" => value.is_u64(),
        "bool" => value.is_boolean(),
        "int" | "int8" | "int16" | "int32" | "int64" => value.is_i64(),
        "uint8" | "uint16" | "uint32" | "uint64" | "size" => value.is_u64(),
        "str" | "string" => value.is_string(),
        // The path of the object, or nothing.
        _ if kind.starts_with("child<") => value.as_str().is_some_and(|s| s.starts_with('/')),
        _ if kind.starts_with("link<") => value.as_str().is_some_and(|s| !s.contains(' ')),
        _ => !value.is_null(),
    }
}
