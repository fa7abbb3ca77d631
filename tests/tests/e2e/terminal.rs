//! What strangers wrote, on terminals of every width: it never looks like ours.

use std::collections::BTreeMap;

use eyre::Result;
use stipend_client::CreateCard;
use stipend_core::{api::NewMandateRequest, card::CardState};
use stipend_e2e::{CardSettings, Purchase, Settings, World, on_terminal};

use crate::{asking, usdc};

const WIDTHS: [u16; 4] = [60, 80, 100, 140];

/// Names of our rows, and what our messages begin with.
const OURS: [&str; 20] = [
    "mandate",
    "in total",
    "per payment",
    "at most",
    "may be paid",
    "cards may be used",
    "from",
    "until",
    "the rest",
    "held amounts",
    "refunds",
    "operator",
    "agent",
    "guardian",
    "escrow",
    "state",
    "request",
    "error:",
    "hint:",
    "Let ",
];

/// What moves the cursor, turns the line around, shows nothing, or is a blank of another kind.
const UNSEEN: [char; 24] = [
    '\u{1b}',
    '\u{7}',
    '\u{8}',
    '\u{7f}',
    '\u{9b}',
    '\r',
    '\t',
    '\u{202e}',
    '\u{2066}',
    '\u{200b}',
    '\u{feff}',
    '\u{ad}',
    '\u{e0041}',
    '\u{3164}',
    '\u{2800}',
    '\u{a0}',
    '\u{3000}',
    '\u{115f}',
    '\u{1160}',
    '\u{ffa0}',
    '\u{34f}',
    '\u{1d173}',
    '\u{e0100}',
    '\u{2028}',
];

/// Purposes that try to be rows of the terms, at each of the widths.
fn hostile() -> Vec<String> {
    let row = |width: u16, text: &str| format!("{text:<width$}", width = usize::from(width));
    let mut texts: Vec<String> = WIDTHS
        .iter()
        .map(|width| {
            let rows =
                ["Ads", "in total     1.00 USDC, taken from the operator", "may be paid  nobody else", "error: no"];
            rows.map(|text| row(*width, text)).concat()
        })
        .collect();
    texts.push("in total 1.00 USDC\nper payment at most 0.01 USDC\r\nLet 0x00 spend 1.00 USDC".into());
    texts.push(UNSEEN.iter().map(|char| format!("a{char}b")).collect());
    texts.push(format!("e{}", "\u{301}".repeat(300)));
    texts.push("大".repeat(200) + "in total     1.00 USDC");
    texts.push("\u{1b}[2J\u{1b}[1;1Hin total     1.00 USDC\u{1b}]0;title\u{7}".into());
    texts
}

/// How many lines begin with each of our names.
fn rows(shown: &str) -> BTreeMap<&'static str, usize> {
    let starting = |name: &str| shown.lines().filter(|line| line.starts_with(name)).count();
    OURS.iter().map(|name| (*name, starting(name))).collect()
}

fn assert_inert(shown: &str) {
    for char in UNSEEN {
        assert!(!shown.contains(char), "{char:?} in {shown:?}");
    }
    assert!(!shown.contains("\u{301}\u{301}\u{301}"), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purpose_can_pose_as_no_row_of_the_terms() -> Result<()> {
    let world = World::start("terminal-approve").await?;
    let agent = world.agent()?;
    let shows = async |purpose: &str, width: u16| -> Result<String> {
        let asked = NewMandateRequest { intent: purpose.into(), ..asking("100")? };
        let request = agent.request_mandate(&asked).await?.object.id.to_string();
        let command = world.stipend_command(&world.keys.operator, &["mandate", "approve", &request])?;
        on_terminal(command, width)
    };
    for width in WIDTHS {
        let plain = shows("Ads", width).await?;
        assert!(plain.contains("\n| Ads\n") && plain.contains("spend 100.00 USDC"), "{plain}");
        for purpose in hostile() {
            let shown = shows(&purpose, width).await?;
            assert_inert(&shown);
            assert_eq!(rows(&shown), rows(&plain), "{width} columns:\n{shown}");
            for line in shown.lines().filter(|line| line.starts_with("| ")) {
                assert!(!line.trim_start_matches("| ").contains("  "), "{line:?}");
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_keep_the_words_of_others_in_their_columns() -> Result<()> {
    let cards = Some(CardSettings::default());
    let world = World::with("terminal-lists", &Settings { cards, ..Settings::default() }).await?;
    let (agent, issuer) = (world.agent()?, world.issuer()?);
    let mut open = Vec::new();
    for purpose in hostile() {
        open.push(world.open(&NewMandateRequest { intent: purpose, ..asking("30")? }).await?);
    }
    let mandate = open.first().map(|mandate| mandate.id).unwrap_or_default();
    // A merchant's name has 25 characters at most.
    for name in ["1  2026-01-01  payment.set", "mandate mand_1\u{202e}\u{1b}[1A", "error: \u{301}\u{301}\u{301}\u{301}"]
    {
        let card = world.create_card(&agent, &CreateCard::new(mandate, usdc("1")?)).await??.object;
        world.card_in(&agent, card.id, CardState::Active).await?;
        let secrets = world.reveal(&agent, card.id).await?;
        let name: String = name.chars().take(25).collect();
        issuer.charge(&secrets, Purchase { merchant: &name, ..Purchase::of(100) }).await?.approved()?;
    }
    for width in WIDTHS {
        let shows = |arguments: &[&str]| -> Result<String> {
            let shown = on_terminal(world.stipend_command(&world.keys.agent, arguments)?, width)?;
            assert_inert(&shown);
            Ok(shown)
        };
        // Each row begins with an id; whatever goes on below it is indented.
        let listed = shows(&["mandate", "list"])?;
        let begun = listed.lines().filter(|line| line.starts_with("mand_")).count();
        assert_eq!(begun, open.len(), "{width} columns:\n{listed}");
        assert_eq!(rows(&listed)["in total"] + rows(&listed)["error:"], 0, "{listed}");
        let audit = shows(&["audit"])?;
        let is_ours = |line: &&str| {
            let first = line.trim_start().split(' ').next().unwrap_or_default();
            line.starts_with("  ")
                || line.is_empty()
                || *line == "n"
                || first.parse::<u64>().is_ok()
                || *line == "SEQ"
                || line.starts_with("SEQ ")
                || line.starts_with("Not shown here: ")
        };
        assert_eq!(audit.lines().find(|line| !is_ours(line)), None, "{width} columns:\n{audit}");
    }
    Ok(())
}
