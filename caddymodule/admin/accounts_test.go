package admin_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/caddymodule/admin"
	"github.com/sub2api/caddy-sub2api/caddymodule/admin/admintest"
	"github.com/sub2api/caddy-sub2api/scheduler"
	"github.com/sub2api/caddy-sub2api/upstream"
)

// listed calls GET accounts and returns it by name.
func listed(t *testing.T, api *admin.API) map[string]admin.Account {
	t.Helper()
	status, body, _ := admintest.Call(t, api, "GET", "/sub2api/accounts", "")
	var all []admin.Account
	if err := json.Unmarshal([]byte(body), &all); status != 200 || err != nil {
		t.Fatalf("%d %s: %v", status, body, err)
	}
	if strings.Contains(body, admintest.Hidden) {
		t.Errorf("a secret is shown: %s", body)
	}
	views := map[string]admin.Account{}
	for _, v := range all {
		views[v.Name] = v
	}
	return views
}

func TestAccountsOfAStoreThatKnowsNothingOfThem(t *testing.T) {
	api, _ := admintest.AccountAPI(t)
	_, body, header := admintest.Call(t, api, "GET", "/sub2api/accounts", "")
	want := `[{"name":"gem","platform":"gemini","type":"api_key","groups":[],"priority":0,"concurrency":0,"in_use":0,"waiting":0,"state":"active","state_until":null,"reason":null,"marks":[],"models":[],"windows":[],"last_used":null,"error_next_try":null},` +
		`{"name":"main","platform":"anthropic","type":"api_key","groups":["default","pro"],"priority":10,"concurrency":2,"in_use":0,"waiting":0,"state":"active","state_until":null,"reason":null,"marks":[],"models":["claude-sonnet-4-5","claude-haiku-*"],"windows":[],"last_used":null,"error_next_try":null},` +
		`{"name":"max","platform":"anthropic","type":"oauth","groups":["default"],"priority":50,"concurrency":0,"in_use":0,"waiting":0,"state":"active","state_until":null,"reason":null,"marks":[],"models":[],"windows":[],"last_used":null,"error_next_try":null},` +
		`{"name":"team","platform":"anthropic","type":"setup_token","groups":["default","pro"],"priority":0,"concurrency":0,"in_use":0,"waiting":0,"state":"disabled","state_until":null,"reason":"disabled in the config","marks":[],"models":[],"windows":[],"last_used":null,"error_next_try":null}]` + "\n"
	if diff := cmp.Diff(want, body); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if header.Get("Content-Type") != "application/json" || header.Get("Cache-Control") != "no-store" {
		t.Errorf("header %v", header)
	}
}

