package ledger_test

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"spotinference/ledger"
)

func aKey(name string) ledger.Key {
	return ledger.Key{ID: "key_" + name, Name: name, Digest: sha256.Sum256([]byte(name)), Created: time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC)}
}

// TestKeys: what is kept comes back as it was, a name may be used again after its key
// was revoked, and both are events.
func TestKeys(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ledger.db")
	led, err := ledger.Open(ledger.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer led.Close()
	day := ledger.Nanos(5_000_000_000)
	full := aKey("full")
	full.PerDay, full.RPM, full.TPM, full.Models = &day, 60, 100_000, []string{"a", "b/c"}
	full.Expires = full.Created.Add(time.Hour)
	plain := aKey("plain")
	plain.Created = plain.Created.Add(time.Second)
	for _, k := range []ledger.Key{full, plain} {
		if err := led.AddKey(k); err != nil {
			t.Fatal(err)
		}
	}
	again := aKey("full")
	again.ID, again.Digest = "key_again", sha256.Sum256([]byte("again"))
	if err := led.AddKey(again); !errors.Is(err, ledger.ErrKeyName) {
		t.Errorf("a second key of the name: %v", err)
	}
	at := full.Created.Add(time.Minute)
	revoked, err := led.RevokeKey("full", at)
	if err != nil {
		t.Fatal(err)
	}
	full.Revoked = at
	if !reflect.DeepEqual(revoked, full) {
		t.Errorf("revoked %+v, want %+v", revoked, full)
	}
	if _, err := led.RevokeKey("full", at); !errors.Is(err, ledger.ErrNoKey) {
		t.Errorf("revoked again: %v", err)
	}
	if err := led.AddKey(again); err != nil {
		t.Errorf("the name of a revoked key: %v", err)
	}
	if k, err := led.RevokeKey("key_again", at); err != nil || k.Name != "full" {
		t.Errorf("revoked by id: %+v, %v", k, err)
	}
	if err := led.Err(); err != nil {
		t.Errorf("refusals made the ledger ill: %v", err)
	}

	r, err := ledger.OpenReader(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	keys, err := r.Keys()
	again.Revoked = at
	if want := []ledger.Key{again, full, plain}; err != nil || !reflect.DeepEqual(keys, want) {
		t.Errorf("keys %+v, %v\nwant %+v", keys, err, want)
	}

	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var events string
	err = db.QueryRowContext(context.Background(), "SELECT group_concat(kind || ' ' || subject || ' ' || detail, '\n') FROM event").Scan(&events)
	want := strings.Join([]string{
		`key created {"id":"key_full","name":"full","expires":"2026-01-05T13:00:00Z","budget_per_day":"5","rpm":60,"tpm":100000,"models":["a","b/c"]}`,
		`key created {"id":"key_plain","name":"plain"}`,
		`key revoked {"id":"key_full","name":"full","expires":"2026-01-05T13:00:00Z","budget_per_day":"5","rpm":60,"tpm":100000,"models":["a","b/c"]}`,
		`key created {"id":"key_again","name":"full"}`,
		`key revoked {"id":"key_again","name":"full"}`,
	}, "\n")
	if err != nil || events != want {
		t.Errorf("events\n%s\n%v, want\n%s", events, err, want)
	}
	for _, change := range []string{"UPDATE api_key SET budget = NULL", "DELETE FROM api_key_revoked", "DELETE FROM api_key"} {
		if _, err := db.Exec(change); err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("%s: %v", change, err)
		}
	}
}

// TestBadKeys: nothing is written of them, not even an event.
func TestBadKeys(t *testing.T) {
	t.Parallel()
	led, err := ledger.Open(ledger.Config{Path: filepath.Join(t.TempDir(), "ledger.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer led.Close()
	nothing := ledger.Nanos(0)
	f := func(change func(*ledger.Key)) {
		t.Helper()
		k := aKey("k")
		change(&k)
		if err := led.AddKey(k); !errors.Is(err, ledger.ErrBadKey) {
			t.Errorf("%+v: %v", k, err)
		}
	}
	f(func(k *ledger.Key) { k.Name = "" })
	f(func(k *ledger.Key) { k.Name = "two words" })
	f(func(k *ledger.Key) { k.Name = "key_k" }) // as an id begins
	f(func(k *ledger.Key) { k.Name = strings.Repeat("x", 65) })
	f(func(k *ledger.Key) { k.ID = "k" })
	f(func(k *ledger.Key) { k.Digest = [sha256.Size]byte{} })
	f(func(k *ledger.Key) { k.Created = time.Time{} })
	f(func(k *ledger.Key) { k.Revoked = k.Created })
	f(func(k *ledger.Key) { k.Expires = k.Created })
	f(func(k *ledger.Key) { k.PerDay = &nothing })
	f(func(k *ledger.Key) { k.RPM = -1 })
	f(func(k *ledger.Key) { k.TPM = ledger.MaxRate + 1 })
	f(func(k *ledger.Key) { k.Models = []string{} })
	f(func(k *ledger.Key) { k.Models = []string{"a", ""} })
	if keys, err := led.Keys(); err != nil || len(keys) > 0 {
		t.Errorf("keys %+v, %v", keys, err)
	}
}
