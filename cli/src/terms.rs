//! Terms in plain language: what an operator reads before approving, and the id that follows from
//! exactly that.

use eyre::{WrapErr, ensure};
use stipend_bindings::Domain;
use stipend_core::{Amount, HumanDuration, Intent, MandateId, Terms, intent::Policy};

use crate::output;

/// How many payees are listed. More would push the rest off the screen.
const PAYEES_SHOWN: usize = 20;

/// Terms that have been checked against the document that they commit to, and so can be shown.
#[derive(Debug)]
pub(crate) struct ApprovalSummary<'a> {
    terms: &'a Terms,
    intent: &'a Intent,
    domain: Domain,
    id: MandateId,
}

impl<'a> ApprovalSummary<'a> {
    /// Recomputes everything that is signed from what will be shown: the intent's hash, the root
    /// of its payees, the id.
    pub(crate) fn new(terms: &'a Terms, intent: &'a Intent, domain: Domain) -> eyre::Result<Self> {
        ensure!(intent.hash() == terms.intent, "the terms commit to another intent than the one shown: do not approve");
        ensure!(
            intent.payees_root() == terms.payees,
            "the terms allow other payees than the intent lists: do not approve"
        );
        let id = domain.mandate_id(terms).wrap_err("these terms have no id")?;
        Ok(Self { terms, intent, domain, id })
    }

    /// The id of the mandate with exactly these terms.
    pub(crate) const fn id(&self) -> MandateId {
        self.id
    }

    /// What is enforced, line by line, with at most so many payees.
    pub(crate) fn rows(&self, payees_shown: usize) -> Vec<(String, String)> {
        let terms = self.terms;
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        row("mandate", self.id.to_string());
        row("in total", format!("{} USDC, taken from the operator when it opens", terms.cap));
        row("per payment", maximum(terms.per_payment));
        if terms.window != 0 {
            row("at most", within(terms.window_cap, HumanDuration::from_seconds(terms.window.into())));
        }
        match self.intent.policy.payees.as_deref() {
            None => row("may be paid", "anyone".into()),
            Some([]) => row("may be paid", "nobody: the list is empty, and the chain would allow anyone".into()),
            Some(payees) if payees.len() > payees_shown => {
                row("may be paid", format!("{} payees, listed by `stipend mandate show`", payees.len()));
                row("", format!("their root is {}", terms.payees));
                let ends = [payees.first(), payees.last()].into_iter().flatten();
                for (name, payee) in ["the first is", "the last is"].into_iter().zip(ends) {
                    row("", format!("{name} {payee}"));
                }
            }
            Some(payees) => {
                for (index, payee) in payees.iter().enumerate() {
                    row(if index == 0 { "may be paid" } else { "" }, payee.to_string());
                }
            }
        }
        row("cards may be used", cards(&self.intent.policy));
        row("from", output::time(terms.start));
        row("until", format!("{} (excluded)", output::time(terms.expiry)));
        row("the rest", "returns to the operator: at once when revoked, by a sweep after the end".into());
        row("held amounts", format!("return from {} on at the latest", output::time(terms.capture_end)));
        row("refunds", refunds(terms.refunds_restore_budget).into());
        row("operator", format!("{}  pays, and can revoke at any time", terms.operator));
        row("agent", format!("{}  signs payments", terms.agent));
        row(
            "guardian",
            if terms.guardian.is_zero() {
                "none: whatever the agent signs can be sent by anyone".into()
            } else {
                format!("{}  must send every payment", terms.guardian)
            },
        );
        row("escrow", format!("{} on chain {}", self.domain.escrow, self.domain.chain_id));
        rows
    }
}

impl ApprovalSummary<'_> {
    /// Everything in the order of its weight: what is enforced, and then the agent's own words.
    pub(crate) fn text(&self) -> String {
        output::key_value_table(self.rows(PAYEES_SHOWN)) + &purpose(self.intent)
    }

    /// The question, which says once more what is at stake.
    pub(crate) fn question(&self) -> String {
        let terms = self.terms;
        let payees = match self.intent.policy.payees.as_deref() {
            None => "anyone".to_owned(),
            Some([payee]) => payee.to_string(),
            Some(payees) => format!("{} payees", payees.len()),
        };
        let (cap, agent, until) = (terms.cap, terms.agent, output::time(terms.expiry));
        format!("Let {agent} spend {cap} USDC until {until}, paying {payees}?")
    }
}

/// The agent's own words, told apart from what is enforced.
pub(crate) fn purpose(intent: &Intent) -> String {
    format!("\nIn the agent's own words, which nothing enforces:\n{}", output::quoted(&intent.purpose))
}

/// Where cards may be used.
pub(crate) fn cards(policy: &Policy) -> String {
    let at = match policy.mccs.as_deref() {
        None => "at any merchant".to_owned(),
        Some([]) => "nowhere: the list of categories is empty".to_owned(),
        Some(mccs) => {
            let mccs: Vec<_> = mccs.iter().map(ToString::to_string).collect();
            format!("at merchants of the categories {}", mccs.join(", "))
        }
    };
    // A card's hold is a payment to the card program's treasury, and held to the same list.
    if policy.payees.is_some() { at + ", if their treasury is one of those who may be paid" } else { at }
}

/// What a rolling window limits.
pub(crate) fn within(cap: Amount, window: HumanDuration) -> String {
    format!("{cap} USDC within any {window}")
}

