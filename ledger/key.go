package ledger

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"spotinference/internal/hint"
)

// Key is an API key without the key: what it may, and the digest by which it is
// recognised.
type Key struct {
	ID      string // ours, unique for ever; requests are recorded under it
	Name    string // the operator's; unique among the keys that are not revoked
	Digest  [sha256.Size]byte
	Created time.Time
	Expires time.Time // zero: never
	Revoked time.Time // zero: it is not
	PerDay  *Nanos    // its budget; nil: none of its own
	RPM     int64     // requests a minute; 0: no limit
	TPM     int64     // prompt and completion tokens a minute; 0: no limit
	Models  []string  // those that it may use; nil: all
}

// Live reports whether the key opens anything at t.
func (k Key) Live(t time.Time) bool { return k.Revoked.IsZero() && !k.Expired(t) }

// Expired reports whether the key's time is over at t.
func (k Key) Expired(t time.Time) bool { return !k.Expires.IsZero() && !t.Before(k.Expires) }

// MaxRate bounds the limits of a key, so that what is left of one is exact in 64 bits.
const MaxRate = 50_000_000

// KeyIDPrefix begins the id of every key, and the name of none: a word is the one or
// the other.
const KeyIDPrefix = "key_"

var (
	// ErrKeyName is returned where another key that is not revoked has the name.
	ErrKeyName = hint.Errorf("choose another name, or end the old key first: spotinference key revoke NAME", "the name is taken: %w", ErrRefused)
	// ErrNoKey is returned where no key that is not revoked has the name or the id.
	ErrNoKey = hint.Errorf("spotinference key list shows names and ids", "no such key: %w", ErrRefused)
	// ErrBadKey is returned where a key is not one that can be kept.
	ErrBadKey = fmt.Errorf("not a key that can be kept: %w", ErrRefused)
)

var keyName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// Check says what is wrong with a new key, nil where nothing is.
func (k Key) Check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf(format+": %w", append(args, ErrBadKey)...)
	}
	switch {
	case !keyName.MatchString(k.Name) || strings.HasPrefix(k.Name, KeyIDPrefix):
		return bad("name %q: want up to 64 letters, digits, dots, underscores and hyphens, not beginning with %q", k.Name, KeyIDPrefix)
	case !strings.HasPrefix(k.ID, KeyIDPrefix) || !keyName.MatchString(k.ID):
		return bad("id %q: want %q and letters or digits", k.ID, KeyIDPrefix)
	case k.Digest == [sha256.Size]byte{}:
		return bad("no digest")
	case k.Created.IsZero() || !k.Revoked.IsZero():
		return bad("it was never created, or is revoked")
	case !k.Expires.IsZero() && !k.Expires.After(k.Created):
		return bad("expires at %s, before it is created", k.Expires.Format(time.RFC3339))
	case k.PerDay != nil && *k.PerDay <= 0:
		return bad("budget %s a day: must be more than nothing", *k.PerDay)
	case k.RPM < 0 || k.RPM > MaxRate:
		return bad("%d requests a minute: must be between 1 and %d", k.RPM, MaxRate)
	case k.TPM < 0 || k.TPM > MaxRate:
		return bad("%d tokens a minute: must be between 1 and %d", k.TPM, MaxRate)
	case k.Models != nil && (len(k.Models) == 0 || slices.Contains(k.Models, "")):
		return bad("models %q: want one name at least, and none empty", k.Models)
	}
	return nil
}

// AddKey writes a new key, and that it was created, together.
func (l *Ledger) AddKey(k Key) error {
	if err := k.Check(); err != nil {
		return fmt.Errorf("add key: %w", err)
	}
	return l.submit(context.Background(), func(w *batch) error {
		var one int
		err := w.scan("SELECT 1 FROM api_key WHERE name = ? AND id NOT IN (SELECT id FROM api_key_revoked)", []any{k.Name}, &one)
		if err == nil {
			return fmt.Errorf("key %q: %w", k.Name, ErrKeyName)
		} else if !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("key %q: %w", k.Name, err)
		}
		var models sql.NullString
		if k.Models != nil {
			text, err := json.Marshal(k.Models)
			if err != nil {
				return fmt.Errorf("key %q: %w", k.Name, err)
			}
			models = sql.NullString{String: string(text), Valid: true}
		}
		_, _, err = w.insert(tableKey, k.ID, k.Name, k.Digest[:], micros(k.Created),
			nullMicros(k.Expires), k.PerDay, positive(k.RPM), positive(k.TPM), models)
		if err != nil {
			return fmt.Errorf("key %q: %w", k.Name, err)
		}
		return w.addEvent(NewEvent(k.Created, keyCreated(k)))
	})
}

