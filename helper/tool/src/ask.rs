// SPDX-License-Identifier: GPL-2.0-or-later
//! Questions to a serving helper: the connection, `list` and `show`.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use helper_cli::{exit, Failure};
use legacy_vf_proto::client::{Client, Received, SendError};
use legacy_vf_proto::{ErrorReply, Name, Printable, QueryKind, Reply, Request, MAX_MESSAGE};
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_timeout, Timeout};
use rustix::net::{
    connect, recv, send, socket_with, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use serde_json::{json, Value};

use crate::args::{AskArgs, ListArgs};
use crate::table::{age, number, print, print_json, table, text};

/// Time for a helper to answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// A connection that asks questions.
pub(crate) struct Asker {
    socket: OwnedFd,
    path: PathBuf,
    client: Client,
}

impl Asker {
    /// Connects and says HELLO.
    ///
    /// # Errors
    /// With a text that says what to do.
    pub(crate) fn connect(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let fail = |e: Errno| {
            let hint = match e {
                Errno::NOENT => ": no helper serves there (is it running? see \"list\")",
                Errno::CONNREFUSED => ": its helper has gone without removing it",
                Errno::ACCESS | Errno::PERM => {
                    ": no permission; become a member of the socket's group or root"
                }
                Errno::PROTOTYPE => ": not a helper's socket",
                Errno::AGAIN => ": its helper does not take connections",
                _ => "",
            };
            Failure::text(exit::SOCKET, format!("{shown}: {}{hint}", os_text(e)))
        };
        let address = SocketAddrUnix::new(path).map_err(fail)?;
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(fail)?;
        for which in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&socket, which, Some(TIMEOUT)).map_err(fail)?;
        }
        connect(&socket, &address).map_err(fail)?;
        let mut asker = Asker {
            socket,
            path: path.to_owned(),
            client: Client::new(Name::new("virtio-legacy-vf"), 0),
        };
        let mut buf = [0; MAX_MESSAGE];
        let len = asker.client.request(&asker.client.hello(), &mut buf);
        let len = len.map_err(|e| asker.bad(&e))?;
        asker.exchange(buf.get(..len).unwrap_or(&[]))?;
        Ok(asker)
    }

    fn bad(&self, why: &dyn std::fmt::Display) -> Failure {
        Failure::text(exit::SOCKET, format!("{}: {why}", self.path.display()))
    }

    /// Sends a request and waits for its answer: the JSON of a QUERY, or nothing.
    fn exchange(&mut self, message: &[u8]) -> Result<Option<String>, Failure> {
        send(&self.socket, message, SendFlags::NOSIGNAL).map_err(|e| self.bad(&os_text(e)))?;
        let mut buf = [0; MAX_MESSAGE];
        loop {
            let len = match recv(&self.socket, &mut buf[..], RecvFlags::empty()) {
                Ok((_, len)) => len,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    return Err(self.bad(&format_args!("no answer within {TIMEOUT:?}")))
                }
                Err(e) => return Err(self.bad(&os_text(e))),
            };
            let path = self.path.display().to_string();
            let bad =
                |why: &dyn std::fmt::Display| Failure::text(exit::SOCKET, format!("{path}: {why}"));
            match self.client.receive(buf.get(..len).unwrap_or(&[])) {
                Received::Reply(reply) => {
                    return match reply {
                        Reply::Query { json } => Ok(Some(json.to_owned())),
                        Reply::Error(ErrorReply { code, text, .. }) => Err(Failure::text(
                            exit::RUNTIME,
                            format!("The helper answered {code}: {}", Printable(text)),
                        )),
                        _ => Ok(None),
                    }
                }
                Received::Lost(reason) => return Err(bad(&reason)),
                Received::Event(_) | Received::Stale => {}
            }
        }
    }

    /// Asks a question.
    ///
    /// # Errors
    /// If there is no answer, or it is an error, or not JSON.
    pub(crate) fn query(&mut self, what: QueryKind, member: u16) -> Result<Value, Failure> {
        let mut buf = [0; MAX_MESSAGE];
        let request = Request::Query { what, member };
        let len = self
            .client
            .request(&request, &mut buf)
            .map_err(|e: SendError| self.bad(&e))?;
        let json = self.exchange(buf.get(..len).unwrap_or(&[]))?;
        serde_json::from_str(&json.unwrap_or_default())
            .map_err(|e| self.bad(&format_args!("the answer is not JSON: {e}")))
    }
}

fn os_text(e: Errno) -> String {
    std::io::Error::from(e).to_string()
}

