// SPDX-License-Identifier: GPL-2.0-or-later
//! The table.

use serde::Serialize;

/// What a figure is to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Aim {
    /// No aim; for comparison.
    None,
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
}

/// One line.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// The value.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// What it is to be.
    pub aim: Aim,
    /// The value divided by the baseline that `against` names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// The baseline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<String>,
}

impl Figure {
    /// A figure without aim.
    pub fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Figure {
            name: name.into(),
            value,
            unit,
            aim: Aim::None,
            ratio: None,
            against: None,
        }
    }

    /// With this aim.
    #[must_use]
    pub fn aim(mut self, aim: Aim) -> Self {
        self.aim = aim;
        self
    }

    /// As a ratio to a baseline of the same unit.
    #[must_use]
    pub fn against(mut self, name: &str, baseline: f64) -> Self {
        self.ratio = Some(self.value / baseline);
        self.against = Some(name.to_owned());
        self
    }

    /// Whether the aim is met; `None` without one.
    pub fn met(&self) -> Option<bool> {
        match self.aim {
            Aim::None => None,
            Aim::AtMost(most) => Some(self.value <= most),
            Aim::AtLeast(least) => Some(self.value >= least),
        }
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The table as text.
pub fn table(figures: &[Figure]) -> String {
    let rows: Vec<[String; 6]> = figures
        .iter()
        .map(|f| {
            let aim = match f.aim {
                Aim::None => String::new(),
                Aim::AtMost(most) => format!("<= {}", number(most)),
                Aim::AtLeast(least) => format!(">= {}", number(least)),
            };
            let met = match f.met() {
                None => "",
                Some(true) => "met",
                Some(false) => "MISSED",
            };
            let ratio = match (f.ratio, &f.against) {
                (Some(r), Some(name)) => format!("{r:.2} x {name}"),
                _ => String::new(),
            };
            [
                f.name.clone(),
                number(f.value),
                f.unit.to_owned(),
                aim,
                met.to_owned(),
                ratio,
            ]
        })
        .collect();
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let [name, value, unit, aim, met, _] = widths;
    let mut out = String::new();
    for [n, v, u, a, m, r] in rows {
        let line = format!("{n:name$}  {v:>value$} {u:unit$}  {a:aim$}  {m:met$}  {r}");
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aims_and_ratios() {
        let a = Figure::new("a", 30.0, "us").against("b", 10.0);
        assert_eq!((a.ratio, a.met()), (Some(3.0), None));
        let low = Figure::new("low", 5.0, "x").aim(Aim::AtMost(4.0));
        assert_eq!(low.met(), Some(false));
        let high = Figure::new("high", 5.0, "x").aim(Aim::AtLeast(4.0));
        assert_eq!(high.met(), Some(true));
        let text = table(&[a, low, high]);
        assert!(text.contains("3.00 x b"), "{text}");
        assert!(text.contains("<= 4.00  MISSED"), "{text}");
    }
}
