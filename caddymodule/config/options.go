package config

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/caddyserver/caddy/v2"

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
	// How long records may be kept.
	minRetention = 24 * time.Hour
	maxRetention = 3650 * 24 * time.Hour
	// How long Redis may take to answer.
	minStoreTimeout = 50 * time.Millisecond
	maxStoreTimeout = 30 * time.Second
)

func (h *Config) options() []option {
	return []option{
		{"mode", modeStandard, choice(&h.Mode, modeStandard, modeSimple),
			"`simple`: nobody is refused or charged for money, and a group only chooses the platform. Keys are still required."},
		{"encryption_key", "", text(&h.EncryptionKey, "<secret>", checkEncryptionKey),
			"seals the secrets in the store: 32 bytes in base64 or hexadecimal, see [secrets](#secrets)"},
	}
}

func (r *RedisStore) options() []option {
	return []option{
		{"namespace", "sub2api", text(&r.Namespace, "<name>", checkNamespace),
			"what all keys begin with: letters, digits and `- _ . :`, up to 64"},
		{"on_outage", outageServe, choice(&r.OnOutage, outageServe, outageRefuse),
			"while Redis is out of reach: `serve` with this process's own slots and the balances that it knows, records wait in the spool; or `refuse` with 503"},
		{"sentinel", "", placeholderText(&r.Sentinel, "<master name>"),
			"the URLs are those of Sentinels (port 26379), their user name and password too; those of Redis itself are the next two words"},
		{"username", "", placeholderText(&r.Username, "<name>"), "for Redis, in place of the one in the URL; any characters"},
		{"password", "", placeholderText(&r.Password, "<secret>"), "the same"},
		{"ca", "", placeholderText(&r.CA, "<file>"), "a PEM file with the authority of the servers' certificates"},
		{"timeout", "1s", durationFrom(&r.Timeout, minStoreTimeout, maxStoreTimeout),
			"how long an answer may take before Redis counts as out of reach; 50ms to 30s"},
		{"spool", "", placeholderText(&r.Spool, "<dir>"), "where records wait meanwhile; processes that share a store may share it"},
	}
}

func (a *Account) options() []option {
	return []option{
		{"api_key", "", text(&a.APIKey, "<secret>", nil), "sent as `x-api-key`"},
		{"setup_token", "", text(&a.SetupToken, "<secret>", nil), "sent as `Authorization: Bearer`"},
		{"platform", "anthropic", choice(&a.Platform, platformNames()...),
			"which groups it can serve. Every account is spoken to in the Anthropic Messages format, so for another platform name a `base_url` that understands it."},
		{"base_url", "", text(&a.BaseURL, "<url>", nil),
			"requests go to this URL + path; a slash or `/v1` at its end makes no difference; required for antigravity"},
		{"proxy", "", text(&a.Proxy, "<url>", checkProxy), "what connections to `base_url` go through, see [proxies](#proxies)"},
		{"priority", "50", number(&a.Priority, maxPriority), "the lowest is tried first"},
		{"concurrency", "0", count(&a.Concurrency, MaxConcurrency), "slots: how many requests may be in flight; 0 = no limit"},
		{"account_uuid", "", text(&a.AccountUUID, "<uuid>", nil), "the provider's id of the account, for `identity`"},
	}
}

func (o *OAuth) options() []option {
	return []option{
		{"access_token", "", text(&o.AccessToken, "<secret>", nil), "sent as `Authorization: Bearer`; refreshed with the words below, see [tokens](#tokens)"},
		{"refresh_token", "", text(&o.RefreshToken, "<secret>", nil), "what the access token is refreshed with"},
		{"expires_at", "", text(&o.ExpiresAt, "<time>", nil),
			"when the access token expires: RFC 3339, such as `2026-12-01T00:00:00Z`, unix seconds, or a date (midnight in `timezone`)"},
		{"token_url", "", text(&o.TokenURL, "<url>", nil), "the OAuth 2.0 token endpoint; required with `refresh_token`"},
		{"client_id", "", text(&o.ClientID, "<id>", nil), "the client that the tokens were issued to; required with `refresh_token`"},
		{"client_secret", "", text(&o.ClientSecret, "<secret>", nil), "its secret, if it has one; sent in the form"},
	}
}

func (g *Group) options() []option {
	rate := multiplier(&g.RateMultiplier)
	if g.Limits != nil {
		rate.fill = nil // nobody pays by it
	}
	return []option{
		{"platform", "anthropic", choice(&g.Platform, platformNames()...), "the platform of its requests"},
		{"rate_multiplier", "1", rate, "what a user pays per upstream dollar; 0 = free. Not beside `limits`"},
	}
}

func (l *Limits) options() []option {
	return []option{
		{"daily", "", limit(&l.Daily), ""},
		{"weekly", "", limit(&l.Weekly), ""},
		{"monthly", "", limit(&l.Monthly), ""},
	}
}

