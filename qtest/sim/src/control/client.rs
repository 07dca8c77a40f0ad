// SPDX-License-Identifier: GPL-2.0-or-later
//! `virtio-pf-sim ctl`: one command to a running simulator.

use serde_json::{Map, Value};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long a reply may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Makes a request from words: a JSON object as it is, or a command name and `name=value` pairs,
/// whose values are JSON or else strings.
///
/// # Errors
/// Text that says which word is wrong.
pub fn request(words: &[String]) -> Result<Value, String> {
    let (first, rest) = words.split_first().ok_or("no command given")?;
    if first.starts_with('{') {
        if !rest.is_empty() {
            return Err("nothing may follow a JSON object".to_owned());
        }
        return serde_json::from_str(first).map_err(|e| format!("not JSON: {e}"));
    }
    let mut map = Map::new();
    map.insert("cmd".to_owned(), first.as_str().into());
    for word in rest {
        let Some((name, value)) = word.split_once('=') else {
            return Err(format!("{word:?} is not of the form name=value"));
        };
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        map.insert(name.to_owned(), value);
    }
    Ok(Value::Object(map))
}

/// Sends a request to the simulator of `dir` and returns its reply.
///
/// # Errors
/// Text with the cause.
pub fn exchange(dir: &Path, request: &Value) -> Result<Value, String> {
    let path = dir.join("ctl.sock");
    let shown = path.display();
    let mut socket = UnixStream::connect(&path)
        .map_err(|e| format!("cannot connect to {shown}: {e} (is the simulator running?)"))?;
    let io = |e: std::io::Error| format!("{shown}: {e}");
    socket.set_read_timeout(Some(TIMEOUT)).map_err(io)?;
    socket.set_write_timeout(Some(TIMEOUT)).map_err(io)?;
    socket
        .write_all(format!("{request}\n").as_bytes())
        .map_err(io)?;
    let mut line = String::new();
    BufReader::new(socket).read_line(&mut line).map_err(io)?;
    serde_json::from_str(&line).map_err(|e| format!("{shown}: reply is not JSON: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words_become_requests() {
        let words = |text: &str| -> Vec<String> { text.split(' ').map(Into::into).collect() };
        let want = json!({ "cmd": "link", "vf": 1, "up": false });
        assert_eq!(request(&words("link vf=1 up=false")), Ok(want));
        let want = json!({ "cmd": "fault-add", "rule": "opcode=2 do=delay" });
        assert_eq!(
            request(&["fault-add".into(), "rule=opcode=2 do=delay".into()]),
            Ok(want)
        );
        assert_eq!(request(&words(r#"{"cmd":"x"}"#)), Ok(json!({ "cmd": "x" })));
        assert!(request(&words("link vf")).is_err());
        assert!(request(&[]).is_err());
    }
}
