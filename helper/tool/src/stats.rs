// SPDX-License-Identifier: GPL-2.0-or-later
//! `stats`.

use std::time::{Duration, Instant};

use helper_cli::{exit, parse_time, Failure};
use legacy_vf_proto::QueryKind;
use serde_json::Value;

use crate::args::StatsArgs;
use crate::ask::Asker;
use crate::table::{number, print, print_json, table, text};

/// Shortest time between two questions.
const MIN_PERIOD: Duration = Duration::from_millis(10);

/// The helper closes a connection that has asked nothing for 30 s.
const RECONNECT: Duration = Duration::from_secs(20);

const ACCESSES: [(&str, &str); 8] = [
    ("common_read", "Common register reads"),
    ("common_write", "Common register writes"),
    ("device_read", "Device configuration reads"),
    ("device_write", "Device configuration writes"),
    ("notifications", "Notifications"),
    ("notify_commands", "  of these by command"),
    ("failed", "Failed"),
    ("timed_out", "  of these timed out"),
];

/// `stats`.
///
/// # Errors
/// If the helper does not answer.
pub(crate) fn stats(args: &StatsArgs) -> Result<(), Failure> {
    let member = args.ask.vf.unwrap_or(0);
    let period = match &args.watch {
        None => None,
        Some(text) => Some(
            parse_time(text)
                .filter(|t| *t >= MIN_PERIOD && *t <= Duration::from_secs(86400))
                .ok_or_else(|| {
                    Failure::text(
                        exit::USAGE,
                        format!("--watch {text}: give a time from 10ms on, as in 1s"),
                    )
                })?,
        ),
    };
    let mut asker = Asker::connect(&args.ask.socket)?;
    let Some(period) = period else {
        let v = asker.query(QueryKind::COUNTERS, member)?;
        if args.ask.output.json {
            print_json(&v);
        } else {
            print(&stats_text(&v));
        }
        return Ok(());
    };
    watch(args, &mut asker, member, period)
}

fn watch(
    args: &StatsArgs,
    asker: &mut Asker,
    member: u16,
    period: Duration,
) -> Result<(), Failure> {
    let mut last = asker.query(QueryKind::COUNTERS, member)?;
    let mut at = Instant::now();
    let mut lines = 0;
    while args.count.is_none_or(|count| lines < count) {
        std::thread::sleep(period);
        if period >= RECONNECT {
            *asker = Asker::connect(&args.ask.socket)?;
        }
        let v = asker.query(QueryKind::COUNTERS, member)?;
        let now = Instant::now();
        if args.ask.output.json {
            print(&format!("{v}\n"));
        } else {
            if lines % 20 == 0 {
                print("  READS/s  WRITES/s  NOTIFY/s  FAILED/s   P50 us   P99 us\n");
            }
            print(&rates(&last, &v, now.duration_since(at)));
        }
        (last, at) = (v, now);
        lines += 1;
    }
    Ok(())
}

fn rates(old: &Value, new: &Value, period: Duration) -> String {
    let rate = |names: &[&str]| {
        let added: u64 = names
            .iter()
            .map(|name| {
                let pointer = format!("/accesses/{name}");
                // A restarted helper counts from zero again.
                number(new, &pointer).saturating_sub(number(old, &pointer))
            })
            .sum();
        added as f64 / period.as_secs_f64().max(1e-6)
    };
    format!(
        "{:9.0} {:9.0} {:9.0} {:9.0} {:>8} {:>8}\n",
        rate(&["common_read", "device_read"]),
        rate(&["common_write", "device_write"]),
        rate(&["notifications"]),
        rate(&["failed"]),
        text(new, "/accesses/latency_us/p50"),
        text(new, "/accesses/latency_us/p99"),
    )
}

fn stats_text(v: &Value) -> String {
    let mut rows: Vec<Vec<String>> = ACCESSES
        .iter()
        .map(|(key, name)| vec![(*name).to_owned(), text(v, &format!("/accesses/{key}"))])
        .collect();
    let us = |key| text(v, &format!("/accesses/latency_us/{key}"));
    rows.push(vec![
        "Latency in us".into(),
        format!(
            "p50 {}, p90 {}, p99 {}, max {}",
            us("p50"),
            us("p90"),
            us("p99"),
            us("max")
        ),
    ]);
    if let Some(helper) = v.get("helper").and_then(Value::as_object) {
        for (key, value) in helper {
            match value {
                Value::Number(n) => rows.push(vec![key.replace('_', " "), n.to_string()]),
                Value::Object(parts) => rows.extend(
                    parts
                        .iter()
                        .map(|(name, n)| vec![format!("{key}: {name}"), n.to_string()]),
                ),
                _ => {}
            }
        }
        for d in v
            .pointer("/helper/device")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            rows.push(vec![
                format!(
                    "device: {}/{}",
                    text(d, "/status_name"),
                    text(d, "/qualifier_name")
                ),
                text(d, "/count"),
            ]);
        }
    }
    table(&rows)
}
