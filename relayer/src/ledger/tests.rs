//! The ledger's file and its writer, on a real disk.

mod growth;

use alloy_primitives::{Address, B256, address, keccak256};

use futures_util::future::join_all;
use stipend_core::{
    Amount, MandateId, PaymentId,
    api::{AuditEntry, NewPayment},
    trail::Entry,
};

use super::{
    Deployment, Ledger, LedgerError, VERSION, audit,
    books::{self, OpenMandate},
    charges, check, feed, mandates,
    payments::{self, DecidedPayment},
    writer::{GROUP_TIME, Priority, QUEUE},
};

const DEPLOYMENT: Deployment = Deployment {
    chain_id: 1,
    escrow: Address::repeat_byte(1),
    token: Address::repeat_byte(2),
    guardian: Address::repeat_byte(3),
};
const READER: Address = Address::repeat_byte(4);

fn note(ledger: &rusqlite::Connection, kind: &str) -> Result<(), LedgerError> {
    audit::append(
        ledger,
        0,
        audit::NewAuditEntry { kind: kind.into(), agent: Some(READER), ..audit::NewAuditEntry::default() },
    )
}

async fn kinds(ledger: &Ledger) -> Vec<String> {
    let entries = ledger.read(|ledger| Ok(feed::tests::all(ledger, READER, None))).await.unwrap();
    entries.into_iter().map(|entry| entry.kind).collect()
}

/// Keeps the writer busy until told, and long enough that nothing joins its group: what is asked meanwhile shares the
/// next commit.
async fn busy(ledger: &Ledger) -> std::sync::mpsc::Sender<()> {
    let (release, released) = std::sync::mpsc::channel();
    let (enter, entered) = tokio::sync::oneshot::channel();
    let writer = ledger.writer().clone();
    tokio::spawn(async move {
        let wait = move |_: &rusqlite::Transaction<'_>| {
            enter.send(()).unwrap();
            released.recv().unwrap();
            std::thread::sleep(GROUP_TIME);
            Ok(())
        };
        writer.write(wait).await
    });
    entered.await.unwrap();
    release
}

#[tokio::test]
async fn a_failed_command_rolls_back_only_its_own_changes() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&directory.path().join("ledger"), DEPLOYMENT).unwrap();
    let writer = ledger.writer();
    let release = busy(&ledger).await;
    let (first, bad, last, _) = tokio::join!(
        writer.write(|ledger| note(ledger, "first")),
        writer.write(|ledger| {
            note(ledger, "bad")?;
            Err::<(), _>(LedgerError::inconsistent("made up"))
        }),
        writer.write(|ledger| note(ledger, "last")),
        async { release.send(()).unwrap() },
    );
    assert!(first.is_ok() && last.is_ok());
    assert!(matches!(bad, Err(LedgerError::Inconsistent(_))));
    assert_eq!(kinds(&ledger).await, ["first", "last"]);
    ledger.changes().wait_for(|last| *last == 2).await.unwrap();
}

#[tokio::test]
async fn an_issuer_is_answered_before_blocks_and_blocks_before_new_payments() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&directory.path().join("ledger"), DEPLOYMENT).unwrap();
    let writer = ledger.writer();
    let release = busy(&ledger).await;
    let written = tokio::join!(
        writer.write_as(Priority::Normal, |ledger| note(ledger, "payment")),
        writer.write_as(Priority::Step, |ledger| note(ledger, "block")),
        writer.write_as(Priority::Urgent, |ledger| note(ledger, "charge")),
        async { release.send(()).unwrap() },
    );
    assert!(written.0.is_ok() && written.1.is_ok() && written.2.is_ok());
    assert_eq!(kinds(&ledger).await, ["charge", "block", "payment"]);
}

/// However many wait of each priority, each has its turn in a group.
#[tokio::test]
async fn no_priority_starves_another() {
    use Priority::{Normal, Step, Urgent};
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&directory.path().join("ledger"), DEPLOYMENT).unwrap();
    let release = busy(&ledger).await;
    // Each of them takes all the time that a group has.
    let slow = |priority, kind: &'static str| {
        let writer = ledger.writer().clone();
        let work = move |ledger: &rusqlite::Transaction<'_>| {
            std::thread::sleep(GROUP_TIME);
            note(ledger, kind)
        };
        tokio::spawn(async move { writer.write_as(priority, work).await })
    };
    let mut asked = Vec::new();
    for (priority, kind) in [(Urgent, "charge"), (Step, "block"), (Normal, "payment")] {
        asked.extend((0..3).map(|_| slow(priority, kind)));
        tokio::task::yield_now().await;
    }
    release.send(()).unwrap();
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
    assert_eq!(kinds(&ledger).await, ["charge", "block", "payment"].repeat(3));
}

