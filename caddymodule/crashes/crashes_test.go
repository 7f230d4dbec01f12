// Package crashes tests that money survives: gateways and a redis-server are
// killed at any moment, and disks run full, while many clients ask. Whatever
// happens, an answer that a client has read whole is on record, once, with what
// it said that it used, and the users have what their records leave them.
package crashes_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/sub2api/caddy-sub2api/billing"
	_ "github.com/sub2api/caddy-sub2api/caddymodule"
	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
)

func TestMain(m *testing.M) { gatewaytest.Main(m, caddycmd.Main) }

// killsVariable says how many kills a test makes.
const killsVariable = "SUB2API_TEST_KILLS"

func killCount(t *testing.T, usual int) int {
	t.Helper()
	text := os.Getenv(killsVariable)
	if text == "" {
		return usual
	}
	count, err := strconv.Atoi(text)
	if err != nil || count < 1 {
		t.Fatalf("%s=%q is no number of kills", killsVariable, text)
	}
	return count
}

// person is a user of the gateways.
type person struct {
	name    string
	group   string
	balance string // in dollars; "" = the group's subscription pays
}

const plan = "plan" // the group of subscribers

// poor is who can't pay for long.
var poor = person{"poor", "default", "0.1"}

var people = []person{
	{"alice", "default", "1000"},
	{"bob", "cheap", "1000"},
	{"carol", plan, ""},
	{"dave", "default", "unlimited"},
	poor,
}

// opening is what a balance begins with.
func (p person) opening(t *testing.T) billing.USD {
	t.Helper()
	if p.balance == "" || p.balance == "unlimited" {
		return 0
	}
	amount, err := billing.ParseUSD(p.balance)
	if err != nil {
		t.Fatal(err)
	}
	return amount
}

func (p person) key() string { return "sk-gateway-" + p.name }

// caddyfile is that of a gateway with a store, given in words, before an upstream.
// terms are lines of the billing block.
func caddyfile(store, upstream, terms string) string {
	var users strings.Builder
	for _, p := range people {
		fmt.Fprintf(&users, "user %s {\nconcurrency 0\nkey %s %s\n", p.name, p.key(), p.group)
		if p.balance != "" {
			fmt.Fprintf(&users, "balance %s\n", p.balance)
		} else {
			fmt.Fprintf(&users, "subscribe %s\n", p.group)
		}
		users.WriteString("}\n")
	}
	return fmt.Sprintf(`{
	admin off
	persist_config off
	auto_https off
	grace_period 2s
}
SITE {
	sub2api {
		store %s
		account main {
			api_key sk-upstream
			base_url %s
		}
		group default
		group cheap {
			rate_multiplier 0.7
		}
		group %s {
			limits {
				daily 10000
				weekly 20000
				monthly 50000
			}
		}
		%s
		billing {
			%s
		}
	}
}
`, store, upstream, plan, users.String(), terms)
}
