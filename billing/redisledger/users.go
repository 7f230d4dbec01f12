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
	if err == nil {
		err = l.change(ctx, addUserScript, user.Name, int64(user.Balance), user.Concurrency, formatTime(time.Now()))
	}
	if err != nil {
		return fmt.Errorf("adding user %q: %w", user.Name, err)
	}
	l.logins.forgetUser(user.Name)
	if l.spool != nil {
		l.spool.retryRefused()
		l.rouse()
	}
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
	if err := l.change(ctx, removeUserScript, name, formatTime(time.Now())); err != nil {
		return fmt.Errorf("removing user %q: %w", name, err)
	}
	l.cache.forgetUser(name)
	l.logins.forgetUser(name)
	return nil
}

// refusals are the answers of scripts that change nothing.
var refusals = map[any]error{
	"stranger":    billing.ErrUnknownUser,
	"user exists": billing.ErrUserExists,
	"range":       errRange,
	"key exists":  billing.ErrKeyExists,
	"unknown key": billing.ErrUnknownKey,
	"none":        billing.ErrNotSubscribed,
}

// change runs a script that answers with what it did.
func (l *Ledger) change(ctx context.Context, script *redis.Script, args ...any) error {
	reply, err := l.runRegistry(ctx, script, args...)
	if err != nil {
		return err
	}
	return refusals[reply]
}

// User implements billing.Ledger.
func (l *Ledger) User(ctx context.Context, name string) (billing.Profile, error) {
	profiles, err := l.profiles(ctx, []string{name})
	if err == nil && len(profiles) == 0 {
		err = billing.ErrUnknownUser
	}
	if err != nil {
		return billing.Profile{}, fmt.Errorf("user %q: %w", name, err)
	}
	return profiles[0], nil
}

// Users implements billing.Ledger.
func (l *Ledger) Users(ctx context.Context) ([]billing.Profile, error) {
	if l.closed.Load() {
		return nil, billing.ErrClosed
	}
	bounded, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	names, err := l.client.SMembers(bounded, l.usersKey()).Result()
	if l.note(ctx, err) != nil {
		return nil, fmt.Errorf("reading users from Redis: %w", err)
	}
	slices.Sort(names)
	users := make([]billing.Profile, 0, len(names))
	for batch := range slices.Chunk(names, profileBatch) {
		profiles, err := l.profiles(ctx, batch)
		if err != nil {
			return nil, fmt.Errorf("reading users from Redis: %w", err)
		}
		users = append(users, profiles...)
	}
	return users, nil
}

// profiles gives those of the named who are known.
func (l *Ledger) profiles(ctx context.Context, names []string) ([]billing.Profile, error) {
	args := make([]any, len(names))
	for i, name := range names {
		args[i] = name
	}
	asked := l.cache.ask()
	reply, err := l.runRegistry(ctx, profilesScript, args...)
	if err != nil {
		return nil, err
	}
	answers, _ := reply.([]any)
	if len(answers) != len(names) {
		return nil, fmt.Errorf("an unknown answer of Redis: %T %v", reply, reply)
	}
	var profiles []billing.Profile
	for i, name := range names {
		p, now, known, err := parseProfile(name, answers[i])
		if err != nil {
			return nil, fmt.Errorf("user %q: %w", name, err)
		}
		if known {
			p.Balance = l.cache.learn(name, asked, now)
			profiles = append(profiles, p)
		}
	}
	return profiles, nil
}

// parseProfile reads what registry.lua's profile gives; known is false if there is
// no such user.
func parseProfile(name string, reply any) (p billing.Profile, now told, known bool, err error) {
	fields, _ := reply.([]any)
	if len(fields) != 3 {
		return p, now, false, fmt.Errorf("an unknown answer of Redis: %T %v", reply, reply)
	}
	now, known, err = parseTold(fields[0])
	if err != nil || !known {
		return p, now, false, err
	}
	p = billing.Profile{Name: name, Source: billing.SourceConfig, Balance: now.Balance}
	more, _ := fields[1].([]any)
	if len(more) != 3 {
		return p, now, false, fmt.Errorf("an unknown answer of Redis: %v", reply)
	}
	if more[0] == billing.SourceAPI {
		p.Source = billing.SourceAPI
	}
	concurrency, err := parseInteger(more[1])
	if err != nil {
		return p, now, false, err
	}
	p.Concurrency, p.Disabled = int(concurrency), more[2] == "1"
	p.Subscriptions, err = parseSubscriptions(fields[2])
	return p, now, true, err
}

func parseSubscriptions(reply any) (subscriptions []billing.Subscription, err error) {
	list, _ := reply.([]any)
	for _, item := range list {
		pair, _ := item.([]any)
		if len(pair) != 2 {
			return nil, fmt.Errorf("an unknown answer of Redis for a subscription: %v", item)
		}
		group, _ := pair[0].(string)
		s, err := parseSubscription(pair[1])
		if err != nil {
			return nil, err
		}
		subscriptions = append(subscriptions, s.public(group))
	}
	slices.SortFunc(subscriptions, func(a, b billing.Subscription) int { return strings.Compare(a.Group, b.Group) })
	return subscriptions, nil
}

// Credit implements billing.Ledger.
func (l *Ledger) Credit(ctx context.Context, user string, credit billing.Credit) (balance billing.Balance, credited bool, err error) {
	balance, credited, err = l.credit(ctx, user, credit)
	if err != nil {
		return billing.Balance{}, false, fmt.Errorf("crediting %q %s: %w", user, credit.Amount, err)
	}
	l.logins.forgetUser(user)
	return balance, credited, nil
}

func (l *Ledger) credit(ctx context.Context, user string, credit billing.Credit) (billing.Balance, bool, error) {
	if credit.Amount > largestAmount/2 || credit.Amount < -largestAmount/2 {
		return billing.Balance{}, false, fmt.Errorf("the amount is out of range, the limit is %s", largestAmount/2)
	}
	asked := l.cache.ask()
	reply, err := l.runRegistry(ctx, creditScript, user, credit.ID, int64(credit.Amount), formatTime(credit.Time), credit.Note)
	if err != nil {
		return billing.Balance{}, false, err
	}
	answer, _ := reply.([]any)
	if len(answer) != 2 {
		return billing.Balance{}, false, fmt.Errorf("an unknown answer of Redis: %T %v", reply, reply)
	}
	if refusal := refusals[answer[0]]; refusal != nil {
		return billing.Balance{}, false, refusal
	}
	now, known, err := parseTold(answer[1])
	if err == nil && !known {
		err = errors.New("an unknown answer of Redis: no balance")
	}
	if err != nil {
		return billing.Balance{}, false, err
	}
	return l.cache.learn(user, asked, now), answer[0] == "credited", nil
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
	l.cache.forgetSubscription(user, group)
	l.logins.forgetUser(user)
	return nil
}
