package admin_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/caddymodule/admin"
	"github.com/sub2api/caddy-sub2api/caddymodule/admin/admintest"
	"github.com/sub2api/caddy-sub2api/caddymodule/gateway"
	"github.com/sub2api/caddy-sub2api/caddymodule/store"
	"github.com/sub2api/caddy-sub2api/scheduler"
)

func TestAdminAPI(t *testing.T) {
	ledger := admintest.NewLedger()
	rt := admintest.Runtime(t, store.Embedded{Dir: "/store"}, ledger, admintest.Config())
	api := &admin.API{Runtimes: func() []*gateway.Runtime { return []*gateway.Runtime{rt} }}
	// Somebody whom an older config declared.
	if err := ledger.Declare(t.Context(), []billing.User{{Name: "gone", Balance: admintest.Dollar}}); err != nil {
		t.Fatal(err)
	}
	start := time.Now().UTC().Truncate(24 * time.Hour)
	ledger.WindowMap["alice pro"] = billing.Windows{{Start: start, End: start.AddDate(0, 0, 1), Used: admintest.Dollar / 2}, {}, {Start: start.AddDate(0, -2, 0), End: start.AddDate(0, -1, 0), Used: 9 * admintest.Dollar}}
	if _, err := rt.State.Acquire(t.Context(), &scheduler.Ask{
		Lease: "lease", TTL: time.Minute, Candidates: &scheduler.Candidates{Places: []scheduler.Place{{Name: scheduler.UserPlace("alice"), Limit: 3}}},
	}); err != nil {
		t.Fatal(err)
	}
	for _, step := range adminSteps {
		status, body, header := admintest.Call(t, api, step.method, "http://localhost:2019/sub2api/"+step.path, step.body)
		if status != step.status {
			t.Errorf("%s %s %s: status %d, want %d: %s", step.method, step.path, step.body, status, step.status, body)
			continue
		}
		for want := range strings.SplitSeq(step.want, " … ") {
			if !strings.Contains(body, want) {
				t.Errorf("%s %s %s: %q is not in %s", step.method, step.path, step.body, want, body)
			}
		}
		if allow := header.Get("Allow"); (status == http.StatusMethodNotAllowed) != (allow != "") {
			t.Errorf("%s %s: status %d, Allow %q", step.method, step.path, status, allow)
		}
		if status < 300 && status != http.StatusNoContent && !json.Valid([]byte(body)) {
			t.Errorf("%s %s: no JSON: %s", step.method, step.path, body)
		}
	}
}

