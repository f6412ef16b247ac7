package provider_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"spotinference/internal/hint"
	"spotinference/internal/provider"
)

// A secret is read from a plain file of its owner's, and from nothing else.
func TestReadSecretFile(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	file := func(name, text string, mode fs.FileMode) string {
		t.Helper()
		if err := errors.Join(os.WriteFile(path(name), []byte(text), 0o600), os.Chmod(path(name), mode)); err != nil {
			t.Fatal(err)
		}
		return path(name)
	}
	for name, mode := range map[string]fs.FileMode{"own": 0o600, "read-only": 0o400, "executable": 0o700} {
		if got, err := provider.ReadSecretFile(file(name, " secret\n", mode)); got != " secret\n" || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if got, err := provider.ReadSecretFile(file("full", strings.Repeat("k", 4096), 0o600)); len(got) != 4096 || err != nil {
		t.Errorf("4096 bytes: %d, %v", len(got), err)
	}

	refused := func(path, want, advice string) {
		t.Helper()
		got, err := provider.ReadSecretFile(path)
		if err == nil || err.Error() != want || hint.Of(err) != advice || got != "" {
			t.Errorf("%s: %q, %v with hint %q, want %q with hint %q", path, got, err, hint.Of(err), want, advice)
		}
	}
	for name, mode := range map[string]fs.FileMode{"group": 0o640, "world": 0o604, "writable": 0o620} {
		refused(file(name, "secret", mode), path(name)+" has mode "+map[string]string{"group": "0640", "world": "0604", "writable": "0620"}[name]+", so others may read it",
			"chmod 600 "+path(name))
	}
	refused(file("long", strings.Repeat("k", 4097), 0o600), path("long")+" is larger than 4096 bytes", "name a file that holds the key and nothing else")
	refused(dir, dir+" is not a plain file", "name a plain file")
	if err := syscall.Mkfifo(path("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(path("pipe"), path("pipe")+" is not a plain file", "name a plain file") // and not waited for
	refused(path("absent"), "open "+path("absent")+": no such file or directory", "")
	if err := os.Symlink(path("group"), path("link")); err != nil {
		t.Fatal(err)
	}
	refused(path("link"), path("link")+" has mode 0640, so others may read it", "chmod 600 "+path("link"))

	_, err := provider.ReadSecretFile(path("group"))
	if open := new(provider.NotPrivateError); !errors.As(err, &open) || open.Mode != 0o640 || open.Path != path("group") {
		t.Errorf("%#v", err)
	}
}

// What is cut out of an error is in nothing that can be had from it.
func TestSecretsError(t *testing.T) {
	secrets := provider.Secrets{"key-of-the-test", "token-of-the-test"}
	plain := hint.Errorf("do this", "open: %w", fs.ErrNotExist)
	if got := secrets.Error(plain); got != plain {
		t.Errorf("an error without a secret became %#v", got)
	}
	if got := secrets.Error(nil); got != nil {
		t.Errorf("nil became %#v", got)
	}
	inner := errors.New("header token-of-the-test")
	for _, err := range []error{
		hint.Errorf("do this", "sent key-of-the-test: %w", inner),
		hint.Errorf("unset key-of-the-test", "no secret"),
	} {
		got := secrets.Error(err)
		for e := got; e != nil; e = errors.Unwrap(e) {
			if strings.Contains(e.Error()+hint.Of(e), "-of-the-test") {
				t.Errorf("%v: a secret is in %q with hint %q", err, e, hint.Of(e))
			}
		}
		if errors.Is(got, inner) || hint.Of(got) == "" {
			t.Errorf("%v became %#v", err, got)
		}
	}
	if got := string(secrets.Bytes([]byte(`{"a":"key-of-the-test","b":"token-of-the-test"}`))); got != `{"a":"[redacted]","b":"[redacted]"}` {
		t.Errorf("Bytes = %s", got)
	}
}
