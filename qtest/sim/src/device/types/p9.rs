// SPDX-License-Identifier: GPL-2.0-or-later
//! 9P transports to a directory of this host.

use crate::descriptors;
use p9_server::{Server, Settings, DESCRIPTORS_PER_FID};
use std::io;
use std::path::{Path, PathBuf};
use virtio_pf_model::p9::{self, P9Settings, Responder};
use virtio_pf_model::{ConfigError, FunctionId, Model, ModelConfig};

/// Name of the shared directory below the simulator's, where none is given.
pub(super) const OWN_DIRECTORY: &str = "share";

/// Options of the type.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "9P")]
pub struct P9Args {
    /// 9p: directory that every function shares. Default: "share" below the simulator's directory,
    /// created if missing.
    #[arg(long, value_name = "DIR")]
    pub share: Option<PathBuf>,
    /// 9p: mount tag, up to 254 bytes.
    #[arg(long, value_name = "NAME")]
    pub tag: Option<String>,
    /// 9p: nothing in the directory is changed.
    #[arg(long)]
    pub share_read_only: bool,
}

impl P9Args {
    pub(super) fn given(&self) -> Option<&'static str> {
        let given = [
            (self.share.is_some(), "--share"),
            (self.tag.is_some(), "--tag"),
            (self.share_read_only, "--share-read-only"),
        ];
        given.iter().find(|(g, _)| *g).map(|(_, name)| *name)
    }

    /// What the options say of each function; `queue_size` is that of all types, if given.
    pub(super) fn settings(&self, queue_size: Option<u16>) -> P9Settings {
        let mut settings = P9Settings::default();
        settings.tag = self.tag.clone().unwrap_or(settings.tag);
        settings.queue_size = queue_size.unwrap_or(settings.queue_size);
        settings
    }
}

/// The server behind one function.
struct Share(Server);

impl Responder for Share {
    fn max_message(&self) -> usize {
        self.0.max_message()
    }

    fn answer(
        &mut self,
        message: &[u8],
        room: usize,
        reply: &mut Vec<u8>,
    ) -> Result<(), &'static str> {
        let done = self.0.answer(message, room, reply);
        done.map_err(|broken| broken.name())
    }

    fn reset(&mut self) {
        self.0.reset();
    }

    fn numbers(&self) -> Vec<(&'static str, u64)> {
        let c = self.0.counts();
        vec![
            ("p9_requests", c.requests),
            ("p9_errors", c.errors),
            ("bytes_read", c.bytes_read),
            ("bytes_written", c.bytes_written),
            ("fids", self.0.fids() as u64),
        ]
    }
}

/// Fids that a guest has at least, and at most.
const FIDS: std::ops::RangeInclusive<u64> = 16..=1024;
/// Descriptors of the simulator itself, and those of a function beside its fids.
const RESERVED: (u64, u64) = (256, 20);

/// How many fids each function may have, so that all of them together leave descriptors for
/// connections: a guest must not keep anybody else from the simulator.
fn fids_of_each(functions: u64, limit: Option<u64>) -> Result<usize, String> {
    let per_fid = DESCRIPTORS_PER_FID as u64;
    let reserved = RESERVED.0 + functions * RESERVED.1;
    let need = reserved + functions * FIDS.start() * per_fid;
    let have = limit.unwrap_or(u64::MAX);
    if have < need {
        return Err(format!(
            "{need} file descriptors are needed for {functions} functions, the limit is {have}; \
             raise it (ulimit -n) or lower --vfs"
        ));
    }
    let each = (have - reserved) / functions / per_fid;
    Ok(usize::try_from(each.min(*FIDS.end())).unwrap_or(usize::MAX))
}

pub(super) fn build(
    config: ModelConfig,
    settings: &P9Settings,
    share: Option<&Path>,
    own: &Path,
    read_only: bool,
) -> Result<Model, ConfigError> {
    let bad = |e: io::Error, dir: &Path| {
        ConfigError::Device("9p", format!("directory {}: {e}", dir.display()))
    };
    let dir = share.unwrap_or(own);
    if share.is_none() {
        std::fs::create_dir_all(own).map_err(|e| bad(e, own))?;
    }
    let functions = u64::from(config.total_vfs) + 1;
    let max_fids = fids_of_each(functions, descriptors::raise_fully())
        .map_err(|why| ConfigError::Device("9p", why))?;
    let how = Settings {
        read_only,
        max_fids,
    };
    let mut open = |_: FunctionId| -> io::Result<Box<dyn Responder>> {
        let server = Server::new(dir, how)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", dir.display())))?;
        Ok(Box::new(Share(server)))
    };
    p9::model(config, settings, &mut open)
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_pci_spec::DeviceType;

    #[test]
    fn guests_leave_descriptors_to_others() {
        for (functions, limit) in [(2, 1024), (2, 4096), (5, 1024), (256, 1 << 20)] {
            let each = fids_of_each(functions, Some(limit)).unwrap() as u64;
            assert!(FIDS.contains(&each), "{each} fids");
            let left = limit - functions * each * DESCRIPTORS_PER_FID as u64;
            assert!(
                left >= RESERVED.0 + functions * RESERVED.1,
                "{left} are left"
            );
        }
        assert_eq!(fids_of_each(2, None), Ok(1024));
        assert_eq!(fids_of_each(2, Some(1 << 20)), Ok(1024));
        let error = fids_of_each(256, Some(1024)).unwrap_err();
        assert!(error.contains("the limit is 1024"), "{error}");
    }

    #[test]
    fn what_cannot_be_shared_is_named() {
        let config = || ModelConfig::new(DeviceType::P9, 1);
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("a/share");
        let settings = P9Settings::default();
        build(config(), &settings, None, &own, false).unwrap();
        assert!(own.is_dir(), "created");
        let none = dir.path().join("none");
        std::fs::write(dir.path().join("file"), "").unwrap();
        for bad in [none, dir.path().join("file")] {
            let error = build(config(), &settings, Some(&bad), &own, false);
            let error = error.err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains(&bad.display().to_string()), "{error}");
        }
        let long = P9Settings {
            tag: "t".repeat(255),
            ..P9Settings::default()
        };
        let error = build(config(), &long, None, &own, false);
        let error = error.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("254"), "{error}");
    }
}
