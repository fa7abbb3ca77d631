-- From version 6 to 7: what a block says is projected in slices. What is in the list was projected to its end.
ALTER TABLE block ADD COLUMN unfinished TEXT;
ALTER TABLE block ADD COLUMN next_log INTEGER NOT NULL DEFAULT 0;
CREATE INDEX block_unfinished ON block (number) WHERE unfinished IS NOT NULL;
