package redisledger

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/redislink"
)

// Balance implements billing.Ledger, in one round trip. If Redis is down, it is what
// this process knew last, less what has been settled since, or an error if it never
// knew the user. What Redis may not have is taken off until Redis has said that it has
// it. So a record that Redis has, but whose answer is on its way or lost, counts twice
// until then: the balance may be too low for a while, and is never too high, but for
// what other processes settle during an outage.
func (l *Ledger) Balance(ctx context.Context, name string) (billing.Balance, error) {
	if l.closed.Load() {
		return billing.Balance{}, billing.ErrClosed
	}
	var balance billing.Balance
	err := l.askOf(ctx, name, func() (err error) {
		balance, err = l.balance(ctx, name)
		return err
	})
	if err != nil {
		return billing.Balance{}, fmt.Errorf("balance of %q: %w", name, unavailable(err))
	}
	return balance, nil
}

func (l *Ledger) balance(ctx context.Context, name string) (billing.Balance, error) {
	err := ctx.Err()
	if err != nil {
		return billing.Balance{}, err
	}
	var answer any
	if err = l.link.Down(); err == nil {
		of := userBudget(name)
		answer, err = l.link.Run(ctx, balanceScript, []string{l.key(of), l.holdsKey(of)})
	}
	if err != nil {
		last, known := l.snapshot.last(name)
		if !known || !isOutage(err) {
			return billing.Balance{}, err
		}
		last.Held = l.holds.sum(userBudget(name))
		return last, nil
	}
	now, known, err := parseUser(answer)
	if err == nil && !known {
		l.snapshot.forgetUser(name)
		err = billing.ErrUnknownUser
	}
	if err != nil {
		return billing.Balance{}, err
	}
	return l.snapshot.learnUser(name, now), nil
}

// Subscription implements billing.Ledger, in one round trip. If Redis is down, it is
// what this process knew last.
func (l *Ledger) Subscription(ctx context.Context, name, group string) (billing.Subscription, error) {
	if l.closed.Load() {
		return billing.Subscription{}, billing.ErrClosed
	}
	s, err := l.subscription(ctx, name, group)
	if err != nil {
		return billing.Subscription{}, fmt.Errorf("subscription of %q to %q: %w", name, group, unavailable(err))
	}
	return s.public(group, l.snapshot.now(), l.location), nil
}

func (l *Ledger) subscription(ctx context.Context, name, group string) (*subscription, error) {
	var found, owner *redis.SliceCmd
	err := l.link.Down()
	if err == nil {
		err = l.link.Exec(ctx, redislink.Guard{}, nil, func(pipe redis.Pipeliner) {
			found = pipe.HMGet(ctx, l.key(subscriptionBudget(name, group)), subscriptionFields...)
			owner = pipe.HMGet(ctx, l.userKey(name), userFields...)
		})
	}
	if err != nil {
		if last := l.snapshot.subscription(name, group); last != nil {
			return last, nil
		}
		return nil, err
	}
	answers, err := found.Result()
	if err != nil {
		return nil, err
	}
	s, err := parseSubscription(answers)
	if err != nil {
		return nil, err
	}
	if answers, err = owner.Result(); err != nil {
		return nil, err
	}
	if _, known, err := parseUser(answers); err != nil || !known { // what came in after he was removed shows to nobody
		return new(subscription), err
	}
	return &s, nil
}
