package sim

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// job is one request being answered. It is owned by its handler.
type job struct {
	req     *request
	faults  faults
	id      string
	created int64
	model   string
	vllm    bool
	details bool        // vllm: usage tells of cached tokens
	force   bool        // vllm: usage on every chunk
	seqs    []*sequence // by index: prompt*n + choice
	n       int
	began   time.Time
	prefill time.Duration // what the prompt took
}

// sequence is one choice of one prompt.
type sequence struct {
	index, prompt, cached int
	words                 []string // the whole answer
	made                  int      // words generated so far
	finish                string   // "stop" or "length"
	took                  time.Duration
}

// last is the word that was made last.
func (q *sequence) last() string { return q.words[q.made-1] }

func (q *sequence) done() bool { return q.made == len(q.words) }

// text is what was made so far.
func (q *sequence) text() string { return strings.Join(q.words[:q.made], "") }

var errTooLong = errors.New("prompt exceeds the context")

// newJob plans the answers to prompts.
func (s *server) newJob(req *request, prompts []prompt) (*job, error) {
	j := &job{
		req:     req,
		faults:  s.opts.faults,
		id:      randomID(),
		created: time.Now().Unix(),
		model:   s.opts.model,
		vllm:    s.opts.vllm(),
		details: s.opts.promptDetails,
		force:   s.opts.forceUsage,
		n:       max(req.N, 1),
		began:   time.Now(),
	}
	if len(req.Sim) > 0 {
		if err := json.Unmarshal(req.Sim, &j.faults); err != nil {
			return nil, fmt.Errorf("sim: %w", err)
		}
	}
	for i, p := range prompts {
		if p.tokens > s.opts.ctxSize {
			return nil, errTooLong
		}
		for choice := range j.n {
			q := &sequence{
				index:  i*j.n + choice,
				prompt: p.tokens,
				cached: min(j.faults.Cached, p.tokens-1),
				finish: "stop",
			}
			length := j.faults.Tokens
			if limit := req.limit(); limit >= 0 && limit <= length {
				length, q.finish = limit, "length"
			}
			q.words = answer(fmt.Sprintf("%s#%d", p.text, choice), length)
			if s.sleep.answersNonsense() {
				q.words = slices.Repeat([]string{"!"}, length)
			}
			if j.faults.Say != "" && length > 0 {
				q.words[0] = " " + j.faults.Say
			}
			if j.faults.BigEvent && length > 1 {
				q.words[1] = " " + strings.Repeat("long", 16<<10)
			}
			if j.vllm && length > 0 {
				q.words[0] = strings.TrimPrefix(q.words[0], " ")
			}
			j.seqs = append(j.seqs, q)
		}
	}
	return j, nil
}

// randomID is 32 letters and digits, as llama-server's ids are.
func randomID() string { return (rand.Text() + rand.Text())[:32] }

var (
	errDrop = errors.New("simulated: the connection breaks")
	errFail = errors.New("simulated failure")
)

// run makes the tokens of j, one of each sequence in turn, the last sequence first
// as llama-server does, and calls made after each, prefilled before all. It counts
// them as the engine would. After the client has left it goes on for a while, if the
// engine would.
func (s *server) run(ctx context.Context, j *job, prefilled func(), made func(*sequence)) error {
	live, cancel := s.untilNoticed(ctx)
	defer cancel()
	defer s.counts.release(j)
	if j.faults.Hang {
		<-live.Done()
		return live.Err()
	}
	if err := pause(live, s.opts.prefill); err != nil {
		return err
	}
	j.prefill = time.Since(j.began)
	s.counts.prefill(j)
	prefilled()
	delay := j.faults.DelayMS.duration()
	began, total := time.Now(), 0
	for left := true; left; {
		left = false
		if err := pause(live, delay); err != nil {
			return err
		}
		for i := len(j.seqs) - 1; i >= 0; i-- {
			q := j.seqs[i]
			if q.done() {
				continue
			}
			q.made++
			total++
			q.took = time.Since(began)
			s.counts.token(j)
			made(q)
			if total == j.faults.DropAfter {
				return errDrop
			}
			if total == j.faults.ErrorAfter {
				return errFail
			}
			left = left || !q.done()
		}
	}
	return nil
}

// untilNoticed is a context that ends when the engine notices that ctx did: vLLM at
// once, llama-server when it next checks the socket.
func (s *server) untilNoticed(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.opts.vllm() || s.opts.linger <= 0 {
		return context.WithCancel(ctx)
	}
	live, cancel := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		check := time.NewTicker(s.opts.linger)
		defer check.Stop()
		for {
			select {
			case <-live.Done():
				return
			case <-check.C:
				if ctx.Err() != nil {
					cancel()
				}
			}
		}
	}()
	return live, cancel
}

func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
