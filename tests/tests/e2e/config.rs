//! Settings from a file, below flags and environment variables.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use eyre::{OptionExt, Result, ensure};
use serde_json::{Value, json};
use stipend_e2e::{Failed, World, binary};

use crate::opened;

const KEY: &str = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";

/// `stipend` with nothing from its surroundings but these variables.
fn command(variables: &[(&str, &str)], arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary()?);
    command.args(arguments).env_clear().envs(variables.iter().copied());
    Ok(command)
}

/// What `stipend --json` prints, or how it fails.
fn stipend(variables: &[(&str, &str)], arguments: &[&str]) -> Result<Result<Value, Failed>> {
    let said = command(variables, &[&["--json"], arguments].concat())?.output()?;
    let exit = said.status.code().ok_or_eyre("it was killed")?;
    let text = String::from_utf8(if exit == 0 { said.stdout } else { said.stderr })?;
    let value = serde_json::from_str(text.lines().last().unwrap_or_default())?;
    Ok(if exit == 0 { Ok(value) } else { Err(Failed { exit, problem: value }) })
}

fn done(said: Result<Value, Failed>) -> Value {
    said.unwrap_or_else(|failed| panic!("{failed:?}"))
}

/// Why it failed.
fn why(said: Result<Value, Failed>) -> String {
    let Err(Failed { exit: 1, problem }) = said else { panic!("it did not fail: {said:?}") };
    problem["detail"].to_string()
}

fn write(folder: &Path, text: &str) -> Result<String> {
    fs::create_dir_all(folder)?;
    let file = folder.join("config.toml");
    fs::write(&file, text)?;
    Ok(file.display().to_string())
}

/// A setting in effect, and where it comes from.
fn effective(shown: &Value, name: &str) -> (Value, Value) {
    let settings = shown["settings"].as_array().into_iter().flatten();
    let found = settings.into_iter().find(|setting| setting["name"] == name);
    found.map(|setting| (setting["value"].clone(), setting["source"].clone())).unwrap_or_default()
}