#[tokio::test]
async fn a_full_queue_of_payments_leaves_room_for_an_issuer() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&directory.path().join("ledger"), DEPLOYMENT).unwrap();
    let release = busy(&ledger).await;
    let writer = ledger.writer().clone();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..=QUEUE {
        let writer = writer.clone();
        waiting.spawn(async move { writer.write(|_| Ok(())).await });
    }
    // One too many: it is told so, and nothing else is.
    assert!(matches!(waiting.join_next().await.unwrap().unwrap(), Err(LedgerError::Full)));
    let (charge, ()) = tokio::join!(writer.write_as(Priority::Urgent, |ledger| note(ledger, "charge")), async {
        release.send(()).unwrap();
    });
    charge.unwrap();
    while let Some(written) = waiting.join_next().await {
        written.unwrap().unwrap();
    }
}

/// What failed at the commit, whoever asked for it, is unknown, and nothing of it is there after a
/// restart. Nobody was told of it before.
async fn is_unknown_and_stops(spoil: fn(&rusqlite::Transaction<'_>) -> Result<(), LedgerError>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger");
    let ledger = Ledger::open(&path, DEPLOYMENT).unwrap();
    let writer = ledger.writer();
    writer.write(|ledger| note(ledger, "before")).await.unwrap();
    let changes = ledger.changes();
    let release = busy(&ledger).await;
    let group = tokio::join!(
        writer.write(|ledger| note(ledger, "first")),
        writer.write(spoil),
        writer.write(|ledger| note(ledger, "last")),
        async { release.send(()).unwrap() },
    );
    for outcome in [group.0, group.1, group.2] {
        assert!(matches!(outcome, Err(LedgerError::Unknown)), "{outcome:?}");
    }
    assert_eq!(*changes.borrow(), 1);
    writer.stopped().await;
    let after = writer.write(|ledger| note(ledger, "after")).await;
    assert!(matches!(after, Err(LedgerError::Unknown)));
    assert_eq!(kinds(&ledger).await, ["before"]);
    drop(ledger);
    assert_eq!(kinds(&Ledger::open(&path, DEPLOYMENT).unwrap()).await, ["before"]);
}

#[tokio::test]
async fn a_failed_commit_is_unknown_to_all_and_stops_the_writer() {
    is_unknown_and_stops(|ledger| {
        // Found out by the commit alone, as a failing disk is.
        let row = "PRAGMA defer_foreign_keys = ON; INSERT INTO attempt (hash, tx, raw, max_fee, priority_fee, sent_at) VALUES (x'00', 9, x'00', 1, 1, 1)";
        Ok(ledger.execute_batch(row)?)
    })
    .await;
}

#[tokio::test]
async fn a_database_rollback_stops_the_writer() {
    // As a full disk does in the middle of a statement.
    is_unknown_and_stops(|ledger| Ok(ledger.execute_batch("ROLLBACK")?)).await;
}

#[tokio::test]
async fn commands_wait_while_another_process_locks_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger");
    let ledger = Ledger::open(&path, DEPLOYMENT).unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let write = ledger.writer().write(|ledger| note(ledger, "late"));
    tokio::pin!(write);
    // Longer than SQLite waits by itself.
    let early = tokio::time::timeout(super::BUSY_TIMEOUT + std::time::Duration::from_secs(1), &mut write).await;
    assert!(early.is_err(), "{early:?}");
    assert_eq!(kinds(&ledger).await, Vec::<String>::new());
    other.execute_batch("COMMIT").unwrap();
    write.await.unwrap();
    assert_eq!(kinds(&ledger).await, ["late"]);
}

#[tokio::test]
async fn answered_commits_are_durable_and_visible() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger");
    let ledger = Ledger::open(&path, DEPLOYMENT).unwrap();
    for index in 0..20 {
        ledger.writer().write(move |ledger| note(ledger, &index.to_string())).await.unwrap();
        assert_eq!(kinds(&ledger).await.len(), index + 1);
    }
    drop(ledger);
    let ledger = Ledger::open(&path, DEPLOYMENT).unwrap();
    assert_eq!(kinds(&ledger).await.len(), 20);
}

