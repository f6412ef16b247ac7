-- What an engine's counters hold of a request beyond its row, in tokens. prompt_again is
-- what it counted again, exactly: vLLM counts a prompt once for each choice. The others
-- are the most that it may have made unseen, of a request that was cut or that failed;
-- NULL where that is not known.
CREATE TABLE engine_excess (
	finished        INTEGER PRIMARY KEY REFERENCES request (finished),
	prompt_again    INTEGER NOT NULL CHECK (prompt_again >= 0),
	prompt_most     INTEGER CHECK (prompt_most >= 0),
	completion_most INTEGER CHECK (completion_most >= 0)
) STRICT;
CREATE TRIGGER engine_excess_update BEFORE UPDATE ON engine_excess BEGIN SELECT RAISE(ABORT, 'engine_excess is append-only'); END;
CREATE TRIGGER engine_excess_delete BEFORE DELETE ON engine_excess BEGIN SELECT RAISE(ABORT, 'engine_excess is append-only'); END;
