// SPDX-License-Identifier: GPL-2.0-or-later
//! The analysis on small crates that are made up.

use super::{circles, of_crate, Arrows};

/// The arrows of a crate with these files; the first is its root.
fn arrows(files: &[(&str, &str)]) -> Arrows {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let mut arrows = Arrows::new();
    of_crate(dir.path(), &dir.path().join(files[0].0), &mut arrows);
    arrows
}

/// "from -> to: names", without the ending of the files.
fn shown(files: &[(&str, &str)]) -> Vec<String> {
    let mut lines = Vec::new();
    for (from, targets) in arrows(files) {
        for (to, names) in targets {
            let names = names.into_iter().collect::<Vec<_>>().join(" ");
            lines.push(format!("{from} -> {to}: {names}").replace(".rs", ""));
        }
    }
    lines
}

/// The files of each circle.
fn found(files: &[(&str, &str)]) -> Vec<Vec<String>> {
    let arrows = arrows(files);
    let found = circles(&arrows);
    let names = |files: &[&str]| files.iter().map(ToString::to_string).collect();
    found.iter().map(|circle| names(&circle.files)).collect()
}

#[test]
fn a_circle_by_use() {
    let files = [
        ("lib.rs", "mod a; mod b;"),
        (
            "a.rs",
            "use crate::b::{self, B as Other}; pub struct A(Other);",
        ),
        ("b.rs", "use super::{a::A}; pub struct B(A);"),
    ];
    assert_eq!(found(&files), [["a.rs", "b.rs"]]);
    assert_eq!(shown(&files), ["a -> b: B", "b -> a: A"]);
}

#[test]
fn a_circle_by_paths_in_code() {
    let files = [
        ("lib.rs", "mod a; mod b; mod c;"),
        (
            "a.rs",
            "use crate::b; pub fn f() -> u32 { b::g() } pub const N: u32 = 1;",
        ),
        (
            "b.rs",
            "pub fn g() -> u32 { match 3 { crate::a::N => 1, _ => super::c::Kind::new(2).0 } }",
        ),
        (
            "c.rs",
            "pub struct Kind(pub u32); impl Kind { pub fn new(n: u32) -> Self { Self(n) } }",
        ),
    ];
    assert_eq!(found(&files), [["a.rs", "b.rs"]]);
    assert_eq!(shown(&files), ["a -> b: g", "b -> a: N", "b -> c: Kind"]);
}

#[test]
fn a_circle_inside_macros() {
    let files = [
        ("lib.rs", "#[macro_use] mod a; mod b; macro_rules! own { () => { $crate::a::A } }"),
        (
            "a.rs",
            "pub struct A; fn f() { ensure!(x, \"{}\", crate::b::g()); twice! { 1 => super::b::h } }",
        ),
        (
            "b.rs",
            "pub fn g() {} pub fn h() { own!(); assert!(matches!(x, crate::a::A | _ if y)); }",
        ),
    ];
    assert_eq!(found(&files), [["a.rs", "b.rs", "lib.rs"]]);
    assert_eq!(
        shown(&files),
        ["a -> b: g h", "b -> a: A", "b -> lib: own", "lib -> a: A"]
    );
}

#[test]
fn a_circle_through_what_is_handed_on() {
    let files = [
        (
            "lib.rs",
            "mod a; mod b; pub use a::A; pub(crate) use b::deep::*;",
        ),
        ("a.rs", "pub struct A; fn f() -> crate::D { todo!() }"),
        ("b/mod.rs", "pub mod deep;"),
        (
            "b/deep.rs",
            "use crate::A as Renamed; pub struct D(Renamed);",
        ),
    ];
    assert_eq!(found(&files), [["a.rs", "b/deep.rs"]]);
    assert_eq!(shown(&files), ["a -> b/deep: D", "b/deep -> a: A"]);
}

#[test]
fn a_circle_of_parent_and_child() {
    let files = [
        ("lib.rs", "mod parent;"),
        (
            "parent.rs",
            "mod child; use child::Part; pub struct Whole { part: Part }",
        ),
        (
            "parent/child.rs",
            "use super::*; pub struct Part; impl Whole {}",
        ),
    ];
    assert_eq!(found(&files), [["parent.rs", "parent/child.rs"]]);
    assert_eq!(
        shown(&files),
        [
            "parent -> parent/child: Part",
            "parent/child -> parent: Whole"
        ]
    );
}