/// Accepts a payment of the mandate with this number, as the service does.
async fn accept(ledger: &Ledger, mandate: u8, nonce: u32) -> PaymentId {
    let mandate = MandateId(B256::repeat_byte(mandate));
    let body = NewPayment { mandate, ..books::tests::payment(nonce, 1) };
    let accept = move |ledger: &rusqlite::Transaction<'_>, open: Option<&mut OpenMandate>| {
        let new = DecidedPayment { body: &body, digest: B256::ZERO, inputs: &feed::tests::inputs() };
        payments::accept(ledger, open.unwrap(), PaymentId::generate(), &new, 7)
    };
    ledger.writer().admit(mandate, books::tests::AGENT, accept).await.unwrap().id
}

/// How many payments have a row.
fn payment_count(file: &std::path::Path) -> usize {
    let file = rusqlite::Connection::open(file).unwrap();
    file.query_row("SELECT count(*) FROM payment", [], |row| row.get(0)).unwrap()
}

/// What was accepted is in the tables for whoever reads them afterwards; by itself, a moment later; and after a crash in
/// between.
#[tokio::test]
async fn an_accepted_payment_is_never_missed() {
    const MANDATES: u8 = 12;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger");
    let ledger = Ledger::open(&path, DEPLOYMENT).unwrap();
    let open = |ledger: &rusqlite::Transaction<'_>| {
        let mandates = (0..MANDATES).map(|number| MandateId(B256::repeat_byte(number)));
        mandates.into_iter().try_for_each(|id| mandates::ensure(ledger, id, &books::tests::terms(), 0).map(drop))
    };
    ledger.writer().write(open).await.unwrap();
    let mut changes = ledger.changes();
    let (mut accepted, mut crashes) = (Vec::new(), 0);
    for nonce in 0.. {
        // Of many mandates at once: what is decided of one alone goes into the tables with the commit.
        accepted.extend(join_all((0..MANDATES).map(|mandate| accept(&ledger, mandate, nonce))).await);
        let all = accepted.clone();
        let copy = directory.path().join(format!("crash {nonce}"));
        let wal = |path: &std::path::Path| std::path::PathBuf::from(format!("{}-wal", path.display()));
        std::fs::copy(&path, &copy).unwrap();
        std::fs::copy(wal(&path), wal(&copy)).unwrap();
        if payment_count(&copy) == all.len() {
            continue;
        }
        crashes += 1;
        let report = check::check(&copy).unwrap();
        assert_eq!(report.differences(), 0, "{report:?}");
        let crashed = Ledger::open(&copy, DEPLOYMENT).unwrap();
        let found = |ledger: &rusqlite::Connection, all: &[PaymentId]| {
            all.iter().filter(|id| payments::by_id(ledger, **id).unwrap().is_some()).count()
        };
        let recovered = all.clone();
        assert_eq!(crashed.read_applied(move |ledger| Ok(found(ledger, &recovered))).await.unwrap(), all.len());
        let report = check::check(&copy).unwrap();
        assert_eq!(report.differences(), 0, "{report:?}");
        match crashes {
            // Whoever reads has the tables brought up to date.
            1 => {
                let read = all.clone();
                assert_eq!(ledger.read(move |ledger| Ok(found(ledger, &read))).await.unwrap(), all.len());
            }
            // So has time, and the end.
            2 => {
                let last = ledger.read_applied(audit::last).await.unwrap();
                changes.wait_for(|told| *told == last).await.unwrap();
                assert_eq!(ledger.read_applied(move |ledger| Ok(found(ledger, &all))).await.unwrap(), accepted.len());
            }
            _ => {
                drop(ledger);
                assert_eq!(payment_count(&path), all.len());
                return;
            }
        }
    }
}

#[tokio::test]
async fn after_a_stop_the_file_alone_is_the_ledger() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger");
    let ledger = Ledger::open(&path, DEPLOYMENT).unwrap();
    ledger.writer().write(|ledger| note(ledger, "kept")).await.unwrap();
    assert_eq!(kinds(&ledger).await, ["kept"]);
    ledger.checkpoint().await.unwrap();
    let copy = directory.path().join("copy");
    std::fs::copy(&path, &copy).unwrap();
    assert_eq!(kinds(&Ledger::open(&copy, DEPLOYMENT).unwrap()).await, ["kept"]);
}