func (u *User) options() []option {
	return []option{
		{"balance", "0", balance(&u.Balance), "the opening balance, [credited once](#users-keys-and-usage), the first time that the store meets the user"},
		{"concurrency", "5", number(&u.Concurrency, MaxConcurrency), "how many of the user's requests may be in flight; 0 = no limit"},
	}
}

func (s *Scheduling) options() []option {
	return []option{
		{"sticky_ttl", "1h", duration(&s.StickyTTL, maxStickyTTL), "how long a session keeps its account after its last request"},
		{"sticky_max_waiting", "3", number(&s.StickyMaxWaiting, maxWaiting), "how many may wait for the account of their session"},
		{"sticky_wait_timeout", "45s", duration(&s.StickyWaitTimeout, maxWait), "and for how long"},
		{"fallback_max_waiting", "100", number(&s.FallbackMaxWaiting, maxWaiting), "how many may wait, per account, when all are full"},
		{"fallback_wait_timeout", "30s", duration(&s.FallbackWaitTimeout, maxWait), "and for how long"},
		{"user_extra_waiting", "20", number(&s.UserExtraWaiting, maxWaiting), "a user may have `concurrency` + this many requests waiting"},
		{"user_wait_timeout", "30s", duration(&s.UserWaitTimeout, maxWait),
			"how long a request waits for one of its user's slots; and then for money that the user's other requests have set aside"},
		{"load_aware", "on", onOffOr(&s.LoadAware), "prefer the least loaded of the accounts of one priority"},
		{"content_session", string(gateway.SessionByConversation),
			choice(&s.ContentSession, string(gateway.SessionByConversation), string(gateway.SessionByCacheable)), "see [sessions](#sessions)"},
		{"overload_cooldown", "1m", duration(&s.OverloadCooldown, maxOverload),
			"how long, at most, an account comes last after 529, another 5xx or a time-out (first 5 s, doubling)"},
		{"rate_limit_cooldown", "5m", duration(&s.RateLimitCooldown, maxCooldown), "the same after 401, 402, 403, or a 429 without a rejected claim"},
		{"error_retry", "10m", durationOrZero(&s.ErrorRetry, maxErrorRetry),
			"when the gateway asks an account in error again, doubling to 6h; 0 = never"},
	}
}

func (r *Retry) options() []option {
	return []option{
		{"attempts", "10", number(&r.Attempts, maxAttempts),
			"how often the same account is asked again: after 403 with a token, after a status outside its `error_codes`"},
		{"delay", "3s", durationOrZero(&r.Delay, maxDelay), "the wait before that; a `retry-after` under a minute counts instead"},
		{"max_switches", "10", number(&r.MaxSwitches, maxSwitches), "how many other accounts are tried after the first"},
		{"failover_on_400", "off", onOff(&r.FailoverOn400), "try another account after a 400 that speaks of a beta, thinking, a signature or tool use"},
	}
}

func (r *Request) options() []option {
	return []option{
		{"max_body", "32MiB", size(&r.MaxBody, 1, maxBodyLimit), "the largest request body"},
		{"inject_system", string(gateway.InjectSystemOAuth),
			choice(&r.InjectSystem, string(gateway.InjectSystemOff), string(gateway.InjectSystemOAuth), string(gateway.InjectSystemAll)),
			"which requests without a `system` get the block that Claude Code identifies itself with: those of groups that hold an oauth or setup_token account, or all"},
		{"thinking_blocks", string(gateway.ThinkingRetry),
			choice(&r.ThinkingBlocks, string(gateway.ThinkingKeep), string(gateway.ThinkingStrip), string(gateway.ThinkingRetry)),
			"thinking blocks of earlier turns: send them, never send them, or leave them out once upstream has refused them"},
		{"inject_beta", "off", onOff(&r.InjectBeta), "api_key accounts: add an `anthropic-beta` header to requests with tools or thinking that have none"},
		{"allow_header", "", headerPatterns(&r.AllowHeader), "more client headers to send upstream"},
		{"identity", "off", onOff(&r.Identity), "oauth and setup_token accounts: hide who sends, see [what goes upstream](#what-goes-upstream)"},
		{"log_upstream_errors", "off", logSize(&r.LogUpstreamErrors), "log this much of the body of an upstream error; `on` = 2KiB"},
		{"unserved", unserved404, choice(&r.Unserved, unserved404, unservedNext),
			"what becomes of requests to [paths](#paths) of the providers' APIs that are not served"},
		{"wrong_key_limit", "100", number(&r.WrongKeyLimit, maxWrongKeys),
			"how many wrong gateway keys an address may send in a minute, before keys that were not right before are refused unseen; 0 = no limit"},
	}
}

