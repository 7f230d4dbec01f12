package ledgertest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// meet is the user of that name, whether he is known or not.
func (l *memory) meet(name string) *memoryUser {
	if l.users[name] == nil {
		l.users[name] = &memoryUser{
			Profile: billing.Profile{Name: name}, number: 1,
			credits: map[string]bool{}, groups: map[string]*billing.Subscription{},
		}
	}
	return l.users[name]
}

var errNoName = errors.New("the user has no name")

func (l *memory) Declare(_ context.Context, users []billing.User) error {
	defer l.mu.Unlock()
	if err := l.begin(); err != nil {
		return err
	}
	for _, declared := range users {
		if declared.Name == "" {
			return errNoName
		}
		u := l.meet(declared.Name)
		if u.known && u.Source == billing.SourceAPI {
			continue
		}
		u.known, u.Source = true, billing.SourceConfig
		if !declared.Unlimited && !u.opened {
			u.opened = true
			u.Balance.Amount += declared.Balance
		}
	}
	return nil
}

func (l *memory) AddUser(_ context.Context, added billing.User) error {
	defer l.mu.Unlock()
	if err := l.begin(); err != nil {
		return err
	}
	if added.Name == "" {
		return errNoName
	}
	u := l.meet(added.Name)
	if u.known && u.Source == billing.SourceAPI {
		return billing.ErrUserExists
	}
	u.known, u.Source = true, billing.SourceAPI
	u.Concurrency, u.Disabled = added.Concurrency, false
	u.Balance.Amount += added.Balance
	return nil
}

// added is a user who was added, or nil.
func (l *memory) added(name string) *memoryUser {
	if u := l.user(name); u != nil && u.Source == billing.SourceAPI {
		return u
	}
	return nil
}

func (l *memory) ChangeUser(_ context.Context, name string, change billing.UserChange) error {
	defer l.mu.Unlock()
	if err := l.begin(); err != nil {
		return err
	}
	u := l.added(name)
	if u == nil {
		return billing.ErrUnknownUser
	}
	if change.Concurrency != nil {
		u.Concurrency = *change.Concurrency
	}
	if change.Disabled != nil {
		u.Disabled = *change.Disabled
	}
	return nil
}

func (l *memory) RemoveUser(_ context.Context, name string) error {
	defer l.mu.Unlock()
	if err := l.begin(); err != nil {
		return err
	}
	u := l.added(name)
	if u == nil {
		return billing.ErrUnknownUser
	}
	delete(l.users, name)
	l.meet(name).number = u.number + 1
	maps.DeleteFunc(l.keys, func(_ string, k *memoryKey) bool { return k.User == name })
	return nil
}

func (l *memory) profile(u *memoryUser) billing.Profile {
	p := u.Profile
	p.Balance, _ = l.balance(u.Name)
	for _, group := range slices.Sorted(maps.Keys(u.groups)) {
		if s := u.groups[group]; s.Subscribed {
			p.Subscriptions = append(p.Subscriptions, l.shown(s))
		}
	}
	return p
}

func (l *memory) User(_ context.Context, name string) (billing.Profile, error) {
	defer l.mu.Unlock()
	if err := l.begin(); err != nil {
		return billing.Profile{}, err
	}
	u := l.user(name)
	if u == nil {
		return billing.Profile{}, billing.ErrUnknownUser
	}
	return l.profile(u), nil
}

func (l *memory) Users(context.Context) (profiles []billing.Profile, err error) {
	defer l.mu.Unlock()
	if err := l.begin(); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(l.users)) {
		if u := l.user(name); u != nil {
			profiles = append(profiles, l.profile(u))
		}
	}
	return profiles, nil
}

func (l *memory) Credit(_ context.Context, user string, credit billing.Credit) (billing.Balance, bool, error) {
	defer l.mu.Unlock()
	if err := l.begin(); err != nil {
		return billing.Balance{}, false, err
	}
	u := l.user(user)
	if u == nil {
		return billing.Balance{}, false, billing.ErrUnknownUser
	}
	isNew := !u.credits[credit.ID]
	if isNew {
		u.credits[credit.ID] = true
		u.Balance.Amount += credit.Amount
	}
	b, err := l.balance(user)
	return b, isNew, err
}

func (l *memory) AddKey(_ context.Context, key billing.Key) error {
	defer l.mu.Unlock()
	switch err := l.begin(); {
	case err != nil:
		return err
	case l.user(key.User) == nil:
		return billing.ErrUnknownUser
	case l.keys[key.ID] != nil:
		return billing.ErrKeyExists
	}
	key.Created, key.Expires = key.Created.UTC(), key.Expires.UTC()
	l.keys[key.ID] = &memoryKey{Key: key}
	return nil
}

func (l *memory) RevokeKey(_ context.Context, id string) error {
	defer l.mu.Unlock()
	if err := l.begin(); err != nil {
		return err
	}
	if l.keys[id] == nil {
		return billing.ErrUnknownKey
	}
	delete(l.keys, id)
	return nil
}

func (l *memory) Keys(_ context.Context, user string) (keys []billing.Key, err error) {
	defer l.mu.Unlock()
	if err := l.begin(); err != nil {
		return nil, err
	}
	for _, k := range l.keys {
		if user == "" || user == k.User {
			keys = append(keys, k.Key)
		}
	}
	slices.SortFunc(keys, func(a, b billing.Key) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
	})
	return keys, nil
}

func (l *memory) Login(_ context.Context, digest [sha256.Size]byte) (billing.Key, billing.Profile, error) {
	defer l.mu.Unlock()
	if err := l.begin(); err != nil {
		return billing.Key{}, billing.Profile{}, err
	}
	for _, k := range l.keys {
		if k.Digest == digest {
			return k.Key, l.profile(l.user(k.User)), nil
		}
	}
	return billing.Key{}, billing.Profile{}, billing.ErrUnknownKey
}

func (l *memory) Subscribe(_ context.Context, user, group string, until time.Time) error {
	defer l.mu.Unlock()
	if err := l.begin(); err != nil {
		return err
	}
	u := l.user(user)
	if u == nil {
		return billing.ErrUnknownUser
	}
	s := u.subscription(group)
	s.Subscribed, s.Until = true, until
	return nil
}

func (l *memory) Unsubscribe(_ context.Context, user, group string) error {
	defer l.mu.Unlock()
	if err := l.begin(); err != nil {
		return err
	}
	u := l.user(user)
	if u == nil || u.groups[group] == nil || !u.groups[group].Subscribed {
		return billing.ErrNotSubscribed
	}
	delete(u.groups, group)
	return nil
}