#[tokio::test]
async fn one_process_one_deployment_one_version() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger");
    let ledger = Ledger::open(&path, DEPLOYMENT).unwrap();
    assert!(matches!(Ledger::open(&path, DEPLOYMENT), Err(LedgerError::InUse(_))));
    drop(ledger);

    let other = Deployment { escrow: Address::repeat_byte(9), ..DEPLOYMENT };
    assert!(matches!(Ledger::open(&path, other), Err(LedgerError::WrongDeployment { .. })));

    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(Ledger::open(&path, DEPLOYMENT), Err(LedgerError::Version { found: 99, .. })));

    let foreign = directory.path().join("foreign");
    rusqlite::Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE somebody (x)").unwrap();
    assert!(matches!(Ledger::open(&foreign, DEPLOYMENT), Err(LedgerError::Version { found: 0, .. })));
}

/// Tables with their columns, and indexes.
fn shape(path: &std::path::Path) -> Vec<(String, String)> {
    let file = rusqlite::Connection::open(path).unwrap();
    let mut statement = file
        .prepare(
            "SELECT m.name, coalesce(c.name, m.sql) FROM sqlite_schema AS m
             LEFT JOIN pragma_table_info(m.name) AS c ON m.type = 'table' WHERE m.sql IS NOT NULL ORDER BY 1, 2",
        )
        .unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

/// Takes an empty ledger back to version 8.
const VERSION_8: &str = "
    DROP TRIGGER payment_has_its_nonce; DROP INDEX payment_by_stage; ALTER TABLE payment DROP COLUMN stage;
    CREATE INDEX payment_live ON payment (state, mandate, nonce) WHERE state NOT IN ('settled', 'failed');
    CREATE INDEX payment_fresh ON payment (mandate, nonce) WHERE state = 'reserved' AND reason IS NULL;
    CREATE INDEX payment_refused ON payment (mandate, nonce) WHERE state = 'reserved' AND reason IS NOT NULL;
    DROP TABLE mandate_trail; DROP TABLE applied; ALTER TABLE mandate DROP COLUMN applied;
    CREATE INDEX trail_of_mandate ON trail (mandate, seq) WHERE mandate IS NOT NULL; PRAGMA user_version = 8;";

/// Takes an empty ledger of version 8 back to version 7.
const VERSION_7: &str = "
    DROP TABLE trail; DROP TABLE head; DROP TABLE approval;
    CREATE TABLE audit (
        seq      INTEGER PRIMARY KEY,
        at       INTEGER NOT NULL,
        kind     TEXT    NOT NULL,
        agent    BLOB,
        operator BLOB,
        request  BLOB,
        mandate  BLOB,
        payment  BLOB,
        card     BLOB,
        tx_hash  BLOB,
        data     TEXT    NOT NULL,
        hash     BLOB    NOT NULL
    ) STRICT;
    CREATE INDEX audit_of_agent ON audit (agent, seq);
    CREATE INDEX audit_of_operator ON audit (operator, seq);
    CREATE INDEX audit_approved ON audit (at) WHERE kind = 'mandate.approved';
    CREATE TRIGGER audit_is_kept BEFORE UPDATE ON audit BEGIN SELECT raise(ABORT, 'the trail is append-only'); END;
    CREATE TRIGGER audit_is_whole BEFORE DELETE ON audit BEGIN SELECT raise(ABORT, 'the trail is append-only'); END;
    PRAGMA user_version = 7;";

/// Takes an empty ledger of version 7 back to version 6.
const VERSION_6: &str = "
    DROP INDEX block_unfinished; ALTER TABLE block DROP COLUMN unfinished; ALTER TABLE block DROP COLUMN next_log;
    DROP INDEX mandate_lapsing; DROP INDEX mandate_remainder; ALTER TABLE mandate DROP COLUMN lapsed;
    CREATE INDEX mandate_expiring ON mandate (expiry); CREATE INDEX mandate_unreturned ON mandate (ended_block);
    CREATE INDEX mandate_holding ON mandate (expiry);
    DROP INDEX payment_failed; CREATE INDEX payment_taken ON payment (mandate, mined_at); DROP TABLE window_total;
    DROP INDEX card_of_mandate; DROP INDEX card_unsettled; CREATE INDEX card_owing ON card (mandate);
    DROP INDEX refund_due; ALTER TABLE refund DROP COLUMN owed; DROP INDEX webhook_taken;
    DROP INDEX revocation_waiting; ALTER TABLE revocation DROP COLUMN done;
    DROP INDEX tx_of_card; DROP INDEX tx_whole; ALTER TABLE tx DROP COLUMN pruned; PRAGMA user_version = 6;";

#[tokio::test]
async fn a_ledger_of_version_6_is_brought_up_to_date() {
    let directory = tempfile::tempdir().unwrap();
    let (fresh, old) = (directory.path().join("fresh"), directory.path().join("old"));
    for path in [&fresh, &old] {
        drop(Ledger::open(path, DEPLOYMENT).unwrap());
    }
    let file = rusqlite::Connection::open(&old).unwrap();
    file.execute_batch(&[VERSION_8, VERSION_7, VERSION_6].concat()).unwrap();
    // A window of an hour: what was taken more than 70 minutes before the last final block counts no longer. Of a cap of
    // 2^33 units, the register counts in fours.
    file.execute_batch(
        "PRAGMA foreign_keys = OFF;
         INSERT INTO block VALUES (7, x'07', x'06', 10000, 1), (8, x'08', x'07', 20000, 0);
         INSERT INTO mandate (id, operator, agent, terms, expiry, cap, available, ended_block, ended_hash, created_at) VALUES
            (x'11', x'01', x'02', '{\"window\":3600,\"window_cap\":\"8589.934592\"}', 10000, 9, 9, NULL, NULL, 1),
            (x'12', x'01', x'02', '{\"window\":0,\"window_cap\":\"0\"}', 10001, 9, 9, 7, x'07', 1),
            (x'13', x'01', x'02', '{\"window\":0,\"window_cap\":\"0\"}', 20000, 9, 9, 8, x'08', 1);
         INSERT INTO revocation (mandate, calldata) VALUES (x'11', x'00'), (x'12', x'00'), (x'13', x'00');
         INSERT INTO external_outflow VALUES (x'11', 1, 'pay', x'0a', 5, x'66', 5800), (x'11', 2, 'pay', x'0a', 7, x'66', 5801),
            (x'11', 3, 'pay', x'0a', 9, x'66', 9000), (x'12', 1, 'pay', x'0a', 5, x'66', 9000);
         INSERT INTO payment (id, mandate, nonce, payee, amount, deadline, ref, digest, signature, state, mined_hash, mined_at,
            metadata, created_at, updated_at) VALUES
            (x'01', x'11', 4, x'0a', 3, 1, x'00', x'01', x'00', 'settled', x'07', 9000, '{}', 1, 1),
            (x'02', x'11', 5, x'0a', 3, 1, x'00', x'02', x'00', 'mined', x'08', 9001, '{}', 1, 1);
         INSERT INTO refund VALUES (x'11', x'0a', 4);
         INSERT INTO card (id, mandate, nonce, payee, amount, deadline, capture_by, ref, digest, signature, expires_at, state,
            owed_back, metadata, created_at, updated_at) VALUES
            (x'01', x'11', 6, x'0a', 9, 1, 1, x'00', x'01', x'00', 1, 'closed', 5, '{}', 1, 1),
            (x'02', x'11', 7, x'0a', 9, 1, 1, x'00', x'02', x'00', 1, 'closed', 2, '{}', 1, 1),
            (x'03', x'11', 8, x'0b', 9, 1, 1, x'00', x'03', x'00', 1, 'closed', 1, '{}', 1, 1);",
    )
    .unwrap();
    drop(file);
    drop(Ledger::open(&old, DEPLOYMENT).unwrap());
    assert_eq!(shape(&fresh), shape(&old));

    let file = rusqlite::Connection::open(&old).unwrap();
    let rows = |columns, table| rows(&file, columns, table).join(" ");
    assert_eq!(
        rows("at, amount, units", "window_total"),
        "Integer(5801);Integer(7);Integer(2); Integer(9000);Integer(19);Integer(6);"
    );
    assert_eq!(rows("lapsed", "mandate"), "Integer(1); Integer(0); Integer(0);");
    assert_eq!(rows("done", "revocation"), "Integer(0); Integer(1); Integer(0);");
    assert_eq!(rows("amount, owed", "refund"), "Integer(4);Integer(7); Integer(0);Integer(1);");
}

#[tokio::test]
async fn a_ledger_of_version_1_is_brought_up_to_date() {
    let directory = tempfile::tempdir().unwrap();
    let (fresh, old) = (directory.path().join("fresh"), directory.path().join("old"));
    for path in [&fresh, &old] {
        drop(Ledger::open(path, DEPLOYMENT).unwrap());
    }
    let file = rusqlite::Connection::open(&old).unwrap();
    file.execute_batch(&[VERSION_8, VERSION_7, VERSION_6].concat()).unwrap();
    file.execute_batch(
        "PRAGMA foreign_keys = OFF; DROP INDEX card_owing; DROP TABLE refund; DROP INDEX audit_approved; DROP INDEX charge_of_card;
         ALTER TABLE card DROP COLUMN shortfall; ALTER TABLE card DROP COLUMN owed_back;
         ALTER TABLE host DROP COLUMN owed_back; DROP INDEX card_closed; DROP INDEX payment_taken; DROP INDEX mandate_holding;
         ALTER TABLE payment DROP COLUMN mined_at; ALTER TABLE card DROP COLUMN held_at;
         ALTER TABLE deployment RENAME TO house; ALTER TABLE external_outflow RENAME TO foreign_outflow;
         ALTER TABLE foreign_outflow DROP COLUMN at; PRAGMA user_version = 1;
         INSERT INTO block VALUES (7, x'07', x'06', 700, 0);
         INSERT INTO foreign_outflow VALUES (x'11', 9, 'pay', x'0a', 5, x'66');",
    )
    .unwrap();
    // One in a block that is known, one in a block that is long gone, one that waits.
    for (nonce, block, state) in [(0_u8, Some([7_u8]), "mined"), (1, Some([1]), "settled"), (2, None, "reserved")] {
        file.execute(
            "INSERT INTO payment (id, mandate, nonce, payee, amount, deadline, ref, digest, signature, state, mined_hash,
                metadata, created_at, updated_at)
             VALUES (?1, x'11', ?2, x'0a', 1, 1000, x'00', ?1, x'00', ?3, ?4, '{}', 100, 800)",
            ([nonce], nonce, state, block),
        )
        .unwrap();
    }
    drop(file);
    assert_ne!(shape(&fresh), shape(&old));
    drop(Ledger::open(&old, DEPLOYMENT).unwrap());
    assert_eq!(shape(&fresh), shape(&old));

    let file = rusqlite::Connection::open(&old).unwrap();
    let times = |query| {
        let mut statement = file.prepare(query).unwrap();
        let times = statement.query_map([], |row| row.get::<_, Option<u64>>(0)).unwrap();
        times.map(Result::unwrap).collect::<Vec<_>>()
    };
    assert_eq!(times("SELECT mined_at FROM payment ORDER BY nonce"), [Some(700), Some(800), None]);
    assert_eq!(times("SELECT at FROM external_outflow"), [Some(700)]);
}

