// SPDX-License-Identifier: GPL-2.0-or-later
//! Code that serves tests alone.

use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, Lit, Meta, Token};

/// Whether these attributes leave their item to tests.
pub(super) fn test_only(attrs: &[Attribute]) -> bool {
    attrs.iter().any(|attr| {
        if attr.path().is_ident("cfg") {
            attr.parse_args()
                .is_ok_and(|meta| outside_tests(&meta) == Some(false))
        } else {
            attr.path().is_ident("test")
        }
    })
}

/// What a predicate says in a build that is not for tests, where that is known.
fn outside_tests(meta: &Meta) -> Option<bool> {
    match meta {
        Meta::Path(path) => path.is_ident("test").then_some(false),
        Meta::NameValue(pair) => {
            let Expr::Lit(value) = &pair.value else {
                return None;
            };
            let Lit::Str(value) = &value.lit else {
                return None;
            };
            (pair.path.is_ident("feature") && value.value() == "testing").then_some(false)
        }
        Meta::List(list) => {
            let parts = list
                .parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)
                .ok()?;
            let mut parts = parts.iter().map(outside_tests);
            if list.path.is_ident("not") {
                Some(!parts.next()??)
            } else {
                // `all` ends at the first false, `any` at the first true.
                let end = list.path.is_ident("any");
                parts
                    .try_fold(Some(!end), |sofar, part| match part {
                        Some(part) if part == end => Err(end),
                        Some(_) => Ok(sofar),
                        None => Ok(None),
                    })
                    .unwrap_or_else(Some)
            }
        }
    }
}
