//! `stipend`: on-chain spending mandates for AI agents, from the command line.

mod anvil;
mod approve;
mod audit;
mod balance;
mod card;
mod config;
mod context;
mod deploy;
mod dev;
mod doctor;
mod issuer;
mod key;
mod keys;
mod keystore;
mod ledger;
mod logging;
mod mandate;
mod mandate_source;
mod mcp;
mod merchant;
mod networks;
mod output;
mod pay;
mod payment;
mod prompt;
mod refund;
mod replaced;
mod revoke;
mod roll;
mod serve;
mod settings;
mod signals;
mod submitter;
mod sweep;
mod terms;

use std::{ffi::OsStr, process::ExitCode, time::Duration};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};
use clap_complete::Shell;

use context::{Context, Globals};
use settings::Settings;

/// How long blocked threads are waited for at the end.
const BLOCKED_TIMEOUT: Duration = Duration::from_secs(1);

const ABOUT: &str = "\
An operator approves a spending mandate once; the agent then pays within it on its own. Contract and \
relayer refuse anything outside it, and unspent USDC returns to the operator.";

const EXAMPLES: &str = "\
A first mandate, with `stipend dev` running in another terminal:
  stipend mandate request --amount 100.00 --intent \"Automate marketing ops spend\" --duration 30d
  stipend mandate approve req_…
  stipend pay --mandate mand_… --to 0x… --amount 4.20
  stipend card create --mandate mand_… --amount 25.00
  stipend balance

Keys: --keystore FILE, or STIPEND_PRIVATE_KEY, or on anvil's chain id alone --dev-account NAME
(the default if no key is given).

Settings: a flag wins over an environment variable, that over a profile of the configuration file
(`stipend config`), that over the default.

Results go to stdout, everything else to stderr. With --json, stdout carries one JSON value per
line, and an error is a problem (RFC 9457) as one line of JSON, the last on stderr.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused by the mandate's policy, or a charge\ndeclined, 130 interrupted.";

#[derive(Debug, Parser)]
#[command(name = "stipend", version, about = ABOUT, after_help = EXAMPLES, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a local development stack: a chain, the contracts, a relayer, a card issuer and
    /// funded keys
    Dev(dev::Args),
    /// Run a relayer
    Serve(Box<serve::Args>),
    /// Run the mock card issuer
    Issuer(issuer::Args),
    /// Check a relayer's ledger, and repair it from the chain
    #[command(subcommand)]
    Ledger(ledger::Command),
    /// Create keys, and show their addresses
    #[command(subcommand)]
    Key(key::Command),
    /// Deploy an escrow
    Deploy(deploy::Args),
    /// Allow and remove submitters, as the guardian
    #[command(subcommand)]
    Submitter(submitter::Command),
    /// Request, approve, show, revoke and sweep mandates
    #[command(subcommand)]
    Mandate(mandate::Command),
    /// Pay from a mandate
    Pay(pay::Args),
    /// Refund a payment to its mandate, as the payee
    Refund(refund::Args),
    /// Show and list payments
    #[command(subcommand)]
    Payment(payment::Command),
    /// Create, show, reveal and close single-use cards
    #[command(subcommand)]
    Card(card::Command),
    /// Simulate a merchant's terminal, against the mock issuer or a sandbox
    #[command(subcommand)]
    Merchant(merchant::Command),
    /// Serve an agent's wallet to a model's host over stdio (Model Context Protocol)
    Mcp(mcp::Args),
    /// Print a script that completes this command in a shell
    #[command(after_help = "\
Examples:
  stipend completions bash > ~/.local/share/bash-completion/completions/stipend
  stipend completions zsh > \"${fpath[1]}/_stipend\"
  stipend completions fish > ~/.config/fish/completions/stipend.fish")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Show the settings in effect, and an example of the file that they can stand in
    #[command(subcommand)]
    Config(config::Command),
    /// Find out what is wrong with a set-up, and what mends it
    Doctor(doctor::Args),
    /// Show where the money of your mandates is, in the ledger and on chain
    Balance(balance::Args),
    /// Print the audit trail: every request, decision, payment and card, with its transaction
    Audit(audit::Args),
}

