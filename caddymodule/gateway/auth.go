package gateway

import (
	"crypto/sha256"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/modelname"
	"github.com/sub2api/caddy-sub2api/upstream"
)

// authenticate finds the gateway key of the request. Keys are compared by their
// digests, so that the time it takes tells nothing of a key.
func (x *exchange) authenticate() error {
	text := gatewayKey(x.r.Header)
	if text == "" {
		return errKey("no gateway key: send one as x-api-key or as Authorization: Bearer")
	}
	digest := sha256.Sum256([]byte(text))
	if x.key = x.config.Keys[digest]; x.key != nil {
		return nil
	}
	return x.login(digest)
}

// login finds a key that is not the config's in the store.
func (x *exchange) login(digest [sha256.Size]byte) error {
	ledger, err := x.gateway.Ledger(x.ctx)
	if err != nil {
		return storeError("opening the store", err)
	}
	from, now := visitorAddress(x.runtime.hooks.ClientAddress(x.r)), time.Now()
	if wait := x.runtime.throttle.mustWait(digest, from, x.config.WrongKeyLimit, now); wait > 0 {
		return errWrongKeys(wait)
	}
	found, owner, err := ledger.Login(x.ctx, digest)
	switch {
	case errors.Is(err, billing.ErrUnknownKey):
		x.runtime.throttle.wrong(digest, from, now)
		return errKey("invalid gateway key")
	case err != nil:
		return storeError("looking for a gateway key", err)
	}
	x.runtime.throttle.right(digest)
	x.key, err = x.gateway.keyOf(&found, &owner, now)
	return err
}

// keyOf makes the key of a request from what the store has of it.
func (g *Gateway) keyOf(found *billing.Key, owner *billing.Profile, now time.Time) (*Key, error) {
	// What the config says of a user counts, also of one whom the API has made.
	k := &Key{ID: found.ID, Models: found.Models, User: g.Config.Users[owner.Name]}
	switch {
	case k.User != nil:
	case owner.Source == billing.SourceConfig:
		// A config that has dropped the user has dropped his keys.
		return nil, errKey("invalid gateway key")
	case owner.Disabled:
		return nil, errKey("the owner of this gateway key is disabled")
	default:
		k.User = &User{Name: owner.Name, Concurrency: owner.Concurrency}
	}
	if !found.Expires.IsZero() && !now.Before(found.Expires) {
		return nil, errKey("this gateway key expired at " + found.Expires.UTC().Format(time.RFC3339))
	}
	for _, name := range found.Groups {
		if group := g.Config.Groups[name]; group != nil {
			k.Groups = append(k.Groups, group)
		}
	}
	if len(found.Groups) > 0 && len(k.Groups) == 0 {
		return nil, invalid("the groups of this gateway key are no longer there: " + strings.Join(found.Groups, ", "))
	}
	return k, nil
}

// gatewayKey reads the key from the first of the headers that clients use.
func gatewayKey(header http.Header) string {
	if key := header.Get("X-Api-Key"); key != "" {
		return key
	}
	if scheme, key, ok := strings.Cut(header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		if key = strings.TrimSpace(key); key != "" {
			return key
		}
	}
	return header.Get("X-Goog-Api-Key")
}

// mayAsk reports whether the key may ask for a model. "[1m]" is no part of a
// model's name.
func (k *Key) mayAsk(model string) bool {
	if len(k.Models) == 0 {
		return true
	}
	for _, pattern := range k.Models {
		prefix, wild := strings.CutSuffix(pattern, "*")
		if wild && strings.HasPrefix(model, prefix) || !wild && modelname.Base(pattern) == modelname.Base(model) {
			return true
		}
	}
	return false
}

// chooseGroup picks the first of the key's groups that can serve the model. A
// key without groups may use every account; the group is nil then.
func (g *Gateway) chooseGroup(k *Key, force upstream.Platform, model string) (*Group, error) {
	if !k.mayAsk(model) {
		return nil, invalid("this gateway key may not use the model " + shorten(model))
	}
	if len(k.Groups) == 0 {
		if g.Scheduler.Serves("", force, model) {
			return nil, nil
		}
	}
	for _, group := range k.Groups {
		if g.Scheduler.Serves(group.Name, force, model) {
			return group, nil
		}
	}
	return nil, errNoAccount(force, model)
}

// shorten bounds a client's text for a message.
func shorten(text string) string {
	const most = 100
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
