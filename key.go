package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"spotinference/control"
	"spotinference/ledger"
	"spotinference/ledger/report"
	"spotinference/server"
)

// keyPrefix begins every key, so that scanners of leaks know one when they see it:
// sk-si- and 43 letters, digits, hyphens and underscores.
const keyPrefix = "sk-si-"

func newKeyCreate() *cobra.Command {
	c := &cobra.Command{
		Use:   "create --name NAME",
		Short: "Make an API key, and print it this once",
		Long: `Makes an API key that counts at once, also in a serve that runs, and prints it to
stdout. Only its SHA-256 is kept: nobody can print it again.`,
		Example: `  KEY=$(spotinference key create --name ci)
  spotinference key create --name ann --budget 5/day --rpm 60 --tpm 100000 --expires 30d
  spotinference key create --name lora --models sql-lora,chat-lora`,
		Args: noWords,
		RunE: runKeyCreate,
	}
	f := c.Flags()
	f.String("name", "", "what reports call it; unique among the keys that are not revoked")
	f.String("budget", "", "the most of the bill that it may use up, such as 5/day; in the bill's currency")
	f.Int64("rpm", 0, "requests a minute")
	f.Int64("tpm", 0, "prompt and output tokens a minute")
	f.String("models", "", "the models that it may use, with commas between; all where left out")
	f.String("expires", "", "when it ends: after a time such as 30d or 12h, or at one such as 2026-12-31T00:00:00Z")
	for _, name := range []string{"name", "budget", "rpm", "tpm", "models", "expires"} {
		typed(f, name)
	}
	return c
}

func newKeyList() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "Every API key that there ever was, and what it may",
		Args:  noWords,
		RunE:  runKeyList,
	}
	c.Flags().String("output", "text", "text or json")
	return c
}

func newKeyRevoke() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke NAME|ID",
		Short: "End an API key at once",
		Long: `Ends an API key: from now on it is refused, also by a serve that runs. An answer that
runs is finished. There is no way back.`,
		Args: func(cmd *cobra.Command, words []string) error {
			if len(words) != 1 {
				return usagef("spotinference key list shows names and ids", "key revoke: name one key")
			}
			return nil
		},
		RunE: runKeyRevoke,
	}
}

func runKeyCreate(cmd *cobra.Command, _ []string) error {
	s, err := loadSettings(cmd)
	if err != nil {
		return err
	}
	k, err := keyOf(s, clock())
	if err != nil {
		return err
	}
	var secret [32]byte
	rand.Read(secret[:]) // it never fails
	text := keyPrefix + base64.RawURLEncoding.EncodeToString(secret[:])
	k.Digest = sha256.Sum256([]byte(text))
	err = changeKeys(cmd, s, "key-create", k, nil, func(led *ledger.Ledger) error { return led.AddKey(k) })
	if err != nil {
		return fmt.Errorf("key create: %w", err)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "spotinference: the key of %s, id %s: it is shown this once\n", k.Name, k.ID)
	if _, err := fmt.Fprintln(cmd.OutOrStdout(), text); err != nil {
		return &hintedError{fmt.Errorf("key create: print the key: %w", err), "it is lost: spotinference key revoke " + k.ID}
	}
	return nil
}

