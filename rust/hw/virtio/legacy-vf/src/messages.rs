// SPDX-License-Identifier: GPL-2.0-or-later

//! Texts for the user: what failed, why, and the way out.

use std::io;

use legacy_vf_proto::{ErrorCode, VERSION};

use crate::{
    connection::{LinkError, Refusal},
    socket::effective_uid,
    sysfs::HostVf,
    vf::Vf,
};

/// Cause and way out when the connection to the helper cannot be made.
pub fn connect_failed(at: &Vf, error: &LinkError, deadline_ms: u32) -> String {
    let path = at.helper.display();
    match error {
        LinkError::Connect(e) | LinkError::Socket(e) if no_files_left(e) => format!(
            "QEMU can open no more files ({e}); raise the limit (ulimit -n, or LimitNOFILE= of the \
             service)"
        ),
        LinkError::Connect(e) => cannot_connect(at, e),
        LinkError::Deadline => format!(
            "the helper at {path} did not answer within {deadline_ms} ms; see whether it is \
             stopped or its PF hangs, or raise helper-deadline-ms"
        ),
        LinkError::Refused(why) => refused(at, why),
        other => format!("{} ({path}); see the helper's log", brief(other)),
    }
}

/// Cause and way out when the helper does not give the VF token.
pub fn no_token(at: &Vf, error: &LinkError, deadline_ms: u32) -> String {
    match (error, &at.host) {
        (LinkError::Refused(why), Some(HostVf { pf, .. }))
            if why.code == ErrorCode::NOT_SUPPORTED =>
        {
            format!(
                "the helper at {} has no VF token ({}), so it does not drive PF {pf} through the \
                 kernel's VFIO; start it with --pf {pf}, correct helper=, or give vf-token=",
                at.helper.display(),
                why.text
            )
        }
        _ => connect_failed(at, error, deadline_ms),
    }
}

/// Advice to what VFIO says when it cannot open the VF, with what separates the two; empty if
/// there is none. `fetched`: the VF token is that of the helper.
pub fn vfio_failed(at: &Vf, text: &str, fetched: bool) -> String {
    let Some(vf) = &at.host else {
        return "; socket= must be the socket of the VF itself (for virtio-pf-sim: vf1.sock for \
                vf=1), not that of its PF or a control socket"
            .to_owned();
    };
    let HostVf { address, pf, .. } = vf;
    let group = vf.group.as_deref().unwrap_or("*");
    let says = |errno| text.contains(&strerror(errno));
    let advice = if text.contains("no iommu_group") || vf.group.is_none() {
        format!(
            "the host has no IOMMU in force for {address}; switch it on in the firmware and on the \
             kernel's command line (intel_iommu=on, or iommu=pt on AMD)"
        )
    } else if says(libc::EACCES) && text.contains("/dev/vfio") {
        format!(
            "user {} needs read and write access to /dev/vfio/{group}; change its owner, or let \
             libvirt do so",
            effective_uid()
        )
    } else if says(libc::EACCES) && fetched {
        format!(
            "the VF token of the helper at {} was not accepted: that helper serves another PF \
             than {pf}; leave helper= out, or correct it",
            at.helper.display()
        )
    } else if says(libc::EACCES) {
        format!(
            "vf-token= is not the token of PF {pf}; leave it out, and the helper gives the right one"
        )
    } else if says(libc::EBUSY) {
        format!("another process uses {address}; `fuser -v /dev/vfio/{group}` names it")
    } else if says(libc::EINVAL) && text.contains("error bind device") {
        // A function that is bound to an iommufd cannot be bound to another.
        format!("another process uses {address}; `fuser -v /dev/vfio/devices/*` names it")
    } else if text.contains("not viable") {
        format!(
            "every function in IOMMU group {group} must be bound to vfio-pci or to no driver; see \
             /sys/kernel/iommu_groups/{group}/devices"
        )
    } else if says(libc::ENOMEM) {
        "the guest's memory is locked for the VF; raise the limit (ulimit -l, or LimitMEMLOCK= of \
         the service) above the guest's memory"
            .to_owned()
    } else if says(libc::ENOENT) && text.contains("/dev/vfio") {
        "VFIO is not loaded; `modprobe vfio-pci`".to_owned()
    } else {
        return String::new();
    };
    format!("; {advice}")
}

