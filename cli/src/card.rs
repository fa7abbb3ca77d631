//! `stipend card`: create, list, show, reveal, close.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use alloy_primitives::B256;
use clap::Subcommand;
use eyre::bail;
use stipend_client::{CardWait, CreateCard, Error, PageQuery};
use stipend_core::{
    Amount, CardId, Code, MandateId,
    api::{Card, CardSecrets, Page, Problem},
    card::CardState,
};
use uuid::Uuid;

use crate::{context::Context, keys::DevAccount, output};

/// How long a card is waited for.
const WAIT: Duration = Duration::from_secs(180);

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a single-use card over an amount of a mandate
    #[command(after_help = "\
Examples:
  stipend card create --amount 25.00 --mandate mand_…
  stipend card create --amount 25.00 --mandate mand_… --idempotency-key order-17
  stipend card create --amount 25.00 --mandate mand_… --no-wait --json | jq -r .id

Exit code 3: the mandate's policy refuses it; every rule that does is named.")]
    Create(Create),
    /// List your cards, newest first
    #[command(after_help = "\
Examples:
  stipend card list --mandate mand_1f2e3d
  stipend card list --json | jq -r '.data[] | [.id, .state, .captured] | @tsv'")]
    List(List),
    /// Show a card, without its number
    #[command(after_help = "Example:\n  stipend card show card_…")]
    Show {
        /// The card
        card: CardId,
    },
    /// Print a card's number, expiry and code, as its agent; every look is in the audit trail
    #[command(after_help = "\
Nothing but stdout gets to see them, and nothing keeps them.

Examples:
  stipend card reveal card_…
  stipend card reveal card_… --json | your-checkout")]
    Reveal {
        /// The card
        card: CardId,
    },
    /// End a card that was not charged: its amount returns to the mandate
    #[command(after_help = "Example:\n  stipend card close card_…")]
    Close {
        /// The card
        card: CardId,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// What it may be charged, in USDC: whole cents
    #[arg(long, value_name = "USDC")]
    amount: Amount,
    /// The mandate: the full id
    #[arg(long)]
    mandate: MandateId,
    /// Commits to what is bought, such as the hash of an order
    #[arg(long = "ref", value_name = "HASH")]
    reference: Option<B256>,
    /// Idempotency key: repeating it with the same mandate, amount and ref returns the same card
    /// [default: every call creates a card]
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Return as soon as the relayer has accepted it
    #[arg(long)]
    no_wait: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only entries of this mandate: its id, or a unique prefix of it
    #[arg(long)]
    mandate: Option<String>,
    /// Number of results (1 to 100)
    #[arg(long)]
    limit: Option<u32>,
    /// Go on behind a list: its `next_cursor`
    #[arg(long)]
    cursor: Option<String>,
}

pub(crate) async fn run(context: &Context, command: Command) -> eyre::Result<()> {
    match command {
        Command::Create(args) => create(context, args).await,
        Command::List(args) => list(context, args).await,
        Command::Show { card } => {
            let caller = context.caller(DevAccount::Agent).await?;
            output::result(context.json(), &caller.client.card(card).await?, to_human)
        }
        Command::Reveal { card } => reveal(context, card).await,
        Command::Close { card } => close(context, card).await,
    }
}