func TestAccountsSayHowTheyStand(t *testing.T) {
	api, rt := admintest.AccountAPI(t)
	zone := time.FixedZone("", 8*3600)
	until := time.Now().Add(time.Hour).Truncate(time.Second).In(zone)
	utc := func(d time.Duration) *time.Time { return new(until.Add(d).UTC()) }
	admintest.Stand(t, rt, "main", func(st *scheduler.AccountState) {
		st.Limits = []scheduler.Limit{
			{Claim: "5h", Until: until, Reason: "window used up"},
			{Claim: "7d_opus", Family: "opus", Until: until.Add(time.Minute), Reason: "opus used up"},
		}
		st.Demotions = []scheduler.Demotion{
			{Model: "claude-x", Until: until.Add(time.Second), Reason: "429"},
			{Model: "claude-y", Until: time.Now().Add(-time.Second), Reason: "over"},
		}
		st.Windows = []scheduler.Window{
			{Name: "5h", Start: until.Add(-5 * time.Hour), End: until, Status: "rejected", Utilization: 1.02},
			{Name: "7d", Status: "allowed", Utilization: -1},
		}
	})
	admintest.Stand(t, rt, "max", func(st *scheduler.AccountState) {
		st.Error, st.ErrorNext = "401", until
		st.Demotions = []scheduler.Demotion{{Until: until, Reason: "refused"}}
	})
	admintest.Stand(t, rt, "gem", func(st *scheduler.AccountState) {
		st.Demotions = []scheduler.Demotion{{Until: until, Reason: "connection refused"}}
	})
	admintest.Stand(t, rt, "team", func(st *scheduler.AccountState) { st.Error, st.ErrorNext = "402", until })
	candidates := &scheduler.Candidates{Places: []scheduler.Place{{Name: "account/max", Limit: 1}}}
	for _, lease := range []string{"1", "2"} {
		if _, err := rt.State.Acquire(t.Context(), &scheduler.Ask{Lease: lease, TTL: time.Minute, Candidates: candidates, Question: true, MaxWaiting: 9}); err != nil {
			t.Fatal(err)
		}
	}
	got := listed(t, api)
	if used := got["max"].LastUsed; used == nil || time.Since(*used).Abs() > time.Minute {
		t.Errorf("last used %v", used)
	}
	main := got["main"]
	want := admin.Account{
		Name: "main", Platform: "anthropic", Type: "api_key", Groups: []string{"default", "pro"}, Priority: 10, Concurrency: 2,
		State: "rate_limited", StateUntil: utc(0), Reason: new("window used up"),
		Marks: []admin.Mark{
			{"opus out (7d_opus)", "opus used up", *utc(time.Minute)},
			{"claude-x last", "429", *utc(time.Second)},
			{"account out (5h)", "window used up", *utc(0)},
		},
		Models: []string{"claude-sonnet-4-5", "claude-haiku-*"},
		Windows: []admin.AccountWindow{
			{"5h", utc(-5 * time.Hour), utc(0), "rejected", new(1.02)},
			{"7d", nil, nil, "allowed", nil},
		},
	}
	if diff := cmp.Diff(want, main); diff != "" {
		t.Errorf("main (-want +got):\n%s", diff)
	}
	type summary struct {
		State, Reason  string
		Until, Next    *time.Time
		Marks          int
		InUse, Waiting int
	}
	summaries := map[string]summary{}
	for name, v := range got {
		summaries[name] = summary{v.State, *v.Reason, v.StateUntil, v.ErrorNextTry, len(v.Marks), v.InUse, v.Waiting}
	}
	wants := map[string]summary{
		"main": {"rate_limited", "window used up", utc(0), nil, 3, 0, 0},
		"max":  {"error", "401", nil, utc(0), 1, 1, 1},
		"gem":  {"overloaded", "connection refused", utc(0), nil, 1, 0, 0},
		"team": {"disabled", "disabled in the config", nil, nil, 0, 0, 0},
	}
	if diff := cmp.Diff(wants, summaries); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPausingResumingAndResettingAccounts(t *testing.T) {
	api, rt := admintest.AccountAPI(t)
	until := time.Now().Add(time.Hour)
	limit := func(st *scheduler.AccountState) {
		st.Error, st.Limits = "401", []scheduler.Limit{{Claim: "5h", Until: until, Reason: "used up"}}
		st.Demotions = []scheduler.Demotion{{Model: "m", Until: until}}
	}
	admintest.Stand(t, rt, "main", limit)
	admintest.Stand(t, rt, "max", limit)
	for _, step := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "accounts/max/pause", "", 200, `"name":"max" … "state":"disabled","state_until":null,"reason":"paused by the admin API, from 192.0.2.1 at 20 … "error_next_try":null`},
		{"POST", "accounts/max/pause", "{}", 200, `"state":"disabled"`},
		{"POST", "accounts/max/reset", "", 200, `"state":"disabled" … "reason":"paused by the admin API … "marks":[]`},
		{"POST", "accounts/max/resume", "", 200, `"state":"active","state_until":null,"reason":null`},
		{"POST", "accounts/max/resume", "", 200, `"state":"active"`},
		{"POST", "accounts/main/resume", "", 200, `"state":"error","state_until":null,"reason":"401","marks":[{ … {`},
		{"POST", "accounts/main/reset", "", 200, `"state":"active","state_until":null,"reason":null,"marks":[]`},
		{"POST", "accounts/main/reset", "", 200, `"state":"active"`},
		{"POST", "accounts/team/pause", "", 200, `"reason":"disabled in the config; paused by the admin API`},
		{"POST", "accounts/team/resume", "", 200, `"state":"disabled","state_until":null,"reason":"disabled in the config"`},
		{"POST", "accounts/team/resume", "", 409, "account team is disabled in the config; change the config and reload it"},
		{"POST", "accounts/team/reset", "", 200, `"state":"disabled"`},

		{"POST", "accounts/nobody/pause", "", 404, `there is no account "nobody" in the config`},
		{"POST", "accounts/nobody/resume", "", 404, "there is no account"},
		{"POST", "accounts/nobody/reset", "", 404, "there is no account"},
		{"POST", "accounts/main/test", "", 404, "there is nothing here"},
		{"POST", "accounts//pause", "", 404, "there is nothing here"},
		{"GET", "accounts/main", "", 404, "there is nothing here"},
		{"POST", "accounts/main/pause", `{"by":"me"}`, 400, `unknown field "by"`},
		{"POST", "accounts/main/pause", `[]`, 400, "the body: "},
		{"POST", "accounts/main/pause?for=1h", ``, 400, `"for", which is unknown here`},
		{"POST", "accounts/main/pause?store=elsewhere", ``, 400, "none of the config's"},
		{"POST", "accounts", "", 405, "use GET"},
		{"GET", "accounts/main/pause", "", 405, "use POST"},
		{"DELETE", "accounts/main/resume", "", 405, "use POST"},
		{"PUT", "accounts/main/reset", "", 405, "use POST"},
	} {
		status, body, header := admintest.Call(t, api, step.method, "/sub2api/"+step.path, step.body)
		if status != step.status || strings.Contains(body, admintest.Hidden) {
			t.Errorf("%s %s: status %d, want %d: %s", step.method, step.path, status, step.status, body)
		}
		for want := range strings.SplitSeq(step.want, " … ") {
			if !strings.Contains(body, want) {
				t.Errorf("%s %s: %q is not in %s", step.method, step.path, want, body)
			}
		}
		if allow := header.Get("Allow"); (status == http.StatusMethodNotAllowed) != (allow != "") {
			t.Errorf("%s %s: status %d, Allow %q", step.method, step.path, status, allow)
		}
	}
}

