// SPDX-License-Identifier: GPL-2.0-or-later
//! Goes through the code of a crate and notes which file names an item of which other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;

use proc_macro2::{TokenStream, TokenTree};
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Expr, Item, Token};

use super::cfg::test_only;
use super::scopes::{Local, Scopes};
use super::tree::{attributes, imports, is_private, Import, Ns, Res, Tree};

/// By file, then by the file that it points at: the names that tie them. Every file has an entry.
pub(crate) type Arrows = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// Adds the arrows of the crate with this root; files are named relative to `base`.
pub(crate) fn of_crate(base: &Path, root: &Path, arrows: &mut Arrows) {
    let tree = Tree::read(base, root);
    for (module, content) in tree.modules.iter().enumerate() {
        arrows.entry(content.file.to_string()).or_default();
        let mut walker = Walker {
            tree: &tree,
            module,
            scopes: Scopes::default(),
            arrows: &mut *arrows,
        };
        for item in &content.items {
            if let Item::Use(item) = item {
                if is_private(&item.vis) {
                    imports(&item.tree).iter().for_each(|i| walker.import(i));
                }
            } else {
                walker.visit_item(item);
            }
        }
    }
}

struct Walker<'a> {
    tree: &'a Tree,
    module: usize,
    scopes: Scopes,
    arrows: &'a mut Arrows,
}

impl Walker<'_> {
    fn note(&mut self, found: &[Res]) {
        let from: Rc<str> = self.tree.modules[self.module].file.clone();
        for res in found {
            if let Res::Item(def) = res {
                if def.file != from {
                    let targets = self.arrows.entry(from.to_string()).or_default();
                    let names = targets.entry(def.file.to_string()).or_default();
                    names.insert(def.name.clone());
                }
            }
        }
    }

    /// A `use` for this file itself. One of a module is no arrow, what is named through it is; so it
    /// is with a glob, unless a macro makes what it brings in.
    fn import(&mut self, import: &Import) {
        let mut found = self.tree.resolve(self.module, &import.path, import.ns);
        if import.name.is_none() {
            let any = ["*".to_owned()];
            found = self.tree.resolve_from(found, &any, Ns::Any);
        }
        self.note(&found);
    }

    fn path(&mut self, path: &[String], ns: Ns) {
        let Some((first, rest)) = path.split_first() else {
            return;
        };
        let first_ns = if rest.is_empty() { ns } else { Ns::Type };
        let found = match self.scopes.find(first, first_ns) {
            Local::Hidden => return,
            Local::Import(import) => {
                let start = self.tree.resolve(self.module, &import.path, first_ns);
                self.tree.resolve_from(start, rest, ns)
            }
            Local::Unknown(globs) => {
                let start = globs
                    .into_iter()
                    .flat_map(|glob| self.tree.in_glob(self.module, glob, first, first_ns))
                    .collect();
                let mut found = self.tree.resolve_from(start, rest, ns);
                if found.is_empty() {
                    found = self.tree.resolve(self.module, path, ns);
                }
                found
            }
        };
        self.note(&found);
    }

    fn syn_path(&mut self, path: &syn::Path, ns: Ns) {
        if path.leading_colon.is_none() {
            let names: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
            self.path(&names, ns);
        }
        for segment in &path.segments {
            self.visit_path_arguments(&segment.arguments);
        }
    }

    /// `<Type as Trait>::name` names the type and the trait, `<Type>::name` only the type.
    fn qualified(&mut self, qself: Option<&syn::QSelf>, path: &syn::Path, ns: Ns) {
        let Some(qself) = qself else {
            return self.syn_path(path, ns);
        };
        self.visit_type(&qself.ty);
        if qself.position > 0 {
            self.syn_path(path, Ns::Type);
        }
    }

    /// Looks for paths in what is no code that can be parsed.
    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let is = |at: usize, c: char| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == c);
        let ident = |at: usize| match tokens.get(at) {
            Some(TokenTree::Ident(ident)) => Some(ident.to_string()),
            _ => None,
        };
        let mut at = 0;
        while at < tokens.len() {
            if let TokenTree::Group(group) = &tokens[at] {
                self.tokens(group.stream());
            }
            let Some(first) = ident(at) else {
                at += 1;
                continue;
            };
            let start = at;
            let mut path = vec![first];
            at += 1;
            while is(at, ':') && is(at + 1, ':') {
                let Some(next) = ident(at + 2) else {
                    break;
                };
                path.push(next);
                at += 3;
            }
            let before = |c: char| start > 0 && is(start - 1, c);
            let member = before('.') && !(start > 1 && is(start - 2, '.'));
            if member || before('\'') || before(':') && start > 1 && is(start - 2, ':') {
                continue;
            }
            if is(at, '!') && !is(at + 1, '=') {
                self.macro_name(&path);
            } else if path.len() > 1 || path[0].starts_with(char::is_uppercase) {
                self.path(&path, Ns::Any);
            }
        }
    }

    fn macro_name(&mut self, path: &[String]) {
        match path {
            [name] => {
                let found = self.tree.macro_by_text(self.module, name);
                self.note(&found);
            }
            _ => self.path(path, Ns::Macro),
        }
    }
}

