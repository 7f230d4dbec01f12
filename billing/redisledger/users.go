package redisledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
)

// profileBatch is how many users one script gives.
const profileBatch = 256

var errRange = fmt.Errorf("the balance would be beyond what a ledger can hold, %s", largestAmount)

// AddUser implements billing.Ledger. Those who share a Redis see changes within two
// seconds, here and in all that follows.
func (l *Ledger) AddUser(ctx context.Context, user billing.User) error {
	err := checkUser(user)
	if err == nil && user.Concurrency < 0 {
		err = fmt.Errorf("a concurrency of %d is negative", user.Concurrency)
	}
	entry := userEntry(user, l.clock())
	if err == nil {
		err = l.usable(ctx)
	}
	if err == nil {
		_, err = l.addUser(ctx, entry)
	}
	if err != nil {
		return fmt.Errorf("adding user %q: %w", user.Name, unavailable(err))
	}
	l.keepEntry(entry)
	l.retryRefused.Store(true)
	l.wakeDrain()
	return nil
}

// ChangeUser implements billing.Ledger.
func (l *Ledger) ChangeUser(ctx context.Context, name string, change billing.UserChange) error {
	concurrency, disabled := "", ""
	if change.Concurrency != nil {
		if *change.Concurrency < 0 {
			return fmt.Errorf("changing user %q: a concurrency of %d is negative", name, *change.Concurrency)
		}
		concurrency = strconv.Itoa(*change.Concurrency)
	}
	if change.Disabled != nil {
		disabled = digit(*change.Disabled)
	}
	if err := l.change(ctx, changeUserScript, name, concurrency, disabled); err != nil {
		return fmt.Errorf("changing user %q: %w", name, err)
	}
	l.logins.forgetUser(name)
	return nil
}

// RemoveUser implements billing.Ledger.
func (l *Ledger) RemoveUser(ctx context.Context, name string) error {
	if err := l.change(ctx, removeUserScript, name, formatTime(l.clock())); err != nil {
		return fmt.Errorf("removing user %q: %w", name, err)
	}
	l.undeclare(name)
	l.snapshot.forgetUser(name)
	l.logins.forgetUser(name)
	return nil
}

// refusals are the answers of scripts that change nothing.
var refusals = map[any]error{
	"unknown user": billing.ErrUnknownUser,
	"user exists":  billing.ErrUserExists,
	"range":        errRange,
	"key exists":   billing.ErrKeyExists,
	"unknown key":  billing.ErrUnknownKey,
	"none":         billing.ErrNotSubscribed,
}

// change runs a script that answers with what it did.
func (l *Ledger) change(ctx context.Context, script *redis.Script, args ...any) error {
	answer, err := l.runRegistry(ctx, script, args...)
	if err != nil {
		return unavailable(err)
	}
	return refusals[answer]
}

// User implements billing.Ledger.
func (l *Ledger) User(ctx context.Context, name string) (billing.Profile, error) {
	var profile billing.Profile
	err := l.askOf(ctx, name, func() error {
		profiles, err := l.profiles(ctx, []string{name})
		if err != nil {
			return err
		}
		if len(profiles) == 0 {
			return billing.ErrUnknownUser
		}
		profile = profiles[0]
		return nil
	})
	if err != nil {
		return billing.Profile{}, fmt.Errorf("user %q: %w", name, unavailable(err))
	}
	return profile, nil
}