func TestTheFirstPauseCounts(t *testing.T) {
	api, rt := admintest.AccountAPI(t)
	began := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	admintest.Stand(t, rt, "main", func(st *scheduler.AccountState) { st.Pause = &scheduler.Pause{By: "ann", At: began} })
	admintest.Call(t, api, "POST", "/sub2api/accounts/main/pause", "")
	if v := listed(t, api)["main"]; *v.Reason != "paused by ann at 2026-11-25T12:00:00Z" {
		t.Errorf("reason %q", *v.Reason)
	}
}

func TestAccountsOfSeveralSites(t *testing.T) {
	api, rt := admintest.AccountAPI(t)
	// Another site of the store, whose config came later.
	second := admintest.AccountConfig()
	second.Accounts = second.Accounts[:1]
	second.Accounts[0].Priority = 99
	second.Scheduler = scheduler.Settings{
		Accounts: append(second.Accounts, &upstream.Account{Name: "more", Platform: upstream.Anthropic}),
		Groups:   []scheduler.Group{{Name: "second", Accounts: []string{"main"}}, {Name: "pro", Accounts: []string{"main"}}},
	}
	second.Accounts = second.Scheduler.Accounts
	admintest.Join(t, rt, second).Begin(t.Context())
	got := listed(t, api)
	if len(got) != 5 || got["main"].Priority != 99 {
		t.Errorf("%d accounts, main is %+v", len(got), got["main"])
	}
	if diff := cmp.Diff([]string{"default", "pro", "second"}, got["main"].Groups); diff != "" {
		t.Errorf("groups of main (-want +got):\n%s", diff)
	}
}

func TestAccountsOfAStateThatIsClosed(t *testing.T) {
	api, rt := admintest.AccountAPI(t)
	rt.State.Close()
	for _, act := range []string{"pause", "resume", "reset"} {
		if status, body, _ := admintest.Call(t, api, "POST", "/sub2api/accounts/main/"+act, ""); status != 503 || !strings.Contains(body, `changing the state of account "main"`) {
			t.Errorf("%s: %d %s", act, status, body)
		}
	}
}