#[tokio::test]
async fn a_ledger_of_version_2_is_brought_up_to_date() {
    let directory = tempfile::tempdir().unwrap();
    let (fresh, old) = (directory.path().join("fresh"), directory.path().join("old"));
    for path in [&fresh, &old] {
        drop(Ledger::open(path, DEPLOYMENT).unwrap());
    }
    let file = rusqlite::Connection::open(&old).unwrap();
    file.execute_batch(&[VERSION_8, VERSION_7, VERSION_6].concat()).unwrap();
    file.execute_batch(
        "PRAGMA foreign_keys = OFF; DROP INDEX card_owing; DROP TABLE refund; DROP INDEX audit_approved; DROP INDEX charge_of_card;
         ALTER TABLE card DROP COLUMN shortfall; ALTER TABLE card DROP COLUMN owed_back;
         ALTER TABLE host DROP COLUMN owed_back; DROP INDEX card_closed; ALTER TABLE deployment RENAME TO house;
         ALTER TABLE external_outflow RENAME TO foreign_outflow; PRAGMA user_version = 2;
         INSERT INTO foreign_outflow VALUES (zeroblob(32), 9, 'pay', x'0a', 5, x'66', 700);
         INSERT INTO card (seq, id, mandate, nonce, payee, amount, deadline, capture_by, ref, digest, signature, expires_at,
            state, metadata, created_at, updated_at)
         VALUES (1, x'01', zeroblob(32), 0, x'0a', 9, 1, 1, x'00', x'02', x'00', 1, 'closed', '{}', 1, 1);
         INSERT INTO journal (at, card, cause, debit, credit, amount) VALUES (1, 1, 'shortfall', 'host', 'shortfall', 7),
            (2, 1, 'forget', 'shortfall', 'host', 7), (3, 1, 'shortfall', 'host', 'shortfall', 4);
         INSERT INTO mandate (id, operator, agent, terms, expiry, cap, available, created_at)
            VALUES (zeroblob(32), x'01', x'02', '{}', 1, 9, 9, 1);
         INSERT INTO audit (at, kind, mandate, tx_hash, data, hash) VALUES
            (1, 'mandate.refunded', zeroblob(32), NULL, '{\"payer\":\"0xAbababababababababababababababababababab\",\"amount\":\"5.00\"}', zeroblob(32)),
            (2, 'mandate.refunded', zeroblob(32), NULL, '{\"payer\":\"0xAbababababababababababababababababababab\",\"amount\":\"5.00\"}', zeroblob(32)),
            (3, 'mandate.refunded', zeroblob(32), NULL, '{\"payer\":\"0xAbababababababababababababababababababab\",\"amount\":\"0.200001\"}', zeroblob(32));",
    )
    .unwrap();
    drop(file);
    let other = Deployment { escrow: Address::repeat_byte(9), ..DEPLOYMENT };
    assert!(matches!(Ledger::open(&old, other), Err(LedgerError::WrongDeployment { .. })));
    drop(Ledger::open(&old, DEPLOYMENT).unwrap());
    assert_eq!(shape(&fresh), shape(&old));
    let file = rusqlite::Connection::open(&old).unwrap();
    let amount: u64 = file.query_row("SELECT amount FROM external_outflow", [], |row| row.get(0)).unwrap();
    assert_eq!(amount, 5);
    let shortfall: u64 = file.query_row("SELECT shortfall FROM card", [], |row| row.get(0)).unwrap();
    assert_eq!(shortfall, 4);
    let refund = "SELECT payer, amount FROM refund WHERE mandate = zeroblob(32)";
    let refund: (Vec<u8>, u64) = file.query_row(refund, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(refund, (vec![0xab; 20], 5_200_001));
}

/// Whose ledger version_2.sql is.
const WRITER: Deployment = Deployment {
    chain_id: 31_337,
    escrow: address!("9fE46736679d2D9a65F0992F2272dE9f3c7fa6e0"),
    token: address!("e7f1725E7734CE288F8367e1Bb143E90bb3F0512"),
    guardian: address!("f39Fd6e51aad88F6F4ce6aB8827279cffFb92266"),
};

/// What an earlier version wrote, every value of it, in whatever order columns and tables stand now.
#[tokio::test]
async fn a_ledger_written_by_version_2_opens_whole() {
    let directory = tempfile::tempdir().unwrap();
    let (written, path) = (directory.path().join("written"), directory.path().join("ledger"));
    for path in [&written, &path] {
        let file = rusqlite::Connection::open(path).unwrap();
        file.execute_batch(include_str!("tests/version_2.sql")).unwrap();
    }
    let ledger = Ledger::open(&path, WRITER).unwrap();
    let report = ledger.read(|ledger| Ok(check::examine(ledger))).await.unwrap();
    assert_eq!((report.version, report.differences()), (VERSION, 0), "{report:?}");
    let examined = report.checks.iter().map(|check| check.examined).sum::<u64>();
    assert!(examined > 100, "{report:?}");
    drop(ledger);

    let names = [("house", "deployment"), ("foreign_outflow", "external_outflow")];
    let (written, upgraded) = [&written, &path].map(|path| rusqlite::Connection::open(path).unwrap()).into();
    let tables = "SELECT group_concat(c.name), m.name FROM sqlite_schema AS m, pragma_table_info(m.name) AS c
        WHERE m.type = 'table' GROUP BY m.name";
    let mut tables = written.prepare(tables).unwrap();
    let tables = tables.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).unwrap();
    for (columns, table) in tables.map(Result::unwrap).filter(|(_, table)| table != "audit") {
        let now = names.iter().find(|(old, _)| *old == table).map_or(table.as_str(), |(_, new)| new);
        assert_eq!(rows(&upgraded, &columns, now), rows(&written, &columns, &table), "{table}");
    }
}

