// SPDX-License-Identifier: GPL-2.0-or-later
//! Answers to QUERY as JSON. Each fits the message; lists that could grow are cut, and say so.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use legacy_vf_proto::{ErrorCode, QueryKind};
use serde::Serialize;
use virtio_modern_spec::admin::{list::OpcodeSet, opcode, qualifier, status};
use virtio_pci_spec::DeviceType;
use virtio_pf::{NotifyAddress, NotifyKind, VfInfo};

use crate::backend::AccessBackend;
use crate::counters::AccessCounters;
use crate::histogram::Histogram;
use crate::hub::{Hub, Stage};
use crate::metrics;
use crate::registry::Owner;

/// Owned VFs that the answer about the helper lists.
const MAX_LISTED: usize = 256;
/// Device statuses that an answer lists.
const MAX_STATUSES: usize = 16;

#[derive(Serialize)]
struct HelperAnswer<'a> {
    helper: HelperPart<'a>,
    pf: PfPart<'a>,
    vfs: VfsPart,
}

#[derive(Serialize)]
struct HelperPart<'a> {
    version: &'static str,
    pid: i32,
    uid: u32,
    uptime_s: u64,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<&'a str>,
    connections: usize,
    in_flight: usize,
}

#[derive(Serialize)]
struct PfPart<'a> {
    id: String,
    transport: &'a str,
    state: &'static str,
    vendor_id: u16,
    device_id: u16,
    vf_device_id: u16,
    virtio_id: u16,
    #[serde(rename = "type")]
    kind: &'static str,
    serial: String,
    features: String,
    admin_queue: QueuePart,
    commands: Vec<String>,
    access_deadline_ms: u64,
    session: String,
}

#[derive(Serialize)]
struct QueuePart {
    /// Of the first.
    index: u16,
    /// In use.
    queues: u16,
    size: u16,
}

#[derive(Serialize)]
struct VfsPart {
    enabled: u16,
    open: usize,
    members: Vec<u16>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
    /// How many do not answer.
    not_responding: usize,
}

#[derive(Serialize)]
struct VfAnswer {
    member: u16,
    virtio_id: u16,
    #[serde(rename = "type")]
    kind: &'static str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<OwnerPart>,
    notify: NotifyPart,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_responding: Option<NotRespondingPart>,
}

#[derive(Serialize)]
struct NotRespondingPart {
    since_s: u64,
    retries: u32,
    next_trial_s: u64,
}

#[derive(Serialize)]
struct OwnerPart {
    pid: i32,
    uid: u32,
    gid: u32,
    name: String,
    since_s: u64,
    requests: u64,
    errors: u64,
}

#[derive(Serialize)]
struct NotifyPart {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    bar: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
}

#[derive(Serialize)]
struct CountersAnswer {
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<u16>,
    accesses: AccessPart,
    #[serde(skip_serializing_if = "Option::is_none")]
    helper: Option<HelperCounters>,
}

#[derive(Serialize)]
struct AccessPart {
    common_read: u64,
    common_write: u64,
    device_read: u64,
    device_write: u64,
    notifications: u64,
    notify_commands: u64,
    failed: u64,
    timed_out: u64,
    latency_us: LatencyPart,
}

