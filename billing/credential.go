package billing

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"spotinference/internal/hint"
	"spotinference/internal/loopback"
)

// A key shorter than this could not be cut out of a text without cutting a
// number short as well; no provider hands out such keys.
const minKey = 8

// maxKeyFile is more than any key has: of a larger file, a part is no key.
const maxKeyFile = 4096

// credential finds a key in the variable env, or in the file that fileEnv names.
// The key itself is in no error.
func credential(opts Options, env, fileEnv string) (string, error) {
	key, path := opts.getenv(env), opts.getenv(fileEnv)
	switch {
	case key != "" && path != "":
		return "", hint.Errorf("unset one of them", "both %s and %s are set", env, fileEnv)
	case key == "" && path == "":
		return "", hint.Errorf(fmt.Sprintf("set %s, or %s to a file that only you can read", env, fileEnv), "%s is not set", env)
	case path != "":
		var err error
		if key, err = readKey(path, fileEnv); err != nil {
			return "", err
		}
		env = fileEnv
	}
	key = strings.TrimSpace(key)
	if len(key) < minKey || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", hint.Errorf("copy it again from the provider's console", "%s does not hold an API key", env)
	}
	return key, nil
}

// readKey checks the file that it opened, not the name, so that nobody can swap
// it in between.
func readKey(path, fileEnv string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", hint.Errorf("name a file that holds the key in "+fileEnv, "read API key: %v", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("read API key: %v", err)
	}
	if !info.Mode().IsRegular() {
		return "", hint.Errorf("name a plain file", "read API key: %s is not a plain file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return "", hint.Errorf("chmod 600 "+path, "read API key: %s has mode %04o, so others may read it", path, mode)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return "", fmt.Errorf("read API key: %v", err)
	}
	if len(b) > maxKeyFile {
		return "", hint.Errorf("name a file that holds the key and nothing else", "read API key: %s is larger than %d bytes", path, maxKeyFile)
	}
	return string(b), nil
}

// baseURL parses the base of an API, to which a key will be sent: TLS, or not off
// this machine.
func baseURL(text string) (*url.URL, error) {
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