/// The trail that an earlier version wrote, in the chain that it was.
#[tokio::test]
async fn a_trail_from_before_it_was_bytes_is_taken_over_with_its_hashes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger");
    let file = rusqlite::Connection::open(&path).unwrap();
    file.execute_batch(include_str!("tests/version_2.sql")).unwrap();
    let written: Vec<(u64, String, [u8; 32])> = {
        let mut written = file.prepare("SELECT seq, kind, hash FROM audit ORDER BY seq").unwrap();
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        written.query_map([], row).unwrap().map(Result::unwrap).collect()
    };
    drop(file);
    drop(Ledger::open(&path, WRITER).unwrap());
    let file = rusqlite::Connection::open(&path).unwrap();
    let mut previous = B256::ZERO;
    let mut bodies = file.prepare("SELECT seq, body FROM trail ORDER BY seq").unwrap();
    let bodies = bodies.query_map([], |row| Ok((row.get::<_, u64>(0)?, row.get::<_, Vec<u8>>(1)?))).unwrap();
    let bodies: Vec<_> = bodies.map(Result::unwrap).collect();
    assert_eq!(bodies.len(), written.len());
    for ((seq, body), (written, kind, hash)) in bodies.into_iter().zip(written) {
        let Entry::Imported(note) = Entry::decode(&body).unwrap() else { panic!("entry {seq}") };
        let entry: AuditEntry = note.read().unwrap();
        assert_eq!((seq, entry.seq, &entry.kind, entry.hash), (written, written, &kind, hash.into()));
        // As it was hashed then: canonical JSON with the hash before it in the place of its own.
        let hashed = serde_jcs::to_vec(&AuditEntry { hash: previous, ..entry }).unwrap();
        assert_eq!(keccak256(hashed), B256::from(hash), "entry {seq}");
        previous = hash.into();
    }
}

