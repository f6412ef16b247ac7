package verda_test

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spotinference/billing"
	"spotinference/billing/api"
	"spotinference/billing/rig"
	"spotinference/internal/hint"
)

// A token is used until half a minute before its end, then refreshed; where that is
// refused, the credentials are sent again; and one that is refused early is asked
// for again once.
func TestVerdaToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newVerdaCloud(t)
		p := c.Provider(nil)
		start := time.Now()
		sample := func(wantGrants ...string) {
			t.Helper()
			c.Grants = nil
			if _, err := p.Sample(t.Context(), c.Now()); err != nil {
				t.Errorf("after %s: %v", time.Since(start), err)
			}
			var got []string
			for _, g := range c.Grants {
				got = append(got, g["grant_type"])
			}
			if strings.Join(got, " ") != strings.Join(wantGrants, " ") {
				t.Errorf("after %s: grants %q, want %q", time.Since(start), got, wantGrants)
			}
		}
		const refresh, again = "refresh_token", "client_credentials"
		sample(again)
		time.Sleep(time.Hour - 31*time.Second)
		sample()
		time.Sleep(time.Second)
		sample(refresh)
		if g := c.Grants[0]; g["refresh_token"] != "eyJ.example.r" || len(g) != 2 {
			t.Errorf("refresh %v", g)
		}
		for _, refused := range []rig.Recorded{c.Cases["err_401"], c.Cases["err_500"], c.Cases["err_502_html"], {Status: 200, Body: []byte(`{}`)}} {
			c.Reply[rig.VerdaTokenPath] = func(w http.ResponseWriter, r *http.Request) {
				if c.Grants[len(c.Grants)-1]["grant_type"] == refresh {
					refused.Serve(w)
					return
				}
				c.Cases["token"].Serve(w)
			}
			time.Sleep(time.Hour)
			sample(refresh, again)
		}
		delete(c.Reply, rig.VerdaTokenPath)

		// Withdrawn before its end, between two calls of one sample.
		c.Token = "eyJ.example.b"
		c.Reply[rig.VerdaTokenPath] = c.Body("token", "eyJ.example.a", "eyJ.example.b")
		time.Sleep(time.Minute)
		sample(again)
		c.Reply[rig.VerdaInstancesPath] = func(w http.ResponseWriter, r *http.Request) {
			c.Token, c.Reply[rig.VerdaTokenPath] = "eyJ.example.c", c.Body("token", "eyJ.example.a", "eyJ.example.c")
			delete(c.Reply, rig.VerdaInstancesPath)
			c.Cases["err_401"].Serve(w)
		}
		time.Sleep(time.Minute)
		sample(again)

		// Good for nothing: asked for once, not in a circle.
		c.Token = "eyJ.example.d"
		time.Sleep(time.Minute)
		c.Grants, c.Calls = nil, nil
		_, err := p.Sample(t.Context(), c.Now())
		rig.WantClass(t, err, api.HTTP401)
		if len(c.Grants) != 1 || len(c.Calls) != 3 {
			t.Errorf("%d grants in calls %q", len(c.Grants), c.Calls)
		}
		var f *api.Failure
		if errors.As(err, &f) && !strings.Contains(hint.Of(f), "VERDA_CLIENT_SECRET") {
			t.Errorf("hint %q", hint.Of(f))
		}

		// A token without a refresh token, at an API in trouble: three tries.
		c.Token = "eyJ.example.a"
		tries := 0
		c.Reply[rig.VerdaTokenPath] = func(w http.ResponseWriter, r *http.Request) {
			if tries++; tries < 3 {
				c.Cases["err_500"].Serve(w)
				return
			}
			c.Body("token", `"refresh_token":"eyJ.example.r",`, ``)(w, r)
		}
		time.Sleep(time.Minute)
		sample(again, again, again)
		time.Sleep(time.Hour)
		sample(again)
	})
}

