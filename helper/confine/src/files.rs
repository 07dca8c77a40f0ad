// SPDX-License-Identifier: GPL-2.0-or-later
//! Paths, by Landlock. Files that are open stay open, with all that can be done to them.

use std::path::Path;

use landlock::{
    Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, ABI,
};

/// The newest kernel interface whose rights are known here; of an older one, what it has is used.
const KNOWN: ABI = ABI::V6;

/// How much of it the kernel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restricted {
    /// All.
    Fully,
    /// What it knows.
    Partly,
    /// Nothing: it has no Landlock, or it is off.
    Not,
}

/// From now on only what is below `readable` can be opened, for reading; and files of the directory
/// `removable` can be removed, and those below it no more than that. No TCP, no signals to other processes.
///
/// # Errors
/// If the kernel has Landlock and refuses.
pub fn restrict(readable: &[&Path], removable: &Path) -> Result<Restricted, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::Signal)?
        .create()?;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    for path in readable {
        // What is not there cannot be read either.
        if let Ok(file) = PathFd::new(path) {
            rules = rules.add_rule(PathBeneath::new(file, read))?;
        }
    }
    if let Ok(directory) = PathFd::new(removable) {
        rules = rules.add_rule(PathBeneath::new(directory, AccessFs::RemoveFile))?;
    }
    Ok(match rules.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => Restricted::Fully,
        RulesetStatus::PartiallyEnforced => Restricted::Partly,
        RulesetStatus::NotEnforced => Restricted::Not,
    })
}
