package sim_test

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"spotinference/billing/sim"
)

func (a *account) verda(t *testing.T, method, target, bearer, body string) (int, string) {
	t.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

type grant struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
	Type    string `json:"token_type"`
	Life    int64  `json:"expires_in"`
}

func (a *account) grant(t *testing.T, form string) (int, grant) {
	t.Helper()
	code, body := a.verda(t, "POST", "/v1/oauth2/token", "", form)
	var g grant
	if err := json.Unmarshal([]byte(body), &g); err != nil {
		t.Fatalf("%s: %s", form, body)
	}
	return code, g
}

func TestVerda(t *testing.T) {
	a := newAccount(t)
	a.now = a.now.Add(time.Minute)
	code, g := a.grant(t, `{"grant_type":"client_credentials","client_id":"anybody","client_secret":"`+key+`"}`)
	if code != 200 || g.Type != "Bearer" || g.Life != 3600 {
		t.Fatal(code, g)
	}
	f := func(target, want string) {
		t.Helper()
		if code, body := a.verda(t, "GET", "/v1"+target, g.Access, ""); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s, want %s", target, code, body, want)
		}
	}
	f("/balance", `{"amount":99.95764,"currency":"usd"}`) // a minute of 706 µUSD a second
	f("/instances", `"price_per_hour":"2.52"`)
	f("/instances", `"status":"running"`)
	f("/instances", `"id":"`+a.VerdaInstance()+`"`)
	f("/volumes", `"base_hourly_cost":0.0216`)
	f("/volumes", `"currency":"usd"`)
	f("/volumes/trash", `[]`)

	if got := a.Answers(); len(got) != 1 || got[0].Resource != "account" || got[0].Nanos != 60*706_000 {
		t.Errorf("answers %+v", got)
	}
	for status, want := range map[string]string{"SHUTOFF": "offline", "HIBERNATED": "hibernating", "ERROR": "error"} {
		a.SetStatus(status)
		f("/instances", `"status":"`+want+`"`)
	}
	a.SetStatus("ACTIVE")

	// Money in, and a refund, from the next second on; the books know the refund only.
	before := a.Books(a.now.Add(-time.Minute), a.now)
	if code, _ := a.verda(t, "POST", "/sim/topup?nanos=50000000000", "", ""); code != 200 {
		t.Errorf("top-up: %d", code)
	}
	if code, _ := a.verda(t, "POST", "/sim/topup?nanos=much", "", ""); code != 400 {
		t.Errorf("unreadable top-up: %d", code)
	}
	f("/balance", `"amount":149.95764,`)
	if after := a.Books(a.now.Add(-time.Minute), a.now); after.Nanos != before.Nanos {
		t.Errorf("the top-up is in the books: %s, before %s", after.Spend, before.Spend)
	}
	if err := a.SetFault(sim.Fault{Mode: sim.Refund, Nanos: 1_000_000}); err != nil {
		t.Fatal(err)
	}
	a.now = a.now.Add(time.Second)
	f("/balance", `"amount":149.957934,`)

	for mode, want := range map[string]string{sim.Frozen: `"amount":149.957934,`, sim.Empty: `{"currency":"usd"}`} {
		if err := a.SetFault(sim.Fault{Mode: mode}); err != nil {
			t.Fatal(err)
		}
		f("/balance", want)
	}
	if err := a.SetFault(sim.Fault{Mode: sim.MissingVolume}); err != nil {
		t.Fatal(err)
	}
	f("/volumes", `[]`)
}

func TestVerdaTokens(t *testing.T) {
	a := newAccount(t)
	refused := func(what, form string, want int) {
		t.Helper()
		if code, g := a.grant(t, form); code != want || g.Access != "" {
			t.Errorf("%s: %d %+v", what, code, g)
		}
	}
	refused("another secret", `{"grant_type":"client_credentials","client_id":"x","client_secret":"guess"}`, 401)
	refused("no id", `{"grant_type":"client_credentials","client_secret":"`+key+`"}`, 401)
	refused("no grant", `{"client_id":"x","client_secret":"`+key+`"}`, 400)
	refused("no JSON", `grant_type=client_credentials`, 400)
	refused("refresh of nothing", `{"grant_type":"refresh_token"}`, 401)

	_, g := a.grant(t, `{"grant_type":"client_credentials","client_id":"x","client_secret":"`+key+`"}`)
	refused("refresh by an access token", `{"grant_type":"refresh_token","refresh_token":"`+g.Access+`"}`, 401)
	good := func(token string) bool {
		code, body := a.verda(t, "GET", "/v1/balance", token, "")
		if code != 200 && !strings.Contains(body, `"unauthorized_request"`) {
			t.Errorf("refused with %s", body)
		}
		return code == 200
	}
	for _, bad := range []string{"", "x", g.Refresh, g.Access + "x", strings.Replace(g.Access, "access.1", "access.9", 1)} {
		if good(bad) {
			t.Errorf("%q is honoured", bad)
		}
	}
	a.now = a.now.Add(sim.TokenLife - time.Second)
	if !good(g.Access) {
		t.Error("refused before its end")
	}
	a.now = a.now.Add(time.Second)
	if good(g.Access) {
		t.Error("honoured after its end")
	}
	code, g2 := a.grant(t, `{"grant_type":"refresh_token","refresh_token":"`+g.Refresh+`"}`)
	if code != 200 || !good(g2.Access) {
		t.Errorf("refreshed: %d %+v", code, g2)
	}
	a.now = a.now.Add(24 * sim.TokenLife)
	refused("refresh too late", `{"grant_type":"refresh_token","refresh_token":"`+g.Refresh+`"}`, 401)
}
