//! What the ledger says of itself: the journal of a day, and that a difference of any kind is found.

use super::*;
use crate::ledger::{
    VERSION,
    check::Report,
    journal::{self, GasPayer},
    rebuild,
};

/// A day with a bit of everything: paid, paid elsewhere, failed, held, captured and released,
/// waiting in a transaction, and waiting without one.
fn a_day() -> Scene {
    let windowed = |terms: &mut Terms| (terms.window, terms.window_cap) = (3_600, usdc(1_000));
    let mut scene = Scene::with(Address::ZERO, windowed);
    transactions::start(&scene.ledger, SUBMITTER, 0).unwrap();
    for (nonce, amount) in [(0, 100), (1, 50), (2, 30), (3, 20), (4, 10)] {
        scene.admit(nonce, amount, if nonce == 2 { 6 } else { DEADLINE });
    }
    let settled = scene.submit(0, &[0, 1]);
    scene.mine_with(vec![spent(0, 100, settled), spent(1, 50, settled)], vec![settled]);
    let card = admit_card(&scene, 10, 250, DEADLINE);
    scene.mine(vec![held(10, 250), spent(11, 40, B256::ZERO)]);
    scene.finalize();
    walk(&scene, card, &[CardState::Held, CardState::Active, CardState::Used, CardState::Closing]);
    scene.mine(vec![captured(10, 184), released(10, 66)]);
    scene.mine(Vec::new());
    scene.finalize();
    let mined = scene.submit(1, &[3]);
    scene.mine_with(vec![spent(3, 20, mined)], vec![mined]);
    scene.submit(2, &[4]);
    assert_eq!(scene.state(2), (PaymentState::Failed, Some(Code::DeadlinePassed)));
    audit::seal(&scene.ledger).unwrap();
    scene
}

fn found(report: &Report) -> Vec<String> {
    let named = |check: &crate::ledger::check::Check| {
        let name = check.name;
        check.differences.iter().map(move |difference| format!("{name}: {difference}")).collect::<Vec<_>>()
    };
    report.checks.iter().flat_map(named).collect()
}

