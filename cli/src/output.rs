//! How things are printed: tables for people, JSON for programs, and errors with what to do.

use std::{
    fmt::{self, Write as _},
    io::{self, Write},
    process::ExitCode,
    sync::OnceLock,
};

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Row, Table, presets};
use console::Term;
use icu_properties::{
    CodePointMapData, CodePointSetData,
    props::{DefaultIgnorableCodePoint, GeneralCategory},
};
use jiff::Timestamp;
use serde::Serialize;
use stipend_client::{Error, Signed, chain::ChainError};
use stipend_core::{Code, Seconds, api::Problem};
use unicode_width::UnicodeWidthChar;
use url::Url;

/// Headings of columns of numbers, which are aligned to the right.
const NUMBERS: &[&str] = &[
    "amount",
    "cap",
    "available",
    "reserved",
    "held",
    "paid",
    "returned",
    "carried",
    "restored",
    "chain: left",
    "chain: held",
    "charged",
    "captured",
    "released",
    "nonce",
    "seq",
    "count",
    "total",
    "examined",
    "differences",
];
/// Headings of columns with sentences, which may break, and the room that they need at least.
const SENTENCES: &[&str] = &["purpose", "paid to", "what"];
const SENTENCE_COLUMNS: u16 = 20;
/// The blanks around a column.
const PADDING: usize = 2;
/// How many columns of numbers a terminal has room for beside others.
const WHOLE_NUMBERS_MAX: usize = 4;
/// How many digits of an id a table shows on a terminal.
const SHORT_DIGITS: usize = 8;
const SHORT_TIMED_DIGITS: usize = 14;

/// What is narrower is no terminal that anybody reads on.
const WIDTH_MIN: usize = 20;
/// How lines that go on are indented.
const INDENT: &str = "    ";
/// What stands before words of others, and how wide they are without a terminal.
const BAR: &str = "| ";
const QUOTE_COLUMNS: usize = 100;
/// How many marks a character can have: more smear over the lines around it.
const MARKS_MAX: u32 = 2;

/// The exit code of what the mandate's policy refused.
const REFUSED: u8 = 3;
/// As shells have it: 128 and the number of SIGINT.
const INTERRUPTED: u8 = 130;

/// The user interrupted the command; with what is so all the same.
#[derive(Debug)]
pub(crate) struct Interrupted(pub(crate) String);

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interrupted: {}", self.0)
    }
}

impl std::error::Error for Interrupted {}

/// What was asked about would be refused: printed already, and reported by the exit code.
#[derive(Debug)]
pub(crate) struct WouldBeRefused;

impl fmt::Display for WouldBeRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it would be refused")
    }
}

impl std::error::Error for WouldBeRefused {}

/// The charge was declined: printed already, and reported by the exit code.
#[derive(Debug)]
pub(crate) struct Declined;

impl fmt::Display for Declined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the charge was declined")
    }
}

impl std::error::Error for Declined {}

/// Prints lines to stdout. A reader that has left, as `head` does, is no failure worth a word.
pub(crate) fn line(text: &str) -> eyre::Result<()> {
    Ok(writeln!(io::stdout().lock(), "{}", fit(text, width()))?)
}

/// Prints the content of a file to stdout, as it is.
pub(crate) fn file(text: &str) -> eyre::Result<()> {
    Ok(write!(io::stdout().lock(), "{text}")?)
}

/// Prints lines to stderr, for people.
pub(crate) fn note(text: &str) {
    // Nobody is left to be told that stderr is gone.
    let _ = writeln!(io::stderr().lock(), "{}", fit(text, width()));
}

/// Prints a result: as one line of JSON, or as what `human` makes of it.
pub(crate) fn result<T: Serialize>(json: bool, value: &T, human: impl FnOnce(&T) -> String) -> eyre::Result<()> {
    if !json {
        return line(human(value).trim_end());
    }
    Ok(writeln!(io::stdout().lock(), "{}", to_json(value)?)?)
}

/// One line of JSON in which nothing acts on a terminal: what could stands there by its number.
pub(crate) fn to_json<T: Serialize>(value: &T) -> serde_json::Result<String> {
    let json = serde_json::to_string(value)?;
    let mut escaped = String::with_capacity(json.len());
    for char in json.chars() {
        // Outside of strings JSON is ASCII, and inside of them an escape is the same character.
        if char.is_ascii_graphic() || char == ' ' || is_visible(char) {
            escaped.push(char);
        } else {
            for unit in char.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        }
    }
    Ok(escaped)
}

