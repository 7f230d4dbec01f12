package caddymodule

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/roundtrip"
)

// declaring is a ledger that is told of the config's users again when it turns
// out not to know one: Redis has come back without its data.
type declaring struct {
	billing.Ledger
	gateway *gateway

	mu   sync.Mutex // held to tell the ledger
	told time.Time  // when that was done last
}

// again tells the ledger of the users if that can mend err. Of the requests that
// find out at the same time, one does it.
func (d *declaring) again(ctx context.Context, err error) bool {
	if !errors.Is(err, billing.ErrUnknownUser) {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.told) < startRetry {
		return true
	}
	if d.Declare(ctx, d.gateway.declared) != nil {
		return false
	}
	d.told = time.Now()
	d.gateway.logger.Error("the store did not know a user of the config: it has lost its data; it was told of all users, who begin with their opening balances",
		"store", d.gateway.storage.String())
	return true
}

// Balance implements billing.Ledger.
func (d *declaring) Balance(ctx context.Context, user string) (billing.Balance, error) {
	balance, err := d.Ledger.Balance(ctx, user)
	if d.again(ctx, err) {
		return d.Ledger.Balance(ctx, user)
	}
	return balance, err
}

// Hold implements billing.Ledger.
func (d *declaring) Hold(ctx context.Context, claim *billing.Claim) (billing.Payer, error) {
	payer, err := d.Ledger.Hold(ctx, claim)
	if d.again(ctx, err) {
		return d.Ledger.Hold(ctx, claim)
	}
	return payer, err
}

// HoldAhead implements aheadLedger.
func (d *declaring) HoldAhead(ctx context.Context, claim *billing.Claim) (context.Context, heldAhead) {
	ledger, ok := d.Ledger.(aheadLedger)
	if !ok {
		return ctx, nil
	}
	carrying, ahead := ledger.HoldAhead(ctx, claim)
	return carrying, func() (billing.Payer, bool, error) {
		payer, answered, err := ahead()
		if d.again(ctx, err) {
			return billing.Payer{}, false, nil
		}
		return payer, answered, err
	}
}

// Settle implements billing.Ledger.
func (d *declaring) Settle(ctx context.Context, record *billing.Record, along roundtrip.Batch) error {
	err := d.Ledger.Settle(ctx, record, along)
	if d.again(ctx, err) {
		return d.Ledger.Settle(ctx, record, along)
	}
	return err
}

// askAgain is how long the opening balance of a user stands in, before the store
// is asked again: each time a request may wait for its silence.
const askAgain = 5 * time.Second

// undeclared is the ledger of a config that the store was not told of yet.
type undeclared struct {
	billing.Ledger
	known    billing.Ledger             // the same, which is not told of users that it does not know
	balances map[string]billing.Balance // opening ones; it never changes

	mu     sync.Mutex
	failed map[string]time.Time // when the ledger last did not know a user
}

func newUndeclared(ledger *declaring) *undeclared {
	u := &undeclared{Ledger: ledger, known: ledger.Ledger, balances: make(map[string]billing.Balance), failed: make(map[string]time.Time)}
	for _, user := range ledger.gateway.declared {
		u.balances[user.Name] = billing.Balance{Amount: user.Balance, Unlimited: user.Unlimited}
	}
	return u
}

// Balance returns what the ledger knows, or else the opening balance.
func (u *undeclared) Balance(ctx context.Context, user string) (billing.Balance, error) {
	opening, ours := u.balances[user]
	if ours && u.unknown(user) {
		return opening, nil
	}
	balance, err := u.known.Balance(ctx, user)
	if err == nil || !ours || ctx.Err() != nil {
		return balance, err
	}
	u.note(user)
	return opening, nil
}

// unknown tells whether the ledger did not know the user a moment ago.
func (u *undeclared) unknown(user string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return time.Since(u.failed[user]) < askAgain
}

func (u *undeclared) note(user string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.failed[user] = time.Now()
}

// Hold lets in whom the ledger does not know, as the config has them. Nothing is
// set aside for them.
func (u *undeclared) Hold(ctx context.Context, claim *billing.Claim) (billing.Payer, error) {
	opening, ours := u.balances[claim.User]
	if !ours || !u.unknown(claim.User) {
		payer, err := u.known.Hold(ctx, claim)
		var refusal *billing.Refusal
		if err == nil || errors.As(err, &refusal) || !ours || ctx.Err() != nil {
			return payer, err
		}
		u.note(claim.User)
	}
	switch terms := claim.Terms; {
	case terms != nil && !terms.Declared:
		return billing.Payer{}, &billing.Refusal{Lack: billing.LackSubscription}
	case terms != nil && !terms.Until.IsZero() && !claim.Time.Before(terms.Until):
		return billing.Payer{}, &billing.Refusal{Lack: billing.LackTime, Until: terms.Until}
	case terms != nil:
		return billing.Payer{Billing: billing.PaidFromSubscription}, nil
	case opening.Unlimited:
		return billing.Payer{Billing: billing.PaidByNobody}, nil
	case opening.Amount < claim.Least:
		return billing.Payer{}, &billing.Refusal{Lack: billing.LackBalance, Left: opening.Amount}
	}
	return billing.Payer{Billing: billing.PaidFromBalance}, nil
}
