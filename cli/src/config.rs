//! `stipend config`: the settings in effect, and an example of the file that they can stand in.

use std::path::Path;

use serde::Serialize;

use crate::{
    context::Context,
    output,
    settings::{self, EXAMPLE, Effective, Settings, Source},
};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Print the settings in effect, and where each comes from
    #[command(after_help = "\
Secrets are not shown, nor the paths of URLs, which can hold a key.

Examples:
  stipend config show
  stipend --profile base config show --json")]
    Show,
    /// Print an example of the file, with every setting
    #[command(after_help = "\
Examples:
  mkdir -p ~/.config/stipend && stipend config default > ~/.config/stipend/config.toml")]
    Default,
}

/// What `stipend config show` prints.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    file: Option<&'a Path>,
    profile: Option<&'a str>,
    profiles: &'a [String],
    settings: &'a [Effective],
}

pub(crate) fn run(context: &Context, command: &Command) -> eyre::Result<()> {
    match command {
        Command::Default => output::line(EXAMPLE.trim_end()),
        Command::Show => {
            let Settings { file, profile, profiles, effective, .. } = &context.settings;
            let shown = Shown { file: file.as_deref(), profile: profile.as_deref(), profiles, settings: effective };
            output::result(context.json(), &shown, Shown::to_human)
        }
    }
}

impl Shown<'_> {
    fn to_human(&self) -> String {
        let file = self.file.map_or_else(|| "none".into(), |file| file.display().to_string());
        let mut text = format!(
            "file      {}\nprofile   {} (the file has: {})\n",
            output::sanitize(&file),
            output::sanitize(self.profile.unwrap_or("none")),
            output::sanitize(&settings::listed(self.profiles)),
        );
        let mut table = output::table(&["setting", "value", "from"]);
        for Effective { name, value, source } in self.settings {
            let value = value.as_deref().map_or_else(|| "not set".into(), output::sanitize);
            let source = match source {
                Source::Flag => "flag",
                Source::Environment => "environment",
                Source::Profile => "profile",
                Source::Default => "default",
            };
            table.add_row([name.clone(), value, source.to_owned()]);
        }
        text.push_str(&output::text(&table));
        text
    }
}
