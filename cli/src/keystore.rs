//! Encrypted keystores (Web3 Secret Storage, version 3), of whichever wallet wrote them.

use std::{
    fs,
    io::{IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use alloy::signers::{
    k256::elliptic_curve::rand_core::OsRng,
    local::{LocalSignerError, PrivateKeySigner},
};
use alloy_primitives::Address;
use console::Term;
use eyre::{WrapErr, bail, ensure, eyre};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use tempfile::{NamedTempFile, tempdir};
use uuid::Uuid;

use crate::output;

/// The most memory that a keystore may have its key derived with.
const SCRYPT_MEMORY_MAX: u64 = 1 << 30;
/// The most rounds.
const ROUNDS_MAX: u64 = 10_000_000;

/// The password of a keystore, asked for on the terminal.
///
/// # Errors
/// Without a terminal.
pub(crate) fn asked_password(file: &Path) -> eyre::Result<SecretString> {
    let needed =
        || eyre!("a keystore needs --password-file or STIPEND_PASSWORD, or a terminal to ask for the password");
    ask(&format!("password of {}: ", file.display()))?.ok_or_else(needed)
}

/// A new password, asked for twice.
///
/// # Errors
/// Without a terminal, and if there is none.
pub(crate) fn chosen_password(file: &Path) -> eyre::Result<SecretString> {
    let password = asked_password(file)?;
    ensure!(!password.expose_secret().is_empty(), "a key without a password is everybody's");
    let again = ask("once more: ")?;
    ensure!(again.is_some_and(|again| again.expose_secret() == password.expose_secret()), "the passwords differ");
    Ok(password)
}

fn ask(question: &str) -> eyre::Result<Option<SecretString>> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(None);
    }
    let terminal = Term::stderr();
    terminal.write_str(&output::sanitize(question))?;
    Ok(Some(terminal.read_secure_line()?.into()))
}

/// Makes a key, and writes it encrypted to a new file that nobody else can read.
pub(crate) fn create(file: &Path, password: &SecretString) -> eyre::Result<Address> {
    let can_not = || format!("can't write {}", file.display());
    let dir = tempdir().wrap_err_with(can_not)?;
    let (signer, _) = PrivateKeySigner::new_keystore(dir.path(), &mut OsRng, password.expose_secret(), Some("key"))
        .map_err(|error| eyre!("the keystore can't be made: {error}"))?;
    let text = fs::read_to_string(dir.path().join("key")).wrap_err_with(can_not)?;
    let mut keystore: Map<String, Value> = serde_json::from_str(&text)?;
    keystore.insert("address".into(), json!(format!("{:x}", signer.address())));
    let mut target =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).wrap_err_with(can_not)?;
    target.write_all(serde_json::to_string(&keystore)?.as_bytes()).wrap_err_with(can_not)?;
    target.sync_all().wrap_err_with(can_not)?;
    Ok(signer.address())
}

/// The key in a keystore.
///
/// # Errors
/// What keeps it from being opened: not a keystore, not this password, a kind that is not supported, or
/// another key than the file names.
pub(crate) fn open(
    file: &Path,
    password: impl FnOnce() -> eyre::Result<SecretString>,
) -> eyre::Result<PrivateKeySigner> {
    let text = fs::read_to_string(file).wrap_err_with(|| format!("can't read {}", file.display()))?;
    let (keystore, address) =
        read(&text).wrap_err_with(|| format!("the keystore {} can't be opened", file.display()))?;
    // The library reads files alone. The content is as encrypted as it was.
    let mut plain = NamedTempFile::new()?;
    plain.write_all(keystore.to_string().as_bytes())?;
    let signer = PrivateKeySigner::decrypt_keystore(plain.path(), password()?.expose_secret()).map_err(|error| {
        let why = match error {
            LocalSignerError::EthKeystoreError(error) if error.to_string().contains("Mac") => {
                "the password is wrong".into()
            }
            error => error.to_string(),
        };
        eyre!("the keystore {} can't be opened: {why}", file.display())
    })?;
    if let Some(address) = address.filter(|address| *address != signer.address()) {
        bail!("the keystore {} names {address}, and has the key of {}", file.display(), signer.address());
    }
    Ok(signer)
}

