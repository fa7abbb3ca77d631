-- From version 3 to 4: what the host bears of a card is kept with it, and so is what it owes back.
ALTER TABLE card ADD COLUMN shortfall INTEGER NOT NULL DEFAULT 0 CHECK (shortfall >= 0);
ALTER TABLE card ADD COLUMN owed_back INTEGER NOT NULL DEFAULT 0 CHECK (owed_back >= 0);
ALTER TABLE host ADD COLUMN owed_back INTEGER NOT NULL DEFAULT 0 CHECK (owed_back >= 0);
CREATE INDEX card_closed ON card (updated_at, seq) WHERE state = 'closed';
UPDATE card SET shortfall = max(0, entered.amount)
    FROM (SELECT card, sum(iif(credit = 'shortfall', amount, -amount)) AS amount FROM journal
        WHERE 'shortfall' IN (debit, credit) GROUP BY card) AS entered WHERE entered.card = card.seq;
