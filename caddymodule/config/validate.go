package config

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/google/uuid"

	"github.com/sub2api/caddy-sub2api/caddymodule/gateway"
	"github.com/sub2api/caddy-sub2api/upstream"
)

// Bounds of the options: far above what anyone needs, and low enough that a
// slip of the finger is noticed when the config is loaded.
const (
	MaxConcurrency = 100_000
	maxWaiting     = 100_000
	maxPriority    = 1_000_000
	maxSwitches    = 100
	maxAttempts    = 100
	maxDelay       = time.Minute
	maxErrorLog    = 1 << 20
	maxBodyLimit   = 1 << 30
	maxStickyTTL   = 30 * 24 * time.Hour
	maxWait        = time.Hour
	maxCooldown    = 24 * time.Hour
	maxOverload    = 10 * time.Minute
	maxErrorRetry  = 6 * time.Hour // what it doubles up to
	maxDuration    = 24 * time.Hour
	maxKeepalive   = 10 * time.Minute
	maxWrongKeys   = 1_000_000
)

// Validate implements caddy.Validator. The directive's parser runs it as well,
// to report the same errors with file and line.
func (h *Config) Validate() error {
	return cmp.Or(
		h.checkTop(),
		h.checkAccounts(),
		h.checkGroups(),
		h.checkUsers(),
		h.Scheduling.check(),
		h.Retry.check(),
		h.Request.check(),
		h.Relay.check(),
		h.Billing.check(),
	)
}

func (h *Config) checkTop() error {
	top := spot{"", "sub2api"}
	if err := top.oneOf("mode", h.Mode, modeStandard, modeSimple); err != nil {
		return err
	}
	if err := h.checkEncryptionKey(top); err != nil {
		return err
	}
	if err := h.Store.check(); err != nil {
		return err
	}
	if len(h.Accounts) == 0 {
		return top.errorf("", "there is no account; add a block such as `account main`, with a line `api_key {env.ANTHROPIC_API_KEY}`")
	}
	if len(h.Users) == 0 && h.Mode != modeSimple {
		return top.errorf("", "there is no user, so nobody could use the gateway; add a block such as `user alice`, with a line `key {env.ALICE_KEY}`, or set `mode simple`")
	}
	return nil
}

func (h *Config) checkAccounts() error {
	names := map[string]bool{}
	for i := range h.Accounts {
		a := &h.Accounts[i]
		at := spot{fmt.Sprintf("account[%d]", i), "account " + a.Name}
		err := cmp.Or(
			at.name(a.Name, names),
			at.oneOf("platform", a.Platform, platformNames()...),
			a.checkCredential(at),
			a.checkBaseURL(at),
			a.checkProxy(at),
			at.between("priority", a.Priority, 0, maxPriority),
			at.between("concurrency", &a.Concurrency, 0, MaxConcurrency),
			a.checkModels(at),
			a.checkErrorCodes(at),
			a.checkHeader(at),
			a.checkUUID(at),
		)
		if err != nil {
			return err
		}
		if a.MixedScheduling && a.Platform != string(upstream.Antigravity) {
			return at.errorf("mixed_scheduling", "is for accounts of platform antigravity; leave it out, or set: platform antigravity")
		}
		names[a.Name] = true
	}
	return nil
}

func (a *Account) checkCredential(at spot) error {
	var have []string
	if a.APIKey != "" {
		have = append(have, "api_key")
	}
	if a.SetupToken != "" {
		have = append(have, "setup_token")
	}
	if a.OAuth != nil {
		have = append(have, "oauth")
	}
	switch {
	case len(have) == 0:
		return at.errorf("", "has no credential; add one of api_key, setup_token and oauth")
	case len(have) > 1:
		return at.errorf("", "has %s; keep exactly one", strings.Join(have, " and "))
	case a.OAuth != nil:
		return a.OAuth.check(at.in("oauth"))
	}
	return at.secret(have[0], a.APIKey+a.SetupToken)
}

