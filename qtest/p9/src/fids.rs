// SPDX-License-Identifier: GPL-2.0-or-later
//! The client's numbers for files.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::{Errno, Result};

use crate::tree::Node;

/// What a fid was opened for.
#[derive(Debug)]
pub(crate) enum Open {
    /// A regular file.
    File {
        fd: OwnedFd,
        readable: bool,
        writable: bool,
    },
    /// A directory, to be listed.
    Directory(OwnedFd),
}

/// A file under a number.
#[derive(Debug)]
pub(crate) struct Fid {
    pub(crate) node: Arc<Node>,
    pub(crate) open: Option<Open>,
}

impl Fid {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Fid { node, open: None }
    }

    pub(crate) fn readable_file(&self) -> Result<&OwnedFd> {
        match &self.open {
            Some(Open::File {
                fd, readable: true, ..
            }) => Ok(fd),
            Some(Open::Directory(_)) => Err(Errno::ISDIR),
            _ => Err(Errno::BADF),
        }
    }

    pub(crate) fn writable_file(&self) -> Option<&OwnedFd> {
        match &self.open {
            Some(Open::File {
                fd, writable: true, ..
            }) => Some(fd),
            _ => None,
        }
    }

    pub(crate) fn directory(&self) -> Result<&OwnedFd> {
        match &self.open {
            Some(Open::Directory(fd)) => Ok(fd),
            Some(Open::File { .. }) => Err(Errno::NOTDIR),
            None => Err(Errno::BADF),
        }
    }

    /// The descriptor of whatever is open.
    pub(crate) fn any(&self) -> Result<&OwnedFd> {
        match &self.open {
            Some(Open::File { fd, .. } | Open::Directory(fd)) => Ok(fd),
            None => Err(Errno::BADF),
        }
    }
}

/// All fids of a session.
#[derive(Debug)]
pub(crate) struct Fids {
    table: HashMap<u32, Fid>,
    max: usize,
}

impl Fids {
    pub(crate) fn new(max: usize) -> Self {
        Fids {
            table: HashMap::new(),
            max,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.table.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn get(&self, fid: u32) -> Result<&Fid> {
        self.table.get(&fid).ok_or(Errno::BADF)
    }

    pub(crate) fn get_mut(&mut self, fid: u32) -> Result<&mut Fid> {
        self.table.get_mut(&fid).ok_or(Errno::BADF)
    }

    pub(crate) fn node(&self, fid: u32) -> Result<Arc<Node>> {
        Ok(Arc::clone(&self.get(fid)?.node))
    }

    /// Whether a new fid may get this number.
    pub(crate) fn check_new(&self, fid: u32) -> Result<()> {
        if self.table.contains_key(&fid) || fid == u32::MAX {
            return Err(Errno::BADF);
        }
        if self.table.len() >= self.max {
            return Err(Errno::NFILE);
        }
        Ok(())
    }

    pub(crate) fn put(&mut self, fid: u32, value: Fid) {
        self.table.insert(fid, value);
    }

    pub(crate) fn remove(&mut self, fid: u32) -> Result<Fid> {
        self.table.remove(&fid).ok_or(Errno::BADF)
    }
}
