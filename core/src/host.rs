//! Hosts of URLs.

use std::net::IpAddr;

/// Whether a URL's host is this machine: what is said to it stays here, and no proxy stands between.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    match address {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => {
            let host = host.trim_end_matches('.').to_ascii_lowercase();
            host == "localhost" || host.ends_with(".localhost")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_from_other_hosts() {
        for host in
            ["127.0.0.1", "127.8.9.1", "[::1]", "::1", "localhost", "LOCALHOST.", "a.localhost", "[::ffff:127.0.0.1]"]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["", "10.0.0.1", "0.0.0.0", "[::]", "localhost.example", "notlocalhost", "127.0.0.1.example"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