/// A keystore as the library takes it, and the address that it names. Everything that the library would
/// stumble over is refused by name.
fn read(text: &str) -> eyre::Result<(Value, Option<Address>)> {
    let keystore: Value =
        serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(|_| eyre!("it is not JSON"))?;
    // Older wallets write "Crypto".
    let members = keystore.as_object().ok_or_else(|| eyre!("it is not a keystore"))?;
    let crypto = members.get("crypto").or_else(|| members.get("Crypto"));
    let crypto = crypto.ok_or_else(|| eyre!("it is not a keystore: it has no \"crypto\""))?;
    let version =
        members.get("version").map(|version| version.as_str().map_or_else(|| version.to_string(), str::to_owned));
    ensure!(version.as_deref() == Some("3"), "it is of version {}, not 3", version.as_deref().unwrap_or("none"));

    let word = |of: &Value, name: &str| of.get(name).and_then(Value::as_str).map(str::to_owned);
    let cipher = word(crypto, "cipher").unwrap_or_default();
    ensure!(cipher == "aes-128-ctr", "its cipher is {cipher:?}; only aes-128-ctr is supported");
    let hex = |of: &Value, name: &str, length: Option<usize>| {
        let text = word(of, name).ok_or_else(|| eyre!("it has no {name}"))?;
        let digits = text.trim_start_matches("0x").to_lowercase();
        let bytes = alloy_primitives::hex::decode(&digits).map_err(|_| eyre!("its {name} is not hex"))?;
        match length {
            Some(length) if bytes.len() != length => bail!("its {name} has {} bytes, not {length}", bytes.len()),
            _ => Ok(digits),
        }
    };
    let empty = Value::Null;
    let iv = hex(crypto.get("cipherparams").unwrap_or(&empty), "iv", Some(16))?;
    let (ciphertext, mac) = (hex(crypto, "ciphertext", Some(32))?, hex(crypto, "mac", Some(32))?);

    let params = crypto.get("kdfparams").unwrap_or(&empty);
    let number =
        |name: &str| params.get(name).and_then(Value::as_u64).ok_or_else(|| eyre!("its kdfparams have no {name}"));
    let (salt, dklen) = (hex(params, "salt", None)?, number("dklen")?);
    ensure!((32..=64).contains(&dklen), "its dklen is {dklen}, not 32");
    let kdf = word(crypto, "kdf").unwrap_or_default().to_lowercase();
    let kdfparams = match kdf.as_str() {
        "scrypt" => {
            let (n, r, p) = (number("n")?, number("r")?, number("p")?);
            let memory = n.saturating_mul(r).saturating_mul(128);
            ensure!(
                n.is_power_of_two() && n > 1 && r > 0 && p > 0,
                "its scrypt parameters can't be: n {n}, r {r}, p {p}"
            );
            ensure!(
                memory <= SCRYPT_MEMORY_MAX && p <= 16,
                "its scrypt parameters ask for too much: n {n}, r {r}, p {p}"
            );
            json!({ "dklen": dklen, "n": n, "r": r, "p": p, "salt": salt })
        }
        "pbkdf2" => {
            let (rounds, prf) = (number("c")?, word(params, "prf").unwrap_or_default());
            ensure!(prf == "hmac-sha256", "its prf is {prf:?}; only hmac-sha256 is supported");
            ensure!((1..=ROUNDS_MAX).contains(&rounds), "its pbkdf2 rounds can't be: {rounds}");
            json!({ "dklen": dklen, "c": rounds, "prf": prf, "salt": salt })
        }
        other => bail!("its key derivation is {other:?}; only scrypt and pbkdf2 are supported"),
    };
    let address = match members.get("address").and_then(Value::as_str).filter(|address| !address.is_empty()) {
        None => None,
        Some(address) => {
            let digits = address.trim_start_matches("0x").trim_start_matches("0X");
            Some(digits.parse().map_err(|_| eyre!("its address is not one: {address:?}"))?)
        }
    };
    let crypto = json!({
        "cipher": cipher, "cipherparams": { "iv": iv }, "ciphertext": ciphertext, "kdf": kdf, "kdfparams": kdfparams,
        "mac": mac,
    });
    Ok((json!({ "crypto": crypto, "id": Uuid::nil(), "version": 3 }), address))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vectors of the Web3 Secret Storage Definition, with the address of their key.
    const PBKDF2: &str = r#"{"crypto":{"cipher":"aes-128-ctr","cipherparams":{"iv":"6087dab2f9fdbbfaddc31a909735c1e6"},
        "ciphertext":"5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46","kdf":"pbkdf2",
        "kdfparams":{"c":262144,"dklen":32,"prf":"hmac-sha256",
            "salt":"ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd"},
        "mac":"517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2"},
        "id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}"#;
    const ADDRESS: &str = "008aeeda4d805471df9b2a5b0f38a0c3bcba786b";

    fn opened(change: impl FnOnce(&mut Value), password: &str) -> Result<String, String> {
        let mut keystore: Value = serde_json::from_str(PBKDF2).unwrap();
        change(&mut keystore);
        opened_text(&keystore.to_string(), password)
    }

    fn opened_text(text: &str, password: &str) -> Result<String, String> {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let signer = open(file.path(), || Ok(password.into()));
        signer.map(|signer| format!("{:x}", signer.address())).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn keystores_of_other_wallets_open() {
        let good = Ok(ADDRESS.to_owned());
        assert_eq!(opened(|_| {}, "testpassword"), good);
        assert_eq!(opened(|file| file["address"] = json!(ADDRESS), "testpassword"), good);
        assert_eq!(opened(|file| file["address"] = json!(format!("0x{ADDRESS}")), "testpassword"), good);
        let old = |file: &mut Value| {
            let crypto = file.as_object_mut().unwrap().remove("crypto").unwrap();
            file["Crypto"] = crypto;
            file["version"] = json!("3");
            file.as_object_mut().unwrap().remove("id");
        };
        assert_eq!(opened(old, "testpassword"), good);
        let prefixed = |file: &mut Value| {
            let mac = file["crypto"]["mac"].as_str().unwrap().to_uppercase();
            file["crypto"]["mac"] = json!(format!("0x{mac}"));
        };
        assert_eq!(opened(prefixed, "testpassword"), good);
        assert_eq!(opened_text(&format!("\u{feff}{PBKDF2}"), "testpassword"), good);
    }

    #[test]
    fn what_is_no_keystore_of_ours_is_refused_by_name() {
        type Change = fn(&mut Value);
        let changes: [(Change, &str); 17] = [
            (|file| file["crypto"]["cipher"] = json!("aes-128-cbc"), "aes-128-cbc"),
            (|file| file["crypto"]["cipherparams"]["iv"] = json!("6087dab2f9fdbbfaddc31a909735c1"), "iv has 15 bytes"),
            (|file| file["crypto"]["cipherparams"] = json!(null), "no iv"),
            (|file| file["crypto"]["ciphertext"] = json!("53"), "ciphertext has 1 bytes"),
            (|file| file["crypto"]["mac"] = json!(""), "mac has 0 bytes"),
            (|file| file["crypto"]["mac"] = json!("zz"), "mac is not hex"),
            (|file| file["crypto"]["kdf"] = json!("argon2id"), "argon2id"),
            (|file| file["crypto"]["kdf"] = json!("scrypt"), "no n"),
            (|file| file["crypto"]["kdfparams"]["dklen"] = json!(8), "dklen is 8"),
            (|file| file["crypto"]["kdfparams"]["c"] = json!(0), "rounds"),
            (|file| file["crypto"]["kdfparams"]["prf"] = json!("hmac-sha512"), "hmac-sha512"),
            (|file| file["address"] = json!("f39Fd6e51aad88F6F4ce6aB8827279cffFb92266"), "has the key of"),
            (|file| file["address"] = json!("12"), "its address"),
            (|file| file["version"] = json!(4), "version 4"),
            (|file| file["crypto"] = json!({}), "cipher"),
            (|file| *file = json!([]), "not a keystore"),
            (|file| *file = json!({ "wallet": 1 }), "no \"crypto\""),
        ];
        for (change, why) in changes {
            let refused = opened(change, "testpassword").unwrap_err();
            assert!(refused.contains(why), "{why}: {refused}");
        }
        let scrypt = |n: u64, r: u64, p: u64| {
            opened(
                |file| {
                    file["crypto"]["kdf"] = json!("scrypt");
                    file["crypto"]["kdfparams"] = json!({ "dklen": 32, "n": n, "r": r, "p": p, "salt": "00" });
                },
                "testpassword",
            )
            .unwrap_err()
        };
        for (n, r, p) in [(0, 8, 1), (1, 8, 1), (1_000, 8, 1), (1 << 20, 1 << 20, 1), (2, 0, 1), (2, 8, 0), (2, 8, 17)]
        {
            assert!(scrypt(n, r, p).contains("scrypt parameters"), "{n} {r} {p}");
        }
        assert!(opened(|_| {}, "another").unwrap_err().contains("the password is wrong"));
        assert!(opened_text("", "").unwrap_err().contains("not JSON"));
    }

    #[test]
    fn a_new_keystore_opens_and_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempdir().unwrap();
        let file = dir.path().join("agent.json");
        let address = create(&file, &"secret".into()).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(open(&file, || Ok("secret".into())).unwrap().address(), address);
        assert!(read(&fs::read_to_string(&file).unwrap()).unwrap().1 == Some(address));
        assert!(create(&file, &"secret".into()).is_err());
    }
}
