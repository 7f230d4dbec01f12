// Package config is the words of a handler: its JSON and its Caddyfile, their defaults and
// checks. It builds what a gateway works with.
package config

import (
	"github.com/caddyserver/caddy/v2"

	"github.com/sub2api/caddy-sub2api/billing"
)

// Config is the JSON of a handler. The zero value lacks accounts; all else has
// defaults.
type Config struct {
	// What the gateway guards: `standard` or `simple`. In simple mode nothing is
	// refused or charged for money, and groups don't limit which accounts serve.
	// Default: `standard`.
	Mode string `json:"mode,omitempty"`

	// The key that seals the secrets in the store, 32 bytes in base64 or
	// hexadecimal. May hold `{env.*}` and `{file.*}` placeholders.
	// Default: none; they are stored in clear, in files of mode 0600.
	EncryptionKey string `json:"encryption_key,omitempty"`

	// Where balances, records and account states are kept.
	// Default: an embedded store in the directory `sub2api` below Caddy's data
	// directory.
	Store *Store `json:"store,omitempty"`

	// The upstream accounts. At least one is needed.
	Accounts []Account `json:"account,omitempty"`

	// The groups, which tie gateway keys to accounts and to a price.
	// Default: none; keys without a group may use every account.
	Groups []Group `json:"group,omitempty"`

	// Who may use the gateway. Standard mode needs at least one.
	Users []User `json:"user,omitempty"`

	// How an account is chosen for a request.
	Scheduling *Scheduling `json:"scheduling,omitempty"`

	// What happens after an upstream failure.
	Retry *Retry `json:"retry,omitempty"`

	// How a request is prepared for upstream.
	Request *Request `json:"request,omitempty"`

	// How an answer is relayed.
	Relay *Relay `json:"relay,omitempty"`

	// What requests cost.
	Billing *Billing `json:"billing,omitempty"`
}

// Account is one upstream credential and how to use it. It has exactly one of
// api_key, setup_token and oauth.
type Account struct {
	// The account's name, which is unique. Clients never see it.
	Name string `json:"name"`

	// Whose API the account speaks: `anthropic`, `gemini`, `openai` or
	// `antigravity`. Default: `anthropic`.
	Platform string `json:"platform,omitempty"`

	// An API key, sent as `x-api-key`.
	APIKey string `json:"api_key,omitempty"`

	// A setup token, sent as `Authorization: Bearer`.
	SetupToken string `json:"setup_token,omitempty"`

	// An OAuth credential, sent as `Authorization: Bearer`.
	OAuth *OAuth `json:"oauth,omitempty"`

	// Where requests go, http or https, without a query. A slash or `/v1` at its
	// end makes no difference. May hold `{env.*}` and `{file.*}` placeholders.
	// Required for antigravity.
	// Default: the platform's own API.
	BaseURL string `json:"base_url,omitempty"`

	// What connections to the base_url go through: an http, https, socks5 (names
	// are looked up here) or socks5h (names are looked up by the proxy) URL, at
	// will with a user name and a password. May hold `{env.*}` and `{file.*}`
	// placeholders. Default: none; the environment's proxy is not used.
	Proxy string `json:"proxy,omitempty"`

	// The lowest is tried first. Default: 50
	Priority *int `json:"priority,omitempty"`

	// How many requests may be in flight on the account; 0 is no limit.
	// Default: 0
	Concurrency int `json:"concurrency,omitempty"`

	// The models that the account serves. An exact name wins over a prefix, a
	// longer prefix over a shorter. Default: every model.
	Models []ModelRule `json:"models,omitempty"`

	// For api_key accounts: the only upstream statuses (400 to 599) that change
	// the account's state. Default: every status does what it means.
	ErrorCodes []int `json:"error_codes,omitempty"`

	// Extra upstream request headers. They are set last and replace others of
	// the same name.
	Header []HeaderField `json:"header,omitempty"`

	// Keep the account, but never schedule it. Default: false
	Disabled bool `json:"disabled,omitempty"`

	// For antigravity accounts: serve anthropic and gemini groups too.
	// Default: false
	MixedScheduling bool `json:"mixed_scheduling,omitempty"`

	// The provider's id of the account, for `identity`. Default: none
	AccountUUID string `json:"account_uuid,omitempty"`
}

