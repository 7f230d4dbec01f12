package config

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
	"github.com/sub2api/caddy-sub2api/caddymodule/gateway"
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

// Build fills in the defaults, checks the config and resolves it. It reads
// environment variables and files. Errors name the item and the placeholder,
// never a secret.
func (h *Config) Build() (*gateway.Config, error) {
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
	s := &gateway.Config{
		Simple:  h.Mode == modeSimple,
		Storage: storage,
		Zone:    zone,
		Groups:  make(map[string]*gateway.Group, len(h.Groups)),
		Users:   make(map[string]*gateway.User, len(h.Users)),
		Keys:    make(map[[sha256.Size]byte]*gateway.Key),
	}
	h.addSections(s)
	if s.Prices, err = h.Billing.readPrices(); err != nil {
		return nil, fmt.Errorf("billing: prices: %w", err)
	}
	if s.EncryptionKey, err = h.resolveEncryptionKey(); err != nil {
		return nil, fmt.Errorf("encryption_key: %w", err)
	}
	for i := range h.Accounts {
		account, err := h.Accounts[i].build(zone)
		if err != nil {
			return nil, fmt.Errorf("account %s: %w", h.Accounts[i].Name, err)
		}
		s.Accounts = append(s.Accounts, account)
	}
	for _, g := range h.Groups {
		made := &gateway.Group{Name: g.Name, Platform: upstream.Platform(g.Platform)}
		if g.Limits != nil {
			made.Subscription, made.Limits = true, g.Limits.amounts()
		} else {
			made.Rate = *g.RateMultiplier
		}
		s.Groups[g.Name] = made
	}
	if err := addDeclaredUsers(s, h.Users); err != nil {
		return nil, err
	}
	s.Scheduler = h.schedulerSettings(s.Accounts)
	return s, nil
}

// addSections adds what the blocks scheduling, retry, request, relay and billing say.
func (h *Config) addSections(s *gateway.Config) {
	s.ContentSession = gateway.ContentSession(h.Scheduling.ContentSession)
	s.HoldWait = time.Duration(*h.Scheduling.UserWaitTimeout)

	s.Attempts, s.Delay = *h.Retry.Attempts, time.Duration(*h.Retry.Delay)
	s.MaxSwitches, s.FailoverOn400 = *h.Retry.MaxSwitches, h.Retry.FailoverOn400

	s.MaxBody = *h.Request.MaxBody
	s.InjectSystem = gateway.InjectSystem(h.Request.InjectSystem)
	s.ThinkingBlocks = gateway.ThinkingBlocks(h.Request.ThinkingBlocks)
	s.InjectBeta, s.Identity = h.Request.InjectBeta, h.Request.Identity
	s.LogErrors = h.Request.LogUpstreamErrors
	s.WrongKeyLimit = *h.Request.WrongKeyLimit
	s.PassUnserved = h.Request.Unserved == unservedNext
	for _, name := range h.Request.AllowHeader {
		s.AllowHeader = append(s.AllowHeader, strings.ToLower(name))
	}

	s.HeaderTimeout = time.Duration(*h.Relay.HeaderTimeout)
	s.AnswerTimeout = time.Duration(*h.Relay.AnswerTimeout)
	s.StreamTimeout = time.Duration(*h.Relay.StreamTimeout)
	s.FirstEventTimeout = time.Duration(*h.Relay.FirstEventTimeout)
	s.IdleTimeout = time.Duration(*h.Relay.IdleTimeout)
	s.Drain = time.Duration(h.Relay.OnDisconnect.Drain)
	if s.Keepalive = time.Duration(*h.Relay.Keepalive.Interval); s.Keepalive > 0 {
		s.KeepaliveAfter = time.Duration(*h.Relay.Keepalive.After)
	}

	s.DefaultRate = *h.Billing.RateMultiplier
	s.Hold = gateway.Hold(h.Billing.Hold)
	s.Retention = time.Duration(*h.Billing.Retention)
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
func addDeclaredUsers(s *gateway.Config, users []User) error {
	for _, u := range users {
		declared := billing.User{Name: u.Name, Unlimited: u.Balance == Unlimited}
		if !declared.Unlimited {
			var err error
			if declared.Balance, err = billing.ParseUSD(string(u.Balance)); err != nil {
				return fmt.Errorf("user %s: balance: %w", u.Name, err)
			}
		}
		s.Declared = append(s.Declared, declared)
		owner := &gateway.User{Name: u.Name, Concurrency: *u.Concurrency, Unlimited: declared.Unlimited}
		for _, subscribe := range u.Subscriptions {
			if owner.Subscriptions == nil {
				owner.Subscriptions = make(map[string]time.Time)
			}
			owner.Subscriptions[subscribe.Group], _ = ParseMoment(subscribe.Until, s.Zone) // checked
		}
		s.Users[u.Name] = owner
		for _, k := range u.Keys {
			if err := addDeclaredKey(s, owner, k); err != nil {
				return fmt.Errorf("user %s: key: %w", u.Name, err)
			}
		}
	}
	return nil
}

func addDeclaredKey(s *gateway.Config, owner *gateway.User, k Key) error {
	text, err := resolve(k.Key)
	if err != nil {
		return err
	}
	digest, err := keyDigest(text)
	if err != nil {
		return err
	}
	if other, ok := s.Keys[digest]; ok {
		return fmt.Errorf("is the same as a key of user %s; every key belongs to one user, once", other.User.Name)
	}
	entry := &gateway.Key{ID: hex.EncodeToString(digest[:])[:gateway.KeyIDDigits], User: owner}
	for _, name := range k.Groups {
		entry.Groups = append(entry.Groups, s.Groups[name])
	}
	s.Keys[digest] = entry
	return nil
}

func (h *Config) schedulerSettings(accounts []*upstream.Account) scheduler.Settings {
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
