package config

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/caddymodule/gateway"
	"github.com/sub2api/caddy-sub2api/caddymodule/store"
	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream"
)

// configured is a handler as Caddy makes it from a Caddyfile.
func configured(t *testing.T, body string) *Config {
	t.Helper()
	tokens, err := caddyfile.Tokenize([]byte("sub2api {\n"+body+"\n}"), "Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	var h Config
	if err := h.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)); err != nil {
		t.Fatal(err)
	}
	return throughJSON(t, &h)
}

func mustSettings(t *testing.T, h *Config) *gateway.Config {
	t.Helper()
	s, err := h.Build()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustZone(t *testing.T, name string) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

func mustURL(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

var compareSettings = cmp.Options{
	cmp.AllowUnexported(gateway.Config{}, gateway.Group{}, gateway.User{}, gateway.Key{}, store.Embedded{}, store.Keeping{}),
	cmp.Comparer(func(a, b *billing.Prices) bool { return a == b }),
	cmp.Comparer(func(a, b *time.Location) bool { return a.String() == b.String() }),
}

const minimal = `
	account main {
		api_key upstream-secret
	}
	user alice {
		key gateway-secret
	}`

func TestSettingsHaveTheDefaults(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", "/data")
	account := &upstream.Account{
		Name: "main", Platform: upstream.Anthropic, Kind: upstream.APIKey, Secret: "upstream-secret",
		BaseURL: mustURL(t, "https://api.anthropic.com"), Priority: 50,
	}
	alice := &gateway.User{Name: "alice", Concurrency: 5}
	want := &gateway.Config{
		Storage:  store.Embedded{Dir: "/data/caddy/sub2api"},
		Accounts: []*upstream.Account{account},
		Scheduler: scheduler.Settings{
			Accounts: []*upstream.Account{account}, StickyTTL: time.Hour, StickyMaxWaiting: 3, StickyWaitTimeout: 45 * time.Second,
			FallbackMaxWaiting: 100, FallbackWaitTimeout: 30 * time.Second, UserExtraWaiting: 20, UserWaitTimeout: 30 * time.Second,
			LoadAware: true, OverloadCooldown: time.Minute, RateLimitCooldown: 5 * time.Minute, ErrorRetry: 10 * time.Minute,
		},
		Groups:   map[string]*gateway.Group{},
		Users:    map[string]*gateway.User{"alice": alice},
		Declared: []billing.User{{Name: "alice"}},
		Keys: map[[sha256.Size]byte]*gateway.Key{
			sha256.Sum256([]byte("gateway-secret")): {ID: fmt.Sprintf("%x", sha256.Sum256([]byte("gateway-secret")))[:12], User: alice},
		},
		ContentSession: gateway.SessionByConversation, Attempts: 10, Delay: 3 * time.Second, MaxSwitches: 10,
		MaxBody: 32 << 20, InjectSystem: gateway.InjectSystemOAuth, ThinkingBlocks: gateway.ThinkingRetry,
		HeaderTimeout: 3 * time.Minute, AnswerTimeout: 10 * time.Minute, StreamTimeout: 2 * time.Hour,
		FirstEventTimeout: 10 * time.Minute, IdleTimeout: 3 * time.Minute,
		Keepalive: 15 * time.Second, KeepaliveAfter: 50 * time.Second, WrongKeyLimit: 100,
		Prices: billing.BuiltIn(), DefaultRate: 1_000_000_000, Hold: gateway.HoldEstimate, HoldWait: 30 * time.Second, Retention: 90 * 24 * time.Hour,
	}
	h := configured(t, minimal)
	if diff := cmp.Diff(want, mustSettings(t, h), compareSettings); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, mustSettings(t, h), compareSettings); diff != "" {
		t.Errorf("settings made a second time (-want +got):\n%s", diff)
	}
}

func TestSettingsHoldWhatTheConfigSays(t *testing.T) {
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("token-of-a-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("MAIN_KEY", "key-of-the-environment")
	t.Setenv("AG_HOST", "ag.example.com")
	t.Setenv("TENANT", "blue")
	t.Setenv("BOB_KEY", fmt.Sprintf("sha256:%X", sha256.Sum256([]byte("bobs"))))
	t.Setenv("STORE", dir)
	s := mustSettings(t, configured(t, `
	mode simple
	store embedded {env.STORE}/store
	account main {
		api_key {env.MAIN_KEY}
		base_url https://example.com/anthropic/
		priority 0
		concurrency 8
		models {
			claude-a glm
			claude-*
		}
		error_codes 401 429
		header x-tenant "t {env.TENANT}"
		disabled
	}
	account team {
		setup_token {file.`+token+`}
	}
	account ag {
		platform antigravity
		oauth {
			access_token ya29
		}
		base_url http://{env.AG_HOST}:8045/
		mixed_scheduling
	}
	group default {
		accounts main team
		rate_multiplier 1.25
	}
	group flash {
		platform gemini
		limits {
			daily 0.5
			monthly 150
		}
	}
	user alice {
		balance 20.5
		concurrency 0
		key alices flash default
		subscribe flash until 2027-01-01
	}
	user bob {
		balance unlimited
		key {env.BOB_KEY}
		subscribe flash
	}
	scheduling {
		load_aware off
		sticky_max_waiting 0
		content_session cacheable
		error_retry 0
	}
	retry {
		max_switches 0
	}
	request {
		max_body 1KiB
		inject_system off
		thinking_blocks keep
		inject_beta on
		wrong_key_limit 0
		unserved next
		allow_header X-My-Trace X-Team-*
	}
	relay {
		keepalive 0
		idle_timeout 20ms
		answer_timeout 1m
		stream_timeout 0
	}
	billing {
		rate_multiplier 0.5
		hold max
		durability power
		timezone Asia/Shanghai
		retention 0
	}`))

	accounts := []*upstream.Account{
		{
			Name: "main", Platform: upstream.Anthropic, Secret: "key-of-the-environment", BaseURL: mustURL(t, "https://example.com/anthropic"),
			Concurrency: 8, Models: upstream.ModelMap{{Match: "claude-a", Upstream: "glm"}, {Match: "claude-*"}}, ErrorCodes: []int{401, 429},
			Header: []upstream.HeaderField{{Name: "X-Tenant", Value: "t blue"}}, Disabled: true,
		},
		{Name: "team", Platform: upstream.Anthropic, Kind: upstream.SetupToken, Secret: "token-of-a-file", BaseURL: mustURL(t, "https://api.anthropic.com"), Priority: 50},
		{Name: "ag", Platform: upstream.Antigravity, Kind: upstream.OAuth, Secret: "ya29", BaseURL: mustURL(t, "http://ag.example.com:8045"), Priority: 50, MixedScheduling: true},
	}
	def := &gateway.Group{Name: "default", Platform: upstream.Anthropic, Rate: 1_250_000_000}
	flash := &gateway.Group{
		Name: "flash", Platform: upstream.Gemini, Subscription: true,
		Limits: billing.Limits{billing.Daily: 500_000_000, billing.Monthly: 150_000_000_000},
	}
	alice := &gateway.User{Name: "alice", Subscriptions: map[string]time.Time{"flash": time.Date(2026, 12, 31, 16, 0, 0, 0, time.UTC)}}
	bob := &gateway.User{Name: "bob", Concurrency: 5, Unlimited: true, Subscriptions: map[string]time.Time{"flash": {}}}
	want := &gateway.Config{
		Simple:   true,
		Zone:     mustZone(t, "Asia/Shanghai"),
		Storage:  store.Embedded{Dir: filepath.Join(dir, "store"), Keeping: store.Keeping{Sync: true, Zone: mustZone(t, "Asia/Shanghai")}},
		Accounts: accounts,
		Scheduler: scheduler.Settings{
			Accounts: accounts,
			Groups: []scheduler.Group{
				{Name: "default", Platform: upstream.Anthropic, Accounts: []string{"main", "team"}},
				{Name: "flash", Platform: upstream.Gemini},
			},
			GroupsDontLimit: true, StickyTTL: time.Hour, StickyWaitTimeout: 45 * time.Second, FallbackMaxWaiting: 100,
			FallbackWaitTimeout: 30 * time.Second, UserExtraWaiting: 20, UserWaitTimeout: 30 * time.Second,
			OverloadCooldown: time.Minute, RateLimitCooldown: 5 * time.Minute,
		},
		Groups:   map[string]*gateway.Group{"default": def, "flash": flash},
		Users:    map[string]*gateway.User{"alice": alice, "bob": bob},
		Declared: []billing.User{{Name: "alice", Balance: 20_500_000_000}, {Name: "bob", Unlimited: true}},
		Keys: map[[sha256.Size]byte]*gateway.Key{
			sha256.Sum256([]byte("alices")): {ID: fmt.Sprintf("%x", sha256.Sum256([]byte("alices")))[:12], User: alice, Groups: []*gateway.Group{flash, def}},
			sha256.Sum256([]byte("bobs")):   {ID: fmt.Sprintf("%x", sha256.Sum256([]byte("bobs")))[:12], User: bob},
		},
		ContentSession: gateway.SessionByCacheable,
		Attempts:       10, Delay: 3 * time.Second,
		MaxBody: 1024, InjectSystem: gateway.InjectSystemOff, ThinkingBlocks: gateway.ThinkingKeep, InjectBeta: true,
		AllowHeader:   []string{"x-my-trace", "x-team-*"},
		HeaderTimeout: 3 * time.Minute, AnswerTimeout: time.Minute, FirstEventTimeout: 10 * time.Minute, IdleTimeout: 20 * time.Millisecond,
		PassUnserved: true,
		Prices:       billing.BuiltIn(), DefaultRate: 500_000_000, Hold: gateway.HoldMax, HoldWait: 30 * time.Second,
	}
	if diff := cmp.Diff(want, s, compareSettings); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
}

func TestBaseURLsMeanTheSameWithAndWithoutTheirEnd(t *testing.T) {
	for text, want := range map[string]string{
		"https://x":               "https://x",
		"https://x/":              "https://x",
		"https://x/v1":            "https://x",
		"https://x/v1/":           "https://x",
		"https://x//v1//":         "https://x",
		"https://x:8443/api/v1/":  "https://x:8443/api",
		"https://x/api//v1":       "https://x/api",
		"https://x/v1/v1":         "https://x/v1", // one of them is the server's own
		"https://x/v1/api":        "https://x/v1/api",
		"https://x/api-v1":        "https://x/api-v1",
		"https://x/v1beta":        "https://x/v1beta",
		"https://x/V1":            "https://x/V1",
		"https://v1":              "https://v1",
		"https://v1/v1":           "https://v1",
		"https://x/a%2Fb/v1/":     "https://x/a%2Fb",
		"https://x/a%2Fv1":        "https://x/a%2Fv1",
		"https://x/caf%C3%A9/v1/": "https://x/caf%C3%A9",
	} {
		t.Setenv("BASE_URL", text)
		for _, written := range []string{text, "{env.BASE_URL}"} {
			h := configured(t, strings.Replace(minimal, "api_key upstream-secret", "api_key a\nbase_url "+written, 1))
			if got := mustSettings(t, h).Accounts[0].BaseURL.String(); got != want {
				t.Errorf("base_url %s as %s: %s, want %s", text, written, got, want)
			}
		}
	}
}

func TestRelativeStoreDirBecomesAbsolute(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	s := mustSettings(t, configured(t, "store embedded data\n"+minimal))
	if want := filepath.Join(dir, "data"); s.Storage.(store.Embedded).Dir != want {
		t.Errorf("store %s, want %s", s.Storage, want)
	}
}

// What only shows once placeholders are resolved.
func TestSettingsRefuseWhatResolvesBadly(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "absent")
	t.Setenv("SUB2API_TEST_EMPTY", "")
	t.Setenv("SPACED", "DO-NOT-SHOW it")
	t.Setenv("GATEWAY_KEY", "DO-NOT-SHOW")
	t.Setenv("GATEWAY_KEY_AGAIN", "DO-NOT-SHOW")
	t.Setenv("BAD_DIGEST", "sha256:DO-NOT-SHOW")
	t.Setenv("PRICES", filepath.Join(t.TempDir(), "prices.json"))
	if err := os.WriteFile(os.Getenv("PRICES"), []byte("not JSON"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("BAD_URL", "ftp://example.com")
	t.Setenv("BAD_PROXY", "ftp://me:DO-NOT-SHOW@example.com")
	t.Setenv("TWO_LINES", "DO-NOT-SHOW\nX-Other: 1")
	withAccount := func(lines string) string { return "account main {\n" + lines + "\n}\nuser alice" }
	withUser := func(lines string) string { return "account main {\napi_key a\n}\nuser alice {\n" + lines + "\n}" }
	for name, test := range map[string]struct{ body, want string }{
		"unset variable":    {withAccount("api_key {env.SUB2API_TEST_EMPTY}"), "account main: api_key: evaluated placeholder {env.SUB2API_TEST_EMPTY} is empty; set the variable"},
		"unset setup token": {withAccount("setup_token {env.SUB2API_TEST_EMPTY}"), "account main: setup_token: evaluated placeholder {env.SUB2API_TEST_EMPTY} is empty"},
		"unset oauth token": {withAccount("oauth {\naccess_token {env.SUB2API_TEST_EMPTY}\n}"), "account main: oauth: access_token: evaluated placeholder {env.SUB2API_TEST_EMPTY} is empty"},
		"missing file":      {withAccount("api_key {file." + absent + "}"), "account main: api_key: evaluated placeholder {file." + absent + "} is empty; set the variable, or write the file"},
		"secret with space": {withAccount("api_key {env.SPACED}"), "account main: api_key: has a space"},
		"base_url":          {withAccount("api_key a\nbase_url {env.BAD_URL}"), "account main: base_url: ftp://example.com is neither http nor https"},
		"proxy":             {withAccount("api_key a\nproxy {env.BAD_PROXY}"), "account main: proxy: is not the URL of a proxy"},
		"proxy's password":  {withAccount("api_key a\nproxy http://me:{env.SPACED}%@127.0.0.1"), "account main: proxy: is not a URL"},
		"header value":      {withAccount("api_key a\nheader X-A {env.TWO_LINES}"), "account main: header: X-A: has a value with a line break"},
		"unset key":         {withUser("key {env.SUB2API_TEST_EMPTY}"), "user alice: key: evaluated placeholder {env.SUB2API_TEST_EMPTY} is empty"},
		"key of bad digest": {withUser("key {env.BAD_DIGEST}"), "user alice: key: sha256: wants the 64 hexadecimal digits"},
		"same key":          {withUser("key {env.GATEWAY_KEY}\nkey {env.GATEWAY_KEY_AGAIN}"), "user alice: key: is the same as a key of user alice"},
		"same key of two":   {withUser("key {env.GATEWAY_KEY}") + "\nuser bob {\nkey DO-NOT-SHOW\n}", "user bob: key: is the same as a key of user alice"},
		"prices":            {minimal + "\nbilling {\nprices " + absent + "\n}", "billing: prices: open " + absent},
		"no price file":     {minimal + "\nbilling {\nprices {env.PRICES}\n}", "billing: prices: "},
		"store":             {"store embedded {env.SUB2API_TEST_EMPTY}\n" + minimal, "store: evaluated placeholder {env.SUB2API_TEST_EMPTY} is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := configured(t, test.body).Build()
			wantError(t, err, test.want)
		})
	}
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want: %s", want)
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("error: %v\nlacks: %s", err, want)
	}
	if strings.Contains(err.Error(), "DO-NOT-SHOW") {
		t.Errorf("the error shows a secret: %v", err)
	}
}

// A JSON config passes the same checks as a Caddyfile, and gets no file or line.
func TestJSONConfigIsChecked(t *testing.T) {
	const account = `"account":[{"name":"main","api_key":"a"}]`
	for name, test := range map[string]struct{ config, want string }{
		"nothing":           {`{}`, "sub2api: there is no account"},
		"no user":           {`{` + account + `}`, "sub2api: there is no user"},
		"null account":      {`{"account":[null],"user":[{"name":"alice"}]}`, "account[0]: has no name"},
		"null user":         {`{` + account + `,"user":[null]}`, "user[0]: has no name"},
		"mode":              {`{"mode":"fast",` + account + `}`, `mode: "fast" is unknown`},
		"relative file":     {`{"account":[{"name":"main","api_key":"{file.key}"}],"user":[{"name":"alice"}]}`, "account main: api_key: {file.key} is not an absolute path"},
		"empty key":         {`{` + account + `,"user":[{"name":"alice","key":[{"key":""}]}]}`, "user alice: key: is empty"},
		"empty model":       {`{"account":[{"name":"main","api_key":"a","models":[{"match":""}]}],"user":[{"name":"alice"}]}`, "account main: models: holds an empty model name"},
		"unknown group":     {`{` + account + `,"user":[{"name":"alice","key":[{"key":"k","groups":["x"]}]}]}`, "user alice: key: the group in place 1 is not a group here"},
		"negative duration": {`{` + account + `,"user":[{"name":"alice"}],"relay":{"idle_timeout":"-1s"}}`, "relay: idle_timeout: -1s is out of range"},
		"limit":             {`{` + account + `,"group":[{"name":"g","limits":{"daily":0}}],"user":[{"name":"alice"}]}`, `group g: limits: daily: "0" is not a limit`},
		"timezone":          {`{` + account + `,"user":[{"name":"alice"}],"billing":{"timezone":"Mars"}}`, `billing: timezone: "Mars" is not a time zone`},
		"retention":         {`{` + account + `,"user":[{"name":"alice"}],"billing":{"retention":"1h"}}`, "billing: retention: 1h0m0s is out of range"},
		"negative keepalive": {`{` + account + `,"user":[{"name":"alice"}],"relay":{"keepalive":{"after":-1}}}`,
			"relay: keepalive: -1ns is out of range"},
	} {
		t.Run(name, func(t *testing.T) {
			var h Config
			if err := caddy.StrictUnmarshalJSON([]byte(test.config), &h); err != nil {
				t.Fatal(err)
			}
			_, err := h.Build()
			wantError(t, err, test.want)
		})
	}
}

func TestBalanceMayBeANumberInJSON(t *testing.T) {
	for text, want := range map[string]Dollars{`20.000000001`: "20.000000001", `"0.5"`: "0.5", `"unlimited"`: Unlimited, `null`: ""} {
		var u User
		if err := json.Unmarshal([]byte(`{"balance":`+text+`}`), &u); err != nil || u.Balance != want {
			t.Errorf("balance %s became %q, error %v", text, u.Balance, err)
		}
	}
	var u User
	if err := json.Unmarshal([]byte(`{"balance":true}`), &u); err == nil {
		t.Errorf("balance true became %q", u.Balance)
	}
}
