package ledger

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// ErrInjected is what a failing commit of a test returns.
var ErrInjected = errors.New("injected")

// FailCommit makes every commit fail from now on: before it is written, or
// after.
func (l *Ledger) FailCommit(written bool) {
	l.commit = func(commit func() error) error {
		if written {
			if err := commit(); err != nil {
				return err
			}
		}
		return ErrInjected
	}
}

// HealCommit lets commits through again. Call it only between writes.
func (l *Ledger) HealCommit() { l.commit = nil }

// OnFS makes the configuration see a file system of the given magic number.
func (c Config) OnFS(magic int64) Config {
	c.statfs = func(_ string, st *unix.Statfs_t) error { st.Type = magic; return nil }
	return c
}

// Journal is the journal mode in force.
func (l *Ledger) Journal() (mode string, err error) {
	err = l.db.QueryRow("PRAGMA journal_mode").Scan(&mode)
	return mode, err
}

// Exec changes the file behind the ledger's back.
func (l *Ledger) Exec(query string) error {
	_, err := l.writer.conn.ExecContext(context.Background(), query)
	return err
}

// AddRawEvent writes an event that may be another version's, or broken.
func (l *Ledger) AddRawEvent(e Event) error {
	return l.submit(context.Background(), func(w *batch) error { return w.addEvent(e) })
}

// AddSamples writes many samples in one transaction.
func (l *Ledger) AddSamples(ss []Sample) error {
	return l.submit(context.Background(), func(w *batch) error {
		for _, s := range ss {
			if _, err := w.addSample(s); err != nil {
				return err
			}
		}
		return nil
	})
}

// AddRequests writes many requests in one transaction.
func (l *Ledger) AddRequests(rs []Request) error {
	return l.submit(context.Background(), func(w *batch) error {
		for _, r := range rs {
			if err := w.addRequest(r); err != nil {
				return err
			}
		}
		return nil
	})
}

// Count asks for one number.
func (r *Reader) Count(query string) (n int64, err error) {
	var v float64
	err = r.db.QueryRow(query).Scan(&v)
	return int64(v), err
}

// FillRollups makes the rollups of the bill, the busy time and the chain of a ledger that was
// written behind its back.
func FillRollups(db *sql.DB) error {
	return inTx(db, nil, func(tx *sql.Tx) error {
		return errors.Join(fillRollups(tx), fillBusy(tx), fillChain(tx, time.Now(), slog.New(slog.DiscardHandler)))
	})
}

// VerifyAhead is Verify that holds few rows.
func (r *Reader) VerifyAhead(ctx context.Context, ahead int) (Verification, error) {
	return r.verify(ctx, ahead, nil)
}

// ChainedTables are the columns of each table that is in the chain.
func ChainedTables() map[string][]string {
	all := map[string][]string{}
	for _, t := range chainedTables {
		all[t.table] = slices.Clone(t.columns)
	}
	return all
}

// Texts asks for one column of text.
func (r *Reader) Texts(query string) (all []string, err error) {
	rows, err := r.db.Query(query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, rows.Err()
}

type unlisted struct{}

func (unlisted) eventDetail() any { return nil }

// UnlistedEvent is no event of the table.
var UnlistedEvent EventDetail = unlisted{}

// ACLEntry is an entry of an access control list.
type ACLEntry struct {
	Tag, Perm uint16
	ID        uint32
}

// OthersWho says who beside uid and root can write a directory.
func OthersWho(mode, owner, gid, uid uint32, acl []ACLEntry, passwd, group string) (string, error) {
	w := writers{dir: unix.Stat_t{Mode: mode, Uid: owner, Gid: gid}, uid: uid, accounts: accounts{passwd, group}}
	for _, e := range acl {
		w.acl = append(w.acl, aclEntry{e.Tag, e.Perm, e.ID})
	}
	return w.others()
}

// ParseACL reads a list as the kernel gives it.
func ParseACL(b []byte) (all []ACLEntry) {
	for _, e := range parseACL(b) {
		all = append(all, ACLEntry{e.tag, e.perm, e.id})
	}
	return all
}

// Checkpoint takes over all of the write-ahead log; busy where a reader held it.
func (l *Ledger) Checkpoint() (busy bool, err error) {
	err = l.submit(context.Background(), func(*batch) error { return nil }) // nothing is under way
	if err == nil {
		var pages, done int
		err = l.writer.conn.QueryRowContext(context.Background(), "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &pages, &done)
	}
	return busy, err
}
