//! Secrets, and where they must not be found.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use alloy::signers::local::PrivateKeySigner;
use alloy_primitives::hex;
use eyre::{Result, bail};
use stipend_core::api::CardSecrets;

use crate::issuer;

/// What must not leak. All clones are one.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    known: Arc<Mutex<Vec<Secret>>>,
}

#[derive(Clone, Debug)]
struct Secret {
    name: String,
    bytes: Vec<u8>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Must be nowhere.
    Key,
    /// Must be nowhere, and is text as it is.
    Password,
    /// Must be in no log. A ledger has to keep it: it is what the contract checks.
    Signature,
    /// Is text as it is, and must be nowhere but in the issuer's own database.
    Issuer,
    /// The same; so short that it tells something only after its name.
    Cvv,
}

impl Secrets {
    pub fn key(&self, name: &str, key: &PrivateKeySigner) {
        self.add(name, key.to_bytes().to_vec(), Kind::Key);
    }

    pub fn password(&self, name: &str, password: &str) {
        self.add(name, password.as_bytes().to_vec(), Kind::Password);
    }

    /// The signature of a payment.
    pub fn signature(&self, name: &str, signature: &[u8]) {
        self.add(name, signature.to_vec(), Kind::Signature);
    }

    /// What only a card's owner may see.
    pub fn card(&self, card: &CardSecrets) {
        self.add("a card's number", card.number.clone().into_bytes(), Kind::Issuer);
        self.add("a card's code", card.cvv.clone().into_bytes(), Kind::Cvv);
    }

    /// What the issuer signs with.
    pub fn of_the_issuer(&self, name: &str, secret: &str) {
        self.add(name, secret.as_bytes().to_vec(), Kind::Issuer);
    }

    fn add(&self, name: &str, bytes: Vec<u8>, kind: Kind) {
        let secret = Secret { name: name.to_owned(), bytes, kind };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).push(secret);
    }

    /// Looks into every file below `dir`: logs are those that end so, everything else is a
    /// database. A card's number is found even if nobody has said that it is one. Returns how many
    /// files there are.
    ///
    /// # Errors
    /// Names file and secret, without showing it.
    pub fn scan(&self, dir: &Path) -> Result<usize> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut found = Vec::new();
        let mut scanned = 0;
        for file in files(dir)? {
            scanned += 1;
            let content = fs::read(&file)?;
            let lower = content.to_ascii_lowercase();
            let is_log = file.extension().is_some_and(|extension| extension == "log");
            let issuer_s = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(issuer::DATABASE));
            let forbidden = |secret: &&Secret| match secret.kind {
                Kind::Key | Kind::Password => true,
                Kind::Signature => is_log,
                Kind::Issuer | Kind::Cvv => !issuer_s,
            };
            for secret in known.iter().filter(forbidden) {
                if secret.is_in(&content, &lower) {
                    found.push(format!("{} in {}", secret.name, file.display()));
                }
            }
            if !issuer_s && has_card_number(&content, is_log) {
                found.push(format!("the number of a card in {}", file.display()));
            }
        }
        if !found.is_empty() {
            bail!("secrets leaked: {}", found.join(", "));
        }
        Ok(scanned)
    }
}

impl Secret {
    fn is_in(&self, content: &[u8], lower: &[u8]) -> bool {
        match self.kind {
            Kind::Password | Kind::Issuer => return contains(content, &self.bytes),
            Kind::Cvv => return is_named_cvv(lower, &self.bytes),
            Kind::Key | Kind::Signature => {}
        }
        // Of a signature, r alone would be as telling: it is the same in every encoding.
        let bytes = self.bytes.get(..32).unwrap_or(&self.bytes);
        contains(content, bytes) || contains(lower, hex::encode(bytes).as_bytes())
    }
}

/// Whether sixteen digits that begin as the mock's cards do wherever they stand, or, in a log, any
/// sixteen on their own, pass Luhn's check. Cards begin with 3 to 6, which keeps the time in
/// microseconds apart. In a database what transactions cost, in wei, looks like that now and then.
fn has_card_number(content: &[u8], is_log: bool) -> bool {
    const DIGITS: usize = 16;
    const MOCK: &[u8] = b"411111";
    let word = |at: Option<usize>| at.and_then(|at| content.get(at)).is_some_and(u8::is_ascii_alphanumeric);
    let alone = |at: usize| !word(at.checked_sub(1)) && !word(Some(at + DIGITS));
    content.windows(DIGITS).enumerate().any(|(at, digits)| {
        matches!(digits.first(), Some(b'3'..=b'6'))
            && digits.iter().all(u8::is_ascii_digit)
            && (digits.starts_with(MOCK) || is_log && alone(at))
            && passes_luhn(digits)
    })
}

fn passes_luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits.iter().rev().enumerate().fold(0, |sum, (place, digit)| {
        let digit = u32::from(digit.saturating_sub(b'0'));
        let doubled = if place % 2 == 1 { digit * 2 } else { digit };
        sum + doubled / 10 + doubled % 10
    });
    sum.is_multiple_of(10)
}

/// Whether the code stands where one is named.
fn is_named_cvv(lower: &[u8], cvv: &[u8]) -> bool {
    const NEAR: usize = 12;
    let names = lower.windows(3).enumerate().filter(|(_, window)| *window == b"cvv").map(|(at, _)| at + 3);
    names.map(|at| lower.get(at..lower.len().min(at + NEAR))).any(|near| near.is_some_and(|near| contains(near, cvv)))
}

fn contains(content: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return false };
    let starts = content.iter().enumerate().filter(|(_, byte)| *byte == first);
    starts.map(|(at, _)| content.get(at..)).any(|rest| rest.is_some_and(|rest| rest.starts_with(needle)))
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.is_file() {
                files.push(path);
            }
        }
    }
    Ok(files)
}
