package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"time"
)

// SQLite begins its write-ahead log anew only at an instant in which nobody reads what is
// in it. Where readers come and go all the time there is none, and the log grows.

// maxWAL is what the log may have: twice what SQLite lets it have before it takes it over.
const maxWAL = 8 << 20

const (
	// shortenEvery is how often the writer tries; shortenWait how long it waits for readers
	// then, and who writes with it.
	shortenEvery = 5 * time.Second
	shortenWait  = 50 * time.Millisecond
	// alarmWAL is from where on somebody must be told.
	alarmWAL = 64 << 20
)

// logKeeper keeps the write-ahead log short. Owned by the writer.
type logKeeper struct {
	log   *slog.Logger
	size  int64 // after the last commit; 0 without a log
	tried time.Time
	told  bool
}

// shorten takes the log over into the file, and waits for who reads in it now: new
// readers need it no more. A reader that has paused is not waited for.
func (k *logKeeper) shorten(conn *sql.Conn) {
	if k.size <= maxWAL || time.Since(k.tried) < shortenEvery {
		return
	}
	ctx := context.Background()
	wait := func(d time.Duration) error {
		_, err := conn.ExecContext(ctx, fmt.Sprintf("PRAGMA busy_timeout = %d", d.Milliseconds()))
		return err
	}
	var busy bool
	err := wait(shortenWait)
	if err == nil {
		var pages, done int
		err = conn.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &pages, &done)
	}
	if back := wait(writerPatience); err == nil {
		err = back
	}
	k.tried = time.Now()
	held := err != nil || busy
	if held && k.size > alarmWAL && !k.told {
		k.log.Warn("the ledger's write-ahead log grows: a program reads the ledger and has stopped in the middle", "bytes", k.size, "err", err,
			"hint", "end it: fuser -v names who has the ledger open")
	}
	k.told = held && k.size > alarmWAL
}
