// SPDX-License-Identifier: GPL-2.0-or-later
//! QEMU with the overlay.
//!
//! Pieces, in the order they are used: [`source`] (tarballs, verified and unpacked) with [`test_kit::apt`] and
//! [`crates`]; [`tools`] (meson and bindgen); [`series`] (patches to QEMU's files) and [`overlay`]
//! (our crates); [`configure`]; [`build`]; [`tidy`] (old builds). [`trees`] does the same in a packager's
//! directories.
//!
//! In the cache: `distfiles/`, `source-*`, `python-*` and `bindgen-*` are shared by all checkouts.
//! `qemu-*` is one build: its name is a key over everything that asks for a fresh configure (source,
//! options, tools) and the checkout. The crates below `rust/` and the patch series are not in the
//! key: a change of theirs touches only files that differ, and is an incremental build. A checkout without
//! a build of its own takes the program of another's that was built from the very same, if there is one.

mod build;
mod checkpatch;
pub(crate) mod command;
mod configure;
mod crates;
mod lint;
mod overlay;
mod series;
mod source;
mod tidy;
mod tools;
mod trees;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};

use self::overlay::Overlay;
use self::series::Series;
use self::tools::Tools;
use test_kit::digest::Digest;
use test_kit::lock::Lock;
use test_kit::packages;
use test_kit::project::Project;
use test_kit::run::Cmd;
use test_kit::steps::Steps;

pub(crate) use self::tidy::clean;
use self::tidy::{lock_path, CHECKOUT};
pub(crate) use self::trees::{build_tree, overlay_tree, rebuild};

/// The overlay's file whose presence means that the program must know [`DEVICE`].
const DEVICE_BUILD: &str = "rust/hw/virtio/legacy-vf/meson.build";
const DEVICE: &str = "virtio-legacy-vf-user";
/// Names a QEMU built elsewhere, to be used as it is.
const GIVEN: &str = "VLVF_QEMU";

/// In a build's directory: where QEMU is built.
const BUILD: &str = "build";

/// The build of one checkout in one configuration.
struct Build {
    dir: PathBuf,
    /// Whether the directory is another checkout's, and nothing there may be changed.
    borrowed: bool,
    overlay: Overlay,
    series: Series,
    tools: Tools,
}

impl Build {
    /// Finds out which build belongs to the checkout as it is; changes nothing.
    fn plan(project: &Project) -> Result<Self> {
        let overlay = Overlay::collect_for_tests(project.root())?;
        let series = Series::collect(project.root())?;
        let tools = Tools::plan(project);
        let mut digest = Digest::new();
        digest.field("source", source::key());
        for option in configure::OPTIONS {
            digest.field("option", option);
        }
        digest.field("tools", &tools.identity);
        let name = format!("qemu-{}-{}", source::VERSION, digest.short());
        let mut planned = Self {
            dir: project
                .cache()
                .join(format!("{name}-{}", project.checkout_key())),
            borrowed: false,
            overlay,
            series,
            tools,
        };
        if !planned.dir.exists() {
            let inputs = planned.digest();
            let same = |dir: &PathBuf| {
                let of = dir.file_name().unwrap_or_default().to_string_lossy();
                of.starts_with(&name) && build::stale(dir, &dir.join(BUILD), &inputs).is_none()
            };
            if let Some(found) = tidy::builds(project)?.into_iter().find(same) {
                (planned.dir, planned.borrowed) = (found, true);
            }
        }
        Ok(planned)
    }

    /// The program of another checkout's build, under a name that stays when that is built anew; nothing if
    /// there is none, or it has changed meanwhile.
    fn borrow(&self, project: &Project) -> Result<Option<PathBuf>> {
        if !self.borrowed {
            return Ok(None);
        }
        let _lock = Lock::acquire(&self.lock(project)?)?;
        if self.stale().is_some() {
            return Ok(None);
        }
        let own = build::program(&project.root().join("target/qemu"));
        let new = own.with_extension("new");
        let _ = fs::remove_file(&new);
        fs::create_dir_all(own.parent().unwrap_or(project.root()))?;
        fs::hard_link(self.program(), &new)
            .or_else(|_| fs::copy(self.program(), &new).map(|_| ()))
            .and_then(|()| fs::rename(&new, &own))
            .with_context(|| format!("cannot make {}", own.display()))?;
        Ok(Some(own))
    }

    /// The same in a directory of this checkout's own.
    fn own(self, project: &Project) -> Self {
        if !self.borrowed {
            return self;
        }
        let name = self.dir.file_name().unwrap_or_default().to_string_lossy();
        let shared = name.rsplit_once('-').map_or(&*name, |(shared, _)| shared);
        let own = format!("{shared}-{}", project.checkout_key());
        Self {
            dir: project.cache().join(own),
            borrowed: false,
            ..self
        }
    }

    fn source(&self) -> PathBuf {
        self.dir.join("source")
    }

    fn build(&self) -> PathBuf {
        self.dir.join(BUILD)
    }

    fn program(&self) -> PathBuf {
        build::program(&self.build())
    }

    fn stale(&self) -> Option<String> {
        build::stale(&self.dir, &self.build(), &self.digest())
    }

