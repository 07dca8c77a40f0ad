// SPDX-License-Identifier: GPL-2.0-or-later
//! Tables and values for people.

use std::fmt::Write;

use legacy_vf_proto::Printable;
use serde_json::Value;

/// Columns as wide as their widest cell; the first row is the heading.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _infallible = write!(line, "{cell:width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A value found by path, as text; "-" if there is none.
pub(crate) fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        None | Some(Value::Null) => "-".into(),
        Some(Value::String(s)) => Printable(s).to_string(),
        Some(Value::Array(items)) => items
            .iter()
            .map(|v| text(v, ""))
            .collect::<Vec<_>>()
            .join(" "),
        Some(other) => other.to_string(),
    }
}

/// A number found by path; 0 if there is none.
pub(crate) fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// Seconds as people say it.
pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}min", seconds / 60),
        7200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

/// Prints; a reader that has gone is no error.
pub(crate) fn print(text: &str) {
    use std::io::Write as _;
    let _gone = std::io::stdout().write_all(text.as_bytes());
    let _gone = std::io::stdout().flush();
}

/// Prints JSON for other programs.
pub(crate) fn print_json(value: &Value) {
    print(&format!("{value:#}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_control_characters_do_not_get_out() {
        let row = |cells: &[&str]| cells.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            table(&[row(&["VF", "STATE"]), row(&["12", "free"]), row(&["3"])]),
            "VF  STATE\n12  free\n3\n"
        );
        let v = serde_json::json!({"a": {"b": "x\u{1b}[2J"}, "l": [1, "y"], "n": 7});
        assert_eq!(text(&v, "/a/b"), "x?[2J");
        assert_eq!(text(&v, "/l"), "1 y");
        assert_eq!(text(&v, "/none"), "-");
        assert_eq!(number(&v, "/n"), 7);
        assert_eq!(age(119), "119s");
        assert_eq!(age(7300), "2h");
    }
}
