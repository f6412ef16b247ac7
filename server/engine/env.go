package engine

import (
	"slices"
	"strings"
)

// secretNames are the environment variables that the engine has no use for: every
// SPOTINFERENCE_*, which configure us, and the credentials of the providers, which pay for
// the box. A name that ends in * is a prefix. AWS_* and HF_TOKEN stay, since engines fetch
// weights with them. This list is the only one.
var secretNames = []string{
	"SPOTINFERENCE_*",
	"HYPERSTACK_*",
	"RUNPOD_API_KEY*", // and ..._FILE
	"RUNPOD_AI_API_KEY",
	"VAST_API_KEY*",
	"VAST_AI_API_KEY",
	"CONTAINER_API_KEY", // Vast's, inside its containers
	"VERDA_*",
	"DATACRUNCH_*",
	"SCW_*",
	"LAMBDA_API_KEY",
	"LAMBDA_CLOUD_API_KEY",
	"NEBIUS_*",
	"DIGITALOCEAN_*",
	"VULTR_API_KEY",
	"SHADEFORM*",
	"TENSORDOCK*",
	"CRUSOE_*",
	"OVH_*",
}

// Scrub returns env less secretNames, but for the names in keep: what a command of the
// user's may see.
func Scrub(env []string, keep ...string) []string {
	var out []string
	for _, entry := range env {
		if name, _, _ := strings.Cut(entry, "="); !matchName(name, secretNames) || slices.Contains(keep, name) {
			out = append(out, entry)
		}
	}
	return out
}

// dropEnv returns env less the variables that names match, and the names dropped.
func dropEnv(env []string, names []string) (kept, dropped []string) {
	for _, entry := range env {
		name, _, _ := strings.Cut(entry, "=")
		if matchName(name, names) {
			dropped = append(dropped, name)
			continue
		}
		kept = append(kept, entry)
	}
	return kept, dropped
}

func matchName(name string, patterns []string) bool {
	for _, p := range patterns {
		if prefix, ok := strings.CutSuffix(p, "*"); ok && strings.HasPrefix(name, prefix) || name == p {
			return true
		}
	}
	return false
}

// hasEnv says whether one of names is set to something.
func hasEnv(env []string, names ...string) bool {
	for _, entry := range env {
		name, value, _ := strings.Cut(entry, "=")
		if value != "" && matchName(name, names) {
			return true
		}
	}
	return false
}
