//! Settings from a file, below flags and environment variables.
//!
//! A profile's settings become the defaults of the arguments that they stand for, so that one parser reads all.

mod file;

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use clap::{ArgMatches, parser::ValueSource};
use eyre::{WrapErr, bail, ensure};
use serde::Serialize;
use stipend_core::{address, api::Info};
use url::Url;

use crate::{networks, output};
use file::{Kind, Profile};

/// The profile that is in use if none is named.
const DEFAULT_PROFILE: &str = "default";
/// A file with every setting.
pub(crate) const EXAMPLE: &str = include_str!("settings/default.toml");
/// Secrets, of which only the environment may have one.
const SECRETS: [&str; 3] = ["STIPEND_PRIVATE_KEY", "STIPEND_PASSWORD", "STIPEND_ISSUER_API_KEY"];

/// What a profile can set.
#[derive(Debug)]
struct Setting {
    /// Its name in the file.
    name: &'static str,
    /// The argument that it is a default of, by clap's id.
    argument: &'static str,
    /// The commands that have that argument; none: all.
    commands: &'static [&'static str],
    variable: Option<&'static str>,
    kind: Kind,
}

const fn setting(
    name: &'static str,
    argument: &'static str,
    commands: &'static [&'static str],
    variable: Option<&'static str>,
    kind: Kind,
) -> Setting {
    Setting { name, argument, commands, variable, kind }
}

const SETTINGS: [Setting; 10] = [
    setting("relayer_url", "relayer", &[], Some("STIPEND_RELAYER_URL"), Kind::Url),
    setting("rpc_url", "rpc_urls", &[], Some("STIPEND_RPC_URL"), Kind::NodeUrls),
    setting("chain_id", "chain_id", &["serve", "ledger"], Some("STIPEND_CHAIN_ID"), Kind::Chain),
    setting("escrow", "escrow", &["serve", "ledger"], Some("STIPEND_ESCROW"), Kind::Address),
    setting("keystore", "keystore", &[], None, Kind::Path),
    setting("password_file", "password_file", &[], None, Kind::Path),
    setting("dev_account", "dev_account", &[], None, Kind::DevAccount),
    setting("issuer_url", "issuer_url", &["merchant"], Some("STIPEND_ISSUER_URL"), Kind::Url),
    setting("reveal_to", "reveal_to", &["mcp"], Some("STIPEND_REVEAL_TO"), Kind::RevealTo),
    setting("dotted_names", "dotted_names", &["mcp"], None, Kind::Flag),
];

/// The settings in effect.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
    /// The profile in use.
    pub(crate) profile: Option<String>,
    /// All that the file has.
    pub(crate) profiles: Vec<String>,
    /// What the profile sets, but for a key that the caller replaced.
    values: Profile,
    pub(crate) effective: Vec<Effective>,
}

impl Settings {
    /// The settings of the file and the profile that the arguments, the environment or nobody names.
    pub(crate) fn load(matches: &ArgMatches) -> eyre::Result<Self> {
        let home = env::var_os("HOME").map(PathBuf::from);
        let named = matches.get_one::<PathBuf>("config").cloned();
        let chosen = matches.get_one::<String>("profile").cloned();
        let place = named.clone().or_else(|| default_place(env::var_os("XDG_CONFIG_HOME"), home.as_deref()));
        let text = match place.as_deref().map(fs::read_to_string) {
            Some(Ok(text)) => Some(text),
            // Where nobody put one, or this user can't look.
            Some(Err(_)) if named.is_none() && !place.as_deref().is_some_and(Path::exists) => None,
            Some(Err(error)) => {
                let file = place.as_deref().unwrap_or(Path::new("")).display();
                return Err(error).wrap_err_with(|| format!("can't read the configuration {file}"));
            }
            None => None,
        };
        let (Some(file), Some(text)) = (place.as_deref(), text) else {
            if let Some(chosen) = chosen {
                let place =
                    place.map_or_else(|| "~/.config/stipend/config.toml".into(), |place| place.display().to_string());
                bail!(
                    "there is no profile {chosen:?}: {place} does not exist (`stipend config default` prints an example)"
                );
            }
            return Ok(Self::default());
        };
        let mut profiles = file::parse(file, &text, home.as_deref())?;
        let names: Vec<_> = profiles.keys().cloned().collect();
        let profile = chosen.clone().or_else(|| profiles.contains_key(DEFAULT_PROFILE).then(|| DEFAULT_PROFILE.into()));
        let mut values = match &profile {
            None => Profile::new(),
            Some(name) => match profiles.remove(name) {
                Some(values) => values,
                None => bail!("there is no profile {name:?} in {}: it has {}", file.display(), listed(&names)),
            },
        };
        drop_replaced_key(&mut values, matches);
        Ok(Self { file: Some(file.to_owned()), profile, profiles: names, values, effective: Vec::new() })
    }

