package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/caddymodule/admin/admintest"
	"github.com/sub2api/caddy-sub2api/scheduler"
)

func TestAccountCommands(t *testing.T) {
	api, rt := admintest.AccountAPI(t)
	address := adminServer(t, api)
	far := time.Date(2126, 11, 25, 12, 0, 0, 0, time.UTC)
	admintest.Stand(t, rt, "main", func(st *scheduler.AccountState) {
		st.Limits = []scheduler.Limit{{Claim: "5h", Until: far, Reason: "used\x1b[2J up"}}
		st.Demotions = []scheduler.Demotion{{Model: "claude-x", Until: far.Add(time.Second), Reason: "upstream answered 529"}}
		st.Windows = []scheduler.Window{{Name: "5h", End: far, Status: "rejected", Utilization: 1.02}, {Name: "7d", Status: "allowed", Utilization: -1}}
	})
	admintest.Stand(t, rt, "max", func(st *scheduler.AccountState) { st.Error, st.ErrorNext = "upstream answered 401", far })
	out, notes, err := command(address, "accounts")
	want := `NAME  PLATFORM   TYPE         GROUPS       PRIORITY  IN USE  CONCURRENCY  WAITING  STATE         UNTIL                 LAST USED  MODELS
gem   gemini     api_key      -            0         0       no limit     0        active        -                     -          all
main  anthropic  api_key      default,pro  10        0       2            0        rate_limited  2126-11-25T12:00:00Z  -          claude-sonnet-4-5,claude-haiku-*
  claude-x last until 2126-11-25T12:00:01Z: upstream answered 529
  account out (5h) until 2126-11-25T12:00:00Z: used?[2J up
  window 5h rejected, 102 % used, ends 2126-11-25T12:00:00Z
  window 7d allowed
max   anthropic  oauth        default      50        0       no limit     0        error         -                     -          all
  upstream answered 401; asked again at 2126-11-25T12:00:00Z
team  anthropic  setup_token  default,pro  0         0       no limit     0        disabled      -                     -          all
  disabled in the config
`
	if diff := cmp.Diff(want, out); diff != "" || err != nil || notes != "" {
		t.Errorf("(-want +got):\n%s%v %s", diff, err, notes)
	}
	for _, step := range []struct{ words, want string }{
		{"accounts list", want},
		{"accounts --json", `[{"name":"gem","platform":"gemini"`},
		{"accounts list --json", `"state":"rate_limited","state_until":"2126-11-25T12:00:00Z"`},
		{"accounts resume main", "account main is rate_limited until 2126-11-25T12:00:00Z: used?[2J up\n"},
		{"accounts pause main", "account main is disabled: paused by the admin API at 20"},
		{"accounts pause main --json", `{"name":"main","platform":"anthropic",`},
		{"accounts reset main", "account main is disabled: paused by the admin API at 20"},
		{"accounts resume main", "account main is active\n"},
		{"accounts reset max", "account max is active\n"},
		{"accounts resume team", "!account team is disabled in the config; change the config and reload it"},
		{"accounts pause nobody", `!there is no account "nobody" in the config`},
		{"accounts pause a/b", `!there is no account "a/b" in the config`},
		{"accounts pause", "!accepts 1 arg(s), received 0"},
		{"accounts pause main max", "!accepts 1 arg(s), received 2"},
		{"accounts test main", `!unknown command "test" for "caddy sub2api accounts"`},
		{"accounts main", `!unknown command "main" for "caddy sub2api accounts"`},
		{"accounts --store nowhere", `!store: "nowhere" is none of the config's`},
		{"accounts --help", "caddy sub2api accounts [command]"},
	} {
		out, notes, err := command(address, strings.Fields(step.words)...)
		want, fails := strings.CutPrefix(step.want, "!")
		switch {
		case fails && (err == nil || strings.Count(notes, "\n") != 1 || !strings.Contains(notes, want)):
			t.Errorf("%s: error %v, it printed %q; want one line with %q", step.words, err, out+notes, want)
		case !fails && (err != nil || !strings.Contains(out, want)):
			t.Errorf("%s: %v\n%s%s\nwant\n%s", step.words, err, out, notes, want)
		}
	}
}
