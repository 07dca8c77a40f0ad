// SPDX-License-Identifier: GPL-2.0-or-later
//! What happened, as JSON records: the latest in memory, all of them (up to a limit) in a file. Those in
//! memory are kept as text, which is a tenth of what a value takes.

use serde_json::{json, Value};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Records kept in memory for the control socket.
pub const KEPT: usize = 16 * 1024;
/// Records in the file unless told otherwise.
pub const DEFAULT_LIMIT: u64 = 1_000_000;

/// The event log.
pub struct EventLog {
    recent: VecDeque<(u64, Box<str>)>,
    next: u64,
    file: Option<BufWriter<File>>,
    limit: u64,
    written: u64,
    dirty: bool,
}

impl EventLog {
    /// A log in memory only.
    pub fn in_memory() -> Self {
        Self {
            recent: VecDeque::new(),
            next: 0,
            file: None,
            limit: 0,
            written: 0,
            dirty: false,
        }
    }

    /// A log that is also written to `path`, at most `limit` records.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn with_file(path: &Path, limit: u64) -> std::io::Result<Self> {
        Ok(Self {
            file: Some(BufWriter::new(File::create(path)?)),
            limit,
            ..Self::in_memory()
        })
    }

    /// Adds a record. Objects get a member `n`, their number in this log.
    pub fn push(&mut self, mut record: Value) {
        let n = self.next;
        self.next += 1;
        if let Some(map) = record.as_object_mut() {
            map.insert("n".to_owned(), n.into());
        }
        let record = record.to_string();
        if self.written < self.limit {
            self.written += 1;
            self.write(&record);
            if self.written == self.limit {
                let last = json!({ "n": n, "event": "limit_reached", "limit": self.limit });
                self.write(&last.to_string());
            }
        }
        if self.recent.len() >= KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back((n, record.into()));
    }

    fn write(&mut self, record: &str) {
        let Some(file) = &mut self.file else {
            return;
        };
        let result = writeln!(file, "{record}");
        self.dirty = true;
        if let Err(e) = result {
            tracing::error!("event log: {e}; no more records are written");
            self.file = None;
        }
    }

    /// Puts what is buffered into the file.
    pub fn flush(&mut self) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        if let Some(Err(e)) = self.file.as_mut().map(BufWriter::flush) {
            tracing::error!("event log: {e}; no more records are written");
            self.file = None;
        }
    }

    /// Number of the next record.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Up to `max` records from number `since` on, and the number to ask for next. Records that
    /// fell out of memory are left out; the first number tells.
    pub fn since(&self, since: u64, max: usize) -> (Vec<Value>, u64) {
        let oldest = self.recent.front().map_or(self.next, |(n, _)| *n);
        let skip = usize::try_from(since.saturating_sub(oldest)).unwrap_or(usize::MAX);
        let records: Vec<_> = self.recent.iter().skip(skip).take(max).collect();
        let next = records.last().map_or(self.next.max(since), |(n, _)| n + 1);
        let values = records.into_iter();
        let values = values.filter_map(|(_, text)| serde_json::from_str(text).ok());
        (values.collect(), next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_numbered_kept_and_bounded() {
        let mut log = EventLog::in_memory();
        for i in 0..KEPT + 10 {
            log.push(json!({ "i": i }));
        }
        let (all, next) = log.since(0, usize::MAX);
        assert_eq!(all.len(), KEPT);
        assert_eq!(all[0]["n"], 10);
        assert_eq!(next, KEPT as u64 + 10);
        let (some, next) = log.since(20, 3);
        assert_eq!(some[0]["i"], 20);
        assert_eq!(next, 23);
        let (none, next) = log.since(next + 1_000_000, 3);
        assert!(none.is_empty());
        assert_eq!(next, 1_000_023);
    }

    #[test]
    fn the_file_ends_at_its_limit_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = EventLog::with_file(&path, 3).unwrap();
        for i in 0..5 {
            log.push(json!({ "i": i }));
        }
        log.flush();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[2]["i"], 2);
        assert_eq!(lines[3]["event"], "limit_reached");
    }
}
