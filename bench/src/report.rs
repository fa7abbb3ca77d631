//! What was measured, beside its target and its limit: a table for people, JSON for programs.

use comfy_table::{Cell, CellAlignment, Table, presets};
use eyre::{Result, eyre};
use serde::Serialize;

use crate::stats::Spread;

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// One measured quantity. As JSON it is `{what, value, unit, target, limit, better}`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Figure {
    pub(crate) what: String,
    /// The median of the repeats.
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// What the value is to come to, in the same unit; absent: none is set.
    pub(crate) target: Option<f64>,
    /// What the machine does at best in the same run, in the same unit; absent: nothing comparable.
    pub(crate) limit: Option<f64>,
    pub(crate) better: Better,
    /// The lowest and the highest repeat.
    #[serde(skip)]
    pub(crate) range: Option<(f64, f64)>,
    /// How many cores anything else on the machine used meanwhile.
    #[serde(skip)]
    pub(crate) others: Option<f64>,
}

impl Figure {
    /// A figure without target and limit.
    pub(crate) fn new(what: impl Into<String>, unit: &'static str, better: Better, value: f64) -> Self {
        Self { what: what.into(), value, unit, target: None, limit: None, better, range: None, others: None }
    }

    /// The median of repeats.
    pub(crate) fn of(what: impl Into<String>, unit: &'static str, better: Better, spread: Spread) -> Self {
        Self { range: Some((spread.min, spread.max)), ..Self::new(what, unit, better, spread.median) }
    }

    pub(crate) fn target(self, target: f64) -> Self {
        Self { target: Some(target), ..self }
    }

    pub(crate) fn limit(self, limit: f64) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// Held to a part of what the machine does at best.
    pub(crate) fn share_of(self, limit: f64, part: f64) -> Self {
        self.limit(limit).target(limit * part)
    }

    pub(crate) fn others(self, others: f64) -> Self {
        Self { others: Some(others), ..self }
    }

    /// Whether the target is met; `None` without one.
    pub(crate) fn is_met(&self) -> Option<bool> {
        self.target.map(|target| match self.better {
            Better::Higher => self.value >= target,
            Better::Lower => self.value <= target,
        })
    }

    fn verdict(&self) -> &'static str {
        match self.is_met() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        }
    }
}

/// That every figure is a number: what had no samples is none.
///
/// # Errors
/// Names the first that is not.
pub(crate) fn check(figures: &[Figure]) -> Result<()> {
    let odd = figures.iter().find(|figure| !figure.value.is_finite());
    odd.map_or(Ok(()), |odd| Err(eyre!("{}: {} is not a number", odd.what, odd.value)))
}

/// The figures as a JSON array.
///
/// # Errors
/// None in practice.
pub(crate) fn json(figures: &[Figure]) -> Result<String> {
    Ok(serde_json::to_string_pretty(figures)?)
}

/// The figures as a table in Markdown, which a terminal shows as well.
pub(crate) fn table(figures: &[Figure]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["what", "median", "min–max", "unit", "target", "limit", "÷ limit", "others", ""]);
    for figure in figures {
        let optional = |value: Option<f64>| value.map(short).unwrap_or_default();
        let range = figure.range.map(|(min, max)| format!("{}–{}", short(min), short(max)));
        let sign = if figure.better == Better::Higher { "≥" } else { "≤" };
        let target = figure.target.map(|target| format!("{sign} {}", short(target)));
        let numbers = [
            short(figure.value),
            range.unwrap_or_default(),
            figure.unit.to_owned(),
            target.unwrap_or_default(),
            optional(figure.limit),
            figure.limit.map(|limit| format!("{:.2}", figure.value / limit)).unwrap_or_default(),
            figure.others.map(|others| format!("{others:.2}")).unwrap_or_default(),
        ];
        let mut row = vec![Cell::new(&figure.what)];
        row.extend(numbers.map(|number| Cell::new(number).set_alignment(CellAlignment::Right)));
        row.push(Cell::new(figure.verdict()));
        table.add_row(row);
    }
    table.trim_fmt()
}

/// Three digits, or all before the point.
fn short(value: f64) -> String {
    match value.abs() {
        1_000.0.. => grouped(value.round()),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A whole number, its digits in threes.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let length = digits.len();
    let separated = digits.chars().enumerate().flat_map(|(at, digit)| {
        let separator = (at > 0 && (length - at).is_multiple_of(3)).then_some(',');
        separator.into_iter().chain([digit])
    });
    separated.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_held_to_its_share_of_the_limit() {
        let rate = |value| Figure::new("payments", "payments/s", Better::Higher, value).share_of(32_000.0, 0.25);
        assert_eq!(rate(8_000.0).is_met(), Some(true));
        assert_eq!(rate(7_999.0).is_met(), Some(false));
        assert_eq!((rate(1.0).target, rate(1.0).limit), (Some(8_000.0), Some(32_000.0)));
    }

    #[test]
    fn a_latency_is_held_below_its_target() {
        let latency = |value| Figure::new("p99", "ms", Better::Lower, value).target(20.0);
        assert_eq!(latency(20.0).is_met(), Some(true));
        assert_eq!(latency(20.1).is_met(), Some(false));
        assert_eq!(Figure::new("p99", "ms", Better::Lower, 1.0).is_met(), None);
    }

    #[test]
    fn json_has_six_members_and_absent_ones_are_null() {
        let spread = Spread { median: 2.0, min: 1.0, max: 3.0 };
        let figure = Figure::of("p99", "ms", Better::Lower, spread).target(20.0).others(0.5);
        let parsed: serde_json::Value = serde_json::from_str(&json(&[figure]).unwrap()).unwrap();
        let expected = serde_json::json!([
            { "what": "p99", "value": 2.0, "unit": "ms", "target": 20.0, "limit": null, "better": "lower" }
        ]);
        assert_eq!(parsed, expected);
    }

    #[test]
    fn what_had_no_samples_is_an_error() {
        let figure = |value| Figure::new("rate", "1/s", Better::Higher, value);
        assert!(check(&[figure(1.0), figure(0.0)]).is_ok());
        assert!(check(&[figure(1.0), figure(f64::NAN)]).unwrap_err().to_string().starts_with("rate: "));
    }

    #[test]
    fn a_table_shows_range_ratio_others_and_verdict() {
        let spread = Spread { median: 2_486.0, min: 2_282.0, max: 2_576.0 };
        let figure = Figure::of("single", "payments/s", Better::Higher, spread).share_of(32_800.0, 0.25).others(0.07);
        let shown = table(&[figure]);
        let row = shown.lines().last().unwrap();
        for cell in ["2,486", "2,282–2,576", "≥ 8,200", "32,800", "0.08", "0.07", "MISSED"] {
            assert!(row.contains(cell), "{cell} in {row}");
        }
    }

    #[test]
    fn numbers_keep_three_digits() {
        let shown = [0.456, 9.994, 10.04, 99.94, 100.4, 1_234_567.4].map(short);
        assert_eq!(shown, ["0.46", "9.99", "10.0", "99.9", "100", "1,234,567"]);
    }
}
