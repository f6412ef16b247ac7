package cli

import (
	"context"
	"errors"
	"fmt"

	"spotinference/internal/hint"
	"spotinference/ledger"
	"spotinference/server/control"
)

// changeKeys has the serve that runs with the ledger do a call; with none, it does the
// same itself, as the ledger's one writer.
func changeKeys(ctx context.Context, g *global, call string, in, out any, alone func(*ledger.Ledger) error) error {
	path, err := g.ledgerPath()
	if err != nil {
		return err
	}
	err = control.Call(ctx, control.Path(path), call, in, out)
	if !errors.Is(err, control.ErrNobody) {
		return err
	}
	if g.demo {
		return hint.Wrap(fmt.Errorf("%w: %s", err, path), "start spotinference serve --demo first: it makes its ledger afresh")
	}
	led, err := ledger.Open(ledger.Config{Path: path, Now: g.now, Log: newLog(g.stderr, false)})
	if errors.Is(err, ledger.ErrInUse) {
		return hint.Wrap(err, busyHint)
	}
	if err != nil {
		return err
	}
	return errors.Join(alone(led), led.Close())
}