/// A table's rows, in their order, as text.
fn rows(file: &rusqlite::Connection, columns: &str, table: &str) -> Vec<String> {
    let mut statement = file.prepare(&format!("SELECT {columns} FROM {table}")).unwrap();
    let count = statement.column_count();
    let row = |row: &rusqlite::Row<'_>| {
        Ok((0..count).map(|column| format!("{:?};", row.get_ref_unwrap(column))).collect::<String>())
    };
    statement.query_map([], row).unwrap().map(Result::unwrap).collect()
}

#[test]
fn a_webhook_is_remembered_for_a_month() {
    let connection = rusqlite::Connection::open_in_memory().unwrap();
    connection.execute_batch(include_str!("schema.sql")).unwrap();
    let month = 30 * 86_400;
    let add = |id: &str, now| charges::add_webhook(&connection, id, now).unwrap();
    assert!(add("first", 1));
    assert!(!add("first", month));
    for id in 0..40 {
        assert!(add(&id.to_string(), month));
    }
    assert!(add("later", month + 2) && add("first", month + 2), "forgotten");
    // A few at a time.
    let count = || connection.query_row("SELECT count(*) FROM webhook", [], |row| row.get::<_, u32>(0)).unwrap();
    assert_eq!(count(), 42);
    assert!(add("even later", 2 * month + 1));
    assert_eq!(count(), 42 - 16 + 1);
}

