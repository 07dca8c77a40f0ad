// SPDX-License-Identifier: GPL-2.0-or-later
//! The Rust crates QEMU builds with.
//!
//! QEMU takes them as meson wraps whose `meson.build` files Debian's tarball does not have. They are
//! fetched with cargo at the versions in QEMU's own `Cargo.lock`, compared with the hash in QEMU's
//! wrap file, put where the wrap says, and given a `meson.build` made from the table below.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{bail, Context, Result};

use test_kit::run::Cmd;
use test_kit::steps::Step;

/// How one crate is compiled.
struct Crate {
    /// The wrap's name without `.wrap`, which is also the name of the dependency.
    wrap: &'static str,
    /// Library or procedural macro.
    kind: Kind,
    edition: &'static str,
    /// Wraps of the crates it uses.
    deps: &'static [&'static str],
    /// `--cfg` that are not features: what the crate's build script would find out.
    cfgs: &'static [&'static str],
    features: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Linked into QEMU.
    Lib,
    /// Used by the compiler, so built for the build machine.
    NativeLib,
    /// A macro that host crates use.
    Macro,
    /// A macro that other macros' crates use.
    NativeMacro,
}

impl Kind {
    /// Whether users ask for it with `native: true`.
    fn native(self) -> bool {
        matches!(self, Self::NativeLib | Self::NativeMacro)
    }
}

const CRATES: [Crate; 16] = [
    Crate {
        wrap: "anyhow-1-rs",
        kind: Kind::Lib,
        edition: "2018",
        deps: &[],
        cfgs: &["std_backtrace"],
        features: &["std"],
    },
    Crate {
        wrap: "arbitrary-int-1-rs",
        kind: Kind::Lib,
        edition: "2021",
        deps: &[],
        cfgs: &[],
        features: &[],
    },
    Crate {
        wrap: "attrs-0.2-rs",
        kind: Kind::NativeLib,
        edition: "2021",
        deps: &["proc-macro2-1-rs", "syn-2-rs"],
        cfgs: &[],
        features: &[],
    },
    Crate {
        wrap: "bilge-0.2-rs",
        kind: Kind::Lib,
        edition: "2021",
        deps: &["arbitrary-int-1-rs", "bilge-impl-0.2-rs"],
        cfgs: &[],
        features: &[],
    },
    Crate {
        wrap: "bilge-impl-0.2-rs",
        kind: Kind::Macro,
        edition: "2021",
        deps: &[
            "itertools-0.11-rs",
            "proc-macro-error-attr-1-rs",
            "proc-macro-error-1-rs",
            "proc-macro2-1-rs",
            "quote-1-rs",
            "syn-2-rs",
        ],
        cfgs: &["use_fallback"],
        features: &["syn-error", "proc-macro"],
    },
    Crate {
        wrap: "either-1-rs",
        kind: Kind::NativeLib,
        edition: "2018",
        deps: &[],
        cfgs: &[],
        features: &["std", "use_std", "use_alloc"],
    },
    Crate {
        wrap: "foreign-0.3-rs",
        kind: Kind::Lib,
        edition: "2021",
        deps: &["libc-0.2-rs"],
        cfgs: &[],
        features: &[],
    },
    Crate {
        wrap: "glib-sys-0.21-rs",
        kind: Kind::Lib,
        edition: "2021",
        deps: &["libc-0.2-rs"],
        cfgs: &[],
        features: &["v2_58", "v2_60", "v2_62", "v2_64", "v2_66"],
    },
    Crate {
        wrap: "itertools-0.11-rs",
        kind: Kind::NativeLib,
        edition: "2018",
        deps: &["either-1-rs"],
        cfgs: &[],
        features: &["use_std", "use_alloc"],
    },
    Crate {
        wrap: "libc-0.2-rs",
        kind: Kind::Lib,
        edition: "2015",
        deps: &[],
        cfgs: &[
            "freebsd11",
            "libc_align",
            "libc_cfg_target_vendor",
            "libc_const_extern_fn",
            "libc_const_size_of",
            "libc_core_cvoid",
            "libc_int128",
            "libc_long_array",
            "libc_non_exhaustive",
            "libc_packedN",
            "libc_priv_mod_use",
            "libc_ptr_addr_of",
            "libc_underscore_const_names",
            "libc_union",
        ],
        features: &["std"],
    },
    Crate {
        wrap: "proc-macro-error-1-rs",
        kind: Kind::NativeLib,
        edition: "2018",
        deps: &[
            "proc-macro-error-attr-1-rs",
            "proc-macro2-1-rs",
            "quote-1-rs",
        ],
        cfgs: &["use_fallback"],
        features: &[],
    },
    Crate {
        wrap: "proc-macro-error-attr-1-rs",
        kind: Kind::NativeMacro,
        edition: "2018",
        deps: &["proc-macro2-1-rs", "quote-1-rs"],
        cfgs: &["use_fallback"],
        features: &[],
    },
    Crate {
        wrap: "proc-macro2-1-rs",
        kind: Kind::NativeLib,
        edition: "2021",
        deps: &["unicode-ident-1-rs"],
        cfgs: &[
            "wrap_proc_macro",
            "proc_macro_span_location",
            "span_locations",
        ],
        features: &["proc-macro"],
    },
    Crate {
        wrap: "quote-1-rs",
        kind: Kind::NativeLib,
        edition: "2018",
        deps: &["proc-macro2-1-rs"],
        cfgs: &[],
        features: &["proc-macro"],
    },
    Crate {
        wrap: "syn-2-rs",
        kind: Kind::NativeLib,
        edition: "2021",
        deps: &["proc-macro2-1-rs", "quote-1-rs", "unicode-ident-1-rs"],
        cfgs: &[],
        features: &[
            "full",
            "derive",
            "parsing",
            "printing",
            "clone-impls",
            "proc-macro",
            "extra-traits",
            "visit-mut",
        ],
    },
    Crate {
        wrap: "unicode-ident-1-rs",
        kind: Kind::NativeLib,
        edition: "2018",
        deps: &[],
        cfgs: &[],
        features: &[],
    },
];