    /// What the program is built from, besides what is in the build's key.
    fn digest(&self) -> String {
        let mut digest = Digest::new();
        digest
            .field("overlay", self.overlay.digest())
            .field("series", self.series.digest());
        digest.full()
    }

    /// The device that the built program must know.
    fn device(&self) -> Option<&'static str> {
        self.overlay.has(DEVICE_BUILD).then_some(DEVICE)
    }

    fn lock(&self, project: &Project) -> Result<PathBuf> {
        lock_path(project, &self.dir)
    }

    /// Copies the pristine source; under its final name only when complete.
    fn make_tree(&self, steps: &mut Steps, pristine: &Path) -> Result<()> {
        if self.source().exists() {
            return Ok(());
        }
        let work = self.dir.join("source.tmp");
        steps.run("copy the source", |step| {
            if work.exists() {
                fs::remove_dir_all(&work)?;
            }
            Cmd::new("cp")
                .args(["--archive", "--reflink=auto"])
                .args([pristine, &work])
                .run(step)?;
            fs::rename(&work, self.source())?;
            Ok(())
        })
    }
}

/// Gets, overlays and builds QEMU; gives the program's path. With [`GIVEN`] that one is taken.
///
/// # Errors
/// When a step fails; the text says which, why, and what can be done.
pub(crate) fn ensure(project: &Project, steps: &mut Steps) -> Result<PathBuf> {
    if let Some(program) = given(env::var_os(GIVEN))? {
        return Ok(program);
    }
    packages::ensure(steps, "building QEMU", packages::QEMU_BUILD)?;
    if let Some(program) = Build::plan(project)?.borrow(project)? {
        eprintln!(
            "QEMU is built from the very same already: {}",
            program.display()
        );
        return Ok(program);
    }
    let pristine = source::prepare(project, steps)?;
    // Packages may have brought other tools, so the tools are looked for after them.
    let planned = Build::plan(project)?.own(project);
    planned.tools.prepare(project, steps)?;
    fs::create_dir_all(&planned.dir)?;
    let _lock = Lock::acquire(&planned.lock(project)?)?;
    // Waiting for the lock can take minutes, in which people edit files.
    let planned = Build {
        overlay: Overlay::collect_for_tests(project.root())?,
        series: Series::collect(project.root())?,
        ..planned
    };
    overlay::write_atomically(
        &planned.dir.join(CHECKOUT),
        project.root().as_os_str().as_encoded_bytes(),
    )?;
    planned.make_tree(steps, &pristine)?;
    let (tree, directory) = (planned.source(), planned.build());
    steps.run("apply rust/qemu-series", |step| {
        planned.series.sync(step, &pristine, &tree)
    })?;
    steps.run("lay the project's crates over QEMU", |step| {
        let summary = planned.overlay.lay(&tree)?;
        step.note(summary.text());
        Ok(())
    })?;
    steps.run("configure QEMU", |step| {
        configure::configure(step, &tree, &directory, &planned.tools)
    })?;
    steps.run("build QEMU", |step| {
        build::build(
            step,
            &directory,
            &planned.tools,
            planned.device(),
            "`cargo xtask clean --qemu` starts this build afresh",
        )?;
        build::record(&planned.dir, &directory, &planned.digest())
    })?;
    tidy::prune(project, &planned.dir)?;
    Ok(planned.program())
}

/// The meson that QEMU is built with; made ready if it is not there.
///
/// # Errors
/// When pip cannot get it.
pub(crate) fn meson(project: &Project, steps: &mut Steps) -> Result<PathBuf> {
    Tools::plan(project).meson(project, steps)
}

/// A build directory of QEMU with the overlay.
pub(crate) struct BuildDirectory {
    path: PathBuf,
    /// Nothing for a build from elsewhere.
    own: Option<Build>,
}

impl BuildDirectory {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is this checkout's own and was built from what there is now.
    pub(crate) fn is_current(&self) -> bool {
        self.own.as_ref().is_some_and(|own| own.stale().is_none())
    }

    /// Keeps others from building in it.
    ///
    /// # Errors
    /// When the lock cannot be had.
    pub(crate) fn lock(&self, project: &Project) -> Result<Option<Lock>> {
        let Some(own) = &self.own else {
            return Ok(None);
        };
        Ok(Some(Lock::acquire(&own.lock(project)?)?))
    }
}

/// The build directory of the QEMU that tests take, if it is built and is one.
pub(crate) fn build_directory(project: &Project) -> Option<BuildDirectory> {
    let (path, own) = match given(env::var_os(GIVEN)).ok()? {
        Some(program) => (program.canonicalize().ok()?.parent()?.to_owned(), None),
        None => {
            let own = Build::plan(project).ok()?;
            (own.build(), Some(own))
        }
    };
    let configured = path.join("config-host.mak").is_file();
    (configured && build::program(&path).is_file()).then_some(BuildDirectory { path, own })
}

