// SPDX-License-Identifier: GPL-2.0-or-later
//! Names that hide those of the module: variables, parameters, what a block declares.

use std::collections::{HashMap, HashSet};

use syn::{Item, Stmt};

use super::tree::{defined, imports, Import, Ns};

#[derive(Default)]
struct Scope {
    types: HashSet<String>,
    values: HashSet<String>,
    uses: HashMap<String, Import>,
    globs: Vec<Import>,
}

/// Scopes from the outermost to the one at hand.
#[derive(Default)]
pub(super) struct Scopes(Vec<Scope>);

/// What the scopes say about a name.
pub(super) enum Local<'a> {
    /// It is of the function.
    Hidden,
    /// A `use` inside the function brings it in.
    Import(&'a Import),
    /// It is of the module, unless one of these globs brings it in.
    Unknown(Vec<&'a Import>),
}

impl Scopes {
    pub(super) fn open(&mut self) {
        self.0.push(Scope::default());
    }

    /// Opens the scope of a block: its items count from its beginning.
    pub(super) fn open_block(&mut self, statements: &[Stmt]) {
        let mut scope = Scope::default();
        for statement in statements {
            let Stmt::Item(item) = statement else {
                continue;
            };
            if let Item::Use(item) = item {
                for import in imports(&item.tree) {
                    match &import.name {
                        Some(name) => {
                            scope.uses.insert(name.clone(), import);
                        }
                        None => scope.globs.push(import),
                    }
                }
            } else if let Some((name, spaces)) = defined(item) {
                for space in spaces {
                    match space {
                        Ns::Type => scope.types.insert(name.to_string()),
                        _ => scope.values.insert(name.to_string()),
                    };
                }
            }
        }
        self.0.push(scope);
    }

    pub(super) fn close(&mut self) {
        self.0.pop();
    }

    pub(super) fn add_value(&mut self, name: String) {
        if let Some(scope) = self.0.last_mut() {
            scope.values.insert(name);
        }
    }

    pub(super) fn add_type(&mut self, name: String) {
        if let Some(scope) = self.0.last_mut() {
            scope.types.insert(name);
        }
    }

    pub(super) fn find(&self, name: &str, ns: Ns) -> Local<'_> {
        let mut globs = Vec::new();
        for scope in self.0.iter().rev() {
            let is_type = ns != Ns::Value && scope.types.contains(name);
            let is_value = ns != Ns::Type && scope.values.contains(name);
            if is_type || is_value {
                return Local::Hidden;
            }
            if let Some(import) = scope.uses.get(name) {
                return Local::Import(import);
            }
            globs.extend(&scope.globs);
        }
        Local::Unknown(globs)
    }
}
