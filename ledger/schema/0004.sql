-- What an engine said of itself. Its counters began at zero when its process started; a
-- sample that would repeat the one before, with no request between, is not written.
-- with_cached: prompt includes the tokens from a cache. quiet: nothing ran, so that the
-- counters were final.
CREATE TABLE engine_sample (
	at          INTEGER PRIMARY KEY,
	started     INTEGER NOT NULL,
	engine      TEXT    NOT NULL,
	prompt      INTEGER NOT NULL CHECK (prompt >= 0),
	completion  INTEGER NOT NULL CHECK (completion >= 0),
	with_cached INTEGER NOT NULL CHECK (with_cached IN (0, 1)),
	quiet       INTEGER NOT NULL CHECK (quiet IN (0, 1))
) STRICT;
CREATE TRIGGER engine_sample_update BEFORE UPDATE ON engine_sample BEGIN SELECT RAISE(ABORT, 'engine_sample is append-only'); END;
CREATE TRIGGER engine_sample_delete BEFORE DELETE ON engine_sample BEGIN SELECT RAISE(ABORT, 'engine_sample is append-only'); END;
