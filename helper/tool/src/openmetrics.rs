// SPDX-License-Identifier: GPL-2.0-or-later
//! `stats --openmetrics`: what a helper has counted as OpenMetrics text
//! (<https://openmetrics.io>, version 1.0.0), for whatever monitoring reads that.

use std::fmt::Write;

use helper_cli::{exit, Failure};
use legacy_vf_proto::QueryKind;
use serde_json::Value;

use crate::args::AskArgs;
use crate::ask::Asker;
use crate::table::{number, print, text};

/// Pages of VFs that are asked for; more than any helper has.
const MAX_PAGES: usize = 65_536;
const PREFIX: &str = "virtio_legacy_vf";

/// A label's value, as the format quotes it. What a helper says is not trusted.
fn quoted(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => out.push('?'),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A metric family's head.
fn family(out: &mut String, name: &str, kind: &str, unit: Option<&str>, help: &str) {
    let _infallible = writeln!(out, "# TYPE {PREFIX}_{name} {kind}");
    if let Some(unit) = unit {
        let _infallible = writeln!(out, "# UNIT {PREFIX}_{name} {unit}");
    }
    let _infallible = writeln!(out, "# HELP {PREFIX}_{name} {help}");
}

/// One sample; `labels` are pairs of a name and a value.
fn sample(out: &mut String, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
    let _infallible = write!(out, "{PREFIX}_{name}{{");
    for (i, (label, value)) in labels.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let _infallible = write!(out, "{comma}{label}={}", quoted(value));
    }
    let _infallible = writeln!(out, "}} {value}");
}

/// Nanoseconds as seconds, exactly.
fn seconds(ns: u64) -> String {
    let text = format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
    let short = text.trim_end_matches('0');
    match short.strip_suffix('.') {
        Some(whole) => format!("{whole}.0"),
        None => short.to_owned(),
    }
}

fn numbers(v: &Value, pointer: &str) -> Vec<u64> {
    let list = v.pointer(pointer).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .map(|n| n.as_u64().unwrap_or(0))
        .collect()
}

/// What a helper answered.
struct Answers {
    helper: Value,
    counters: Value,
    pages: Vec<Value>,
}

impl Answers {
    fn ask(asker: &mut Asker) -> Result<Self, Failure> {
        let helper = asker.query(QueryKind::HELPER, 0)?;
        let counters = asker.query(QueryKind::COUNTERS, 0)?;
        let mut pages = Vec::new();
        let mut first = 0;
        loop {
            let page = asker.query(QueryKind::METRICS, first)?;
            let next = page.get("next").and_then(Value::as_u64);
            let next = next.map(|n| u16::try_from(n).unwrap_or(0));
            pages.push(page);
            match next {
                None => break,
                Some(n) if n > first && pages.len() < MAX_PAGES => first = n,
                Some(n) => {
                    let text = format!("the helper's page from VF {first} on goes on at VF {n}");
                    return Err(Failure::text(exit::RUNTIME, text));
                }
            }
        }
        Ok(Answers {
            helper,
            counters,
            pages,
        })
    }

    fn vfs(&self) -> impl Iterator<Item = (&Value, &Value)> {
        self.pages.iter().flat_map(|page| {
            let list = page.get("vfs").and_then(Value::as_array);
            list.into_iter().flatten().map(move |vf| (page, vf))
        })
    }

    fn text(&self) -> String {
        let pf = text(&self.helper, "/pf/id");
        let pf = ("pf", pf.as_str());
        let mut out = String::new();
        family(
            &mut out,
            "helper",
            "info",
            None,
            "Version of the helper and state of its PF.",
        );
        let state = text(&self.helper, "/pf/state");
        let version = text(&self.helper, "/helper/version");
        let kind = text(&self.helper, "/pf/type");
        let labels = [
            pf,
            ("version", version.as_str()),
            ("type", kind.as_str()),
            ("state", state.as_str()),
        ];
        sample(&mut out, "helper_info", &labels, 1);
        for (name, unit, pointer, help) in [
            (
                "uptime_seconds",
                Some("seconds"),
                "/helper/uptime_s",
                "Time since the helper started.",
            ),
            (
                "connections",
                None,
                "/helper/connections",
                "Clients that are connected.",
            ),
            ("vfs_enabled", None, "/vfs/enabled", "VFs that the PF has."),
            ("vfs_open", None, "/vfs/open", "VFs that a client has open."),
        ] {
            family(&mut out, name, "gauge", unit, help);
            sample(&mut out, name, &[pf], number(&self.helper, pointer));
        }
        self.helper_counters(&mut out, pf);
        self.vf_samples(&mut out, pf);
        out.push_str("# EOF\n");
        out
    }