/// `list`.
///
/// # Errors
/// If the directory cannot be read; a helper that does not answer is a row of the table.
pub(crate) fn list(args: &ListArgs) -> Result<(), Failure> {
    let dir = args.dir.display();
    let entries = std::fs::read_dir(&args.dir)
        .map_err(|e| Failure::text(exit::SOCKET, format!("Directory {dir}: {e}")))?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "sock"))
        .collect();
    paths.sort();
    let mut rows = vec![heading(&[
        "SOCKET", "PF", "TYPE", "VFS", "OPEN", "STATE", "PID", "UP",
    ])];
    let mut all = Vec::new();
    for path in paths {
        let shown = path.display().to_string();
        let answer = Asker::connect(&path).and_then(|mut a| a.query(QueryKind::HELPER, 0));
        match answer {
            Ok(v) => {
                rows.push(vec![
                    shown.clone(),
                    text(&v, "/pf/id"),
                    text(&v, "/pf/type"),
                    text(&v, "/vfs/enabled"),
                    text(&v, "/vfs/open"),
                    text(&v, "/helper/state"),
                    text(&v, "/helper/pid"),
                    age(number(&v, "/helper/uptime_s")),
                ]);
                all.push(json!({"socket": shown, "answer": v}));
            }
            Err(e) => {
                let mut row = heading(&["", "-", "-", "-", "-", "unreachable", "-", "-"]);
                if let Some(first) = row.first_mut() {
                    first.clone_from(&shown);
                }
                rows.push(row);
                all.push(json!({"socket": shown, "error": e.to_string()}));
            }
        }
    }
    if args.output.json {
        print_json(&Value::Array(all));
    } else if rows.len() == 1 {
        print(&format!("No helper serves in {dir}.\n"));
    } else {
        print(&table(&rows));
    }
    Ok(())
}

fn heading(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|c| (*c).to_owned()).collect()
}

/// `show`.
///
/// # Errors
/// If the helper does not answer.
pub(crate) fn show(args: &AskArgs) -> Result<(), Failure> {
    let mut asker = Asker::connect(&args.socket)?;
    let mut helper = asker.query(QueryKind::HELPER, 0)?;
    let last = u16::try_from(number(&helper, "/vfs/enabled")).unwrap_or(u16::MAX);
    let members = match args.vf {
        Some(vf) => vf..=vf,
        None => 1..=last,
    };
    let mut vfs = Vec::new();
    for member in members {
        vfs.push(asker.query(QueryKind::VF, member)?);
    }
    if args.output.json {
        if let Some(o) = helper.as_object_mut() {
            o.insert("vfs".into(), Value::Array(vfs));
        }
        print_json(&helper);
        return Ok(());
    }
    if args.vf.is_none() {
        print(&helper_text(&helper));
    }
    let mut rows = vec![heading(&[
        "VF", "STATE", "PID", "UID", "CLIENT", "SINCE", "REQUESTS", "ERRORS", "NOTIFY",
    ])];
    rows.extend(vfs.iter().map(vf_row));
    print(&table(&rows));
    Ok(())
}

fn helper_text(v: &Value) -> String {
    let hex = |pointer| format!("{:04x}", number(v, pointer));
    let mut rows = vec![
        ("PF", text(v, "/pf/id")),
        (
            "State",
            format!(
                "{} (helper {})",
                text(v, "/pf/state"),
                text(v, "/helper/state")
            ),
        ),
        (
            "Device",
            format!(
                "{}:{} {}, serial number {}",
                hex("/pf/vendor_id"),
                hex("/pf/device_id"),
                text(v, "/pf/type"),
                text(v, "/pf/serial")
            ),
        ),
        ("Transport", text(v, "/pf/transport")),
        (
            "Admin queue",
            format!(
                "index {}, {} entries",
                text(v, "/pf/admin_queue/index"),
                text(v, "/pf/admin_queue/size")
            ),
        ),
        ("Commands", text(v, "/pf/commands")),
        ("Features", text(v, "/pf/features")),
        (
            "Access deadline",
            format!("{} ms", text(v, "/pf/access_deadline_ms")),
        ),
        (
            "Helper",
            format!(
                "version {}, pid {}, uid {}, up {}",
                text(v, "/helper/version"),
                text(v, "/helper/pid"),
                text(v, "/helper/uid"),
                age(number(v, "/helper/uptime_s"))
            ),
        ),
        (
            "VFs",
            format!(
                "{} enabled, {} open, {} connections",
                text(v, "/vfs/enabled"),
                text(v, "/vfs/open"),
                text(v, "/helper/connections")
            ),
        ),
    ];
    if v.pointer("/helper/failure").is_some() {
        rows.push(("Failure", text(v, "/helper/failure")));
    }
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|(name, value)| vec![format!("{name}:"), value])
        .collect();
    format!("{}\n", table(&rows))
}

fn vf_row(v: &Value) -> Vec<String> {
    let notify = match text(v, "/notify/kind").as_str() {
        "none" => "by command".into(),
        // The device is asked when the VF is opened.
        "unknown" => "-".into(),
        kind => format!(
            "{kind} BAR{}+{:#x}",
            number(v, "/notify/bar"),
            number(v, "/notify/offset")
        ),
    };
    let since = v
        .pointer("/owner/since_s")
        .and_then(Value::as_u64)
        .map_or_else(|| "-".into(), age);
    let state = match v.pointer("/not_responding") {
        None => text(v, "/state"),
        Some(_) => format!(
            "{}, not responding for {}, {} retries",
            text(v, "/state"),
            age(number(v, "/not_responding/since_s")),
            text(v, "/not_responding/retries")
        ),
    };
    vec![
        text(v, "/member"),
        state,
        text(v, "/owner/pid"),
        text(v, "/owner/uid"),
        text(v, "/owner/name"),
        since,
        text(v, "/owner/requests"),
        text(v, "/owner/errors"),
        notify,
    ]
}
