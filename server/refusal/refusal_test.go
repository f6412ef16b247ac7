package refusal_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spotinference/budget"
	"spotinference/server/meter"
	"spotinference/server/refusal"
)

// TestTheTable: each row says what it is told for and what the client gets.
func TestTheTable(t *testing.T) {
	names := map[string]bool{}
	for i, row := range refusal.All() {
		if row.Kind != refusal.Kind(i) || row.Name == "" || names[row.Name] || row.Kind.String() != row.Name {
			t.Errorf("row %d: name %q", i, row.Name)
		}
		names[row.Name] = true
		if row.When == "" || row.Message == "" || strings.HasSuffix(row.When, ".") {
			t.Errorf("%s: for %q, says %q", row.Name, row.When, row.Message)
		}
		if ours := row.Status != 0; ours && (row.Status < 400 || row.Status > 599) || row.Type == "" && row.Message != "{why}" {
			t.Errorf("%s: status %d, type %q", row.Name, row.Status, row.Type)
		}
		if row.Code == "" && row.Status == 503 {
			t.Errorf("%s: a 503 without a code tells nobody what to wait for", row.Name)
		}
	}
}

// parametrised are the refusals that have values, and how they are made.
func parametrised() []*refusal.Refusal {
	fault := meter.Fault{Message: "boom", Type: "server_error"}
	made := []*refusal.Refusal{
		refusal.MalformedHTTP("x"), refusal.TooManyHeaders(128), refusal.HeadersTooLarge(32 << 10), refusal.BodyTooLarge(64 << 20), refusal.UnknownPath("/v1/models"),
		refusal.WrongMethod("POST"), refusal.InvalidBody("x"), refusal.ModelNotFound("m"), refusal.RequestRate(7, time.Second), refusal.TokenRate(7, time.Second),
		refusal.New(refusal.KeyBudgetSpent), refusal.EngineNotReady(0), refusal.Gate(errors.New("x")), refusal.Gate(budget.ErrExhausted),
		refusal.Gate(&budget.Refusal{Err: budget.ErrExhausted, Reason: budget.ReasonExhausted, Per: budget.Day}),
	}
	for _, reason := range budget.Reasons() {
		made = append(made, refusal.Gate(&budget.Refusal{Err: budget.ErrUnobservable, Reason: reason}))
	}
	for _, status := range []int{200, 400, 401, 429, 500, 503} {
		made = append(made, refusal.Engine(status, fault))
	}
	return made
}

// TestEveryRowIsMade, with all of its values filled in.
func TestEveryRowIsMade(t *testing.T) {
	made := map[refusal.Kind]bool{}
	for _, r := range parametrised() {
		made[r.Kind] = true
		if strings.ContainsAny(r.Message, "{}") || r.Message == "" || r.Status == 0 || r.Type == "" {
			t.Errorf("%s: %+v", r.Kind, r)
		}
	}
	for _, row := range refusal.All() {
		if made[row.Kind] {
			continue
		}
		r := refusal.New(row.Kind)
		if strings.ContainsAny(r.Message, "{}") || r.Status != row.Status || r.Code != row.Code || r.RetryAfter != row.RetryAfter || row.Retry != "" {
			t.Errorf("%s: %+v", row.Name, r)
		}
	}
}

// TestValuesAreNoTemplate: what a client named is not filled in again.
func TestValuesAreNoTemplate(t *testing.T) {
	if r := refusal.ModelNotFound("{model}{reason}"); !strings.Contains(r.Message, `"{model}{reason}"`) {
		t.Error(r.Message)
	}
}

