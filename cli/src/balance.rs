//! `stipend balance`: where the money is, by the ledger and by the chain.

use eyre::Result;
use serde::Serialize;
use stipend_client::chain::OnChain;
use stipend_core::{Amount, MandateId, api::Mandate, policy::MandateState};

use crate::{context::Context, keys::DevAccount, output};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  stipend balance
  stipend balance --mandate mand_1f2e3d --json")]
pub(crate) struct Args {
    /// Only this mandate: its id, or a unique prefix of it
    #[arg(long)]
    mandate: Option<String>,
}

/// One mandate's money.
#[derive(Serialize)]
struct Balance {
    mandate: MandateId,
    state: MandateState,
    cap: Amount,
    available: Amount,
    reserved: Amount,
    held: Amount,
    paid: Amount,
    returned: Amount,
    /// What a roll took along to the mandate that replaces it.
    carried: Amount,
    /// What payees gave back.
    refunded: Amount,
    /// What of it is the budget again: cap + restored = available + reserved + held + paid + returned + carried.
    restored: Amount,
    /// Absent: the chain was not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    chain: Option<ChainView>,
}

#[derive(Serialize)]
struct ChainView {
    remaining: Amount,
    held: Amount,
    agrees: Agrees,
}

/// Whether ledger and chain tell the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Agrees {
    /// To the last unit, or but for what is on its way.
    Yes,
    /// The chain is ahead: it has returned what was left, or what was held, which is not final yet.
    Ending,
    /// The chain is ahead: it has more than the ledger, and no more than the cap. A refund is not final yet.
    Refunding,
    /// They differ by more than what is on its way.
    No,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<()> {
    let caller = context.caller(DevAccount::Agent).await?;
    let mandates = match &args.mandate {
        Some(text) => vec![caller.find(text).await?],
        None => caller.mandates().await?,
    };
    // The ledger's own numbers are worth showing without a node, too.
    let escrow = match context.escrow(&caller.info).await {
        Ok(escrow) => Some(escrow),
        Err(error) => {
            output::note(&format!("the chain is not asked: {error:#}"));
            None
        }
    };
    let mut balances = Vec::new();
    for mandate in mandates {
        let chain = match &escrow {
            Some(escrow) => Some(escrow.mandate_of(mandate.id).await?),
            None => None,
        };
        balances.push(balance(&mandate, chain));
    }
    output::result(context.json(), &balances, |balances| to_human(balances))
}

fn balance(mandate: &Mandate, chain: Option<OnChain>) -> Balance {
    Balance {
        mandate: mandate.id,
        state: mandate.state,
        cap: mandate.terms.cap,
        available: mandate.available,
        reserved: mandate.reserved,
        held: mandate.held,
        paid: mandate.paid,
        returned: mandate.returned,
        carried: mandate.carried,
        refunded: mandate.refunded,
        restored: mandate.restored,
        chain: chain.map(|chain| ChainView {
            remaining: chain.remaining,
            held: chain.held,
            agrees: agrees(mandate, chain),
        }),
    }
}

/// The ledger records what is final, the chain shows the latest. Until then what is reserved may be in the escrow,
/// held in it, or gone, and what is held may be gone or back.
fn agrees(mandate: &Mandate, chain: OnChain) -> Agrees {
    let sum = |a: Amount, b: Amount| a.checked_add(b).unwrap_or(Amount::MAX);
    let on_its_way = sum(mandate.reserved, mandate.held);
    let (ledger, escrow) = (sum(mandate.available, on_its_way), sum(chain.remaining, chain.held));
    if !chain.known {
        return if mandate.state == MandateState::Opening { Agrees::Yes } else { Agrees::No };
    }
    // Revoked before it opened, it never took its cap.
    if mandate.state == MandateState::Ended && mandate.opened_tx.is_none() {
        return if chain.ended && escrow.is_zero() { Agrees::Yes } else { Agrees::No };
    }
    if chain.ended && escrow < ledger {
        return Agrees::Ending;
    }
    if chain.remaining < mandate.available || chain.held > on_its_way {
        return Agrees::No;
    }
    match escrow {
        escrow if escrow <= ledger => Agrees::Yes,
        escrow if escrow <= mandate.terms.cap => Agrees::Refunding,
        _ => Agrees::No,
    }
}

