//! Secrets, and where they must not be found.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use alloy::signers::local::PrivateKeySigner;
use alloy_primitives::hex;
use eyre::{Result, bail};

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
}

impl Secrets {
    /// A private key.
    pub fn key(&self, name: &str, key: &PrivateKeySigner) {
        self.add(name, key.to_bytes().to_vec(), Kind::Key);
    }

    /// A password.
    pub fn password(&self, name: &str, password: &str) {
        self.add(name, password.as_bytes().to_vec(), Kind::Password);
    }

    /// The signature of a payment.
    pub fn signature(&self, name: &str, signature: &[u8]) {
        self.add(name, signature.to_vec(), Kind::Signature);
    }

    fn add(&self, name: &str, bytes: Vec<u8>, kind: Kind) {
        let secret = Secret { name: name.to_owned(), bytes, kind };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).push(secret);
    }

    /// Looks into every file below `dir`: logs are those that end so, everything else is a
    /// database. Returns how many files there are.
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
            for secret in known.iter().filter(|secret| is_log || secret.kind != Kind::Signature) {
                if secret.is_in(&content, &lower) {
                    found.push(format!("{} in {}", secret.name, file.display()));
                }
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
        if self.kind == Kind::Password {
            return contains(content, &self.bytes);
        }
        // Of a signature, r alone would be as telling: it is the same in every encoding.
        let bytes = self.bytes.get(..32).unwrap_or(&self.bytes);
        contains(content, bytes) || contains(lower, hex::encode(bytes).as_bytes())
    }
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
