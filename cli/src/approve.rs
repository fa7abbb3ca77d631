//! `stipend mandate approve`: the operator reads the terms, says yes, and funds the mandate.

use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256};
use eyre::{bail, ensure};
use stipend_client::{
    chain::{ChainError, Escrow},
    now,
};
use stipend_core::{
    Code, MandateId, RequestId, Seconds, Terms,
    api::{Mandate, NewMandate, RequestState},
    policy::MandateState,
};

use crate::{
    context::{Caller, Context},
    keys::DevAccount,
    mandate_source::terms_on_chain,
    output, prompt,
    replaced::Replaced,
    terms::ApprovalSummary,
};

/// Seconds that a signed authorization or permit is valid.
const SIGNATURE_LIFETIME: u64 = 3_600;

/// How long the relayer may take to see the mandate open.
const OPENING_TIMEOUT: Duration = Duration::from_secs(120);

const IF_INTERRUPTED: &str = "the mandate may still open: look at `stipend mandate list`; approving the same request \
                              again opens no second one";

const POLL_INTERVAL: Duration = Duration::from_millis(250);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The request: the full id
    request: RequestId,
    /// Sign one message instead of sending transactions: the relayer sends it, and you need no ETH
    #[arg(long)]
    gasless: bool,
    /// Sign a permit instead of sending an allowance first: one transaction of your own
    #[arg(long, conflicts_with = "gasless")]
    permit: bool,
    /// Let it replace this mandate of yours, at this relayer or another one: what is left is carried over
    #[arg(long, value_name = "MANDATE", conflicts_with_all = ["gasless", "permit"])]
    replace: Option<MandateId>,
    /// Look for the opening of the mandate to replace no further back than this block
    #[arg(long, value_name = "BLOCK", requires = "replace", default_value_t = 0, hide_default_value = true)]
    from_block: u64,
    /// Skip the confirmation prompt
    #[arg(long)]
    yes: bool,
}

pub(crate) async fn run(context: &Context, args: Args) -> eyre::Result<()> {
    let method = ApprovalMethod::of(&args);
    let role = match method {
        ApprovalMethod::Authorization => DevAccount::GaslessOperator,
        ApprovalMethod::Allowance | ApprovalMethod::Permit => DevAccount::Operator,
    };
    let caller = context.caller(role).await?;
    let request = caller.client.mandate_request(args.request).await?;
    if request.state == RequestState::Approved {
        let mandate = request.mandate.map(|id| id.to_string()).unwrap_or_default();
        bail!("{} is approved already: {mandate}", request.id);
    }
    let escrow = context.escrow(&caller.info).await?;

    // An approval that was interrupted may have opened a mandate that the relayer has not seen yet; a second one
    // would escrow the cap twice.
    if let Some(id) = escrow.opened_for(caller.address(), &request.intent).await? {
        output::note(&format!("{id} was opened for this request before"));
        return finish(context, &caller, id).await;
    }

    // So may one whose message the relayer has and could not send yet. Resume it: a signed message cannot be withdrawn,
    // and another mandate would take the cap a second time.
    let under_way = under_way(caller.mandates().await?, request.id, caller.address());
    if let Some(mandate) = &under_way {
        let until = output::time(mandate.opening_until.unwrap_or_default());
        output::note(&format!(
            "{} was approved for this request before: the relayer sends it until {until}",
            mandate.id
        ));
        if method == ApprovalMethod::Authorization {
            return finish(context, &caller, mandate.id).await;
        }
    }

    ensure!(
        !escrow.chain().is_waiting(caller.address()).await?,
        "a transaction of {} waits for a block, and may open a mandate for this request: run this again when it is mined",
        caller.address()
    );

    let start = escrow.chain().head().await?.time;
    // The same terms are the same mandate, which opens once, whichever transaction is first.
    let terms = match &under_way {
        Some(mandate) => mandate.terms.clone(),
        None => request.terms(caller.address(), caller.info.guardian, start),
    };
    terms.check(start)?;
    let summary = ApprovalSummary::new(&terms, &request.intent, escrow.domain())?;
    let id = summary.id();
    ensure!(
        under_way.as_ref().is_none_or(|mandate| {
            mandate.id == id && request.is_answered_by(&terms) && terms.guardian == caller.info.guardian
        }),
        "the relayer shows terms for {id} that you were not asked for: do not trust it"
    );
    if let Some(old) = args.replace {
        let replaced = to_replace(context, &caller, &escrow, old, args.from_block).await?;
        replaced.check_funds(&escrow, terms.cap).await?;
        let what = format!(
            "{}\nIt replaces {old}: what is left of that counts toward the total.\n{}",
            summary.text(),
            replaced.consequences(terms.cap)
        );
        prompt::confirm(context, args.yes, &what, &summary.question())?;
        context.if_interrupted(IF_INTERRUPTED);
        let progress = context.progress("replacing the mandate");
        replaced.roll(&escrow, &caller.signer, &terms, &progress).await?;
        drop(progress);
        return finish(context, &caller, id).await;
    }
    let balance = escrow.balance_of(caller.address()).await?;
    ensure!(
        balance >= terms.cap,
        "the operator {} holds {balance} USDC, the mandate takes {}: fund it first",
        caller.address(),
        terms.cap
    );
    let what = format!("{}\n{}", summary.text(), method.description());
    prompt::confirm(context, args.yes, &what, &summary.question())?;
    method.open(context, &caller, &escrow, request.id, &terms, start).await?;
    finish(context, &caller, id).await
}