fn where_it_is(world: &World) -> String {
    let (relayer, node) = (world.relayer.url(), world.anvil.url());
    format!("relayer_url = \"{relayer}\"\nrpc_url = \"{node}\"\ndev_account = \"agent\"\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_says_which_relayer_and_which_key() -> Result<()> {
    let ((here, mine), (there, theirs)) = (opened("config-here", "10").await?, opened("config-there", "20").await?);
    let profiles = format!("[profiles.default]\n{}[profiles.there]\n{}", where_it_is(&here), where_it_is(&there));
    let file = write(&here.dir().join("config"), &profiles)?;
    let mandates = |variables: &[(&str, &str)], more: &[&str]| -> Result<Value> {
        Ok(done(stipend(variables, &[&["--config", &file, "mandate", "list"], more].concat())?))
    };
    let is_of = |listed: &Value, id| listed.to_string().contains(&format!("{id}"));
    let (here_url, there_url) = (here.relayer.url().to_string(), there.relayer.url().to_string());

    // The profile; another one by a flag and by the environment; and what wins against a profile.
    for (variables, flags, expected) in [
        (&[][..], &[][..], mine.id),
        (&[], &["--profile", "there"], theirs.id),
        (&[("STIPEND_PROFILE", "there")], &[], theirs.id),
        (&[("STIPEND_PROFILE", "")], &[], mine.id),
        (&[("STIPEND_PROFILE", "there")], &["--profile", "default"], mine.id),
        (&[("STIPEND_RELAYER_URL", &there_url)], &[], theirs.id),
        (&[("STIPEND_RELAYER_URL", &there_url)], &["--relayer", &here_url], mine.id),
        (&[("STIPEND_RELAYER_URL", "")], &[], mine.id),
    ] {
        let listed = mandates(variables, flags)?;
        assert!(is_of(&listed, expected), "{variables:?} {flags:?}: {listed}");
    }

    // All four sources, as they are shown.
    let show = |variables: &[(&str, &str)], arguments: &[&str]| -> Result<(Value, Value)> {
        let shown = done(stipend(variables, &[arguments, &["config", "show"]].concat())?);
        Ok(effective(&shown, "relayer_url"))
    };
    let shown = |url: &str| Value::from(url.trim_end_matches('/'));
    let (named, variable) = (&["--config", &file][..], &[("STIPEND_RELAYER_URL", there_url.as_str())][..]);
    assert_eq!(show(&[], &[])?, ("http://127.0.0.1:8420".into(), "default".into()));
    assert_eq!(show(&[], named)?, (shown(&here_url), "profile".into()));
    assert_eq!(show(variable, named)?, (shown(&there_url), "environment".into()));
    let flag = [named, &["--relayer", "http://flag.example"]].concat();
    assert_eq!(show(variable, &flag)?, ("http://flag.example".into(), "flag".into()));

    // The wallet of a model's host takes the same.
    let settings = "reveal_to = \"none\"\ndotted_names = true\n";
    let file = write(&here.dir().join("mcp"), &format!("[profiles.host]\n{}{settings}", where_it_is(&there)))?;
    let tools = tools(&file)?;
    assert!(tools.contains("wallet.balance") && !tools.contains("card.reveal"), "{tools}");
    let balance = tools_call(&file, "wallet.balance")?;
    assert!(is_of(&balance, theirs.id), "{balance}");
    Ok(())
}

/// What the wallet answers to one request.
fn ask_wallet(file: &str, method: &str, params: &Value) -> Result<Value> {
    let mut wallet = command(&[], &["--config", file, "--profile", "host", "mcp"])?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = wallet.stdin.take().ok_or_eyre("no stdin")?;
    let host =
        json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "h", "version": "1" } });
    for message in [
        json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": host }),
        json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }),
        json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }),
    ] {
        writeln!(input, "{message}")?;
    }
    let mut answer = Value::Null;
    for line in BufReader::new(wallet.stdout.take().ok_or_eyre("no stdout")?).lines() {
        answer = serde_json::from_str(&line?)?;
        if answer["id"] == 1 {
            break;
        }
    }
    drop(input);
    ensure!(wallet.wait()?.success(), "{answer}");
    Ok(answer["result"].clone())
}

fn tools(file: &str) -> Result<String> {
    let listed = ask_wallet(file, "tools/list", &json!({}))?;
    let tools = listed["tools"].as_array().ok_or_eyre("no tools")?;
    Ok(tools.iter().map(|tool| tool["name"].to_string()).collect())
}

