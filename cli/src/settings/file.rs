//! The configuration file: profiles of settings, checked as a whole before anything is used.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use eyre::eyre;
use stipend_core::address;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};
use url::Url;

use super::{SETTINGS, node_url};
use crate::{keys::DevAccount, mcp::reveal::RevealTo, networks, output};

/// The names of keys that hold secrets, and where such a secret belongs.
const SECRETS: [(&[&str], &str); 3] = [
    (&["password", "passphrase"], "name a file as password_file, or set STIPEND_PASSWORD"),
    (&["issuer_key", "api_key", "api_token"], "set STIPEND_ISSUER_API_KEY"),
    (&["private_key", "secret", "mnemonic", "seed"], KEY_HINT),
];
const KEY_HINT: &str = "put the key into a keystore (`stipend key new`), or set STIPEND_PRIVATE_KEY";
/// How alike two names are if one may be meant by the other, from 0 to 1.
const ALIKE: f64 = 0.7;

/// What a setting's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Url,
    /// One URL of a node, or several.
    NodeUrls,
    /// A name, or a number.
    Chain,
    Address,
    /// Relative to the folder of the file.
    Path,
    DevAccount,
    RevealTo,
    Flag,
}

/// The settings of a profile: for each name the values, as a flag takes them.
pub(super) type Profile = BTreeMap<&'static str, Vec<String>>;

/// The profiles of a file.
///
/// # Errors
/// The first thing that is wrong, with its line. No value is quoted: it could be a secret in the wrong place.
pub(super) fn parse(path: &Path, text: &str, home: Option<&Path>) -> eyre::Result<BTreeMap<String, Profile>> {
    let file = File { path, text, home };
    let document = DeTable::parse(text).map_err(|error| {
        let span = error.span().unwrap_or_default();
        file.wrong(span, error.message())
    })?;
    let mut profiles = BTreeMap::new();
    for (name, value) in document.get_ref() {
        file.no_secret(name.get_ref(), name.span())?;
        if name.get_ref() != "profiles" {
            let hint = if SETTINGS.iter().any(|setting| setting.name == name.get_ref()) {
                "settings stand in a table [profiles.NAME]".to_owned()
            } else {
                "did you mean profiles?".to_owned()
            };
            return Err(file.wrong(name.span(), format!("unknown key {}: {hint}", quoted(name.get_ref()))));
        }
        for (name, settings) in file.table(value, "profiles is a table: [profiles.NAME]")? {
            file.no_secret(name.get_ref(), name.span())?;
            let settings = file.table(settings, "a profile is a table: [profiles.NAME]")?;
            profiles.insert(name.get_ref().to_string(), file.profile(settings)?);
        }
    }
    Ok(profiles)
}

/// A file, to say where in it something is wrong.
struct File<'a> {
    path: &'a Path,
    text: &'a str,
    home: Option<&'a Path>,
}

