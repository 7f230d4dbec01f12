package redisledger

import (
	"context"
	"errors"
	"fmt"
	"time"

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
		if last, known := l.lastBalance(user); known {
			return last, nil
		}
	}
	asked := l.cache.ask()
	bounded, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	purse := userPurse(user)
	reply, err := redispipe.Run(bounded, l.client, balanceScript, []string{l.key(purse), l.holdsKey(purse)})
	if l.note(ctx, err) != nil {
		if last, known := l.lastBalance(user); known && ctx.Err() == nil {
			return last, nil
		}
		return billing.Balance{}, fmt.Errorf("balance of %q: asking Redis: %w", user, err)
	}
	now, known, err := parseTold(reply)
	if err == nil && !known {
		l.cache.forgetUser(user)
		err = billing.ErrUnknownUser
	}
	if err != nil {
		return billing.Balance{}, fmt.Errorf("balance of %q: %w", user, err)
	}
	return l.cache.learn(user, asked, now), nil
}

// lastBalance is what is known without asking.
func (l *Ledger) lastBalance(user string) (billing.Balance, bool) {
	last, known := l.cache.last(user)
	last.Held = l.holds.sum(userPurse(user))
	return last, known
}

// Subscription implements billing.Ledger, in one round trip. If Redis fails, it is
// what this process knew last.
func (l *Ledger) Subscription(ctx context.Context, user, group string) (billing.Subscription, error) {
	if l.closed.Load() {
		return billing.Subscription{}, billing.ErrClosed
	}
	if l.down.Load() {
		if last, known := l.cache.subscription(user, group); known {
			return last.public(group), nil
		}
	}
	bounded, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	var found, owner *redis.SliceCmd
	_, err := l.client.Pipelined(bounded, func(pipe redis.Pipeliner) error {
		found = pipe.HMGet(bounded, l.key(subscriptionPurse(user, group)), subscriptionFields...)
		owner = pipe.HMGet(bounded, l.userKey(user), balanceFields...)
		return nil
	})
	if l.note(ctx, err) != nil {
		if last, known := l.cache.subscription(user, group); known && ctx.Err() == nil {
			return last.public(group), nil
		}
		return billing.Subscription{}, fmt.Errorf("subscription of %q to %q: asking Redis: %w", user, group, err)
	}
	s, err := parseSubscription(found.Val())
	_, known, ownerErr := parseTold(owner.Val())
	if err := errors.Join(err, ownerErr); err != nil {
		return billing.Subscription{}, fmt.Errorf("subscription of %q to %q: %w", user, group, err)
	}
	if !known { // what came in after he was removed shows when he is added again
		return billing.Subscription{Group: group}, nil
	}
	return s.public(group), nil
}

// public is what a ledger tells of a subscription.
func (s *subscription) public(group string) billing.Subscription {
	return billing.Subscription{Group: group, Subscribed: s.subscribed, Until: s.until, Windows: s.windows.At(time.Now())}
}