/// The terminal's width in columns, if there is one: without, nothing is wrapped.
fn width() -> Option<usize> {
    static WIDTH: OnceLock<Option<usize>> = OnceLock::new();
    *WIDTH.get_or_init(|| {
        let columns = |terminal: Term| terminal.size_checked().map(|(_, columns)| usize::from(columns));
        columns(Term::stdout()).or_else(|| columns(Term::stderr())).filter(|columns| *columns >= WIDTH_MIN)
    })
}

/// Breaks lines that are wider than the terminal, with an indent: where the terminal breaks them by
/// itself, words of others could come to stand where ours begin.
fn fit(text: &str, width: Option<usize>) -> String {
    let Some(width) = width else { return text.to_owned() };
    let lines = text.split('\n').map(|line| {
        let indent = line.chars().take_while(|char| *char == ' ').count().saturating_add(INDENT.len()).min(width / 2);
        wrap(line, width, width.saturating_sub(indent)).join(&format!("\n{}", " ".repeat(indent)))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Parts of a line, at blanks where there are any: the first of at most `first` columns, the others of
/// at most `rest`.
fn wrap(line: &str, first: usize, rest: usize) -> Vec<&str> {
    let (mut parts, mut left, mut limit) = (Vec::new(), line, first);
    while let Some(end) = overflow(left, limit) {
        let (fits, over) = left.split_at(end);
        // A blank at which nothing but an indent would be left over is none to break at.
        let blank = if over.starts_with(' ') { Some(end) } else { fits.rfind(' ') };
        let at = blank.filter(|blank| !left[..*blank].trim().is_empty()).unwrap_or(end);
        let (part, tail) = left.split_at(at);
        parts.push(part.trim_end());
        left = tail.trim_start();
        limit = rest;
    }
    parts.push(left);
    parts
}

/// Where the text leaves this many columns, if it does; behind its first character at the earliest.
fn overflow(text: &str, columns: usize) -> Option<usize> {
    let mut used = 0_usize;
    for (index, char) in text.char_indices() {
        // Where terminals differ, the wider one counts.
        used = used.saturating_add(char.width_cjk().unwrap_or_default());
        if used > columns && index > 0 {
            return Some(index);
        }
    }
    None
}

/// Words of others below each other, with a bar at the left edge of every line.
pub(crate) fn quoted(text: &str) -> String {
    let columns = width().unwrap_or(QUOTE_COLUMNS).saturating_sub(BAR.len());
    let text = sanitize(text);
    wrap(&text, columns, columns).iter().map(|line| format!("{BAR}{line}\n")).collect()
}

/// An id, a hash or an address in a table: on a terminal only its beginning, which `show`, `balance` and
/// `audit` take as well.
pub(crate) fn short(id: impl fmt::Display) -> String {
    shortened(&id.to_string(), width().is_some())
}

fn shortened(id: &str, is_narrow: bool) -> String {
    // Ids of payments, cards and requests begin with the time: the same for a while.
    let digits = if id.starts_with("mand_") || id.starts_with("0x") { SHORT_DIGITS } else { SHORT_TIMED_DIGITS };
    let prefix = id.find('_').map_or(2, |at| at.saturating_add(1)).saturating_add(digits);
    match id.get(..prefix).filter(|_| is_narrow && id.len() > prefix.saturating_add(2)) {
        Some(beginning) => format!("{beginning}.."),
        None => id.to_owned(),
    }
}

/// A table without a frame, with these headings.
pub(crate) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if let Some(width) = width() {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(u16::try_from(width).unwrap_or(u16::MAX));
    }
    if !headings.is_empty() {
        table.set_header(headings.iter().map(|heading| heading.to_uppercase()));
    }
    // What a row is about stays in one piece; other columns give way.
    if let Some(column) = table.column_mut(0) {
        column.set_constraint(ColumnConstraint::ContentWidth);
    }
    let numbers = || headings.iter().enumerate().filter(|(_, heading)| NUMBERS.contains(heading));
    for (index, _) in numbers() {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
            // Where there are many, they have no room beside each other in one piece.
            if numbers().count() <= WHOLE_NUMBERS_MAX {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
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

/// The same on a terminal that may be too narrow: these columns are left out, the first one first, until the
/// others have room in one piece. Those that hold sentences may break.
pub(crate) fn fitted(table: Table, droppable: &[&str]) -> String {
    match width() {
        Some(width) => fitted_to(table, width, droppable),
        None => text(&table),
    }
}

fn fitted_to(mut table: Table, width: usize, droppable: &[&str]) -> String {
    let headings: Vec<String> = table.header().into_iter().flat_map(Row::cell_iter).map(Cell::content).collect();
    let is_sentence = |heading: &str| SENTENCES.iter().any(|name| heading.eq_ignore_ascii_case(name));
    let mut columns: Vec<(String, usize)> = headings
        .into_iter()
        .zip(table.column_max_content_widths())
        .map(|(heading, content)| {
            let room = if is_sentence(&heading) { content.min(SENTENCE_COLUMNS) } else { content };
            (heading, usize::from(room).saturating_add(PADDING))
        })
        .collect();
    let mut dropped = Vec::new();
    for name in droppable {
        if columns.iter().map(|(_, room)| room).sum::<usize>() <= width {
            break;
        }
        let found = columns.iter_mut().enumerate().find(|(_, (heading, _))| heading.eq_ignore_ascii_case(name));
        let Some((index, (_, room))) = found else { continue };
        *room = 0;
        if let Some(column) = table.column_mut(index) {
            column.set_constraint(ColumnConstraint::Hidden);
        }
        dropped.push(*name);
    }
    let fits = columns.iter().map(|(_, room)| room).sum::<usize>() <= width;
    for (index, (heading, room)) in columns.iter().enumerate() {
        if fits
            && *room > 0
            && !is_sentence(heading)
            && let Some(column) = table.column_mut(index)
        {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    let mut shown = text(&table);
    if !dropped.is_empty() {
        shown.push_str(&format!("Not shown here: {}. A wider terminal or --json has all.\n", dropped.join(", ")));
    }
    shown
}

/// Seconds since 1970 as people read them.
pub(crate) fn time(seconds: Seconds) -> String {
    match i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok()) {
        Some(time) => time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        None => format!("second {seconds}"),
    }
}

/// Sanitizes text from outside: letters, numbers, punctuation and symbols stay, with at most two marks
/// each; white space becomes single blanks; everything else, which could move the cursor, hide text or
/// change its direction, is shown as its number. An approval that could be painted over would approve
/// anything.
pub(crate) fn sanitize(text: &str) -> String {
    let mut sanitized = String::with_capacity(text.len());
    let mut marks = MARKS_MAX;
    for char in text.chars() {
        let category = CodePointMapData::<GeneralCategory>::new().get(char);
        if category == GeneralCategory::SpaceSeparator {
            if !sanitized.ends_with(' ') {
                sanitized.push(' ');
            }
            // A mark has nothing to stand on there.
            marks = MARKS_MAX;
            continue;
        }
        let is_mark = is_mark(category);
        if is_visible(char) && (!is_mark || marks < MARKS_MAX) {
            marks = if is_mark { marks.saturating_add(1) } else { 0 };
            sanitized.push(char);
        } else {
            let _ = write!(sanitized, "\\u{{{:x}}}", u32::from(char));
        }
    }
    sanitized
}

fn is_mark(category: GeneralCategory) -> bool {
    use GeneralCategory::{EnclosingMark, NonspacingMark, SpacingMark};
    matches!(category, EnclosingMark | NonspacingMark | SpacingMark)
}

/// Whether a character shows, as itself and where it stands.
fn is_visible(char: char) -> bool {
    use GeneralCategory::{
        Control, Format, LineSeparator, ParagraphSeparator, PrivateUse, SpaceSeparator, Surrogate, Unassigned,
    };
    let hidden = matches!(
        CodePointMapData::<GeneralCategory>::new().get(char),
        Control | Format | LineSeparator | ParagraphSeparator | PrivateUse | SpaceSeparator | Surrogate | Unassigned
    );
    // Letters and marks that show nothing, and a symbol that is a blank.
    !hidden && !CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(char) && char != '\u{2800}'
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
    if report.is::<Interrupted>() {
        return ExitCode::from(INTERRUPTED);
    }
    let refused = problem.is_some_and(|problem| problem.decision.is_some_and(|decision| !decision.allow))
        || matches!(report.downcast_ref(), Some(ChainError::Refused(_)))
        || report.is::<Declined>()
        || report.is::<WouldBeRefused>();
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
            if let Some(Signed::Payment { payment, .. }) = signed {
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
        // Blanks of all kinds, and what only looks like one.
        assert_eq!(sanitize("a \u{a0}\u{3000}  b"), "a b");
        for blank in [
            '\u{115f}',
            '\u{1160}',
            '\u{3164}',
            '\u{ffa0}',
            '\u{2800}',
            '\u{34f}',
            '\u{fe0f}',
            '\u{e0100}',
            '\u{1d173}',
            '\u{200b}',
            '\u{feff}',
            '\u{2028}',
            '\u{9b}',
            '\u{e000}',
            '\u{378}',
        ] {
            assert_eq!(sanitize(&format!("a{blank}b")), format!("a\\u{{{:x}}}b", u32::from(blank)));
        }
        let stacked = sanitize(&format!("e{}", "\u{301}".repeat(400)));
        assert_eq!(stacked.chars().filter(|char| *char == '\u{301}').count(), 2);
        assert_eq!(sanitize(" \u{301}"), " \\u{301}");
    }

    #[test]
    fn json_on_a_terminal_is_the_same_json_and_inert() {
        let text = "a\u{7f}\u{9b}2K\u{202e}\u{e0041}\n\"ö大🙂";
        let json = to_json(&text).unwrap();
        assert!(json.chars().all(|char| char == ' ' || is_visible(char)), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }

    #[test]
    fn words_of_others_never_stand_at_the_left_edge() {
        for width in [60, 80, 100, 140] {
            let padded = |row: &str| format!("{row}{}", ".".repeat(width - row.len()));
            let hostile = format!("error: x {}{}", padded("mandate      mand_1"), padded("in total     1.00 USDC"));
            for line in fit(&hostile, Some(width)).lines().skip(1) {
                assert!(line.starts_with(INDENT) && line.chars().count() <= width, "{line}");
            }
            // Wide letters, and one that no terminal has room for.
            for line in fit(&"大".repeat(300), Some(width)).lines() {
                assert!(line.chars().filter_map(char::width_cjk).sum::<usize>() <= width);
            }
        }
        assert_eq!(fit("a b\n  c d", Some(80)), "a b\n  c d");
        assert_eq!(fit("x".repeat(500).as_str(), None).len(), 500);
        for line in quoted(&format!("a{}in total  1.00", " ".repeat(90))).lines() {
            assert!(line.starts_with(BAR));
        }
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
        let signed = Some(Signed::Payment { payment: Box::new(payment), idempotency_key: None });
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
    fn ids_are_short_on_a_terminal() {
        let id = format!("mand_{}", "ab".repeat(32));
        assert_eq!(shortened(&id, true), "mand_abababab..");
        assert_eq!(shortened(&id, false), id);
        assert_eq!(shortened(&Address::repeat_byte(7).to_string(), true), "0x07070707..");
        assert_eq!(shortened("pay_01234567890123456789", true), "pay_01234567890123..");
        assert_eq!(shortened("", true), "");
    }

    #[test]
    fn a_narrow_terminal_shows_fewer_columns_and_breaks_none() {
        let table = || {
            let mut table = table(&["mandate", "cap", "held", "until", "purpose"]);
            table.add_row(["mand_12345678..", "100.00", "0.00", "2027-01-15 08:00:00 UTC", "Automate marketing ops"]);
            table
        };
        let at = |width: u16| {
            let mut table = table();
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
            fitted_to(table, width.into(), &["held", "until"])
        };
        let shown = at(100);
        assert!(shown.contains("HELD") && shown.contains("UNTIL") && !shown.contains("Not shown"), "{shown}");
        let shown = at(77);
        assert!(!shown.contains("HELD") && shown.contains("2027-01-15 08:00:00 UTC"), "{shown}");
        let shown = at(60);
        assert!(!shown.contains("UNTIL") && shown.contains("Not shown here: held, until."), "{shown}");
        for width in [40, 60, 77, 100] {
            let shown = at(width);
            assert!(shown.contains("mand_12345678..") || width == 40, "{shown}");
            let longest = shown.lines().filter(|line| !line.starts_with("Not")).map(str::len).max();
            assert!(longest.is_some_and(|longest| longest <= width.into()), "{shown}");
        }
    }

    #[test]
    fn times_read_as_times() {
        assert_eq!(time(1_800_000_000), "2027-01-15 08:00:00 UTC");
    }
}
