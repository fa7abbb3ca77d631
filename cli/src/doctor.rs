//! `stipend doctor`: what is wrong with a set-up, and what mends it.

use eyre::bail;
use serde::Serialize;
use stipend_client::{Client, PageQuery};
use stipend_core::api::Info;

use crate::{context::Context, keys::DevAccount, output};

/// How many blocks the relayer may be behind the node before it is worth a word.
const LAG: u64 = 5;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Looks from where you are, with your key: relayer, clock, node, contract, key and cards. Changes nothing.

Examples:
  stipend doctor
  stipend doctor --relayer https://relayer.example --rpc-url https://node.example --keystore agent.json

Exit code 1: something does not work.")]
pub(crate) struct Args {}

/// What was found about one thing.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    result: Outcome,
    detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Ok,
    /// It works, and somebody should look at it.
    Warning,
    Failed,
}

#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, what: &'static str, detail: impl Into<String>) {
        self.0.push(Finding { what, result: Outcome::Ok, detail: detail.into(), mend: None });
    }

    fn warning(&mut self, what: &'static str, detail: impl Into<String>, mend: &str) {
        self.0.push(Finding { what, result: Outcome::Warning, detail: detail.into(), mend: Some(mend.into()) });
    }

    fn failed(&mut self, what: &'static str, detail: impl Into<String>, mend: &str) {
        self.0.push(Finding { what, result: Outcome::Failed, detail: detail.into(), mend: Some(mend.into()) });
    }
}

pub(crate) async fn run(context: &Context, _: Args) -> eyre::Result<()> {
    let progress = context.progress("looking at relayer, node and key");
    let mut findings = Findings::default();
    findings.ok("version", env!("CARGO_PKG_VERSION"));
    let info = relayer(context, &mut findings).await;
    let reachable = node(context, info.as_ref(), &mut findings).await;
    if let Some(info) = &info {
        if reachable {
            contract(context, info, &mut findings).await;
        }
        key(context, &mut findings).await;
        cards(info, &mut findings);
    }
    drop(progress);
    output::result(context.json(), &findings.0, |findings| to_human(findings))?;
    match findings.0.iter().filter(|finding| finding.result == Outcome::Failed).count() {
        0 => Ok(()),
        1 => bail!("1 thing does not work"),
        count => bail!("{count} things do not work"),
    }
}

async fn relayer(context: &Context, findings: &mut Findings) -> Option<Info> {
    let url = output::url(&context.globals.relayer);
    let info = match Client::info_at(context.globals.relayer.clone()).await {
        Ok(info) => info,
        Err(error) => {
            let mend = "start one (`stipend dev`, `stipend serve`), or set --relayer or STIPEND_RELAYER_URL";
            findings.failed("relayer", format!("{url}: {error}"), mend);
            return None;
        }
    };
    if let Err(error) = context.settings.check(&info) {
        findings.failed("relayer", error.to_string(), "`stipend config show` says where each setting comes from");
        return None;
    }
    findings.ok("relayer", format!("{url} serves chain {}, block {}", info.chain_id, info.head.number));
    Some(info)
}

/// Whether there is a node of the relayer's chain.
async fn node(context: &Context, info: Option<&Info>, findings: &mut Findings) -> bool {
    let chain = match context.chain().await {
        Ok(chain) => chain,
        Err(error) => {
            let mend = "set --rpc-url or STIPEND_RPC_URL to a node of the relayer's chain";
            findings.failed("node", format!("{error:#}"), mend);
            return false;
        }
    };
    let head = match chain.head().await {
        Ok(head) => head,
        Err(error) => {
            findings.failed("node", error.to_string(), "check the node");
            return false;
        }
    };
    let Some(info) = info else {
        findings.ok("node", format!("chain {}, block {}", chain.id(), head.number));
        return true;
    };
    if chain.id() != info.chain_id {
        let detail = format!("the node is on chain {}, the relayer on {}", chain.id(), info.chain_id);
        findings.failed("node", detail, "set --rpc-url to a node of the relayer's chain");
        return false;
    }
    let distance = head.number.abs_diff(info.head.number);
    let detail = format!("block {}, the relayer is at {}, final is {}", head.number, info.head.number, info.finalized);
    if distance > LAG {
        findings.warning("node", detail, "one of the two is behind: check the relayer's /readyz, and your node");
    } else {
        findings.ok("node", detail);
    }
    true
}

async fn contract(context: &Context, info: &Info, findings: &mut Findings) {
    // It connects anew, and compares what the relayer says with the chain.
    match context.escrow(info).await {
        Ok(escrow) => findings.ok("contract", format!("{} holds the token {}", info.escrow, escrow.token())),
        Err(error) => findings.failed("contract", format!("{error:#}"), "do not trust this relayer with money"),
    }
    findings.ok("guardian", info.guardian.to_string());
}

/// That the caller's key works here: its signature, and the clock that it is made by.
async fn key(context: &Context, findings: &mut Findings) {
    let caller = match context.caller(DevAccount::Agent).await {
        Ok(caller) => caller,
        Err(error) => {
            let mend = "set --keystore, STIPEND_PRIVATE_KEY or --dev-account, as this chain allows";
            findings.failed("key", format!("{error:#}"), mend);
            return;
        }
    };
    let page = PageQuery { cursor: None, limit: Some(1) };
    match caller.client.mandates(&page).await {
        Ok(_) => findings.ok("key and clock", format!("{} is known to sign here, now", caller.address())),
        Err(error) => {
            let mend = "the detail names what is off: the clock (NTP), or the URL that requests are signed for";
            findings.failed("key and clock", error.to_string(), mend);
            return;
        }
    }
    match caller.client.readyz().await {
        Ok(health) if health.alarms.is_empty() => findings.ok("alarms", "none"),
        Ok(health) if health.ready => {
            let mend = "docs/runbook.md says for each what its host does";
            findings.warning("alarms", health.alarms.join("; "), mend);
        }
        Ok(health) => {
            let mend = "the relayer takes no new work: its host has to act, see docs/runbook.md";
            findings.failed("alarms", health.alarms.join("; "), mend);
        }
        Err(error) => findings.failed("alarms", error.to_string(), "check the relayer"),
    }
    match caller.mandates().await {
        Ok(mandates) => findings.ok("mandates", format!("{} of {}", mandates.len(), caller.address())),
        Err(error) => findings.failed("mandates", format!("{error:#}"), "check the relayer"),
    }
}

fn cards(info: &Info, findings: &mut Findings) {
    match &info.cards {
        Some(cards) => findings.ok("cards", format!("offered, for {} s each", cards.ttl)),
        None => findings.warning("cards", "not offered here", "the relayer's host sets --issuer-url"),
    }
}

fn to_human(findings: &[Finding]) -> String {
    let mut table = output::table(&["what", "result", "detail"]);
    for finding in findings {
        let result = match finding.result {
            Outcome::Ok => "ok",
            Outcome::Warning => "look",
            Outcome::Failed => "FAILED",
        };
        table.add_row([finding.what.to_owned(), result.to_owned(), output::sanitize(&finding.detail)]);
    }
    let mut text = output::text(&table);
    for finding in findings {
        if let Some(mend) = &finding.mend {
            text.push_str(&format!("\n{}: {mend}", finding.what));
        }
    }
    text
}