#[test]
fn methods_in_a_child_are_no_circle() {
    let files = [
        (
            "lib.rs",
            "mod child; pub struct Whole; fn f(w: Whole) { w.work() }",
        ),
        (
            "child.rs",
            "impl super::Whole { pub(super) fn work(&self) {} }",
        ),
    ];
    assert_eq!(shown(&files), ["child -> lib: Whole"]);
}

#[test]
fn what_serves_tests_is_left_out() {
    let files = [
        (
            "lib.rs",
            "mod a; mod b; #[cfg(all(test, unix))] mod tests; #[cfg(any(test, feature = \"testing\"))] pub mod fake;",
        ),
        ("a.rs", "pub struct A; #[cfg(test)] mod tests { use crate::b::B; }"),
        ("b.rs", "use crate::a::A; pub struct B(A); #[cfg(not(test))] fn f() { super::a::g() }"),
        ("tests.rs", "use crate::a::A;"),
        ("fake.rs", "use crate::b::B;"),
    ];
    assert!(found(&files).is_empty());
    assert_eq!(shown(&files), ["b -> a: A"]);
}

#[test]
fn a_root_that_hands_on_is_no_hub() {
    let files = [
        (
            "main.rs",
            "mod a; mod b; pub use a::A; pub use b::B; fn main() {}",
        ),
        ("a.rs", "use crate::B; pub struct A(B); use std::fmt;"),
        (
            "b.rs",
            "pub struct B; fn f() { fmt::x(); std::a::A; ::a::A }",
        ),
    ];
    assert!(found(&files).is_empty());
    assert_eq!(shown(&files), ["a -> b: B"]);
}

#[test]
fn modules_inside_a_file_belong_to_it() {
    let files = [
        ("lib.rs", "mod a; mod b;"),
        (
            "a.rs",
            "pub mod inner { pub struct I; pub mod more; fn f() -> super::A { todo!() } } pub struct A(inner::I);",
        ),
        ("a/inner/more.rs", "use super::super::A;"),
        ("b.rs", "use crate::a::inner::I;"),
    ];
    assert!(found(&files).is_empty());
    assert_eq!(shown(&files), ["a/inner/more -> a: A", "b -> a: I"]);
}

#[test]
fn files_at_another_place_and_names_that_a_macro_makes() {
    let files = [
        ("src/lib.rs", "#[path = \"../other/x.rs\"] mod a; mod b;"),
        ("other/x.rs", "include!(\"y\"); use std::fmt;"),
        (
            "src/b.rs",
            "use crate::a::Made; fn f() -> crate::a::fmt::Error {}",
        ),
    ];
    assert_eq!(shown(&files), ["src/b -> other/x: Made"]);
}

#[test]
fn variables_and_parameters_hide_names() {
    let files = [
        ("lib.rs", "mod a; pub fn size() {} pub fn other() {} pub struct T; pub enum E { One, Two }"),
        (
            "a.rs",
            "use super::*; fn f<T>(size: T) { size; let g = |other| other; if let Some(other) = x { other } }",
        ),
    ];
    assert!(shown(&files).is_empty());
    let files = [
        files[0],
        (
            "a.rs",
            "fn f() { use super::{size as s, E::*}; let s = s(); One; mod_of::x(); }",
        ),
    ];
    assert_eq!(shown(&files), ["a -> lib: E size"]);
}

#[test]
fn one_circle_of_three_and_none_of_one() {
    let files = [
        ("lib.rs", "mod a; mod b; mod c; mod d;"),
        (
            "a.rs",
            "use crate::b::B; use self::A as Me; pub struct A; use crate::d::D;",
        ),
        ("b.rs", "use crate::c::C; pub struct B;"),
        ("c.rs", "use crate::a::A; pub struct C;"),
        ("d.rs", "pub struct D; fn f() { crate::d::D; }"),
    ];
    assert_eq!(found(&files), [["a.rs", "b.rs", "c.rs"]]);
    let arrows = arrows(&files);
    let text = circles(&arrows)[0].to_string();
    assert!(text.contains("a.rs -> b.rs: B\n"), "{text}");
    assert!(!text.contains("d.rs"), "{text}");
}