// OAuth is an OAuth 2.0 credential.
type OAuth struct {
	// The access token. Required.
	AccessToken string `json:"access_token,omitempty"`

	// The refresh token, with which a new access token is had before this one
	// expires, or once upstream refuses it. The new tokens are kept in the store
	// and win over those of the config until these change.
	// Default: none; the access token is used for ever.
	RefreshToken string `json:"refresh_token,omitempty"`

	// When the access token expires: RFC 3339, unix seconds, or a date (midnight in
	// billing's timezone). May hold `{env.*}` and `{file.*}`
	// placeholders.
	// Default: not known; it is refreshed once upstream refuses it.
	ExpiresAt string `json:"expires_at,omitempty"`

	// The OAuth 2.0 token endpoint, http or https. May hold `{env.*}` and
	// `{file.*}` placeholders. Required with refresh_token.
	TokenURL string `json:"token_url,omitempty"`

	// The client's id at the token endpoint. May hold `{env.*}` and `{file.*}`
	// placeholders. Required with refresh_token.
	ClientID string `json:"client_id,omitempty"`

	// The client's secret, sent in the form. Default: none, a public client.
	ClientSecret string `json:"client_secret,omitempty"`
}

// ModelRule is one model, or one prefix of model names, that an account serves.
type ModelRule struct {
	// A model's name as clients ask for it; with a trailing `*`, every name with
	// that prefix.
	Match string `json:"match"`

	// The name to send upstream. Default: the client's own.
	Upstream string `json:"upstream,omitempty"`
}

// HeaderField is one header to set on an upstream request.
type HeaderField struct {
	// The header's name.
	Name string `json:"name"`

	// The header's value. May hold `{env.*}` and `{file.*}` placeholders.
	Value string `json:"value"`
}

// Group ties gateway keys to accounts and to a price.
type Group struct {
	// The group's name, which is unique.
	Name string `json:"name"`

	// The platform of the group's requests. Default: `anthropic`
	Platform string `json:"platform,omitempty"`

	// The names of the group's accounts, which are of the group's platform or of
	// antigravity. Default: every account of the platform.
	Accounts []string `json:"accounts,omitempty"`

	// What a user pays per upstream dollar; 0 is free. Not beside limits, whatever
	// it is: those count list prices, and nobody pays. Default: 1
	RateMultiplier *billing.Rate `json:"rate_multiplier,omitempty"`

	// What a subscription of the group allows. A group with limits serves its
	// subscribers alone, and they don't pay with their balance.
	// Default: none; the balance pays.
	Limits *Limits `json:"limits,omitempty"`
}

// User is someone who may use the gateway.
type User struct {
	// The user's name, which is unique.
	Name string `json:"name"`

	// The opening balance in US dollars, credited once per store, or
	// `unlimited`. Default: 0
	Balance Dollars `json:"balance,omitempty"`

	// How many requests of the user may be in flight; 0 is no limit. Default: 5
	Concurrency *int `json:"concurrency,omitempty"`

	// The user's gateway keys.
	Keys []Key `json:"key,omitempty"`

	// The groups with limits that the user is subscribed to.
	Subscriptions []Subscribe `json:"subscribe,omitempty"`
}

// Key is a gateway key, which clients send to be let in.
type Key struct {
	// The key, or `sha256:` and the 64 hexadecimal digits of its SHA-256 digest.
	Key string `json:"key"`

	// The groups that the key may use, in order of preference.
	// Default: none; the key may use every account.
	Groups []string `json:"groups,omitempty"`
}

// Scheduling says how an account is chosen for a request.
type Scheduling struct {
	// How long a session stays bound to its account after its last use.
	// Default: 1h
	StickyTTL *caddy.Duration `json:"sticky_ttl,omitempty"`

	// How many requests may wait for the account of their session. Default: 3
	StickyMaxWaiting *int `json:"sticky_max_waiting,omitempty"`

	// How long a request waits for the account of its session. Default: 45s
	StickyWaitTimeout *caddy.Duration `json:"sticky_wait_timeout,omitempty"`

	// How many requests may wait, per account, when all accounts are full.
	// Default: 100
	FallbackMaxWaiting *int `json:"fallback_max_waiting,omitempty"`

	// How long a request waits when all accounts are full. Default: 30s
	FallbackWaitTimeout *caddy.Duration `json:"fallback_wait_timeout,omitempty"`

	// How many requests a user may have waiting, beyond the user's concurrency.
	// Default: 20
	UserExtraWaiting *int `json:"user_extra_waiting,omitempty"`

	// How long a request waits for one of its user's slots, and then for money that
	// the user's other requests have set aside. Default: 30s
	UserWaitTimeout *caddy.Duration `json:"user_wait_timeout,omitempty"`

	// Whether the least loaded of the accounts with the lowest priority is
	// taken. Default: true
	LoadAware *bool `json:"load_aware,omitempty"`

	// What tells the session of a request that names none: `conversation` (key,
	// system prompt and first message) or `cacheable` (what the client marked
	// for caching). Default: `conversation`
	ContentSession string `json:"content_session,omitempty"`

	// How long, at most, an account comes last after 529, another 5xx or a
	// time-out: at first 5s, doubling on repeats. Default: 1m
	OverloadCooldown *caddy.Duration `json:"overload_cooldown,omitempty"`

	// The same after 401, 402, 403, or a 429 without a rejected claim. Default: 5m
	RateLimitCooldown *caddy.Duration `json:"rate_limit_cooldown,omitempty"`

	// When the gateway asks an account in error again; each time that it stays in
	// error, after twice as long, up to 6 hours. 0 is never. Default: 10m
	ErrorRetry *caddy.Duration `json:"error_retry,omitempty"`
}

