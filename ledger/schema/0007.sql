-- By whom the budget was lifted for a while: nobody is named, the reason is theirs. It is
-- in force from at until until, or until it was ended. amount: how much more may be spent
-- from at on; NULL for as much as comes.
CREATE TABLE override (
	id     INTEGER PRIMARY KEY,
	at     INTEGER NOT NULL,
	until  INTEGER NOT NULL CHECK (until > at AND until - at <= 86400000000),
	amount INTEGER CHECK (amount > 0),
	reason TEXT    NOT NULL CHECK (trim(reason) <> '')
) STRICT;

-- Those that were ended before their time.
CREATE TABLE override_end (
	override INTEGER PRIMARY KEY REFERENCES override (id),
	at       INTEGER NOT NULL
) STRICT;

CREATE TRIGGER override_update BEFORE UPDATE ON override BEGIN SELECT RAISE(ABORT, 'override is append-only'); END;
CREATE TRIGGER override_delete BEFORE DELETE ON override BEGIN SELECT RAISE(ABORT, 'override is append-only'); END;
CREATE TRIGGER override_end_update BEFORE UPDATE ON override_end BEGIN SELECT RAISE(ABORT, 'override_end is append-only'); END;
CREATE TRIGGER override_end_delete BEFORE DELETE ON override_end BEGIN SELECT RAISE(ABORT, 'override_end is append-only'); END;