func (a *Account) checkUUID(at spot) error {
	switch {
	case a.AccountUUID == "":
		return nil
	case a.APIKey != "":
		return at.errorf("account_uuid", "is for oauth and setup_token accounts; leave it out")
	case len(a.AccountUUID) != 36 || uuid.Validate(a.AccountUUID) != nil:
		return at.errorf("account_uuid", "%q is no UUID, such as 11111111-2222-4333-8444-555555555555", a.AccountUUID)
	}
	return nil
}

func (a *Account) checkBaseURL(at spot) error {
	if a.BaseURL == "" {
		if a.Platform == string(upstream.Antigravity) {
			return at.errorf("", "needs a base_url: platform antigravity has no default one")
		}
		return nil
	}
	found, err := placeholders(a.BaseURL)
	if err == nil && !found {
		_, err = parseBaseURL(a.BaseURL)
	}
	if err != nil {
		return at.errorf("base_url", "%w", err)
	}
	return nil
}

func (a *Account) checkModels(at spot) error {
	var seen []string
	for i, rule := range a.Models {
		word := fmt.Sprintf("models[%d]", i)
		prefix := strings.TrimSuffix(rule.Match, "*")
		switch {
		case rule.Match == "":
			return at.errorf(word, "holds an empty model name; name a model, or a prefix with a trailing *")
		case !ModelName(rule.Match) || !ModelName(rule.Upstream):
			return at.errorf(word, "%q or %q is no model name: it holds a space or control character, or is not UTF-8", rule.Match, rule.Upstream)
		case strings.Contains(prefix, "*"):
			return at.errorf(word, "%q has a * that is not at its end; only a trailing * matches", rule.Match)
		case strings.Contains(rule.Upstream, "*"):
			return at.errorf(word, "%q can't be sent upstream; write one model name, without a *", rule.Upstream)
		case slices.Contains(seen, rule.Match):
			return at.errorf(word, "holds %q twice; keep one", rule.Match)
		}
		seen = append(seen, rule.Match)
	}
	return nil
}

func ModelName(name string) bool {
	return utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsGraphic(r) || unicode.IsSpace(r) })
}

func (a *Account) checkErrorCodes(at spot) error {
	if len(a.ErrorCodes) > 0 && a.APIKey == "" {
		return at.errorf("error_codes", "is for api_key accounts only; leave it out")
	}
	for i, code := range a.ErrorCodes {
		if code < 400 || code > 599 {
			return at.errorf("error_codes", "has %d; it must be an HTTP status between 400 and 599", code)
		}
		if slices.Contains(a.ErrorCodes[:i], code) {
			return at.errorf("error_codes", "has %d twice; keep one", code)
		}
	}
	return nil
}

func (a *Account) checkHeader(at spot) error {
	var seen []string
	for i, field := range a.Header {
		word := fmt.Sprintf("header[%d]", i)
		if err := headerName(field.Name); err != nil {
			return at.errorf(word, "%w", err)
		}
		name := http.CanonicalHeaderKey(field.Name)
		if slices.Contains(seen, name) {
			return at.errorf(word, "%s is set twice; keep one", name)
		}
		found, err := placeholders(field.Value)
		if err == nil && !found {
			err = headerValue(field.Value)
		}
		if err != nil {
			return at.errorf(word, "%s: %w", name, err)
		}
		seen = append(seen, name)
	}
	return nil
}

func (h *Config) checkGroups() error {
	names := map[string]bool{}
	for i := range h.Groups {
		g := &h.Groups[i]
		at := spot{fmt.Sprintf("group[%d]", i), "group " + g.Name}
		err := cmp.Or(
			at.name(g.Name, names),
			at.oneOf("platform", g.Platform, platformNames()...),
			at.rate("rate_multiplier", g.RateMultiplier),
			g.checkPrice(at),
			g.Limits.check(at),
			h.checkGroupAccounts(g, at),
		)
		if err != nil {
			return err
		}
		names[g.Name] = true
	}
	return nil
}

