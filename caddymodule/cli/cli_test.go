package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/billing/ledgertest"
	"github.com/sub2api/caddy-sub2api/caddymodule/admin"
	"github.com/sub2api/caddy-sub2api/caddymodule/admin/admintest"
	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
)

// adminServer answers as Caddy's admin endpoint does, and returns its address.
func adminServer(t *testing.T, api *admin.API) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := api.Serve(w, r); err != nil {
			w.WriteHeader(err.(*admin.Error).Status)
			_ = json.NewEncoder(w).Encode(map[string]string{"error": err.Error()})
		}
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

var testEndpoint = Endpoint{Address: gatewaytest.AdminAddress, Request: gatewaytest.AdminRequest}

// command runs `caddy sub2api` with these words.
func command(address string, words ...string) (out, notes string, err error) {
	caddy, ours := &cobra.Command{Use: "caddy", SilenceUsage: true}, &cobra.Command{Use: "sub2api"}
	needsCommand(ours)
	ours.AddCommand(Commands(testEndpoint)...)
	caddy.AddCommand(ours)
	var stdout, stderr bytes.Buffer
	caddy.SetOut(&stdout)
	caddy.SetErr(&stderr)
	args := append([]string{"sub2api"}, words...)
	if words[0] != "frobnicate" {
		args = slices.Insert(args, 2, "--address", address)
	}
	caddy.SetArgs(args)
	err = caddy.Execute()
	return stdout.String(), stderr.String(), err
}

func TestCommands(t *testing.T) {
	ledger := admintest.NewLedger()
	ledger.RecordList = admintest.NewestFirst(3)
	ledger.RecordList[2].Model, ledger.RecordList[2].Estimated = "evil\x1b[2J\tmodel", true
	address := adminServer(t, admintest.Serving(t, ledger))
	for _, step := range []struct{ words, want string }{
		{"users", "NAME             SOURCE  STATE    BALANCE    HELD  IN USE  CONCURRENCY  WAITING  SUBSCRIPTIONS\nalice            config  enabled  20.00      0.00  0       3            0        pro\nzoé@example.com  config  enabled  unlimited  0.00  0       no limit     0        -\n"},
		{"users list --json", `[{"name":"alice","source":"config","balance_usd":"20.000000000"`},
		{"users --json list", `[{"name":"alice"`},
		{"users show zoé@example.com", "zoé@example.com  config  enabled  unlimited"},
		{"users show alice", "\n\nGROUP  SOURCE  UNTIL                 WINDOW   USED  LIMIT   ENDS\npro    config  2100-01-01T00:00:00Z  daily    0.00  10.00   not begun\npro    config  2100-01-01T00:00:00Z  weekly   0.00  none    not begun\n"},
		{"users add bob --balance 5.5 --concurrency 2", "bob   api     enabled  5.50     0.00  0       2            0        -\n"},
		{"users add carol", "carol  api     enabled  0.00     0.00  0       5 "},
		{"users disable bob", "user bob is disabled\n"},
		{"users show bob", "bob   api     disabled  5.50"},
		{"users enable bob", "user bob is enabled\n"},
		{"users credit bob 1.005 --note cash --id a", "the balance of bob is 6.505\n"},
		{"users credit bob 1 --id a", "nothing changed: a credit of the id a was there before; the balance of bob is 6.505\n"},
		{"users credit bob -7", "the balance of bob is -0.495\n"},
		{"users credit bob -.5", "!amount of US dollars"},
		{"users credit --id -7 bob -0.5 --json", `{"balance_usd":"-0.995000000","credited":true}`},
		{"users credit --id=-7 bob -- -0.5", "nothing changed: a credit of the id -7"},
		{"users credit zoé@example.com 1", "the balance of zoé@example.com is unlimited\n"},
		{"users credit bob", "!accepts 2 arg(s), received 1"},
		{"users credit bob 1 --nots x", "!unknown flag: --nots"},
		{"users credit -5", "!accepts 2 arg(s), received 1"},
		{"users credit --help", "caddy sub2api users credit <name> <amount>"},
		{"users credit bob 0", "!amount_usd: 0.000000000 is not an amount to credit"},
		{"users subscribe bob team --until 2099-01-01", "team   api     2099-01-01T00:00:00Z  weekly   0.00  50.00  not begun\n"},
		{"users subscribe bob team", "team   api     never  weekly"},
		{"users subscribe bob default", "!group default has no limits"},
		{"users unsubscribe bob team", "user bob is no longer subscribed to team\n"},
		{"users unsubscribe bob team", "!user bob has no subscription"},
		{"users remove bob", "user bob is removed; the balance was -0.995\n"},
		{"users remove alice", "!user alice is the config's; change the config and reload it"},
		{"users remove", "!accepts 1 arg(s), received 0"},
		{"users frobnicate", "!unknown command \"frobnicate\" for \"caddy sub2api users\""},
		{"frobnicate", "!unknown command \"frobnicate\" for \"caddy sub2api\""},
		{"keys list", "0100aabbccdd  alice  config  unknown  default,pro  claude-*  never    none   none     unknown  unknown\n"},
		{"keys list zoé@example.com --json", "[]\n"},
		{"keys list nobody", "!there is no user \"nobody\""},
		{"keys list a b", "!accepts at most 1 arg(s), received 2"},
		{"keys add carol --group nope", "!groups: \"nope\" is not a group of the config; there are: default, pro, team"},
		{"keys add carol --expires yesterday", "!expires_at: \"yesterday\" is not a time"},
		{"keys add carol --daily much", "!amount of US dollars \"much\""},
		{"keys revoke 0100aabbccdd", "!key 0100aabbccdd is the config's"},
		{"keys", "caddy sub2api keys [command]"},
		{"keys frobnicate", "!unknown command"},
		{"usage", "REQUESTS  INPUT         OUTPUT        CACHE WRITE 5M  CACHE WRITE 1H  CACHE READ  COST         CHARGED\n0         -62135596800  -62135596800  0               0               0           0.000000001  0.000000002\n"},
		{"usage --by user,model --user alice --model m", "USER   MODEL  REQUESTS  INPUT"},
		{"usage --by user --user alice --csv", "user,requests,input_tokens,output_tokens,cache_write_5m_tokens,cache_write_1h_tokens,cache_read_tokens,cost_usd,charged_usd\nalice,1,"},
		{"usage --by user --user alice --json", "[\n{\"user\":\"alice\",\"requests\":1,"},
		{"usage --csv --json", "!csv json"},
		{"usage --by nothing", "!by: \"nothing\" is none of user, key"},
		{"usage --from x", "!from: \"x\" is not a time"},
		{"usage now", "!unknown command \"now\""},
		{"records", "evil?[2J?model     200 estimated  12     345     678          91011       0.0142701  0.0142701  balance  r2\n"},
		{"records --limit 1", "2026-11-25T12:00:00Z  alice  k_0123456789abcdef  default  main     claude-sonnet-5-5  200"},
		{"records --after r1", "r2\n"},
		{"records --after r9", "!after: there is no record \"r9\""},
		{"records --limit 1 --csv", "id,time,settled,user,key_id,"},
		{"users --store nowhere", "!store: \"nowhere\" is none of the config's; there are: embedded /store"},
	} {
		out, notes, err := command(address, strings.Fields(step.words)...)
		want, fails := strings.CutPrefix(step.want, "!")
		if fails {
			if err == nil || !strings.HasPrefix(notes, "Error: ") || strings.Count(notes, "\n") != 1 || !strings.Contains(notes, want) {
				t.Errorf("%s: error %v, it printed %q; want one line with %q", step.words, err, out+notes, want)
			}
			continue
		}
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v\n%s%s\nwant\n%s", step.words, err, out, notes, want)
		}
	}
}

