//! A history: what settled payments leave behind in a ledger, written by SQL, in the order in which they would have come.
//! One settled payment is the model of all. Balances, and the trail's hashes, are left as they are not checked in serving:
//! `stipend ledger check` would object.

use std::path::Path;

use eyre::Result;
use rusqlite::{Connection, named_params};

/// Payments of one batch, and the bytes of its calldata.
const BATCH: u64 = 150;
const CALLDATA: u64 = 36_000;

/// Batches of one commit.
const COMMIT: u64 = 60;

/// Numbers from `:first` on, below `:end`; each is a payment.
const PAYMENTS: &str = "
    WITH RECURSIVE n (i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :end)
    INSERT INTO payment
    SELECT :seq + i, CAST(unhex(printf('%016x', i)) || randomblob(8) AS BLOB), m.id, :nonce + i / :mandates,
        randomblob(20), p.amount, p.deadline, p.ref, randomblob(32), randomblob(65), p.state, p.reason,
        CAST(unhex(printf('%064x', i / :batch)) AS BLOB), p.mined_block, p.mined_hash, p.mined_at, p.metadata,
        p.created_at, p.updated_at
    FROM n CROSS JOIN mandate m ON m.seq = 1 + i % :mandates CROSS JOIN payment p ON p.seq = :model
    ORDER BY i";

/// The same for their batches.
const BATCHES: &str = "
    WITH RECURSIVE n (i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :end)
    INSERT INTO tx
    SELECT :tx + i, zeroblob(20), i, t.kind, t.mandate, t.card, randomblob(:calldata), t.gas_limit, t.state,
        t.mined_block, t.mined_hash, CAST(unhex(printf('%064x', i)) AS BLOB), t.succeeded, t.gas_cost
    FROM n CROSS JOIN tx t ON t.id = :tx - 1";
const ATTEMPTS: &str = "
    INSERT INTO attempt SELECT t.mined_tx, t.id, randomblob(:calldata), a.max_fee, a.priority_fee, a.sent_at, 0
    FROM tx t, (SELECT * FROM attempt WHERE tx = :tx - 1 LIMIT 1) a WHERE t.id >= :tx + :first AND t.id < :tx + :end";

/// What hangs on the payments from `:first` on, below `:end`.
const OF_PAYMENTS: [&str; 3] = [
    "INSERT INTO tx_payment SELECT :tx + (seq - :seq) / :batch, seq, NULL FROM payment WHERE seq >= :first AND seq < :end",
    "INSERT INTO journal (at, mandate, payment, card, tx, block, cause, debit, credit, amount)
    SELECT j.at, m.seq, p.seq, NULL, iif(j.tx IS NULL, NULL, :tx + (p.seq - :seq) / :batch), j.block, j.cause, j.debit,
        j.credit, j.amount
    FROM payment p CROSS JOIN mandate m ON m.id = p.mandate CROSS JOIN journal j ON j.payment = :model
    WHERE p.seq >= :first AND p.seq < :end ORDER BY p.seq, j.seq",
    "INSERT INTO audit (at, kind, agent, operator, request, mandate, payment, card, tx_hash, data, hash)
    SELECT a.at, a.kind, m.agent, m.operator, m.request, m.id, p.id, NULL, iif(a.tx_hash IS NULL, NULL, p.tx_hash), a.data,
        randomblob(32)
    FROM payment p CROSS JOIN mandate m ON m.id = p.mandate CROSS JOIN audit_model a
    WHERE p.seq >= :first AND p.seq < :end ORDER BY p.seq, a.seq",
];

/// Adds `count` settled payments, of all mandates in turn, whose nonces begin at `nonce`, to a ledger that nobody has open.
///
/// # Errors
/// If the ledger's last payment is not settled, or has another schema.
pub(crate) fn prefill(ledger: &Path, count: u64, nonce: u32) -> Result<()> {
    let mut connection = Connection::open(ledger)?;
    connection.execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -200000")?;
    let one = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, u64>(0));
    let mandates = one("SELECT count(*) FROM mandate")?;
    let model = one("SELECT max(seq) FROM payment WHERE state = 'settled'")?;
    let seq = one("SELECT max(seq) + 1 FROM payment")?;
    let tx = one("SELECT max(id) + 1 FROM tx")?;
    connection.execute(
        "CREATE TEMP TABLE audit_model AS SELECT * FROM audit WHERE payment = (SELECT id FROM payment WHERE seq = ?)",
        [model],
    )?;
    let batches = count.div_ceil(BATCH);
    for first in (0..batches).step_by(usize::try_from(COMMIT)?) {
        let end = (first + COMMIT).min(batches);
        let (from, to) = (first * BATCH, (end * BATCH).min(count));
        let transaction = connection.transaction()?;
        let range = named_params! { ":first": first, ":end": end, ":tx": tx, ":calldata": CALLDATA };
        transaction.prepare_cached(BATCHES)?.execute(range)?;
        transaction.prepare_cached(ATTEMPTS)?.execute(range)?;
        transaction.prepare_cached(PAYMENTS)?.execute(named_params! {
            ":first": from, ":end": to, ":seq": seq, ":nonce": nonce, ":mandates": mandates, ":batch": BATCH, ":model": model,
        })?;
        let (from, to) = (seq + from, seq + to);
        let [tx_payment, journal, audit] = OF_PAYMENTS;
        let range = named_params! { ":first": from, ":end": to, ":seq": seq, ":tx": tx, ":batch": BATCH };
        transaction.prepare_cached(tx_payment)?.execute(range)?;
        transaction.prepare_cached(journal)?.execute(named_params! {
            ":first": from, ":end": to, ":seq": seq, ":tx": tx, ":batch": BATCH, ":model": model,
        })?;
        transaction.prepare_cached(audit)?.execute(named_params! { ":first": from, ":end": to })?;
        transaction.commit()?;
    }
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(())
}
