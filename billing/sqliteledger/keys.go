package sqliteledger

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
)

// AddKey implements billing.Ledger.
func (l *Ledger) AddKey(ctx context.Context, added billing.Key) error {
	err := l.change(func() error { return l.addKey(ctx, added) })
	if err != nil {
		return fmt.Errorf("adding key %q of user %q: %w", added.ID, added.User, err)
	}
	return nil
}

func (l *Ledger) addKey(ctx context.Context, added billing.Key) error {
	err := see(l, func(p *directory) error {
		switch {
		case added.ID == "":
			return errors.New("it has no id")
		case p.keys[added.ID] != nil || p.digests[added.Digest] != nil:
			return billing.ErrKeyExists
		case p.user(added.User) == nil:
			return billing.ErrUnknownUser
		}
		return nil
	})
	if err != nil {
		return err
	}
	k := &key{Key: added}
	k.Groups, k.Models = slices.Clone(added.Groups), slices.Clone(added.Models)
	for _, t := range []*time.Time{&k.Expires, &k.Created, &k.LastUsed} {
		*t = keptTime(*t)
	}
	groups, err := json.Marshal(k.Groups)
	if err != nil {
		return err
	}
	models, err := json.Marshal(k.Models)
	if err != nil {
		return err
	}
	_, err = l.writer.exec(ctx, `INSERT INTO keys (id, digest, prefix, user, groups, models,
		daily_limit, weekly_limit, monthly_limit, expires, created, last_used) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		k.ID, k.Digest[:], k.Prefix, k.User, string(groups), string(models),
		int64(k.Limits[billing.Daily]), int64(k.Limits[billing.Weekly]), int64(k.Limits[billing.Monthly]),
		storedTime(k.Expires), storedTime(k.Created), storedTime(k.LastUsed))
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.directory.addKey(k)
	return nil
}

// RevokeKey implements billing.Ledger.
func (l *Ledger) RevokeKey(ctx context.Context, id string) error {
	err := l.exclusively(func() error {
		k := l.directory.keys[id]
		if k == nil {
			return billing.ErrUnknownKey
		}
		err := l.writer.transaction(func() error {
			_, err := l.writer.exec(ctx, "DELETE FROM windows WHERE kind = 'key' AND name = ?", id)
			if err == nil {
				_, err = l.writer.exec(ctx, "DELETE FROM keys WHERE id = ?", id)
			}
			return err
		})
		if err != nil {
			return err
		}
		l.directory.revokeKey(k)
		return nil
	})
	if err != nil {
		return fmt.Errorf("revoking key %q: %w", id, err)
	}
	return nil
}

// Keys implements billing.Ledger.
func (l *Ledger) Keys(_ context.Context, user string) ([]billing.Key, error) {
	if l.closed.Load() {
		return nil, billing.ErrClosed
	}
	keys := see(l, func(p *directory) (keys []billing.Key) {
		for _, k := range p.keys {
			if user == "" || k.User == user {
				keys = append(keys, k.Key)
			}
		}
		return keys
	})
	for i := range keys {
		keys[i].Groups, keys[i].Models = slices.Clone(keys[i].Groups), slices.Clone(keys[i].Models)
	}
	slices.SortFunc(keys, func(a, b billing.Key) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
	})
	return keys, nil
}

// Login implements billing.Ledger. The key's slices are the ledger's own: not to be
// changed.
func (l *Ledger) Login(_ context.Context, digest [sha256.Size]byte) (billing.Key, billing.Profile, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		return billing.Key{}, billing.Profile{}, billing.ErrClosed
	}
	k := l.directory.digests[digest]
	if k == nil {
		return billing.Key{}, billing.Profile{}, billing.ErrUnknownKey
	}
	return k.Key, l.directory.users[k.User].profile(l.now(), l.location), nil
}
