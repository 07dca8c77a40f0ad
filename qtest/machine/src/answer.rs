// SPDX-License-Identifier: GPL-2.0-or-later
//! What the guest says on its command port.

use anyhow::{bail, Context, Result};

/// Keys whose value is the rest of the line.
const WHOLE_LINE: [&str; 3] = ["lspci", "irq", "text"];
/// What every line of the protocol begins with.
const PREFIX: &str = "VLVF: ";

/// A line of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// The guest takes commands from now on.
    Ready,
    /// The scenario `id` is over.
    Done {
        /// Number of the command.
        id: String,
        /// 0 if it worked.
        status: i32,
    },
    /// Values of the running scenario.
    Values(Vec<(String, String)>),
}

impl Line {
    /// Reads a line; `None` if it is not one of the protocol.
    pub fn parse(line: &str) -> Option<Self> {
        // A port that was just opened may have left something in front.
        let text = line.get(line.find(PREFIX)? + PREFIX.len()..)?.trim_end();
        let mut words = text.split_whitespace();
        let first = words.next()?;
        if first == "ready" {
            return Some(Self::Ready);
        }
        let pairs = |text: &str| {
            text.split_whitespace()
                .filter_map(|word| word.split_once('='))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect::<Vec<_>>()
        };
        if first == "done" {
            let values = pairs(text);
            let value = |key: &str| {
                values
                    .iter()
                    .find(|(k, _)| k == key)
                    .map(|(_, v)| v.clone())
            };
            return Some(Self::Done {
                id: value("id")?,
                status: value("rc")?.parse().ok()?,
            });
        }
        if let Some((key, value)) = text.split_once('=') {
            if WHOLE_LINE.contains(&key) {
                return Some(Self::Values(vec![(key.to_owned(), value.to_owned())]));
            }
        }
        Some(Self::Values(pairs(text)))
    }
}

/// The outcome of one scenario.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// What was asked.
    pub command: String,
    /// 0 if it worked.
    pub status: i32,
    values: Vec<(String, String)>,
}

impl Answer {
    /// An answer to `command`.
    pub fn new(command: &str, status: i32, values: Vec<(String, String)>) -> Self {
        Self {
            command: command.to_owned(),
            status,
            values,
        }
    }

    /// # Errors
    /// When the scenario failed in the guest; with everything it said.
    pub fn ok(self) -> Result<Self> {
        if self.status != 0 {
            bail!(
                "the guest's \"{}\" failed ({}): {}",
                self.command,
                self.status,
                self.text()
            );
        }
        Ok(self)
    }

    /// A value.
    ///
    /// # Errors
    /// When the guest did not tell it.
    pub fn get(&self, key: &str) -> Result<&str> {
        self.values
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, value)| value.as_str())
            .with_context(|| {
                format!(
                    "the guest's \"{}\" did not tell {key}: {}",
                    self.command,
                    self.text()
                )
            })
    }

    /// A value that is a number.
    ///
    /// # Errors
    /// When the guest did not tell it or it is none.
    pub fn number(&self, key: &str) -> Result<u64> {
        let text = self.get(key)?;
        text.parse()
            .with_context(|| format!("{key}={text} is not a number"))
    }

    /// All values of a key.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.values
            .iter()
            .filter(move |(k, _)| k == key)
            .map(|(_, value)| value.as_str())
    }

    /// Everything the guest told.
    pub fn text(&self) -> String {
        let words: Vec<String> = self
            .values
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_guest() {
        assert_eq!(Line::parse("VLVF: ready uptime=3.1\r\n"), Some(Line::Ready));
        assert_eq!(
            Line::parse("\u{1b}[cVLVF: done id=7 rc=1"),
            Some(Line::Done {
                id: "7".into(),
                status: 1
            })
        );
        let values = |list: &[(&str, &str)]| {
            Some(Line::Values(
                list.iter()
                    .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                    .collect(),
            ))
        };
        assert_eq!(
            Line::parse("VLVF: a=1 b=x=y"),
            values(&[("a", "1"), ("b", "x=y")])
        );
        assert_eq!(
            Line::parse("VLVF: lspci=00:01.0 Ethernet [0200]: a=b"),
            values(&[("lspci", "00:01.0 Ethernet [0200]: a=b")])
        );
        assert_eq!(Line::parse("hello"), None);
        assert_eq!(Line::parse("VLVF: done id=7"), None);
        assert_eq!(Line::parse("VLVF: "), None);
    }

    #[test]
    fn a_failed_scenario_says_what_it_said() {
        let values = vec![("error".to_owned(), "nc".to_owned())];
        let answer = Answer::new("tcp 64", 1, values);
        assert_eq!(answer.get("error").unwrap(), "nc");
        assert!(answer.number("error").is_err());
        let text = format!("{:#}", answer.ok().unwrap_err());
        assert!(text.contains("\"tcp 64\" failed (1): error=nc"), "{text}");
    }
}