// adminSteps follow each other. want is parts of the answer.
var adminSteps = []struct {
	method, path, body string
	status             int
	want               string
}{
	{"GET", "users", "", 200, `[{"name":"alice","source":"config","balance_usd":"20.000000000","held_usd":"0.000000000","concurrency":3,"in_use":1,"waiting":0,"disabled":false,"subscriptions":[{"group":"pro","until":"2100-01-01T00:00:00Z","windows":{"daily":{"start":" … ,"used_usd":"0.500000000","limit_usd":"10.000000000"},"weekly":{"start":null,"end":null,"used_usd":"0.000000000","limit_usd":null},"monthly":{"start":null,"end":null,"used_usd":"0.000000000","limit_usd":"150.000000000"}},"source":"config"}]},{"name":"zoé@example.com","source":"config","balance_usd":"unlimited", … "subscriptions":[]}]`},
	{"GET", "users/zo%C3%A9%40example.com", "", 200, `{"name":"zoé@example.com"`},
	{"GET", "users/gone", "", 404, `there is no user "gone"`},
	{"GET", "users/nobody", "", 404, `there is no user "nobody"`},
	{"GET", "nothing", "", 404, "/sub2api/users/{name}/credit"},
	{"GET", "users/a/b/c/d", "", 404, "there is nothing here"},
	{"GET", "", "", 404, "there is nothing here"},
	{"PUT", "users", "", 405, "PUT is not for this path; use GET, POST"},
	{"POST", "users/alice", "", 405, "use DELETE, GET, PATCH"},
	{"GET", "users/alice/credit", "", 405, "use POST"},
	{"GET", "keys/abc", "", 405, "use DELETE"},
	{"GET", "users?limit=3", "", 400, `"limit", which is unknown here; there are: store`},
	{"GET", "users?store=a&store=b", "", 400, "store 2 times"},
	{"GET", "users?store=elsewhere", "", 400, `"elsewhere" is none of the config's; there are: embedded /store`},
	{"GET", "users?store=/sto", "", 200, `"alice"`},

	{"POST", "users", `{"name":"bob","balance_usd":"5.25"}`, 200, `{"name":"bob","source":"api","balance_usd":"5.250000000","held_usd":"0.000000000","concurrency":5,"in_use":0,"waiting":0,"disabled":false,"subscriptions":[]}`},
	{"POST", "users", `{"name":"bob"}`, 409, "there is a user bob already"},
	{"POST", "users", `{"name":"alice"}`, 409, "the config has user alice already"},
	{"POST", "users", `{"name":"carol","balance_usd":7,"concurrency":0}`, 200, `"balance_usd":"7.000000000" … "concurrency":0`},
	{"POST", "users", `{"name":"gone"}`, 200, `"source":"api","balance_usd":`},
	{"POST", "users", ``, 400, `name: "" can't be used`},
	{"POST", "users", `{"name":"a/b"}`, 400, `name: "a/b" can't be used`},
	{"POST", "users", `{"name":"` + strings.Repeat("x", 65) + `"}`, 400, "within 64 bytes"},
	{"POST", "users", `{"name":"d","balance_usd":"-1"}`, 400, "balance_usd: -1.000000000 is out of range"},
	{"POST", "users", `{"name":"d","balance_usd":"1e3"}`, 400, `amount of US dollars "1e3"`},
	{"POST", "users", `{"name":"d","balance_usd":"unlimited"}`, 400, `amount of US dollars "unlimited"`},
	{"POST", "users", `{"name":"d","concurrency":-1}`, 400, "concurrency: -1 is out of range"},
	{"POST", "users", `{"name":"d","admin":true}`, 400, `the body: unknown field "admin"`},
	{"POST", "users", `{"name":"d"} x`, 400, "the body: "},
	{"POST", "users", `{"name":"d"}{}`, 400, "it goes on after its end"},
	{"POST", "users", `[]`, 400, "the body: cannot unmarshal array"},
	{"POST", "users", `{"name":"` + strings.Repeat("x", admin.MaxAdminBody) + `"}`, 413, "the body is over 1048576 bytes"},

	{"PATCH", "users/bob", `{"concurrency":9,"disabled":true}`, 200, `"concurrency":9 … "disabled":true`},
	{"PATCH", "users/bob", `{"disabled":false}`, 200, `"concurrency":9 … "disabled":false`},
	{"PATCH", "users/bob", `{}`, 400, "changes nothing"},
	{"PATCH", "users/bob", `{"concurrency":100001}`, 400, "concurrency: 100001 is out of range"},
	{"PATCH", "users/bob", `{"balance_usd":"5"}`, 400, `unknown field "balance_usd"`},
	{"PATCH", "users/alice", `{"disabled":true}`, 409, "user alice is the config's"},
	{"PATCH", "users/nobody", `{"disabled":true}`, 404, "there is no user"},

	{"POST", "users/bob/credit", `{"amount_usd":"10","note":"cash","id":"invoice 1"}`, 200, `{"balance_usd":"15.250000000","credited":true}`},
	{"POST", "users/bob/credit", `{"amount_usd":"10","note":"cash","id":"invoice 1"}`, 200, `{"balance_usd":"15.250000000","credited":false}`},
	{"POST", "users/bob/credit", `{"amount_usd":"-20.25"}`, 200, `{"balance_usd":"-5.000000000","credited":true}`},
	{"POST", "users/bob/credit", `{"amount_usd":"1"}`, 200, `{"balance_usd":"-4.000000000","credited":true}`},
	{"POST", "users/bob/credit", `{"amount_usd":"1"}`, 200, `{"balance_usd":"-3.000000000","credited":true}`},
	{"POST", "users/alice/credit", `{"amount_usd":"1"}`, 200, `{"balance_usd":"21.000000000","credited":true}`},
	{"POST", "users/zo%C3%A9%40example.com/credit", `{"amount_usd":"1"}`, 200, `{"balance_usd":"unlimited","credited":true}`},
	{"POST", "users/bob/credit", `{}`, 400, "amount_usd: 0.000000000 is not an amount"},
	{"POST", "users/bob/credit", `{"amount_usd":"1000000001"}`, 400, "is not an amount to credit"},
	{"POST", "users/bob/credit", `{"amount_usd":"1","note":"a\nb"}`, 400, "note: "},
	{"POST", "users/bob/credit", `{"amount_usd":"1","id":"` + strings.Repeat("x", 201) + `"}`, 400, "id: it is over 200 bytes"},
	{"POST", "users/nobody/credit", `{"amount_usd":"1"}`, 404, "there is no user"},

	{"PUT", "users/bob/subscriptions/team", ``, 200, `{"group":"team","until":null,"windows":{"daily":{"start":null,"end":null,"used_usd":"0.000000000","limit_usd":null},"weekly":{"start":null,"end":null,"used_usd":"0.000000000","limit_usd":"50.000000000"} … "source":"api"}`},
	{"PUT", "users/bob/subscriptions/team", `{"until":"2099-02-03"}`, 200, `"until":"2099-02-03T00:00:00Z"`},
	{"GET", "users/bob", ``, 200, `"subscriptions":[{"group":"team","until":"2099-02-03T00:00:00Z"`},
	{"PUT", "users/alice/subscriptions/team", `{"until":"2099-02-03T04:05:06+08:00"}`, 200, `"until":"2099-02-02T20:05:06Z"`},
	{"GET", "users/alice", ``, 200, `{"group":"pro" … "source":"config"},{"group":"team" … "source":"api"}]`},
	{"PUT", "users/alice/subscriptions/pro", ``, 409, "the config subscribes user alice to pro"},
	{"PUT", "users/bob/subscriptions/default", ``, 400, "group default has no limits … those with limits are: pro, team"},
	{"PUT", "users/bob/subscriptions/other", ``, 400, `"other" is not a group of the config; those with limits are: pro, team`},
	{"PUT", "users/bob/subscriptions/team", `{"until":"2001-01-01"}`, 400, "until: 2001-01-01T00:00:00Z has passed"},
	{"PUT", "users/bob/subscriptions/team", `{"until":"tomorrow"}`, 400, `until: "tomorrow" is not a time`},
	{"PUT", "users/bob/subscriptions/team", `{"until":""}`, 400, `"" is not a time`},
	{"PUT", "users/nobody/subscriptions/team", ``, 404, "there is no user"},
	{"DELETE", "users/alice/subscriptions/pro", ``, 409, "the config subscribes user alice to pro"},
	{"DELETE", "users/bob/subscriptions/team", ``, 200, `{"group":"team","until":"2099-02-03T00:00:00Z"`},
	{"DELETE", "users/bob/subscriptions/team", ``, 404, `user bob has no subscription of "team"`},

	{"GET", "users/alice/keys", ``, 200, `[{"id":"0100aabbccdd","user":"alice","source":"config","prefix":null,"groups":["default","pro"],"models":["claude-*"],"expires_at":null,"limits":{"daily":null,"monthly":null},"created_at":null,"last_used":null}]`},
	{"GET", "users/bob/keys", ``, 200, `[]`},
	{"GET", "users/nobody/keys", ``, 404, "there is no user"},
	{"POST", "users/bob/keys", `{"groups":["nope"]}`, 400, `groups: "nope" is not a group of the config; there are: default, pro, team`},
	{"POST", "users/bob/keys", `{"groups":["pro","pro"]}`, 400, "groups: holds pro twice"},
	{"POST", "users/bob/keys", `{"models":["a","a"]}`, 400, `models: holds "a" twice`},
	{"POST", "users/bob/keys", `{"models":["a*b"]}`, 400, `models: "a*b" has a * that is not at its end`},
	{"POST", "users/bob/keys", `{"models":["a b"]}`, 400, `models: "a b" is not a model name`},
	{"POST", "users/bob/keys", `{"models":[""]}`, 400, `models: "" is not a model name`},
	{"POST", "users/bob/keys", `{"expires_at":"2020-01-01"}`, 400, "expires_at: 2020-01-01T00:00:00Z has passed"},
	{"POST", "users/bob/keys", `{"limits":{"daily":"0"}}`, 400, "limits: daily: 0.000000000 is not a limit"},
	{"POST", "users/bob/keys", `{"limits":{"weekly":"1"}}`, 400, `unknown field "weekly"`},
	{"POST", "users/nobody/keys", `{}`, 404, "there is no user"},
	{"DELETE", "keys/0100aabbccdd", ``, 409, "key 0100aabbccdd is the config's"},
	{"DELETE", "keys/ffffffffffff", ``, 404, `there is no key "ffffffffffff"`},

	{"DELETE", "users/alice", ``, 409, "user alice is the config's"},
	{"DELETE", "users/nobody", ``, 404, "there is no user"},
	{"DELETE", "users/carol", ``, 200, `{"name":"carol","source":"api","balance_usd":"7.000000000"`},
	{"GET", "users/carol", ``, 404, "there is no user"},

	{"GET", "usage?from=2026-01-02&to=2026-01-03T00:00:00Z&user=u&key=k&account=a&group=g&model=m&by=day,user,model,key,account,group", "", 200, `{"day":"","user":"u","model":"m","key":"k","account":"a","group":"g","requests":6,"input_tokens":1767312000,"output_tokens":1767398400,"cache_write_5m_tokens":0,"cache_write_1h_tokens":0,"cache_read_tokens":0,"cost_usd":"0.000000001","charged_usd":"0.000000002"}`},
	{"GET", "usage", "", 200, `{"requests":0,`},
	{"GET", "usage?by=user,user", "", 400, "by: holds user twice"},
	{"GET", "usage?by=user,", "", 400, `by: "" is none of user, key, account, group, model and day`},
	{"GET", "usage?from=yesterday", "", 400, `from: "yesterday" is not a time`},
	{"GET", "usage?to=1", "", 400, `to: "1" is not a time`},
	{"GET", "usage?from=2026-01-02&to=2026-01-02", "", 400, "from is not before to"},
	{"GET", "usage?format=xml", "", 400, `format: "xml" is unknown; write json or csv`},
	{"GET", "usage?limit=1", "", 400, `"limit", which is unknown here`},
	{"GET", "records", "", 200, "[]\n"},
	{"GET", "records?limit=-1", "", 400, `limit: "-1" is not a number`},
	{"GET", "records?limit=x", "", 400, `limit: "x" is not a number`},
	{"GET", "records?after=r1", "", 400, `after: there is no record "r1"`},
	{"GET", "records?settled_from=yesterday", "", 400, `settled_from: "yesterday" is not a time`},
	{"GET", "records?settled_to=1", "", 400, `settled_to: "1" is not a time`},
	{"GET", "records?settled_from=2026-11-01T00:00:00+08:00", "", 400, `in a query, + is written %2B`},
	{"GET", "records?settled_from=2026-01-02&settled_to=2026-01-02", "", 400, "settled_from is not before settled_to"},
	{"GET", "records?settled_from=2026-01-02&settled_from=2026-01-03", "", 400, "settled_from 2 times"},
	{"GET", "usage?settled_from=2026-01-02", "", 400, `"settled_from", which is unknown here`},
	{"GET", "records?by=user", "", 400, `"by", which is unknown here`},
}

