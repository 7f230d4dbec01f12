package caddymodule_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
)

// operator types commands at a site.
type operator struct {
	*site
	secrets []string
}

// try runs `caddy sub2api` with these words, and returns what it printed.
func (o *operator) try(t *testing.T, words ...string) (out, notes string, err error) {
	t.Helper()
	cmd, _ := gatewaytest.Command(t, append([]string{"sub2api"}, append(words, "--address", o.admin)...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	return stdout.String(), stderr.String(), err
}

// run runs a command that works.
func (o *operator) run(t *testing.T, words string) string {
	t.Helper()
	out, notes, err := o.try(t, strings.Fields(words)...)
	if err != nil {
		t.Fatalf("caddy sub2api %s: %v\n%s%s\n%s", words, err, out, notes, o.log)
	}
	return out
}

// key makes a gateway key and returns it with its id.
func (o *operator) key(t *testing.T, words string) (key, id string) {
	t.Helper()
	var made struct{ ID, Key string }
	if err := json.Unmarshal([]byte(o.run(t, "keys add "+words+" --json")), &made); err != nil {
		t.Fatal(err)
	}
	o.secrets = append(o.secrets, made.Key)
	return made.Key, made.ID
}

// spend sends a request with a key; it returns status and body.
func (o *operator) spend(t *testing.T, key string) (int, string) {
	t.Helper()
	request, err := http.NewRequest(http.MethodPost, o.url+"/v1/messages", strings.NewReader(question))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Api-Key", key)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatalf("%v\n%s", err, o.log)
	}
	defer response.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(response.Body); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, body.String()
}

func (o *operator) wantSpent(t *testing.T, key string, want int) string {
	t.Helper()
	status, body := o.spend(t, key)
	if status != want {
		t.Errorf("a request: status %d, want %d: %s\n%s", status, want, body, o.log)
	}
	return body
}

// balance is a user's, as a script reads it.
func (o *operator) balance(t *testing.T, name string) billing.USD {
	t.Helper()
	var u struct {
		Balance billing.USD `json:"balance_usd"`
	}
	if err := json.Unmarshal([]byte(o.run(t, "users show "+name+" --json")), &u); err != nil {
		t.Fatal(err)
	}
	return u.Balance
}

func TestANewOperatorsWay(t *testing.T) {
	t.Run("embedded", func(t *testing.T) { newOperatorsWay(t, "") })
	t.Run("redis", func(t *testing.T) {
		url := os.Getenv("SUB2API_TEST_REDIS")
		if url == "" {
			t.Skip("SUB2API_TEST_REDIS names no server")
		}
		newOperatorsWay(t, "redis "+url+" {\n\t\t\tnamespace operator-"+time.Now().Format("150405.000000")+"\n\t\t\tspool "+t.TempDir()+"\n\t\t}")
	})
}

func newOperatorsWay(t *testing.T, store string) {
	o := &operator{site: startSiteOver(t, "1s", store)}
	o.write(t, o.caddyfile("1s", "group pro {\n\t\t\tlimits {\n\t\t\t\tdaily 10\n\t\t\t}\n\t\t}"))
	if cmd, out := gatewaytest.Command(t, "reload", "--config", o.config, "--adapter", "caddyfile", "--address", o.admin); cmd.Run() != nil {
		t.Fatal(out)
	}
	if out := o.run(t, "users"); !strings.Contains(out, "alice  config  enabled  100.00") {
		t.Errorf("users:\n%s", out)
	}

	key, id, requests := o.addAndRefill(t)
	o.checkBooks(t, id, requests)
	o.subscribe(t)
	o.shutOut(t, key, id)
	for words, want := range map[string]string{
		"users remove alice": "user alice is the config's",
		"users show bob":     `there is no user "bob"`,
	} {
		if _, notes, err := o.try(t, strings.Fields(words)...); err == nil || !strings.Contains(notes, want) || strings.Count(notes, "\n") != 1 {
			t.Errorf("%s: %v, %q", words, err, notes)
		}
	}
	o.stop(t, syscall.SIGTERM) // the log is whole
	for _, secret := range o.secrets {
		if strings.Contains(o.log.String(), secret) {
			t.Error("a key is in the log")
		}
	}
}

// addAndRefill makes a user, whose money ends and is refilled, and a key.
func (o *operator) addAndRefill(t *testing.T) (key, id string, requests int) {
	t.Helper()
	if out := o.run(t, "users add bob --balance 0.001 --concurrency 2"); !strings.Contains(out, "bob   api     enabled  0.001") {
		t.Errorf("users add:\n%s", out)
	}
	key, id = o.key(t, "bob --group default --models claude-*")
	for ; requests < 500; requests++ {
		status, body := o.spend(t, key)
		if status == http.StatusOK {
			continue
		}
		if status != http.StatusTooManyRequests || !strings.Contains(body, "billing_error") {
			t.Fatalf("status %d: %s\n%s", status, body, o.log)
		}
		break
	}
	if requests == 0 || requests == 500 {
		t.Fatalf("%d requests were paid by 0.001", requests)
	}

	// Refilled, they go on at once; the same credit twice is once.
	if out := o.run(t, "users credit bob 5 --id invoice-1 --note cash"); !strings.HasPrefix(out, "the balance of bob is 5.0") && !strings.HasPrefix(out, "the balance of bob is 4.9") {
		t.Errorf("users credit: %s", out)
	}
	o.wantSpent(t, key, http.StatusOK)
	requests++
	o.run(t, "users credit bob 5 --id invoice-1")
	o.run(t, "users credit bob -1")
	return key, id, requests
}

// checkBooks: opening + credits − balance is what the records say.
func (o *operator) checkBooks(t *testing.T, id string, requests int) {
	t.Helper()
	out := o.run(t, "records --user bob --csv --limit 0")
	rows, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	if err != nil || len(rows) != 1+requests {
		t.Fatalf("%v, %d records of %d requests:\n%s", err, len(rows)-1, requests, out)
	}
	var charged billing.USD
	for _, row := range rows[1:] {
		amount, err := billing.ParseUSD(row[slices.Index(rows[0], "charged_usd")])
		if err != nil || row[slices.Index(rows[0], "key_id")] != id {
			t.Fatal(err, row)
		}
		charged += amount
	}
	if left := o.balance(t, "bob"); charged <= 0 || left+charged != 4_001_000_000 {
		t.Errorf("charged %s, left %s", charged, left)
	}
	if out := o.run(t, "usage --by user,model --csv"); !strings.Contains(out, "bob,claude-sonnet-5-5,") || !strings.Contains(out, ","+charged.String()+"\n") {
		t.Errorf("usage:\n%s", out)
	}
}

// subscribe: a subscription pays in the place of the balance.
func (o *operator) subscribe(t *testing.T) {
	t.Helper()
	o.run(t, "users subscribe bob pro --until 2099-01-01")
	subscribed, _ := o.key(t, "bob --group pro")
	before := o.balance(t, "bob")
	o.wantSpent(t, subscribed, http.StatusOK)
	if after := o.balance(t, "bob"); after != before {
		t.Errorf("a subscriber's balance went from %s to %s", before, after)
	}
	if out := o.run(t, "users show bob"); !strings.Contains(out, "pro    api     2099-01-01T00:00:00Z  daily") || strings.Contains(out, "daily    0.00 ") {
		t.Errorf("users show:\n%s", out)
	}
	o.run(t, "users unsubscribe bob pro")
	o.wantSpent(t, subscribed, http.StatusTooManyRequests)
}

// shutOut has a user and a key shut out, let in, and gone.
func (o *operator) shutOut(t *testing.T, key, id string) {
	t.Helper()
	o.run(t, "users disable bob")
	o.wantSpent(t, key, http.StatusUnauthorized)
	o.run(t, "users enable bob")
	o.wantSpent(t, key, http.StatusOK)
	if out := o.run(t, "keys list bob"); !strings.Contains(out, id) || strings.Contains(out, key) || !strings.Contains(out, key[:7]) {
		t.Errorf("keys list:\n%s", out)
	}
	o.run(t, "keys revoke "+id)
	o.wantSpent(t, key, http.StatusUnauthorized)
	o.run(t, "users remove bob")
	if out := o.run(t, "usage --by user"); !strings.Contains(out, "bob") {
		t.Errorf("the records of a removed user are gone:\n%s", out)
	}
}