/// Whether it is this process, or the machine, that has too many files open.
fn no_files_left(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// How the C library words an error.
fn strerror(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    let words = text.split(" (os error").next();
    words.unwrap_or_default().to_owned()
}

/// How the helper of this VF is started.
fn start(at: &Vf) -> String {
    match &at.host {
        Some(HostVf { pf, .. }) => format!(
            "start `qemu-virtio-admin-helper --pf {pf}`, or `systemctl start \
             qemu-virtio-admin-helper@{pf}`"
        ),
        None => "start qemu-virtio-admin-helper for the PF of this VF".to_owned(),
    }
}

/// What happened, without advice.
pub fn brief(error: &LinkError) -> String {
    match error {
        LinkError::Connect(e) => format!("cannot connect to the helper: {e}"),
        LinkError::Deadline => "the helper did not answer in time".to_owned(),
        LinkError::GivenUp => "the helper was not waited for".to_owned(),
        LinkError::Stopped => "the device is going away".to_owned(),
        LinkError::Closed => "the helper closed the connection".to_owned(),
        LinkError::Socket(e) if e.kind() == io::ErrorKind::InvalidData => {
            "the helper sent a message that is longer than the protocol allows".to_owned()
        }
        LinkError::Socket(e) => format!("the connection to the helper failed: {e}"),
        LinkError::Protocol(reason) => reason.to_string(),
        LinkError::Refused(why) => format!("the helper refused: {why}"),
    }
}

fn cannot_connect(at: &Vf, error: &io::Error) -> String {
    let path = at.helper.display();
    match error.kind() {
        io::ErrorKind::NotFound => format!(
            "the helper's socket {path} does not exist; {}, or correct helper=",
            start(at)
        ),
        io::ErrorKind::PermissionDenied => format!(
            "no permission to use the helper's socket {path} as user {}; start the helper with a \
             fitting --socket-owner, --socket-group or --socket-mode, or add the user to the \
             socket's group",
            effective_uid()
        ),
        io::ErrorKind::ConnectionRefused => {
            format!("nobody listens on {path}; {}", start(at))
        }
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

fn refused(at: &Vf, why: &Refusal) -> String {
    let (path, vf) = (at.helper.display(), at.member);
    let Refusal { code, text, .. } = why;
    let of_host = at.host.is_some();
    let way_out = match *code {
        ErrorCode::UNSUPPORTED_VERSION => {
            return format!(
                "the helper at {path} does not speak version {VERSION} of the protocol ({text}); \
                 use helper and QEMU of the same release"
            )
        }
        ErrorCode::NO_SUCH_VF if of_host => {
            "the helper serves another PF, or has not enabled this VF; correct helper=, or see \
             its --vfs"
        }
        ErrorCode::NO_SUCH_VF => "correct vf=; `virtio-legacy-vf list` shows the VFs",
        ErrorCode::BUSY => "stop the other user of this VF, or choose another VF",
        ErrorCode::WRONG_OWNER => {
            "this VF belongs to another PF; correct helper=, or the VF given to the device"
        }
        ErrorCode::WRONG_TYPE => {
            "the VF given to the device is not the one that vf= names; correct one of them"
        }
        ErrorCode::ACCESS_DENIED => "the helper's policy must allow this user",
        ErrorCode::BAD_PROOF if of_host => "the VFIO device file is not that of this VF",
        ErrorCode::NOT_SUPPORTED if of_host => {
            "without legacy access commands of the PF, or a kernel that tells whose a VFIO device \
             file is, this cannot work"
        }
        ErrorCode::BAD_PROOF => "the helper must be told to trust this user",
        ErrorCode::SHUTTING_DOWN | ErrorCode::PF_FAILED => "restart the helper",
        ErrorCode::TOO_MANY => "the helper has too many clients; raise its limit",
        ErrorCode::NOT_SUPPORTED => "the PF offers no legacy access to its VFs",
        _ => "see the helper's log",
    };
    format!("the helper at {path} refused VF {vf}: {code}: {text}; {way_out}")
}
