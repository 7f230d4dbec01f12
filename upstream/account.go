// Package upstream is how to talk to an account: who it is (Account), how its
// connections are made (Transports), and what its answers mean (Failure,
// Usage). The dialects live in the packages below it.
package upstream

import (
	"net/url"
	"slices"
	"strings"

	"github.com/sub2api/caddy-sub2api/internal/modelname"
)

// Platform names whose API an account speaks.
type Platform string

// The platforms of the `platform` option.
const (
	Anthropic   Platform = "anthropic"
	Gemini      Platform = "gemini"
	OpenAI      Platform = "openai"
	Antigravity Platform = "antigravity"
)

// Platforms lists every platform, in the order of the documentation.
var Platforms = []Platform{Anthropic, Gemini, OpenAI, Antigravity}

// DefaultBaseURL is where a platform's accounts live when the config names no
// base_url; "" where there is no such place and base_url is required.
func (p Platform) DefaultBaseURL() string {
	switch p {
	case Anthropic:
		return "https://api.anthropic.com"
	case Gemini:
		return "https://generativelanguage.googleapis.com"
	case OpenAI:
		return "https://api.openai.com"
	}
	return ""
}

// CredentialKind is the form of an account's credential.
type CredentialKind uint8

// The kinds of credential; an account has exactly one.
const (
	APIKey CredentialKind = iota
	SetupToken
	OAuth
)

func (k CredentialKind) String() string {
	switch k {
	case SetupToken:
		return "setup_token"
	case OAuth:
		return "oauth"
	}
	return "api_key"
}

// Account is one upstream credential and how to use it. It never changes: a
// new config makes new Accounts, and what must outlive a config (slots, state)
// is keyed by Name.
type Account struct {
	// Name is unique in a store; it shows in metrics and the admin API, and
	// never to a client.
	Name     string
	Platform Platform
	Kind     CredentialKind
	// Secret is the API key, the setup token or the OAuth access token.
	Secret string
	// Refresh is how an OAuth access token is refreshed; nil = it is not, and
	// Secret is what there is.
	Refresh *Refresh
	// BaseURL has no trailing slash, and no /v1: requests go to BaseURL + path.
	BaseURL *url.URL
	// Proxy is what connections to BaseURL go through, as ParseProxy made it; nil
	// = none. It may hold credentials.
	Proxy *url.URL
	// Priority: the lowest is tried first.
	Priority int
	// Concurrency is how many requests may be in flight; 0 = no limit.
	Concurrency int
	// Models are the models that the account serves; empty = all.
	Models ModelMap
	// ErrorCodes, when not empty, are the only statuses that change this
	// account's state (api_key accounts).
	ErrorCodes []int
	// Header holds extra request headers, set last.
	Header []HeaderField
	// AccountUUID is the provider's id of the account, "" if unknown.
	AccountUUID string
	// MixedScheduling lets an antigravity account serve groups of other
	// platforms.
	MixedScheduling bool
	// Disabled accounts are kept but never scheduled.
	Disabled bool
}

// HeaderField is one header to set on a request.
type HeaderField struct{ Name, Value string }

// Serves reports whether the account's models hold the client's model.
// Antigravity serves exactly claude-* and gemini-*.
func (a *Account) Serves(model string) bool {
	if a.Platform == Antigravity && !strings.HasPrefix(model, "claude-") && !strings.HasPrefix(model, "gemini-") {
		return false
	}
	_, ok := a.Models.Resolve(model)
	return ok
}

// Bearer reports whether the account's credential travels as
// `Authorization: Bearer` (oauth, setup_token) rather than as x-api-key.
func (a *Account) Bearer() bool { return a.Kind != APIKey }

// ModelRule maps one client model name, or a prefix of names, to the name sent
// upstream.
type ModelRule struct {
	// Match is a model name; with a trailing * it matches every name with that
	// prefix.
	Match string
	// Upstream is the name to send; "" = the client's own.
	Upstream string
}

// ModelMap says which models an account serves. The zero value serves every
// model under its own name. "[1m]" after a name, in any case, is no part of it:
// neither of the client's nor of a rule's.
type ModelMap []ModelRule

// Resolve returns the name to send upstream for the client's model, as the client
// wrote it where no rule renames it, and whether the model is served at all. An
// exact name wins over a prefix, a longer prefix over a shorter; of two names that
// only "[1m]" tells apart, the one written as the client's model.
func (m ModelMap) Resolve(model string) (string, bool) {
	if len(m) == 0 {
		return model, true
	}
	base := modelname.Base(model)
	exact, prefixed := -1, -1
	for i, rule := range m {
		prefix, wild := strings.CutSuffix(rule.Match, "*")
		switch {
		case rule.Match == model && !wild:
			return rule.name(model), true
		case wild && strings.HasPrefix(model, prefix):
			if prefixed < 0 || len(rule.Match) > len(m[prefixed].Match) {
				prefixed = i
			}
		case !wild && modelname.Base(rule.Match) == base:
			if exact < 0 || modelname.IsLong(rule.Match) == modelname.IsLong(model) {
				exact = i
			}
		}
	}
	switch {
	case exact >= 0:
		return m[exact].name(model), true
	case prefixed >= 0:
		return m[prefixed].name(model), true
	}
	return "", false
}

// Names lists the exact model names, without patterns and without "[1m]", in no
// set order.
func (m ModelMap) Names() []string {
	var names []string
	for _, rule := range m {
		if name := modelname.Base(rule.Match); !strings.HasSuffix(name, "*") && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func (r ModelRule) name(model string) string {
	if r.Upstream == "" {
		return model
	}
	return r.Upstream
}
