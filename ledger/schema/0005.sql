-- The cards of this machine, by the driver's own id.
CREATE TABLE gpu (
	id   INTEGER PRIMARY KEY,
	uuid TEXT NOT NULL UNIQUE,
	name TEXT NOT NULL
) STRICT;

-- What a card did after since, up to and including at: a minute, or the part of one that
-- was seen. NULL is "not known", never zero. utilisation_avg is in hundredths of a
-- percent, utilisation_max in percent, memory in bytes, power in mW, temperature in °C,
-- energy in mJ: what the card's counter grew by from since to at.
CREATE TABLE gpu_minute (
	at              INTEGER NOT NULL,
	gpu             INTEGER NOT NULL REFERENCES gpu (id),
	since           INTEGER NOT NULL CHECK (since <= at),
	source          TEXT    NOT NULL,
	readings        INTEGER NOT NULL CHECK (readings > 0),
	utilisation_avg INTEGER,
	utilisation_max INTEGER,
	memory_avg      INTEGER,
	memory_max      INTEGER,
	power_avg       INTEGER,
	power_max       INTEGER,
	temperature_max INTEGER,
	energy          INTEGER CHECK (energy >= 0),
	PRIMARY KEY (at, gpu)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER gpu_update BEFORE UPDATE ON gpu BEGIN SELECT RAISE(ABORT, 'gpu is append-only'); END;
CREATE TRIGGER gpu_delete BEFORE DELETE ON gpu BEGIN SELECT RAISE(ABORT, 'gpu is append-only'); END;
CREATE TRIGGER gpu_minute_update BEFORE UPDATE ON gpu_minute BEGIN SELECT RAISE(ABORT, 'gpu_minute is append-only'); END;
CREATE TRIGGER gpu_minute_delete BEFORE DELETE ON gpu_minute BEGIN SELECT RAISE(ABORT, 'gpu_minute is append-only'); END;
