-- From version 1 to 2: what a block has taken counts in a rolling window from the block's time. Where
-- that is not known any more it is taken as later than it was.
ALTER TABLE payment ADD COLUMN mined_at INTEGER;
UPDATE payment SET mined_at = coalesce((SELECT time FROM block WHERE hash = mined_hash), updated_at)
    WHERE mined_hash IS NOT NULL;
CREATE INDEX payment_taken ON payment (mandate, mined_at) WHERE mined_at IS NOT NULL;

ALTER TABLE card ADD COLUMN held_at INTEGER;
UPDATE card SET held_at = coalesce((SELECT time FROM block WHERE hash = held_hash), updated_at)
    WHERE held_hash IS NOT NULL;

ALTER TABLE foreign_outflow ADD COLUMN at INTEGER NOT NULL DEFAULT 0;
UPDATE foreign_outflow SET at = coalesce((SELECT time FROM block ORDER BY number DESC LIMIT 1), 0);

CREATE INDEX mandate_holding ON mandate (expiry) WHERE held > 0;