// checkGroupAccounts lets a group hold accounts of its own platform, and those
// of antigravity, which serve it under /antigravity or by mixed_scheduling.
func (h *Config) checkGroupAccounts(g *Group, at spot) error {
	platform := cmp.Or(g.Platform, string(upstream.Anthropic))
	for i, name := range g.Accounts {
		found := slices.IndexFunc(h.Accounts, func(a Account) bool { return a.Name == name })
		if found < 0 {
			return at.errorf("accounts", "names %q, which is no account here; there are: %s", name, NameList(h.Accounts, func(a Account) string { return a.Name }))
		}
		if slices.Contains(g.Accounts[:i], name) {
			return at.errorf("accounts", "names %s twice; keep one", name)
		}
		theirs := cmp.Or(h.Accounts[found].Platform, string(upstream.Anthropic))
		if theirs != platform && theirs != string(upstream.Antigravity) {
			return at.errorf("accounts", "names %s, which is of platform %s, and this group is of platform %s; put it into a group of its own platform", name, theirs, platform)
		}
	}
	return nil
}

func (h *Config) checkUsers() error {
	names := map[string]bool{}
	owners := map[string]string{}
	for i := range h.Users {
		u := &h.Users[i]
		at := spot{fmt.Sprintf("user[%d]", i), "user " + u.Name}
		err := cmp.Or(
			at.name(u.Name, names),
			at.balance("balance", u.Balance),
			at.between("concurrency", u.Concurrency, 0, MaxConcurrency),
			h.checkSubscriptions(u, at),
		)
		if err != nil {
			return err
		}
		for j := range u.Keys {
			if err := h.checkKey(u, j, at, owners); err != nil {
				return err
			}
		}
		names[u.Name] = true
	}
	return nil
}

// checkKey checks the user's j-th key; owners maps the keys seen so far to
// their users.
func (h *Config) checkKey(u *User, j int, at spot, owners map[string]string) error {
	word, key := fmt.Sprintf("key[%d]", j), &u.Keys[j]
	id, err := keyIdentity(key.Key)
	if err != nil {
		return at.errorf(word, "%w", err)
	}
	if owner, ok := owners[id]; ok {
		return at.errorf(word, "is a key of user %s already; every key belongs to one user, once", owner)
	}
	owners[id] = u.Name
	for i, name := range key.Groups {
		if !slices.ContainsFunc(h.Groups, func(g Group) bool { return g.Name == name }) {
			// Not by its name: someone may have written a second key there.
			return at.errorf(word, "the group in place %d is no group here; there are: %s", i+1, NameList(h.Groups, func(g Group) string { return g.Name }))
		}
		if slices.Contains(key.Groups[:i], name) {
			return at.errorf(word, "names group %s twice; keep one", name)
		}
	}
	return nil
}

func (s *Scheduling) check() error {
	if s == nil {
		return nil
	}
	at := spot{"scheduling", "scheduling"}
	return cmp.Or(
		at.upTo("sticky_ttl", s.StickyTTL, maxStickyTTL),
		at.between("sticky_max_waiting", s.StickyMaxWaiting, 0, maxWaiting),
		at.upTo("sticky_wait_timeout", s.StickyWaitTimeout, maxWait),
		at.between("fallback_max_waiting", s.FallbackMaxWaiting, 0, maxWaiting),
		at.upTo("fallback_wait_timeout", s.FallbackWaitTimeout, maxWait),
		at.between("user_extra_waiting", s.UserExtraWaiting, 0, maxWaiting),
		at.upTo("user_wait_timeout", s.UserWaitTimeout, maxWait),
		at.oneOf("content_session", s.ContentSession, string(gateway.SessionByConversation), string(gateway.SessionByCacheable)),
		at.upTo("overload_cooldown", s.OverloadCooldown, maxOverload),
		at.upTo("rate_limit_cooldown", s.RateLimitCooldown, maxCooldown),
		at.notOver("error_retry", s.ErrorRetry, maxErrorRetry),
	)
}