/// The mandate that an approval is to replace: as the relayer tells it or, if that is another one than the relayer which
/// has served it, as the chain does.
async fn to_replace(
    context: &Context,
    caller: &Caller,
    escrow: &Escrow,
    id: MandateId,
    from_block: u64,
) -> eyre::Result<Replaced> {
    let terms = match caller.client.mandate(id).await {
        Ok(mandate) => mandate.terms,
        Err(error) if error.code() == Some(Code::NotFound) => terms_on_chain(context, escrow, id, from_block).await?,
        Err(error) => return Err(error.into()),
    };
    ensure!(
        escrow.domain().mandate_id(&terms)? == id,
        "these terms are not those of {id}: do not trust where they came from"
    );
    Replaced::new(escrow, id, terms, caller.address()).await
}

/// How an operator lets the escrow take the cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ApprovalMethod {
    /// ERC-20 `approve`, then the opening: two transactions of the operator's, or one.
    Allowance,
    /// An ERC-2612 permit inside the opening: one transaction of the operator's.
    Permit,
    /// An EIP-3009 authorization that the relayer sends: no transaction of the operator's.
    Authorization,
}

impl ApprovalMethod {
    const fn of(args: &Args) -> Self {
        match (args.gasless, args.permit) {
            (true, _) => Self::Authorization,
            (false, true) => Self::Permit,
            (false, false) => Self::Allowance,
        }
    }

    const fn description(self) -> &'static str {
        match self {
            Self::Allowance => {
                "By your own transactions: an allowance of exactly the total, if there is none, and the opening."
            }
            Self::Permit => {
                "By one transaction of your own, with a permit for exactly the total that is signed with it."
            }
            Self::Authorization => "By signing one message; the relayer sends it.",
        }
    }

    /// Opens the mandate with these terms at the chain's time `now_on_chain`.
    async fn open(
        self,
        context: &Context,
        caller: &Caller,
        escrow: &Escrow,
        request: RequestId,
        terms: &Terms,
        now_on_chain: Seconds,
    ) -> eyre::Result<()> {
        let deadline = now_on_chain.max(now()).saturating_add(SIGNATURE_LIFETIME);
        context.if_interrupted(IF_INTERRUPTED);
        let progress = context.progress("approving");
        match self {
            Self::Allowance => {
                progress.say("allowing the escrow to take exactly the total");
                escrow.allow(&caller.signer, terms.cap).await?;
                progress.say("opening the mandate");
                opened(escrow.open(&caller.signer, terms).await)?;
            }
            Self::Permit => {
                progress.say("opening the mandate");
                opened(escrow.open_with_permit(&caller.signer, terms, deadline).await)?;
            }
            Self::Authorization => {
                let authorization = escrow.authorize(&caller.signer, terms, deadline)?;
                progress.say("the relayer opens the mandate");
                caller.client.open_mandate(&NewMandate { request, terms: terms.clone(), authorization }).await?;
            }
        }
        Ok(())
    }
}

/// The operator's mandate for a request that the relayer has a message for, and has not opened yet.
fn under_way(mandates: Vec<Mandate>, request: RequestId, operator: Address) -> Option<Mandate> {
    mandates.into_iter().find(|mandate| {
        mandate.request == Some(request) && mandate.terms.operator == operator && mandate.opening_until.is_some()
    })
}

fn opened(result: Result<B256, ChainError>) -> Result<(), ChainError> {
    match result {
        // Someone else opened it, with exactly these terms.
        Ok(_) | Err(ChainError::AlreadyOpened(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Waits until the relayer can use the mandate, and shows it.
async fn finish(context: &Context, caller: &Caller, id: MandateId) -> eyre::Result<()> {
    let progress = context.progress("waiting until the relayer sees it open");
    let mandate = wait_until_open(caller, id).await?;
    drop(progress);
    output::result(context.json(), &mandate, |mandate| {
        let opened = mandate.opened_tx.map(|tx| format!("transaction {tx}\n")).unwrap_or_default();
        format!(
            "{} is {}: {} USDC available\n{opened}\nThe agent pays by: stipend pay --mandate {} --to 0x… --amount 4.20",
            mandate.id,
            mandate.state.name(),
            mandate.available,
            mandate.id
        )
    })
}

/// Waits until the relayer has seen a mandate open.
pub(crate) async fn wait_until_open(caller: &Caller, id: MandateId) -> eyre::Result<Mandate> {
    let start = Instant::now();
    let mut was_under_way = false;
    loop {
        let until = match caller.client.mandate(id).await {
            Ok(mandate) if mandate.state == MandateState::Ended && mandate.opened_tx.is_none() => {
                bail!("{id} was revoked before it opened, for good; run this again to approve the request anew")
            }
            Ok(mandate) if mandate.state != MandateState::Opening => return Ok(mandate),
            Ok(mandate) => {
                let given_up = was_under_way && mandate.opening_until.is_none() && mandate.opened_tx.is_none();
                ensure!(
                    !given_up,
                    "the relayer has given up {id}: its message has lapsed, or another mandate has answered the request; run this again to see"
                );
                mandate.opening_until
            }
            Err(error) if error.code() == Some(Code::NotFound) => None,
            Err(error) => return Err(error.into()),
        };
        was_under_way |= until.is_some();
        if start.elapsed() >= OPENING_TIMEOUT {
            let waited = OPENING_TIMEOUT.as_secs();
            match until {
                Some(until) => bail!(
                    "{id} is not open after {waited} s: the relayer has your message, and sends it until {}; to wait on, run the same again; to send it yourself, run it without --gasless: that opens this very mandate, and never a second one",
                    output::time(until)
                ),
                None => {
                    bail!("{id} is not open at the relayer after {waited} s: `stipend mandate show {id}` says when")
                }
            }
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