// RevokeKey writes that a key, by name or id, opens nothing from at on, and returns it.
func (l *Ledger) RevokeKey(word string, at time.Time) (k Key, err error) {
	err = l.submit(context.Background(), func(w *batch) error {
		found, err := scanKey(func(dest ...any) error {
			return w.scan(selectKey+" WHERE (name = ?1 OR api_key.id = ?1) AND at IS NULL", []any{word}, dest...)
		})
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("key %q: %w", word, ErrNoKey)
		} else if err != nil {
			return fmt.Errorf("key %q: %w", word, err)
		}
		k = found
		k.Revoked = fromMicros(micros(at))
		if _, _, err := w.insert(tableKeyRevoked, k.ID, micros(at)); err != nil {
			return fmt.Errorf("key %q: %w", word, err)
		}
		return w.addEvent(NewEvent(at, keyRevoked(k)))
	})
	return k, err
}

// keyDetail is a key as an event's detail, without its digest.
type keyDetail struct {
	ID      string     `json:"id"`
	Name    string     `json:"name"`
	Expires *time.Time `json:"expires,omitempty"`
	PerDay  *amount    `json:"budget_per_day,omitempty"`
	RPM     int64      `json:"rpm,omitempty" unit:"requests a minute"`
	TPM     int64      `json:"tpm,omitempty" unit:"tokens a minute"`
	Models  []string   `json:"models,omitempty"`
}

func (k Key) detail() any {
	d := keyDetail{ID: k.ID, Name: k.Name, PerDay: (*amount)(k.PerDay), RPM: k.RPM, TPM: k.TPM, Models: k.Models}
	if !k.Expires.IsZero() {
		expires := k.Expires.UTC()
		d.Expires = &expires
	}
	return d
}

type keyCreated Key

func (k keyCreated) eventDetail() any { return Key(k).detail() }

type keyRevoked Key

func (k keyRevoked) eventDetail() any { return Key(k).detail() }

const selectKey = `SELECT api_key.id, name, digest, created, expires, budget, rpm, tpm, models, at
	FROM api_key LEFT JOIN api_key_revoked ON api_key_revoked.id = api_key.id`

func scanKey(scan func(...any) error) (k Key, err error) {
	var digest []byte
	var created int64
	var expires, perDay, rpm, tpm, revoked sql.NullInt64
	var models sql.NullString
	if err := scan(&k.ID, &k.Name, &digest, &created, &expires, &perDay, &rpm, &tpm, &models, &revoked); err != nil {
		return k, err
	}
	copy(k.Digest[:], digest)
	k.Created, k.RPM, k.TPM = fromMicros(created), rpm.Int64, tpm.Int64
	if expires.Valid {
		k.Expires = fromMicros(expires.Int64)
	}
	if revoked.Valid {
		k.Revoked = fromMicros(revoked.Int64)
	}
	if perDay.Valid {
		n := Nanos(perDay.Int64)
		k.PerDay = &n
	}
	if models.Valid {
		// What cannot be read must not become "all models".
		if err := json.Unmarshal([]byte(models.String), &k.Models); err != nil || len(k.Models) == 0 {
			return k, fmt.Errorf("key %s: models %q: not a list", k.ID, models.String)
		}
	}
	return k, nil
}

// Keys returns every key that there ever was, in the order of their creation.
func (r *Reader) Keys() (keys []Key, err error) {
	err = r.snapshot(context.Background(), func(tx *sql.Tx) error {
		rows, err := tx.Query(selectKey + " ORDER BY created, api_key.id")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			k, err := scanKey(rows.Scan)
			if err != nil {
				return err
			}
			keys = append(keys, k)
		}
		return rows.Err()
	})
	return keys, err
}

// positive keeps 0 as NULL.
func positive(n int64) sql.NullInt64 { return sql.NullInt64{Int64: n, Valid: n != 0} }
