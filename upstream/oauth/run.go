package oauth

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sub2api/caddy-sub2api/upstream"
)

const (
	roundEvery = 5 * time.Minute
	// renewBefore is how long before its end a token is refreshed.
	renewBefore = 30 * time.Minute
	tries       = 3
	firstPause  = 2 * time.Second // doubles
	// atOnce bounds how many accounts are refreshed at a time.
	atOnce = 4
)

// Run refreshes, now and every 5 min, the tokens that expire within 30 min,
// with up to 3 tries each, 2 s and 4 s apart. It returns when ctx has ended.
// Disabled accounts, and those whose refresh token was refused, are left alone.
func (t *Tokens) Run(ctx context.Context) {
	ticker := time.NewTicker(roundEvery)
	defer ticker.Stop()
	for {
		t.round(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (t *Tokens) round(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	turn := make(chan struct{}, atOnce)
	for _, account := range t.config.Accounts() {
		if account.Refresh == nil || account.Disabled {
			continue
		}
		select {
		case turn <- struct{}{}:
		case <-ctx.Done():
			return
		}
		running.Go(func() {
			defer func() { <-turn }()
			if err := t.renew(ctx, account); err != nil && ctx.Err() == nil {
				t.config.Logger.Warn("an access token could not be refreshed before it expires; the next round, or a request, tries again",
					"account", account.Name, "error", err)
			}
		})
	}
}

// renew refreshes the account's token if it is due.
func (t *Tokens) renew(ctx context.Context, account *upstream.Account) error {
	var err error
	pause := firstPause
	for try := range tries {
		if try > 0 {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(pause):
			}
			pause *= 2
		}
		var current *token
		if current, err = t.current(ctx, account); err != nil {
			continue
		}
		if current.Expires.IsZero() || time.Until(current.Expires) > renewBefore || t.isRefused(account, current) {
			return nil
		}
		if _, err = t.Refresh(ctx, account, current.Access); err == nil {
			return nil
		}
		var refused *RefusedError
		if errors.As(err, &refused) {
			return nil // Refused was told
		}
	}
	return err
}

func (t *Tokens) isRefused(account *upstream.Account, current *token) bool {
	e := t.entry(account)
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.refused.refresh == current.Refresh
}
