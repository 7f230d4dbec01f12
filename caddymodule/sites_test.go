package caddymodule

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// siteWords is a site that says something of everything that sites share.
const siteWords = `
	encryption_key 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
	account main {
		api_key sk-upstream-main
		base_url https://example.com/a
		concurrency 8
	}
	account max {
		oauth {
			access_token DO-NOT-SHOW-a
			refresh_token DO-NOT-SHOW-r
			token_url https://example.com/token
			client_id c
		}
		account_uuid 11111111-2222-4333-8444-555555555555
	}
	group payg {
		rate_multiplier 1.5
	}
	group pro {
		limits {
			daily 10
		}
	}
	user alice {
		balance 20
		concurrency 3
		key DO-NOT-SHOW-alice payg
		subscribe pro until 2027-01-01
	}
	user bob {
		key sk-bob payg
	}
	billing {
		timezone Asia/Shanghai
	}`

// siteChanges are what a second site says otherwise, and what the error of that
// says; "" is no error.
var siteChanges = []struct{ was, is, want string }{
	{"", "", ""},
	{"balance 20", "balance 30", "user alice: balance is 30.00 at | and 20.00 at "},
	{"balance 20", "balance unlimited", "user alice: balance is unlimited at | and 20.00 at "},
	{"balance 20", "", "user alice: balance is 0.00 at | and 20.00 at "},
	{"balance 20", "balance 20.0000", ""},
	{"concurrency 3", "concurrency 4", "user alice: concurrency is 4 at | and 3 at "},
	{"concurrency 3", "", "user alice: concurrency is 5 at | and 3 at "},
	{"until 2027-01-01", "until 2027-01-02", "user alice: the end of the subscription of pro is 2027-01-01T16:00:00Z at | and 2026-12-31T16:00:00Z at "},
	{"until 2027-01-01", "", "user alice: the end of the subscription of pro is never at | and 2026-12-31T16:00:00Z at "},
	{"until 2027-01-01", "until 2027-01-01T00:00:00+08:00", ""},
	{"key sk-bob", "key DO-NOT-SHOW-alice", "!"}, // within one site
	{"key DO-NOT-SHOW-alice payg", "key sk-bob2", ""},
	{"key DO-NOT-SHOW-alice payg", "key DO-NOT-SHOW-alice", ""}, // which groups it may use here
	{"user bob {\n\t\tkey sk-bob payg", "user carol {\n\t\tkey sk-bob", "the user of the key KEYID is carol at | and bob at "},
	{"user bob {\n\t\tkey sk-bob payg", "user carol {\n\t\tkey sha256:DIGEST", "the user of the key KEYID is carol at | and bob at "},
	{"api_key sk-upstream-main", "api_key sk-upstream-other", "account main: the credential at | is another than at "},
	{"api_key sk-upstream-main", "setup_token sk-upstream-main", "account main: the credential at | is another than at "},
	{"refresh_token DO-NOT-SHOW-r", "refresh_token DO-NOT-SHOW-s", "account max: the credential at | is another than at "},
	{"client_id c", "client_id d", "account max: the credential at | is another than at "},
	{"client_id c", "client_id c\n\t\t\texpires_at 2026-12-01", ""},
	{"base_url https://example.com/a", "base_url https://example.com/b", "account main: base_url is https://example.com/b at | and https://example.com/a at "},
	{"base_url https://example.com/a", "base_url https://example.com/a/v1/", ""},
	{"base_url https://example.com/a", "", "account main: base_url is https://api.anthropic.com at "},
	{"concurrency 8", "concurrency 9", "account main: concurrency is 9 at | and 8 at "},
	{"concurrency 8", "concurrency 8\n\t\tplatform openai", "account main: platform is openai at | and anthropic at "},
	{"concurrency 8", "concurrency 8\n\t\tpriority 1\n\t\tdisabled", ""},
	{"11111111", "21111111", "account max: account_uuid is 21111111-2222-4333-8444-555555555555 at "},
	{"rate_multiplier 1.5", "rate_multiplier 1.50", ""},
	{"rate_multiplier 1.5", "rate_multiplier 2", "group payg: rate_multiplier is 2 at | and 1.5 at "},
	{"rate_multiplier 1.5", "limits {\n\t\t\tdaily 1\n\t\t}", "group payg: rate_multiplier is none at | and 1.5 at "},
	{"rate_multiplier 1.5", "rate_multiplier 1.5\n\t\tplatform gemini", "group payg: platform is gemini at | and anthropic at "},
	{"rate_multiplier 1.5", "rate_multiplier 1.5\n\t\taccounts max", ""},
	{"daily 10", "daily 11", "group pro: limits: daily is 11.00 at | and 10.00 at "},
	{"daily 10", "daily 10\n\t\t\tmonthly 100", "group pro: limits: monthly is 100.00 at | and none at "},
	{"daily 10", "weekly 10", "group pro: limits: daily is none at | and 10.00 at "},
	{"timezone Asia/Shanghai", "timezone Asia/Shanghai\n\t\tretention 7d", "billing: retention is 168h0m0s at | and 2160h0m0s at "},
	{"timezone Asia/Shanghai", "timezone Asia/Shanghai\n\t\tretention 90d\n\t\thold max", ""},
	{"timezone Asia/Shanghai", "timezone Asia/Shanghai\n\t\tdurability power", "billing: durability is power at | and process at "},
	{"timezone Asia/Shanghai", "timezone Asia/Tokyo", "billing: timezone is Asia/Tokyo at | and Asia/Shanghai at "},
	{"encryption_key 01", "encryption_key 02", "encryption_key at | is another than at "},
	{"user alice {", "user zoe {", "the user of the key "},
	{"DO-NOT-SHOW-alice payg", "DO-NOT-SHOW-zoe payg", ""},
}