func TestKeysAddPrintsTheKeyAloneOnALine(t *testing.T) {
	ledger := admintest.NewLedger()
	address := adminServer(t, admintest.Serving(t, ledger))
	out, notes, err := command(address, "keys", "add", "alice", "--group", "pro,default", "--models", "claude-*,glm", "--expires", "2099-01-01", "--daily", "5", "--monthly", "50")
	if err != nil || len(ledger.KeyMap) != 1 {
		t.Fatal(err, notes)
	}
	made := ledger.KeyMap[0]
	key, rest, _ := strings.Cut(out, "\n")
	if rest != "" || len(key) != 46 || !strings.HasPrefix(key, made.Prefix) {
		t.Errorf("standard output is %q", out)
	}
	if strings.Contains(notes, key) || !strings.Contains(notes, made.ID) {
		t.Errorf("standard error is %q", notes)
	}
	got := []any{made.Groups, made.Models, made.Expires.Year(), made.Limits}
	if diff := cmp.Diff([]any{[]string{"pro", "default"}, []string{"claude-*", "glm"}, 2099, billing.Limits{5 * admintest.Dollar, 0, 50 * admintest.Dollar}}, got); diff != "" {
		t.Error(diff)
	}
	out, _, err = command(address, "keys", "list", "alice")
	if err != nil || strings.Contains(out, key) || !strings.Contains(out, made.Prefix+"…") {
		t.Errorf("%v: %s", err, out)
	}
	if out, _, err = command(address, "keys", "revoke", made.ID); err != nil || out != "key "+made.ID+" is revoked\n" {
		t.Errorf("%v: %s", err, out)
	}
	if out, _, err = command(address, "keys", "add", "alice", "--json"); err != nil || !json.Valid([]byte(out)) || !strings.Contains(out, `"key":"sk-`) {
		t.Errorf("%v: %s", err, out)
	}
}

func TestACutAnswerIsAnError(t *testing.T) {
	ledger := &admintest.Endless{Ledger: admintest.NewLedger(), RowCount: 1000}
	address := adminServer(t, admintest.Serving(t, ledger))
	ledger.Fail = errors.New("broken")
	for _, words := range []string{"records", "records --csv", "records --json", "usage", "usage --csv"} {
		out, notes, err := command(address, strings.Fields(words)...)
		if err == nil || !strings.Contains(notes, "the answer was cut short, Caddy's log says why") || strings.Count(out, "\n") < 100 {
			t.Errorf("%s: %v, %q after %d lines", words, err, notes, strings.Count(out, "\n"))
		}
	}
}

func TestDollarsForPeople(t *testing.T) {
	for amount, want := range map[billing.USD]string{
		0: "0.00", 1: "0.000000001", 1_500_000_000: "1.50", -5_000_000_000: "-5.00", ledgertest.Example("").Cost: "0.0142701", 12_345_000_000: "12.345",
	} {
		if got := amount.Short(); got != want {
			t.Errorf("%d nano-dollars: %s, want %s", amount, got, want)
		}
	}
}
