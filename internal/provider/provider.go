// Package provider is the floor under everything that talks to a GPU cloud: how its
// credential is found, which addresses it may be sent to, how it is cut out of what
// leaves, and one HTTP request with its reply.
//
// It knows no provider, and no policy: which methods are allowed, whether a request is
// sent again, and what a failure means is for the caller to say. Package billing/api is
// the policy of reading a bill: its client forbids changes and repeats a GET. Machines
// will need another policy on the same floor.
//
//	base, err := provider.BaseURL("https://api.example.com/v1")
//	...
//	key, err := provider.Credential(os.Getenv, "EXAMPLE_API_KEY", "EXAMPLE_API_KEY_FILE")
//	...
//	c := provider.NewClient(base, nil)
//	c.Authorize = func(h http.Header) { h.Set("Authorization", "Bearer "+key) }
//	c.Secrets = provider.Secrets{key}
//	body, failure := c.Send(ctx, provider.StartClock(time.Now()), provider.Request{Path: "machines"})
package provider
