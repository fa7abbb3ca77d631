//! `stipend key`: makes keys, and shows their addresses.

use std::path::PathBuf;

use alloy_primitives::Address;
use eyre::ensure;
use serde::Serialize;
use stipend_core::address;

use crate::{
    context::Context,
    keys::{self, KeyArgs},
    keystore, output,
};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Create a key in an encrypted keystore
    #[command(after_help = "\
The password is asked for on a terminal; otherwise it comes from --password-file or STIPEND_PASSWORD.
The key itself is never shown: back up the file and the password.

Examples:
  stipend key new agent.json
  stipend key new submitter.json --password-file submitter.pass")]
    New(NewArgs),
    /// Show the address of a keystore's key, or of the key that a command would use
    #[command(after_help = "\
Examples:
  stipend key address --keystore agent.json
  STIPEND_PRIVATE_KEY=… stipend key address")]
    Address,
}

#[derive(Debug, clap::Args)]
pub(crate) struct NewArgs {
    /// The file to create; an existing one is never overwritten
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// What `stipend key` says of a key.
#[derive(Serialize)]
struct KeyView {
    #[serde(with = "address::strict")]
    address: Address,
    #[serde(skip_serializing_if = "Option::is_none")]
    keystore: Option<PathBuf>,
}

pub(crate) fn run(context: &Context, command: Command) -> eyre::Result<()> {
    let view = match command {
        Command::New(NewArgs { file }) => {
            ensure!(!file.exists(), "{} exists, and is not overwritten", file.display());
            let password = match &context.globals.keys.password_file {
                Some(from) => keys::password_in(from)?,
                None => keys::password_variable().map_or_else(|| keystore::chosen_password(&file), Ok)?,
            };
            KeyView { address: keystore::create(&file, &password)?, keystore: Some(file) }
        }
        Command::Address => {
            let KeyArgs { keystore, .. } = &context.globals.keys;
            KeyView { address: context.globals.keys.address()?, keystore: keystore.clone() }
        }
    };
    output::result(context.json(), &view, |view| {
        let keystore = view.keystore.iter().map(|file| ("keystore", output::sanitize(&file.display().to_string())));
        let address = [("address", view.address.to_string())];
        output::key_value_table(keystore.chain(address))
    })
}
