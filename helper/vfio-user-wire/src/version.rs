// SPDX-License-Identifier: GPL-2.0-or-later
//! Version and capabilities, the first exchange of a connection.

use crate::WireError;
use serde_json::{json, Map, Value};

/// Protocol major version of this crate and of QEMU 10.2.
pub const MAJOR: u16 = 0;
/// Protocol minor version of this crate and of QEMU 10.2.
pub const MINOR: u16 = 0;

/// Payload of a VERSION command or reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Incompatible changes raise it.
    pub major: u16,
    /// Compatible changes raise it.
    pub minor: u16,
    /// What the sender can do.
    pub capabilities: Capabilities,
}

/// The capabilities that matter here; others a peer names are ignored.
///
/// Absent members have the protocol's defaults, so a decoded structure always tells what holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// File descriptors the sender can receive with one message.
    pub max_msg_fds: u32,
    /// Largest `count` of a transfer, in bytes.
    pub max_data_xfer_size: u64,
    /// DMA mappings that may exist at a time.
    pub max_dma_maps: u64,
    /// Bit mask of DMA page sizes.
    pub pgsizes: u64,
    /// REGION_WRITE_MULTI is understood.
    pub write_multiple: bool,
    /// Second socket for commands of the server. Never offered by this project's peers.
    pub twin_socket: bool,
    /// Page size of dirty tracking (`migration.pgsize`), if the sender has migration support.
    pub migration_pgsize: Option<u64>,
    /// Largest dirty bitmap (`migration.max_bitmap_size`), in bytes.
    pub migration_max_bitmap: Option<u64>,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self {
            max_msg_fds: 1,
            max_data_xfer_size: 1 << 20,
            max_dma_maps: 65535,
            pgsizes: 4096,
            write_multiple: false,
            twin_socket: false,
            migration_pgsize: None,
            migration_max_bitmap: None,
        }
    }
}

impl Capabilities {
    /// The JSON text with its terminating NUL.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut caps = json!({
            "max_msg_fds": self.max_msg_fds,
            "max_data_xfer_size": self.max_data_xfer_size,
            "max_dma_maps": self.max_dma_maps,
            "pgsizes": self.pgsizes,
        });
        if let Some(map) = caps.as_object_mut() {
            if self.write_multiple {
                map.insert("write_multiple".into(), Value::Bool(true));
            }
            if self.twin_socket {
                map.insert("twin_socket".into(), json!({ "supported": true }));
            }
            let mut migration = Map::new();
            if let Some(v) = self.migration_pgsize {
                migration.insert("pgsize".into(), v.into());
            }
            if let Some(v) = self.migration_max_bitmap {
                migration.insert("max_bitmap_size".into(), v.into());
            }
            if !migration.is_empty() {
                map.insert("migration".into(), Value::Object(migration));
            }
        }
        let mut out = json!({ "capabilities": caps }).to_string().into_bytes();
        out.push(0);
        out
    }

    /// Reads version data: empty (all defaults) or a NUL-terminated JSON object.
    pub fn from_bytes(data: &[u8]) -> Result<Self, WireError> {
        let mut caps = Self::default();
        let Some((last, text)) = data.split_last() else {
            return Ok(caps);
        };
        if *last != 0 {
            return Err(WireError::BadCapabilities("not NUL-terminated"));
        }
        // Some senders count more than one NUL.
        let text = match text.iter().position(|b| *b == 0) {
            Some(end) => text.get(..end).unwrap_or(text),
            None => text,
        };
        if text.is_empty() {
            return Ok(caps);
        }
        let value: Value =
            serde_json::from_slice(text).map_err(|_| WireError::BadCapabilities("not JSON"))?;
        let Value::Object(top) = value else {
            return Err(WireError::BadCapabilities("not a JSON object"));
        };
        let map = match top.get("capabilities") {
            None => return Ok(caps),
            Some(Value::Object(map)) => map,
            Some(_) => {
                return Err(WireError::BadCapabilities("capabilities is not an object"));
            }
        };
        if let Some(v) = number(map, "max_msg_fds", "max_msg_fds is not a number")? {
            caps.max_msg_fds = u32::try_from(v)
                .map_err(|_| WireError::BadCapabilities("max_msg_fds is too large"))?;
        }
        const XFER: &str = "max_data_xfer_size is not a number";
        if let Some(v) = number(map, "max_data_xfer_size", XFER)? {
            caps.max_data_xfer_size = v;
        }
        if let Some(v) = number(map, "max_dma_maps", "max_dma_maps is not a number")? {
            caps.max_dma_maps = v;
        }
        if let Some(v) = number(map, "pgsizes", "pgsizes is not a number")? {
            caps.pgsizes = v;
        }
        caps.write_multiple = flag(map, "write_multiple", "write_multiple is not a boolean")?;
        if let Some(twin) = object(map, "twin_socket", "twin_socket is not an object")? {
            caps.twin_socket = flag(twin, "supported", "twin_socket.supported is not a boolean")?;
        }
        if let Some(m) = object(map, "migration", "migration is not an object")? {
            caps.migration_pgsize = number(m, "pgsize", "migration.pgsize is not a number")?;
            const BITMAP: &str = "migration.max_bitmap_size is not a number";
            caps.migration_max_bitmap = number(m, "max_bitmap_size", BITMAP)?;
        }
        Ok(caps)
    }
}

fn number(
    map: &Map<String, Value>,
    name: &str,
    wrong: &'static str,
) -> Result<Option<u64>, WireError> {
    match map.get(name) {
        None => Ok(None),
        Some(v) => match v.as_u64() {
            Some(n) => Ok(Some(n)),
            None => Err(WireError::BadCapabilities(wrong)),
        },
    }
}

fn flag(map: &Map<String, Value>, name: &str, wrong: &'static str) -> Result<bool, WireError> {
    match map.get(name) {
        None => Ok(false),
        Some(Value::Bool(b)) => Ok(*b),
        Some(_) => Err(WireError::BadCapabilities(wrong)),
    }
}

fn object<'a>(
    map: &'a Map<String, Value>,
    name: &str,
    wrong: &'static str,
) -> Result<Option<&'a Map<String, Value>>, WireError> {
    match map.get(name) {
        None => Ok(None),
        Some(Value::Object(o)) => Ok(Some(o)),
        Some(_) => Err(WireError::BadCapabilities(wrong)),
    }
}
