package redisledger_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
)

// TestKeyOfTheWrongKind: where Redis can keep only a part, it keeps nothing.
func TestKeyOfTheWrongKind(t *testing.T) {
	const subscription = "subscription:5:alice:default"
	day := today.Format(time.DateOnly)
	for _, key := range []string{"user:alice", "days", "records:" + day, "index:" + day, "key:k", subscription, "settled:day:", "settled:last"} {
		inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
			l := open(t, client)
			l.declareAlice(t)
			l.wantMet(t, "a", 1)
			r := exampleOf("a")
			r.KeyID = "k"
			if key == subscription {
				r.Billing = billing.PaidFromSubscription
			}
			key := key
			if strings.HasSuffix(key, "day:") {
				key += fmt.Sprint(time.Now().Unix() / 86400)
			}
			before := mini.HGet("{n}:user:alice", "balance")
			mini.Del("{n}:" + key)
			if key == "settled:last" {
				mini.HSet("{n}:"+key, "odd", "odd")
			} else {
				must(t, mini.Set("{n}:"+key, "odd"))
			}
			if err := l.Settle(t.Context(), r, nil); err != nil {
				t.Errorf("%s: %v, want the record in the spool", key, err)
			}
			time.Sleep(time.Second)
			l.wantWaiting(t, 0)
			if sizeOf(l.spool, "0", "refused") == 0 {
				t.Errorf("%s: the record was not put aside", key)
			}
			if after := mini.HGet("{n}:user:alice", "balance"); key != "user:alice" && after != before {
				t.Errorf("%s: balance %s became %s", key, before, after)
			}
			if mini.HGet("{n}:records:"+day, "a") != "" {
				t.Errorf("%s: the record is kept", key)
			}
			if err := l.link.Down(); err != nil {
				t.Errorf("%s: Redis is taken to be down: %v", key, err)
			}
		})
	}
}

// TestHoldsOfTheWrongKind: a hold that can't be ended keeps no record from being
// charged, once.
func TestHoldsOfTheWrongKind(t *testing.T) {
	inBubble(t, func(t *testing.T, mini *miniredis.Miniredis, client *redis.Client) {
		l := open(t, client)
		l.declareAlice(t)
		l.wantMet(t, "a", 1)
		mini.Del("{n}:holds:user:alice")
		must(t, mini.Set("{n}:holds:user:alice", "odd"))
		l.settle(t, "a")
		if l.Waiting() != 1 || mini.HGet("{n}:user:alice", "balance") != fmt.Sprint(int64(opening)) {
			t.Errorf("%d records wait, want 1 and no charge", l.Waiting())
		}
		time.Sleep(time.Second)
		mini.Del("{n}:holds:user:alice")
		l.settle(t, "a")
		checkKept(t, client, []string{"a"})
		wantIdentity(t, client, "alice")
	})
}
