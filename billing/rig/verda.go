package rig

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"spotinference/billing/api"
)

// Credentials, and the paths that a sample asks for.
const (
	VerdaID     = "client-7c1e"
	VerdaSecret = "vd-test-0f3b2a1c/secret"

	VerdaBalancePath   = "/v1/balance"
	VerdaInstancesPath = "/v1/instances"
	VerdaVolumesPath   = "/v1/volumes"
	VerdaTokenPath     = "/v1/oauth2/token"
)

func verdaRecordings(t testing.TB) map[string]Recorded {
	t.Helper()
	cases := recordings(t, "verda")
	discontinued := cases["instances"]
	discontinued.Body = bytes.Replace(discontinued.Body, []byte(`"running"`), []byte(`"discontinued"`), 1)
	cases["instances_discontinued"] = discontinued
	return cases
}

// VerdaCloud answers as recorded. Each test says what differs.
type VerdaCloud struct {
	t         testing.TB
	open      Opener
	Now       func() time.Time
	Cases     map[string]Recorded
	Reply     map[string]http.HandlerFunc // by path, before the recordings
	Balance   string                      // recording of the balance
	Instances string                      // recording of the instances
	Grants    []map[string]string         // what was asked of the token's endpoint
	Calls     []string
	Token     string // the only one that is good
}

// NewVerdaCloud makes one, to be opened by open.
func NewVerdaCloud(t testing.TB, open Opener) *VerdaCloud {
	return &VerdaCloud{t: t, open: open, Now: November(), Cases: verdaRecordings(t), Reply: make(map[string]http.HandlerFunc),
		Balance: "balance_t0", Instances: "instances", Token: "eyJ.example.a"}
}

func (c *VerdaCloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.Calls = append(c.Calls, r.URL.Path)
	w.Header().Set("Date", c.Now().UTC().Format(http.TimeFormat))
	if r.URL.Path == VerdaTokenPath {
		var form map[string]string
		if err := json.NewDecoder(r.Body).Decode(&form); err != nil || r.Method != "POST" || r.Header.Get("Authorization") != "" {
			c.t.Errorf("grant %s: %v, with %q", r.Method, err, r.Header.Get("Authorization"))
		}
		c.Grants = append(c.Grants, form)
	} else if r.Header.Get("Authorization") != "Bearer "+c.Token {
		c.Cases["err_401"].Serve(w)
		return
	}
	if h := c.Reply[r.URL.Path]; h != nil {
		h(w, r)
		return
	}
	switch r.URL.Path {
	case VerdaTokenPath:
		c.Cases["token"].Serve(w)
	case VerdaBalancePath:
		c.Cases[c.Balance].Serve(w)
	case VerdaInstancesPath:
		c.Cases[c.Instances].Serve(w)
	case VerdaVolumesPath:
		c.Cases["volumes"].Serve(w)
	default:
		c.t.Errorf("unexpected call of %s", r.URL.Path)
		w.WriteHeader(404)
	}
}

// Body answers 200 with a recording in which old is replaced by new.
func (c *VerdaCloud) Body(name, old, new string) http.HandlerFunc {
	var flat bytes.Buffer
	if err := json.Compact(&flat, c.Cases[name].Body); err != nil {
		c.t.Fatal(err)
	}
	if !strings.Contains(flat.String(), old) {
		c.t.Fatalf("recording %s does not contain %q", name, old)
	}
	b := strings.ReplaceAll(flat.String(), old, new)
	return func(w http.ResponseWriter, _ *http.Request) { Recorded{Status: 200, Body: []byte(b)}.Serve(w) }
}

// Provider opens the adapter on it.
func (c *VerdaCloud) Provider(change func(*api.Options)) api.Provider {
	c.t.Helper()
	opts := api.Options{
		URL:       "https://cloud.test/v1",
		Getenv:    Env(map[string]string{"VERDA_CLIENT_ID": VerdaID, "VERDA_CLIENT_SECRET": VerdaSecret}),
		Transport: Direct{c},
	}
	if change != nil {
		change(&opts)
	}
	p, err := c.open(opts)
	if err != nil {
		c.t.Fatal(err)
	}
	return p
}
