package gpu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// ask has one request answered. An error is one of the helper, which is ended then;
// what the driver refuses is in the answer. The next ask starts another helper.
func (c *Checkpointer) ask(ctx context.Context, r Request, limit time.Duration) (Answer, error) {
	if err := c.ready(); err != nil {
		return Answer{}, fmt.Errorf("%s: no helper: %w", r, err)
	}
	line, err := json.Marshal(r)
	if err != nil {
		panic("BUG: a request that is not JSON: " + err.Error())
	}
	if err := c.p.send(line); err != nil {
		return Answer{}, c.end(r, fmt.Errorf("send to the helper: %w", err))
	}
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case line, ok := <-c.p.lines():
		if !ok {
			return Answer{}, c.end(r, nil)
		}
		a, err := parseAnswer(line, r)
		if err != nil {
			return Answer{}, c.end(r, fmt.Errorf("the helper: %w", err))
		}
		return a, nil
	case <-late.C:
		return Answer{}, c.end(r, fmt.Errorf("the helper gave no answer in %s and was killed", limit))
	case <-ctx.Done():
		return Answer{}, c.end(r, context.Cause(ctx))
	}
}

func (r Request) String() string {
	if r.Call == CallOpen {
		return "open the driver"
	}
	return fmt.Sprintf("%s process %d", r.Call, r.PID)
}

// ready sees that a helper runs. There is never a second one beside one that hangs
// in the driver.
func (c *Checkpointer) ready() error {
	if c.stuck != nil {
		select {
		case <-c.stuck:
			c.stuck = nil
		default:
			return fmt.Errorf("the last one: %w", errStuck)
		}
	}
	if c.p != nil {
		select {
		case <-c.p.gone(): // it died while nobody asked it for anything
			c.stop()
		default:
			return nil
		}
	}
	p, err := c.start()
	if err != nil {
		return err
	}
	c.p = p
	return nil
}

// end kills the helper and says what r failed of; cause is nil where the helper ended
// by itself.
func (c *Checkpointer) end(r Request, cause error) error {
	p := c.p
	c.p = nil
	how := p.end()
	if cause == nil {
		cause = fmt.Errorf("the helper ended: %w", how)
	}
	if errors.Is(how, errStuck) {
		c.stuck = p.gone()
		cause = fmt.Errorf("%w; %w", cause, how)
	}
	return fmt.Errorf("%s: %w", r, cause)
}

// Close ends the helper. Those who are off the card stay so.
func (c *Checkpointer) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stop()
}

// stop ends a helper that nobody waits for.
func (c *Checkpointer) stop() {
	if c.p == nil {
		return
	}
	if errors.Is(c.p.end(), errStuck) {
		c.stuck = c.p.gone()
	}
	c.p = nil
}