// twoSites is a Caddyfile with two sites, and where each begins.
func twoSites(first, second string) string {
	return "{\n\tadmin off\n\tauto_https off\n}\nhttp://a:8080 {\n\tsub2api {" + first + "\n\t}\n}\nhttp://b:8081 {\n\tsub2api {" + second + "\n\t}\n}\n"
}

// wantContradiction checks the error of two sites: want has | where the place of the
// second one stands, and ends before that of the first one.
func wantContradiction(t *testing.T, err error, want string, places ...string) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Errorf("error %v", err)
		}
		return
	}
	if err == nil {
		t.Errorf("no error; want %s", want)
		return
	}
	digest := fmt.Sprintf("%x", sha256.Sum256([]byte("sk-bob")))
	parts := append(strings.Split(strings.ReplaceAll(want, "KEYID", digest[:12]), "|"), places...)
	for _, part := range append(parts, "write the same in both") {
		if !strings.Contains(err.Error(), strings.TrimSpace(part)) {
			t.Errorf("error: %v\nlacks %q", err, part)
		}
	}
	for _, secret := range []string{"DO-NOT-SHOW", "sk-upstream", "sk-bob", "abcdef0123"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error shows %s: %v", secret, err)
		}
	}
}

func TestSitesOfAStoreAgreeInACaddyfile(t *testing.T) {
	for _, test := range siteChanges {
		if test.want == "!" {
			continue
		}
		digest := fmt.Sprintf("%x", sha256.Sum256([]byte("sk-bob")))
		changed := strings.Replace(siteWords, test.was, strings.ReplaceAll(test.is, "DIGEST", digest), 1)
		if test.was != "" && changed == siteWords {
			t.Fatalf("%q is not in the site", test.was)
		}
		t.Run(test.is, func(t *testing.T) {
			_, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(twoSites(siteWords, changed)), map[string]any{"filename": "Caddyfile"})
			wantContradiction(t, err, test.want, "at Caddyfile:")
			if err != nil && strings.Count(err.Error(), "Caddyfile:") < 3 { // of both, and where the error is
				t.Errorf("the error names no two places: %v", err)
			}
			_, _, err = caddyconfig.GetAdapter("caddyfile").Adapt([]byte(twoSites(siteWords, "\n\tstore embedded /elsewhere"+changed)), map[string]any{"filename": "Caddyfile"})
			wantContradiction(t, err, "")
		})
	}
}

// handlerOf is a handler as Caddy makes it from a Caddyfile.
func handlerOf(t *testing.T, body string) *Handler {
	t.Helper()
	tokens, err := caddyfile.Tokenize([]byte("sub2api {\n"+body+"\n}"), "Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	h := new(Handler)
	if err := h.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)); err != nil {
		t.Fatal(err)
	}
	return h
}

// loadSites provisions the handlers of two sites as `caddy validate` does.
func loadSites(t *testing.T, first, second *Handler) error {
	t.Helper()
	server := func(port string, h *Handler) string {
		return fmt.Sprintf(`{"listen":["127.0.0.1:%s"],"automatic_https":{"disable":true},"routes":[{"handle":[%s]}]}`,
			port, caddyconfig.JSONModuleObject(h, "handler", "sub2api", nil))
	}
	text := fmt.Sprintf(`{"admin":{"disabled":true},"apps":{"http":{"servers":{"one":%s,"two":%s}}}}`, server("18080", first), server("18081", second))
	var config caddy.Config
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		t.Fatal(err)
	}
	return caddy.Validate(&config)
}

