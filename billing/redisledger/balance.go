package redisledger

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/redispipe"
)

// Balance implements billing.Ledger, in one round trip. If Redis fails, it is what
// this process knew last, less what has been settled since, or an error if it
// never knew the user. What waits in the spool is taken off until Redis has said
// that it has it. So a record that Redis has, but whose answer is on its way or
// lost, counts twice until then: the balance may be too low for a while, and is
// never too high, but for what other processes settle during an outage.
func (l *Ledger) Balance(ctx context.Context, user string) (billing.Balance, error) {
	if l.closed.Load() {
		return billing.Balance{}, billing.ErrClosed
	}
	if l.down.Load() {
		if last, known := l.cache.last(user); known {
			return last, nil
		}
	}
	asked := l.cache.ask()
	bounded, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	return l.answer(ctx, user, asked, l.client.HMGet(bounded, l.userKey(user), balanceFields...))
}

// BalanceAhead asks for a balance in somebody else's round trip: that of the next
// redispipe.Exec under the context that it returns. The function gives what came
// of that, and must not be called before Exec has returned. If nobody took the
// question along, or it failed, it does what Balance does.
func (l *Ledger) BalanceAhead(ctx context.Context, user string) (context.Context, func(context.Context) (billing.Balance, error)) {
	asked := l.cache.ask()
	var ahead *redis.SliceCmd
	carrying := redispipe.WithRider(ctx, func(pipe redis.Pipeliner) {
		ahead = pipe.HMGet(ctx, l.userKey(user), balanceFields...)
	})
	return carrying, func(ctx context.Context) (billing.Balance, error) {
		if l.closed.Load() {
			return billing.Balance{}, billing.ErrClosed
		}
		if ahead == nil {
			return l.Balance(ctx, user)
		}
		if l.note(ctx, ahead.Err()) != nil {
			return l.Balance(ctx, user)
		}
		return l.answer(ctx, user, asked, ahead)
	}
}

// answer is what Redis said, or if it said nothing, what it said last.
func (l *Ledger) answer(ctx context.Context, user string, asked question, cmd *redis.SliceCmd) (billing.Balance, error) {
	fields, err := cmd.Result()
	if l.note(ctx, err) != nil {
		if last, known := l.cache.last(user); known && ctx.Err() == nil {
			return last, nil
		}
		return billing.Balance{}, fmt.Errorf("balance of %q: asking Redis: %w", user, err)
	}
	now, known, err := parseTold(fields)
	if err == nil && !known {
		err = billing.ErrUnknownUser
	}
	if err != nil {
		return billing.Balance{}, fmt.Errorf("balance of %q: %w", user, err)
	}
	return l.cache.learn(user, asked, now), nil
}
