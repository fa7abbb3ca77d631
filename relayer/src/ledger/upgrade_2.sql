-- From version 2 to 3: two tables take the names that the code gives them.
ALTER TABLE house RENAME TO deployment;
ALTER TABLE foreign_outflow RENAME TO external_outflow;