async fn create(context: &Context, args: Create) -> eyre::Result<()> {
    let caller = context.caller(DevAccount::Agent).await?;
    // Always with a key, so that whatever happens the same command can be repeated.
    let key = args.idempotency_key.unwrap_or_else(|| Uuid::new_v4().to_string());
    let card = CreateCard {
        reference: args.reference,
        idempotency_key: Some(key.clone()),
        ..CreateCard::new(args.mandate, args.amount)
    };
    context.if_interrupted(format!(
        "the card may have been accepted: with --idempotency-key {key} the same command never makes two"
    ));
    let accepted = caller.client.create_card(card).await.map_err(|error| repeatable(error, &key))?;
    if accepted.replayed {
        output::note("already known: this card was asked for before, and there is one");
    }
    let mut card = accepted.object;
    context.if_interrupted(format!(
        "{0} is accepted: don't ask for another one, `stipend card show {0}` follows it",
        card.id
    ));
    if !args.no_wait && !CardWait::Active.is_satisfied_by(card.state) {
        let progress = context.progress(format!("{} is accepted, waiting for its hold", card.id));
        let waited = caller.client.wait_for_card(card.id, CardWait::Active, WAIT).await;
        drop(progress);
        // It is accepted: nothing from here on may look as if there were none.
        let what = match waited {
            Ok(waited) => {
                card = waited;
                format!("not active yet after {} s", WAIT.as_secs())
            }
            Err(error) => format!("the relayer does not say what became of it ({error})"),
        };
        if !CardWait::Active.is_satisfied_by(card.state) {
            let id = card.id;
            output::note(&format!(
                "accepted, and {what}: don't ask for another one, `stipend card show {id}` follows it"
            ));
        }
    }
    output::result(context.json(), &card, |card| {
        let reveal = format!("\nIts number: stipend card reveal {}\n", card.id);
        to_human(card) + if card.state == CardState::Active { &reveal } else { "" }
    })?;
    if let Some(end) = end_without_use(&card) {
        bail!("{end}");
    }
    Ok(())
}

/// What to say of a card that was to be active, and never will be.
fn end_without_use(card: &Card) -> Option<String> {
    let reason = card.reason.map(|code| format!(": {code}; {}", code.hint())).unwrap_or_default();
    match card.state {
        CardState::Failed => Some(format!("there is no card, and its amount is back in the budget{reason}")),
        CardState::Closing | CardState::Closed if card.authorized.is_none() => {
            Some(format!("the card is closed, and its amount returns to the budget{reason}"))
        }
        _ => None,
    }
}

/// With the same key, the same command gives the same card.
fn repeatable(error: Error, key: &str) -> Error {
    let Error::Unknown { .. } = error else { return error };
    let mut problem = Problem::new(Code::Unavailable, output::causes(&error.into()));
    problem.hint = format!("run the same command again with --idempotency-key {key}: there is never a second card");
    Error::Problem(Box::new(problem))
}

async fn list(context: &Context, args: List) -> eyre::Result<()> {
    let caller = context.caller(DevAccount::Agent).await?;
    let mandate = match &args.mandate {
        Some(text) => Some(caller.find(text).await?.id),
        None => None,
    };
    let page = caller.client.cards(mandate, &PageQuery { cursor: args.cursor, limit: args.limit }).await?;
    output::result(context.json(), &page, list_in_words)
}

fn list_in_words(page: &Page<Card>) -> String {
    if page.data.is_empty() {
        return "no cards".into();
    }
    let mut table =
        output::table(&["card", "state", "amount", "charged", "captured", "released", "last four", "accepted"]);
    for card in &page.data {
        table.add_row([
            output::short(card.id),
            card.state.name().into(),
            card.amount.to_string(),
            card.authorized.map(|amount| amount.to_string()).unwrap_or_default(),
            card.captured.to_string(),
            card.released.to_string(),
            last_four(card),
            output::time(card.created_at),
        ]);
    }
    let more = page.next_cursor.as_ref().map(|cursor| format!("more: --cursor {cursor}\n")).unwrap_or_default();
    output::fitted(table, &["accepted", "last four", "released"]) + &more
}

fn last_four(card: &Card) -> String {
    card.last_four.as_deref().map(output::sanitize).unwrap_or_default()
}

/// A card, line by line.
fn to_human(card: &Card) -> String {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    row("card", card.id.to_string());
    row("state", card.state.name().into());
    if let Some(code) = card.reason {
        row("reason", format!("{code}: {}", code.hint()));
    }
    if card.last_four.is_some() {
        row("last four", last_four(card));
    }
    row("amount", format!("{} USDC", card.amount));
    if let Some(authorized) = card.authorized {
        row("charged", format!("{authorized} USDC"));
    }
    row("captured", format!("{} USDC", card.captured));
    row("released", format!("{} USDC", card.released));
    row("until", format!("{} (excluded)", output::time(card.expires_at)));
    row("mandate", card.mandate.to_string());
    row("nonce", card.nonce.to_string());
    row("capture by", output::time(card.capture_by));
    if !card.reference.is_zero() {
        row("ref", card.reference.to_string());
    }
    for (name, tx) in [("held by", card.hold_tx), ("settled by", card.settle_tx)] {
        if let Some(tx) = tx {
            row(name, tx.to_string());
        }
    }
    output::key_value_table(rows)
}

