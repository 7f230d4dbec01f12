package caddymodule_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
)

// reload gives the operator's site a config with these lines.
func (o *operator) reload(t *testing.T, lines ...string) {
	t.Helper()
	o.write(t, o.caddyfile("1s", strings.Join(lines, "\n\t\t")))
	if cmd, out := gatewaytest.Command(t, "reload", "--config", o.config, "--adapter", "caddyfile", "--address", o.admin); cmd.Run() != nil {
		t.Fatal(out)
	}
}

// wantRefused wants a command to fail with these words.
func (o *operator) wantRefused(t *testing.T, words, want string) {
	t.Helper()
	if _, notes, err := o.try(t, strings.Fields(words)...); err == nil || !strings.Contains(notes, want) {
		t.Errorf("%s: %v, %q; want %q", words, err, notes, want)
	}
}

// wantShown wants `users show` to say that of a user.
func (o *operator) wantShown(t *testing.T, name, want string) {
	t.Helper()
	if out := strings.Join(strings.Fields(o.run(t, "users show "+name)), " "); !strings.Contains(out, want) {
		t.Errorf("users show %s: %q; want %q", name, out, want)
	}
}

// TestAConfigDeclaresWhomTheAPIMade: while it does, what it says counts and can't be
// changed; their keys and their balance stay, and they are the API's again afterwards.
func TestAConfigDeclaresWhomTheAPIMade(t *testing.T) {
	o := &operator{site: startSite(t, "1s")}
	o.run(t, "users add bob --balance 3 --concurrency 2")
	key, _ := o.key(t, "bob --group default")
	o.wantSpent(t, key, http.StatusOK)
	o.run(t, "users disable bob")
	o.wantSpent(t, key, http.StatusUnauthorized)
	left := o.balance(t, "bob")

	for range 2 {
		o.reload(t, "user bob {", "\tbalance 100", "\tconcurrency 7", "}")
		o.wantShown(t, "bob", "bob config enabled")
		if got := o.balance(t, "bob"); got != left {
			t.Errorf("the balance is %s, want %s", got, left)
		}
		o.wantSpent(t, key, http.StatusOK)
		for _, words := range []string{"users enable bob", "users disable bob", "users remove bob"} {
			o.wantRefused(t, words, "user bob is the config's")
		}
		o.wantRefused(t, "users add bob", "the config has user bob already")
		o.run(t, "users credit bob 1")
		left = o.balance(t, "bob")

		o.reload(t, "user bob {", "\tbalance unlimited", "}")
		o.wantShown(t, "bob", "bob config enabled unlimited")
		o.wantSpent(t, key, http.StatusOK)
		if out := o.run(t, "records --user bob --limit 1 --csv"); !strings.Contains(out, ",none,") {
			t.Errorf("the record of a request that nobody pays:\n%s", out)
		}

		o.reload(t)
		o.wantShown(t, "bob", "bob api disabled")
		if got := o.balance(t, "bob"); got != left {
			t.Errorf("the balance is %s, want %s", got, left)
		}
		o.wantSpent(t, key, http.StatusUnauthorized)
	}
	o.run(t, "users enable bob")
	o.wantSpent(t, key, http.StatusOK)
	o.run(t, "users credit bob 1 --id gift")
	o.run(t, "users remove bob")
	o.run(t, "users add bob --balance 5")
	o.wantSpent(t, key, http.StatusUnauthorized)
	if out := o.run(t, "users credit bob 1 --id gift"); !strings.HasPrefix(out, "the balance of bob is 6.0") {
		t.Errorf("users credit of another bob: %s", out)
	}
}

// TestWhoLeavesTheConfig is nobody until the config has them again, or the API makes
// them; nothing of theirs is lost meanwhile, and their opening balance is credited once.
func TestWhoLeavesTheConfig(t *testing.T) {
	o := &operator{site: startSite(t, "1s")}
	pro := []string{"group pro {", "\tlimits {", "\t\tdaily 10", "\t}", "}"}
	carol := append([]string{"user carol {", "\tbalance 5", "\tkey sk-carol default", "}"}, pro...)
	o.reload(t, carol...)
	key, id := o.key(t, "carol --group default")
	o.run(t, "users subscribe carol pro")
	o.wantSpent(t, key, http.StatusOK)
	o.wantSpent(t, "sk-carol", http.StatusOK)
	left := o.balance(t, "carol")
	if left >= 5*billing.USD(1e9) {
		t.Errorf("the balance is %s", left)
	}
	for range 2 {
		o.reload(t, pro...)
		o.wantRefused(t, "users show carol", `there is no user "carol"`)
		o.wantSpent(t, key, http.StatusUnauthorized)
		o.wantSpent(t, "sk-carol", http.StatusUnauthorized)
		o.reload(t, carol...)
		if got := o.balance(t, "carol"); got != left {
			t.Errorf("the balance is %s, want %s", got, left)
		}
		o.wantShown(t, "carol", "pro api never daily")
	}
	o.wantSpent(t, key, http.StatusOK)
	left = o.balance(t, "carol")
	o.reload(t, pro...)
	o.run(t, "users add carol --balance 2")
	o.wantShown(t, "carol", "pro api never daily")
	if got := o.balance(t, "carol"); got != left+2*billing.USD(1e9) {
		t.Errorf("the balance is %s, want 2 more than %s", got, left)
	}
	o.wantSpent(t, key, http.StatusOK)
	o.wantSpent(t, "sk-carol", http.StatusUnauthorized)
	o.reload(t, carol...)
	o.wantShown(t, "carol", "carol config enabled")
	o.wantRefused(t, "users remove carol", "is the config's")
	o.run(t, "keys revoke "+id)
	o.reload(t, pro...)
	o.run(t, "users remove carol")
	o.reload(t, carol...)
	if got := o.balance(t, "carol"); got != 5*billing.USD(1e9) { // of another carol
		t.Errorf("the balance is %s, want 5", got)
	}
}
