-- From version 4 to 5: what a card was charged is looked up by the card, what its treasury gave back by the
-- mandate, and approvals by messages by their time.
CREATE INDEX audit_approved ON audit (at) WHERE kind = 'mandate.approved';
CREATE INDEX charge_of_card ON charge (card);
CREATE INDEX card_owing ON card (mandate, payee) WHERE owed_back > 0;
CREATE TABLE refund (
    mandate BLOB    NOT NULL REFERENCES mandate (id),
    payer   BLOB    NOT NULL,
    amount  INTEGER NOT NULL CHECK (amount >= 0),
    PRIMARY KEY (mandate, payer)
) STRICT, WITHOUT ROWID;
INSERT INTO refund SELECT mandate, unhex(substr(data ->> 'payer', 3)),
        sum(CAST(round(CAST(data ->> 'amount' AS REAL) * 1000000) AS INTEGER))
    FROM (SELECT DISTINCT mandate, tx_hash, data FROM audit WHERE kind = 'mandate.refunded')
    GROUP BY 1, 2;