func TestGate(t *testing.T) {
	f := func(err error, status int, code string, wait time.Duration, message string) {
		t.Helper()
		r := refusal.Gate(err)
		message += reasonOf(err)
		if r.Status != status || r.Code != code || r.Type != code || r.RetryAfter != wait || r.Message != message || r.Hopeless != (wait != time.Second) {
			t.Errorf("%v: %+v, want %q", err, r, message)
		}
	}
	const costs = " The machine itself still costs money until it is stopped."
	const unseen, spent = "The provider's bill cannot be seen, so nothing is served that could spend unseen." + costs, "The budget for this machine is spent. Serving starts again when its next period begins." + costs
	f(errors.New("disk full"), 503, "billing_unobservable", time.Minute, unseen)
	f(budget.ErrExhausted, 402, "insufficient_quota", 0, spent)
	exhausted := &budget.Refusal{Err: budget.ErrExhausted, Reason: budget.ReasonExhausted, RetryAfter: time.Hour}
	f(exhausted, 402, "insufficient_quota", 0, spent)
	exhausted.Per = budget.Month
	f(exhausted, 402, "insufficient_quota", 0, "This month's budget for this machine is spent. Serving starts again when the next month begins."+costs)
	dark := func(reason string, wait time.Duration) error {
		return &budget.Refusal{Err: budget.ErrUnobservable, Reason: reason, RetryAfter: wait}
	}
	for _, reason := range []string{budget.ReasonNoSample, budget.ReasonStale, budget.ReasonFailed, budget.ReasonFrozen, budget.ReasonClockBack, budget.ReasonClockJump, budget.ReasonUnknown} {
		f(dark(reason, 2*time.Minute), 503, "billing_unobservable", time.Minute, sentence(reason)+", so nothing is served that could spend unseen."+costs)
	}
	for _, reason := range []string{budget.ReasonNoTruth, budget.ReasonNoRate, budget.ReasonFailed, budget.ReasonUnknown, budget.ReasonHeadroom} {
		f(dark(reason, 0), 402, "billing_unobservable", 0, sentence(reason)+", so nothing is served that could spend unseen, until the operator of this gateway mends that."+costs)
	}
	for _, reason := range []string{budget.ReasonUnreadable, budget.ReasonUnwritable, budget.ReasonDiskFull} {
		f(dark(reason, time.Minute), 503, "ledger_unavailable", time.Minute, sentence(reason)+", so nothing is served that could not be counted."+costs)
	}
	f(dark(budget.ReasonStart, time.Second), 503, "billing_unobservable", time.Second, "The gateway is working out what may still be spent. Try again in a moment.")
}

// sentence is what a reason means, as the beginning of a text.
func sentence(reason string) string {
	s := budget.Sentence(reason)
	return strings.ToUpper(s[:1]) + s[1:]
}

// TestQuotaStatus: the status of a spent budget, and of nothing else.
func TestQuotaStatus(t *testing.T) {
	for _, r := range parametrised() {
		was := r.Status
		want := was
		if r.Code == "insufficient_quota" {
			want = 429
		}
		if r.WithQuotaStatus(429); r.Status != want || was == 429 && r.Quota {
			t.Errorf("%s: %d, then %d", r.Kind, was, r.Status)
		}
	}
}

// TestNobodyIsAskedToWaitForLong: there are clients that obey any length.
func TestNobodyIsAskedToWaitForLong(t *testing.T) {
	for _, r := range []*refusal.Refusal{refusal.TokenRate(7, time.Hour), refusal.RequestRate(7, time.Hour), refusal.EngineNotReady(time.Hour)} {
		if got := r.RetryAfterSeconds(); got != "60" {
			t.Errorf("%s: Retry-After: %s", r.Kind, got)
		}
	}
}

// reasonOf is what a message ends with.
func reasonOf(err error) string {
	var r *budget.Refusal
	if errors.As(err, &r) {
		return " (" + r.Reason + ")"
	}
	return ""
}