// Users implements billing.Ledger.
func (l *Ledger) Users(ctx context.Context) ([]billing.Profile, error) {
	if l.closed.Load() {
		return nil, billing.ErrClosed
	}
	names, err := l.userNames(ctx)
	if missing := l.declared.notAmong(names); err == nil && missing != "" {
		err = l.askOf(ctx, missing, func() (err error) {
			if names, err = l.userNames(ctx); err == nil && !slices.Contains(names, missing) {
				err = billing.ErrUnknownUser
			}
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("reading users from Redis: %w", unavailable(err))
	}
	slices.Sort(names)
	users := make([]billing.Profile, 0, len(names))
	for batch := range slices.Chunk(names, profileBatch) {
		profiles, err := l.profiles(ctx, batch)
		if err != nil {
			return nil, fmt.Errorf("reading users from Redis: %w", unavailable(err))
		}
		users = append(users, profiles...)
	}
	return users, nil
}

func (l *Ledger) userNames(ctx context.Context) ([]string, error) {
	return ask(ctx, l, func(pipe redis.Pipeliner) *redis.StringSliceCmd { return pipe.SMembers(ctx, l.usersKey()) })
}

// profiles returns those of the named who are known.
func (l *Ledger) profiles(ctx context.Context, names []string) (profiles []billing.Profile, err error) {
	args := make([]any, len(names))
	for i, name := range names {
		args[i] = name
	}
	answer, err := l.runRegistry(ctx, profilesScript, args...)
	if err != nil {
		return nil, err
	}
	answers := newReply(answer, len(names))
	for i, name := range names {
		p, now, known, err := l.parseProfile(name, answers.list[i])
		if err := errors.Join(answers.err, err); err != nil {
			return nil, fmt.Errorf("user %q: %w", name, err)
		}
		if known {
			p.Balance = l.snapshot.learnUser(name, now)
			profiles = append(profiles, p)
		}
	}
	return profiles, nil
}

// parseProfile reads what registry.lua's profile gives; known is false if there is no
// such user.
func (l *Ledger) parseProfile(name string, answer any) (p billing.Profile, now user, known bool, err error) {
	a := newReply(answer, 3)
	now, known, err = parseUser(a.list[0])
	if err != nil || !known {
		return p, now, false, errors.Join(a.err, err)
	}
	more := a.sub(1, 3)
	p = billing.Profile{
		Name: name, Source: billing.SourceConfig, Balance: now.Balance, Concurrency: int(more.number(1)), Disabled: more.text(2) == "1",
	}
	if more.text(0) == billing.SourceAPI {
		p.Source = billing.SourceAPI
	}
	subscriptions, _ := a.list[2].([]any)
	for _, item := range subscriptions {
		pair := newReply(item, 2)
		s, err := parseSubscription(pair.list[1])
		if err := errors.Join(pair.err, err); err != nil {
			return p, now, false, err
		}
		p.Subscriptions = append(p.Subscriptions, s.public(pair.text(0), l.snapshot.now(), l.location))
	}
	slices.SortFunc(p.Subscriptions, func(a, b billing.Subscription) int { return strings.Compare(a.Group, b.Group) })
	return p, now, true, errors.Join(a.err, more.err)
}

// Credit implements billing.Ledger.
func (l *Ledger) Credit(ctx context.Context, user string, credit billing.Credit) (balance billing.Balance, credited bool, err error) {
	if credit.Amount > largestAmount/2 || credit.Amount < -largestAmount/2 {
		err = fmt.Errorf("the amount is out of range, the limit is %s", largestAmount/2)
	}
	entry := creditEntry(user, credit)
	if err == nil {
		err = l.usable(ctx)
	}
	if err == nil {
		err = l.askOf(ctx, user, func() (err error) {
			balance, credited, err = l.credit(ctx, entry)
			return err
		})
	}
	if err != nil {
		return billing.Balance{}, false, fmt.Errorf("crediting %q %s: %w", user, credit.Amount, unavailable(err))
	}
	if credited {
		l.keepEntry(entry)
	}
	return balance, credited, nil
}

// Subscribe implements billing.Ledger.
func (l *Ledger) Subscribe(ctx context.Context, user, group string, until time.Time) error {
	if err := l.change(ctx, subscribeScript, user, group, formatTime(until)); err != nil {
		return fmt.Errorf("subscribing %q to %q: %w", user, group, err)
	}
	l.logins.forgetUser(user)
	return nil
}

// Unsubscribe implements billing.Ledger.
func (l *Ledger) Unsubscribe(ctx context.Context, user, group string) error {
	if err := l.change(ctx, unsubscribeScript, user, group); err != nil {
		return fmt.Errorf("ending the subscription of %q to %q: %w", user, group, err)
	}
	l.snapshot.forgetSubscription(user, group)
	l.logins.forgetUser(user)
	return nil
}