#[derive(Serialize)]
struct LatencyPart {
    count: u64,
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

#[derive(Serialize)]
struct HelperCounters {
    connections: u64,
    surplus: u64,
    displaced: u64,
    slow: u64,
    evicted: u64,
    bad_messages: u64,
    unwanted_files: u64,
    opens: u64,
    orphans: u64,
    pf_resets: u64,
    log_lines_left_out: u64,
    requests: BTreeMap<&'static str, u64>,
    errors: BTreeMap<&'static str, u64>,
    device: Vec<StatusPart>,
    device_others: u64,
    pf: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct StatusPart {
    status: u16,
    status_name: &'static str,
    qualifier: u16,
    qualifier_name: &'static str,
    count: u64,
}

fn micros(d: Duration) -> f64 {
    (d.as_secs_f64() * 1e7).round() / 10.0
}

fn latency(h: &Histogram) -> LatencyPart {
    LatencyPart {
        count: h.total(),
        p50: micros(h.quantile(500)),
        p90: micros(h.quantile(900)),
        p99: micros(h.quantile(990)),
        max: micros(h.max()),
    }
}

fn accesses(c: &AccessCounters) -> AccessPart {
    AccessPart {
        common_read: c.common_read,
        common_write: c.common_write,
        device_read: c.device_read,
        device_write: c.device_write,
        notifications: c.notifications,
        notify_commands: c.notify_commands,
        failed: c.failed,
        timed_out: c.timed_out,
        latency_us: latency(&c.latency),
    }
}

fn type_name(virtio_id: u16) -> &'static str {
    DeviceType::from_virtio_id(virtio_id).map_or("other", DeviceType::name)
}

/// The names of the opcodes of a set.
fn command_names(commands: OpcodeSet) -> Vec<String> {
    commands
        .iter()
        .map(|o| match opcode::name(o) {
            "unknown" => format!("{o:#x}"),
            name => name.to_owned(),
        })
        .collect()
}

fn notify(vf: &VfInfo) -> NotifyPart {
    let address: Option<NotifyAddress> = vf.notify;
    NotifyPart {
        kind: match address.map(|a| a.kind) {
            None if !vf.asked => "unknown",
            None => "none",
            Some(NotifyKind::Owner) => "owner",
            Some(NotifyKind::Member) => "member",
        },
        bar: address.map(|a| a.bar),
        offset: address.map(|a| a.offset),
    }
}

fn helper<B: AccessBackend>(hub: &Hub<B>, now: Instant) -> HelperAnswer<'_> {
    let (info, served) = (hub.backend().info(), hub.backend().served());
    let (state, failure) = match hub.stage() {
        Stage::Serving => ("serving", None),
        Stage::Draining(_) => ("shutting-down", None),
        Stage::Failed(cause) => ("failed", Some(cause.as_str())),
    };
    let me = crate::Peer::myself();
    let open: Vec<u16> = hub.registry().owned().collect();
    HelperAnswer {
        helper: HelperPart {
            version: env!("CARGO_PKG_VERSION"),
            pid: me.pid,
            uid: me.uid,
            uptime_s: now.saturating_duration_since(hub.started()).as_secs(),
            state,
            failure: failure.map(|f| prefix(f, 200)),
            connections: hub.connected(),
            in_flight: hub.in_flight(),
        },
        pf: PfPart {
            id: prefix(&info.id, 200).to_owned(),
            transport: served.transport,
            state: hub.backend().state().name(),
            vendor_id: info.vendor_id,
            device_id: info.device_id,
            vf_device_id: info.vf_device_id,
            virtio_id: info.vf_virtio_id(),
            kind: type_name(info.vf_virtio_id()),
            serial: format!("{:016x}", info.serial),
            features: format!("{:#x}", info.features),
            admin_queue: QueuePart {
                index: info.admin_queue_index,
                queues: info.admin_queues,
                size: info.admin_queue_size,
            },
            commands: command_names(info.commands),
            access_deadline_ms: u64::try_from(info.command_timeout.as_millis()).unwrap_or(u64::MAX),
            session: format!("{:016x}", hub.backend().session()),
        },
        vfs: VfsPart {
            enabled: info.num_vfs,
            open: open.len(),
            cut: open.len() > MAX_LISTED,
            members: open.into_iter().take(MAX_LISTED).collect(),
            not_responding: (1..=info.num_vfs)
                .filter(|member| hub.backend().not_responding(*member).is_some())
                .count(),
        },
    }
}

fn vf<B: AccessBackend>(hub: &Hub<B>, vf: &VfInfo, now: Instant) -> VfAnswer {
    let owner = hub.registry().owner(vf.member);
    let virtio_id = hub.backend().info().vf_virtio_id();
    VfAnswer {
        member: vf.member,
        virtio_id,
        kind: type_name(virtio_id),
        state: if owner.is_some() { "open" } else { "free" },
        owner: owner.map(|o| owner_part(hub, o, now)),
        notify: notify(vf),
        not_responding: hub
            .backend()
            .not_responding(vf.member)
            .map(|n| NotRespondingPart {
                since_s: now.saturating_duration_since(n.since).as_secs(),
                retries: n.retries,
                next_trial_s: n.next_trial.saturating_duration_since(now).as_secs(),
            }),
    }
}