// TestDialects: the same refusal in each dialect, as a body and as the end of a stream.
func TestDialects(t *testing.T) {
	const response = `{"id":"resp_req_1","object":"response","created_at":7,"status":STATUS,"incomplete_details":null,"instructions":null,` +
		`"max_output_tokens":null,"model":"","output":[],"parallel_tool_calls":true,"previous_response_id":null,"store":false,"temperature":null,` +
		`"tool_choice":"auto","tools":[],"top_p":null,"truncation":"disabled","usage":null,"metadata":{}}`
	r := refusal.New(refusal.QueueFull)
	for d, want := range map[meter.Dialect][2]string{
		meter.Chat: {`{"error":{"message":"M","type":"server_error","param":null,"code":"wake_queue_full"}}`,
			"data: {\"error\":{\"message\":\"M\",\"type\":\"server_error\",\"param\":null,\"code\":\"wake_queue_full\"}}\n\ndata: [DONE]\n\n"},
		meter.Responses: {`{"error":{"message":"M","type":"server_error","param":null,"code":"wake_queue_full"}}`,
			"event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":" + strings.ReplaceAll(response, "STATUS", `"in_progress","error":null`) + "}\n\n" +
				"event: response.failed\ndata: {\"type\":\"response.failed\",\"sequence_number\":1,\"response\":" +
				strings.ReplaceAll(response, "STATUS", `"failed","error":{"code":"wake_queue_full","message":"M"}`) + "}\n\n"},
		meter.Messages: {`{"type":"error","error":{"type":"overloaded_error","message":"M"},"request_id":"req_1"}`,
			"event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"M\"},\"request_id\":\"req_1\"}\n\n"},
		refusal.AnyDialect: {`{"type":"error","error":{"message":"M","type":"server_error","param":null,"code":"wake_queue_full"},"request_id":"req_1"}`,
			"data: {\"type\":\"error\",\"error\":{\"message\":\"M\",\"type\":\"server_error\",\"param\":null,\"code\":\"wake_queue_full\"},\"request_id\":\"req_1\"}\n\ndata: [DONE]\n\n"},
	} {
		said := func(text []byte) string { return strings.ReplaceAll(string(text), r.Message, "M") }
		if got := said(r.Body(d, "req_1")); got != want[0] || !json.Valid([]byte(got)) {
			t.Errorf("%s: body %s, want %s", d, got, want[0])
		}
		if got := said(r.Event(meter.New(d, meter.LlamaServer, meter.Ask{}), "req_1", time.Unix(7, 0))); got != want[1] {
			t.Errorf("%s: event %q, want %q", d, got, want[1])
		}
	}
}

// TestCodesThatEndARetry: agents of the Responses API read no status once a stream has begun.
func TestCodesThatEndARetry(t *testing.T) {
	f := func(r *refusal.Refusal, want string) {
		t.Helper()
		event := string(r.Event(meter.New(meter.Responses, meter.LlamaServer, meter.Ask{}), "req_1", time.Unix(7, 0)))
		if !strings.Contains(event, `"error":{"code":"`+want+`",`) {
			t.Errorf("%s: %s, want code %s", r.Kind, event, want)
		}
	}
	f(refusal.Gate(budget.ErrExhausted), "insufficient_quota")
	f(refusal.Engine(400, meter.Fault{Message: "no", Type: "invalid_request_error"}), "invalid_prompt")
	f(refusal.Engine(400, meter.Fault{Message: "no", Type: "invalid_request_error", Code: "context_length_exceeded"}), "context_length_exceeded")
	f(refusal.New(refusal.EngineStalled), "invalid_prompt")
	f(refusal.New(refusal.EngineFailed), "engine_failed")
	f(refusal.New(refusal.WakeTimeout), "wake_timeout")
	f(refusal.New(refusal.Internal), "server_error")
}

// TestRefusalsAreMadeHere: one that is made elsewhere would be in no table.
func TestRefusalsAreMadeHere(t *testing.T) {
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if lit, ok := n.(*ast.CompositeLit); ok {
				if of, ok := lit.Type.(*ast.SelectorExpr); ok && of.Sel.Name == "Refusal" {
					if pkg, ok := of.X.(*ast.Ident); ok && pkg.Name == "refusal" {
						t.Errorf("%s makes a refusal of its own", path)
					}
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