func TestSitesOfAStoreAgreeInJSON(t *testing.T) {
	store := "\n\tstore embedded " + t.TempDir()
	t.Setenv("BOB_KEY", "sk-bob")
	t.Setenv("MAIN_KEY", "sk-upstream-main")
	t.Setenv("MAIN_URL", "https://example.com/a")
	t.Setenv("OTHER_URL", "https://example.com/b")
	changes := append(siteChanges[:len(siteChanges):len(siteChanges)], []struct{ was, is, want string }{
		{"api_key sk-upstream-main", "api_key {env.MAIN_KEY}", ""},
		{"api_key sk-upstream-main", "api_key {env.BOB_KEY}", "account main: the credential at | is another than at "},
		{"base_url https://example.com/a", "base_url {env.MAIN_URL}", ""},
		{"base_url https://example.com/a", "base_url {env.OTHER_URL}", "account main: base_url is https://example.com/b at "},
		{"key sk-bob payg", "key {env.BOB_KEY}", ""},
		{"user bob {\n\t\tkey sk-bob payg", "user carol {\n\t\tkey {env.BOB_KEY}", "the user of the key KEYID is carol at | and bob at "},
	}...)
	for _, test := range changes {
		if test.want == "!" {
			continue
		}
		digest := fmt.Sprintf("%x", sha256.Sum256([]byte("sk-bob")))
		changed := strings.Replace(siteWords, test.was, strings.ReplaceAll(test.is, "DIGEST", digest), 1)
		t.Run(test.is, func(t *testing.T) {
			err := loadSites(t, handlerOf(t, store+siteWords), handlerOf(t, store+changed))
			// Caddy loads servers in any order.
			if want := test.want; err != nil && strings.Contains(want, " is ") {
				want = strings.NewReplacer(" is ", "|", " and ", "|", " at ", "|").Replace(want)
				wantContradiction(t, err, want, "handler 1 in server one (127.0.0.1:18080)", "handler 1 in server two (127.0.0.1:18081)")
				return
			}
			wantContradiction(t, err, strings.NewReplacer("|", "").Replace(test.want))
		})
	}
	loading.mu.Lock()
	defer loading.mu.Unlock()
	if n := len(loading.sites); n != 0 {
		t.Errorf("%d configs are remembered that are not in force", n)
	}
}

func TestSitesAreThoseOfOneConfig(t *testing.T) {
	store := "\n\tstore embedded " + t.TempDir()
	h := func(words string) *Handler { return handlerOf(t, store+words) }
	config := func(handlers ...*Handler) *caddy.Config {
		var routes []string
		for _, h := range handlers {
			routes = append(routes, fmt.Sprintf(`{"handle":[%s]}`, caddyconfig.JSONModuleObject(h, "handler", "sub2api", nil)))
		}
		var config caddy.Config
		text := fmt.Sprintf(`{"admin":{"disabled":true},"apps":{"http":{"servers":{"one":{"listen":["127.0.0.1:0"],"automatic_https":{"disable":true},"routes":[%s]}}}}}`, strings.Join(routes, ","))
		if err := json.Unmarshal([]byte(text), &config); err != nil {
			t.Fatal(err)
		}
		return &config
	}
	other := strings.Replace(siteWords, "balance 20", "balance 30", 1)
	third := strings.Replace(siteWords, "user alice {", "user zoe {", 1)

	err := caddy.Validate(config(h(siteWords), h(siteWords), h(other)))
	wantContradiction(t, err, "user alice: balance is 30.00 at user[0].balance of sub2api handler 3 in server one (127.0.0.1:0) and 20.00 at user[0].balance of sub2api handler 1 in server one")
	err = caddy.Validate(config(h(siteWords), h(strings.Replace(siteWords, "DO-NOT-SHOW-alice payg", "sk-other", 1)), h(strings.Replace(third, "zoe {\n\t\tbalance", "zoe {\n\t\tkey sk-other\n\t\tbalance", 1))))
	if err == nil || !strings.Contains(err.Error(), "the user of the key ") {
		t.Errorf("a key of two users: error %v", err)
	}

	// A reload changes what the config before it says.
	if err := caddy.Run(config(h(siteWords))); err != nil {
		t.Fatal(err)
	}
	defer caddy.Stop()
	if err := caddy.Run(config(h(other))); err != nil {
		t.Errorf("a reload with another balance: %v", err)
	}
}
