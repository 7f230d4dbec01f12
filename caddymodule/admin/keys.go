package admin

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/caddymodule/config"
	"github.com/sub2api/caddy-sub2api/caddymodule/gateway"
)

const (
	// keyStart is what the keys that are made here begin with.
	keyStart = "sk-"
	// keyDigits is how many digits of base 62 hold 32 bytes.
	keyDigits = 43
	// keyPrefix is how many characters of a key are kept to tell it from others.
	keyPrefix = len(keyStart) + 4
	// maxModelPattern is the longest model name of a key, in bytes.
	maxModelPattern = 200
)

// Key is a gateway key as the admin API shows it. Of a key of the config it
// is not known how it begins and when it was used.
type Key struct {
	ID       string     `json:"id"`
	User     string     `json:"user"`
	Source   string     `json:"source"`
	Prefix   *string    `json:"prefix"`
	Groups   []string   `json:"groups"` // none = every account
	Models   []string   `json:"models"` // none = all
	Expires  *time.Time `json:"expires_at"`
	Limits   KeyLimits  `json:"limits"`
	Created  *time.Time `json:"created_at"`
	LastUsed *time.Time `json:"last_used"`
	// Key is the key itself, in the answer that made it.
	Key string `json:"key,omitempty"`
}

// KeyLimits has nil for no limit.
type KeyLimits struct {
	Daily   *billing.USD `json:"daily"`
	Monthly *billing.USD `json:"monthly"`
}

func viewOfKey(k billing.Key) Key {
	return Key{
		ID: k.ID, User: k.User, Source: billing.SourceAPI, Prefix: &k.Prefix,
		Groups: orEmpty(k.Groups), Models: orEmpty(k.Models), Expires: momentView(k.Expires),
		Limits:  KeyLimits{limitView(k.Limits[billing.Daily]), limitView(k.Limits[billing.Monthly])},
		Created: momentView(k.Created), LastUsed: momentView(k.LastUsed),
	}
}

func viewOfDeclaredKey(k *gateway.Key) Key {
	v := Key{ID: k.ID, User: k.User.Name, Source: billing.SourceConfig, Groups: []string{}, Models: orEmpty(k.Models)}
	for _, g := range k.Groups {
		v.Groups = append(v.Groups, g.Name)
	}
	return v
}

func orEmpty(names []string) []string {
	if names == nil {
		return []string{}
	}
	return names
}

// listKeys answers GET keys, and GET users/{name}/keys.
func listKeys(c *call) error {
	user := ""
	if c.r.PathValue("name") != "" {
		profile, err := c.store.profile(c.ctx, c.r.PathValue("name"))
		if err != nil {
			return err
		}
		user = profile.Name
	}
	kept, err := c.store.ledger.Keys(c.ctx, user)
	if err != nil {
		return err
	}
	views := make([]Key, 0, len(kept))
	declared := map[string]bool{}
	for _, k := range c.store.declaredKeys(user) {
		declared[k.ID] = true
		views = append(views, viewOfDeclaredKey(k))
	}
	for _, k := range kept {
		if !declared[k.ID] {
			views = append(views, viewOfKey(k))
		}
	}
	return c.answer(views)
}

// addKey answers POST users/{name}/keys.
func addKey(c *call) error {
	var body struct {
		Groups  []string  `json:"groups"`
		Models  []string  `json:"models"`
		Expires *string   `json:"expires_at"`
		Limits  KeyLimits `json:"limits"`
	}
	if err := c.body(&body); err != nil {
		return err
	}
	made := billing.Key{Groups: body.Groups, Models: body.Models, Created: time.Now().UTC().Truncate(time.Second)}
	if err := c.store.checkKeyGroups(body.Groups); err != nil {
		return err
	}
	if err := checkKeyModels(body.Models); err != nil {
		return err
	}
	var err error
	if made.Expires, err = c.bodyMoment("expires_at", body.Expires); err != nil {
		return err
	}
	for span, limit := range map[billing.Span]*billing.USD{billing.Daily: body.Limits.Daily, billing.Monthly: body.Limits.Monthly} {
		if limit == nil {
			continue
		}
		if *limit <= 0 || *limit > config.MaxBalance {
			return refuse(http.StatusBadRequest, "limits: %s: %s is not a limit; write US dollars over 0, up to a billion, or leave it out", span, *limit)
		}
		made.Limits[span] = *limit
	}
	profile, err := c.store.profile(c.ctx, c.r.PathValue("name"))
	if err != nil {
		return err
	}
	made.User = profile.Name
	text := newKey()
	made.Digest = sha256.Sum256([]byte(text))
	made.ID, made.Prefix = hex.EncodeToString(made.Digest[:])[:gateway.KeyIDDigits], text[:keyPrefix]
	if err := c.store.ledger.AddKey(c.ctx, made); err != nil {
		return err
	}
	v := viewOfKey(made)
	v.Key = text
	return c.answer(v)
}

// newKey makes a gateway key that nobody can guess.
func newKey() string {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // it never fails
	return keyText(secret)
}

func keyText(secret [32]byte) string {
	digits := new(big.Int).SetBytes(secret[:]).Text(62)
	return keyStart + strings.Repeat("0", keyDigits-len(digits)) + digits
}

func (s *adminStore) checkKeyGroups(names []string) error {
	for i, name := range names {
		switch {
		case s.group(name) == nil:
			return refuse(http.StatusBadRequest, "groups: %.80q is not a group of the config; there are: %s", name, s.groupList(func(*gateway.Group) bool { return true }))
		case slices.Contains(names[:i], name):
			return refuse(http.StatusBadRequest, "groups: holds %s twice; keep one", name)
		}
	}
	return nil
}

func checkKeyModels(patterns []string) error {
	for i, pattern := range patterns {
		switch {
		case pattern == "" || !config.ModelName(pattern) || len(pattern) > maxModelPattern:
			return refuse(http.StatusBadRequest, "models: %.80q is not a model name: it is empty, over %d bytes, or holds a space or control character", pattern, maxModelPattern)
		case strings.Contains(strings.TrimSuffix(pattern, "*"), "*"):
			return refuse(http.StatusBadRequest, "models: %.80q has a * that is not at its end; only a trailing * matches", pattern)
		case slices.Contains(patterns[:i], pattern):
			return refuse(http.StatusBadRequest, "models: holds %.80q twice; keep one", pattern)
		}
	}
	return nil
}

// revokeKey answers DELETE keys/{id}.
func revokeKey(c *call) error {
	id := c.r.PathValue("id")
	if slices.ContainsFunc(c.store.declaredKeys(""), func(k *gateway.Key) bool { return k.ID == id }) {
		return refuse(http.StatusConflict, "key %s is the config's; change the config and reload it", id)
	}
	if err := c.store.ledger.RevokeKey(c.ctx, id); errors.Is(err, billing.ErrUnknownKey) {
		return refuse(http.StatusNotFound, "there is no key %.80q", id)
	} else if err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}