/// An empty environment variable, as compose files and service managers set it, is no setting.
fn ignore_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| if arg.get_env().is_some_and(is_empty) { arg.env(None::<&'static str>) } else { arg })
        .mut_subcommands(ignore_empty_variables)
}

/// The command, with what it is to know of the environment.
fn command() -> clap::Command {
    ignore_empty_variables(Cli::command())
}

/// Reads the command line, and for its defaults the configuration that it names.
///
/// # Errors
/// What is wrong with the configuration, and whether to say so in JSON. A wrong command line ends the process.
fn parse() -> Result<(Cli, Settings), (eyre::Report, bool)> {
    // Arguments may be missing here that a profile has.
    let named = command().ignore_errors(true).get_matches();
    let mut settings = if needs_no_settings(&named) {
        Settings::default()
    } else {
        Settings::load(&named).map_err(|report| (report, named.get_flag("json")))?
    };
    let mut command = settings.as_defaults(command());
    let matches = command.get_matches_mut();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let Command::Serve(args) = &cli.command
        && let Err(wrong) = args.check()
    {
        command.error(ErrorKind::ValueValidation, wrong).exit();
    }
    settings.resolve(&matches, &Cli::command());
    Ok((cli, settings))
}

/// Whether a broken configuration is no obstacle: these print the same whatever it says.
fn needs_no_settings(matches: &clap::ArgMatches) -> bool {
    match matches.subcommand() {
        Some(("completions", _)) => true,
        Some(("config", config)) => config.subcommand_name() == Some("default"),
        _ => false,
    }
}

fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "stipend", &mut script);
    String::from_utf8_lossy(&script).trim_end().to_owned()
}

fn main() -> ExitCode {
    let (cli, settings) = match parse() {
        Ok(read) => read,
        Err((report, json)) => return output::failure(&report, json),
    };
    let json = cli.globals.json;
    match run(cli, settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) => output::failure(&report, json),
    }
}

fn run(cli: Cli, settings: Settings) -> eyre::Result<()> {
    // Fails only if there is one already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(dispatch(Context::new(cli.globals, settings), cli.command));
    // A thread that waits for stdin may never end.
    runtime.shutdown_timeout(BLOCKED_TIMEOUT);
    outcome
}

async fn dispatch(context: Context, command: Command) -> eyre::Result<()> {
    match command {
        // These stop in order when they are asked to.
        Command::Dev(args) if args.command.is_none() => dev::run(&context, args).await,
        Command::Serve(args) => serve::run(&context, *args).await,
        Command::Issuer(args) => issuer::run(&context, args).await,
        Command::Mcp(args) => mcp::run(&context, args).await,
        command => context.interruptible(dispatch_interruptible(&context, command)).await,
    }
}

async fn dispatch_interruptible(context: &Context, command: Command) -> eyre::Result<()> {
    match command {
        Command::Dev(dev::Args { command: Some(dev::Command::Clock(args)), .. }) => {
            dev::clock::run(context, args).await
        }
        Command::Dev(_) | Command::Serve(_) | Command::Issuer(_) | Command::Mcp(_) => Ok(()),
        Command::Ledger(command) => ledger::run(context, command).await,
        Command::Key(command) => key::run(context, command),
        Command::Config(command) => config::run(context, &command),
        Command::Completions { shell } => output::line(&completions(shell)),
        Command::Deploy(args) => deploy::run(context, args).await,
        Command::Submitter(command) => submitter::run(context, command).await,
        Command::Mandate(command) => mandate::run(context, command).await,
        Command::Pay(args) => pay::run(context, args).await,
        Command::Refund(args) => refund::run(context, args).await,
        Command::Payment(command) => payment::run(context, command).await,
        Command::Card(command) => card::run(context, command).await,
        Command::Merchant(command) => merchant::run(context, command).await,
        Command::Doctor(args) => doctor::run(context, args).await,
        Command::Balance(args) => balance::run(context, args).await,
        Command::Audit(args) => audit::run(context, args).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_complete_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = completions(shell);
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
        }
    }

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        const ACCOUNT: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
        let serve = |more: &[&str]| {
            let always = ["stipend", "serve", "--chain-id", "1", "--escrow", ACCOUNT, "--guardian", ACCOUNT];
            Cli::try_parse_from(always.iter().chain(more))
        };
        for (flag, value) in [
            ("--finality", "0"),
            ("--confirmations", "0"),
            ("--fee-ceiling-gwei", "0"),
            ("--poll-ms", "0"),
            ("--rpc-url", "ftp://node.example"),
        ] {
            let error = serve(&[flag, value]).unwrap_err();
            assert!(error.to_string().contains(flag) && error.exit_code() == 2, "{error}");
        }
        let check = |more: &[&str]| {
            let Command::Serve(args) = serve(more).unwrap().command else { panic!("another command") };
            args.check()
        };
        assert!(check(&[]).is_ok());
        let wrong = check(&["--deadline-min", "100", "--deadline-max", "50"]).unwrap_err();
        assert!(wrong.contains("--deadline-min 100") && wrong.contains("--deadline-max 50"), "{wrong}");
    }

    #[test]
    fn every_command_shows_examples() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            for sub in command.get_subcommands() {
                check(sub, &path);
            }
            if command.get_subcommands().next().is_none() || !command.is_subcommand_required_set() {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("stipend "), "no example in the help of{path}");
            }
        }
        check(&Cli::command(), "");
    }
}
