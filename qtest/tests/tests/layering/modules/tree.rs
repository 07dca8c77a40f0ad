// SPDX-License-Identifier: GPL-2.0-or-later
//! The modules of a crate, read from its files, and the names that each binds.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use syn::{Expr, Ident, Item, ItemMod, Lit, Meta, UseTree, Visibility};

use super::cfg::test_only;

/// What a name can stand for; [`Ns::Any`] only in questions.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Ns {
    Type,
    Value,
    Macro,
    Any,
}

/// An item that a file defines.
pub(super) struct Def {
    pub(super) file: Rc<str>,
    pub(super) name: String,
    /// Of an enum: what `use Enum::*` brings in.
    pub(super) variants: Vec<String>,
}

/// What a path leads to.
#[derive(Clone)]
pub(super) enum Res {
    Module(usize),
    Item(Rc<Def>),
}

/// One leaf of a `use`.
pub(super) struct Import {
    pub(super) path: Vec<String>,
    /// The name that it binds, or none for a glob.
    pub(super) name: Option<String>,
    /// What it can bring in: `{self}` only the module or type.
    pub(super) ns: Ns,
}

#[derive(Default)]
pub(super) struct Module {
    pub(super) file: Rc<str>,
    pub(super) parent: Option<usize>,
    /// Where the files of its modules are.
    dir: PathBuf,
    pub(super) items: Vec<Item>,
    pub(super) names: HashMap<String, Vec<(Ns, Res)>>,
    pub(super) uses: HashMap<String, Vec<Import>>,
    pub(super) globs: Vec<Import>,
    /// A macro makes items here whose names are not known.
    pub(super) opaque: bool,
}

/// The modules that a crate's root leads to; the root is the first.
pub(super) struct Tree {
    pub(super) modules: Vec<Module>,
}

impl Tree {
    /// Reads the crate with this root; files are named relative to `base`.
    pub(super) fn read(base: &Path, root: &Path) -> Self {
        let mut tree = Self {
            modules: Vec::new(),
        };
        let base = base.canonicalize().unwrap();
        let dir = root.parent().unwrap().to_owned();
        tree.read_file(&base, root, None, dir);
        tree
    }

    fn read_file(&mut self, base: &Path, path: &Path, parent: Option<usize>, dir: PathBuf) {
        let path = &path
            .canonicalize()
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let text = std::fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let parsed =
            syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let name = path.strip_prefix(base).unwrap_or(path).to_string_lossy();
        let module = Module {
            file: name.into(),
            parent,
            dir,
            ..Module::default()
        };
        self.add(base, path, module, parsed.items);
    }

    /// Adds a module and those inside it.
    fn add(&mut self, base: &Path, path: &Path, module: Module, items: Vec<Item>) {
        let id = self.modules.len();
        self.modules.push(module);
        for mut item in items {
            if test_only(attributes(&item)) {
                continue;
            }
            if let Item::Mod(inner) = &mut item {
                let child = self.modules.len();
                self.bind(id, &inner.ident, &[Ns::Type], Res::Module(child));
                self.add_inner(base, path, id, inner);
            } else {
                self.bind_item(id, &item);
                self.modules[id].items.push(item);
            }
        }
    }

    fn add_inner(&mut self, base: &Path, path: &Path, parent: usize, inner: &mut ItemMod) {
        let name = inner.ident.to_string();
        let dir = self.modules[parent].dir.join(&name);
        if let Some((_, items)) = inner.content.take() {
            let module = Module {
                file: self.modules[parent].file.clone(),
                parent: Some(parent),
                dir,
                ..Module::default()
            };
            return self.add(base, path, module, items);
        }
        if let Some(place) = path_attribute(inner) {
            let file = path.parent().unwrap().join(place);
            let dir = file.parent().unwrap().to_owned();
            return self.read_file(base, &file, Some(parent), dir);
        }
        let beside = dir.with_file_name(format!("{name}.rs"));
        let file = if beside.exists() {
            beside
        } else {
            dir.join("mod.rs")
        };
        self.read_file(base, &file, Some(parent), dir);
    }