    /// The command, with the profile's values for defaults.
    pub(crate) fn as_defaults(&self, command: clap::Command) -> clap::Command {
        SETTINGS.iter().fold(command, |command, setting| match self.values.get(setting.name) {
            None => command,
            Some(values) if setting.commands.is_empty() => with_default(command, setting.argument, values),
            Some(values) => setting.commands.iter().fold(command, |command, name| {
                command.mut_subcommand(*name, |command| with_default_below(command, setting.argument, values))
            }),
        })
    }

    /// Refuses a relayer that is not the one that the settings describe.
    pub(crate) fn check(&self, info: &Info) -> eyre::Result<()> {
        self.check_chain(info.chain_id, "the relayer")?;
        if let Some((escrow, source)) = self.expected("escrow")
            && address::parse(&escrow) != Ok(info.escrow)
        {
            bail!(
                "the relayer serves the escrow {}, and {source} names {escrow}: do not trust this relayer",
                info.escrow
            );
        }
        Ok(())
    }

    /// Refuses a chain that is not the one that the settings name.
    pub(crate) fn check_chain(&self, chain_id: u64, who: &str) -> eyre::Result<()> {
        if let Some((expected, source)) = self.expected("chain_id") {
            ensure!(
                networks::chain_id(&expected).is_ok_and(|expected| expected == chain_id),
                "{who} is on chain id {chain_id}, and {source} names {expected}: choose another profile, or another URL"
            );
        }
        Ok(())
    }

    /// What the environment or the profile says about the relayer, and which of them.
    fn expected(&self, name: &str) -> Option<(String, String)> {
        let setting = SETTINGS.iter().find(|setting| setting.name == name)?;
        let variable = setting.variable?;
        if let Some(value) = variable_of(variable) {
            return Some((value, variable.to_owned()));
        }
        let value = self.values.get(name)?.first()?.clone();
        Some((value, format!("the profile {:?}", self.profile.as_deref().unwrap_or_default())))
    }
}

/// The key is one setting, in three forms: one that the caller gives replaces the profile's, with its password.
fn drop_replaced_key(values: &mut Profile, matches: &ArgMatches) {
    let is_given = |id| matches.value_source(id) == Some(ValueSource::CommandLine);
    if is_given("keystore") || is_given("dev_account") || variable_of("STIPEND_PRIVATE_KEY").is_some() {
        values.retain(|name, _| !matches!(*name, "keystore" | "password_file" | "dev_account"));
    }
    // A new keystore is not the profile's.
    let is_new_key = matches.subcommand_matches("key").is_some_and(|key| key.subcommand_name() == Some("new"));
    if is_new_key || variable_of("STIPEND_PASSWORD").is_some() {
        values.remove("password_file");
    }
}

fn with_default(command: clap::Command, argument: &str, values: &[String]) -> clap::Command {
    command.mut_args(|arg| {
        if arg.get_id() != argument {
            return arg;
        }
        let takes_values = arg.get_action().takes_values();
        // A URL can hold a key.
        arg.default_values(values.to_vec()).hide_default_value(takes_values).required(false)
    })
}

fn with_default_below(command: clap::Command, argument: &str, values: &[String]) -> clap::Command {
    with_default(command, argument, values).mut_subcommands(|command| with_default_below(command, argument, values))
}

/// A node's URL.
pub(crate) fn node_url(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|error: url::ParseError| error.to_string())?;
    match url.scheme() {
        "http" | "https" | "ws" | "wss" => Ok(url),
        scheme => Err(format!("a node is reached by http, https, ws or wss, not by {scheme}")),
    }
}

