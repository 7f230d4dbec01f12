package redisledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/redispipe"
)

const (
	// largestAmount bounds what one user is credited or charged at once, in US
	// dollars about 4.6 billion, so that no sum can wrap around: a balance of -1
	// billion or less isn't charged any more (settle.lua).
	largestAmount billing.USD = 1 << 62
	// schemaVersion is that of the data in Redis. Declare writes it, and refuses a
	// newer one.
	schemaVersion = 2
	// declareBatch is how many users one script declares: Redis does nothing else
	// meanwhile.
	declareBatch = 256
)

// Declare implements billing.Ledger. Each user is declared whole or not at all.
func (l *Ledger) Declare(ctx context.Context, users []billing.User) error {
	if l.closed.Load() {
		return billing.ErrClosed
	}
	for _, u := range users {
		if err := checkUser(u); err != nil {
			return fmt.Errorf("declaring user %q: %w", u.Name, err)
		}
	}
	for len(users) > 0 {
		batch := users[:min(len(users), declareBatch)]
		if err := l.declare(ctx, batch); err != nil {
			return fmt.Errorf("declaring users to Redis: %w", err)
		}
		users = users[len(batch):]
	}
	if l.spool != nil {
		l.spool.retryRefused()
		l.rouse()
	}
	return nil
}

func checkUser(u billing.User) error {
	switch {
	case u.Name == "":
		return errors.New("it has no name")
	case u.Balance > largestAmount/2 || u.Balance < -largestAmount/2:
		return fmt.Errorf("an opening balance of %s is out of range, the limit is %s", u.Balance, largestAmount/2)
	}
	return nil
}

func (l *Ledger) declare(ctx context.Context, users []billing.User) error {
	args := []any{schemaVersion}
	asked := l.cache.ask()
	for _, u := range users {
		args = append(args, u.Name, int64(u.Balance), digit(u.Unlimited))
	}
	reply, err := l.runRegistry(ctx, declareScript, args...)
	if err != nil {
		return err
	}
	answers, _ := reply.([]any)
	if len(answers) == 2 && answers[0] == "newer" {
		return fmt.Errorf("the data under %s has schema version %v, and this program knows %d: a newer one wrote it; run that one, or name another namespace",
			l.prefix, answers[1], schemaVersion)
	}
	if len(answers) != 1+len(users) {
		return fmt.Errorf("an unknown answer of Redis: %T %v", reply, reply)
	}
	for i, u := range users {
		now, _, err := parseTold(answers[1+i])
		if err != nil {
			return err
		}
		l.cache.learn(u.Name, asked, now)
		l.logins.forgetUser(u.Name)
	}
	return nil
}

// runRegistry runs one of the scripts about users, keys and subscriptions.
func (l *Ledger) runRegistry(ctx context.Context, script *redis.Script, args ...any) (any, error) {
	if l.closed.Load() {
		return nil, billing.ErrClosed
	}
	bounded, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	reply, err := redispipe.Run(bounded, l.client, script, []string{l.prefix}, args...)
	return reply, l.note(ctx, err)
}
