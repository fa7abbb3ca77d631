//! How things are printed: tables for people, JSON for programs, and errors with what to do.

use std::{
    fmt::{self, Write as _},
    io::{self, Write},
    process::ExitCode,
};

use comfy_table::{ContentArrangement, Table, presets};
use jiff::Timestamp;
use serde::Serialize;
use stipend_client::{Error, Signed, chain::ChainError};
use stipend_core::{Code, Seconds, api::Problem, policy::MandateState};
use url::Url;

/// The exit code of what the mandate's policy refused.
const REFUSED: u8 = 3;

/// The charge was declined: printed already, and reported by the exit code.
#[derive(Debug)]
pub(crate) struct Declined;

impl fmt::Display for Declined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the charge was declined")
    }
}

impl std::error::Error for Declined {}

/// Prints a line to stdout. A reader that has left, as `head` does, is no failure worth a word.
pub(crate) fn line(text: &str) -> eyre::Result<()> {
    Ok(writeln!(io::stdout().lock(), "{text}")?)
}

/// Prints a line to stderr, for people.
pub(crate) fn note(text: &str) {
    // Nobody is left to be told that stderr is gone.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints a result: as one line of JSON, or as what `human` makes of it.
pub(crate) fn result<T: Serialize>(json: bool, value: &T, human: impl FnOnce(&T) -> String) -> eyre::Result<()> {
    if json { line(&serde_json::to_string(value)?) } else { line(human(value).trim_end()) }
}

/// A table without a frame, with these headings.
pub(crate) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if !headings.is_empty() {
        table.set_header(headings.iter().map(|heading| heading.to_uppercase()));
    }
    table
}

/// Names and values below each other.
pub(crate) fn key_value_table(rows: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>) -> String {
    let mut table = table(&[]);
    for (name, value) in rows {
        table.add_row([name.into(), value.into()]);
    }
    text(&table)
}

/// A table as text, without the padding around it.
pub(crate) fn text(table: &Table) -> String {
    table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned() + "\n").collect()
}

/// Seconds since 1970 as people read them.
pub(crate) fn time(seconds: Seconds) -> String {
    match i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok()) {
        Some(time) => time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        None => format!("second {seconds}"),
    }
}