func TestAKeyIsShownOnceAndKeptAsADigest(t *testing.T) {
	ledger := admintest.NewLedger()
	rt := admintest.Runtime(t, store.Embedded{Dir: "/store"}, ledger, admintest.Config())
	api := &admin.API{Runtimes: func() []*gateway.Runtime { return []*gateway.Runtime{rt} }}
	status, body, header := admintest.Call(t, api, "POST", "/sub2api/users/alice/keys",
		`{"groups":["pro","default"],"models":["claude-haiku-*"],"expires_at":"2099-01-01","limits":{"daily":"5","monthly":50}}`)
	if status != 200 || header.Get("Cache-Control") != "no-store" {
		t.Fatalf("status %d, header %v: %s", status, header, body)
	}
	var made admin.Key
	if err := json.Unmarshal([]byte(body), &made); err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^sk-[0-9A-Za-z]{43}$`).MatchString(made.Key) {
		t.Errorf("the key is %q", made.Key)
	}
	digest := sha256.Sum256([]byte(made.Key))
	want := []billing.Key{{
		ID: hex.EncodeToString(digest[:])[:12], Digest: digest, Prefix: made.Key[:7], User: "alice",
		Groups: []string{"pro", "default"}, Models: []string{"claude-haiku-*"}, Expires: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC),
		Limits: billing.Limits{5 * admintest.Dollar, 0, 50 * admintest.Dollar}, Created: ledger.KeyMap[0].Created,
	}}
	if diff := cmp.Diff(want, ledger.KeyMap); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
	if age := time.Since(ledger.KeyMap[0].Created); age < 0 || age > time.Minute {
		t.Errorf("created %v ago", age)
	}
	_, another, _ := admintest.Call(t, api, "POST", "/sub2api/users/alice/keys", "")
	if strings.Contains(another, made.Key) || !strings.Contains(another, `"groups":[],"models":[]`) {
		t.Errorf("a second key: %s", another)
	}
	for _, path := range []string{"users/alice/keys", "keys"} {
		status, body, _ := admintest.Call(t, api, "GET", "/sub2api/"+path, "")
		if status != 200 || strings.Contains(body, made.Key) || strings.Contains(body, hex.EncodeToString(digest[:])) || strings.Contains(body, `"key":`) {
			t.Errorf("%s: status %d, shows the key: %s", path, status, body)
		}
		if !strings.Contains(body, `"prefix":"`+made.Key[:7]+`","groups":["pro","default"]`) || strings.Count(body, `"id":`) != 3 {
			t.Errorf("%s does not list the keys: %s", path, body)
		}
	}
	if status, _, _ := admintest.Call(t, api, "DELETE", "/sub2api/keys/"+made.ID, ""); status != http.StatusNoContent || len(ledger.KeyMap) != 1 {
		t.Errorf("revoked: status %d, %d keys are left", status, len(ledger.KeyMap))
	}
}

func TestSeveralStoresAreNamed(t *testing.T) {
	var all []*gateway.Runtime
	api := &admin.API{Runtimes: func() []*gateway.Runtime { return all }}
	if status, body, _ := admintest.Call(t, api, "GET", "/sub2api/users", ""); status != 404 || !strings.Contains(body, "has no sub2api handler") {
		t.Errorf("without a store: %d %s", status, body)
	}
	for _, named := range []store.Config{
		store.Embedded{Dir: "/var/lib/x"}, store.Embedded{Dir: "/var/lib/xy"},
		&store.Redis{Addresses: []string{"h:6379"}, Namespace: "n"},
		&store.Redis{Addresses: []string{"h:6379"}, Namespace: "n", Database: 1},
	} {
		ledger := admintest.NewLedger()
		config := admintest.Config()
		config.Users, config.Keys = nil, nil
		config.Declared = []billing.User{}
		rt := admintest.Runtime(t, named, ledger, config)
		if err := ledger.AddUser(t.Context(), billing.User{Name: fmt.Sprint("user", len(all))}); err != nil {
			t.Fatal(err)
		}
		all = append(all, rt)
	}
	for store, want := range map[string]string{
		"":                      "several stores; name one as store, in full or in part: embedded /var/lib/x, embedded /var/lib/xy, redis h:6379 namespace n redis:",
		"embedded /var/lib/x":   `"user0"`,
		"xy":                    `"user1"`,
		"/var/lib":              "several of the config's; write more of one: embedded /var/lib/x, ",
		"h:6379/0":              `"user2"`,
		"h:6379/1":              `"user3"`,
		"redis h:6379":          "several of the config's",
		"/var/lib/z":            "none of the config's; there are: embedded /var/lib/x, ",
		"redis h:6379 namespac": "several",
	} {
		request := httptest.NewRequest("GET", "/sub2api/users", nil)
		if store != "" {
			query := request.URL.Query()
			query.Set("store", store)
			request.URL.RawQuery = query.Encode()
		}
		status, body, _ := admintest.Call(t, api, "GET", request.URL.String(), "")
		if ok := strings.HasPrefix(want, `"`); !strings.Contains(body, want) || ok != (status == 200) || !ok && status != 400 {
			t.Errorf("store %q: status %d, %s, want %s", store, status, body, want)
		}
	}
}

