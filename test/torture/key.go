package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"time"
)

// revoke makes a key, and revokes it at once: once the command has said that it is
// revoked, whoever guesses may try it. A gateway that dies meanwhile leaves it to chance
// whether there was one.
func (r *rig) revoke(random *rand.Rand) bool {
	name := fmt.Sprintf("k%x", random.Uint64())
	key, err := r.command("key", "create", "--ledger", r.ledger, "--name", name)
	if err != nil || key == "" {
		return false
	}
	if _, err := r.command("key", "revoke", "--ledger", r.ledger, name); err != nil {
		return false
	}
	r.clients.revoked(key)
	return true
}

// command runs the binary and returns what it prints.
func (r *rig) command(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.bin, args...)
	cmd.Env, cmd.Dir = r.env(), r.dir
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}