impl File<'_> {
    fn wrong(&self, at: Range<usize>, what: impl std::fmt::Display) -> eyre::Report {
        let before = self.text.get(..at.start).unwrap_or(self.text);
        let line = before.matches('\n').count().saturating_add(1);
        eyre!("{}:{line}: {what}", self.path.display())
    }

    fn table<'t, 'i>(&self, value: &'t Spanned<DeValue<'i>>, otherwise: &str) -> eyre::Result<&'t DeTable<'i>> {
        value.get_ref().as_table().ok_or_else(|| self.wrong(value.span(), otherwise))
    }

    fn profile(&self, settings: &DeTable<'_>) -> eyre::Result<Profile> {
        let mut profile = Profile::new();
        for (name, value) in settings {
            self.no_secret(name.get_ref(), name.span())?;
            let known = SETTINGS.iter().find(|setting| setting.name == name.get_ref());
            let setting = known.ok_or_else(|| self.wrong(name.span(), unknown(name.get_ref())))?;
            let mut values = Vec::new();
            for (text, at) in self.texts(setting.kind, value)? {
                self.no_secret_in(&text, at.clone(), setting.variable)?;
                let value = check(setting.kind, &text).map_err(|why| {
                    let why = output::sanitize(&why);
                    self.wrong(at, format!("{}: {why}", setting.name))
                })?;
                values.push(if setting.kind == Kind::Path { self.resolved(&value) } else { value });
            }
            profile.insert(setting.name, values);
        }
        if profile.contains_key("keystore") && profile.contains_key("dev_account") {
            let at = settings.keys().find(|name| name.get_ref() == "dev_account").map(Spanned::span);
            return Err(
                self.wrong(at.unwrap_or_default(), "a profile has one key: keystore or dev_account, and not both")
            );
        }
        Ok(profile)
    }

    /// What stands there, as text.
    fn texts(&self, kind: Kind, value: &Spanned<DeValue<'_>>) -> eyre::Result<Vec<(String, Range<usize>)>> {
        let expected = match kind {
            Kind::NodeUrls => "a string, or a list of strings",
            Kind::Chain => "a number, or a string",
            Kind::Flag => "true or false",
            _ => "a string",
        };
        let wrong = |at| self.wrong(at, format!("expected {expected}"));
        let text = match (kind, value.get_ref()) {
            (Kind::NodeUrls, DeValue::Array(items)) if !items.is_empty() => {
                return items
                    .iter()
                    .map(|item| match item.get_ref() {
                        DeValue::String(text) => Ok((text.to_string(), item.span())),
                        _ => Err(wrong(item.span())),
                    })
                    .collect();
            }
            (Kind::Chain, DeValue::Integer(number)) if number.radix() == 10 => number.as_str().to_owned(),
            (Kind::Flag, DeValue::Boolean(flag)) => flag.to_string(),
            (Kind::Flag, _) => return Err(wrong(value.span())),
            (_, DeValue::String(text)) => text.to_string(),
            _ => return Err(wrong(value.span())),
        };
        Ok(vec![(text, value.span())])
    }

    /// Refuses a name that stands for a secret.
    fn no_secret(&self, name: &str, at: Range<usize>) -> eyre::Result<()> {
        if SETTINGS.iter().any(|setting| setting.name == name) {
            return Ok(());
        }
        let plain = name.to_lowercase().replace(['-', ' '], "_");
        let secret = SECRETS.iter().find(|(names, _)| names.iter().any(|secret| plain.contains(secret)));
        self.no_key(name, at.clone())?;
        match secret {
            Some((_, hint)) => {
                Err(self.wrong(at, format!("{} is a secret, and none stands in this file: {hint}", quoted(name))))
            }
            None => Ok(()),
        }
    }

    /// Refuses what can be a private key.
    fn no_key(&self, text: &str, at: Range<usize>) -> eyre::Result<()> {
        let digits = text.trim().strip_prefix("0x").unwrap_or(text.trim());
        if digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let what = format!("this looks like a private key, and none stands in this file: {KEY_HINT}");
            return Err(self.wrong(at, what));
        }
        Ok(())
    }

    /// Refuses a value that can be a private key, and a URL with a password.
    fn no_secret_in(&self, value: &str, at: Range<usize>, variable: Option<&str>) -> eyre::Result<()> {
        self.no_key(value, at.clone())?;
        let has_user = |url: Url| !url.username().is_empty() || url.password().is_some();
        if value.parse().is_ok_and(has_user) {
            let hint = variable.map(|variable| format!(": set {variable}")).unwrap_or_default();
            return Err(self.wrong(at, format!("this URL holds a password, and none stands in this file{hint}")));
        }
        Ok(())
    }

    /// A path, relative to the folder of this file or to the user's.
    fn resolved(&self, path: &str) -> String {
        let resolved = match (path.strip_prefix("~/"), self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => self.path.parent().map_or_else(|| PathBuf::from(path), |folder| folder.join(path)),
        };
        resolved.display().to_string()
    }
}

fn check(kind: Kind, text: &str) -> Result<String, String> {
    match kind {
        Kind::Url => text.parse::<Url>().map(drop).map_err(|error| error.to_string())?,
        Kind::NodeUrls => node_url(text).map(drop)?,
        Kind::Chain => return networks::chain_id(text).map(|id| id.to_string()),
        Kind::Address => address::parse(text).map(drop).map_err(|error| error.to_string())?,
        Kind::Path if text.is_empty() => return Err("expected a path".into()),
        Kind::DevAccount => DevAccount::from_str(text, false).map(drop).map_err(|_| {
            let names: Vec<_> = DevAccount::value_variants()
                .iter()
                .filter_map(|account| Some(account.to_possible_value()?.get_name().to_owned()))
                .collect();
            format!("expected one of {}", names.join(", "))
        })?,
        Kind::RevealTo => text.parse::<RevealTo>().map(drop)?,
        Kind::Path | Kind::Flag => {}
    }
    Ok(text.to_owned())
}

fn unknown(name: &str) -> String {
    let similarity = |known: &str| strsim::jaro_winkler(name, known);
    let nearest =
        SETTINGS.iter().map(|setting| setting.name).max_by(|one, other| similarity(one).total_cmp(&similarity(other)));
    let hint = match nearest {
        Some(nearest) if similarity(nearest) >= ALIKE => format!("did you mean {nearest}?"),
        _ => {
            let names: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
            format!("expected one of {}", names.join(", "))
        }
    };
    format!("unknown key {}: {hint}", quoted(name))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", output::sanitize(name))
}
