//! HTTP/1.1 at its barest: bytes that were built before, one request at a time on a connection that is kept.
//! What a full client does beside would be measured with the server.

use std::net::SocketAddr;

use eyre::{OptionExt, Result, WrapErr, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// What an answer may hold at most, in bytes.
const ANSWER_MAX: usize = 16 << 20;

/// A POST of JSON, ready to be written.
pub(crate) fn post(address: SocketAddr, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let length = body.len().to_string();
    let json = [("content-type", "application/json"), ("content-length", &length)];
    let head = head("POST", address, path, &[&json, headers].concat());
    [head.as_bytes(), body].concat()
}

/// A GET, ready to be written.
pub(crate) fn get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    head("GET", address, path, headers).into()
}

fn head(method: &str, address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> String {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\n{headers}\r\n")
}

/// A connection that is kept.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// A whole answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.wrap_err("can't connect")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4_096) })
    }

    /// Sends a request, and reads its answer to the end.
    ///
    /// # Errors
    /// If the connection breaks, or what comes is not one answer with a length.
    pub(crate) async fn call(&mut self, request: &[u8]) -> Result<Answer<'_>> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the connection was closed");
            let Some(head) = Head::read(&self.buffer)? else { continue };
            let whole = head.length + head.body;
            while self.buffer.len() < whole {
                ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "an answer was cut off");
            }
            ensure!(self.buffer.len() == whole, "more came than one answer");
            let body = self.buffer.get(head.length..).unwrap_or_default();
            return Ok(Answer { status: head.status, body });
        }
    }
}

/// The head of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// Its bytes, and those of the body.
    length: usize,
    body: usize,
}

impl Head {
    /// `None` if it is not whole yet.
    fn read(bytes: &[u8]) -> Result<Option<Self>> {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
        let text = std::str::from_utf8(bytes.get(..end).unwrap_or_default())?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
        let mut fields = lines.filter_map(|line| line.split_once(':'));
        let body = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let body: usize =
            body.and_then(|(_, value)| value.trim().parse().ok()).ok_or_eyre("an answer without length")?;
        ensure!(body <= ANSWER_MAX, "an answer of {body} bytes");
        Ok(Some(Self { status: status.ok_or_eyre("an answer without status")?, length: end + 4, body }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_a_status_and_a_length() {
        let bytes = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\ndate: now\r\n\r\n{}";
        assert_eq!(Head::read(bytes).unwrap(), Some(Head { status: 202, length: 55, body: 2 }));
        for cut in 0..54 {
            assert_eq!(Head::read(&bytes[..cut]).unwrap(), None, "{cut}");
        }
        assert!(Head::read(b"HTTP/1.1 202 Accepted\r\n\r\n").is_err());
        assert!(Head::read(b"SMTP 202\r\ncontent-length: 0\r\n\r\n").is_err());
    }

    #[test]
    fn a_request_is_whole() {
        let address = ([127, 0, 0, 1], 80).into();
        let request = post(address, "/v1/payments", &[("x-a", "b")], b"{}");
        let expected = "POST /v1/payments HTTP/1.1\r\nhost: 127.0.0.1:80\r\ncontent-type: application/json\r\n\
                        content-length: 2\r\nx-a: b\r\n\r\n{}";
        assert_eq!(get(address, "/readyz", &[]), b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1:80\r\n\r\n");
        assert_eq!(request, expected.as_bytes());
    }
}
