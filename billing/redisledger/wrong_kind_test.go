package redisledger

import (
	"fmt"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/sub2api/caddy-sub2api/billing"
)

// TestKeyOfTheWrongKind: where Redis can keep only a part, it keeps nothing.
func TestKeyOfTheWrongKind(t *testing.T) {
	const subscription = "subscription:5:alice:default"
	for _, key := range []string{"user:alice", "days", "records:", "index:", "key:k", subscription} {
		mini := miniredis.RunT(t)
		client := connect(t, &redis.Options{Addr: mini.Addr()})
		l := open(t, client, Options{Namespace: "n", Spool: t.TempDir()})
		declareAlice(t, l)
		wantMet(t, l, "a", 1)
		r := exampleOf("a")
		r.KeyID = "k"
		if key == subscription {
			r.Billing = billing.PaidFromSubscription
		}
		if strings.HasSuffix(key, ":") {
			key += day(r.Time)
		}
		before := mini.HGet("{n}:user:alice", "balance")
		mini.Del("{n}:" + key)
		mini.Set("{n}:"+key, "odd")
		if err := l.Settle(t.Context(), r, nil); err != nil {
			t.Errorf("%s: %v, want the record in the spool", key, err)
		}
		wantWaiting(t, l, 0)
		if l.spool.own.refused.Size() == 0 {
			t.Errorf("%s: the record was not put aside", key)
		}
		if after := mini.HGet("{n}:user:alice", "balance"); key != "user:alice" && after != before {
			t.Errorf("%s: balance %s became %s", key, before, after)
		}
		if mini.HGet("{n}:records:"+day(r.Time), "a") != "" {
			t.Errorf("%s: the record is kept", key)
		}
	}
}

// TestHoldsOfTheWrongKind: a hold that can't be ended keeps no record from being
// charged, once.
func TestHoldsOfTheWrongKind(t *testing.T) {
	mini := miniredis.RunT(t)
	client := connect(t, &redis.Options{Addr: mini.Addr()})
	l := open(t, client, Options{Namespace: "n", Spool: t.TempDir()})
	stopLoops(l)
	l.adopt()
	declareAlice(t, l)
	wantMet(t, l, "a", 1)
	mini.Del("{n}:holds:user:alice")
	mini.Set("{n}:holds:user:alice", "odd")
	settle(t, l, "a")
	if l.Waiting() != 1 || mini.HGet("{n}:user:alice", "balance") != fmt.Sprint(int64(opening)) {
		t.Errorf("%d records wait, want 1 and no charge", l.Waiting())
	}
	must(t, l.drain(t.Context()))
	mini.Del("{n}:holds:user:alice")
	settle(t, l, "a")
	checkKept(t, client, "n", []string{"a"})
	wantIdentity(t, client, "n", "alice")
}
