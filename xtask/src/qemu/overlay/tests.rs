// SPDX-License-Identifier: GPL-2.0-or-later
//! Overlays laid over trees of a few files.

use super::*;

fn hashes(list: &[(&str, &str)]) -> Hashes {
    list.iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

#[test]
fn plan_covers_every_case() {
    let wanted = hashes(&[
        ("new", "1"),
        ("same", "1"),
        ("changed", "2"),
        ("lost", "1"),
        ("adopt", "1"),
        ("qemus", "1"),
    ]);
    let ours = hashes(&[
        ("same", "1"),
        ("changed", "1"),
        ("lost", "1"),
        ("old", "1"),
        ("gone", "1"),
    ]);
    let disk = hashes(&[
        ("same", "1"),
        ("changed", "1"),
        ("adopt", "1"),
        ("qemus", "9"),
        ("old", "1"),
    ]);
    let plan = Plan::make(&wanted, &ours, |path| disk.get(path).cloned());
    assert_eq!(plan.write, ["changed", "lost", "new"]);
    assert_eq!(plan.remove, ["old"]);
    assert_eq!(plan.unchanged, 2);
    assert_eq!(plan.foreign, ["qemus"]);
}

/// A project and a QEMU tree, both small.
struct Trees(tempfile::TempDir);

impl Trees {
    fn new() -> Self {
        let trees = Self(tempfile::tempdir().unwrap());
        for (path, text) in [
            ("p/rust/spec/src/lib.rs", "a"),
            ("p/rust/spec/target/x", "noise"),
            ("p/rust/spec/Cargo.lock", "noise"),
            ("p/rust/spec/src/lib.rs.orig", "noise"),
            ("p/rust/hw/virtio/dev/src/lib.rs", "b"),
            ("p/rust/qemu-series/0001.patch", "patch"),
            ("q/rust/meson.build", "qemu"),
            ("q/rust/hw/meson.build", "qemu"),
            ("q/VERSION", "10.2.2"),
        ] {
            trees.write(path, text);
        }
        trees
    }
    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }
    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    fn lay(&self) -> Result<Summary> {
        Overlay::collect(&self.path("p"))?.lay(&self.path("q"))
    }
}

#[test]
fn only_changes_are_written() {
    let trees = Trees::new();
    let summary = |written, removed, unchanged| Summary {
        written,
        removed,
        unchanged,
    };
    assert_eq!(trees.lay().unwrap(), summary(2, 0, 0));
    let lib = trees.path("q/rust/spec/src/lib.rs");
    let time = fs::metadata(&lib).unwrap().modified().unwrap();
    assert_eq!(trees.lay().unwrap(), summary(0, 0, 2));
    trees.write("p/rust/hw/virtio/dev/src/lib.rs", "changed");
    assert_eq!(trees.lay().unwrap(), summary(1, 0, 1));
    assert_eq!(fs::metadata(&lib).unwrap().modified().unwrap(), time);
    assert!(!trees.path("q/rust/spec/Cargo.lock").exists());
    assert!(!trees.path("q/rust/qemu-series").exists());
}

#[test]
fn a_tree_for_tests_has_more() {
    let trees = Trees::new();
    trees.write("p/rust/hw/virtio/meson.build", "the device");
    trees.write("p/qtest/qemu/meson.build", "the device and more");
    trees.write("p/qtest/qemu/sriov/src/lib.rs", "c");
    trees.write("p/helper/modern-spec/src/lib.rs", "d");
    let text = |path: &str| fs::read_to_string(trees.path(path)).unwrap();
    let overlay = Overlay::collect_for_tests(&trees.path("p")).unwrap();
    assert!(!Overlay::is_for_tests(&trees.path("q")).unwrap());
    overlay.lay(&trees.path("q")).unwrap();
    assert!(Overlay::is_for_tests(&trees.path("q")).unwrap());
    assert_eq!(text("q/rust/hw/virtio/meson.build"), "the device and more");
    assert_eq!(text("q/rust/hw/virtio/sriov/src/lib.rs"), "c");
    assert_eq!(text("q/rust/virtio-modern-spec/src/lib.rs"), "d");
    assert_eq!(text("q/rust/hw/virtio/dev/src/lib.rs"), "b");
    // The same tree for users again.
    assert_eq!(trees.lay().unwrap().removed, 2);
    assert!(!Overlay::is_for_tests(&trees.path("q")).unwrap());
    assert_eq!(text("q/rust/hw/virtio/meson.build"), "the device");
    assert!(!trees.path("q/rust/virtio-modern-spec").exists());
}

