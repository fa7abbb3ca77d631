//! Standard Webhooks: the signature over an issuer's call, checked on the raw bytes.

use std::{fmt, sync::Arc};

use standardwebhooks::Webhook;
use stipend_core::Seconds;
use subtle::ConstantTimeEq;

/// How old, or how far ahead, a call may be.
const TOLERANCE: Seconds = 300;

/// The secret that an issuer signs its calls with.
#[derive(Clone)]
pub struct SigningSecret(Arc<Webhook>);

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(****)")
    }
}

/// Why a call is not the issuer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// A header is missing or malformed.
    #[error("the headers webhook-id, webhook-timestamp and webhook-signature are needed")]
    Headers,
    /// Too old, or from the future.
    #[error("the call is more than {TOLERANCE} s old or ahead")]
    Stale,
    /// Signed with another key, or altered.
    #[error("no signature of the call is right")]
    Wrong,
}

/// The headers of a signed call, as they came; empty where there is none.
#[derive(Clone, Debug)]
pub struct SignatureHeaders {
    /// `webhook-id`.
    pub id: String,
    /// `webhook-timestamp`.
    pub timestamp: String,
    /// `webhook-signature`.
    pub signatures: String,
}

impl SigningSecret {
    /// From `whsec_` and base64. `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        // The library would take the base64 alone, and an empty key.
        if text.strip_prefix("whsec_").is_none_or(str::is_empty) {
            return None;
        }
        Webhook::new(text).ok().map(Arc::new).map(Self)
    }

    /// Checks what a call's headers and the bytes of its body say against each other.
    pub fn check(&self, headers: &SignatureHeaders, body: &[u8], now: Seconds) -> Result<(), SignatureError> {
        let SignatureHeaders { id, timestamp, signatures } = headers;
        let time: i64 = timestamp.parse().map_err(|_| SignatureError::Headers)?;
        // As it was signed, and not as it could be written too.
        if id.is_empty() || id.len() > 255 || time.to_string() != *timestamp {
            return Err(SignatureError::Headers);
        }
        if u64::try_from(time).map_or(true, |time| time.abs_diff(now) > TOLERANCE) {
            return Err(SignatureError::Stale);
        }
        let expected = self.0.sign(id, time, body).map_err(|_| SignatureError::Wrong)?;
        // Several while a secret is rotated; other versions than v1 are not ours to judge.
        let right = signatures.split(' ').any(|given| given.as_bytes().ct_eq(expected.as_bytes()).into());
        if right { Ok(()) } else { Err(SignatureError::Wrong) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector of the specification.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIME: Seconds = 1_614_265_330;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;

    fn check(id: &str, signatures: &str, body: &[u8], now: Seconds) -> Result<(), SignatureError> {
        let headers = SignatureHeaders { id: id.into(), timestamp: TIME.to_string(), signatures: signatures.into() };
        SigningSecret::parse(SECRET).unwrap().check(&headers, body, now)
    }

    #[test]
    fn the_specification_vector_passes_and_variants_fail() {
        assert_eq!(check(ID, SIGNATURE, BODY, TIME), Ok(()));
        assert_eq!(check(ID, &format!("v1,AAAA v2,x {SIGNATURE}"), BODY, TIME + 300), Ok(()));
        assert_eq!(check(ID, SIGNATURE, br#"{"test":2432232314}"#, TIME), Err(SignatureError::Wrong));
        assert_eq!(check("msg_other", SIGNATURE, BODY, TIME), Err(SignatureError::Wrong));
        assert_eq!(check(ID, &SIGNATURE.replace("v1", "v2"), BODY, TIME), Err(SignatureError::Wrong));
        for now in [TIME - 301, TIME + 301] {
            assert_eq!(check(ID, SIGNATURE, BODY, now), Err(SignatureError::Stale));
        }
        for garbage in ["", "garbage", "v1,", "v1,%%%"] {
            assert_eq!(check(ID, garbage, BODY, TIME), Err(SignatureError::Wrong), "{garbage}");
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        assert_eq!(format!("{:?}", SigningSecret::parse(SECRET).unwrap()), "SigningSecret(****)");
        assert!(SigningSecret::parse("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").is_none());
    }
}