/// A variable that is set; an empty one is not.
fn variable_of(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn default_place(xdg: Option<OsString>, home: Option<&Path>) -> Option<PathBuf> {
    // The specification has relative paths ignored.
    let folder = xdg.map(PathBuf::from).filter(|path| path.is_absolute());
    Some(folder.or_else(|| Some(home?.join(".config")))?.join("stipend/config.toml"))
}

/// Names of profiles.
pub(crate) fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// Where a setting comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Source {
    Flag,
    Environment,
    Profile,
    Default,
}

/// A setting in effect.
#[derive(Debug, Serialize)]
pub(crate) struct Effective {
    pub(crate) name: String,
    /// Absent: not set.
    pub(crate) value: Option<String>,
    pub(crate) source: Source,
}

impl Settings {
    /// Notes what is in effect for a command line that was read with [`Self::as_defaults`].
    pub(crate) fn resolve(&mut self, matches: &ArgMatches, cli: &clap::Command) {
        let settings = SETTINGS.iter().map(|setting| self.effective(setting, matches, cli));
        let secrets = SECRETS.iter().filter(|name| variable_of(name).is_some()).map(|name| Effective {
            name: (*name).to_owned(),
            value: Some("set, not shown".into()),
            source: Source::Environment,
        });
        self.effective = settings.chain(secrets).collect();
    }

    fn effective(&self, setting: &Setting, matches: &ArgMatches, cli: &clap::Command) -> Effective {
        let is_given =
            setting.commands.is_empty() && matches.value_source(setting.argument) == Some(ValueSource::CommandLine);
        let (values, source) = if is_given {
            let raw = matches.get_raw(setting.argument).into_iter().flatten();
            (raw.map(|value| value.to_string_lossy().into_owned()).collect(), Source::Flag)
        } else if let Some(value) = setting.variable.and_then(variable_of) {
            (vec![value], Source::Environment)
        } else if let Some(values) = self.values.get(setting.name) {
            (values.clone(), Source::Profile)
        } else {
            let command = setting.commands.last().and_then(|name| cli.find_subcommand(name)).unwrap_or(cli);
            (default_of(command, setting.argument).unwrap_or_default(), Source::Default)
        };
        let is_url = matches!(setting.kind, Kind::Url | Kind::NodeUrls);
        let value = values.iter().flat_map(|value| value.split(','));
        let value: Vec<_> = value.map(|value| if is_url { shown_url(value) } else { value.to_owned() }).collect();
        let value = Some(value.join(",")).filter(|value| !value.is_empty());
        Effective { name: setting.name.to_owned(), value, source }
    }
}

/// What an argument of a command, or of one below it, is if nobody sets it.
fn default_of(command: &clap::Command, argument: &str) -> Option<Vec<String>> {
    let own = command.get_arguments().find(|arg| arg.get_id() == argument);
    own.map(|arg| arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect())
        .or_else(|| command.get_subcommands().find_map(|command| default_of(command, argument)))
}