func (r *Retry) check() error {
	if r == nil {
		return nil
	}
	at := spot{"retry", "retry"}
	return cmp.Or(
		at.between("attempts", r.Attempts, 0, maxAttempts),
		at.notOver("delay", r.Delay, maxDelay),
		at.between("max_switches", r.MaxSwitches, 0, maxSwitches),
	)
}

func (r *Request) check() error {
	if r == nil {
		return nil
	}
	at := spot{"request", "request"}
	if r.MaxBody != nil && (*r.MaxBody < 1 || *r.MaxBody > maxBodyLimit) {
		return at.errorf("max_body", "is %d bytes; it must be between 1 byte and 1GiB", *r.MaxBody)
	}
	if r.LogUpstreamErrors < 0 || r.LogUpstreamErrors > maxErrorLog {
		return at.errorf("log_upstream_errors", "is %d bytes; it must be between 0 and 1MiB", r.LogUpstreamErrors)
	}
	for i, name := range r.AllowHeader {
		word := fmt.Sprintf("allow_header[%d]", i)
		if err := allowedHeader(name); err != nil {
			return at.errorf(word, "%w", err)
		}
		if slices.ContainsFunc(r.AllowHeader[:i], func(other string) bool { return strings.EqualFold(other, name) }) {
			return at.errorf(word, "names %s twice; keep one", name)
		}
	}
	return cmp.Or(
		at.between("wrong_key_limit", r.WrongKeyLimit, 0, maxWrongKeys),
		at.oneOf("inject_system", r.InjectSystem, string(gateway.InjectSystemOff), string(gateway.InjectSystemOAuth), string(gateway.InjectSystemAll)),
		at.oneOf("thinking_blocks", r.ThinkingBlocks, string(gateway.ThinkingKeep), string(gateway.ThinkingStrip), string(gateway.ThinkingRetry)),
		at.oneOf("unserved", r.Unserved, unserved404, unservedNext),
	)
}

func (r *Relay) check() error {
	if r == nil {
		return nil
	}
	at := spot{"relay", "relay"}
	err := cmp.Or(
		at.upTo("header_timeout", r.HeaderTimeout, maxWait),
		at.upTo("answer_timeout", r.AnswerTimeout, maxDuration),
		at.notOver("stream_timeout", r.StreamTimeout, maxDuration),
		at.upTo("first_event_timeout", r.FirstEventTimeout, maxWait),
		at.upTo("idle_timeout", r.IdleTimeout, maxWait),
	)
	if err == nil && r.OnDisconnect != nil {
		err = at.notOver("on_disconnect", &r.OnDisconnect.Drain, maxWait)
	}
	if err != nil || r.Keepalive == nil {
		return err
	}
	interval, after := r.Keepalive.Interval, r.Keepalive.After
	if interval != nil && *interval == 0 {
		if after != nil {
			return at.errorf("keepalive", "is 0, which is never, so it has no time to start after; leave that out")
		}
		return nil
	}
	return cmp.Or(at.upTo("keepalive", interval, maxKeepalive), at.upTo("keepalive", after, maxKeepalive))
}

func platformNames() []string {
	names := make([]string, 0, len(upstream.Platforms))
	for _, p := range upstream.Platforms {
		names = append(names, string(p))
	}
	return names
}

// NameList lists what there is to choose from, for an error.
func NameList[T any](items []T, name func(T) string) string {
	if len(items) == 0 {
		return "none"
	}
	names := make([]string, 0, len(items))
	for _, item := range items {
		names = append(names, name(item))
	}
	return strings.Join(names, ", ")
}

var _ caddy.Validator = (*Config)(nil)