#[test]
fn crates_are_directories_with_a_library_and_a_meson_build() {
    let trees = Trees::new();
    trees.write("p/rust/spec/meson.build", "");
    trees.write("p/rust/hw/virtio/meson.build", "");
    let overlay = Overlay::collect(&trees.path("p")).unwrap();
    assert_eq!(overlay.crates(), ["rust/spec"]);
    assert!(overlay.has("rust/hw/virtio/dev/src/lib.rs"));
    assert!(!overlay.has("rust/hw/virtio/dev"));
}

#[test]
fn what_vanished_here_vanishes_there_with_its_directory() {
    let trees = Trees::new();
    trees.lay().unwrap();
    fs::remove_dir_all(trees.path("p/rust/hw")).unwrap();
    let summary = trees.lay().unwrap();
    assert_eq!((summary.removed, summary.unchanged), (1, 1));
    assert!(!trees.path("q/rust/hw/virtio").exists());
    assert!(trees.path("q/rust/hw/meson.build").exists());
}

#[test]
fn files_of_qemu_are_never_overwritten() {
    let trees = Trees::new();
    trees.write("p/rust/hw/meson.build", "ours");
    let text = format!("{:#}", trees.lay().unwrap_err());
    assert!(text.contains("rust/hw/meson.build"), "{text}");
    assert_eq!(
        fs::read_to_string(trees.path("q/rust/hw/meson.build")).unwrap(),
        "qemu"
    );
    // Nothing was touched, not even the files without a conflict.
    assert!(!trees.path("q/rust/spec").exists());
}

#[test]
fn an_interrupted_run_is_taken_up() {
    let trees = Trees::new();
    let overlay = Overlay::collect(&trees.path("p")).unwrap();
    // As after the first record, before any copy but one that later changed.
    write_record(
        &trees.path("q").join(RECORD_DIR).join(RECORD),
        &overlay.files,
    )
    .unwrap();
    trees.write("q/rust/spec/src/lib.rs", "an older state");
    assert_eq!(trees.lay().unwrap().written, 2);
}

#[test]
fn a_file_that_changes_meanwhile_is_not_passed_off_as_the_one_before() {
    let trees = Trees::new();
    let overlay = Overlay::collect(&trees.path("p")).unwrap();
    trees.write("p/rust/spec/src/lib.rs", "later");
    let text = overlay.lay(&trees.path("q")).unwrap_err().to_string();
    assert!(
        text.contains("rust/spec/src/lib.rs was changed while"),
        "{text}"
    );
    assert_eq!(trees.lay().unwrap().written, 1);
}

#[test]
fn the_digest_is_of_names_and_content() {
    let trees = Trees::new();
    let digest = || Overlay::collect(&trees.path("p")).unwrap().digest();
    let first = digest();
    assert_eq!(first, digest());
    trees.write("p/rust/spec/src/lib.rs", "z");
    let second = digest();
    assert_ne!(first, second);
    fs::rename(
        trees.path("p/rust/spec/src/lib.rs"),
        trees.path("p/rust/spec/src/m.rs"),
    )
    .unwrap();
    assert_ne!(second, digest());
}

#[test]
fn a_tree_that_is_not_qemu_is_refused() {
    let trees = Trees::new();
    fs::remove_file(trees.path("q/VERSION")).unwrap();
    assert!(trees
        .lay()
        .unwrap_err()
        .to_string()
        .contains("is not a QEMU source tree"));
}
