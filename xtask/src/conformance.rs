// SPDX-License-Identifier: GPL-2.0-or-later
//! `docs/conformance.md`, generated from the rows of `docs/conformance/rows.tsv` and from the
//! `// Covers: ROW, ROW` lines above the tests.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};

const ROWS: &str = "docs/conformance/rows.tsv";
const PAGE: &str = "docs/conformance.md";
/// Folders whose Rust files may hold tests.
const ROOTS: [&str; 5] = ["rust", "helper", "qtest", "xtask", "fuzz"];
/// How many lines may stand between a `Covers:` line and its function.
const REACH: usize = 12;

/// One row of the checklist.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    id: String,
    who: String,
    title: String,
    reason: String,
}

/// A test that names rows.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Test {
    file: String,
    name: String,
}

fn parse_rows(text: &str) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.starts_with('#') || line.trim().is_empty() {
            continue;
        }
        let mut cells = line.split('\t').map(str::trim);
        let (Some(id), Some(who), Some(title)) = (cells.next(), cells.next(), cells.next()) else {
            bail!(
                "{ROWS}:{}: needs at least three columns separated by tabs",
                number + 1
            );
        };
        rows.push(Row {
            id: id.to_owned(),
            who: who.to_owned(),
            title: title.to_owned(),
            reason: cells.next().unwrap_or_default().to_owned(),
        });
    }
    Ok(rows)
}

/// The rows named in one line, if it is a `Covers:` line.
fn covers(line: &str) -> Option<Vec<String>> {
    let rest = line
        .trim()
        .strip_prefix("//")?
        .trim_start_matches('/')
        .trim();
    let list = rest.strip_prefix("Covers:")?;
    Some(
        list.split(',')
            .map(|row| row.trim().to_owned())
            .filter(|r| !r.is_empty())
            .collect(),
    )
}

fn function_name(line: &str) -> Option<String> {
    let at = line.find("fn ")?;
    let before = line.get(..at)?;
    if before.contains("//")
        || before.chars().any(|c| c == '"' || c == '(') && !before.contains("pub")
    {
        return None;
    }
    let name: String = line
        .get(at + 3..)?
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    (!name.is_empty()).then_some(name)
}

fn scan(file: &str, text: &str, found: &mut BTreeMap<String, Vec<Test>>) -> Result<()> {
    let lines: Vec<&str> = text.lines().collect();
    for (number, line) in lines.iter().enumerate() {
        let Some(rows) = covers(line) else { continue };
        let name = lines
            .iter()
            .skip(number + 1)
            .take(REACH)
            .find_map(|l| function_name(l))
            .with_context(|| format!("{file}:{}: no function below this line", number + 1))?;
        for row in rows {
            let test = Test {
                file: file.to_owned(),
                name: name.clone(),
            };
            let tests = found.entry(row).or_default();
            if !tests.contains(&test) {
                tests.push(test);
            }
        }
    }
    Ok(())
}

fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            if !path.ends_with("target") {
                rust_files(&path, out)?;
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
    Ok(())
}

fn tests_of_tree(root: &Path) -> Result<BTreeMap<String, Vec<Test>>> {
    let mut files = Vec::new();
    for dir in ROOTS {
        let dir = root.join(dir);
        if dir.is_dir() {
            rust_files(&dir, &mut files)?;
        }
    }
    files.sort();
    let mut found = BTreeMap::new();
    for path in files {
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("reading {}", path.display()))?;
        let name = path
            .strip_prefix(root)
            .unwrap_or(&path)
            .display()
            .to_string();
        scan(&name, &text, &mut found)?;
    }
    Ok(found)
}

