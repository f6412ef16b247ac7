package provider

import (
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"

	"spotinference/internal/hint"
	"spotinference/internal/loopback"
)

// A secret shorter than this could not be cut out of a text without cutting a number
// short as well; no provider hands out such keys.
const minSecret = 8

// maxSecretFile is more than any key has: a part of a larger file is no key.
const maxSecretFile = 4096

// IsSecret reports whether text can be a key: it fits into a header, and can be cut out
// of a text.
func IsSecret(text string) bool {
	return len(text) >= minSecret && !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' })
}

// Credential finds a key in the variable env, or in the file that fileEnv names. The
// key itself is in no error.
func Credential(getenv func(string) string, env, fileEnv string) (string, error) {
	key, path := getenv(env), getenv(fileEnv)
	switch {
	case key != "" && path != "":
		return "", hint.Errorf("unset one of them", "both %s and %s are set", env, fileEnv)
	case key == "" && path == "":
		return "", hint.Errorf(fmt.Sprintf("set %s, or %s to a file that only you can read", env, fileEnv), "%s is not set", env)
	case path != "":
		var err error
		if key, err = ReadSecretFile(path); err != nil {
			if hint.Of(err) == "" {
				err = hint.Wrap(err, "name a file that holds the key in "+fileEnv)
			}
			return "", fmt.Errorf("read API key: %w", err)
		}
		env = fileEnv
	}
	if key = strings.TrimSpace(key); !IsSecret(key) {
		return "", hint.Errorf("copy it again from the provider's console", "%s does not hold an API key", env)
	}
	return key, nil
}

// NotPrivateError is a file with a secret that others than its owner may read.
type NotPrivateError struct {
	Path string
	Mode fs.FileMode // permission bits only
}

func (e *NotPrivateError) Error() string {
	return fmt.Sprintf("%s has mode %04o, so others may read it", e.Path, e.Mode)
}

// ReadSecretFile reads a file that holds a secret and nothing else: a plain file that
// only its owner can read. It checks the file that it opened, not the name, so that
// nobody can swap it in between. Nothing of the file is in an error. What this package
// refuses has a hint; what the system refuses has none.
func ReadSecretFile(path string) (string, error) {
	// Nonblocking, so that a named pipe is refused and not waited for.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", hint.Errorf("name a plain file", "%s is not a plain file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return "", hint.Wrap(&NotPrivateError{path, mode}, "chmod 600 "+path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxSecretFile {
		return "", hint.Errorf("name a file that holds the key and nothing else", "%s is larger than %d bytes", path, maxSecretFile)
	}
	return string(b), nil
}

// BaseURL parses the base of an API, to which a key will be sent: over TLS, or not off
// this machine.
func BaseURL(text string) (*url.URL, error) {
	const form = "give an address such as https://api.example.com/v1"
	u, err := url.Parse(text)
	if err != nil {
		// url.Error quotes what it could not read, which may hold a password.
		return nil, hint.Errorf(form, "provider URL cannot be read")
	}
	if u.User != nil {
		return nil, hint.Errorf(form+"; the key comes from the environment", "provider URL for %q holds a user name or a password", u.Host)
	}
	if u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, hint.Errorf(form, "provider URL %q is not the base of an API", text)
	}
	if u.Scheme != "https" && !(u.Scheme == "http" && loopback.Host(u.Hostname())) {
		return nil, hint.Errorf("use https; http is for a server on this machine", "provider URL %q would send the key in the clear", text)
	}
	return u, nil
}

// Bearer authorizes a request with a key or a token, as RFC 6750 has it.
func Bearer(key string) func(http.Header) {
	return func(h http.Header) { h.Set("Authorization", "Bearer "+key) }
}