/// What a change of the table changes, for the source's key.
pub(crate) fn fingerprint() -> String {
    CRATES
        .iter()
        .map(|krate| krate.meson("name", "version"))
        .collect()
}

/// Fetches the crates into `vendor` and puts them below the tree's `subprojects/`.
///
/// # Errors
/// When cargo cannot fetch them, or one differs from what QEMU's wrap file says.
pub(crate) fn add(step: &Step, tree: &Path, vendor: &Path) -> Result<()> {
    let mut wraps = BTreeMap::new();
    for krate in &CRATES {
        let path = tree
            .join("subprojects")
            .join(format!("{}.wrap", krate.wrap));
        let text = fs::read_to_string(&path)
            .with_context(|| format!("cannot read QEMU's {}", path.display()))?;
        let wrap =
            Wrap::parse(&text).with_context(|| format!("{} is not as expected", path.display()))?;
        wraps.insert(krate.wrap, wrap);
    }
    if wraps
        .values()
        .all(|wrap| tree.join("subprojects").join(&wrap.directory).exists())
    {
        step.note("already there");
        return Ok(());
    }
    Cmd::cargo()
        .args(["vendor", "--quiet", "--locked", "--versioned-dirs", "--manifest-path"])
        .arg(tree.join("rust/Cargo.toml"))
        .arg(vendor)
        .dir(tree)
        .hint("cargo must be able to reach the Rust package registry (or a mirror of it, see cargo's `source.replace-with`)")
        .output(step)?;
    for krate in &CRATES {
        let Some(wrap) = wraps.get(krate.wrap) else {
            continue;
        };
        let from = vendor.join(&wrap.directory);
        check_hash(&from, &wrap.hash)
            .with_context(|| format!("crate {} of QEMU's wrap {}", wrap.directory, krate.wrap))?;
        let to = tree.join("subprojects").join(&wrap.directory);
        let _ = fs::remove_dir_all(&to);
        let (name, version) = wrap
            .directory
            .rsplit_once('-')
            .with_context(|| format!("no version in {}", wrap.directory))?;
        fs::write(from.join("meson.build"), krate.meson(name, version))?;
        // Inside the same cache this is a rename; a packager's tree may be on another disk.
        if fs::rename(&from, &to).is_err() {
            Cmd::new("cp").arg("-a").arg(&from).arg(&to).run(step)?;
        }
    }
    let _ = fs::remove_dir_all(vendor);
    step.note(format!("{} crates", CRATES.len()));
    Ok(())
}

/// Compares the hash that cargo verified with the one in the wrap file.
fn check_hash(dir: &Path, expected: &str) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Checksum {
        package: String,
    }
    let path = dir.join(".cargo-checksum.json");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cargo gave no {}", path.display()))?;
    let found: Checksum = serde_json::from_str(&text)?;
    if found.package != expected {
        bail!("its SHA-256 is {}, QEMU expects {expected}", found.package);
    }
    Ok(())
}

/// What is needed of a wrap file.
#[derive(Debug, PartialEq, Eq)]
struct Wrap {
    directory: String,
    hash: String,
}

