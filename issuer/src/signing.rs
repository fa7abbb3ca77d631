//! Standard Webhooks signatures, which Lithic puts on events and on the real-time question alike,
//! and the addresses that they may go to.

use std::{net::IpAddr, time::Duration};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use standardwebhooks::{HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP, Webhook};
use url::{Host, Url};

use crate::time::Time;

/// How long an old secret keeps signing beside the new one.
pub(crate) const OVERLAP: Duration = Duration::from_secs(24 * 3_600);

/// The secrets that sign for one receiver: the current one and, for a day, the one before it.
#[derive(Clone, Debug)]
pub(crate) struct SigningSecrets {
    pub(crate) current: SecretString,
    pub(crate) old: Option<SecretString>,
}

/// A secret can't sign.
#[derive(Debug, thiserror::Error)]
#[error("a webhook secret is not whsec_ and base64")]
pub(crate) struct SecretError;

/// A new secret: 24 bytes that nobody can guess.
pub(crate) fn new_secret() -> Result<SecretString, getrandom::Error> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut secret = String::from("whsec_");
    let mut random = [0; 32];
    getrandom::fill(&mut random)?;
    // 32 digits of six bits each, which is 24 bytes without padding.
    secret.extend(random.iter().filter_map(|byte| DIGITS.get(usize::from(byte % 64))).map(|digit| char::from(*digit)));
    Ok(secret.into())
}

/// The three headers. `corrupt` makes the signature wrong.
pub(crate) fn headers(
    secrets: &SigningSecrets,
    id: &str,
    at: Time,
    body: &str,
    corrupt: bool,
) -> Result<HeaderMap, SecretError> {
    let signed = if corrupt { "something else" } else { body };
    let mut signatures = Vec::new();
    for secret in std::iter::once(&secrets.current).chain(&secrets.old) {
        let webhook = Webhook::new(secret.expose_secret()).map_err(|_| SecretError)?;
        signatures.push(webhook.sign(id, at.unix_seconds(), signed.as_bytes()).map_err(|_| SecretError)?);
    }
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (HEADER_WEBHOOK_ID, id.to_owned()),
        (HEADER_WEBHOOK_TIMESTAMP, at.unix_seconds().to_string()),
        (HEADER_WEBHOOK_SIGNATURE, signatures.join(" ")),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::try_from(value).map_err(|_| SecretError)?);
    }
    Ok(headers)
}

/// This address is not one to call.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("url must be https://…, or http://… on this machine (localhost, 127.0.0.1, [::1]), without user and password")]
pub(crate) struct TargetError;

/// Where events and questions may go: somewhere encrypted, or this machine.
pub(crate) fn target(text: &str) -> Result<Url, TargetError> {
    let url = Url::parse(text).map_err(|_| TargetError)?;
    let local = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => return Err(TargetError),
    };
    let allowed = url.scheme() == "https" || url.scheme() == "http" && local;
    let anonymous = url.username().is_empty() && url.password().is_none();
    if allowed && anonymous { Ok(url) } else { Err(TargetError) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn the_vector_of_the_specification_is_met() {
        let secrets = SigningSecrets { current: SECRET.into(), old: None };
        let (id, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", r#"{"test": 2432232314}"#);
        let headers = headers(&secrets, id, Time(1_614_265_330_000_000), body, false).unwrap();
        assert_eq!(headers["webhook-id"], id);
        assert_eq!(headers["webhook-timestamp"], "1614265330");
        assert_eq!(headers["webhook-signature"], "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_new_secret_signs_and_an_old_one_beside_it() {
        let (new, old) = (new_secret().unwrap(), new_secret().unwrap());
        assert_ne!(new.expose_secret(), old.expose_secret());
        let now = Time::now();
        let both = SigningSecrets { current: new.clone(), old: Some(old.clone()) };
        let sent = headers(&both, "msg_1", now, "{}", false).unwrap();
        let wrong = headers(&both, "msg_1", now, "{}", true).unwrap();
        for secret in [new, old] {
            let receiver = Webhook::new(secret.expose_secret()).unwrap();
            assert!(receiver.verify(b"{}", &sent).is_ok());
            assert!(receiver.verify(b"{}", &wrong).is_err());
        }
        assert!(!format!("{both:?}").contains("whsec_"));
    }

    #[test]
    fn targets_are_encrypted_or_local() {
        for good in
            ["https://relayer.example/hooks", "http://127.0.0.1:8420/x", "http://localhost:1", "http://[::1]:80/"]
        {
            assert!(target(good).is_ok(), "{good}");
        }
        for bad in [
            "http://relayer.example/",
            "http://10.0.0.1/",
            "http://169.254.169.254/latest",
            "http://localhost.example/",
            "http://[::ffff:10.0.0.1]/",
            "https://user:pass@relayer.example/",
            "http://127.0.0.1@relayer.example/",
            "file:///etc/passwd",
            "ftp://127.0.0.1/",
            "not a url",
            "",
        ] {
            assert!(target(bad).is_err(), "{bad}");
        }
        assert!(target("http://2130706433/").is_ok(), "127.0.0.1 as one number is still this machine");
    }
}
