package sqliteledger

import (
	"context"
	"fmt"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// Subscription implements billing.Ledger.
func (l *Ledger) Subscription(_ context.Context, user, group string) (billing.Subscription, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		return billing.Subscription{}, billing.ErrClosed
	}
	s := l.directory.subscriptions[membership{user, group}]
	if s == nil || l.directory.user(user) == nil {
		return billing.Subscription{Group: group}, nil
	}
	return s.at(l.now(), l.location), nil
}

// Subscribe implements billing.Ledger.
func (l *Ledger) Subscribe(ctx context.Context, name, group string, until time.Time) error {
	err := l.change(func() error {
		u := see(l, func(p *directory) *user { return p.user(name) })
		if u == nil {
			return billing.ErrUnknownUser
		}
		_, err := l.writer.exec(ctx, `INSERT INTO subscriptions (user, "group", until) VALUES (?1, ?2, ?3)
			ON CONFLICT DO UPDATE SET until = ?3`, name, group, storedTime(until))
		if err != nil {
			return err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		u.subscribe(l.directory.subscription(membership{name, group}), keptTime(until))
		return nil
	})
	if err != nil {
		return fmt.Errorf("subscribing user %q to group %q: %w", name, group, err)
	}
	return nil
}

// Unsubscribe implements billing.Ledger.
func (l *Ledger) Unsubscribe(ctx context.Context, user, group string) error {
	err := l.exclusively(func() error {
		s := l.directory.subscriptions[membership{user, group}]
		if s == nil || !s.subscribed {
			return billing.ErrNotSubscribed
		}
		err := l.writer.transaction(func() error {
			_, err := l.writer.exec(ctx, `DELETE FROM windows WHERE kind = 'subscription' AND name = ? AND "group" = ?`, user, group)
			if err == nil {
				_, err = l.writer.exec(ctx, `DELETE FROM subscriptions WHERE user = ? AND "group" = ?`, user, group)
			}
			return err
		})
		if err != nil {
			return err
		}
		l.directory.users[user].unsubscribe(s)
		return nil
	})
	if err != nil {
		return fmt.Errorf("ending the subscription of user %q to group %q: %w", user, group, err)
	}
	return nil
}
