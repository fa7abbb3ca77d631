//! What the host sends, before a library reads it: amounts that models write as JSON numbers become strings by
//! their digits, so that no float ever holds one.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, Stdout, duplex, stdin, stdout};

/// Arguments that are amounts.
const AMOUNTS: [&str; 3] = ["amount", "per_payment", "window_cap"];
/// How much is read ahead of the server.
const BUFFER: usize = 64 * 1024;

/// Stdin and stdout, for a server.
pub(super) fn stdio() -> (DuplexStream, Stdout) {
    let (mut writer, reader) = duplex(BUFFER);
    tokio::spawn(async move {
        let mut lines = BufReader::new(stdin()).lines();
        // Its end, or an error, ends the server's input.
        while let Ok(Some(line)) = lines.next_line().await {
            let line = with_exact_amounts(&line).unwrap_or(line) + "\n";
            if writer.write_all(line.as_bytes()).await.is_err() {
                return;
            }
        }
    });
    (reader, stdout())
}

type Fields = BTreeMap<String, Box<RawValue>>;

/// A call of a tool with its amounts as strings; `None`: it is none, or has none that are numbers.
fn with_exact_amounts(line: &str) -> Option<String> {
    let mut message: Fields = serde_json::from_str(line).ok()?;
    let mut params: Fields = serde_json::from_str(message.get("params")?.get()).ok()?;
    let mut arguments: Fields = serde_json::from_str(params.get("arguments")?.get()).ok()?;
    let mut changed = false;
    for name in AMOUNTS {
        let Some(value) = arguments.get_mut(name) else { continue };
        let text = value.get();
        if text.starts_with(|first: char| first.is_ascii_digit() || first == '-') {
            *value = serde_json::value::to_raw_value(text).ok()?;
            changed = true;
        }
    }
    if !changed {
        return None;
    }
    params.insert("arguments".into(), serde_json::value::to_raw_value(&arguments).ok()?);
    message.insert("params".into(), serde_json::value::to_raw_value(&params).ok()?);
    serde_json::to_string(&message).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn call(arguments: &str) -> String {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"payment_execute","arguments":{arguments}}}}}"#
        )
    }

    #[test]
    fn amounts_keep_the_digits_that_they_were_written_with() {
        for written in ["100.00", "9007199254740.993001", "1e2", "-1", "0.1000000"] {
            let line =
                with_exact_amounts(&call(&format!(r#"{{"amount":{written},"payee":"0x00","count":1.50}}"#))).unwrap();
            let message: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(message["params"]["arguments"]["amount"], written);
            assert_eq!((&message["id"], &message["params"]["name"]), (&json!(1), &json!("payment_execute")));
            assert!(line.contains("1.50"), "{line}");
        }
    }

    #[test]
    fn what_has_no_numbers_for_amounts_is_left_as_it_is() {
        for line in [&call(r#"{"amount":"4.20"}"#), &call("{}"), "", "[]", "nonsense", r#"{"method":"ping"}"#] {
            assert_eq!(with_exact_amounts(line), None, "{line}");
        }
    }
}
