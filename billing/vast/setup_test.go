package vast_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing"
	"spotinference/billing/api"
	"spotinference/billing/rig"
	"spotinference/internal/hint"
)

func TestVastSetup(t *testing.T) {
	key := map[string]string{"VAST_API_KEY": rig.Key}
	with := func(more ...string) map[string]string {
		env := map[string]string{"VAST_API_KEY": rig.Key}
		for i := 0; i < len(more); i += 2 {
			env[more[i]] = more[i+1]
		}
		return env
	}
	refused := func(instance string, env map[string]string, want, advice string) {
		t.Helper()
		_, err := open(api.Options{Instance: instance, Getenv: rig.Env(env)})
		if err == nil || hint.Of(err) == "" || !strings.Contains(err.Error(), want) || !strings.Contains(hint.Of(err), advice) || strings.Contains(err.Error()+hint.Of(err), rig.Key) {
			t.Errorf("%v: %v, want %q with hint %q", env, err, want, advice)
		}
	}
	refused("1", nil, "VAST_API_KEY is not set", "VAST_API_KEY_FILE")
	refused("1", map[string]string{"CONTAINER_API_KEY": rig.Key}, "VAST_API_KEY is not set", "CONTAINER_API_KEY")
	refused("1", with("VAST_API_KEY_FILE", "/absent"), "both", "unset")
	refused("1", map[string]string{"VAST_API_KEY_FILE": "/absent"}, "read API key", "VAST_API_KEY_FILE")
	refused("1", map[string]string{"VAST_API_KEY": "short"}, "does not hold an API key", "console")
	refused("1", with("VAST_URL", "http://console.vast.ai"), "in the clear", "https")
	refused("", key, "CONTAINER_ID", "--instance")
	refused("C.123456", key, `instance "C.123456"`, "console")
	refused("-1", key, `instance "-1"`, "console")
	refused("", with("CONTAINER_ID", "8f3a2c"), `"8f3a2c"`, "--instance")
	refused("", with("VAST_CONTAINERLABEL", "C.0"), `"C.0"`, "--instance")
	refused("", with("CONTAINER_ID", "123", "VAST_CONTAINERLABEL", "C.124"), "says 123", "--instance")

	found := func(instance string, env map[string]string) {
		t.Helper()
		c := newVastCloud(t)
		p := c.Provider(func(o *api.Options) { o.Instance, o.Getenv = instance, rig.Env(env) })
		s, err := p.Sample(t.Context(), c.Now())
		if err != nil || s.Lines[0].Resource != "instance-12345678" {
			t.Errorf("%q, %v: %v, %+v", instance, env, err, s.Lines)
		}
	}
	found("12345678", with("CONTAINER_ID", "77"))
	found("", with("CONTAINER_ID", "12345678"))
	found("", with("CONTAINER_ID", "C.12345678"))
	found("", with("VAST_CONTAINERLABEL", "C.12345678"))
	found("", with("CONTAINER_ID", "12345678", "VAST_CONTAINERLABEL", "C.12345678"))
	if got, err := billing.Detect(rig.Env(key)); got != "vast" || err != nil {
		t.Errorf("Detect = %q, %v", got, err)
	}
}

// A key that may not read the bill is told apart at the first sample.
func TestVastKeyHint(t *testing.T) {
	for _, name := range []string{"err_auth", "err_unknown_key"} {
		c := newVastCloud(t)
		c.Reply[rig.VastUserPath] = func(w http.ResponseWriter, _ *http.Request) { c.Cases[name].Serve(w) }
		_, err := c.Provider(nil).Sample(t.Context(), c.Now())
		var f *api.Failure
		if !errors.As(err, &f) || !strings.Contains(hint.Of(f), "CONTAINER_API_KEY") {
			t.Errorf("%s: %v", name, err)
		}
		if word := map[string]string{"err_auth": "(auth_error)", "err_unknown_key": "(no_such_user)"}[name]; !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVastCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newVastCloud(t)
		p := c.Provider(nil)
		for range 3 {
			if _, err := p.Sample(t.Context(), c.Now()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		if got := len(c.Calls); got != 2+3*2 {
			t.Errorf("%d calls, want 8: %v", got, c.Calls)
		}
	})
}

// What the account has left is told apart from the bill, in both of its words.
func TestVastWitness(t *testing.T) {
	c := newVastCloud(t)
	w, ok := c.Provider(nil).(api.BalanceReader)
	if !ok {
		t.Fatal("vast tells its balance")
	}
	b, err := w.Balances(t.Context(), c.Now())
	if err != nil || b.Account != "4242" || *b.Balance != 0 || *b.Credit != 53_138_000_000 {
		t.Errorf("%v, %+v", err, b)
	}
	c.Reply[rig.VastUserPath] = c.Body("user", `,"balance":0,"credit":53.138`, `,"credit":-0.25`) // in debt
	b, err = w.Balances(t.Context(), c.Now())
	if err != nil || b.Balance != nil || *b.Credit != -250_000_000 {
		t.Errorf("%v, %+v", err, b)
	}
	c.Reply[rig.VastUserPath] = c.Body("user", `"credit":53.138`, `"credit":"1e400"`)
	b, err = w.Balances(t.Context(), c.Now())
	if rig.WantClass(t, err, api.Malformed); b.Credit != nil || b.Account != "" {
		t.Errorf("%+v", b)
	}
}
