// SPDX-License-Identifier: GPL-2.0-or-later
//! Which item a path means, through any number of re-exports.

use std::collections::HashSet;
use std::rc::Rc;

use super::tree::{Def, Import, Ns, Res, Tree};

/// Questions on the way to an answer: asked again inside themselves, they have none.
type Asked = HashSet<(usize, String, Ns)>;

impl Tree {
    /// What a path in a module leads to; nothing if that is not in this crate.
    pub(super) fn resolve(&self, module: usize, path: &[String], ns: Ns) -> Vec<Res> {
        self.walk(module, path, ns, &mut Asked::new())
    }

    /// The same for a path whose beginning is known.
    pub(super) fn resolve_from(&self, start: Vec<Res>, rest: &[String], ns: Ns) -> Vec<Res> {
        self.follow(start, rest, ns, &mut Asked::new())
    }

    /// The item that a name of a glob import means.
    pub(super) fn in_glob(&self, module: usize, glob: &Import, name: &str, ns: Ns) -> Vec<Res> {
        self.through(module, glob, name, ns, &mut Asked::new())
    }

    fn walk(&self, module: usize, path: &[String], ns: Ns, asked: &mut Asked) -> Vec<Res> {
        let Some((first, mut rest)) = path.split_first() else {
            return Vec::new();
        };
        let start = match first.as_str() {
            "crate" => vec![Res::Module(0)],
            "self" | "super" => {
                let mut at = module;
                let mut up = usize::from(first == "super");
                while rest.first().is_some_and(|s| s == "super") {
                    up += 1;
                    rest = &rest[1..];
                }
                for _ in 0..up {
                    at = self.modules[at].parent.unwrap_or(0);
                }
                vec![Res::Module(at)]
            }
            name => {
                let ns = if rest.is_empty() { ns } else { Ns::Type };
                self.lookup(module, name, ns, asked)
            }
        };
        self.follow(start, rest, ns, asked)
    }

    fn follow(&self, start: Vec<Res>, rest: &[String], ns: Ns, asked: &mut Asked) -> Vec<Res> {
        let mut found = start;
        for (i, name) in rest.iter().enumerate() {
            let ns = if i + 1 == rest.len() { ns } else { Ns::Type };
            let mut next = Vec::new();
            for res in found {
                match res {
                    // What follows the name of an item is its own: a variant, a method.
                    Res::Item(_) => next.push(res),
                    Res::Module(at) => {
                        let inside = self.lookup(at, name, ns, asked);
                        if inside.is_empty() {
                            next.extend(self.made_by_macro(at, name));
                        }
                        next.extend(inside);
                    }
                }
            }
            found = next;
        }
        found
    }

    /// What a name means in a module: its own items and imports, then its globs.
    fn lookup(&self, at: usize, name: &str, ns: Ns, asked: &mut Asked) -> Vec<Res> {
        if !asked.insert((at, name.to_owned(), ns)) {
            return Vec::new();
        }
        let module = &self.modules[at];
        let own = module.names.get(name).into_iter().flatten();
        let mut found: Vec<Res> = own
            .filter(|(space, _)| ns == Ns::Any || *space == ns)
            .map(|(_, res)| res.clone())
            .collect();
        for import in module.uses.get(name).into_iter().flatten() {
            let ns = match (import.ns, ns) {
                (Ns::Any, ns) => ns,
                (only, Ns::Any) => only,
                (only, ns) if only == ns => ns,
                _ => continue,
            };
            found.extend(self.walk(at, &import.path, ns, asked));
        }
        if found.is_empty() {
            for glob in &module.globs {
                found.extend(self.through(at, glob, name, ns, asked));
            }
        }
        found
    }

    fn through(&self, at: usize, glob: &Import, name: &str, ns: Ns, asked: &mut Asked) -> Vec<Res> {
        let mut found = Vec::new();
        for res in self.walk(at, &glob.path, Ns::Type, asked) {
            match res {
                Res::Module(inside) => found.extend(self.lookup(inside, name, ns, asked)),
                Res::Item(def) if def.variants.iter().any(|v| v == name) => {
                    found.push(Res::Item(def));
                }
                Res::Item(_) => {}
            }
        }
        found
    }

    /// A name that only a macro of the module can have made.
    fn made_by_macro(&self, at: usize, name: &str) -> Option<Res> {
        let module = &self.modules[at];
        let possible = module.opaque && !module.uses.contains_key(name);
        possible.then(|| {
            Res::Item(Rc::new(Def {
                file: module.file.clone(),
                name: name.to_owned(),
                variants: Vec::new(),
            }))
        })
    }

    /// The macro that a bare name means: of this module or one around it, which macros reach without
    /// a path, or one of the crate's root.
    pub(super) fn macro_by_text(&self, module: usize, name: &str) -> Vec<Res> {
        let mut at = Some(module);
        while let Some(id) = at {
            let found = self.resolve(id, &[name.to_owned()], Ns::Macro);
            if !found.is_empty() {
                return found;
            }
            at = self.modules[id].parent;
        }
        Vec::new()
    }
}
