package runpod_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spotinference/billing"
	"spotinference/billing/api"
	"spotinference/billing/rig"
	"spotinference/internal/hint"
)

func TestRunpodSetup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(rig.RunpodKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := func(name, instance string, env map[string]string, want, advice string) {
		t.Helper()
		p := newPods(t)
		_, err := open(api.Options{URL: "https://runpod.test", Instance: instance, Getenv: rig.Env(env), Transport: rig.Direct{Handler: p}})
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			return
		}
		if err == nil || !strings.Contains(err.Error(), want) || hint.Of(err) == "" || !strings.Contains(hint.Of(err), advice) {
			t.Errorf("%s: %v, want %q and the hint %q", name, err, want, advice)
			return
		}
		if strings.Contains(err.Error()+hint.Of(err), rig.RunpodKey) {
			t.Errorf("%s: the key is in %q", name, err)
		}
	}
	const pod = "7h9k2m4n6p"
	f("by option", pod, map[string]string{"RUNPOD_API_KEY": rig.RunpodKey}, "", "")
	f("by environment", "", map[string]string{"RUNPOD_API_KEY": rig.RunpodKey, "RUNPOD_POD_ID": pod}, "", "")
	f("inside a pod the file goes first", "", map[string]string{"RUNPOD_API_KEY": "the-pods-own", "RUNPOD_API_KEY_FILE": path, "RUNPOD_POD_ID": pod}, "", "")
	f("elsewhere two are too many", pod, map[string]string{"RUNPOD_API_KEY": "another-key", "RUNPOD_API_KEY_FILE": path}, "both", "unset")
	f("no key", pod, nil, "RUNPOD_API_KEY is not set", "RUNPOD_API_KEY_FILE")
	f("no pod", "", map[string]string{"RUNPOD_API_KEY": rig.RunpodKey}, "RUNPOD_POD_ID is not set", "--instance")
	f("a name", "spot h100", map[string]string{"RUNPOD_API_KEY": rig.RunpodKey}, `instance "spot h100"`, "console")
	f("a path", "../billing", map[string]string{"RUNPOD_API_KEY": rig.RunpodKey}, `instance "../billing"`, "console")
	f("the key", rig.RunpodKey, map[string]string{"RUNPOD_API_KEY": rig.RunpodKey}, "the instance is the API key", "--instance")

	// The file's key is the one that is sent, and the option's pod the one that is asked for.
	p := newPods(t)
	provider := p.Provider(func(o *api.Options) {
		o.Getenv = rig.Env(map[string]string{"RUNPOD_API_KEY": "the-pods-own", "RUNPOD_API_KEY_FILE": path, "RUNPOD_POD_ID": "other"})
	})
	if _, err := provider.Sample(t.Context(), p.Now()); err != nil {
		t.Error(err)
	}
	if got, err := billing.Detect(rig.Env(map[string]string{"RUNPOD_API_KEY": "the-pods-own"})); got != "runpod" || err != nil {
		t.Errorf("Detect = %q, %v", got, err)
	}
}
