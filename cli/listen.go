package cli

import (
	"spotinference/internal/hint"
	"spotinference/server/listener"
)

// listenerConfig reads the settings that say where clients connect, and what proves to
// them who we are.
func listenerConfig(s settings, ledger string) (c listener.Config, err error) {
	c = listener.Config{
		Address: s.text("listen"), CertFile: s.text("tls-cert"), KeyFile: s.text("tls-key"), CacheDir: s.text("tls-cache"), Now: clock,
	}
	if c.Domains, err = s.flags.GetStringSlice("tls-domain"); err != nil {
		return c, err
	}
	if len(c.Domains) > 0 && c.CacheDir == "" {
		c.CacheDir = ledger + ".acme"
	}
	if err := c.Check(); err != nil {
		return c, usagef(hint.Of(err), "serve: %w", err)
	}
	return c, nil
}