    fn helper_counters(&self, out: &mut String, pf: (&str, &str)) {
        let counters = self.counters.get("helper").and_then(Value::as_object);
        for (name, value) in counters.into_iter().flatten() {
            match value {
                Value::Number(count) => {
                    family(out, name, "counter", None, "Counted by the helper.");
                    sample(out, &format!("{name}_total"), &[pf], count);
                }
                Value::Object(parts) => {
                    family(
                        out,
                        name,
                        "counter",
                        None,
                        "Counted by the helper, by kind.",
                    );
                    for (kind, count) in parts {
                        sample(out, &format!("{name}_total"), &[pf, ("kind", kind)], count);
                    }
                }
                _ => {}
            }
        }
        family(
            out,
            "device_refusals",
            "counter",
            None,
            "Commands that the PF answered with an error.",
        );
        let statuses = self
            .counters
            .pointer("/helper/device")
            .and_then(Value::as_array);
        for d in statuses.into_iter().flatten() {
            let (status, qualifier) = (text(d, "/status"), text(d, "/qualifier"));
            let labels = [pf, ("status", &status), ("qualifier", &qualifier)];
            sample(out, "device_refusals_total", &labels, number(d, "/count"));
        }
    }

    fn vf_samples(&self, out: &mut String, pf: (&str, &str)) {
        family(
            out,
            "vf_open",
            "gauge",
            None,
            "Whether a client has the VF open.",
        );
        for (_, vf) in self.vfs() {
            let open = u8::from(vf.get("open") == Some(&Value::Bool(true)));
            sample(out, "vf_open", &[pf, ("vf", &text(vf, "/member"))], open);
        }
        family(
            out,
            "vf_operations",
            "counter",
            None,
            "Accesses and notifications by kind, and those that failed.",
        );
        for (page, vf) in self.vfs() {
            let names = page.get("counts").and_then(Value::as_array);
            for (name, count) in names.into_iter().flatten().zip(numbers(vf, "/counts")) {
                let name = name.as_str().unwrap_or("unknown");
                let labels = [pf, ("vf", &text(vf, "/member")), ("operation", name)];
                sample(out, "vf_operations_total", &labels, count);
            }
        }
        let name = "vf_latency_seconds";
        let help = "From the arrival of a request to its answer, of accesses that succeeded.";
        family(out, name, "histogram", Some("seconds"), help);
        for (page, vf) in self.vfs() {
            let member = text(vf, "/member");
            let vf_label = ("vf", member.as_str());
            let bucket = format!("{name}_bucket");
            for (end, count) in numbers(page, "/ends_ns")
                .into_iter()
                .zip(numbers(vf, "/latency/below"))
            {
                sample(out, &bucket, &[pf, vf_label, ("le", &seconds(end))], count);
            }
            let count = number(vf, "/latency/count");
            sample(out, &bucket, &[pf, vf_label, ("le", "+Inf")], count);
            let sum = seconds(number(vf, "/latency/sum_ns"));
            sample(out, &format!("{name}_sum"), &[pf, vf_label], sum);
            sample(out, &format!("{name}_count"), &[pf, vf_label], count);
        }
    }
}

/// `stats --openmetrics`.
///
/// # Errors
/// If the helper does not answer.
pub(crate) fn stats(args: &AskArgs) -> Result<(), Failure> {
    let answers = Answers::ask(&mut Asker::connect(&args.socket)?)?;
    print(&answers.text());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_quoted_and_times_are_exact() {
        assert_eq!(quoted("a\"b\\c\nd"), r#""a\"b\\c?d""#);
        for (ns, text) in [
            (0, "0.0"),
            (4096, "0.000004096"),
            (1_000_000_000, "1.0"),
            (4_294_967_296, "4.294967296"),
        ] {
            assert_eq!(seconds(ns), text);
        }
    }

    #[test]
    fn a_helper_that_answers_anything_gives_text_all_the_same() {
        let odd = serde_json::json!({"vfs": [1, {"member": "x\ny", "counts": "no", "latency": []}], "counts": [7]});
        let answers = Answers {
            helper: Value::Null,
            counters: serde_json::json!({"helper": {"device": [null], "a b": {"c": "d"}}}),
            pages: vec![odd, Value::Null],
        };
        let text = answers.text();
        assert!(
            text.ends_with("# EOF\n") && !text.contains("x\ny"),
            "{text}"
        );
    }
}
