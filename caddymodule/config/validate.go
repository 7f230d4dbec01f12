package config

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/google/uuid"

	"github.com/sub2api/caddy-sub2api/upstream"
)

// Validate implements caddy.Validator. The directive's parser runs it as well,
// to report the same errors with file and line.
func (h *Config) Validate() error {
	return cmp.Or(
		h.checkTop(),
		h.checkAccounts(),
		h.checkGroups(),
		h.checkUsers(),
		checkSection("scheduling", h.Scheduling, (*Scheduling).options),
		checkSection("retry", h.Retry, (*Retry).options),
		checkSection("request", h.Request, (*Request).options),
		checkSection("relay", h.Relay, (*Relay).options),
		checkSection("billing", h.Billing, (*Billing).options),
	)
}

func (h *Config) checkTop() error {
	top := position{"", "sub2api"}
	if err := checkOptions(top, h.options()); err != nil {
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
		at := position{fmt.Sprintf("account[%d]", i), "account " + a.Name}
		err := cmp.Or(
			at.name(a.Name, names),
			checkOptions(at, a.options()),
			a.checkCredential(at),
			a.checkBaseURL(at),
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

func (a *Account) checkCredential(at position) error {
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

func (a *Account) checkUUID(at position) error {
	switch {
	case a.AccountUUID == "":
		return nil
	case a.APIKey != "":
		return at.errorf("account_uuid", "is for oauth and setup_token accounts; leave it out")
	case len(a.AccountUUID) != 36 || uuid.Validate(a.AccountUUID) != nil:
		return at.errorf("account_uuid", "%q is not a UUID, such as 11111111-2222-4333-8444-555555555555", a.AccountUUID)
	}
	return nil
}

func (a *Account) checkBaseURL(at position) error {
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

func (a *Account) checkModels(at position) error {
	var seen []string
	for i, rule := range a.Models {
		word := fmt.Sprintf("models[%d]", i)
		prefix := strings.TrimSuffix(rule.Match, "*")
		switch {
		case rule.Match == "":
			return at.errorf(word, "holds an empty model name; name a model, or a prefix with a trailing *")
		case !ModelName(rule.Match) || !ModelName(rule.Upstream):
			return at.errorf(word, "%q or %q is not a model name: it holds a space or control character, or is not UTF-8", rule.Match, rule.Upstream)
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

func (a *Account) checkErrorCodes(at position) error {
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

func (a *Account) checkHeader(at position) error {
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
		at := position{fmt.Sprintf("group[%d]", i), "group " + g.Name}
		err := cmp.Or(
			at.name(g.Name, names),
			checkOptions(at, g.options()),
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
func (h *Config) checkGroupAccounts(g *Group, at position) error {
	platform := cmp.Or(g.Platform, string(upstream.Anthropic))
	for i, name := range g.Accounts {
		found := slices.IndexFunc(h.Accounts, func(a Account) bool { return a.Name == name })
		if found < 0 {
			return at.errorf("accounts", "names %q, which is not an account here; there are: %s", name, NameList(h.Accounts, func(a Account) string { return a.Name }))
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
		at := position{fmt.Sprintf("user[%d]", i), "user " + u.Name}
		err := cmp.Or(
			at.name(u.Name, names),
			checkOptions(at, u.options()),
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
func (h *Config) checkKey(u *User, j int, at position, owners map[string]string) error {
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
			return at.errorf(word, "the group in place %d is not a group here; there are: %s", i+1, NameList(h.Groups, func(g Group) string { return g.Name }))
		}
		if slices.Contains(key.Groups[:i], name) {
			return at.errorf(word, "names group %s twice; keep one", name)
		}
	}
	return nil
}

// checkSection checks the options of a block; nil is none.
func checkSection[T any](name string, section *T, options func(*T) []option) error {
	if section == nil {
		return nil
	}
	return checkOptions(position{name, name}, options(section))
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
