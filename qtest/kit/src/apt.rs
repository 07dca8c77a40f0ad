// SPDX-License-Identifier: GPL-2.0-or-later
//! Packages of other suites through apt, without touching the machine's own package lists.
//!
//! A private configuration (lists, cache and sources in a directory of the cache) names the suites at
//! the mirror that the machine already uses.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::run::Cmd;
use crate::steps::Step;

/// The suite that has QEMU's version.
const QEMU_SUITE: &str = "sid";
/// Keys that sign Debian's releases, where Debian puts them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What a private configuration has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Source packages of content that the caller knows by its hashes.
    Source,
    /// Packages for amd64, as if nothing was installed. What apt verifies is all that is known of
    /// them, so that lists that are older than Debian allows are refused.
    Binary,
}

/// apt with its lists, cache and sources in a directory of its own.
#[derive(Debug)]
pub struct Private {
    config: PathBuf,
}

impl Private {
    /// Sets it up below `dir`, which is emptied, and gets the lists of `suites` from the mirror that
    /// the machine uses. Packages of the last suite are preferred.
    ///
    /// # Errors
    /// When there is no mirror to be found, or what apt says.
    pub fn new(step: &Step, dir: &Path, kind: Kind, suites: &[&str]) -> Result<Self> {
        let mirror = machine_mirror().context(
            "no Debian mirror found in /etc/apt/sources.list or /etc/apt/sources.list.d",
        )?;
        step.write(&format!("mirror: {mirror}"))?;
        let _ = fs::remove_dir_all(dir);
        for sub in ["lists/partial", "cache/archives/partial", "empty"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        fs::write(dir.join("status"), "")?;
        fs::write(
            dir.join("source.sources"),
            source_entry(&mirror, kind, suites),
        )?;
        let config = dir.join("apt.conf");
        fs::write(&config, configuration(dir, kind, suites))?;
        let private = Self { config };
        private.apt("apt-get").args(["-q", "update"]).run(step)?;
        Ok(private)
    }

    /// A program of apt with this configuration.
    pub fn apt(&self, program: &str) -> Cmd {
        Cmd::new(program).env("APT_CONFIG", &self.config)
    }
}

/// Downloads the files of one version of a source package into `into`.
///
/// # Errors
/// When there is no mirror to be found, or what apt says.
pub fn download_source(step: &Step, package: &str, version: &str, into: &Path) -> Result<()> {
    let dir = into.join("apt");
    Private::new(step, &dir, Kind::Source, &[QEMU_SUITE])?
        .apt("apt-get")
        .args(["-q", "source", "--download-only", "--only-source"])
        .arg(format!("{package}={version}"))
        .dir(into)
        .run(step)?;
    // Only the downloaded files are of use afterwards.
    let _ = fs::remove_dir_all(&dir);
    Ok(())
}

/// An apt configuration that keeps all state below `dir`.
fn configuration(dir: &Path, kind: Kind, suites: &[&str]) -> String {
    let dir = dir.display();
    let mut text = format!(
        "Dir::State::Lists \"{dir}/lists\";\n\
         Dir::Cache \"{dir}/cache\";\n\
         Dir::Etc::sourcelist \"{dir}/source.sources\";\n\
         Dir::Etc::sourceparts \"{dir}/empty\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::Retries \"2\";\n\
         Acquire::http::Timeout \"30\";\n\
         Acquire::https::Timeout \"30\";\n\
         APT::Update::Error-Mode \"any\";\n\
         APT::Sandbox::User \"root\";\n"
    );
    text += &match kind {
        // A mirror that is behind its time is good enough.
        Kind::Source => "Acquire::Check-Valid-Until \"false\";\n".to_owned(),
        Kind::Binary => format!(
            "Dir::State::status \"{dir}/status\";\n\
             Dir::State::extended_states \"{dir}/extended_states\";\n\
             Dir::Etc::preferences \"{dir}/none\";\n\
             Dir::Etc::preferencesparts \"{dir}/empty\";\n\
             APT::Architecture \"amd64\";\n\
             APT::Architectures \"amd64\";\n\
             APT::Install-Recommends \"false\";\n\
             APT::Default-Release \"{}\";\n",
            suites.last().unwrap_or(&"")
        ),
    };
    text
}

/// The one entry of the private source list.
fn source_entry(mirror: &str, kind: Kind, suites: &[&str]) -> String {
    let kind = match kind {
        Kind::Source => "deb-src",
        Kind::Binary => "deb",
    };
    format!(
        "Types: {kind}\nURIs: {mirror}\nSuites: {}\nComponents: main\nSigned-By: {KEYRING}\n",
        suites.join(" ")
    )
}

/// The mirror in the machine's own source lists.
fn machine_mirror() -> Option<String> {
    let mut files: Vec<PathBuf> = fs::read_dir("/etc/apt/sources.list.d")
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.sort();
    files.insert(0, "/etc/apt/sources.list".into());
    files.iter().find_map(|path| {
        let text = fs::read_to_string(path).ok()?;
        match path.extension()?.to_str()? {
            "list" => mirror_of_list(&text),
            "sources" => mirror_of_deb822(&text),
            _ => None,
        }
    })
}

/// Whether a URI looks like a Debian archive and not like its security part or somebody else's.
fn is_debian_archive(uri: &str) -> bool {
    uri.contains("://") && uri.trim_end_matches('/').ends_with("/debian")
}

/// The first Debian archive in a one-line-style list.
fn mirror_of_list(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        // Options stand in brackets and may hold blanks.
        let line = match (line.find('['), line.find(']')) {
            (Some(open), Some(close)) if open < close => {
                format!("{}{}", line.get(..open)?, line.get(close + 1..)?)
            }
            _ => line.to_owned(),
        };
        let mut words = line.split_whitespace();
        let kind = words.next()?;
        let uri = words.next()?;
        ((kind == "deb" || kind == "deb-src") && is_debian_archive(uri)).then(|| uri.to_owned())
    })
}

