-- The time in which at least one finished request ran: what the stretches from started to
-- finished make together, as spans that neither overlap nor touch. A row holds some that
-- follow on each other. start: where its first one begins; before: microseconds busy until
-- then; spans: the length of the first one, then for each other one its distance from the
-- one before and its length, all as unsigned varints. Filled by the program.
CREATE TABLE busy (
	start  INTEGER PRIMARY KEY,
	before INTEGER NOT NULL,
	spans  BLOB    NOT NULL
) STRICT;