async fn reveal(context: &Context, card: CardId) -> eyre::Result<()> {
    let caller = context.caller(DevAccount::Agent).await?;
    let secrets = caller.client.card_secrets(card).await?;
    if io::stdout().is_terminal() {
        output::note("this look is in the audit trail; whoever sees the number can charge the card: clear the screen");
    }
    output::result(context.json(), &secrets, secrets_in_words)
}

fn secrets_in_words(secrets: &CardSecrets) -> String {
    let CardSecrets { number, cvv, exp_month, exp_year } = secrets;
    output::key_value_table([
        ("number", output::sanitize(number)),
        ("expiry", output::sanitize(&format!("{exp_month}/{exp_year}"))),
        ("cvv", output::sanitize(cvv)),
    ])
}

async fn close(context: &Context, card: CardId) -> eyre::Result<()> {
    let caller = context.caller(DevAccount::Agent).await?;
    let card = caller.client.close_card(card).await?;
    output::result(context.json(), &card, |card| {
        let rest = match card.state {
            CardState::Closed => "",
            _ => "\nIts amount returns to the mandate once the issuer confirms that nothing of it is open.\n",
        };
        to_human(card) + rest
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(state: CardState) -> Card {
        Card {
            id: CardId::generate(),
            mandate: MandateId(B256::ZERO),
            state,
            reason: None,
            amount: "25".parse().unwrap(),
            authorized: None,
            captured: Amount::ZERO,
            released: Amount::ZERO,
            last_four: None,
            expires_at: 1_800_003_600,
            nonce: 0,
            capture_by: 1_803_283_200,
            reference: B256::ZERO,
            hold_tx: None,
            settle_tx: None,
            created_at: 1_800_000_000,
            updated_at: 1_800_000_000,
            metadata: Default::default(),
        }
    }

    #[test]
    fn a_lost_answer_says_how_to_ask_for_the_same_card_again() {
        let lost = Error::Unknown { url: "http://127.0.0.1:8420".parse().unwrap(), signed: None, source: None };
        let Error::Problem(problem) = repeatable(lost, "order-17") else { panic!("not a problem") };
        assert_eq!(problem.code, Code::Unavailable);
        assert!(problem.hint.contains("--idempotency-key order-17"), "{}", problem.hint);
    }

    #[test]
    fn a_card_that_never_was_is_a_failure_with_its_reason() {
        let failed = Card { reason: Some(Code::DeadlinePassed), ..card(CardState::Failed) };
        let text = end_without_use(&failed).unwrap();
        assert!(text.contains("back in the budget: deadline_passed; "), "{text}");
        assert!(end_without_use(&card(CardState::Closing)).is_some());
    }

    #[test]
    fn a_card_that_was_charged_at_once_is_none() {
        let used = Card { authorized: Some("18.40".parse().unwrap()), ..card(CardState::Closing) };
        assert_eq!(end_without_use(&used), None);
        for state in [CardState::Requested, CardState::Held, CardState::Active, CardState::Used] {
            assert_eq!(end_without_use(&card(state)), None, "{state:?}");
        }
    }

    #[test]
    fn a_card_is_shown_with_where_its_money_is() {
        let text = to_human(&Card {
            authorized: Some("18.40".parse().unwrap()),
            captured: "18.40".parse().unwrap(),
            released: "6.60".parse().unwrap(),
            last_four: Some("1234\u{1b}[2K".into()),
            ..card(CardState::Closed)
        });
        for expected in ["closed", "25.00 USDC", "18.40 USDC", "6.60 USDC", "1234\\u{1b}[2K", "2027-01-15 09:00:00 UTC"]
        {
            assert!(text.contains(expected), "{expected} is not in:\n{text}");
        }
    }
}
