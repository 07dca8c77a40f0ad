// SPDX-License-Identifier: GPL-2.0-or-later
//! What the simulated device is made of, as the command line gives it.

pub use super::types::TypeOptions;

use serde_json::Value;
use virtio_pf_model::{EventMask, FaultRule, Knobs, ModelConfig};

/// Everything needed to build a device.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// What all types share.
    pub model: ModelConfig,
    /// What the type needs.
    pub device: TypeOptions,
    /// Fault rules in force from the start.
    pub faults: Vec<FaultRule>,
}

/// Sets one knob by `name=value`, the value in JSON (or a bare word).
///
/// # Errors
/// The name is unknown or the value does not fit; the text lists the names.
pub fn set_knob(knobs: &mut Knobs, text: &str) -> Result<(), String> {
    let mut all = serde_json::to_value(&*knobs).map_err(|e| e.to_string())?;
    let (name, value) = text.split_once('=').unwrap_or((text, "true"));
    let name = name.trim().replace('-', "_");
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    let Some(slot) = all.get_mut(&name) else {
        return Err(format!(
            "unknown knob {name:?}; known: {}",
            knob_names().join(", ")
        ));
    };
    *slot = value;
    *knobs = serde_json::from_value(all).map_err(|e| format!("knob {name}: {e}"))?;
    Ok(())
}

/// The names that [`set_knob`] takes.
pub fn knob_names() -> Vec<String> {
    match serde_json::to_value(Knobs::default()) {
        Ok(Value::Object(map)) => map.into_iter().map(|(name, _)| name).collect(),
        _ => Vec::new(),
    }
}

/// Parses a list of event classes, separated by commas.
///
/// # Errors
/// A class is unknown.
pub fn parse_events(text: &str) -> Result<EventMask, String> {
    let mut mask = EventMask::NONE;
    for word in text.split(',').map(str::trim) {
        match word {
            "all" => mask = EventMask::ALL,
            "none" => mask = EventMask::NONE,
            "commands" => mask.commands = true,
            "doorbells" => mask.doorbells = true,
            "interrupts" => mask.interrupts = true,
            "violations" => mask.violations = true,
            "state" => mask.state = true,
            _ => {
                return Err(format!(
                    "unknown event class {word:?}; known: all, none, commands, doorbells, \
                     interrupts, violations, state"
                ))
            }
        }
    }
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knobs_are_set_by_name() {
        let mut knobs = Knobs::default();
        set_knob(&mut knobs, "msix_vectors=3").unwrap();
        set_knob(&mut knobs, "vf-bar0").unwrap();
        set_knob(&mut knobs, "reset-delay-ns=500").unwrap();
        assert_eq!(knobs.msix_vectors, Some(3));
        assert!(knobs.vf_bar0);
        assert_eq!(knobs.reset_delay_ns, 500);
        let e = set_knob(&mut knobs, "nonsense=1").unwrap_err();
        assert!(e.contains("known:") && e.contains("msix_vectors"), "{e}");
        assert!(set_knob(&mut knobs, "msix_vectors=70000").is_err());
        assert!(set_knob(&mut knobs, "vf_bar0=maybe").is_err());
        assert_eq!(knobs.msix_vectors, Some(3));
    }

    #[test]
    fn event_classes_are_named() {
        let mask = parse_events("commands, state").unwrap();
        assert!(mask.commands && mask.state && !mask.doorbells);
        assert_eq!(parse_events("all"), Ok(EventMask::ALL));
        assert!(parse_events("comands").is_err());
    }
}