/// Where refunds go.
pub(crate) const fn refunds(restore_budget: bool) -> &'static str {
    if restore_budget { "can be spent again, while it lasts" } else { "go to the operator" }
}

fn maximum(amount: Amount) -> String {
    if amount.is_zero() { "any amount up to what is left".into() } else { format!("at most {amount} USDC") }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use alloy_primitives::{Address, B256};
    use stipend_core::{
        api::{Mandate, MandateRequest, RequestState},
        id::RequestId,
        policy::MandateState,
    };

    fn request(payees: Option<Vec<Address>>) -> MandateRequest {
        MandateRequest {
            id: RequestId::generate(),
            state: RequestState::Pending,
            agent: Address::repeat_byte(2),
            amount: "100.00".parse().unwrap(),
            duration: "30d".parse().unwrap(),
            per_payment: Some("25".parse().unwrap()),
            window: Some("1d".parse().unwrap()),
            window_cap: Some("20".parse().unwrap()),
            refunds_restore_budget: true,
            intent: Intent {
                version: 1,
                purpose: "Marketing\u{1b}[1A".into(),
                policy: Policy { payees, mccs: None },
                nonce: B256::repeat_byte(9),
            },
            mandate: None,
            created_at: 1_800_000_000,
            metadata: Default::default(),
        }
    }

    const DOMAIN: Domain = Domain { chain_id: 31_337, escrow: Address::repeat_byte(5) };

    pub(crate) fn mandate(id: [u8; 32]) -> Mandate {
        let request = request(None);
        Mandate {
            id: MandateId(B256::from(id)),
            state: MandateState::Open,
            terms: request.terms(Address::repeat_byte(1), Address::repeat_byte(3), 1_800_000_000),
            intent: Some(request.intent),
            request: None,
            available: "100".parse().unwrap(),
            reserved: Amount::ZERO,
            held: Amount::ZERO,
            paid: Amount::ZERO,
            returned: Amount::ZERO,
            carried: Amount::ZERO,
            refunded: Amount::ZERO,
            restored: Amount::ZERO,
            revoking: false,
            next_nonce: 0,
            opening_until: None,
            opened_tx: None,
            ended_tx: None,
        }
    }

    fn shown(request: &MandateRequest) -> String {
        let terms = request.terms(Address::repeat_byte(1), Address::repeat_byte(3), 1_800_000_000);
        ApprovalSummary::new(&terms, &request.intent, DOMAIN).unwrap().text()
    }

    #[test]
    fn terms_are_shown_in_plain_words() {
        let text = shown(&request(None));
        for expected in [
            "100.00 USDC",
            "at most 25.00 USDC",
            "20.00 USDC within any 1d\n",
            "can be spent again",
            "anyone",
            "at any merchant",
            "2027-01-15 08:00:00 UTC",
            "2027-02-14 08:00:00 UTC (excluded)",
            "own words, which nothing enforces:\n| Marketing\\u{1b}[1A\n",
            "on chain 31337",
        ] {
            assert!(text.contains(expected), "{expected} is not in:\n{text}");
        }
    }

    #[test]
    fn every_payee_is_shown() {
        let payees = vec![Address::repeat_byte(7), Address::repeat_byte(8)];
        let text = shown(&request(Some(payees.clone())));
        assert!(payees.iter().all(|payee| text.contains(&payee.to_string())), "{text}");
        assert!(!text.contains("anyone"), "{text}");
    }

    #[test]
    fn a_thousand_payees_do_not_hide_the_rest() {
        let payees: Vec<_> = (1..=200).map(Address::repeat_byte).collect();
        let request = request(Some(payees.clone()));
        let text = shown(&request);
        assert!(text.contains("200 payees") && text.lines().count() < 30, "{text}");
        assert!(text.contains(&payees[0].to_string()) && text.contains(&payees[199].to_string()), "{text}");
    }

    #[test]
    fn the_question_repeats_what_is_at_stake() {
        let request = request(None);
        let terms = request.terms(Address::repeat_byte(1), Address::repeat_byte(3), 1_800_000_000);
        let question = ApprovalSummary::new(&terms, &request.intent, DOMAIN).unwrap().question();
        for part in ["100.00 USDC", &terms.agent.to_string(), "2027-02-14", "anyone"] {
            assert!(question.contains(part), "{question}");
        }
    }

    #[test]
    fn where_cards_may_be_used_is_shown() {
        let mut narrow = request(None);
        narrow.intent.policy.mccs = Some(vec!["5734".parse().unwrap(), "7372".parse().unwrap()]);
        let text = shown(&narrow);
        assert!(text.contains("at merchants of the categories 5734, 7372\n"), "{text}");
        narrow.intent.policy.mccs = Some(Vec::new());
        assert!(shown(&narrow).contains("nowhere"));
        let listed = shown(&request(Some(vec![Address::repeat_byte(7)])));
        assert!(listed.contains("any merchant, if their treasury is one of those who may be paid"), "{listed}");
    }

    #[test]
    fn terms_that_differ_from_what_is_shown_are_refused() {
        let request = request(Some(vec![Address::repeat_byte(7)]));
        let honest = request.terms(Address::repeat_byte(1), Address::repeat_byte(3), 1_800_000_000);
        let mut other = request.intent.clone();
        other.purpose = "something else".into();
        assert!(ApprovalSummary::new(&honest, &other, DOMAIN).is_err());
        let anyone = Terms { payees: B256::ZERO, ..honest };
        assert!(ApprovalSummary::new(&anyone, &request.intent, DOMAIN).is_err());
    }
}