#[test]
fn every_kind_of_difference_is_found_and_named() {
    let scene = a_day();
    assert_eq!(found(&check::examine(&scene.ledger)), Vec::<String>::new());
    scene.ledger.execute_batch("PRAGMA ignore_check_constraints = ON; PRAGMA foreign_keys = OFF").unwrap();
    for (corruption, said) in [
        ("DELETE FROM deployment", "it belongs to nobody"),
        ("INSERT INTO deployment SELECT * FROM deployment", "more than one deployment"),
        ("UPDATE trail SET body = x'00' WHERE seq = 3", "entry 3 is not what was written"),
        ("DELETE FROM trail WHERE seq = 3", "entry 4 is not what was written"),
        ("DELETE FROM head", "is not what was written"),
        ("UPDATE payment SET payee = zeroblob(20) WHERE seq = 1", "is not the one that was accepted"),
        ("DELETE FROM payment WHERE seq = 1", "is not the one that was accepted"),
        ("UPDATE mandate SET paid = paid + 1", "of 1000 units 1000 came in, 1001 are somewhere"),
        (
            "UPDATE mandate SET available = available - 1, paid = paid + 1",
            "paid is 375 units, the journal comes to 374",
        ),
        ("UPDATE mandate SET reserved = -1, available = 0", "each mandate's sum is right"),
        (
            "UPDATE journal SET amount = amount + 1 WHERE cause = 'reserve' AND card IS NULL AND amount = 30",
            "reserved is 30 units, the journal comes to 31",
        ),
        ("DELETE FROM journal WHERE cause = 'settle'", "units of its payments, which come to (30, 150)"),
        (
            "INSERT INTO journal (at, cause, debit, credit, amount) VALUES (0, 'x', 'here', 'there', 5)",
            "\"there\" of mandate 0",
        ),
        ("UPDATE host SET treasury = treasury + 1", "the host's treasury is 185 units, the journal comes to 184"),
        ("UPDATE host SET shortfall = 1", "the host's shortfall is 1 units, the journal comes to 0"),
        ("UPDATE card SET owed_back = 1", "owes back 1 units, the journal comes to 0 and 0"),
        ("UPDATE host SET gas_wei = 8", "the host's gas is 8 wei, the journal comes to 7"),
        ("DELETE FROM external_outflow", "the rows of pay elsewhere come to 0 units, the journal to 40"),
        (
            "UPDATE payment SET state = 'settled' WHERE state = 'submitted'",
            "over 10 units is settled, and submitted by the trail",
        ),
        (
            "UPDATE payment SET state = 'reserved' WHERE state = 'failed'",
            "over 30 units is reserved, and failed by the trail",
        ),
        ("UPDATE payment SET amount = 99 WHERE seq = 1", "of its payments, which come to (30, 149)"),
        ("DELETE FROM tx_payment WHERE tx = 3", "is submitted, but rides in no transaction"),
        ("UPDATE payment SET mined_hash = id WHERE state = 'mined'", "is mined in a block that is not in the list"),
        (
            "UPDATE payment SET mined_at = NULL WHERE seq = 1",
            "is settled, which is not what is said of its block's time",
        ),
        ("UPDATE card SET held_at = NULL", "has a block or a time, and not both"),
        ("UPDATE card SET captured = captured - 1", "captured 183 and released 66"),
        ("UPDATE card SET hold_final = 0", "of it"),
        ("UPDATE card SET nonce = 0", "nonce 0 is accepted 2 times"),
        ("UPDATE external_outflow SET nonce = 0", "nonce 0 is used on chain 2 times"),
        ("UPDATE tx SET nonce = 7 WHERE nonce = 1", "from nonce 0 to 7"),
        (
            "UPDATE window_total SET amount = amount + 1 WHERE at = (SELECT max(at) FROM window_total)",
            "the window counts",
        ),
        ("INSERT INTO refund SELECT mandate, payee, 0, 3 FROM card", "owes 0 units to mandate"),
        ("DELETE FROM attempt WHERE tx = 1", "transaction 1 has no attempt"),
        ("UPDATE attempt SET raw = x'' WHERE tx = 1", "of transaction 1 has other bytes"),
        ("UPDATE tx SET pruned = 1; UPDATE attempt SET raw = x'00'", "of transaction 1 has other bytes"),
        ("UPDATE attempt SET raw = x'00' WHERE tx = 1", "of transaction 1 has other bytes"),
        ("DELETE FROM tx_payment WHERE tx = 1", "transaction 1 settles nothing"),
        ("UPDATE tx SET mined_hash = x'00' WHERE state = 'mined'", "is mined in a block that is not in the list"),
        ("UPDATE tx SET mined_hash = NULL WHERE state = 'mined'", "which is not what is said of its block"),
        ("DELETE FROM journal WHERE credit = 'gas'", "transaction 1 cost 7 wei, the journal comes to 0"),
        ("UPDATE block SET parent = hash WHERE number = 2", "block 2"),
        ("DELETE FROM block WHERE number = 2", "block 3"),
        ("INSERT INTO tx_payment (tx, payment) VALUES (99, 1)", "of tx_payment points at no tx"),
    ] {
        let lax = "DROP TRIGGER journal_is_kept; DROP TRIGGER journal_is_whole; DROP TRIGGER trail_is_kept; DROP TRIGGER trail_is_whole; DROP TRIGGER head_is_whole;";
        scene.ledger.execute_batch(&format!("SAVEPOINT intact; {lax} {corruption}")).unwrap();
        let found = found(&check::examine(&scene.ledger));
        assert!(found.iter().any(|difference| difference.contains(said)), "{corruption}: {found:#?}");
        scene.ledger.execute_batch("ROLLBACK TO intact").unwrap();
    }
}

#[test]
fn a_corrupt_page_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger");
    let scene = a_day();
    scene.ledger.execute("VACUUM INTO ?", [path.to_str().unwrap()]).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    // The schema's version is at 60; the pages behind the first hold the tables.
    bytes[60..64].copy_from_slice(&u32::try_from(VERSION).unwrap().to_be_bytes());
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(found(&check::check(&path).unwrap()), Vec::<String>::new());
    let second_page = 4_096;
    bytes[second_page..second_page + 64].fill(0xff);
    std::fs::write(&path, &bytes).unwrap();
    let found = found(&check::check(&path).unwrap());
    assert!(found.iter().any(|difference| difference.starts_with("the file is sound")), "{found:?}");
}

