// SPDX-License-Identifier: GPL-2.0-or-later

//! Texts for the user: what failed, why, and the way out.

use std::{io, path::Path};

use legacy_vf_proto::{ErrorCode, VERSION};

use crate::{
    handshake::{LinkError, Target},
    seqpacket::effective_uid,
};

/// Cause and way out when the connection to the helper cannot be made.
pub fn connect_failed(target: &Target, error: &LinkError, deadline_ms: u32) -> String {
    let path = target.path.display();
    match error {
        LinkError::Connect(e) => cannot_connect(&target.path, e),
        LinkError::Deadline => format!(
            "the helper at {path} did not answer within {deadline_ms} ms; see whether it is \
             stopped or its PF hangs, or raise helper-deadline-ms"
        ),
        LinkError::Refused { code, text } => refused(target, *code, text),
        other => format!("{} ({path}); see the helper's log", brief(other)),
    }
}

/// What happened, without advice.
pub fn brief(error: &LinkError) -> String {
    match error {
        LinkError::Connect(e) => format!("cannot connect to the helper: {e}"),
        LinkError::Deadline => "the helper did not answer in time".to_owned(),
        LinkError::Stopped => "the device is going away".to_owned(),
        LinkError::Closed => "the helper closed the connection".to_owned(),
        LinkError::Socket(e) if e.kind() == io::ErrorKind::InvalidData => {
            "the helper sent a message that is longer than the protocol allows".to_owned()
        }
        LinkError::Socket(e) => format!("the connection to the helper failed: {e}"),
        LinkError::Protocol(reason) => reason.to_string(),
        LinkError::Send(e) => format!("a request could not be sent: {e}"),
        LinkError::Refused { code, text } => format!("the helper refused: {code}: {text}"),
    }
}

fn cannot_connect(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => format!(
            "the helper's socket {path} does not exist; start qemu-virtio-admin-helper for the \
             PF of this VF, or correct helper="
        ),
        io::ErrorKind::PermissionDenied => format!(
            "no permission to use the helper's socket {path} as user {}; start the helper with a \
             fitting --socket-owner, --socket-group or --socket-mode, or add the user to the \
             socket's group",
            effective_uid()
        ),
        io::ErrorKind::ConnectionRefused => format!(
            "nobody listens on {path}; start qemu-virtio-admin-helper for the PF of this VF"
        ),
        io::ErrorKind::WouldBlock => format!(
            "the helper at {path} does not accept connections, too many are waiting; see whether \
             it is stopped"
        ),
        io::ErrorKind::InvalidInput => {
            format!("{path} is no usable socket path (at most 107 bytes); correct helper=")
        }
        _ if error.raw_os_error() == Some(libc::EPROTOTYPE) => {
            format!("{path} is not a helper's socket (wrong socket type); correct helper=")
        }
        _ => format!("cannot connect to the helper at {path}: {error}; correct helper="),
    }
}

fn refused(target: &Target, code: ErrorCode, text: &str) -> String {
    let path = target.path.display();
    let vf = target.member;
    let way_out = match code {
        ErrorCode::UNSUPPORTED_VERSION => {
            return format!(
                "the helper at {path} does not speak version {VERSION} of the protocol ({text}); \
                 use helper and QEMU of the same release"
            )
        }
        ErrorCode::NO_SUCH_VF => "correct vf=; `qemu-virtio-admin-helper list` shows the VFs",
        ErrorCode::BUSY => "stop the other user of this VF, or choose another VF",
        ErrorCode::WRONG_OWNER => {
            "this VF belongs to another PF; correct helper=, or the VF given to the device"
        }
        ErrorCode::WRONG_TYPE => {
            "the VF given to the device is not the one that vf= names; correct one of them"
        }
        ErrorCode::ACCESS_DENIED => "the helper's policy must allow this user",
        ErrorCode::BAD_PROOF => "the helper must be told to trust this user",
        ErrorCode::SHUTTING_DOWN | ErrorCode::PF_FAILED => "restart the helper",
        ErrorCode::TOO_MANY => "the helper has too many clients; raise its limit",
        ErrorCode::NOT_SUPPORTED => "the PF offers no legacy access to its VFs",
        _ => "see the helper's log",
    };
    format!("the helper at {path} refused VF {vf}: {code}: {text}; {way_out}")
}
