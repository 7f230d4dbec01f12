package caddymodule

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/caddymodule/store"
	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream"
)

// The values of options that are one of a few words.
const (
	modeStandard = "standard"
	modeSimple   = "simple"

	durabilityProcess = "process"
	durabilityPower   = "power"

	unserved404  = "404"
	unservedNext = "next"
)

// settings fills in the defaults, checks the config and resolves it. It reads
// environment variables and files. Errors name the item and the placeholder,
// never a secret.
func (h *Handler) settings() (*settings, error) {
	h.setDefaults()
	if err := h.Validate(); err != nil {
		return nil, atPath(err)
	}
	zone, err := loadZone(h.Billing.Timezone)
	if err != nil {
		return nil, err // it was checked
	}
	storage, err := h.Store.build(store.Keeping{Sync: h.Billing.Durability == durabilityPower, Zone: zone})
	if err != nil {
		return nil, err
	}
	s := &settings{
		simple:  h.Mode == modeSimple,
		storage: storage,
		zone:    zone,
		groups:  make(map[string]*group, len(h.Groups)),
		users:   make(map[string]*user, len(h.Users)),
		keys:    make(map[[sha256.Size]byte]*key),

		contentSession: contentSession(h.Scheduling.ContentSession),
		attempts:       *h.Retry.Attempts,
		delay:          time.Duration(*h.Retry.Delay),
		maxSwitches:    *h.Retry.MaxSwitches,
		failoverOn400:  h.Retry.FailoverOn400,

		maxBody:        *h.Request.MaxBody,
		injectSystem:   injectSystem(h.Request.InjectSystem),
		thinkingBlocks: thinkingBlocks(h.Request.ThinkingBlocks),
		injectBeta:     h.Request.InjectBeta,
		identity:       h.Request.Identity,
		logErrors:      h.Request.LogUpstreamErrors,

		headerTimeout:     time.Duration(*h.Relay.HeaderTimeout),
		answerTimeout:     time.Duration(*h.Relay.AnswerTimeout),
		streamTimeout:     time.Duration(*h.Relay.StreamTimeout),
		firstEventTimeout: time.Duration(*h.Relay.FirstEventTimeout),
		idleTimeout:       time.Duration(*h.Relay.IdleTimeout),
		drain:             time.Duration(h.Relay.OnDisconnect.Drain),
		keepalive:         time.Duration(*h.Relay.Keepalive.Interval),

		wrongKeyLimit: *h.Request.WrongKeyLimit,
		passUnserved:  h.Request.Unserved == unservedNext,

		defaultRate: *h.Billing.RateMultiplier,
		hold:        h.Billing.Hold,
		holdWait:    time.Duration(*h.Scheduling.UserWaitTimeout),
		retention:   time.Duration(*h.Billing.Retention),
	}
	if s.prices, err = h.Billing.readPrices(); err != nil {
		return nil, fmt.Errorf("billing: prices: %w", err)
	}
	if s.keepalive > 0 {
		s.keepaliveAfter = time.Duration(*h.Relay.Keepalive.After)
	}
	for _, name := range h.Request.AllowHeader {
		s.allowHeader = append(s.allowHeader, strings.ToLower(name))
	}
	if s.encryptionKey, err = h.resolveEncryptionKey(); err != nil {
		return nil, fmt.Errorf("encryption_key: %w", err)
	}
	for i := range h.Accounts {
		account, err := h.Accounts[i].build(zone)
		if err != nil {
			return nil, fmt.Errorf("account %s: %w", h.Accounts[i].Name, err)
		}
		s.accounts = append(s.accounts, account)
	}
	for _, g := range h.Groups {
		made := &group{name: g.Name, platform: upstream.Platform(g.Platform)}
		if g.Limits != nil {
			made.subscription, made.limits = true, g.Limits.amounts()
		} else {
			made.rate = *g.RateMultiplier
		}
		s.groups[g.Name] = made
	}
	if err := addDeclaredUsers(s, h.Users); err != nil {
		return nil, err
	}
	s.scheduler = h.schedulerSettings(s.accounts)
	return s, nil
}

// build resolves a store that was checked.
func (s *Store) build(keeping store.Keeping) (store.Config, error) {
	if s.Redis != nil {
		redis, err := s.Redis.settings(keeping)
		if err != nil {
			return nil, fmt.Errorf("store redis: %w", err)
		}
		return redis, nil
	}
	dir, err := resolve(s.Embedded.Dir)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("store: making %s absolute: %w", dir, err)
	}
	return store.Embedded{Dir: dir, Keeping: keeping}, nil
}

