// SPDX-License-Identifier: GPL-2.0-or-later
//! What helper and client of different releases owe each other: recorded bytes of this version, and
//! the members of QUERY answers as the protocol description has them.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;

use common::{hello, open, query, read, Answer, Bench};
use legacy_vf_proto::{QueryKind, Request};
use serde_json::Value;

/// `>` is what the client sends, `<` what the helper answers, `-` that the connection ends, `+` a new
/// connection; `..` stands for any byte, `...` for any text.
const RECORDED: &str = include_str!("recorded/version-1.hex");
const DESCRIPTION: &str = include_str!("../../../docs/interop/legacy-vf-helper.md");

fn hex(bytes: &[u8]) -> String {
    let words: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    words.join(" ")
}

fn same(recorded: &str, bytes: &[u8]) -> bool {
    let mut words: Vec<&str> = recorded.split_whitespace().collect();
    let open_end = words.last() == Some(&"...");
    if open_end {
        words.pop();
    }
    (words.len() == bytes.len() || open_end && words.len() < bytes.len())
        && words
            .iter()
            .zip(bytes)
            .all(|(word, b)| *word == ".." || *word == format!("{b:02x}"))
}

#[test]
fn recorded_messages_are_answered_as_they_were() {
    let mut b = Bench::new(4);
    let mut id = b.connect();
    let mut sent = 0;
    for (number, line) in (1..).zip(RECORDED.lines()) {
        let (mark, rest) = line.split_at_checked(1).unwrap_or(("#", ""));
        match mark {
            "+" => {
                b.hub.disconnect(id, b.now);
                id = b.connect();
            }
            ">" => {
                let bytes: Vec<u8> = rest
                    .split_whitespace()
                    .map(|word| u8::from_str_radix(word, 16).unwrap())
                    .collect();
                b.bytes(id, &bytes);
                b.hub.poll(b.now);
                sent += 1;
            }
            "<" => {
                let got = b.hub.outgoing(id).unwrap_or(&[]).to_vec();
                assert!(
                    same(rest, &got),
                    "line {number}: the answer is\n< {}",
                    hex(&got)
                );
                b.hub.sent(id, b.now);
            }
            "-" => assert!(b.finished(id), "line {number}: it goes on"),
            _ => {}
        }
        if mark == ">" {
            // A request has one answer or none.
            let more = b.hub.session(id).is_some();
            assert!(more, "line {number}");
        }
    }
    assert!(sent >= 20, "{sent}");
}

/// Leaves of a JSON value: their path and type.
fn leaves(prefix: &str, value: &Value, out: &mut BTreeMap<String, &'static str>) {
    let kind = match value {
        Value::Object(members) => {
            for (name, value) in members {
                // Members that are named after something else.
                let name = match prefix {
                    "helper.requests" | "helper.errors" | "helper.pf" => "NAME",
                    _ => name,
                };
                let dot = if prefix.is_empty() { "" } else { "." };
                leaves(&format!("{prefix}{dot}{name}"), value, out);
            }
            return;
        }
        Value::Array(items) => match items.first() {
            Some(first @ Value::Object(_)) => return leaves(&format!("{prefix}[]"), first, out),
            Some(Value::String(_)) => "array of strings",
            _ => "array of numbers",
        },
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "boolean",
        Value::Null => "null",
    };
    out.insert(prefix.to_owned(), kind);
}

/// The table of section 4.7: type and whether it is optional, by `what` and member.
fn described() -> BTreeMap<(u16, String), (String, bool)> {
    let mut out = BTreeMap::new();
    let table = DESCRIPTION
        .lines()
        .skip_while(|line| !line.starts_with("| `what` | Member"))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    for row in table {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let what = cells[1].parse().unwrap();
        let (kind, optional) = match cells[3].strip_suffix(", optional") {
            Some(kind) => (kind, true),
            None => (cells[3], false),
        };
        for member in cells[2].split(',') {
            let member = member.trim().trim_matches('`').to_owned();
            out.insert((what, member), (kind.to_owned(), optional));
        }
    }
    out
}

#[test]
fn members_of_answers_are_described_with_their_types() {
    let mut b = Bench::new(2);
    let id = b.connect();
    b.ask(id, &hello());
    b.ask(id, &open(1));
    b.ask(id, &read(0, 4));
    b.ask(id, &Request::Notify { queue: 0 });
    b.ask(id, &open(1));
    b.control.set(|c| {
        c.error = Some(virtio_pf::OpError::Device {
            status: 22,
            qualifier: 3,
        });
    });
    b.ask(id, &read(0, 4));
    let described = described();
    assert!(described.len() > 70, "{}", described.len());
    for (what, member) in [(0, 0), (1, 1), (1, 2), (2, 0), (2, 1), (3, 0)] {
        let Answer::Json(json) = b.ask(id, &query(QueryKind(what), member)) else {
            panic!()
        };
        let mut got = BTreeMap::new();
        leaves("", &json, &mut got);
        for (path, kind) in &got {
            let known = described.get(&(what, path.clone()));
            assert!(
                known.is_some_and(|(described, _)| described == kind),
                "{what}: {path} is a {kind}, described as {known:?}"
            );
        }
        for ((_, path), (_, optional)) in described.iter().filter(|((w, _), _)| *w == what) {
            assert!(*optional || got.contains_key(path), "{what}: no {path}");
        }
    }
}
