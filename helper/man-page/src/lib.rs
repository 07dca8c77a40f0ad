// SPDX-License-Identifier: GPL-2.0-or-later
//! The man page of one of our programs: what its command line says about itself, and sections that
//! are written by hand, in the order in which they are added.

#![forbid(unsafe_code)]

use std::io;

use clap::Command;
use clap_mangen::roff::{bold, roman};
use clap_mangen::Man;

pub use clap_mangen::roff;
pub use clap_mangen::roff::Roff;

/// What all our pages belong to.
const MANUAL: &str = "QEMU virtio legacy VF";

/// A page of section 1 in the making.
pub struct Page {
    man: Man,
    out: Vec<u8>,
}

/// A name and what it stands for, as an item of a list.
pub fn item(roff: &mut Roff, name: impl Into<String>, text: impl Into<String>) {
    roff.control("TP", []);
    roff.text([bold(name)]);
    roff.text([roman(text)]);
}

/// Writing to memory does not fail.
fn render(out: &mut Vec<u8>, part: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) {
    let _infallible = part(out);
}

/// Groups of options as subsections of OPTIONS, not as sections of their own.
fn subsections(options: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(options);
    let mut out = String::new();
    for line in text.lines() {
        match line.strip_prefix(".SH ") {
            Some(title) if title != "OPTIONS" => {
                out.push_str(".SS ");
                out.push_str(title);
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out.into_bytes()
}

impl Page {
    /// The beginning of the page of a command that was built: title, NAME, SYNOPSIS and
    /// DESCRIPTION. A line of the synopsis begins with the name of the program.
    pub fn new(command: Command, synopsis: &[&str]) -> Self {
        let man = Man::new(command).section("1").manual(MANUAL).date("");
        let out = Vec::new();
        let mut page = Page { man, out };
        render(&mut page.out, |out| page.man.render_title(out));
        render(&mut page.out, |out| page.man.render_name_section(out));
        page.section("SYNOPSIS", |r| {
            for line in synopsis {
                let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
                r.control("PP", []);
                r.text([bold(name), roman(format!(" {rest}"))]);
            }
        });
        render(&mut page.out, |out| {
            page.man.render_description_section(out)
        });
        page
    }

    /// OPTIONS, each group of options in a section of its own behind it.
    pub fn options(&mut self) {
        render(&mut self.out, |out| self.man.render_options_section(out));
    }

    /// OPTIONS, with groups of options as its subsections.
    pub fn options_with_subsections(&mut self) {
        let mut options = Vec::new();
        render(&mut options, |out| self.man.render_options_section(out));
        self.out.extend(subsections(&options));
    }

    /// Whatever `fill` writes.
    pub fn part(&mut self, fill: impl FnOnce(&mut Roff)) {
        let mut roff = Roff::default();
        fill(&mut roff);
        render(&mut self.out, |out| roff.to_writer(out));
    }

    /// A section.
    pub fn section(&mut self, title: &str, fill: impl FnOnce(&mut Roff)) {
        self.part(|r| {
            r.control("SH", [title]);
            fill(r);
        });
    }

    /// A section of one paragraph.
    pub fn text(&mut self, title: &str, text: impl Into<String>) {
        self.section(title, |r| {
            r.text([roman(text)]);
        });
    }

    /// A section that is a list of names and what they stand for.
    pub fn list<N: Into<String>, T: Into<String>>(
        &mut self,
        title: &str,
        items: impl IntoIterator<Item = (N, T)>,
    ) {
        self.section(title, |r| {
            for (name, text) in items {
                item(r, name, text);
            }
        });
    }

    /// EXAMPLES: what for, and the lines to type.
    pub fn examples(&mut self, examples: &[(&str, &str)]) {
        self.section("EXAMPLES", |r| {
            for (text, lines) in examples {
                r.control("PP", []);
                r.text([roman(*text)]);
                r.control("PP", []);
                r.control("nf", []);
                for line in lines.lines() {
                    r.text([roman(line)]);
                }
                r.control("fi", []);
            }
        });
    }

    /// SEE ALSO: a program with a page in section 1, and files. The last section.
    pub fn see_also(mut self, program: &str, files: &str) -> Vec<u8> {
        self.section("SEE ALSO", |r| {
            r.text([bold(program), roman(format!("(1), {files}"))]);
        });
        self.out
    }
}