func runKeyRevoke(cmd *cobra.Command, words []string) error {
	s, err := loadSettings(cmd)
	if err != nil {
		return err
	}
	var k ledger.Key
	err = changeKeys(cmd, s, "key-revoke", words[0], &k, func(led *ledger.Ledger) error {
		k, err = led.RevokeKey(words[0], clock())
		return err
	})
	if err != nil {
		return fmt.Errorf("key revoke: %w", err)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s revoked\n", k.Name, k.ID)
	return err
}

// busyHint is for a ledger that a serve writes which answers no call.
const busyHint = "a serve starts or stops with this ledger, or its log says why no command can reach it: try again"

// changeKeys has the serve that runs with the ledger do call; with none, it does the
// same itself, as the ledger's one writer.
func changeKeys(cmd *cobra.Command, s settings, call string, in, out any, alone func(*ledger.Ledger) error) error {
	path, err := ledgerPath(s)
	if err != nil {
		return err
	}
	err = control.Call(cmd.Context(), control.Path(path), call, in, out)
	if !errors.Is(err, control.ErrNobody) {
		return err
	}
	if s.on("demo") {
		return &hintedError{fmt.Errorf("%w: %s", err, path), "start spotinference serve --demo first: it makes its ledger afresh"}
	}
	led, err := ledger.Open(ledger.Config{Path: path, Now: clock, Log: newLog(cmd.ErrOrStderr(), false)})
	if errors.Is(err, ledger.ErrInUse) {
		return &hintedError{err, busyHint}
	}
	if err != nil {
		return err
	}
	return errors.Join(alone(led), led.Close())
}

// keyCalls are what the key commands ask of serve.
func keyCalls(led *ledger.Ledger, srv *server.Server, budgets *keyBudgets, blind bool) control.Calls {
	var one sync.Mutex // what the server is told last is what the ledger was told last
	return control.Calls{
		"key-create": func(_ context.Context, in json.RawMessage) (any, error) {
			var k ledger.Key
			if err := json.Unmarshal(in, &k); err != nil {
				return nil, fmt.Errorf("read the key: %w", err)
			}
			if k.PerDay != nil && blind {
				return nil, &hintedError{errors.New("no budget holds with --provider none, as serve runs"), "leave out --budget"}
			}
			one.Lock()
			defer one.Unlock()
			if err := led.AddKey(k); err != nil {
				return nil, &hintedError{err, hintFor(err)}
			}
			if k.PerDay != nil {
				budgets.Enable()
			}
			srv.PutKey(k)
			return nil, nil
		},
		"key-revoke": func(_ context.Context, in json.RawMessage) (any, error) {
			var word string
			if err := json.Unmarshal(in, &word); err != nil {
				return nil, fmt.Errorf("read the key's name: %w", err)
			}
			one.Lock()
			defer one.Unlock()
			k, err := led.RevokeKey(word, clock())
			if err != nil {
				return nil, &hintedError{err, hintFor(err)}
			}
			srv.PutKey(k)
			return k, nil
		},
	}
}

// keyOf reads the flags of key create.
func keyOf(s settings, now time.Time) (k ledger.Key, err error) {
	k = ledger.Key{Name: s.text("name"), Created: now.UTC().Truncate(time.Microsecond)}
	if k.Name == "" {
		return k, usagef("say whose it is: --name ci", "key create: missing: --name")
	}
	var id [8]byte
	rand.Read(id[:])
	k.ID = ledger.KeyIDPrefix + hex.EncodeToString(id[:])
	if text := s.text("budget"); text != "" {
		if k.PerDay, err = parseKeyBudget(text); err != nil {
			return k, err
		}
	}
	for _, rate := range []struct {
		flag string
		to   *int64
	}{{"rpm", &k.RPM}, {"tpm", &k.TPM}} {
		if *rate.to, err = s.flags.GetInt64(rate.flag); err != nil {
			return k, err
		}
		if s.flags.Changed(rate.flag) && (*rate.to < 1 || *rate.to > ledger.MaxRate) {
			return k, usagef("give a number from 1 to "+strconv.Itoa(ledger.MaxRate)+", or leave it out for no limit; key revoke ends a key",
				"key create: --%s %d: out of range", rate.flag, *rate.to)
		}
	}
	if text := s.text("models"); text != "" {
		if k.Models, err = parseModels(text); err != nil {
			return k, err
		}
	}
	if text := s.text("expires"); text != "" {
		if k.Expires, err = parseExpires(text, k.Created); err != nil {
			return k, err
		}
	}
	k.Digest[0] = 1 // it gets its own when everything else is right
	if err := k.Check(); err != nil {
		return k, usagef("a name is what reports show: up to 64 letters, digits, dots, underscores and hyphens", "key create: %w", err)
	}
	return k, nil
}

// parseKeyBudget reads an amount a day: "5/day", or "5", as serve's own budget.
func parseKeyBudget(text string) (*ledger.Nanos, error) {
	const hint = "give what the key may use up in a day, such as --budget 5/day"
	amount, period, ok := strings.Cut(text, "/")
	if ok && period != "day" {
		return nil, usagef("a key's budget is for a day: --budget 5/day", "key create: budget %q: period %q: not known", text, period)
	}
	n, err := ledger.ParseNanos(amount)
	if err != nil {
		return nil, usagef(hint, "key create: budget %q: not an amount of money", text)
	}
	if n <= 0 {
		return nil, usagef(hint, "key create: budget %q: must be more than nothing", text)
	}
	return &n, nil
}

var modelName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$`)

func parseModels(text string) ([]string, error) {
	models := strings.Split(text, ",")
	for i, m := range models {
		if !modelName.MatchString(m) {
			return nil, usagef("names as GET /v1/models has them, with commas and nothing else between: --models a,b", "key create: models %q: %q is not a model's name", text, m)
		}
		if slices.Contains(models[:i], m) {
			return nil, usagef("name it once", "key create: models %q: %q stands there twice", text, m)
		}
	}
	return models, nil
}

func parseExpires(text string, now time.Time) (time.Time, error) {
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		span, err := report.ParseWindow(text)
		if err != nil {
			return at, usagef("use a time from now such as 30d or 12h, or a time such as 2026-12-31T00:00:00Z", "key create: expires %q: not a time", text)
		}
		at = now.Add(span)
	}
	if !at.After(now) {
		return at, usagef("give a time that is to come, such as 30d", "key create: expires %q: that is past", text)
	}
	return at.UTC().Truncate(time.Microsecond), nil
}

// listedKey is a key as key list shows it. What is null is no limit.
type listedKey struct {
	Name    string     `json:"name"`
	ID      string     `json:"id"`
	State   string     `json:"state"` // "live", "expired", "revoked"
	Created time.Time  `json:"created"`
	Expires *time.Time `json:"expires"`
	Revoked *time.Time `json:"revoked"`
	PerDay  *string    `json:"budget_per_day"`
	RPM     *int64     `json:"rpm"`
	TPM     *int64     `json:"tpm"`
	Models  []string   `json:"models"`
}

func listed(k ledger.Key, now time.Time) listedKey {
	l := listedKey{Name: k.Name, ID: k.ID, State: "live", Created: k.Created, PerDay: k.PerDay.Text(), Models: k.Models}
	if !k.Expires.IsZero() {
		l.Expires = &k.Expires
	}
	if k.Expired(now) {
		l.State = "expired"
	}
	if !k.Revoked.IsZero() {
		l.Revoked, l.State = &k.Revoked, "revoked"
	}
	if k.RPM > 0 {
		l.RPM = &k.RPM
	}
	if k.TPM > 0 {
		l.TPM = &k.TPM
	}
	return l
}

func runKeyList(cmd *cobra.Command, _ []string) error {
	s, err := loadSettings(cmd)
	if err != nil {
		return err
	}
	asJSON, err := textOrJSON(s, "key list")
	if err != nil {
		return err
	}
	r, err := openReader(s)
	if err != nil {
		return err
	}
	defer r.Close()
	keys, err := r.Keys()
	if err != nil {
		return err
	}
	list := []listedKey{}
	for _, k := range keys {
		list = append(list, listed(k, clock()))
	}
	if asJSON {
		return writeJSON(cmd.OutOrStdout(), list)
	}
	return writeKeys(cmd.OutOrStdout(), list)
}

func writeKeys(w io.Writer, list []listedKey) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "name\tid\tstate\tcreated (UTC)\texpires (UTC)\tbudget a day\trpm\ttpm\tmodels")
	for _, k := range list {
		expires, perDay, rpm, tpm, models := "never", "-", "-", "-", "all"
		if k.Expires != nil {
			expires = k.Expires.Format("2006-01-02 15:04")
		}
		if k.PerDay != nil {
			perDay = *k.PerDay
		}
		if k.RPM != nil {
			rpm = strconv.FormatInt(*k.RPM, 10)
		}
		if k.TPM != nil {
			tpm = strconv.FormatInt(*k.TPM, 10)
		}
		if k.Models != nil {
			models = strings.Join(k.Models, ",")
		}
		fmt.Fprintln(t, strings.Join([]string{k.Name, k.ID, k.State, k.Created.Format("2006-01-02 15:04"), expires, perDay, rpm, tpm, models}, "\t"))
	}
	return t.Flush()
}