fn tools_call(file: &str, tool: &str) -> Result<Value> {
    ask_wallet(file, "tools/call", &json!({ "name": tool, "arguments": {} }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relayer_of_another_chain_or_escrow_is_not_the_one_of_the_profile() -> Result<()> {
    let world = World::start("config-pins").await?;
    let info = world.agent()?.info().await?;
    let list = |settings: &str, variables: &[(&str, &str)]| {
        let profile = format!("[profiles.default]\n{}{settings}", where_it_is(&world));
        let file = write(&world.dir().join("config"), &profile)?;
        stipend(variables, &["--config", &file, "mandate", "list"])
    };
    let token = info.token;
    let right = format!("chain_id = {}\nescrow = \"{}\"", info.chain_id, info.escrow);
    assert_eq!(done(list(&right, &[])?)["data"], json!([]));
    for (settings, variables, reason) in [
        ("chain_id = \"base\"", &[][..], "names 8453"),
        (&format!("escrow = \"{token}\""), &[], "do not trust this relayer"),
        (&right, &[("STIPEND_CHAIN_ID", "8453")], "STIPEND_CHAIN_ID names 8453"),
        (&right, &[("STIPEND_ESCROW", &token.to_string())], "STIPEND_ESCROW names"),
    ] {
        let why = why(list(settings, variables)?);
        assert!(why.contains(reason), "{settings} {variables:?}: {why}");
    }
    // The environment wins against the profile here as well.
    let chain_id = info.chain_id.to_string();
    assert_eq!(done(list("chain_id = 1", &[("STIPEND_CHAIN_ID", &chain_id)])?)["data"], json!([]));

    let file = write(&world.dir().join("config"), &format!("[profiles.default]\n{}chain_id = 1", where_it_is(&world)))?;
    let doctor = command(&[], &["--config", &file, "--json", "doctor"])?.output()?;
    let findings: Value = serde_json::from_slice(&doctor.stdout)?;
    let relayer = findings.as_array().and_then(|all| all.iter().find(|finding| finding["what"] == "relayer"));
    assert!(relayer.is_some_and(|finding| finding["result"] == "failed"), "{findings}");
    // A node alone is held to it too.
    let escrow = info.escrow.to_string();
    let submitter = world.keys.submitter.address().to_string();
    let alone = ["--config", &file, "submitter", "allow", &submitter, "--escrow", &escrow, "--yes"];
    assert!(why(stipend(&[], &alone)?).contains("names 1"));
    Ok(())
}

#[test]
fn a_key_that_is_given_replaces_the_one_of_the_profile() -> Result<()> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("config-keys");
    let _ = fs::remove_dir_all(&folder);
    let file = write(&folder, "[profiles.default]\nkeystore = \"keys/agent.json\"\npassword_file = \"agent.pass\"\n")?;
    let path = |name: &str| folder.join(name).display().to_string();
    fs::create_dir(folder.join("keys"))?;
    fs::write(folder.join("agent.pass"), "of the profile\n")?;
    fs::write(folder.join("other.pass"), "another\n")?;
    let new = |keystore: &str, password: &str| {
        let keystore = path(keystore);
        stipend(&[], &["key", "new", &keystore, "--password-file", &path(password)])
    };
    let (mine, other) = (done(new("keys/agent.json", "agent.pass")?), done(new("other.json", "other.pass")?));
    let key = |variables: &[(&str, &str)], flags: &[&str]| -> Result<Value> {
        Ok(done(stipend(variables, &[&["--config", &file, "key", "address"], flags].concat())?)["address"].clone())
    };
    assert_eq!(key(&[], &[])?, mine["address"]);
    let (keystore, password) = (path("other.json"), path("other.pass"));
    assert_eq!(key(&[], &["--keystore", &keystore, "--password-file", &password])?, other["address"]);
    // The profile's password is the one of its own keystore, and weaker than a variable.
    assert_eq!(key(&[("STIPEND_PASSWORD", "another")], &["--keystore", &keystore])?, other["address"]);
    let wrong = stipend(&[("STIPEND_PASSWORD", "another")], &["--config", &file, "key", "address"])?;
    assert!(why(wrong).contains("password"));
    let third = path("third.json");
    assert!(why(stipend(&[], &["--config", &file, "key", "new", &third])?).contains("password"));
    let operator = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
    assert_eq!(key(&[("STIPEND_PRIVATE_KEY", KEY)], &[])?, operator);
    assert_eq!(key(&[], &["--dev-account", "operator"])?, operator);

    let shown = done(stipend(&[("STIPEND_PRIVATE_KEY", KEY)], &["--config", &file, "config", "show"])?);
    assert_eq!(effective(&shown, "keystore").0, Value::Null);
    assert_eq!(effective(&shown, "STIPEND_PRIVATE_KEY"), ("set, not shown".into(), "environment".into()));
    let people = command(&[], &["--config", &file, "config", "show"])?.output()?;
    let text = String::from_utf8(people.stdout)?;
    assert!(text.contains("profile   default") && text.contains(&path("keys/agent.json")), "{text}");
    Ok(())
}

#[test]
fn a_file_that_is_wrong_is_refused_with_its_line_and_without_its_secrets() -> Result<()> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("config-wrong");
    let show = |text: &str| -> Result<(String, String)> {
        let file = write(&folder, text)?;
        Ok((why(stipend(&[], &["--config", &file, "config", "show"])?), file))
    };
    let (unknown, file) = show("[profiles.a]\n\nrelayer = \"http://relayer.example\"\n")?;
    assert!(unknown.contains(&format!("{file}:3: ")) && unknown.contains("did you mean relayer_url?"), "{unknown}");
    for (setting, hint) in [
        (format!("private_key = \"{KEY}\""), "STIPEND_PRIVATE_KEY"),
        (format!("escrow = \"{KEY}\""), "keystore"),
        (format!("issuer_key = \"{KEY}\""), "STIPEND_ISSUER_API_KEY"),
        (format!("password = \"{KEY}\""), "password_file"),
        (format!("rpc_url = \"https://u:{KEY}@node.example\""), "STIPEND_RPC_URL"),
    ] {
        // Whichever profile is in use.
        let (said, file) = show(&format!("[profiles.default]\n[profiles.a]\n{setting}\n"))?;
        assert!(said.contains(&format!("{file}:3: ")) && said.contains(hint), "{setting}: {said}");
        assert!(!said.contains(&KEY[2..]), "{setting}: {said}");
    }
    // What prints the same whatever it says is no use of it.
    let file = write(&folder, "nonsense")?;
    let example = command(&[("STIPEND_CONFIG", &file)], &["config", "default"])?.output()?;
    assert!(example.status.success() && command(&[("STIPEND_CONFIG", &file)], &["--help"])?.output()?.status.success());
    assert!(why(stipend(&[("STIPEND_CONFIG", &file)], &["key", "address"])?).contains(":1: "));

    // The example itself is good, and changes nothing.
    let file = write(&folder, &String::from_utf8(example.stdout)?)?;
    let shown = done(stipend(&[], &["--config", &file, "config", "show"])?);
    let bare = done(stipend(&[], &["config", "show"])?);
    assert_eq!((&shown["profile"], &bare["profile"]), (&"default".into(), &Value::Null));
    for setting in bare["settings"].as_array().ok_or_eyre("no settings")? {
        let name = setting["name"].as_str().unwrap_or_default();
        assert_eq!(effective(&shown, name).0, setting["value"], "{name}");
    }
    Ok(())
}

#[test]
fn a_file_may_be_missing_unless_it_is_named() -> Result<()> {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("config-home");
    let _ = fs::remove_dir_all(&home);
    let (home, elsewhere) = (home.display().to_string(), home.join("xdg").display().to_string());
    let show = |variables: &[(&str, &str)], flags: &[&str]| stipend(variables, &[flags, &["config", "show"]].concat());
    assert_eq!(done(show(&[("HOME", &home)], &[])?)["file"], Value::Null);
    assert_eq!(done(show(&[("HOME", "/dev/null")], &[])?)["file"], Value::Null);
    assert!(why(show(&[], &["--config", "/nowhere/config.toml"])?).contains("/nowhere/config.toml"));
    assert!(why(show(&[("STIPEND_CONFIG", "/nowhere/config.toml")], &[])?).contains("/nowhere/config.toml"));
    assert!(why(show(&[("HOME", &home)], &["--profile", "base"])?).contains("stipend config default"));

    let at_home = write(&PathBuf::from(&home).join(".config/stipend"), "[profiles.base]\nchain_id = 8453")?;
    let at_xdg = write(&PathBuf::from(&elsewhere).join("stipend"), "[profiles.default]\nchain_id = 1")?;
    let shown = done(show(&[("HOME", &home)], &["--profile", "base"])?);
    assert_eq!((&shown["file"], effective(&shown, "chain_id").0), (&at_home.into(), "8453".into()));
    let shown = done(show(&[("HOME", &home)], &[])?);
    assert_eq!((&shown["profile"], effective(&shown, "chain_id").0), (&Value::Null, Value::Null));
    let shown = done(show(&[("HOME", &home), ("XDG_CONFIG_HOME", &elsewhere)], &[])?);
    assert_eq!((&shown["file"], effective(&shown, "chain_id").0), (&at_xdg.into(), "1".into()));
    assert!(why(show(&[("HOME", &home)], &["--profile", "other"])?).contains("it has base"));

    // What a profile has need not be said again: not even what is required.
    let serve = command(&[("HOME", &home)], &["--profile", "base", "serve"])?.output()?;
    let said = String::from_utf8(serve.stderr)?;
    assert!(serve.status.code() == Some(2) && said.contains("--escrow") && !said.contains("--chain-id <"), "{said}");
    Ok(())
}