/// The first Debian archive in a deb822-style list.
fn mirror_of_deb822(text: &str) -> Option<String> {
    // Comments can stand between the lines of a stanza.
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines
        .split(|line| line.trim().is_empty())
        .find_map(|stanza| {
            let field = |name: &str| {
                let mut values = Vec::new();
                let mut inside = false;
                for line in stanza {
                    if !line.starts_with([' ', '\t']) {
                        inside = false;
                        if let Some((key, value)) = line.split_once(':') {
                            inside = key.eq_ignore_ascii_case(name);
                            if inside {
                                values.extend(value.split_whitespace());
                            }
                        }
                    } else if inside {
                        values.extend(line.split_whitespace());
                    }
                }
                values
            };
            if field("Enabled").contains(&"no") {
                return None;
            }
            field("URIs")
                .into_iter()
                .find(|uri| is_debian_archive(uri))
                .map(str::to_owned)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_style() {
        let text = "# deb http://old.example/debian sid main\n\
                    deb https://packages.example/apt stable main\n\
                    deb http://a.example/debian-security bookworm-security main\n\
                    deb [arch=amd64 signed-by=/k.gpg] http://b.example/debian/ bookworm main # x\n";
        assert_eq!(
            mirror_of_list(text).as_deref(),
            Some("http://b.example/debian/")
        );
        assert_eq!(mirror_of_list("deb\n\ndeb cdrom:[x]/debian y\n"), None);
        assert_eq!(mirror_of_list("deb ] [ http://b.example/debian x\n"), None);
    }

    #[test]
    fn deb822_style() {
        let text = "Types: deb\nURIs: http://a.example/debian-security\nSuites: x-security\n\n\
                    Types: deb\nEnabled: no\nURIs: http://off.example/debian\n\n\
                    Types: deb\n# http://comment.example/debian\nURIs:\n http://other.example/apt\n\
                    \thttp://b.example/debian\nSuites: bookworm\n";
        assert_eq!(
            mirror_of_deb822(text).as_deref(),
            Some("http://b.example/debian")
        );
        assert_eq!(
            mirror_of_deb822("Types: deb\nSuites: http://b.example/debian\n"),
            None
        );
    }

    #[test]
    fn everything_is_kept_in_the_private_directory() {
        for (kind, suites) in [
            (Kind::Source, &["sid"][..]),
            (Kind::Binary, &["one", "two"][..]),
        ] {
            let text = configuration(Path::new("/p"), kind, suites);
            for line in text.lines().filter(|line| line.starts_with("Dir::")) {
                assert!(line.contains(" \"/p/"), "{line}");
            }
            assert!(
                text.lines()
                    .filter(|line| line.starts_with("Dir::"))
                    .count()
                    >= 4
            );
            assert_eq!(
                text.contains("Check-Valid-Until"),
                kind == Kind::Source,
                "{text}"
            );
        }
    }

    #[test]
    fn the_last_suite_is_preferred() {
        let suites = ["one", "two"];
        let text = configuration(Path::new("/p"), Kind::Binary, &suites);
        assert!(text.contains("APT::Default-Release \"two\";"), "{text}");
        assert!(source_entry("m", Kind::Binary, &suites)
            .starts_with("Types: deb\nURIs: m\nSuites: one two\n"));
        assert!(source_entry("m", Kind::Source, &["sid"]).contains("Types: deb-src\n"));
        assert!(source_entry("m", Kind::Binary, &suites).contains("Signed-By: "));
    }
}
