//! `stipend` as a program calls it: one command, one JSON value, one exit code.

use std::{fs::OpenOptions, io::Write, process::Command};

use alloy::signers::local::PrivateKeySigner;
use eyre::{OptionExt, Result, WrapErr};
use serde_json::Value;

use crate::{World, process::binary};

/// How a command failed.
#[derive(Debug)]
pub struct Failed {
    /// Its exit code: 1 failed, 2 wrong usage, 3 refused.
    pub exit: i32,
    /// The problem that it printed.
    pub problem: Value,
}

impl World {
    /// `stipend` with these arguments and somebody's key, beside this world's relayer and node.
    ///
    /// # Errors
    /// If there is no such program.
    pub fn stipend_command(&self, key: &PrivateKeySigner, arguments: &[&str]) -> Result<Command> {
        self.secrets.key("a caller's key", key);
        let mut command = Command::new(binary()?);
        command.args(["--relayer", self.relayer.url().as_str(), "--rpc-url", self.anvil.url().as_str()]);
        command.args(arguments).env_clear().env("STIPEND_PRIVATE_KEY", key.to_bytes().to_string());
        Ok(command)
    }

    /// Runs `stipend --json` with these arguments and somebody's key, beside this world's relayer and node.
    /// Blocks until it ends: nothing else of the test happens meanwhile.
    ///
    /// # Errors
    /// If it can't be run, or prints no JSON.
    pub fn stipend(&self, key: &PrivateKeySigner, arguments: &[&str]) -> Result<Result<Value, Failed>> {
        let said = self.stipend_command(key, &[&["--json"], arguments].concat())?.output()?;
        // Is searched for secrets with the rest.
        let mut log = OpenOptions::new().create(true).append(true).open(self.dir().join("stipend.log"))?;
        log.write_all(&[&said.stdout[..], &said.stderr[..]].concat())?;
        let exit = said.status.code().ok_or_eyre("it was killed")?;
        let text = String::from_utf8(if exit == 0 { said.stdout } else { said.stderr })?;
        // The problem is the last line; what would have been asked stands above it.
        let json = serde_json::from_str(text.lines().last().unwrap_or_default());
        let value = json.wrap_err_with(|| format!("{arguments:?}: {text}"))?;
        Ok(if exit == 0 { Ok(value) } else { Err(Failed { exit, problem: value }) })
    }
}
