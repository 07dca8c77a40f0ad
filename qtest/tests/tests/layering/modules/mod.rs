// SPDX-License-Identifier: GPL-2.0-or-later
//! Which files of a crate name items of which others.
//!
//! A file points at another when its code names an item that is defined there: in a `use`, in a
//! path, in the arguments of a macro. What is only handed on counts for the file that defines it,
//! so neither `mod x;` nor `pub use x::Y;` is an arrow. Methods are not looked up; code that serves
//! tests alone is left out.

mod arrows;
mod cfg;
mod circles;
mod names;
mod scopes;
mod tree;

#[cfg(test)]
mod tests;

pub(crate) use arrows::{of_crate, Arrows};
pub(crate) use circles::circles;