// What the provider echoes is kept without what must not be kept.
func TestVerdaKeepsNoSecret(t *testing.T) {
	c := newVerdaCloud(t)
	c.Reply[rig.VerdaBalancePath] = rig.Answer(rig.Recorded{Status: 200, Body: []byte(`{"amount":1,"currency":"usd","echo":["` + rig.VerdaSecret + `","eyJ.example.a","eyJ.example.r"]}`)})
	s, err := c.Provider(nil).Sample(t.Context(), c.Now())
	if err != nil {
		t.Fatal(err)
	}
	if got := string(s.Lines[0].Raw); strings.Contains(got, rig.VerdaSecret) || strings.Contains(got, "eyJ") || strings.Count(got, "[redacted]") != 3 {
		t.Errorf("kept %s", got)
	}
	if strings.Contains(s.Lines[0].Resource+s.Account, rig.VerdaID) {
		t.Errorf("the client id is in %q", s.Lines[0].Resource)
	}
}

func TestVerdaCredentials(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(rig.VerdaSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	others := filepath.Join(t.TempDir(), "others")
	if err := os.WriteFile(others, []byte(rig.VerdaSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(others, 0o644); err != nil {
		t.Fatal(err)
	}
	f := func(env map[string]string, want string) {
		t.Helper()
		c := newVerdaCloud(t)
		p, err := open(api.Options{URL: "https://cloud.test/v1", Getenv: rig.Env(env), Transport: rig.Direct{Handler: c}})
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), rig.VerdaSecret) {
				t.Errorf("%v: %v, want %q", env, err, want)
			}
			return
		}
		if err != nil {
			t.Errorf("%v: %v", env, err)
			return
		}
		if _, err := p.Sample(t.Context(), c.Now()); err != nil {
			t.Error(err)
		}
		if g := c.Grants[0]; g["client_id"] != rig.VerdaID || g["client_secret"] != rig.VerdaSecret {
			t.Errorf("%v: grant %v", env, g)
		}
	}
	f(map[string]string{"VERDA_CLIENT_ID": rig.VerdaID, "VERDA_CLIENT_SECRET": rig.VerdaSecret}, "")
	f(map[string]string{"VERDA_CLIENT_ID": rig.VerdaID, "VERDA_CLIENT_SECRET_FILE": file}, "")
	f(map[string]string{"DATACRUNCH_CLIENT_ID": rig.VerdaID, "DATACRUNCH_CLIENT_SECRET": rig.VerdaSecret}, "")
	f(map[string]string{"DATACRUNCH_CLIENT_ID": rig.VerdaID, "DATACRUNCH_CLIENT_SECRET_FILE": file}, "")
	f(map[string]string{"VERDA_CLIENT_ID": rig.VerdaID, "VERDA_CLIENT_SECRET": rig.VerdaSecret,
		"DATACRUNCH_CLIENT_ID": "an older one", "DATACRUNCH_CLIENT_SECRET": "an older one"}, "")
	f(nil, "VERDA_CLIENT_ID is not set")
	f(map[string]string{"VERDA_CLIENT_ID": rig.VerdaID}, "VERDA_CLIENT_SECRET is not set")
	f(map[string]string{"VERDA_CLIENT_SECRET": rig.VerdaSecret}, "VERDA_CLIENT_ID is not set")
	f(map[string]string{"DATACRUNCH_CLIENT_ID": rig.VerdaID, "VERDA_CLIENT_SECRET": rig.VerdaSecret}, "VERDA_CLIENT_ID is not set")
	f(map[string]string{"VERDA_CLIENT_ID": "two words", "VERDA_CLIENT_SECRET": rig.VerdaSecret}, "does not hold a client id")
	f(map[string]string{"VERDA_CLIENT_ID": rig.VerdaID, "VERDA_CLIENT_SECRET": "short"}, "does not hold")
	f(map[string]string{"VERDA_CLIENT_ID": rig.VerdaID, "VERDA_CLIENT_SECRET": rig.VerdaSecret, "VERDA_CLIENT_SECRET_FILE": file}, "both")
	f(map[string]string{"VERDA_CLIENT_ID": rig.VerdaID, "VERDA_CLIENT_SECRET_FILE": others}, "mode 0644")

	if got, err := billing.Detect(rig.Env(map[string]string{"VERDA_CLIENT_ID": "x", "DATACRUNCH_CLIENT_ID": "y"})); got != "verda" || err != nil {
		t.Errorf("Detect = %q, %v", got, err)
	}
	if _, err := open(api.Options{URL: "http://cloud.test/v1", Getenv: rig.Env(map[string]string{"VERDA_CLIENT_ID": rig.VerdaID, "VERDA_CLIENT_SECRET": rig.VerdaSecret})}); err == nil {
		t.Error("credentials in the clear")
	}
}