/// A URL without what can be a secret in it.
fn shown_url(text: &str) -> String {
    let Ok(url) = text.parse::<Url>() else { return "not a URL".into() };
    let more = if url.path().len() > 1 || url.query().is_some() { "/…" } else { "" };
    output::url(&url) + more
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::CommandFactory;

    use super::*;

    const HOME: &str = "/home/ada";

    fn profiles(text: &str) -> eyre::Result<BTreeMap<String, Profile>> {
        file::parse(Path::new("/etc/stipend/config.toml"), text, Some(Path::new(HOME)))
    }

    fn refused(text: &str) -> String {
        profiles(text).unwrap_err().to_string()
    }

    /// With every setting that it shows as a comment.
    fn whole_example() -> String {
        let setting = |line: &str| SETTINGS.iter().any(|setting| line.starts_with(&format!("# {} = ", setting.name)));
        EXAMPLE.lines().map(|line| if setting(line) { &line[2..] } else { line }).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_example_names_every_setting_and_changes_nothing() {
        let as_printed = profiles(EXAMPLE).unwrap().remove(DEFAULT_PROFILE).unwrap();
        let cli = crate::Cli::command();
        for (name, values) in &as_printed {
            let setting = SETTINGS.iter().find(|setting| setting.name == *name).unwrap();
            assert_eq!(default_of(&cli, setting.argument).as_ref(), Some(values), "{name}");
        }
        // One key or the other.
        let keystore = whole_example().replace("dev_account =", "# dev_account =");
        let account = whole_example().replace("keystore =", "# keystore =");
        let mut named: Vec<_> = profiles(&keystore).unwrap().remove(DEFAULT_PROFILE).unwrap().into_keys().collect();
        named.extend(profiles(&account).unwrap().remove(DEFAULT_PROFILE).unwrap().into_keys());
        for setting in &SETTINGS {
            assert!(named.contains(&setting.name), "{}", setting.name);
            for named in setting.variable.iter() {
                assert!(EXAMPLE.contains(named), "{named}");
            }
        }
    }

    #[test]
    fn a_profile_of_every_setting_makes_a_sound_command() {
        let keystore = whole_example().replace("dev_account =", "# dev_account =");
        let values = profiles(&keystore).unwrap().remove(DEFAULT_PROFILE).unwrap();
        let settings = Settings { values, ..Settings::default() };
        settings.as_defaults(crate::Cli::command()).debug_assert();
        let mcp = settings.as_defaults(crate::Cli::command()).try_get_matches_from(["stipend", "mcp"]).unwrap();
        assert!(mcp.subcommand_matches("mcp").unwrap().get_flag("dotted_names"));
    }

    #[test]
    fn every_setting_is_an_argument_with_its_variable() {
        fn with<'a>(command: &'a clap::Command, argument: &str) -> Vec<&'a clap::Arg> {
            let mut found: Vec<_> = command.get_arguments().filter(|arg| arg.get_id() == argument).collect();
            found.extend(command.get_subcommands().flat_map(|command| with(command, argument)));
            found
        }
        let cli = crate::Cli::command();
        for setting in &SETTINGS {
            let commands: Vec<_> = match setting.commands {
                [] => vec![&cli],
                names => names.iter().map(|name| cli.find_subcommand(name).unwrap()).collect(),
            };
            for command in commands {
                let args = with(command, setting.argument);
                assert!(!args.is_empty(), "{} of {}", setting.name, command.get_name());
                for arg in args {
                    let variable = arg.get_env().and_then(|name| name.to_str());
                    assert_eq!(variable, setting.variable, "{}", setting.name);
                }
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let at = "/etc/stipend/config.toml:";
        for (text, line, what) in [
            ("[profiles.a]\nrelayer = \"http://x\"", 2, "unknown key \"relayer\": did you mean relayer_url?"),
            ("[profiles.a]\n\nrpc-url = \"http://x\"", 3, "did you mean rpc_url?"),
            ("[profiles.a]\nfrobnicate = 1", 2, "expected one of relayer_url, rpc_url"),
            ("escrow = \"0x00\"", 1, "settings stand in a table [profiles.NAME]"),
            ("[profile.a]", 1, "did you mean profiles?"),
            ("profiles = 3", 1, "profiles is a table"),
            ("[profiles]\na = 3", 2, "a profile is a table"),
            ("[profiles.a]\nrelayer_url = 3", 2, "expected a string"),
            ("[profiles.a]\nrelayer_url = \"nowhere\"", 2, "relayer_url: relative URL"),
            ("[profiles.a]\nrpc_url = [\"http://x\",\n\"ftp://y\"]", 3, "rpc_url: a node is reached by http"),
            ("[profiles.a]\nrpc_url = []", 2, "expected a string, or a list of strings"),
            ("[profiles.a]\nchain_id = \"nowhere\"", 2, "chain_id: expected a chain id"),
            ("[profiles.a]\nescrow = \"0x00\"", 2, "escrow: an address is"),
            ("[profiles.a]\ndev_account = \"me\"", 2, "expected one of guardian, operator, agent"),
            ("[profiles.a]\nkeystore = \"a\"\ndev_account = \"agent\"", 3, "keystore or dev_account"),
            ("[profiles.a]\ndotted_names = \"yes\"", 2, "expected true or false"),
            ("[profiles.a]\nreveal_to = \"printer\"", 2, "reveal_to: one of model"),
            ("[profiles.a]\nkeystore = \"\"", 2, "keystore: expected a path"),
            ("[profiles.a]\nkeystore = \"a\"\nkeystore = \"b\"", 3, "duplicate key"),
            ("[profiles.a]\nkeystore = ", 2, ""),
        ] {
            let said = refused(text);
            assert!(said.starts_with(&format!("{at}{line}: ")) && said.contains(what), "{text}: {said}");
        }
    }

    #[test]
    fn a_secret_is_refused_and_not_repeated() {
        const KEY: &str = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";
        for (line, hint) in [
            (format!("private_key = \"0x{KEY}\""), "STIPEND_PRIVATE_KEY"),
            (format!("Private-Key = \"{KEY}\""), "STIPEND_PRIVATE_KEY"),
            (format!("mnemonic = \"{KEY}\""), "STIPEND_PRIVATE_KEY"),
            (format!("keystore = \"{KEY}\""), "keystore (`stipend key new`)"),
            (format!("escrow = \"0x{KEY}\""), "keystore (`stipend key new`)"),
            (format!("\"{KEY}\" = 1"), "keystore (`stipend key new`)"),
            (format!("0x{KEY}"), ""),
            (format!("keystore = {KEY}"), ""),
            (format!("password = \"{KEY}\""), "STIPEND_PASSWORD"),
            (format!("issuer_api_key = \"{KEY}\""), "STIPEND_ISSUER_API_KEY"),
            (format!("rpc_url = \"https://user:{KEY}@node.example\""), "STIPEND_RPC_URL"),
            (format!("rpc_url = [\"https://{KEY}@node.example\"]"), "STIPEND_RPC_URL"),
        ] {
            let said = refused(&format!("[profiles.a]\n{line}"));
            assert!(said.contains(":2: ") && said.contains(hint) && !said.contains(KEY), "{line}: {said}");
        }
        assert!(refused(&format!("private_key = \"{KEY}\"")).contains("config.toml:1: "));
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let keystore = |path: &str| {
            let text = format!("[profiles.a]\nkeystore = \"{path}\"");
            profiles(&text).unwrap().remove("a").unwrap().remove("keystore").unwrap()
        };
        assert_eq!(keystore("keys/agent.json"), ["/etc/stipend/keys/agent.json"]);
        assert_eq!(keystore("/keys/agent.json"), ["/keys/agent.json"]);
        assert_eq!(keystore("~/agent.json"), ["/home/ada/agent.json"]);
    }

    #[test]
    fn a_chain_is_a_number_or_a_name() {
        for (written, id) in [("8453", "8453"), ("\"8453\"", "8453"), ("\"base\"", "8453")] {
            let mut found = profiles(&format!("[profiles.a]\nchain_id = {written}")).unwrap();
            assert_eq!(found.remove("a").unwrap().remove("chain_id").unwrap(), [id]);
        }
    }

    #[test]
    fn the_file_is_where_the_specification_has_it() {
        let place = |xdg: Option<&str>, home: Option<&str>| {
            default_place(xdg.map(OsString::from), home.map(Path::new)).map(|path| path.display().to_string())
        };
        let at_home = Some("/home/ada/.config/stipend/config.toml".to_owned());
        assert_eq!(place(None, Some(HOME)), at_home);
        assert_eq!(place(Some("relative"), Some(HOME)), at_home);
        assert_eq!(place(Some(""), Some(HOME)), at_home);
        assert_eq!(place(Some("/xdg"), Some(HOME)), Some("/xdg/stipend/config.toml".into()));
        assert_eq!(place(None, None), None);
    }

    #[test]
    fn a_url_is_shown_without_its_path() {
        assert_eq!(shown_url("https://node.example/v2/secret"), "https://node.example/…");
        assert_eq!(shown_url("http://127.0.0.1:8420/"), "http://127.0.0.1:8420");
        assert_eq!(shown_url("https://node.example?key=secret"), "https://node.example/…");
    }
}
