//! `stipend pay`: the agent signs a payment and sends it.

use std::time::Duration;

use alloy_primitives::{Address, B256};
use eyre::{Report, bail};
use serde::Serialize;
use stipend_bindings::Spend;
use stipend_client::{Client, Pay, Wait, chain::ChainError};
use stipend_core::{
    Amount, MandateId, Seconds, address,
    api::{NewPayment, Payment, PaymentState},
};

use crate::{
    context::{Caller, Context},
    keys::DevAccount,
    output, payment,
};

/// How long a payment is waited for.
const WAIT: Duration = Duration::from_secs(180);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  stipend pay --mandate mand_… --to 0x… --amount 4.20
  stipend pay --mandate mand_… --to 0x… --amount 4.20 --idempotency-key invoice-17
  stipend pay --mandate mand_… --to 0x… --amount 4.20 --no-wait --json

With nonce and deadline, the same command can be repeated at will and pays once:
  stipend pay --mandate mand_… --to 0x… --amount 4.20 --nonce 3 --deadline 1800000000

Exit code 3: the mandate's policy refuses it; every rule that does is named.")]
pub(crate) struct Args {
    /// The mandate: the full id
    #[arg(long)]
    mandate: MandateId,
    /// Who is paid
    #[arg(long, value_name = "ADDRESS", value_parser = address::parse)]
    to: Address,
    /// How much, in USDC
    #[arg(long, value_name = "USDC")]
    amount: Amount,
    /// Commits to what is paid for, such as the hash of an invoice
    #[arg(long = "ref", value_name = "HASH")]
    reference: Option<B256>,
    /// The payment's nonce [default: the next free one]. With nonce and deadline the same command
    /// gives the same payment, which is paid once
    #[arg(long)]
    nonce: Option<u32>,
    /// The payment's deadline, in seconds since 1970 [default: in one hour]
    #[arg(long, value_name = "SECONDS")]
    deadline: Option<Seconds>,
    /// Makes a later payment with the same key, mandate, payee and amount this same payment
    #[arg(long, value_name = "KEY", conflicts_with = "direct")]
    idempotency_key: Option<String>,
    /// What to wait for
    #[arg(long, value_name = "STATE", default_value = "mined", conflicts_with = "direct")]
    wait: WaitFor,
    /// Return as soon as the relayer has accepted it
    #[arg(long, conflicts_with_all = ["wait", "direct"])]
    no_wait: bool,
    /// Send it straight to the contract from the agent's own account; refused unless the mandate has
    /// no guardian
    #[arg(long)]
    direct: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum WaitFor {
    /// In a block
    Mined,
    /// In a block that is final
    Settled,
}

pub(crate) async fn run(context: &Context, args: Args) -> eyre::Result<()> {
    let caller = context.caller(DevAccount::Agent).await?;
    let pay = Pay {
        nonce: args.nonce,
        deadline: args.deadline,
        reference: args.reference,
        idempotency_key: args.idempotency_key.clone(),
        ..Pay::new(args.mandate, args.to, args.amount)
    };
    if args.direct {
        return direct(context, &caller, pay).await;
    }
    context.if_interrupted("the payment may have been accepted: look at `stipend payment list` before paying again");
    let accepted = caller.client.pay(pay).await?;
    if accepted.replayed {
        output::note("already known: this payment was sent before, and is paid once");
    }
    let mut paid = accepted.object;
    context
        .if_interrupted(format!("{0} is accepted: don't pay again, `stipend payment watch {0}` follows it", paid.id));
    if !args.no_wait {
        let wait = match args.wait {
            WaitFor::Mined => Wait::Mined,
            WaitFor::Settled => Wait::Settled,
        };
        paid = wait_for(context, &caller.client, paid, wait).await;
    }
    output::result(context.json(), &paid, payment::to_human)?;
    if paid.state == PaymentState::Failed {
        let reason = paid.reason.map(|code| format!(": {code}; {}", code.hint())).unwrap_or_default();
        bail!("the payment failed, and its amount is back in the budget{reason}");
    }
    Ok(())
}

/// The payment as it was last seen. It is accepted: nothing from here on may look as if it had failed.
async fn wait_for(context: &Context, client: &Client, paid: Payment, wait: Wait) -> Payment {
    if wait.is_satisfied_by(paid.state) {
        return paid;
    }
    let progress = context.progress(format!("{} is accepted, waiting for a block", paid.id));
    let waited = client.wait_for(paid.id, wait, WAIT).await;
    drop(progress);
    let (paid, what) = match waited {
        Ok(paid) if wait.is_satisfied_by(paid.state) => return paid,
        Ok(paid) => (paid, format!("not there yet after {} s", WAIT.as_secs())),
        Err(error) => (paid, format!("the relayer does not say what became of it ({error})")),
    };
    let id = paid.id;
    output::note(&format!("accepted, and {what}: don't pay again, `stipend payment watch {id}` follows it"));
    paid
}

/// A payment that went straight to the contract, for programs.
#[derive(Serialize)]
struct Direct {
    payment: NewPayment,
    tx_hash: B256,
}

async fn direct(context: &Context, caller: &Caller, mut pay: Pay) -> eyre::Result<()> {
    let escrow = context.escrow(&caller.info).await?;
    let mandate = caller.client.mandate(pay.mandate).await?;
    if pay.nonce.is_none() {
        // Payments that went past the relayer before count too.
        pay.nonce = Some(escrow.mandate_of(pay.mandate).await?.next_nonce.max(mandate.next_nonce));
    }
    let payment = caller.client.sign_payment(&pay).await?;
    let spend =
        Spend::new(payment.mandate, payment.payee, payment.amount, payment.nonce, payment.deadline, payment.reference)?;
    let payees = mandate.intent.as_ref().and_then(|intent| intent.policy.payees.as_deref());
    context.if_interrupted(format!(
        "it may still be paid: with --nonce {} --deadline {} the same command never pays twice",
        payment.nonce, payment.deadline
    ));
    let progress = context.progress("waiting for the transaction");
    let sent = escrow.spend(&caller.signer, &mandate.terms, &spend, &payment.signature, payees).await;
    drop(progress);
    let tx_hash = sent.map_err(|error| match error {
        ChainError::NotMined { .. } => Report::new(error).wrap_err(format!(
            "it may still be paid: with --nonce {} --deadline {} the same command never pays twice",
            payment.nonce, payment.deadline
        )),
        error => error.into(),
    })?;
    output::result(context.json(), &Direct { payment, tx_hash }, |direct| {
        format!("paid {} USDC to {}\ntransaction {}", direct.payment.amount, direct.payment.payee, direct.tx_hash)
    })
}