#[test]
fn what_was_entered_stays() {
    let scene = a_day();
    for (attempt, said) in [
        ("UPDATE journal SET amount = 1", "the journal is append-only"),
        ("DELETE FROM journal", "the journal is append-only"),
        ("UPDATE trail SET body = x'00'", "the trail is append-only"),
        ("DELETE FROM trail", "the trail is append-only"),
        ("UPDATE head SET hash = x'00'", "the trail is append-only"),
        ("DELETE FROM head", "the trail is append-only"),
        ("UPDATE mandate SET paid = -1", "CHECK constraint failed"),
        ("UPDATE mandate SET paid = paid + 1", "CHECK constraint failed"),
        ("UPDATE host SET shortfall = -1", "CHECK constraint failed"),
    ] {
        let error = scene.ledger.execute_batch(attempt).unwrap_err().to_string();
        assert!(error.contains(said), "{attempt}: {error}");
    }
}

#[test]
fn gas_is_charged_to_batched_payments_once_final() {
    let mut scene = Scene::new(GUARDIAN);
    for nonce in 0..3 {
        scene.admit(nonce, 10, DEADLINE);
    }
    let hash = scene.submit(0, &[0, 1, 2]);
    scene.mine_with((0..3).map(|nonce| spent(nonce, 10, hash)).collect(), vec![hash]);
    assert_eq!(journal::host(&scene.ledger).unwrap().gas, 0);
    scene.unmine();
    scene.mine_with((0..3).map(|nonce| spent(nonce, 10, hash)).collect(), vec![hash]);
    scene.finalize();
    assert_eq!(journal::host(&scene.ledger).unwrap().gas, 7);
    let mut shares = scene.ledger.prepare("SELECT amount, mandate FROM journal WHERE credit = 'gas'").unwrap();
    let shares = shares.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(shares.map(Result::unwrap).collect::<Vec<(u64, u64)>>(), [(7, 1)]);
}

#[test]
fn gas_beyond_one_number_is_booked_to_the_last_wei() {
    let scene = Scene::new(GUARDIAN);
    let cost = 3 * u128::from(u64::MAX) + 11;
    for _ in 0..2 {
        journal::charge_gas(&scene.ledger, cost, &[GasPayer { mandate: Some(1), rows: 1 }], Default::default(), 0)
            .unwrap();
    }
    assert_eq!(journal::host(&scene.ledger).unwrap().gas, 2 * cost);
}

#[test]
fn what_an_issuer_claims_beyond_measure_halts_nothing() {
    let scene = Scene::new(GUARDIAN);
    for _ in 0..2 {
        let account = journal::HostAccount::Shortfall;
        journal::set_card_share(&scene.ledger, account, 1, Amount::ZERO, Amount::MAX, Default::default(), 0).unwrap();
    }
    assert_eq!(journal::host(&scene.ledger).unwrap().shortfall, Amount::MAX);
}

#[test]
fn what_is_taken_back_and_booked_again_is_the_same() {
    let mut scene = a_day();
    let (before, host) = (scene.balances(), journal::host(&scene.ledger).unwrap());
    rebuild::forget_chain(&scene.ledger, 0).unwrap();
    let genesis = Block { number: 0, hash: B256::repeat_byte(0xfe), parent: B256::ZERO, time: 0 };
    blocks::restart_at(&scene.ledger, genesis).unwrap();
    assert_eq!(found(&scene.examine()), Vec::<String>::new());
    // Accepted, and not failed: 100 + 50 + 20 + 10, and the card's 250.
    assert_eq!(purse(&scene), [570, 430, 0, 0]);
    assert_eq!(journal::host(&scene.ledger).unwrap(), journal::Host::default());
    assert_eq!(scene.state(2), (PaymentState::Failed, Some(Code::DeadlinePassed)));

    let [first, second, _] = [0_u64, 1, 2].map(|nonce| keccak256(nonce.to_be_bytes()));
    let mandate = scene.mandate();
    scene.mine(opened(0x11, &mandate.terms));
    scene.mine_with(vec![spent(0, 100, first), spent(1, 50, first)], vec![first]);
    scene.mine(vec![held(10, 250), spent(11, 40, B256::ZERO)]);
    scene.mine(vec![captured(10, 184), released(10, 66)]);
    scene.finalize();
    scene.mine_with(vec![spent(3, 20, second)], vec![second]);
    assert_eq!((scene.balances(), journal::host(&scene.ledger).unwrap()), (before, host));
    assert_eq!((scene.state(3).0, scene.state(4).0), (PaymentState::Mined, PaymentState::Submitted));
}