/// Joins rows and tests; the second value lists rows without a test and without a reason.
fn render(rows: &[Row], found: &BTreeMap<String, Vec<Test>>) -> Result<(String, Vec<String>)> {
    let unknown: Vec<&str> = found
        .keys()
        .filter(|id| !rows.iter().any(|r| r.id == **id))
        .map(String::as_str)
        .collect();
    if !unknown.is_empty() {
        bail!(
            "tests name rows that {ROWS} does not have: {}",
            unknown.join(", ")
        );
    }
    let mut open = Vec::new();
    let mut areas: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut order = Vec::new();
    let mut table = String::new();
    for row in rows {
        let area = row.id.split('-').next().unwrap_or_default();
        if !order.contains(&area) {
            order.push(area);
        }
        let count = areas.entry(area).or_default();
        count.0 += 1;
        let cell = match found.get(&row.id) {
            Some(tests) => {
                count.1 += 1;
                tests
                    .iter()
                    .map(|t| format!("`{}` ({})", t.name, t.file))
                    .collect::<Vec<_>>()
                    .join("<br>")
            }
            None if row.reason.is_empty() => {
                open.push(row.id.clone());
                "**no test yet**".to_owned()
            }
            None => format!("not yet: {}", row.reason),
        };
        writeln!(
            table,
            "| {} | {} | {} | {} |",
            row.id, row.who, row.title, cell
        )?;
    }
    let mut page = String::from(
        "<!-- SPDX-License-Identifier: GPL-2.0-or-later -->\n\
         <!-- Generated by `cargo xtask conformance`; do not edit. -->\n\
         # Conformance\n\n\
         Requirements of the virtio specification that bind the device (DEVICE), the helper (HELPER) or the\n\
         simulated PF (SIM), and the tests that cover them. A test names its rows in a `// Covers:` line.\n\n\
         | Area | Rows | Covered |\n|---|---|---|\n",
    );
    let (mut all, mut covered) = (0, 0);
    for area in order {
        let (rows, tested) = areas.get(area).copied().unwrap_or_default();
        all += rows;
        covered += tested;
        writeln!(page, "| {area} | {rows} | {tested} |")?;
    }
    writeln!(page, "| all | {all} | {covered} |\n")?;
    page.push_str("| Row | Binds | What it asks | Covered by |\n|---|---|---|---|\n");
    page.push_str(&table);
    Ok((page, open))
}

/// Writes the page, or with `check` fails if it is not what the tests say, or if a row has neither a
/// test nor a reason.
///
/// # Errors
/// When a file cannot be read or written, a test names an unknown row, or the check fails.
pub(crate) fn run(root: &Path, check: bool) -> Result<()> {
    let text =
        std::fs::read_to_string(root.join(ROWS)).with_context(|| format!("reading {ROWS}"))?;
    let (page, open) = render(&parse_rows(&text)?, &tests_of_tree(root)?)?;
    let path = root.join(PAGE);
    if check {
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        if committed != page {
            bail!("{PAGE} is not up to date: run `cargo xtask conformance` and commit it");
        }
        if !open.is_empty() {
            bail!(
                "{} rows have neither a test nor a reason in {ROWS}: {}",
                open.len(),
                open.join(", ")
            );
        }
        return Ok(());
    }
    std::fs::write(&path, page).with_context(|| format!("writing {PAGE}"))?;
    if !open.is_empty() {
        println!(
            "{} rows without a test and without a reason: {}",
            open.len(),
            open.join(", ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_tests_are_joined() {
        let rows = parse_rows(
            "# x\nLIO-01\tDEVICE dev\tlayout\t\nLIO-02\tDEVICE dev\tmove\tlater\nLIO-03\tD\tt\t\n",
        )
        .unwrap();
        let mut found = BTreeMap::new();
        scan(
            "a.rs",
            "// Covers: LIO-01\n#[test]\nfn layout_is_right() {}\n",
            &mut found,
        )
        .unwrap();
        let (page, open) = render(&rows, &found).unwrap();
        assert!(page.contains("| LIO-01 | DEVICE dev | layout | `layout_is_right` (a.rs) |"));
        assert!(page.contains("not yet: later"));
        assert_eq!(open, ["LIO-03"]);
    }

    #[test]
    fn unknown_rows_and_lines_without_a_test_are_refused() {
        let mut found = BTreeMap::new();
        scan("a.rs", "// Covers: XXX-01\nfn f() {}\n", &mut found).unwrap();
        assert!(render(&[], &found)
            .unwrap_err()
            .to_string()
            .contains("XXX-01"));
        assert!(scan("b.rs", "// Covers: LIO-01\n", &mut BTreeMap::new()).is_err());
    }

    #[test]
    fn only_comment_lines_count() {
        assert_eq!(
            covers("    // Covers: A-01, B-02"),
            Some(vec!["A-01".into(), "B-02".into()])
        );
        assert_eq!(covers("let x = \"// Covers: A-01\";"), None);
        assert_eq!(function_name("    pub fn name() {"), Some("name".into()));
        assert_eq!(function_name("// fn no()"), None);
    }
}
