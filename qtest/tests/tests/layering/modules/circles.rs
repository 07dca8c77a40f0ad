// SPDX-License-Identifier: GPL-2.0-or-later
//! Circles in a graph of files: its strongly connected components of more than one, by Tarjan.

use std::collections::BTreeMap;
use std::fmt;

use super::arrows::Arrows;

/// Files each of which leads to all others, in order.
pub(crate) struct Circle<'a> {
    pub(crate) files: Vec<&'a str>,
    arrows: &'a Arrows,
}

impl fmt::Display for Circle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "circle of {} files:", self.files.len())?;
        for file in &self.files {
            writeln!(f, "    \"{file}\",")?;
        }
        for (from, targets) in self.arrows {
            for (to, names) in targets {
                if [from, to].iter().all(|f| self.files.contains(&f.as_str())) {
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    writeln!(f, "  {from} -> {to}: {}", names.join(", "))?;
                }
            }
        }
        Ok(())
    }
}

/// All circles among these arrows.
pub(crate) fn circles(arrows: &Arrows) -> Vec<Circle<'_>> {
    let mut search = Search {
        arrows,
        seen: BTreeMap::new(),
        stack: Vec::new(),
        found: Vec::new(),
    };
    for file in arrows.keys() {
        if !search.seen.contains_key(file.as_str()) {
            search.visit(file);
        }
    }
    search.found.sort();
    search
        .found
        .into_iter()
        .map(|files| Circle { files, arrows })
        .collect()
}

struct Search<'a> {
    arrows: &'a Arrows,
    /// By file: the number of the visit, and the lowest one that it leads to.
    seen: BTreeMap<&'a str, (usize, usize)>,
    stack: Vec<&'a str>,
    found: Vec<Vec<&'a str>>,
}

impl<'a> Search<'a> {
    /// Visits a file and what it leads to; returns the lowest number reached.
    fn visit(&mut self, file: &'a str) -> usize {
        let number = self.seen.len();
        let mut low = number;
        self.seen.insert(file, (number, low));
        self.stack.push(file);
        for to in self.arrows.get(file).into_iter().flat_map(BTreeMap::keys) {
            let reached = match self.seen.get(to.as_str()) {
                None => self.visit(to),
                Some((number, _)) if self.stack.contains(&to.as_str()) => *number,
                Some(_) => continue,
            };
            low = low.min(reached);
        }
        self.seen.insert(file, (number, low));
        if low == number {
            let start = self.stack.iter().rposition(|f| *f == file).unwrap();
            let mut files = self.stack.split_off(start);
            if files.len() > 1 {
                files.sort_unstable();
                self.found.push(files);
            }
        }
        low
    }
}