    fn bind(&mut self, id: usize, name: &Ident, spaces: &[Ns], res: Res) {
        let names = self.modules[id].names.entry(name.to_string()).or_default();
        names.extend(spaces.iter().map(|ns| (*ns, res.clone())));
    }

    fn bind_item(&mut self, id: usize, item: &Item) {
        match item {
            Item::Use(item) => {
                for import in imports(&item.tree) {
                    let module = &mut self.modules[id];
                    match &import.name {
                        Some(name) => module.uses.entry(name.clone()).or_default().push(import),
                        None => module.globs.push(import),
                    }
                }
            }
            Item::Macro(item) if item.ident.is_none() => self.modules[id].opaque = true,
            _ => {
                let Some((name, spaces)) = defined(item) else {
                    return;
                };
                let variants = match item {
                    Item::Enum(item) => item.variants.iter().map(|v| v.ident.to_string()).collect(),
                    _ => Vec::new(),
                };
                let def = Def {
                    file: self.modules[id].file.clone(),
                    name: name.to_string(),
                    variants,
                };
                self.bind(id, name, spaces, Res::Item(Rc::new(def)));
            }
        }
    }
}

/// The name of an item and where it counts.
pub(super) fn defined(item: &Item) -> Option<(&Ident, &'static [Ns])> {
    Some(match item {
        Item::Const(item) => (&item.ident, &[Ns::Value]),
        Item::Enum(item) => (&item.ident, &[Ns::Type]),
        Item::Fn(item) => (&item.sig.ident, &[Ns::Value]),
        Item::Macro(item) => (item.ident.as_ref()?, &[Ns::Macro]),
        Item::Static(item) => (&item.ident, &[Ns::Value]),
        Item::Struct(item) => (&item.ident, &[Ns::Type, Ns::Value]),
        Item::Trait(item) => (&item.ident, &[Ns::Type]),
        Item::TraitAlias(item) => (&item.ident, &[Ns::Type]),
        Item::Type(item) => (&item.ident, &[Ns::Type]),
        Item::Union(item) => (&item.ident, &[Ns::Type]),
        _ => return None,
    })
}

pub(super) fn attributes(item: &Item) -> &[syn::Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Whether a `use` only serves the file that it is in.
pub(super) fn is_private(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Inherited)
}

/// The leaves of a `use`.
pub(super) fn imports(tree: &UseTree) -> Vec<Import> {
    let mut found = Vec::new();
    add_imports(tree, &mut Vec::new(), &mut found);
    found
}

fn add_imports(tree: &UseTree, path: &mut Vec<String>, found: &mut Vec<Import>) {
    let mut leaf = |ident: &Ident, name: Option<String>| {
        let mut path = path.clone();
        let ns = if ident == "self" && !path.is_empty() {
            Ns::Type
        } else {
            path.push(ident.to_string());
            Ns::Any
        };
        let name = name.or_else(|| path.last().cloned());
        found.push(Import { path, name, ns });
    };
    match tree {
        UseTree::Path(step) => {
            path.push(step.ident.to_string());
            add_imports(&step.tree, path, found);
            path.pop();
        }
        UseTree::Name(name) => leaf(&name.ident, None),
        UseTree::Rename(name) => leaf(&name.ident, Some(name.rename.to_string())),
        UseTree::Glob(_) => found.push(Import {
            path: path.clone(),
            name: None,
            ns: Ns::Type,
        }),
        UseTree::Group(group) => {
            for tree in &group.items {
                add_imports(tree, path, found);
            }
        }
    }
}

/// The value of `#[path = "..."]`.
fn path_attribute(item: &ItemMod) -> Option<String> {
    item.attrs.iter().find_map(|attr| match &attr.meta {
        Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            Expr::Lit(value) => match &value.lit {
                Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    })
}