fn owner_part<B: AccessBackend>(hub: &Hub<B>, owner: &Owner, now: Instant) -> OwnerPart {
    let counters = hub
        .session(owner.session)
        .map_or_else(Default::default, |s| *s.counters());
    OwnerPart {
        pid: owner.peer.pid,
        uid: owner.peer.uid,
        gid: owner.peer.gid,
        name: owner.name.to_string(),
        since_s: now.saturating_duration_since(owner.since).as_secs(),
        requests: counters.requests,
        errors: counters.errors,
    }
}

fn counters<B: AccessBackend>(hub: &Hub<B>) -> CountersAnswer {
    let c = hub.counters();
    let nonzero = |(_, count): &(&'static str, u64)| *count != 0;
    CountersAnswer {
        member: None,
        accesses: accesses(&c.accesses),
        helper: Some(HelperCounters {
            connections: c.connections,
            surplus: c.surplus,
            displaced: c.displaced,
            slow: c.slow,
            evicted: c.evicted,
            bad_messages: c.bad_messages,
            unwanted_files: c.unwanted_files,
            opens: c.opens,
            orphans: c.orphans,
            pf_resets: c.pf_resets,
            log_lines_left_out: hub.lines_left_out(),
            requests: c.requests().filter(nonzero).collect(),
            errors: c
                .errors()
                .filter(|(name, count)| *count != 0 && *name != "OK")
                .collect(),
            device: c
                .device
                .iter()
                .take(MAX_STATUSES)
                .map(|(s, q, count)| StatusPart {
                    status: s,
                    status_name: status::name(s),
                    qualifier: q,
                    qualifier_name: qualifier::name(q),
                    count,
                })
                .collect(),
            device_others: c.device.others()
                + c.device.iter().skip(MAX_STATUSES).map(|d| d.2).sum::<u64>(),
            pf: hub.backend().counters().named().take(40).collect(),
        }),
    }
}

fn prefix(text: &str, max: usize) -> &str {
    let end = (0..=text.len().min(max))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    end.and_then(|end| text.get(..end)).unwrap_or("")
}

/// The answer to a QUERY, at most `max` bytes of JSON.
///
/// # Errors
/// Code and text for the client.
pub fn answer<B: AccessBackend>(
    hub: &Hub<B>,
    what: QueryKind,
    member: u16,
    max: usize,
    now: Instant,
) -> Result<String, (ErrorCode, String)> {
    let no_such_vf = || {
        let info = hub.backend().info();
        let text = format!(
            "PF {} has VFs 1 to {}, no VF {member}",
            info.id, info.num_vfs
        );
        (ErrorCode::NO_SUCH_VF, text)
    };
    let json = match (what, member) {
        (QueryKind::HELPER, _) => serde_json::to_string(&helper(hub, now)),
        (QueryKind::VF, _) => {
            let found = hub.backend().vf(member).ok_or_else(no_such_vf)?;
            serde_json::to_string(&vf(hub, found, now))
        }
        (QueryKind::COUNTERS, 0) => serde_json::to_string(&counters(hub)),
        (QueryKind::COUNTERS, _) => serde_json::to_string(&CountersAnswer {
            member: Some(member),
            accesses: accesses(hub.counters().vf(member).ok_or_else(no_such_vf)?),
            helper: None,
        }),
        (QueryKind::METRICS, _) => {
            let first = member.max(1);
            hub.backend().vf(first).ok_or_else(no_such_vf)?;
            let small = || {
                let text = format!("No VF fits into {max} bytes; connect with a larger max_message");
                (ErrorCode::OUT_OF_RANGE, text)
            };
            return metrics::page(hub, first, max).ok_or_else(small);
        }
        (QueryKind(other), _) => {
            return Err((
                ErrorCode::NOT_SUPPORTED,
                format!("Unknown question {other}; known are 0 (helper), 1 (one VF), 2 (counters), 3 (metrics)"),
            ))
        }
    };
    let json = json.map_err(|e| (ErrorCode::NOT_SUPPORTED, format!("No answer: {e}")))?;
    if json.len() > max {
        return Err((
            ErrorCode::OUT_OF_RANGE,
            format!(
                "The answer has {} bytes, the client takes {max}; connect with a larger \
                 max_message",
                json.len()
            ),
        ));
    }
    Ok(json)
}
