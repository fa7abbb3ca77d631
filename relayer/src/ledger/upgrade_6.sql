-- From version 6 to 7: what a block says is projected in slices, and what is in the list was projected to its end. Nothing that a relayer reads as it serves grows with what is past, and a transaction's bytes are
-- kept only as long as it could have to be sent again.
DROP INDEX mandate_expiring;
DROP INDEX mandate_unreturned;
DROP INDEX mandate_holding;
ALTER TABLE mandate ADD COLUMN lapsed INTEGER NOT NULL DEFAULT 0;
UPDATE mandate SET lapsed = 1 WHERE expiry <= (SELECT time FROM block WHERE final ORDER BY number DESC LIMIT 1);
CREATE INDEX mandate_lapsing ON mandate (expiry) WHERE NOT lapsed;
CREATE INDEX mandate_remainder ON mandate (cap + restored - paid - returned - carried) WHERE lapsed OR ended_hash IS NOT NULL;

DROP INDEX payment_taken;
CREATE INDEX payment_failed ON payment (mandate, seq) WHERE state = 'failed';

CREATE TABLE window_total (
    mandate BLOB    NOT NULL REFERENCES mandate (id),
    at      INTEGER NOT NULL,
    amount  INTEGER NOT NULL,
    units   INTEGER NOT NULL,
    PRIMARY KEY (mandate, at)
) STRICT, WITHOUT ROWID;
-- A unit is the smallest power of two in which the window's cap fits a lane of 32 bits. A window counts for seven sixths
-- of its length at most.
INSERT INTO window_total (mandate, at, amount, units)
    WITH head (time) AS (SELECT time FROM block WHERE final ORDER BY number DESC LIMIT 1),
    windowed (mandate, since, cap) AS (
        SELECT id, (SELECT time FROM head) - 7 * ((terms ->> 'window' + 5) / 6),
            CAST(round(CAST(terms ->> 'window_cap' AS REAL) * 1000000) AS INTEGER)
        FROM mandate WHERE terms ->> 'window' > 0),
    halved (mandate, since, cap, bits) AS (
        SELECT mandate, since, cap, 0 FROM windowed
        UNION ALL SELECT mandate, since, cap >> 1, bits + 1 FROM halved WHERE cap >= 4294967295),
    unit (mandate, since, bits) AS (SELECT mandate, since, max(bits) FROM halved GROUP BY mandate),
    taken (mandate, at, amount) AS (
        SELECT mandate, mined_at, amount FROM payment WHERE state = 'settled'
        UNION ALL SELECT mandate, held_at, amount FROM card WHERE hold_final
        UNION ALL SELECT mandate, at, amount FROM external_outflow),
    summed (mandate, at, amount, units) AS (
        SELECT taken.mandate, taken.at, sum(amount), sum((amount >> bits) + (amount & ((1 << bits) - 1) <> 0))
        FROM taken JOIN unit ON unit.mandate = taken.mandate AND taken.at > since GROUP BY taken.mandate, taken.at)
    SELECT mandate, at, sum(amount) OVER past, sum(units) OVER past FROM summed
        WINDOW past AS (PARTITION BY mandate ORDER BY at);

CREATE INDEX card_of_mandate ON card (mandate, seq);
CREATE INDEX card_unsettled ON card (mandate, nonce) WHERE amount > captured + released AND state <> 'failed';

ALTER TABLE refund ADD COLUMN owed INTEGER NOT NULL DEFAULT 0 CHECK (owed >= 0);
INSERT INTO refund (mandate, payer, amount, owed)
    SELECT mandate, payee, 0, sum(owed_back) FROM card WHERE owed_back > 0 GROUP BY mandate, payee
    ON CONFLICT DO UPDATE SET owed = excluded.owed;
CREATE INDEX refund_due ON refund (mandate) WHERE owed > amount;
DROP INDEX card_owing;

CREATE INDEX webhook_taken ON webhook (at);

ALTER TABLE revocation ADD COLUMN done INTEGER NOT NULL DEFAULT 0;
UPDATE revocation SET done = 1 WHERE mandate IN (SELECT id FROM mandate
    WHERE ended_block <= (SELECT number FROM block WHERE final ORDER BY number DESC LIMIT 1));
CREATE INDEX revocation_waiting ON revocation (mandate) WHERE tx IS NULL AND NOT done;

ALTER TABLE tx ADD COLUMN pruned INTEGER NOT NULL DEFAULT 0;
CREATE INDEX tx_of_card ON tx (card) WHERE card IS NOT NULL;
CREATE INDEX tx_whole ON tx (mined_block) WHERE state = 'final' AND NOT pruned;

ALTER TABLE block ADD COLUMN unfinished TEXT;
ALTER TABLE block ADD COLUMN next_log INTEGER NOT NULL DEFAULT 0;
CREATE INDEX block_unfinished ON block (number) WHERE unfinished IS NOT NULL;
