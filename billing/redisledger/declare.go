package redisledger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
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
	// declareEvery is how often Redis is told again of the users that it does not know,
	// at most: all who ask at that moment are in want of the same.
	declareEvery = 100 * time.Millisecond
)

// declared are the users that this process was told to declare. Redis is told of them
// again when it has lost its data.
type declared struct {
	mu    sync.Mutex
	users map[string]billing.User

	telling chan struct{} // full while Redis is told of them because it did not know one
	again   time.Time     // when it last was; guarded by telling
}

// has reports whether a user was declared.
func (d *declared) has(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, has := d.users[name]
	return has
}

// notAmong returns one who was declared and is not among names; "" if all are.
func (d *declared) notAmong(names []string) string {
	known := make(map[string]bool, len(names))
	for _, name := range names {
		known[name] = true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for name := range d.users {
		if !known[name] {
			return name
		}
	}
	return ""
}

// Declare implements billing.Ledger. Each user is declared whole or not at all. While
// Redis is down, they are known here, with what they begin with, and Redis hears of
// them when it is back.
func (l *Ledger) Declare(ctx context.Context, users []billing.User) error {
	if l.closed.Load() {
		return billing.ErrClosed
	}
	for _, u := range users {
		if err := checkUser(u); err != nil {
			return fmt.Errorf("declaring user %q: %w", u.Name, err)
		}
	}
	l.declared.mu.Lock()
	if l.declared.users == nil {
		l.declared.users = make(map[string]billing.User, len(users))
	}
	for _, u := range users {
		l.declared.users[u.Name] = u
		l.snapshot.begin(u)
	}
	l.declared.mu.Unlock()
	err := l.link.Down()
	if err == nil {
		err = l.declare(ctx, users)
	}
	if err != nil && !isOutage(err) {
		return fmt.Errorf("declaring users to Redis: %w", err)
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

// declareAll tells Redis of all users that were declared.
func (l *Ledger) declareAll(ctx context.Context) error {
	l.declared.mu.Lock()
	users := slices.Collect(maps.Values(l.declared.users))
	l.declared.mu.Unlock()
	return l.declare(ctx, users)
}

// askOf asks Redis something of a user, and once more where it did not know one who was
// declared. If it does not know them even then, it is on its way out or back, and has lost
// its data: it is unavailable.
func (l *Ledger) askOf(ctx context.Context, name string, ask func() error) error {
	err := ask()
	if !l.declareAgain(ctx, name, err) {
		return err
	}
	if err = ask(); errors.Is(err, billing.ErrUnknownUser) && l.declared.has(name) {
		return fmt.Errorf("%w: Redis has lost its data, and does not take the users of the config", billing.ErrUnavailable)
	}
	return err
}

// declareAgain reports whether it makes sense to ask Redis again after an error: it did
// not know a user who was declared, and was told of them all meanwhile.
func (l *Ledger) declareAgain(ctx context.Context, name string, err error) bool {
	if !errors.Is(err, billing.ErrUnknownUser) || !l.declared.has(name) {
		return false
	}
	select {
	case l.declared.telling <- struct{}{}:
		defer func() { <-l.declared.telling }()
	case <-ctx.Done():
		return false
	}
	if time.Since(l.declared.again) < declareEvery {
		return true
	}
	l.log.Error("Redis did not know a user of the config: it has lost its data; it is told of all users, who begin with their opening balances", "user", name)
	l.doubt()
	if l.declareAll(ctx) == nil {
		l.declared.again = time.Now()
	}
	return true // an outage has an answer of its own
}

// undeclare forgets one who was removed.
func (l *Ledger) undeclare(name string) {
	l.declared.mu.Lock()
	defer l.declared.mu.Unlock()
	delete(l.declared.users, name)
}

func (l *Ledger) declare(ctx context.Context, users []billing.User) error {
	for batch := range slices.Chunk(users, declareBatch) {
		args := []any{schemaVersion}
		for _, u := range batch {
			args = append(args, u.Name, int64(u.Balance), digit(u.Unlimited))
		}
		answer, err := l.runRegistry(ctx, declareScript, args...)
		if err != nil {
			return err
		}
		answers, _ := answer.([]any)
		if len(answers) == 2 && answers[0] == "newer" {
			return fmt.Errorf("the data under %s has schema version %v, and this program knows %d: a newer one wrote it; run that one, or name another namespace",
				l.prefix, answers[1], schemaVersion)
		}
		a := newReply(answer, 1+len(batch))
		for i, u := range batch {
			now, _, err := parseUser(a.list[1+i])
			if err != nil {
				return errors.Join(a.err, err)
			}
			l.snapshot.learnUser(u.Name, now)
			l.logins.forgetUser(u.Name)
		}
	}
	l.retryRefused.Store(true)
	l.wakeDrain()
	return nil
}

// runRegistry runs one of the scripts about users, keys and subscriptions.
func (l *Ledger) runRegistry(ctx context.Context, script *redis.Script, args ...any) (any, error) {
	if err := l.usable(ctx); err != nil {
		return nil, err
	}
	return l.link.Run(ctx, script, []string{l.prefix}, args...)
}

// usable is an error if the ledger was closed, or the caller is gone.
func (l *Ledger) usable(ctx context.Context) error {
	if l.closed.Load() {
		return billing.ErrClosed
	}
	return ctx.Err()
}
