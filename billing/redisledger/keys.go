package redisledger

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/redislink"
)

// AddKey implements billing.Ledger.
func (l *Ledger) AddKey(ctx context.Context, key billing.Key) error {
	fields, err := formatKey(&key)
	if err == nil {
		args := append([]any{key.ID, hex.EncodeToString(key.Digest[:]), key.User}, fields...)
		err = l.change(ctx, addKeyScript, args...)
	}
	if err != nil {
		return fmt.Errorf("adding key %q of %q: %w", key.ID, key.User, err)
	}
	l.logins.forgetKey(key.Digest)
	return nil
}

// RevokeKey implements billing.Ledger.
func (l *Ledger) RevokeKey(ctx context.Context, id string) error {
	if err := l.change(ctx, revokeKeyScript, id); err != nil {
		return fmt.Errorf("revoking key %q: %w", id, err)
	}
	l.logins.forgetKeyID(id)
	return nil
}

// Keys implements billing.Ledger.
func (l *Ledger) Keys(ctx context.Context, user string) ([]billing.Key, error) {
	if l.closed.Load() {
		return nil, billing.ErrClosed
	}
	keys, err := l.keys(ctx, user)
	if err != nil {
		return nil, fmt.Errorf("reading keys from Redis: %w", unavailable(err))
	}
	return keys, nil
}

func (l *Ledger) keys(ctx context.Context, user string) ([]billing.Key, error) {
	ids, err := l.keyIDs(ctx, user)
	if err != nil {
		return nil, err
	}
	var keys []billing.Key
	for batch := range slices.Chunk(ids, pageSize) {
		read, err := l.readKeys(ctx, batch)
		if err != nil {
			return nil, err
		}
		keys = append(keys, read...)
	}
	slices.SortFunc(keys, func(a, b billing.Key) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
	})
	return keys, nil
}

func (l *Ledger) keyIDs(ctx context.Context, user string) ([]string, error) {
	return ask(ctx, l, func(pipe redis.Pipeliner) *redis.StringSliceCmd {
		if user == "" {
			return pipe.HVals(ctx, l.keysKey())
		}
		return pipe.SMembers(ctx, l.keysOfKey(user))
	})
}

// readKeys returns those of the keys that are still there.
func (l *Ledger) readKeys(ctx context.Context, ids []string) (keys []billing.Key, err error) {
	hashes := make([]*redis.MapStringStringCmd, len(ids))
	err = l.link.Exec(ctx, redislink.Guard{}, nil, func(pipe redis.Pipeliner) {
		for i, id := range ids {
			hashes[i] = pipe.HGetAll(ctx, l.key(keyBudget(id)))
		}
	})
	if err != nil {
		return nil, err
	}
	for i, hash := range hashes {
		if err := hash.Err(); err != nil {
			return nil, err
		}
		if len(hash.Val()) == 0 {
			continue
		}
		key, err := parseKey(ids[i], hash.Val())
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// formatKey returns the fields of a key's hash, but for its digest and user.
func formatKey(k *billing.Key) ([]any, error) {
	if k.ID == "" {
		return nil, errors.New("it has no id")
	}
	groups, err := formatList(k.Groups)
	if err != nil {
		return nil, err
	}
	models, err := formatList(k.Models)
	if err != nil {
		return nil, err
	}
	return []any{
		"prefix", k.Prefix, "groups", groups, "models", models, "limits", formatLimits(k.Limits),
		"expires", formatTime(k.Expires), "created", formatTime(k.Created), "last_used", formatTime(k.LastUsed),
	}, nil
}

func formatList(list []string) (string, error) {
	if len(list) == 0 {
		return "", nil
	}
	text, err := json.Marshal(list)
	return string(text), err
}

// parseKey reads a key's hash.
func parseKey(id string, hash map[string]string) (k billing.Key, err error) {
	k.ID, k.User, k.Prefix = id, hash["user"], hash["prefix"]
	digest, err := hex.DecodeString(hash["digest"])
	if err != nil || copy(k.Digest[:], digest) != sha256.Size {
		return k, fmt.Errorf("key %q in Redis has the digest %q", id, hash["digest"])
	}
	for field, list := range map[string]*[]string{"groups": &k.Groups, "models": &k.Models} {
		if text := hash[field]; text != "" {
			if err := json.Unmarshal([]byte(text), list); err != nil {
				return k, fmt.Errorf("key %q in Redis has the %s %q: %w", id, field, text, err)
			}
		}
	}
	var errs [4]error
	k.Limits, errs[0] = parseLimits(hash["limits"])
	k.Expires, errs[1] = parseTime(hash["expires"])
	k.Created, errs[2] = parseTime(hash["created"])
	k.LastUsed, errs[3] = parseTime(hash["last_used"])
	return k, errors.Join(errs[:]...)
}