// build resolves an account that was checked. Days begin in zone.
func (a *Account) build(zone *time.Location) (*upstream.Account, error) {
	account := &upstream.Account{
		Name:            a.Name,
		Platform:        upstream.Platform(a.Platform),
		Priority:        *a.Priority,
		Concurrency:     a.Concurrency,
		ErrorCodes:      a.ErrorCodes,
		MixedScheduling: a.MixedScheduling,
		AccountUUID:     a.AccountUUID,
		Disabled:        a.Disabled,
	}
	word, secret := "api_key", a.APIKey
	switch {
	case a.SetupToken != "":
		account.Kind, word, secret = upstream.SetupToken, "setup_token", a.SetupToken
	case a.OAuth != nil:
		account.Kind, word, secret = upstream.OAuth, "oauth: access_token", a.OAuth.AccessToken
	}
	var err error
	account.Secret, err = resolve(secret)
	if err == nil {
		err = credentialText(account.Secret)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", word, err)
	}
	if account.Refresh, err = a.OAuth.build(zone); err != nil {
		return nil, fmt.Errorf("oauth: %w", err)
	}
	text, err := resolve(a.BaseURL)
	if err == nil {
		account.BaseURL, err = parseBaseURL(text)
	}
	if err != nil {
		return nil, fmt.Errorf("base_url: %w", err)
	}
	if account.Proxy, err = a.buildProxy(); err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	for _, rule := range a.Models {
		account.Models = append(account.Models, upstream.ModelRule(rule))
	}
	for _, field := range a.Header {
		name := http.CanonicalHeaderKey(field.Name)
		value, err := resolve(field.Value)
		if err == nil {
			err = headerValue(value)
		}
		if err != nil {
			return nil, fmt.Errorf("header: %s: %w", name, err)
		}
		account.Header = append(account.Header, upstream.HeaderField{Name: name, Value: value})
	}
	return account, nil
}

// addDeclaredUsers comes when the groups are known.
func addDeclaredUsers(s *settings, users []User) error {
	for _, u := range users {
		declared := billing.User{Name: u.Name, Unlimited: u.Balance == unlimited}
		if !declared.Unlimited {
			var err error
			if declared.Balance, err = billing.ParseUSD(string(u.Balance)); err != nil {
				return fmt.Errorf("user %s: balance: %w", u.Name, err)
			}
		}
		s.declared = append(s.declared, declared)
		owner := &user{name: u.Name, concurrency: *u.Concurrency, unlimited: declared.Unlimited}
		for _, subscribe := range u.Subscriptions {
			if owner.subscriptions == nil {
				owner.subscriptions = make(map[string]time.Time)
			}
			owner.subscriptions[subscribe.Group], _ = parseMoment(subscribe.Until, s.zone) // checked
		}
		s.users[u.Name] = owner
		for _, k := range u.Keys {
			if err := addDeclaredKey(s, owner, k); err != nil {
				return fmt.Errorf("user %s: key: %w", u.Name, err)
			}
		}
	}
	return nil
}

func addDeclaredKey(s *settings, owner *user, k Key) error {
	text, err := resolve(k.Key)
	if err != nil {
		return err
	}
	digest, err := keyDigest(text)
	if err != nil {
		return err
	}
	if other, ok := s.keys[digest]; ok {
		return fmt.Errorf("is the same as a key of user %s; every key belongs to one user, once", other.user.name)
	}
	entry := &key{id: hex.EncodeToString(digest[:6]), user: owner}
	for _, name := range k.Groups {
		entry.groups = append(entry.groups, s.groups[name])
	}
	s.keys[digest] = entry
	return nil
}

func (h *Handler) schedulerSettings(accounts []*upstream.Account) scheduler.Settings {
	options := h.Scheduling
	out := scheduler.Settings{
		Accounts:            accounts,
		GroupsDontLimit:     h.Mode == modeSimple,
		StickyTTL:           time.Duration(*options.StickyTTL),
		StickyMaxWaiting:    *options.StickyMaxWaiting,
		StickyWaitTimeout:   time.Duration(*options.StickyWaitTimeout),
		FallbackMaxWaiting:  *options.FallbackMaxWaiting,
		FallbackWaitTimeout: time.Duration(*options.FallbackWaitTimeout),
		UserExtraWaiting:    *options.UserExtraWaiting,
		UserWaitTimeout:     time.Duration(*options.UserWaitTimeout),
		LoadAware:           *options.LoadAware,
		OverloadCooldown:    time.Duration(*options.OverloadCooldown),
		RateLimitCooldown:   time.Duration(*options.RateLimitCooldown),
		ErrorRetry:          time.Duration(*options.ErrorRetry),
	}
	for _, g := range h.Groups {
		out.Groups = append(out.Groups, scheduler.Group{Name: g.Name, Platform: upstream.Platform(g.Platform), Accounts: g.Accounts})
	}
	return out
}

// resolve replaces the placeholders of a text that was checked. One that
// resolves to nothing is an error.
func resolve(text string) (string, error) {
	resolved, err := caddy.NewReplacer().ReplaceOrErr(text, true, true)
	if err != nil {
		return "", fmt.Errorf("%w; set the variable, or write the file, where Caddy runs", err)
	}
	return resolved, nil
}
