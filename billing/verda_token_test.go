package billing_test

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
	"spotinference/internal/hint"
)

// A token is used until half a minute before its end, then refreshed; where that is
// refused, the credentials are sent again; and one that is refused early is asked
// for again once.
func TestVerdaToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newVerdaCloud(t)
		p := c.provider(nil)
		start := time.Now()
		sample := func(wantGrants ...string) {
			t.Helper()
			c.grants = nil
			if _, err := p.Sample(t.Context(), c.now()); err != nil {
				t.Errorf("after %s: %v", time.Since(start), err)
			}
			var got []string
			for _, g := range c.grants {
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
		if g := c.grants[0]; g["refresh_token"] != "eyJ.example.r" || len(g) != 2 {
			t.Errorf("refresh %v", g)
		}
		for _, refused := range []recorded{c.cases["err_401"], c.cases["err_500"], c.cases["err_502_html"], {Status: 200, Body: []byte(`{}`)}} {
			c.reply[tokenPath] = func(w http.ResponseWriter, r *http.Request) {
				if c.grants[len(c.grants)-1]["grant_type"] == refresh {
					refused.serve(w)
					return
				}
				c.cases["token"].serve(w)
			}
			time.Sleep(time.Hour)
			sample(refresh, again)
		}
		delete(c.reply, tokenPath)

		// Withdrawn before its end, between two calls of one sample.
		c.token = "eyJ.example.b"
		c.reply[tokenPath] = c.body("token", "eyJ.example.a", "eyJ.example.b")
		time.Sleep(time.Minute)
		sample(again)
		c.reply[instancesPath] = func(w http.ResponseWriter, r *http.Request) {
			c.token, c.reply[tokenPath] = "eyJ.example.c", c.body("token", "eyJ.example.a", "eyJ.example.c")
			delete(c.reply, instancesPath)
			c.cases["err_401"].serve(w)
		}
		time.Sleep(time.Minute)
		sample(again)

		// Good for nothing: asked for once, not in a circle.
		c.token = "eyJ.example.d"
		time.Sleep(time.Minute)
		c.grants, c.calls = nil, nil
		_, err := p.Sample(t.Context(), c.now())
		wantClass(t, err, billing.HTTP401)
		if len(c.grants) != 1 || len(c.calls) != 3 {
			t.Errorf("%d grants in calls %q", len(c.grants), c.calls)
		}
		var f *billing.Failure
		if errors.As(err, &f) && !strings.Contains(hint.Of(f), "VERDA_CLIENT_SECRET") {
			t.Errorf("hint %q", hint.Of(f))
		}

		// A token without a refresh token, at an API in trouble: three tries.
		c.token = "eyJ.example.a"
		tries := 0
		c.reply[tokenPath] = func(w http.ResponseWriter, r *http.Request) {
			if tries++; tries < 3 {
				c.cases["err_500"].serve(w)
				return
			}
			c.body("token", `"refresh_token":"eyJ.example.r",`, ``)(w, r)
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
	c.reply[balancePath] = answer(recorded{Status: 200, Body: []byte(`{"amount":1,"currency":"usd","echo":["` + verdaTestSecret + `","eyJ.example.a","eyJ.example.r"]}`)})
	s, err := c.provider(nil).Sample(t.Context(), c.now())
	if err != nil {
		t.Fatal(err)
	}
	if got := string(s.Lines[0].Raw); strings.Contains(got, verdaTestSecret) || strings.Contains(got, "eyJ") || strings.Count(got, "[redacted]") != 3 {
		t.Errorf("kept %s", got)
	}
	if strings.Contains(s.Lines[0].Resource+s.Account, verdaTestID) {
		t.Errorf("the client id is in %q", s.Lines[0].Resource)
	}
}

func TestVerdaCredentials(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(verdaTestSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(t.TempDir(), "open")
	if err := os.WriteFile(open, []byte(verdaTestSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	f := func(env map[string]string, want string) {
		t.Helper()
		c := newVerdaCloud(t)
		p, err := billing.New("verda", billing.Options{URL: "https://cloud.test/v1", Getenv: getenv(env), Transport: direct{c}})
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), verdaTestSecret) {
				t.Errorf("%v: %v, want %q", env, err, want)
			}
			return
		}
		if err != nil {
			t.Errorf("%v: %v", env, err)
			return
		}
		if _, err := p.Sample(t.Context(), c.now()); err != nil {
			t.Error(err)
		}
		if g := c.grants[0]; g["client_id"] != verdaTestID || g["client_secret"] != verdaTestSecret {
			t.Errorf("%v: grant %v", env, g)
		}
	}
	f(map[string]string{"VERDA_CLIENT_ID": verdaTestID, "VERDA_CLIENT_SECRET": verdaTestSecret}, "")
	f(map[string]string{"VERDA_CLIENT_ID": verdaTestID, "VERDA_CLIENT_SECRET_FILE": file}, "")
	f(map[string]string{"DATACRUNCH_CLIENT_ID": verdaTestID, "DATACRUNCH_CLIENT_SECRET": verdaTestSecret}, "")
	f(map[string]string{"DATACRUNCH_CLIENT_ID": verdaTestID, "DATACRUNCH_CLIENT_SECRET_FILE": file}, "")
	f(map[string]string{"VERDA_CLIENT_ID": verdaTestID, "VERDA_CLIENT_SECRET": verdaTestSecret,
		"DATACRUNCH_CLIENT_ID": "an older one", "DATACRUNCH_CLIENT_SECRET": "an older one"}, "")
	f(nil, "VERDA_CLIENT_ID is not set")
	f(map[string]string{"VERDA_CLIENT_ID": verdaTestID}, "VERDA_CLIENT_SECRET is not set")
	f(map[string]string{"VERDA_CLIENT_SECRET": verdaTestSecret}, "VERDA_CLIENT_ID is not set")
	f(map[string]string{"DATACRUNCH_CLIENT_ID": verdaTestID, "VERDA_CLIENT_SECRET": verdaTestSecret}, "VERDA_CLIENT_ID is not set")
	f(map[string]string{"VERDA_CLIENT_ID": "two words", "VERDA_CLIENT_SECRET": verdaTestSecret}, "does not hold a client id")
	f(map[string]string{"VERDA_CLIENT_ID": verdaTestID, "VERDA_CLIENT_SECRET": "short"}, "does not hold")
	f(map[string]string{"VERDA_CLIENT_ID": verdaTestID, "VERDA_CLIENT_SECRET": verdaTestSecret, "VERDA_CLIENT_SECRET_FILE": file}, "both")
	f(map[string]string{"VERDA_CLIENT_ID": verdaTestID, "VERDA_CLIENT_SECRET_FILE": open}, "mode 0644")

	if got, err := billing.Detect(getenv(map[string]string{"VERDA_CLIENT_ID": "x", "DATACRUNCH_CLIENT_ID": "y"})); got != "verda" || err != nil {
		t.Errorf("Detect = %q, %v", got, err)
	}
	if _, err := billing.New("verda", billing.Options{URL: "http://cloud.test/v1", Getenv: getenv(map[string]string{"VERDA_CLIENT_ID": verdaTestID, "VERDA_CLIENT_SECRET": verdaTestSecret})}); err == nil {
		t.Error("credentials in the clear")
	}
}
