-- What was written, in the order of the commits: a link for each transaction that added
-- rows to what is never changed. covers names these rows; head is the SHA-256 of the head
-- before and of the rows in full. How both are written is in docs/ledger.md. Links for the
-- rows from before this table are made by the program.
CREATE TABLE chain (
	id     INTEGER PRIMARY KEY,
	at     INTEGER NOT NULL,
	covers BLOB    NOT NULL,
	head   BLOB    NOT NULL CHECK (length(head) = 32)
) STRICT;
CREATE TRIGGER chain_update BEFORE UPDATE ON chain BEGIN SELECT RAISE(ABORT, 'chain is append-only'); END;
CREATE TRIGGER chain_delete BEFORE DELETE ON chain BEGIN SELECT RAISE(ABORT, 'chain is append-only'); END;