// Retry says what happens after an upstream failure.
type Retry struct {
	// How often the same account is asked again, where another try may mend a
	// failure that is not the account's: 403 for oauth and setup_token accounts,
	// statuses outside error_codes for api_key accounts that have such a list.
	// Default: 10
	Attempts *int `json:"attempts,omitempty"`

	// How long to wait before the same account is asked again. A retry-after of
	// upstream's under a minute counts instead. Default: 3s
	Delay *caddy.Duration `json:"delay,omitempty"`

	// How many other accounts are tried after the first one. Default: 10
	MaxSwitches *int `json:"max_switches,omitempty"`

	// Whether another account is tried after a 400 that speaks of a beta feature,
	// thinking, a signature or tool use. Default: false
	FailoverOn400 bool `json:"failover_on_400,omitempty"`
}

// Request says how a request is prepared for upstream.
type Request struct {
	// The largest request body, in bytes. Default: 33554432 (32 MiB)
	MaxBody *int64 `json:"max_body,omitempty"`

	// Which requests without a system prompt get the one that the Claude Code
	// client identifies itself with: `off`, `oauth` (those of groups that hold
	// an oauth or setup_token account) or `all`. Default: `oauth`
	InjectSystem string `json:"inject_system,omitempty"`

	// What happens to thinking blocks of earlier turns: `keep`, `strip`, or
	// `retry` (stripped only after upstream refused them). Default: `retry`
	ThinkingBlocks string `json:"thinking_blocks,omitempty"`

	// Whether api_key accounts get an anthropic-beta header when the client sent
	// none and uses tools or thinking. Default: false
	InjectBeta bool `json:"inject_beta,omitempty"`

	// More client request headers to let through to upstream; a trailing `*`
	// matches a prefix. Default: none
	AllowHeader []string `json:"allow_header,omitempty"`

	// Whether oauth and setup_token accounts hide who sends: client, device and
	// session are the account's own. Default: false
	Identity bool `json:"identity,omitempty"`

	// How many bytes of an upstream error's body are logged; 0 is none.
	// Default: 0
	LogUpstreamErrors int64 `json:"log_upstream_errors,omitempty"`

	// How many wrong gateway keys an address may send in a minute before keys that
	// were not right before are refused unseen; 0 is no limit. Default: 100
	WrongKeyLimit *int `json:"wrong_key_limit,omitempty"`

	// What becomes of requests to paths of the providers' APIs (`/v1/`, `/v1beta/`
	// and their like, see the README) that are not served: `404`, an error in the
	// form of that API, or `next`, the next handler. Default: `404`
	Unserved string `json:"unserved,omitempty"`
}

// Relay says how an answer is relayed.
type Relay struct {
	// How long to wait for the response header of a stream. Default: 3m
	HeaderTimeout *caddy.Duration `json:"header_timeout,omitempty"`

	// How long to wait for all of an answer that is not streamed. After it no other
	// account is asked. Default: 10m
	AnswerTimeout *caddy.Duration `json:"answer_timeout,omitempty"`

	// The longest that a stream may take; 0 is no limit. Default: 2h
	StreamTimeout *caddy.Duration `json:"stream_timeout,omitempty"`

	// How long to wait from the header to the first content block; pings don't
	// count. Default: 10m
	FirstEventTimeout *caddy.Duration `json:"first_event_timeout,omitempty"`

	// The longest silence of an upstream stream; pings count. Default: 3m
	IdleTimeout *caddy.Duration `json:"idle_timeout,omitempty"`

	// What happens upstream when a client leaves in the middle of a stream.
	// Default: the request is cancelled.
	OnDisconnect *OnDisconnect `json:"on_disconnect,omitempty"`

	// Comments to streaming clients that have heard nothing for a while.
	Keepalive *Keepalive `json:"keepalive,omitempty"`
}

// OnDisconnect says what happens upstream when a client leaves.
type OnDisconnect struct {
	// For how long to read on, to learn what the answer used; 0 is not at all:
	// the request is cancelled, and the output is estimated. Default: 0
	Drain caddy.Duration `json:"drain,omitempty"`
}

// Keepalive sends comment lines to streaming clients that still wait.
type Keepalive struct {
	// How often a comment is sent; 0 is never. Default: 15s
	Interval *caddy.Duration `json:"interval,omitempty"`

	// How long a client has heard nothing before the first one. Default: 50s
	After *caddy.Duration `json:"after,omitempty"`
}