impl<'ast> Visit<'ast> for Walker<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if test_only(attributes(item)) || matches!(item, Item::Mod(_)) {
            return;
        }
        if let Item::Use(item) = item {
            return imports(&item.tree).iter().for_each(|i| self.import(i));
        }
        self.scopes.open();
        visit::visit_item(self, item);
        self.scopes.close();
    }

    fn visit_item_macro(&mut self, item: &'ast syn::ItemMacro) {
        if item.ident.is_some() {
            self.tokens(item.mac.tokens.clone());
        } else {
            visit::visit_item_macro(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast syn::ImplItem) {
        let attrs: &[syn::Attribute] = match item {
            syn::ImplItem::Const(item) => &item.attrs,
            syn::ImplItem::Fn(item) => &item.attrs,
            syn::ImplItem::Type(item) => &item.attrs,
            _ => &[],
        };
        if !test_only(attrs) {
            self.scopes.open();
            visit::visit_impl_item(self, item);
            self.scopes.close();
        }
    }

    fn visit_trait_item(&mut self, item: &'ast syn::TraitItem) {
        self.scopes.open();
        visit::visit_trait_item(self, item);
        self.scopes.close();
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if !test_only(&field.attrs) {
            visit::visit_field(self, field);
        }
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        if !test_only(&variant.attrs) {
            visit::visit_variant(self, variant);
        }
    }

    fn visit_generics(&mut self, generics: &'ast syn::Generics) {
        for param in &generics.params {
            match param {
                syn::GenericParam::Type(param) => self.scopes.add_type(param.ident.to_string()),
                syn::GenericParam::Const(param) => self.scopes.add_value(param.ident.to_string()),
                syn::GenericParam::Lifetime(_) => {}
            }
        }
        visit::visit_generics(self, generics);
    }

    fn visit_block(&mut self, block: &'ast syn::Block) {
        self.scopes.open_block(&block.stmts);
        visit::visit_block(self, block);
        self.scopes.close();
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        if test_only(&local.attrs) {
            return;
        }
        // A variable does not count in what it starts with.
        if let Some(init) = &local.init {
            self.visit_local_init(init);
        }
        self.visit_pat(&local.pat);
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        if !test_only(&arm.attrs) {
            self.scopes.open();
            visit::visit_arm(self, arm);
            self.scopes.close();
        }
    }

    fn visit_expr_closure(&mut self, closure: &'ast syn::ExprClosure) {
        self.scopes.open();
        visit::visit_expr_closure(self, closure);
        self.scopes.close();
    }

    fn visit_expr_if(&mut self, expr: &'ast syn::ExprIf) {
        self.scopes.open();
        self.visit_expr(&expr.cond);
        self.visit_block(&expr.then_branch);
        self.scopes.close();
        if let Some((_, other)) = &expr.else_branch {
            self.visit_expr(other);
        }
    }

    fn visit_expr_while(&mut self, expr: &'ast syn::ExprWhile) {
        self.scopes.open();
        visit::visit_expr_while(self, expr);
        self.scopes.close();
    }

    fn visit_expr_for_loop(&mut self, expr: &'ast syn::ExprForLoop) {
        self.visit_expr(&expr.expr);
        self.scopes.open();
        self.visit_pat(&expr.pat);
        self.visit_block(&expr.body);
        self.scopes.close();
    }

    fn visit_expr_let(&mut self, expr: &'ast syn::ExprLet) {
        self.visit_expr(&expr.expr);
        self.visit_pat(&expr.pat);
    }

    fn visit_pat_ident(&mut self, pat: &'ast syn::PatIdent) {
        let name = pat.ident.to_string();
        // A constant looks like a variable in a pattern, but for its case.
        if name.starts_with(char::is_uppercase) {
            self.path(&[name], Ns::Value);
        } else {
            self.scopes.add_value(name);
        }
        if let Some((_, inner)) = &pat.subpat {
            self.visit_pat(inner);
        }
    }

    fn visit_expr_path(&mut self, expr: &'ast syn::ExprPath) {
        self.qualified(expr.qself.as_ref(), &expr.path, Ns::Value);
    }

    fn visit_type_path(&mut self, ty: &'ast syn::TypePath) {
        self.qualified(ty.qself.as_ref(), &ty.path, Ns::Type);
    }

    fn visit_expr_struct(&mut self, expr: &'ast syn::ExprStruct) {
        self.qualified(expr.qself.as_ref(), &expr.path, Ns::Type);
        for field in &expr.fields {
            self.visit_field_value(field);
        }
        if let Some(rest) = &expr.rest {
            self.visit_expr(rest);
        }
    }

    fn visit_pat_tuple_struct(&mut self, pat: &'ast syn::PatTupleStruct) {
        self.qualified(pat.qself.as_ref(), &pat.path, Ns::Value);
        pat.elems.iter().for_each(|pat| self.visit_pat(pat));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.syn_path(path, Ns::Type);
    }

    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    /// `#[arg(value_parser = path::to::function)]` names a function.
    fn visit_attribute(&mut self, attr: &'ast syn::Attribute) {
        if let syn::Meta::List(list) = &attr.meta {
            if !["cfg", "cfg_attr", "derive"]
                .iter()
                .any(|name| list.path.is_ident(name))
            {
                self.tokens(list.tokens.clone());
            }
        }
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        if mac.path.leading_colon.is_none() {
            let path: Vec<String> = mac
                .path
                .segments
                .iter()
                .map(|s| s.ident.to_string())
                .collect();
            self.macro_name(&path);
        }
        let tokens = mac.tokens.clone();
        let list = Punctuated::<Expr, Token![,]>::parse_terminated;
        let repeated = Punctuated::<Expr, Token![;]>::parse_separated_nonempty;
        let parsed = list
            .parse2(tokens.clone())
            .map(|list| list.into_iter().collect::<Vec<Expr>>());
        let parsed = parsed.or_else(|_| {
            let pair = repeated.parse2(tokens.clone())?;
            Ok::<_, syn::Error>(pair.into_iter().collect())
        });
        match parsed {
            Ok(exprs) => exprs.iter().for_each(|expr| self.visit_expr(expr)),
            Err(_) => self.tokens(tokens),
        }
    }
}
