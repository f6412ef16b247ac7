package sim

import (
	"maps"
	"net/http"
	"slices"
	"strings"
)

// api is one provider's API over the simulated account. A file of this package is one
// API and all that is said of it.
type api struct {
	routes func(*Sim, *http.ServeMux)

	// fault answers a call in the API's own way of going wrong, or reports that it has
	// none for this fault, or that the call is not its own. May be nil.
	fault func(*Sim, http.ResponseWriter, *http.Request, Fault) bool

	// account is how an adapter finds the machine, with a URL that is under the
	// server's root: "/v1".
	account func(Config) Account
}

// apis are what the simulator speaks, by provider. Each file enters its own before main
// runs, and nobody changes them after that: so a new API is one file and nothing else.
var apis = make(map[string]api)

// Account is how a provider's adapter finds the simulated machine.
type Account struct {
	URL      string            // base of the API
	Instance string            // the provider's id of the machine; "" where none is asked for
	Env      map[string]string // credentials
}

// Getenv finds the account's credentials, as os.Getenv would.
func (a Account) Getenv(name string) string { return a.Env[name] }

// Account is the one that speaks as provider, on a server at root: "http://127.0.0.1:8080";
// "" is what Listen took. It is the zero Account for a provider that is not known.
func (s *Sim) Account(provider, root string) Account {
	a, ok := apis[provider]
	if !ok {
		return Account{}
	}
	if root == "" {
		root = strings.TrimSuffix(s.url, "/v1")
	}
	account := a.account(s.cfg)
	account.URL = root + account.URL
	return account
}

// Providers lists those whose API the simulator speaks.
func Providers() []string { return slices.Sorted(maps.Keys(apis)) }
