package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"spotinference/ledger"
)

type keyListOptions struct{ outputOptions }

func newKeyList(g *global) *cobra.Command {
	var o keyListOptions
	c := &cobra.Command{
		Use:   "list",
		Short: "Every API key that there ever was, and what it may",
		Args:  noWords,
		RunE:  g.run(func(ctx context.Context) error { return runKeyList(ctx, g, o) }),
	}
	o.addFlags(flagsOf(c))
	return c
}

func runKeyList(_ context.Context, g *global, o keyListOptions) error {
	asJSON, err := o.json("key list")
	if err != nil {
		return err
	}
	r, err := g.openReader()
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
		list = append(list, listed(k, g.now()))
	}
	if asJSON {
		return writeJSON(g.stdout, list)
	}
	return writeKeys(g.stdout, list)
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
