package cli

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"spotinference/internal/hint"
	"spotinference/ledger"
	"spotinference/ledger/report"
	"spotinference/server/control"
)

// keyPrefix begins every key, so that scanners of leaks know one when they see it:
// sk-si- and 43 letters, digits, hyphens and underscores.
const keyPrefix = "sk-si-"

type keyCreateOptions struct {
	name, budget    string
	rpm, tpm        int
	models, expires string
}

func newKeyCreate(g *global) *cobra.Command {
	var o keyCreateOptions
	c := &cobra.Command{
		Use:   "create --name NAME",
		Short: "Make an API key, and print it this once",
		Long: `Makes an API key that counts at once, also in a serve that runs, and prints it to
stdout. Only its SHA-256 is kept: nobody can print it again.`,
		Example: `  KEY=$(spotinference key create --name ci)
  spotinference key create --name ann --budget 5/day --rpm 60 --tpm 100000 --expires 30d
  spotinference key create --name lora --models sql-lora,chat-lora`,
		Args: noWords,
		RunE: g.run(func(ctx context.Context) error { return runKeyCreate(ctx, g, o) }),
	}
	f := flagsOf(c)
	f.text(&o.name, "name", "", "what reports call it; unique among the keys that are not revoked")
	f.amount(&o.budget, "budget", "", "the most of the bill that it may use up, such as 5/day; in the bill's currency")
	f.rate(&o.rpm, "rpm", "requests a minute", "requests a minute")
	f.rate(&o.tpm, "tpm", "tokens a minute", "prompt and output tokens a minute")
	f.text(&o.models, "models", "", "the models that it may use, with commas between; all where left out")
	f.text(&o.expires, "expires", "", "when it ends: after a time such as 30d or 12h, or at one such as 2026-12-31T00:00:00Z")
	f.once("name", "budget", "rpm", "tpm", "models", "expires")
	return c
}

func runKeyCreate(ctx context.Context, g *global, o keyCreateOptions) error {
	var secret [32]byte
	rand.Read(secret[:]) // it never fails
	text := keyPrefix + base64.RawURLEncoding.EncodeToString(secret[:])
	k, err := o.key(text, g)
	if err != nil {
		return err
	}
	err = changeKeys(ctx, g, control.KeyCreate, k, nil, func(led *ledger.Ledger) error { return led.AddKey(k) })
	if err != nil {
		return fmt.Errorf("key create: %w", err)
	}
	fmt.Fprintf(g.stderr, "spotinference: the key of %s, id %s: it is shown this once\n", k.Name, k.ID)
	if _, err := fmt.Fprintln(g.stdout, text); err != nil {
		return hint.Errorf("it is lost: spotinference key revoke "+k.ID, "key create: print the key: %w", err)
	}
	return nil
}

// key is what the flags ask for, with the digest of text.
func (o keyCreateOptions) key(text string, g *global) (k ledger.Key, err error) {
	k = ledger.Key{Name: o.name, Digest: sha256.Sum256([]byte(text)), Created: g.now().UTC().Truncate(time.Microsecond)}
	if k.Name == "" {
		return k, usagef("say whose it is: --name ci", "key create: missing: --name")
	}
	var id [8]byte
	rand.Read(id[:])
	k.ID = ledger.KeyIDPrefix + hex.EncodeToString(id[:])
	if o.budget != "" {
		if k.PerDay, err = parseKeyBudget(o.budget); err != nil {
			return k, err
		}
	}
	for _, rate := range []struct {
		flag  string
		value int
		to    *int64
	}{{"rpm", o.rpm, &k.RPM}, {"tpm", o.tpm, &k.TPM}} {
		*rate.to = int64(rate.value)
		if g.given[rate.flag] && (rate.value < 1 || rate.value > ledger.MaxRate) {
			return k, usagef("give a number from 1 to "+strconv.Itoa(ledger.MaxRate)+", or leave it out for no limit; key revoke ends a key",
				"key create: --%s %d: out of range", rate.flag, rate.value)
		}
	}
	if o.models != "" {
		if k.Models, err = parseModels(o.models); err != nil {
			return k, err
		}
	}
	if o.expires != "" {
		if k.Expires, err = parseExpires(o.expires, k.Created); err != nil {
			return k, err
		}
	}
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