#[tokio::test]
async fn a_reader_cannot_write() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&directory.path().join("ledger"), DEPLOYMENT).unwrap();
    let written = ledger.read(|ledger| note(ledger, "sneaky")).await;
    assert!(matches!(written, Err(LedgerError::Database(_))));
}

#[cfg(unix)]
#[tokio::test]
async fn a_ledger_that_others_could_read_is_closed_to_them() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger");
    drop(Ledger::open(&path, DEPLOYMENT).unwrap());
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    drop(Ledger::open(&path, DEPLOYMENT).unwrap());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

/// A reader that stays long keeps the -wal file from beginning anew.
#[tokio::test]
async fn the_wal_file_shrinks_after_its_peak() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger");
    let ledger = Ledger::open(&path, DEPLOYMENT).unwrap();
    let wal = || std::fs::metadata(path.with_file_name("ledger-wal")).unwrap().len();
    let write = async |count: u32| {
        for _ in 0..count {
            ledger.writer().write(|ledger| note(ledger, &"x".repeat(1 << 20))).await.unwrap();
        }
    };
    let reader = rusqlite::Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM trail;").unwrap();
    write(70).await;
    let limit = u64::try_from(super::JOURNAL_SIZE_LIMIT).unwrap();
    assert!(wal() > limit, "{}", wal());
    drop(reader);
    // The checkpointer moves it beside the writer, and the writer begins anew.
    for _ in 0..1_000 {
        write(1).await;
        if wal() <= limit {
            return;
        }
    }
    panic!("{}", wal());
}
