package billing_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"spotinference/billing"
	"spotinference/billing/api"
	"spotinference/billing/command"
	"spotinference/billing/rig"
	"spotinference/billing/sim"
	"spotinference/internal/hint"
)

func TestNewRefuses(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := map[string]string{"HYPERSTACK_API_KEY": rig.Key}
	f := func(name string, opts api.Options, env map[string]string, want, advice string) {
		t.Helper()
		opts.Getenv = rig.Env(env)
		_, err := billing.New(name, opts)
		if err == nil {
			t.Errorf("New(%q, %+v): no error, want %q", name, opts, want)
			return
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("New(%q): %q, want %q in it", name, err, want)
		}
		if advice != "" && !strings.Contains(hint.Of(err), advice) {
			t.Errorf("New(%q): %q has not the hint %q", name, err, advice)
		}
		for _, v := range env {
			if len(v) > 3 && !strings.HasPrefix(v, dir) && !strings.HasPrefix(v, "http") && strings.Contains(err.Error()+hint.Of(err), v) {
				t.Errorf("New(%q): the key is in %q", name, err)
			}
		}
	}
	none := api.Options{}

	f("", none, good, `billing provider "": not known`, "hyperstack")
	f("Hyperstack", none, good, "not known", "hyperstack")
	f("lambda", none, good, "a rate and no bill", "none")
	f("nebius", none, good, "a rate and no bill", "none")
	f("digitalocean", none, good, "a day late", "")
	f("crusoe", none, good, "a day late", "")
	f("aws", none, good, "hours late", "")
	f("gcp", none, good, "hours late", "")
	f("azure", none, good, "hours late", "")
	f("scaleway", none, good, "no adapter for it is written yet", "")

	f("hyperstack", none, nil, "HYPERSTACK_API_KEY is not set", "HYPERSTACK_API_KEY_FILE")
	f("hyperstack", none, map[string]string{"HYPERSTACK_API_KEY": "short"}, "does not hold an API key", "console")
	f("hyperstack", none, map[string]string{"HYPERSTACK_API_KEY": "two words of key"}, "does not hold an API key", "console")
	f("hyperstack", none, map[string]string{"HYPERSTACK_API_KEY": "key\r\nX-Other: header"}, "does not hold an API key", "console")
	f("hyperstack", none, map[string]string{"HYPERSTACK_API_KEY": rig.Key, "HYPERSTACK_API_KEY_FILE": file("both", rig.Key, 0o600)}, "both", "unset")
	f("hyperstack", none, map[string]string{"HYPERSTACK_API_KEY_FILE": file("group", rig.Key, 0o640)}, "mode 0640", "chmod 600")
	f("hyperstack", none, map[string]string{"HYPERSTACK_API_KEY_FILE": file("world", rig.Key, 0o604)}, "mode 0604", "chmod 600")
	f("hyperstack", none, map[string]string{"HYPERSTACK_API_KEY_FILE": file("empty", "\n", 0o600)}, "HYPERSTACK_API_KEY_FILE does not hold an API key", "")
	f("hyperstack", none, map[string]string{"HYPERSTACK_API_KEY_FILE": file("long", strings.Repeat("k", 4097), 0o600)}, "is larger than 4096 bytes", "nothing else")
	f("hyperstack", none, map[string]string{"HYPERSTACK_API_KEY_FILE": dir}, "not a plain file", "")
	if _, err := billing.New("hyperstack", api.Options{Getenv: rig.Env(map[string]string{"HYPERSTACK_API_KEY_FILE": filepath.Join(dir, "absent")})}); err == nil || !strings.HasPrefix(err.Error(), "read API key: open ") {
		t.Errorf("absent key file: %v", err)
	}

	f("hyperstack", api.Options{URL: "http://infrahub-api.nexgencloud.com/v1"}, good, "in the clear", "https")
	f("hyperstack", api.Options{URL: "http://127.0.0.1.example.com/v1"}, good, "in the clear", "https")
	f("hyperstack", api.Options{URL: "ftp://localhost/v1"}, good, "in the clear", "https")
	f("hyperstack", api.Options{URL: "localhost:8080/v1"}, good, "provider URL", "")
	f("hyperstack", api.Options{URL: "https://user:hunter22hunter22@cloud.test/v1"}, good, "a user name or a password", "environment")
	f("hyperstack", api.Options{URL: "https://cloud.test/v1?key=1"}, good, "not the base of an API", "")
	f("hyperstack", api.Options{URL: "https://:443"}, good, "provider URL", "")
	f("hyperstack", api.Options{URL: "https://cloud.test/%zz"}, good, "cannot be read", "")
	f("hyperstack", none, map[string]string{"HYPERSTACK_API_KEY": rig.Key, "HYPERSTACK_API_URL": "http://cloud.test"}, "in the clear", "https")

	f("hyperstack", api.Options{Instance: "spot-h100-a"}, good, `instance "spot-h100-a"`, "console")
	f("hyperstack", api.Options{Instance: "-1"}, good, `instance "-1"`, "console")
}

func TestNew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(rig.Key+"\n"), 0o400); err != nil {
		t.Fatal(err)
	}
	for _, env := range []map[string]string{
		{"HYPERSTACK_API_KEY": rig.Key},
		{"HYPERSTACK_API_KEY_FILE": path},
	} {
		for _, u := range []string{"", "https://cloud.test/v1/", "http://127.0.0.1:1/v1", "http://[::1]:1/v1", "http://localhost:1"} {
			if _, err := billing.New("hyperstack", api.Options{URL: u, Getenv: rig.Env(env)}); err != nil {
				t.Errorf("New(%q): %v", u, err)
			}
		}
	}
	// The key in the file is the key that is sent, less the end of its line.
	c := newCloud(t)
	p := c.Provider(func(o *api.Options) { o.Getenv = rig.Env(map[string]string{"HYPERSTACK_API_KEY_FILE": path}) })
	if _, err := p.Sample(t.Context(), c.Now()); err != nil {
		t.Error(err)
	}
}

func TestDetect(t *testing.T) {
	if got, err := billing.Detect(rig.Env(map[string]string{"HYPERSTACK_API_KEY_FILE": "/key", "AWS_ACCESS_KEY_ID": "x"})); got != "hyperstack" || err != nil {
		t.Errorf("Detect = %q, %v", got, err)
	}
	if got, err := billing.Detect(rig.Env(map[string]string{"AWS_ACCESS_KEY_ID": "x"})); got != "" || err == nil {
		t.Errorf("Detect = %q, %v; want an error", got, err)
	}
}

// The tests of all adapters leave none out, and the simulator speaks as each that has an
// API.
func TestEveryAdapterIsDriven(t *testing.T) {
	want := slices.Sorted(slices.Values(billing.Names()))
	var driven []string
	for _, r := range rig.Rigs() {
		driven = append(driven, r.Name)
	}
	slices.Sort(driven)
	if !slices.Equal(driven, want) {
		t.Errorf("package rig drives %v, want %v", driven, want)
	}
	if simulated := append(sim.Providers(), command.Name); !slices.Equal(slices.Sorted(slices.Values(simulated)), want) {
		t.Errorf("simulated are %v and a command, want %v", simulated, want)
	}
}
