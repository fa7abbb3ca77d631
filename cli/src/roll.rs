//! `stipend mandate extend`, `rotate` and `resize`: a new mandate replaces another one of the same operator, and
//! what is left is carried over.

use alloy_primitives::{Address, B256};
use eyre::{bail, ensure};
use serde::Serialize;
use stipend_client::chain::{Escrow, Rolled};
use stipend_core::{Amount, HumanDuration, MandateId, Seconds, Terms, address};

use crate::{
    approve::wait_until_open,
    context::Context,
    keys::DevAccount,
    mandate_source::{Source, resolve_mandate},
    output, prompt,
    replaced::Replaced,
};

/// What all of them take.
#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    /// The mandate: the full id
    mandate: MandateId,
    /// Skip the confirmation prompt
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Extend {
    #[command(flatten)]
    common: Common,
    /// How long from now on: 30d, 12h, 45m or 90s
    #[arg(long)]
    duration: HumanDuration,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Rotate {
    #[command(flatten)]
    common: Common,
    /// Who signs payments from now on
    #[arg(long, value_name = "ADDRESS", value_parser = address::parse)]
    agent: Address,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Resize {
    #[command(flatten)]
    common: Common,
    /// How much can be spent from now on, in USDC
    #[arg(long, value_name = "USDC")]
    cap: Amount,
}

/// What changes. The rest stays.
#[derive(Clone, Copy, Debug, Default)]
struct Change {
    duration: Option<HumanDuration>,
    agent: Option<Address>,
    /// Absent: what is left.
    cap: Option<Amount>,
}

pub(crate) async fn extend(context: &Context, args: Extend) -> eyre::Result<()> {
    roll(context, args.common, Change { duration: Some(args.duration), ..Change::default() }).await
}

pub(crate) async fn rotate(context: &Context, args: Rotate) -> eyre::Result<()> {
    roll(context, args.common, Change { agent: Some(args.agent), ..Change::default() }).await
}

pub(crate) async fn resize(context: &Context, args: Resize) -> eyre::Result<()> {
    roll(context, args.common, Change { cap: Some(args.cap), ..Change::default() }).await
}

impl Change {
    /// The new terms at the chain's time `now`, when so much is left.
    fn apply(self, from: &Terms, left: Amount, now: Seconds) -> Terms {
        let cap = self.cap.unwrap_or(left);
        let expiry = self.duration.map_or(from.expiry, |duration| now.saturating_add(duration.seconds()));
        Terms {
            agent: self.agent.unwrap_or(from.agent),
            cap,
            // No part may be above the whole.
            per_payment: from.per_payment.min(cap),
            window_cap: from.window_cap.min(cap),
            start: from.start.max(now),
            expiry,
            capture_end: expiry.saturating_add(from.capture_end.saturating_sub(from.expiry)),
            ..from.clone()
        }
    }
}

/// A mandate that was replaced, for programs.
#[derive(Serialize)]
struct RolledView {
    from: MandateId,
    mandate: MandateId,
    tx_hash: B256,
    carried: Amount,
    pulled: Amount,
    returned: Amount,
}

impl RolledView {
    fn to_human(&self) -> String {
        let Self { from, mandate, tx_hash, carried, pulled, returned } = self;
        format!(
            "{mandate} replaces {from}\n{carried} USDC carried, {pulled} pulled, {returned} returned\ntransaction \
             {tx_hash}\n\nThe agent pays by: stipend pay --mandate {mandate} --to 0x… --amount 4.20"
        )
    }
}

async fn roll(context: &Context, common: Common, change: Change) -> eyre::Result<()> {
    let Common { mandate: id, yes, source } = common;
    let (escrow, from, signer) = resolve_mandate(context, id, &source).await?;
    let replaced = Replaced::new(&escrow, id, from, signer.address()).await?;
    let left = replaced.state.remaining;
    ensure!(
        change.cap.is_some() || !left.is_zero(),
        "nothing is left of {id}: `stipend mandate resize {id} --cap …` gives it a new budget"
    );

    let time = escrow.chain().head().await?.time;
    let to = change.apply(&replaced.terms, left, time);
    to.check(time)?;
    let (next, to) = never_opened(&escrow, to).await?;
    replaced.check_funds(&escrow, to.cap).await?;
    let question = format!("Replace {}?", output::short(id));
    prompt::confirm(context, yes, &comparison(&replaced, (next, &to)), &question)?;

    context.if_interrupted("the mandate may still be replaced: look at `stipend mandate list` before you try again");
    let progress = context.progress("replacing the mandate");
    let Rolled { tx_hash, mandate, carried, returned } = replaced.roll(&escrow, &signer, &to, &progress).await?;
    let pulled = to.cap.checked_sub(carried).unwrap_or_default();
    // Without a relayer there is nobody to ask, and another guardian's may not follow it.
    if source.escrow.is_none() {
        let caller = context.caller(DevAccount::Operator).await?;
        if caller.info.guardian == to.guardian {
            progress.say("waiting until the relayer sees it open");
            wait_until_open(&caller, mandate).await?;
        }
    }
    drop(progress);
    let view = RolledView { from: id, mandate, tx_hash, carried, pulled, returned };
    output::result(context.json(), &view, RolledView::to_human)
}

/// Terms open once. Those that go back to what a mandate was within a second of it, or before it starts, would be the
/// same: they start as much later as it takes to be others.
async fn never_opened(escrow: &Escrow, terms: Terms) -> eyre::Result<(MandateId, Terms)> {
    for start in terms.start..terms.expiry {
        let terms = Terms { start, ..terms.clone() };
        let id = escrow.domain().mandate_id(&terms)?;
        if !escrow.mandate_of(id).await?.known {
            return Ok((id, terms));
        }
    }
    bail!("the mandate expires before other terms could start: `stipend mandate extend` gives it more time")
}

/// Before and after, side by side: what differs, and where the money goes.
fn comparison(replaced: &Replaced, (next, to): (MandateId, &Terms)) -> String {
    let Replaced { id, terms: from, state } = replaced;
    let maximum = |amount: Amount| if amount.is_zero() { "any".into() } else { format!("{amount} USDC") };
    let rows = [
        ("mandate", id.to_string(), next.to_string()),
        ("can be spent", format!("{} USDC", state.remaining), format!("{} USDC", to.cap)),
        ("agent", from.agent.to_string(), to.agent.to_string()),
        ("per payment", maximum(from.per_payment), maximum(to.per_payment)),
        ("within a window", maximum(from.window_cap), maximum(to.window_cap)),
        ("from", output::time(from.start), output::time(to.start)),
        ("until", output::time(from.expiry), output::time(to.expiry)),
        ("held until", output::time(from.capture_end), output::time(to.capture_end)),
    ];
    let mut table = output::table(&["", "before", "after"]);
    for (name, before, after) in rows.into_iter().filter(|(_, before, after)| before != after) {
        table.add_row([name.to_owned(), before, after]);
    }
    format!("{}\n{}", output::text(&table).trim_end(), replaced.consequences(to.cap))
}

#[cfg(test)]
mod tests {
    use stipend_client::chain::OnChain;

    use super::*;
    use crate::{replaced::Flow, terms::tests::mandate};

    fn usdc(text: &str) -> Amount {
        text.parse().unwrap()
    }

    fn terms() -> Terms {
        mandate([1; 32]).terms
    }

    #[test]
    fn what_is_not_changed_stays_but_for_the_start() {
        let from = terms();
        let now = from.start + 100;
        let to = Change { agent: Some(Address::repeat_byte(9)), ..Change::default() }.apply(&from, from.cap, now);
        assert_eq!(to, Terms { agent: Address::repeat_byte(9), start: now, ..from.clone() });
        // What has not begun yet does not begin earlier.
        let early = Change::default().apply(&from, from.cap, from.start - 100);
        assert_eq!(early, from);
    }

    #[test]
    fn an_extension_counts_from_now_and_moves_no_money() {
        let from = terms();
        let now = from.expiry + 100;
        let duration = Some("30d".parse().unwrap());
        let to = Change { duration, ..Change::default() }.apply(&from, usdc("61"), now);
        assert_eq!((to.expiry, to.cap), (now + 30 * 86_400, usdc("61")));
        assert_eq!(to.capture_end - to.expiry, from.capture_end - from.expiry);
        assert_eq!(Flow::new(usdc("61"), to.cap), Flow { pull: Amount::ZERO, excess: Amount::ZERO });
    }

    #[test]
    fn no_part_is_above_a_smaller_whole() {
        let from = terms();
        let to = Change { cap: Some(usdc("10")), ..Change::default() }.apply(&from, usdc("61"), from.start);
        assert_eq!((to.cap, to.per_payment, to.window_cap), (usdc("10"), usdc("10"), usdc("10")));
        assert!(to.check(from.start).is_ok());
        assert_eq!(Flow::new(usdc("61"), to.cap), Flow { pull: Amount::ZERO, excess: usdc("51") });
    }

    #[test]
    fn only_what_changes_is_shown_and_where_the_money_goes() {
        let from = terms();
        let state = OnChain { known: true, ended: false, remaining: usdc("61"), held: usdc("5"), next_nonce: 0 };
        let to = Change { cap: Some(usdc("80")), ..Change::default() }.apply(&from, state.remaining, from.start);
        let ids = [1, 2].map(|byte| MandateId(B256::repeat_byte(byte)));
        let text = comparison(&Replaced { id: ids[0], terms: from, state }, (ids[1], &to));
        for part in ["61.00 USDC", "80.00 USDC", "19.00 USDC are pulled", "5.00 USDC in holds", &ids[1].to_string()] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        for other in ["agent", "until", "per payment"] {
            assert!(!text.contains(other), "{other} is in:\n{text}");
        }
    }
}