impl Wrap {
    fn parse(text: &str) -> Result<Self> {
        let value = |key: &str| {
            text.lines()
                .filter_map(|line| line.split_once('='))
                .find(|(name, _)| name.trim() == key)
                .map(|(_, value)| value.trim().to_owned())
                .with_context(|| format!("no {key}"))
        };
        let directory = value("directory")?;
        if directory.contains('/') || directory.starts_with('.') {
            bail!("directory {directory} leaves subprojects/");
        }
        Ok(Self {
            directory,
            hash: value("source_hash")?,
        })
    }
}

impl Crate {
    /// The crate's `meson.build`.
    fn meson(&self, name: &str, version: &str) -> String {
        let mut text = format!(
            "# Made by cargo xtask from its table of crates.\n\
             project('{}', 'rust', version: '{version}', meson_version: '>=1.9.0')\n\n",
            self.wrap
        );
        // Writing to a String cannot fail.
        for dep in self.deps {
            let _ = writeln!(text, "subproject('{dep}', required: true)");
        }
        let function = match self.kind {
            Kind::Lib | Kind::NativeLib => "static_library",
            Kind::Macro | Kind::NativeMacro => "import('rust').proc_macro",
        };
        let _ = write!(
            text,
            "\n_lib = {function}(\n  '{}',\n  files('src/lib.rs'),\n  \
             override_options: ['rust_std={edition}', 'build.rust_std={edition}'],\n",
            name.replace('-', "_"),
            edition = self.edition,
        );
        if matches!(self.kind, Kind::Lib | Kind::NativeLib) {
            let _ = writeln!(
                text,
                "  rust_abi: 'rust',\n  native: {},",
                self.kind.native()
            );
        }
        text.push_str("  rust_args: [\n    '--cap-lints', 'allow',\n");
        for cfg in self.cfgs {
            let _ = writeln!(text, "    '--cfg', '{cfg}',");
        }
        for feature in self.features {
            let _ = writeln!(text, "    '--cfg', 'feature=\"{feature}\"',");
        }
        text.push_str("  ],\n  dependencies: [\n");
        for dep in self.deps {
            let native = CRATES
                .iter()
                .any(|krate| krate.wrap == *dep && krate.kind.native());
            let _ = writeln!(text, "    dependency('{dep}', native: {native}),");
        }
        let _ = write!(
            text,
            "  ],\n)\n\nmeson.override_dependency(\n  '{}',\n  \
             declare_dependency(link_with: _lib),\n  native: {},\n)\n",
            self.wrap,
            self.kind.native()
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dependency_is_in_the_table_and_macros_only_use_native_crates() {
        for krate in &CRATES {
            for dep in krate.deps {
                let dep = CRATES.iter().find(|other| other.wrap == *dep).unwrap();
                if krate.kind != Kind::Lib {
                    assert!(dep.kind.native(), "{} -> {}", krate.wrap, dep.wrap);
                } else {
                    assert!(!dep.kind.native(), "{} -> {}", krate.wrap, dep.wrap);
                }
            }
        }
    }

    #[test]
    fn a_wrap_file_is_read() {
        let text =
            "[wrap-file]\ndirectory = x-1.0\nsource_url = u\nsource_hash = ab\n#method = cargo\n";
        assert_eq!(
            Wrap::parse(text).unwrap(),
            Wrap {
                directory: "x-1.0".into(),
                hash: "ab".into()
            }
        );
        assert!(Wrap::parse("directory = x\n").is_err());
        assert!(Wrap::parse("directory = ../x\nsource_hash = ab\n").is_err());
    }

    #[test]
    fn a_crate_with_another_hash_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join(".cargo-checksum.json"),
            r#"{"files":{},"package":"ab"}"#,
        )
        .unwrap();
        check_hash(dir.path(), "ab").unwrap();
        assert!(check_hash(dir.path(), "cd")
            .unwrap_err()
            .to_string()
            .contains("QEMU expects cd"));
    }

    #[test]
    fn a_macro_has_no_abi_and_is_offered_to_its_users_machine() {
        let text = |wrap: &str| {
            CRATES
                .iter()
                .find(|krate| krate.wrap == wrap)
                .unwrap()
                .meson("a-b", "1.2")
        };
        let bilge = text("bilge-impl-0.2-rs");
        assert!(bilge.contains("import('rust').proc_macro(\n  'a_b',"));
        assert!(!bilge.contains("rust_abi"));
        assert!(bilge.ends_with("native: false,\n)\n"));
        let quote = text("quote-1-rs");
        assert!(quote.contains("rust_abi: 'rust',\n  native: true,"));
        assert!(quote.contains("'--cfg', 'feature=\"proc-macro\"',"));
        assert!(quote.contains("dependency('proc-macro2-1-rs', native: true)"));
    }
}