func (r *Relay) options() []option {
	return []option{
		{"header_timeout", "3m", duration(&r.HeaderTimeout, maxWait), "a stream: waiting for upstream's response header"},
		{"answer_timeout", "10m", duration(&r.AnswerTimeout, maxDuration),
			"an answer that is not streamed: waiting for all of it; no other account is asked after it"},
		{"stream_timeout", "2h", durationOrZero(&r.StreamTimeout, maxDuration), "the longest stream; 0 = no limit"},
		{"first_event_timeout", "10m", duration(&r.FirstEventTimeout, maxWait), "from the header to the first content; pings don't count"},
		{"idle_timeout", "3m", duration(&r.IdleTimeout, maxWait), "the longest silence of an upstream answer; pings count"},
		{"keepalive", "15s after 50s", keepalive(&r.Keepalive),
			"comment lines to a streaming client that has heard nothing for the `after` time; 0 = never"},
		{"on_disconnect", "cancel", onDisconnect(&r.OnDisconnect),
			"when a client leaves in mid-stream: cancel the request to upstream, or read on for so long to learn what it used"},
	}
}

func (b *Billing) options() []option {
	return []option{
		{"rate_multiplier", "1", multiplier(&b.RateMultiplier), "for keys without a group, whatever groups there are"},
		{"prices", "", placeholderText(&b.Prices, "<file>"),
			"a file in LiteLLM's format whose prices are laid over the built-in ones, see [billing](#billing); it is read when the config is loaded"},
		{"hold", string(gateway.HoldEstimate), choice(&b.Hold, string(gateway.HoldOff), string(gateway.HoldEstimate), string(gateway.HoldMax)),
			"what is set aside before a request goes upstream, see [billing](#billing)"},
		{"timezone", "UTC", text(&b.Timezone, "<name>", checkZone),
			"the zone whose days count, such as `Asia/Shanghai`: those of limits, dates wherever one is written, here, in commands and in the admin API, and sums by day. The same for all sites of a store; changed by a restart, not by a reload"},
		{"retention", "90d", retention(&b.Retention),
			"how long records are kept; 0 is for ever. Whole days are deleted, the oldest first, one in an hour at most and none in the first hour of a process, and only what was old by all that the clock showed in that hour. The same for all sites of a store"},
		{"durability", durabilityProcess, choice(&b.Durability, durabilityProcess, durabilityPower),
			"what a record survives before its answer is complete: kill -9, or a power failure too. The same for all sites of a store; changed by a restart, not by a reload"},
	}
}

// retention is how long records are kept; 0 is for ever.
func retention(to **caddy.Duration) kind {
	return pointer(to, "0|<duration>", parseDuration, func(at position, name string, value caddy.Duration) error {
		if d := time.Duration(value); d != 0 && (d < minRetention || d > maxRetention) {
			return at.errorf(name, "%s is out of range; write 0, which is for ever, or a duration from 1d to 3650d", d)
		}
		return nil
	})
}

// defaultStoreDir is where a store of this machine keeps what it has, below Caddy's data
// directory.
func defaultStoreDir(below ...string) string {
	return filepath.Join(append([]string{caddy.AppDataDir(), "sub2api"}, below...)...)
}

func checkNamespace(name string) error {
	if !validNamespace.MatchString(name) {
		return fmt.Errorf("%.80q can't be used; write letters, digits and - _ . : alone, at most 64", name)
	}
	return nil
}

func checkZone(name string) error {
	_, err := loadZone(name)
	return err
}

// setDefaults fills in every option that the config left out. It runs when the
// module is provisioned, so that a JSON config gets the same defaults as a
// Caddyfile; running it again changes nothing.
func (h *Config) setDefaults() {
	fill(&h.Store, &Store{})
	h.Store.setDefaults()
	for i := range h.Accounts {
		a := &h.Accounts[i]
		fillIn(a.options())
		fill(&a.BaseURL, upstream.Platform(a.Platform).DefaultBaseURL())
	}
	for i := range h.Groups {
		fillIn(h.Groups[i].options())
	}
	for i := range h.Users {
		fillIn(h.Users[i].options())
	}

	fill(&h.Scheduling, &Scheduling{})
	fill(&h.Retry, &Retry{})
	fill(&h.Request, &Request{})
	fill(&h.Relay, &Relay{})
	fill(&h.Billing, &Billing{})
	for _, options := range [][]option{
		h.options(), h.Scheduling.options(), h.Retry.options(), h.Request.options(), h.Relay.options(), h.Billing.options(),
	} {
		fillIn(options)
	}
}

func (s *Store) setDefaults() {
	if s.Redis == nil {
		fill(&s.Embedded, &EmbeddedStore{})
		fill(&s.Embedded.Dir, defaultStoreDir())
		return
	}
	fillIn(s.Redis.options())
	fill(&s.Redis.Spool, defaultStoreDir("spool"))
}