fn to_human(balances: &[Balance]) -> String {
    if balances.is_empty() {
        return "no mandates".into();
    }
    // Most mandates never see a roll, or a refund that can be spent again.
    let carried = balances.iter().any(|balance| !balance.carried.is_zero());
    let restored = balances.iter().any(|balance| !balance.restored.is_zero());
    let mut headings = vec!["mandate", "state", "cap", "available", "reserved", "held", "paid", "returned"];
    headings.extend(carried.then_some("carried"));
    headings.extend(restored.then_some("restored"));
    headings.extend(["chain: left", "chain: held", "agree"]);
    let mut table = output::table(&headings);
    for balance in balances {
        let chain = balance.chain.as_ref();
        let mut row: Vec<String> = vec![
            output::short(balance.mandate),
            balance.state.name().into(),
            balance.cap.to_string(),
            balance.available.to_string(),
            balance.reserved.to_string(),
            balance.held.to_string(),
            balance.paid.to_string(),
            balance.returned.to_string(),
        ];
        row.extend(carried.then(|| balance.carried.to_string()));
        row.extend(restored.then(|| balance.restored.to_string()));
        row.extend([
            chain.map_or_else(|| "?".into(), |chain| chain.remaining.to_string()),
            chain.map_or_else(|| "?".into(), |chain| chain.held.to_string()),
            match chain.map(|chain| chain.agrees) {
                None => "?",
                Some(Agrees::Yes) => "yes",
                // On chain, and not in a final block.
                Some(Agrees::Ending) => "ending",
                Some(Agrees::Refunding) => "refunding",
                Some(Agrees::No) => "NO",
            }
            .into(),
        ]);
        table.add_row(row);
    }
    output::fitted(table, &["restored", "carried", "chain: held", "cap", "returned", "chain: left", "held"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terms::tests::mandate;

    fn amount(text: &str) -> Amount {
        text.parse().unwrap()
    }

    fn chain(remaining: &str, ended: bool) -> OnChain {
        OnChain { known: true, ended, remaining: amount(remaining), held: Amount::ZERO, next_nonce: 0 }
    }

    #[test]
    fn what_is_on_its_way_is_no_difference() {
        let mandate = Mandate { available: amount("90"), reserved: amount("10"), ..mandate([1; 32]) };
        for (remaining, expected) in [
            ("100", Agrees::Yes),
            ("95", Agrees::Yes),
            ("90", Agrees::Yes),
            ("89.99", Agrees::No),
            ("100.01", Agrees::No),
        ] {
            assert_eq!(agrees(&mandate, chain(remaining, false)), expected, "{remaining}");
        }
    }

    #[test]
    fn what_is_held_may_not_be_final_yet_either() {
        let mandate =
            Mandate { available: amount("60"), reserved: amount("10"), held: amount("30"), ..mandate([1; 32]) };
        for (remaining, held, expected) in [
            // As the ledger has it, a new hold, a capture, and one whose rest came back.
            ("70", "30", Agrees::Yes),
            ("60", "40", Agrees::Yes),
            ("70", "0", Agrees::Yes),
            ("80", "0", Agrees::Yes),
            ("59.99", "40", Agrees::No),
            ("60", "40.01", Agrees::No),
            ("80", "20.01", Agrees::No),
        ] {
            let chain = OnChain { held: amount(held), ..chain(remaining, false) };
            assert_eq!(agrees(&mandate, chain), expected, "{remaining} {held}");
        }
    }

    #[test]
    fn a_refund_that_is_not_final_yet_is_said() {
        let mandate = Mandate { available: amount("60"), ..mandate([1; 32]) };
        for (remaining, expected) in
            [("60", Agrees::Yes), ("60.01", Agrees::Refunding), ("100", Agrees::Refunding), ("100.01", Agrees::No)]
        {
            assert_eq!(agrees(&mandate, chain(remaining, false)), expected, "{remaining}");
        }
    }

    #[test]
    fn an_end_that_is_not_final_yet_is_said() {
        let open = mandate([1; 32]);
        assert_eq!(agrees(&open, chain("0", true)), Agrees::Ending);
        let ended = Mandate { available: Amount::ZERO, returned: amount("100"), ..open.clone() };
        assert_eq!(agrees(&ended, chain("0", true)), Agrees::Yes);
        // What was held came back later than the rest.
        let released = Mandate { available: amount("25"), returned: amount("75"), ..open.clone() };
        assert_eq!(agrees(&released, chain("0", true)), Agrees::Ending);
        assert_eq!(agrees(&released, chain("25", true)), Agrees::Yes);
        // Nothing was left that could come back.
        let spent = Mandate { available: Amount::ZERO, ..open };
        assert_eq!(agrees(&spent, chain("0", true)), Agrees::Yes);
    }

    #[test]
    fn a_mandate_that_was_revoked_before_it_opened_takes_nothing() {
        let revoked = Mandate { state: MandateState::Ended, opened_tx: None, ..mandate([1; 32]) };
        assert_eq!(agrees(&revoked, chain("0", true)), Agrees::Yes);
        assert_eq!(agrees(&revoked, chain("0", false)), Agrees::No);
        assert_eq!(agrees(&revoked, chain("1", true)), Agrees::No);
        // The relayer has not seen it yet.
        let opening = Mandate { state: MandateState::Opening, ..revoked };
        assert_eq!(agrees(&opening, chain("0", true)), Agrees::Ending);
    }

    #[test]
    fn money_that_the_chain_does_not_hold_is_a_difference() {
        let unknown =
            OnChain { known: false, ended: false, remaining: Amount::ZERO, held: Amount::ZERO, next_nonce: 0 };
        assert_eq!(agrees(&mandate([1; 32]), unknown), Agrees::No);
    }
}