/// The program the environment names, made sure to be one.
fn given(value: Option<OsString>) -> Result<Option<PathBuf>> {
    let Some(path) = value.filter(|value| !value.is_empty()).map(PathBuf::from) else {
        return Ok(None);
    };
    let help = Cmd::new(&path)
        .args(["-device", "help"])
        .ask()
        .with_context(|| format!("{GIVEN}={} is not a QEMU that runs here", path.display()))?;
    if !build::knows(&help, DEVICE) {
        bail!(
            "{GIVEN}={} does not know the device {DEVICE}",
            path.display()
        );
    }
    Ok(Some(std::path::absolute(path)?))
}

/// Where the program of this checkout is.
///
/// # Errors
/// When it was not built.
pub(crate) fn program(project: &Project) -> Result<PathBuf> {
    if let Some(program) = given(env::var_os(GIVEN))? {
        return Ok(program);
    }
    let planned = Build::plan(project)?;
    let path = planned.program();
    if !path.exists() {
        bail!("QEMU is not built for this checkout as it is\n  way out: cargo xtask qemu");
    }
    if let Some(why) = planned.stale() {
        eprintln!("warning: QEMU is not current: {why}; `cargo xtask qemu` builds it");
    }
    Ok(path)
}

/// Verifies that the build is current; builds nothing.
///
/// # Errors
/// When it is not, with the reason.
pub(crate) fn check(project: &Project) -> Result<PathBuf> {
    let planned = Build::plan(project)?;
    match planned.stale() {
        None => Ok(planned.program()),
        Some(why) => bail!("QEMU is not current: {why}\n  way out: cargo xtask qemu"),
    }
}

/// Runs clippy over the crates that only build inside QEMU, in the current build, and QEMU's checkpatch over
/// the patch series.
///
/// # Errors
/// When QEMU is not built, or one of them finds something.
pub(crate) fn lint(project: &Project, steps: &mut Steps) -> Result<()> {
    let planned = Build::plan(project)?;
    if let Some(why) = planned.stale() {
        bail!("QEMU is not current: {why}\n  way out: cargo xtask qemu");
    }
    let _lock = Lock::acquire(&planned.lock(project)?)?;
    steps.run("clippy inside QEMU's build", |step| {
        lint::clippy(
            step,
            &planned.source(),
            &planned.build(),
            &planned.tools,
            &planned.overlay,
        )
    })?;
    steps.run("QEMU's checkpatch over rust/qemu-series", |step| {
        checkpatch::check(step, &planned.source(), &planned.series.paths())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_program_must_know_the_device() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qemu");
        let program = |text: &str| {
            // Another process writes it: a program that is open for writing cannot be started, and a child that
            // another test starts meanwhile would inherit this process's descriptor until it executes.
            let script = "printf '#!/bin/sh\\n%s\\n' \"$1\" >\"$0\" && chmod 755 \"$0\"";
            let mut shell = std::process::Command::new("sh");
            shell.args(["-c", script]).arg(&path).arg(text);
            assert!(shell.status().unwrap().success());
            given(Some(path.clone().into()))
        };
        assert_eq!(given(None).unwrap(), None);
        assert_eq!(given(Some(OsString::new())).unwrap(), None);
        let text = program("echo 'name \"vfio-user-pci\", bus PCI'")
            .unwrap_err()
            .to_string();
        assert!(text.contains("does not know the device"), "{text}");
        assert!(program("exit 1")
            .unwrap_err()
            .to_string()
            .contains("is not a QEMU"));
        let known = program("echo 'name \"virtio-legacy-vf-user\", bus PCI'").unwrap();
        assert_eq!(known.as_deref(), Some(path.as_path()));
    }

    #[test]
    fn a_build_from_the_very_same_is_borrowed_and_stays_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let checkout = |name: &str| {
            let root = dir.path().join(name);
            fs::create_dir(&root).unwrap();
            for part in ["rust", "qtest", "helper"] {
                std::os::unix::fs::symlink(project.join(part), root.join(part)).unwrap();
            }
            Project::at(&root, &dir.path().join("cache"))
        };
        let (one, two) = (checkout("one"), checkout("two"));
        let built = Build::plan(&one).unwrap();
        assert!(!built.borrowed && built.borrow(&one).unwrap().is_none());
        fs::create_dir_all(built.build()).unwrap();
        fs::write(built.program(), "program").unwrap();
        // Not before it is finished.
        assert!(!Build::plan(&two).unwrap().borrowed);
        build::record(&built.dir, &built.build(), &built.digest()).unwrap();
        let planned = Build::plan(&two).unwrap();
        assert_eq!(planned.dir, built.dir);
        let program = planned.borrow(&two).unwrap().unwrap();
        assert!(program.starts_with(two.root()), "{}", program.display());
        assert_eq!(fs::read(&program).unwrap(), b"program");
        // The lender builds again, and the borrower has what it had.
        fs::remove_file(built.program()).unwrap();
        fs::write(built.program(), "another").unwrap();
        assert!(planned.borrow(&two).unwrap().is_none());
        assert_eq!(fs::read(&program).unwrap(), b"program");
        let own = planned.own(&two);
        assert!(!own.borrowed && own.dir != built.dir);
        assert_eq!(own.dir, Build::plan(&two).unwrap().dir);
    }
}
