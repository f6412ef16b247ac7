package e2e_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"spotinference/test/harness"
)

// procIDs are a process's user or group ids: real, effective, saved, of files.
func procIDs(t *testing.T, pid int, field string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(harness.ProcDir(pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.Fields(rest)
		}
	}
	t.Fatalf("no %s of process %d", field, pid)
	return nil
}

// TestTheEngineRunsAsAnotherUser, and its guard does not.
func TestTheEngineRunsAsAnotherUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can start the engine as another user")
	}
	_, bin := openDir(t)
	s := harness.Serve(t, []string{"SPOTINFERENCE_API_KEY=" + harness.Key, "XDG_RUNTIME_DIR=" + t.TempDir()}, "--engine-user", "nobody", "--provider", "none", "--engine", "llama", "--",
		bin, "sim-engine", "-m", "sim.gguf").Ready()
	var socket string
	engines, guards := 0, 0
	tree := s.Descendants()
	for _, p := range tree {
		words := p.Words()
		switch {
		case len(words) > 1 && words[1] == "sim-engine":
			engines++
			for _, field := range []string{"Uid", "Gid"} {
				if ids := procIDs(t, p.PID, field); strings.Join(ids, " ") != "65534 65534 65534 65534" {
					t.Errorf("the engine's %s: %v", field, ids)
				}
			}
			if groups := procIDs(t, p.PID, "Groups"); strings.Join(groups, " ") != "65534" {
				t.Errorf("the engine's groups: %v", groups)
			}
			for _, word := range words {
				if strings.HasSuffix(word, ".sock") {
					socket = word
				}
			}
			env := "\n" + strings.Join(p.Environ(), "\n") + "\n"
			for _, want := range []string{"\nHOME=/nonexistent\n", "\nUSER=nobody\n"} {
				if strings.Count(env, want) != 1 {
					t.Errorf("the engine's environment lacks %q:%s", want, env)
				}
			}
			if strings.Contains(env, "XDG_") || strings.Contains(env, harness.Key) {
				t.Errorf("the engine's environment is ours:%s", env)
			}
		case len(words) > 1 && words[1] == "guard":
			if !slices.Contains(words, "--init") { // the first process of the engine's pid namespace is root's, too
				guards++
			}
			if ids := procIDs(t, p.PID, "Uid"); ids[1] != "0" {
				t.Errorf("the guard's user: %v", ids)
			}
		}
	}
	if engines != 1 || guards != 1 || socket == "" {
		t.Fatalf("%d engines, %d guards, socket %q", engines, guards, socket)
	}
	dir := filepath.Dir(socket)
	st, err := os.Stat(dir)
	if err != nil || st.Mode().Perm() != 0o700 || st.Sys().(*syscall.Stat_t).Uid != nobody {
		t.Errorf("run directory: %v, %v, want nobody's, mode 0700", st, err)
	}
	third := exec.Command("ls", dir)
	third.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody - 1, Gid: nobody - 1}}
	if out, err := third.CombinedOutput(); err == nil || !strings.Contains(string(out), "Permission denied") {
		t.Errorf("a third user in the run directory: %s, %v", out, err)
	}
	req, _ := http.NewRequest(http.MethodPost, s.URL+"/v1/completions", strings.NewReader(`{"prompt":"hi","max_tokens":3}`))
	req.Header.Set("Authorization", "Bearer "+harness.Key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("%v, %v", resp, err)
	} else {
		resp.Body.Close()
	}

	s.Kill() // the guard ends an engine of another user, too, and removes its directory
	harness.Eventually(t, "nothing is left", func() bool {
		_, err := os.Lstat(dir)
		return !harness.AnyAlive(tree) && os.IsNotExist(err)
	})
	if c, err := net.Dial("unix", socket); err == nil {
		c.Close()
		t.Error("the engine's socket is there")
	}
}

func TestEngineUsersThatAreRefused(t *testing.T) {
	t.Parallel()
	f := func(name, want, hint string) {
		t.Helper()
		_, stderr, code := harness.Command(t, nil, "serve", "--engine-user", name, "--provider", "none", "--engine", "llama", "--", harness.Program(t), "sim-engine", "-m", "x")
		if os.Geteuid() != 0 {
			want, hint = "only root can start the engine as another user", "start spotinference as root"
		}
		if code != 2 || !strings.Contains(stderr, want) || !strings.Contains(stderr, "spotinference: hint: "+hint) {
			t.Errorf("%s: exit %d, %s, want %q", name, code, stderr, want)
		}
	}
	f("nobody-knows", `engine user "nobody-knows": user: unknown user nobody-knows`, "name a user of this machine")
	f("root", `engine user "root" is root`, "name an ordinary user")
	f("0", `engine user "0" is root`, "name an ordinary user")

	if os.Geteuid() == 0 {
		_, bin := openDir(t)
		without := stranger(bin, "serve", "--engine-user", "nobody", "--provider", "none", "--engine", "llama", "--", bin, "sim-engine")
		without.Env = append(harness.Env(), "XDG_CONFIG_HOME=/nonexistent")
		out, err := without.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "only root can start the engine as another user") {
			t.Errorf("as nobody: %s, %v", out, err)
		}
		hidden := filepath.Join(t.TempDir(), "engine") // which nobody comes to, and who tries it by hand does
		if err := os.Symlink(bin, hidden); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Dir(hidden), 0o700); err != nil {
			t.Fatal(err)
		}
		_, stderr, code := harness.Command(t, nil, "serve", "--listen", "127.0.0.1:0", "--engine-user", "nobody", "--provider", "none", "--engine", "llama", "--", hidden, "sim-engine", "-m", "x")
		if code != 1 || !strings.Contains(stderr, "cannot be executed: permission denied\nspotinference: hint: run it by hand first, as nobody\n") {
			t.Errorf("exit %d, %s", code, stderr)
		}
		closed := filepath.Join(t.TempDir(), "closed")
		if err := os.Mkdir(closed, 0o700); err != nil {
			t.Fatal(err)
		}
		_, stderr, code = harness.Command(t, []string{"TMPDIR=" + closed}, "serve", "--engine-user", "nobody", "--provider", "none", "--engine", "llama", "--", bin, "sim-engine", "-m", "x")
		if code != 2 || !strings.Contains(stderr, fmt.Sprintf("cannot enter %s", closed)) || !strings.Contains(stderr, "hint: set TMPDIR") {
			t.Errorf("exit %d, %s", code, stderr)
		}
	}
}