/// Sanitizes text from outside: whatever could move the cursor, hide text or change its direction is
/// shown as its number. An approval that could be painted over would approve anything.
pub(crate) fn sanitize(text: &str) -> String {
    let mut sanitized = String::with_capacity(text.len());
    for char in text.chars() {
        // Zero-width and direction marks, line separators, and the tags that mirror ASCII unseen.
        let hidden = matches!(char, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
        if char.is_control() || hidden {
            let _ = write!(sanitized, "\\u{{{:x}}}", u32::from(char));
        } else {
            sanitized.push(char);
        }
    }
    sanitized
}

/// A URL without what may be a secret in it: user, password, path and query.
pub(crate) fn url(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{host}{port}", url.scheme())
}

/// What a failure looks like to programs, where there is no problem with a code: a problem without
/// one (RFC 9457, 4.2.1).
#[derive(Serialize)]
struct Uncoded {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    detail: String,
}

/// Prints why a command failed, and says how to exit.
pub(crate) fn failure(report: &eyre::Report, json: bool) -> ExitCode {
    let broken_pipe = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    if report.downcast_ref().is_some_and(broken_pipe) {
        return ExitCode::SUCCESS;
    }
    let problem = problem(report);
    note(&match (&problem, json) {
        (Some(problem), true) => serde_json::to_string(problem).unwrap_or_default(),
        (Some(problem), false) => to_human(problem),
        (None, true) => {
            let uncoded = Uncoded { kind: "about:blank", title: "the command failed", detail: causes(report) };
            serde_json::to_string(&uncoded).unwrap_or_default()
        }
        (None, false) => format!("error: {}", causes(report)),
    });
    let refused = problem.is_some_and(|problem| problem.decision.is_some_and(|decision| !decision.allow))
        || matches!(report.downcast_ref(), Some(ChainError::Refused(_)))
        || report.is::<Declined>();
    ExitCode::from(if refused { REFUSED } else { 1 })
}

/// The problem that a failure amounts to, if it has a code.
fn problem(report: &eyre::Report) -> Option<Problem> {
    if let Some(ChainError::Refused(code)) = report.downcast_ref() {
        return Some(Problem::new(*code, "the contract refuses the payment"));
    }
    match report.downcast_ref::<Error>()? {
        Error::Problem(problem) => Some((**problem).clone()),
        Error::Unknown { signed, .. } => {
            let mut problem = Problem::new(Code::Unavailable, causes(report));
            if let Some(Signed::Payment(payment)) = signed {
                // With both, the same command signs the same bytes.
                problem.hint = format!(
                    "run the same command again with --nonce {} --deadline {}: it is never paid twice",
                    payment.nonce, payment.deadline
                );
            }
            Some(problem)
        }
        _ => None,
    }
}

fn to_human(problem: &Problem) -> String {
    let mut text = format!("error: {}: {}\n", problem.code, sanitize(&problem.detail));
    let denials = problem.decision.iter().flat_map(|decision| &decision.rules);
    for (verdict, code) in denials.filter_map(|verdict| verdict.code.map(|code| (verdict, code))) {
        let _ = writeln!(text, "  denied by {}: {code}: {}", sanitize(&verdict.rule), sanitize(&verdict.detail));
    }
    let _ = write!(text, "  hint: {}", sanitize(&problem.hint));
    text
}

/// What happened, and below it what that came of.
pub(crate) fn causes(report: &eyre::Report) -> String {
    let mut text = String::new();
    for cause in report.chain() {
        let cause = sanitize(&cause.to_string());
        // Some errors repeat their cause in their own message.
        if !text.contains(&cause) {
            let separator = if text.is_empty() { "" } else { ": " };
            let _ = write!(text, "{separator}{cause}");
        }
    }
    text
}

/// A state, for people.
pub(crate) const fn mandate_state(state: MandateState) -> &'static str {
    match state {
        MandateState::Opening => "opening",
        MandateState::Open => "open",
        MandateState::Frozen => "frozen",
        MandateState::Ended => "ended",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{Address, B256, Bytes};
    use stipend_core::{
        Amount, MandateId,
        api::NewPayment,
        policy::{Decision, Verdict},
    };

    #[test]
    fn words_of_others_can_neither_move_the_cursor_nor_hide() {
        assert_eq!(sanitize("pay\u{1b}[2K\u{202e}me\r\n"), "pay\\u{1b}[2K\\u{202e}me\\u{d}\\u{a}");
        assert_eq!(sanitize("Größe 大 🙂"), "Größe 大 🙂");
    }

    #[test]
    fn a_denial_names_every_rule_that_denies() {
        let mut problem = Problem::new(Code::AbovePerPayment, "denied");
        let verdict = |rule: &str, code| Verdict { rule: rule.into(), code, detail: format!("{rule} compared") };
        problem.decision = Some(Decision {
            allow: false,
            rules: vec![
                verdict("state", None),
                verdict("per_payment", Some(Code::AbovePerPayment)),
                verdict("budget", Some(Code::InsufficientBudget)),
            ],
        });
        let text = to_human(&problem);
        assert!(text.contains("denied by per_payment: above_per_payment: per_payment compared"), "{text}");
        assert!(text.contains("denied by budget: insufficient_budget"), "{text}");
        assert!(!text.contains("denied by state"), "{text}");
        assert!(text.contains("hint: pay at most the mandate's per-payment maximum"), "{text}");
    }

    #[test]
    fn an_unknown_outcome_says_how_to_repeat_the_payment() {
        let url: Url = "http://127.0.0.1:8420/v1/payments".parse().unwrap();
        let payment = NewPayment {
            mandate: MandateId(B256::ZERO),
            payee: Address::repeat_byte(7),
            amount: Amount::ZERO,
            nonce: 3,
            deadline: 1_800_003_600,
            reference: B256::ZERO,
            signature: Bytes::new(),
            metadata: Default::default(),
        };
        let odd = Error::Setup("503 of a proxy".into());
        let signed = Some(Signed::Payment(Box::new(payment)));
        let report = eyre::Report::new(Error::Unknown { url, signed, source: Some(Box::new(odd)) });
        let problem = problem(&report).unwrap();
        assert_eq!(problem.code, Code::Unavailable);
        assert!(problem.detail.contains("503 of a proxy"), "{}", problem.detail);
        assert!(problem.hint.contains("--nonce 3 --deadline 1800003600"), "{}", problem.hint);
    }

    #[test]
    fn a_url_is_shown_without_its_secrets() {
        let full = Url::parse("https://user:secret@node.example:8443/v2/key?token=1").unwrap();
        assert_eq!(url(&full), "https://node.example:8443");
    }

    #[test]
    fn times_read_as_times() {
        assert_eq!(time(1_800_000_000), "2027-01-15 08:00:00 UTC");
    }
}