func TestAStoreThatFails(t *testing.T) {
	broken := errors.New("broken")
	far := &store.Redis{Addresses: []string{"h:6379"}, Namespace: "n"}
	for _, test := range []struct {
		named store.Config
		err   error
		want  int
	}{
		{store.Embedded{Dir: "/store"}, broken, 500},
		{store.Embedded{Dir: "/store"}, fmt.Errorf("adding: %w", billing.ErrUnwritable), 503},
		{store.Embedded{Dir: "/store"}, billing.ErrClosed, 503},
		{far, broken, 503},
	} {
		ledger := admintest.NewLedger()
		rt := admintest.Runtime(t, test.named, ledger, admintest.Config())
		api := &admin.API{Runtimes: func() []*gateway.Runtime { return []*gateway.Runtime{rt} }}
		ledger.Fail = test.err
		for _, path := range []string{"users", "users/alice", "keys", "usage", "records"} {
			status, body, _ := admintest.Call(t, api, "GET", "/sub2api/"+path, "")
			if status != test.want || !strings.HasPrefix(body, "store "+test.named.String()+": ") {
				t.Errorf("%v of %s: %s: status %d, want %d: %s", test.err, test.named, path, status, test.want, body)
			}
		}
	}
	ledger := admintest.NewLedger()
	rt := admintest.Runtime(t, store.Embedded{Dir: "/store"}, ledger, admintest.Config())
	api := &admin.API{Runtimes: func() []*gateway.Runtime { return []*gateway.Runtime{rt} }}
	if err := rt.Destruct(); err != nil {
		t.Fatal(err)
	}
	if status, body, _ := admintest.Call(t, api, "GET", "/sub2api/users", ""); status != 503 || !strings.Contains(body, "is being closed") {
		t.Errorf("while it closes: %d %s", status, body)
	}
}
